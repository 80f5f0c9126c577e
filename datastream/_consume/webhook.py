"""A handler that sends each change to a URL, signed."""

from __future__ import annotations

import hmac
import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any

from datastream._consume.calling import Undeliverable
from datastream._consume.letters import as_json
from datastream._watches import check_seconds
from datastream.entry import Batch, Entry
from datastream.errors import InvalidValue, SourceUnavailable

if TYPE_CHECKING:
    import httpx

SIGNATURE = "X-Datastream-Signature"
DELIVERY = "X-Datastream-Delivery"
ASKS_FOR_LATER = frozenset((408, 425, 429))
"""Answers of 4xx that say nothing against the request itself."""
MADE_HERE = frozenset(("content-length", "transfer-encoding"))
"""Headers that follow from the body."""
MOST_READ = 4096
"""Bytes of an answer that are read to keep its connection."""
READ_WITHIN = 1.0
"""Seconds for which that goes on, as long as something comes."""


class Unanswered(SourceUnavailable):
    """The receiver did not take it just now.

    Args:
        text: why.
        retry_after: seconds for which it asks.
    """

    def __init__(self, text: str, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class Webhook:
    """Sends each `Entry` or `Batch` it is called with. Made by `webhook`."""

    def __init__(self, client: httpx.Client, url: httpx.URL, secret: bytes | None) -> None:
        self._client = client
        self._url = url
        self._secret = secret
        # A path or a query may well be the receiver's secret.
        self._where = f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")

    def __call__(self, item: Entry | Batch) -> None:
        """Send it.

        Raises:
            SourceUnavailable: no answer, or 5xx, 408, 425 or 429: worth trying again.
            Undeliverable: the receiver refuses it, or redirects.
        """
        import httpx

        body = json.dumps(content_of(item), separators=(",", ":")).encode()
        try:
            with self._client.stream(
                "POST", self._url, content=body, headers=self._headers(body)
            ) as response:
                self._check(response)
                _read_rest(response)
        except (httpx.LocalProtocolError, UnicodeError) as error:
            # A header or a host that cannot be sent: not now, and not later.
            raise Undeliverable(f"webhook at {self._where}: {_reason(error)}") from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise Unanswered(f"webhook at {self._where}: {_reason(error)}") from error

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def __repr__(self) -> str:
        return f"<webhook at {self._where}>"

    def _headers(self, body: bytes) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            DELIVERY: blake2b(body, digest_size=16).hexdigest(),
        }
        if self._secret is not None:
            headers[SIGNATURE] = signed(self._secret, body, int(time.time()))
        return headers

    def _check(self, response: httpx.Response) -> None:
        status = response.status_code
        if response.is_success:
            return
        text = f"webhook at {self._where}: answered {status} {response.reason_phrase}".rstrip()
        if status in ASKS_FOR_LATER or status >= 500:
            raise Unanswered(text, _seconds(response.headers.get("retry-after", "")))
        if response.is_redirect:
            text += "; redirects are not followed, so give the URL where it ends"
        raise Undeliverable(text)


def webhook(
    url: str,
    *,
    secret: str | bytes | None = None,
    timeout: float = 10.0,
    headers: Mapping[str, str] | None = None,
) -> Webhook:
    """A handler for `Store.consume` that POSTs each change as JSON.

    An answer of 2xx is success. No answer, 5xx, 408, 425 and 429 are tried again, after
    ``Retry-After`` seconds if the receiver says so; every other answer is not, and `on_failure`
    decides. Redirects are not followed. Private addresses are not refused: let no stranger choose
    the URL, since it may name a service of your own network.

    Args:
        url: ``https://…``, or ``http://…``.
        secret: signs each request: ``X-Datastream-Signature: t=SECONDS,v1=HEX``, the HMAC-SHA256 of
            ``SECONDS.BODY``; receivers check it with `datastream.consume.verify`.
        timeout: seconds to connect, to send, and between two parts of the answer.
        headers: are sent, too.

    Raises:
        InvalidValue: the URL is none, the secret is empty, the timeout no time, or a header no text
            that can be sent.
        ImportError: the extra ``webhook`` is needed and not installed.
    """
    from http.cookiejar import CookieJar, DefaultCookiePolicy

    try:
        import httpx
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "httpx":
            raise
        raise ImportError('webhook needs httpx: pip install "datastream-kv[webhook]"') from error
    try:
        parsed = httpx.URL(url)
        # Of a name in other scripts, it is decoded here.
        has_host = parsed.host and (parsed.port is None or 0 < parsed.port < 1 << 16)
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise InvalidValue("the URL of a webhook cannot be parsed") from error
    if parsed.scheme not in ("http", "https") or not has_host:
        raise InvalidValue("the URL of a webhook begins with https://HOST, or http://HOST")
    if secret is not None and not secret:
        raise InvalidValue("the secret of a webhook is empty; leave it out, or give one")
    check_seconds(timeout, "timeout of a webhook")
    if not timeout:
        raise InvalidValue("the timeout of a webhook is 0; give some seconds")
    given = dict(headers or {})
    for name, value in given.items():
        # Here and without the value: what sends it would show that in its error.
        if not (_is_token(name) and _can_be_sent(value)):
            raise InvalidValue(
                "a header of a webhook has a name that is none, or is no printable ASCII text "
                "without spaces around it"
            )
        if name.lower() in MADE_HERE:
            raise InvalidValue(f"the header {name} of a webhook is made for each request")
    key = secret.encode() if isinstance(secret, str) else secret
    client = httpx.Client(
        timeout=timeout,
        headers=given,
        follow_redirects=False,
        # Else what a receiver sets is kept, and sent with each request that follows.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        # As many as there are workers: one that waits for a connection would count as a failure.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
    )
    return Webhook(client, parsed, key)


def _is_token(name: object) -> bool:
    return (
        isinstance(name, str) and re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII) is not None
    )


def _can_be_sent(text: object) -> bool:
    if not isinstance(text, str):
        return False
    return text.isascii() and text.isprintable() and text == text.strip()


def content_of(item: Entry | Batch) -> dict[str, Any]:
    """What is sent: an entry, or the entries of a batch with what is known of it."""
    if isinstance(item, Entry):
        return as_json(item)
    about = {"author": item.author, "message": item.message, "point": item.point}
    return {"entries": [as_json(entry) for entry in item.entries], **about}


def signed(secret: bytes, body: bytes, seconds: int) -> str:
    """The signature of a body sent at that time."""
    digest = hmac.new(secret, b"%d." % seconds + body, sha256).hexdigest()
    return f"t={seconds},v1={digest}"


def verify(secret: str | bytes, signature: str, body: bytes, *, tolerance: float = 300.0) -> bool:
    """Whether a request was signed with `secret`, not long ago.

    Args:
        signature: the header ``X-Datastream-Signature``.
        body: as received, not parsed.
        tolerance: seconds that its time may differ from ours, so that nobody can send it again
            later.
    """
    stamp, _, _ = signature.removeprefix("t=").partition(",")
    if not (stamp.isascii() and stamp.isdecimal() and len(stamp) < 20):
        return False
    key = secret.encode() if isinstance(secret, str) else secret
    expected = signed(key, body, int(stamp))
    is_signed = hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))
    return is_signed and abs(time.time() - int(stamp)) <= tolerance


def _read_rest(response: httpx.Response) -> None:
    """Read what is left of an answer, so that its connection can be used again.

    The status has said it all: what is wrong with the rest must not send a change twice.
    """
    import httpx

    until = time.monotonic() + READ_WITHIN
    length = response.headers.get("content-length", "")
    if length.isascii() and length.isdecimal() and int(length[:9]) <= MOST_READ:
        with suppress(httpx.HTTPError, httpx.StreamError):
            for _ in response.iter_raw():
                if time.monotonic() > until:
                    return


def _seconds(text: str) -> float:
    """Of a ``Retry-After``; 0 where it is a date, or nothing."""
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0.0


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

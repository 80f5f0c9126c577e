"""What NATS answers instead of what was asked for, as errors of ours."""

from __future__ import annotations

from ssl import SSLError

from datastream.errors import (
    DatastreamError,
    Denied,
    InvalidValue,
    ReadOnly,
    RevisionConflict,
    SourceUnavailable,
    Unsupported,
    shown,
)

NO_STREAM = 10059
NO_MESSAGE = 10037
WRONG_SEQUENCE = (10071, 10164)
FULL = (10077, 10047, 10023, 10028)
SEALED = 10109
INCOMPLETE = 10176
"""A message of a batch did not arrive, or was refused."""
CROWDED = (10210, 10211)
"""More batches are under way than the server allows."""
DUPLICATE = 10201
"""A batch has a message that is stored."""
IN_PROCESS = 10158
"""A message was sent again while the first is still on its way to a quorum."""


class ApiError(Exception):
    """An error that JetStream answered with."""

    def __init__(self, code: int, number: int, text: str) -> None:
        super().__init__(f"{text} ({number or code})")
        self.code = code
        """As in HTTP."""
        self.number = number
        """Which of JetStream's errors."""


class Unanswered(Exception):
    """No answer in time, or no connection on which there could be one."""


class Forbidden(Exception):
    """The user has no right to what was asked for."""


class Disconnected(Unanswered):
    """There is no connection, so nothing was sent."""


class Outrun(Exception):
    """A server that is behind what was acknowledged."""


class Changed(Exception):
    """Others have changed what was looked at; it is looked at again."""


def is_passing(error: Exception) -> bool:
    """Whether the same call may succeed soon, such as once a cluster has a leader again."""
    if isinstance(error, ApiError):
        return _meaning(error) is _AWAY or error.number in (INCOMPLETE, *CROWDED)
    return isinstance(error, Unanswered | Outrun)


def unsure(place: str, error: Exception, *, is_sent: bool) -> SourceUnavailable:
    """A write was not acknowledged.

    Args:
        place: the bucket and the key.
        error: why.
        is_sent: whether it may have been stored all the same.
    """
    if isinstance(error, ApiError) and error.number == IN_PROCESS:
        why = "no quorum of the cluster has stored it yet"
    else:
        why = str(error)
    outcome = (
        "the write may or may not have been done: read it again, decide and retry"
        if is_sent
        else "nothing was written"
    )
    return SourceUnavailable(f"{place}: {why}; {outcome}")


def explain(error: Exception, where: str, key: str | None = None) -> Exception:
    """The error to raise instead; `error` itself if it is none that this source knows."""
    place = f"{where}, key {shown(key)}" if key is not None else where
    if isinstance(error, ApiError):
        kind, advice = _meaning(error)
        return kind(f"{place}: {error}; {advice}")
    if isinstance(error, Forbidden):
        return Denied(f"{place}: {error}; grant it, docs/nats.md lists what is needed")
    if isinstance(error, Unanswered | Outrun):
        return SourceUnavailable(f"{place}: {error}")
    if isinstance(error, OSError) or type(error).__module__.startswith("nats"):
        text = str(error) or type(error).__name__
        return SourceUnavailable(f"{place}: {text}; check that the server runs, it is tried again")
    return error


def explain_connecting(error: BaseException | None, where: str) -> DatastreamError:
    """Why there is no connection at all."""
    text = " ".join(str(error or "").split()) or type(error).__name__
    if isinstance(error, SSLError):
        return Denied(f"{where}: {text}; check tls=, roots=, certificate= and key=")
    if is_denial(error):
        return Denied(f"{where}: {text}; check user, password, token, nkey or credentials")
    return SourceUnavailable(f"{where}: {text}; check host and port, and that the server runs")


def is_denial(error: BaseException | None) -> bool:
    """The server does not let these credentials in, or proves itself badly."""
    if isinstance(error, SSLError):
        return True
    text = str(error).lower()
    return "authorization" in text or "authentication" in text


def _meaning(error: ApiError) -> tuple[type[DatastreamError], str]:
    found = _MEANINGS.get(error.number)
    if found is not None:
        return found
    if error.code in (408, 503):
        return _AWAY
    return DatastreamError, "see the server's message"


_AWAY = (SourceUnavailable, "the cluster has no leader or quorum just now; retry")
_FULL = (
    SourceUnavailable,
    "nothing was written; remove keys, or raise max_bytes of the bucket or the server's limits",
)
_DISABLED = (Denied, "this server or account has no JetStream; enable it in its configuration")
_MEANINGS: dict[int, tuple[type[DatastreamError], str]] = {
    NO_STREAM: (SourceUnavailable, "there is no such bucket any more; create it anew"),
    10026: (SourceUnavailable, "wait until others end, or raise max_consumers of the bucket"),
    10054: (InvalidValue, "nothing was written; raise max_value_size of the bucket"),
    10039: _DISABLED,
    10076: _DISABLED,
    SEALED: (ReadOnly, "the bucket is sealed, it can only be read"),
    10110: (Unsupported, "the bucket does not allow that"),
    10165: (InvalidValue, "a ttl is at least one second"),
    10166: (Unsupported, "the bucket takes no ttl; create it on a server of 2.11 or newer"),
    **dict.fromkeys(FULL, _FULL),
    **dict.fromkeys(
        WRONG_SEQUENCE, (RevisionConflict, "the key has changed; read it again, decide and retry")
    ),
    10199: (InvalidValue, "nothing was written; the servers store no more keys together"),
    INCOMPLETE: (SourceUnavailable, "nothing was written; the batch is sent again"),
    **dict.fromkeys(CROWDED, (SourceUnavailable, "nothing was written; it is sent again")),
    IN_PROCESS: _AWAY,
    **dict.fromkeys((10008, 10009, 10118, 10005, 10074), _AWAY),
}

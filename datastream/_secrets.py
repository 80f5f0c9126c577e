"""What must not be shown, kept out of error texts, statuses and log lines.

Three things make a text fit to be shown: the secrets of stores that are open are replaced, wherever
they turn up; so is what looks like a secret, in a URL or behind ``password=``; and what does not
print is escaped, so that no text from outside speaks to a terminal or forges a line of a log.

A password may be a word that any text has, such as ``first`` or ``postgres``. In what its store and
other libraries say it is replaced like all others; in this library's own sentences about something
else, only in quotation marks and where URLs have passwords.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus
from weakref import WeakValueDictionary

MASK = "***"
MOST_LEAVES = 1000
"""Parts of a value that are looked for in an error's text."""
WORTH_HIDING = 4
"""Characters that a value must have to be hidden without quotation marks around it."""
QUOTED = 40
"""Characters by which a value is recognised, if its end is cut off."""

_NAMES = re.compile(
    r"(?!pas+ive)pas+|pwd|secret|token|credential|auth(?!or(?!i))|cookie|jwt|sas_|connection_?string"
    r"|(?:api|access|account|private|shared|storage|encryption)[_-]?key"
    r"|(?:^|[_-])(?:sig|signature|sas|dsn|pw)$",
    re.IGNORECASE,
)
_FIELD = re.compile(
    r"(^|_|-)(pass(word|phrase|wd)?|pwd|secrets?|tokens?|credentials?|(api|access|private)_?key)($|_|-)",
    re.IGNORECASE,
)
_HARMLESS = frozenset(("", "true", "false", "none", "anon", "cloud", "0", "1", MASK))
"""Values of options with such a name that are no secrets."""

# The user stays, so that one sees who failed. Up to the last "@" of host and port: a password may
# hold what should have been encoded.
_USER = re.compile(r"(//[^\s/@:?#'\"]*):[^\s/'\"]*@")
_OPTION = re.compile(r"(?<![\w.%-])([\w.%-]+)=('[^']*'|\"[^\"]*\"|[^\s&;,)'\"]+)")

Hider = Callable[[str], str]
_known: WeakValueDictionary[int, Secrets] = WeakValueDictionary()


class Secrets:
    """Texts that are shown nowhere while this object lives.

    Args:
        texts: as they were given; all ways in which a library may spell them are found, too.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        spellings = {way for text in texts if text not in _HARMLESS for way in _spellings(text)}
        self._everywhere: re.Pattern[str] | None = None
        self._elsewhere: re.Pattern[str] | None = None
        if spellings:
            found = sorted(spellings, key=len, reverse=True)
            self._everywhere = _any_of(map(_guarded, found))
            self._elsewhere = _any_of(_exposed(x) if _is_word(x) else _guarded(x) for x in found)
            _known[id(self)] = self

    @property
    def is_empty(self) -> bool:
        """Whether there are none."""
        return self._everywhere is None

    def hide(self, text: str) -> str:
        """`text` without them, in what the store that has them or a library says."""
        return text if self._everywhere is None else self._everywhere.sub(MASK, text)

    def hide_elsewhere(self, text: str) -> str:
        """`text` without them, in what this library says of something else."""
        return text if self._elsewhere is None else self._elsewhere.sub(MASK, text)


NONE = Secrets(())


def names_secret(name: str) -> bool:
    """Whether an option of that name holds a secret."""
    return bool(_NAMES.search(name))


def holds_secret(name: str) -> bool:
    """Whether what is called `name` among a user's own keys and fields is a secret.

    Stricter than for options: ``passengers`` is a field of many.
    """
    return bool(_FIELD.search(name))


def secrets_in(options: Mapping[str, Any]) -> Iterator[str]:
    """The values of options that hold secrets, also within options that hold options."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from secrets_in({str(inner): found for inner, found in value.items()})
        elif isinstance(value, str | bytes) and names_secret(name):
            yield value if isinstance(value, str) else value.decode(errors="replace")
        elif isinstance(value, str):
            # The password in another URL, such as that of a server.
            yield from re.findall(r"//[^\s/@:?#]*:(.*)@", value)


def hide(text: str) -> str:
    """`text` without the secrets of open stores, and without what looks like a secret."""
    for secrets in _living():
        text = secrets.hide_elsewhere(text)
    return _without_likely(text)


def hide_in_foreign(text: str) -> str:
    """The same for what another library says: a secret that is a word, too, wherever it stands."""
    for secrets in _living():
        text = secrets.hide(text)
    return _without_likely(text)


def _living() -> Iterator[Secrets]:
    for reference in _known.valuerefs():
        secrets = reference()
        if secrets is not None:
            yield secrets


def _without_likely(text: str) -> str:
    if "@" in text:
        text = _USER.sub(rf"\1:{MASK}@", text)
    if "=" in text:
        text = _OPTION.sub(_without_value, text)
    return text


def without(text: str, value: object) -> str:
    """`text` without a value that it quotes, or a part of that value, since it may be a secret."""
    for leaf in islice(_leaves(value), MOST_LEAVES):
        bare = str(leaf)
        for spelling in (repr(leaf), bare)[: 1 + (len(bare) >= WORTH_HIDING)]:
            if len(spelling) > QUOTED:
                # An error text that quotes a long value cuts it short.
                text = re.sub(rf"{re.escape(spelling[:QUOTED])}.*", MASK, text, flags=re.DOTALL)
            else:
                text = re.sub(rf"(?<!\w){re.escape(spelling)}(?!\w)", MASK, text)
    return text


def printable(text: str) -> str:
    """`text` with control characters escaped, for logs and terminals."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def presentable(text: str) -> str:
    """`text` on one line, as it may be shown to anybody."""
    return printable(hide(text))


def hide_in(error: BaseException, own: Secrets = NONE) -> BaseException:
    """Take secrets out of an error and all that caused it, for those who print the traceback.

    Args:
        own: of the store that the error comes from.

    Returns:
        The same error, or one that stands for it, if its text cannot be changed.
    """
    return _hide_in(error, own, {})


def _hide_in(error: BaseException, own: Secrets, done: dict[int, BaseException]) -> BaseException:
    if id(error) in done:
        return done[id(error)]
    done[id(error)] = error
    for link in ("__cause__", "__context__"):
        inner = getattr(error, link)
        if inner is not None:
            clean = _hide_in(inner, own, done)
            if clean is not inner:
                setattr(error, link, clean)
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    is_clean = all(_hide_in(part, own, done) is part for part in parts)
    hider = hide_in_foreign
    if getattr(error, "is_presentable", False):
        # Its text was hidden as one of this library's own.
        hider = own.hide
        if own.is_empty and is_clean:
            return error
    if not (is_clean and _is_clean(error, hider)):
        _replace_texts(error, hider)
        if not (is_clean and _is_clean(error, hider)):
            done[id(error)] = _stand_in(error, hider)
    return done[id(error)]


def _is_clean(error: BaseException, hider: Hider) -> bool:
    text = _text(error)
    return hider(text) == text


def _text(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception_only(error))
    except Exception:  # noqa: BLE001
        return type(error).__name__


def _replace_texts(error: BaseException, hider: Hider) -> None:
    """Most errors show their arguments; those of the system, attributes; all of them, notes."""
    error.args = tuple(hider(item) if isinstance(item, str) else item for item in error.args)
    for name in ("strerror", "filename", "filename2"):
        text = getattr(error, name, None)
        if isinstance(error, OSError) and isinstance(text, str):
            setattr(error, name, hider(text))
    if getattr(error, "__notes__", None):
        error.__notes__ = [hider(note) for note in error.__notes__]


def _stand_in(error: BaseException, hider: Hider) -> Exception:
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    stand_in = HiddenError(hider("; ".join(_text(one).strip() for one in (error, *parts))))
    stand_in.__cause__, stand_in.__context__ = error.__cause__, error.__context__
    stand_in.__suppress_context__ = error.__suppress_context__
    return stand_in.with_traceback(error.__traceback__)


class HiddenError(Exception):
    """Stands for a library's error whose text held a secret: its name and the rest of its text."""

    is_presentable = True


class PresentableRecords(logging.Filter):
    """Makes what is logged fit to be shown, whatever the handlers do with it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(map(_argument, record.args))
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            clean = hide_in(error)
            record.exc_info = (type(clean), clean, clean.__traceback__)
            lines = "".join(traceback.format_exception(clean)).rstrip("\n").split("\n")
            if not all(map(str.isprintable, lines)):
                record.exc_text = "\n".join(map(printable, lines))
        return True


def logger(name: str = "datastream") -> logging.Logger:
    """The library's logger of that name, whose lines show no secret."""
    found = logging.getLogger(name)
    if not any(isinstance(item, PresentableRecords) for item in found.filters):
        found.addFilter(PresentableRecords())
    return found


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from _leaves(part)
    elif isinstance(value, bytes):
        yield value
        yield value.decode(errors="replace")
    elif value is not None and value != "" and not isinstance(value, bool):
        yield value


def _argument(item: object) -> object:
    if isinstance(item, int | float):
        return item
    is_foreign = isinstance(item, BaseException) and not getattr(item, "is_presentable", False)
    return printable(hide_in_foreign(str(item))) if is_foreign else presentable(str(item))


def _without_value(match: re.Match[str]) -> str:
    name, value = match[1], match[2]
    is_secret = names_secret(unquote(name)) and unquote_plus(value).lower() not in _HARMLESS
    return f"{name}={MASK}" if is_secret else match[0]


def _spellings(text: str) -> Iterator[str]:
    """How a text may stand in what a library says."""
    for plain in {text, unquote(text), unquote_plus(text)} - _HARMLESS:
        yield plain
        yield quote(plain, safe="", errors="replace")
        yield quote(plain, errors="replace")
        yield quote_plus(plain, errors="replace")
        yield repr(plain)[1:-1]
        yield json.dumps(plain)[1:-1]
        yield printable(plain)
        yield plain.encode(errors="replace").decode("latin-1")
        yield base64.b64encode(plain.encode(errors="replace")).decode()


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


def _is_word(text: str) -> bool:
    """Whether any text may have it: a word, or a short number."""
    if text.isdigit():
        return len(text) < SHORT_NUMBER
    is_spelled = text in (text.lower(), text.upper(), text.capitalize())
    return text.isalpha() and is_spelled and len(text) < LONG_WORD


def _guarded(text: str) -> str:
    """The pattern of one secret; within other words it is none."""
    if len(text) >= GUARDED and not _is_word(text):
        return re.escape(text)
    start = _START if text[0].isalnum() else ""
    end = r"(?![A-Za-z0-9])" if text[-1].isalnum() else ""
    return f"{start}{re.escape(text)}{end}"


def _exposed(text: str) -> str:
    """The pattern of one that is a word: in quotation marks, or between a user and a host."""
    return rf"(?:(?<=['\"`]){re.escape(text)}(?=['\"`])|(?<=:){re.escape(text)}(?=@))"


# "%3A" is a colon, and no word; nor is an "n" that was the end of a line, or the "m" of a colour.
_START = r"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrt])|(?<=[0-9]m))"
GUARDED = 8
"""Secrets shorter than this are hidden where they stand alone only."""
SHORT_NUMBER, LONG_WORD = 6, 12
"""Characters from which on a number or a word is nothing that texts have by chance."""


# Sources log to it too, and those of others may.
logger()

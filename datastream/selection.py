"""Which keys: exact ones, prefixes ending in ``/`` and glob patterns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Protocol, TypeVar

from datastream import _glob
from datastream._glob import Matcher, escape
from datastream._pattern_index import PatternIndex
from datastream.errors import InvalidKey, shown

__all__ = ["Selection", "Selects", "check_key", "check_text", "compile_pattern", "escape"]
__all__ += ["MAX_KEYS", "MAX_KEY_BYTES", "MAX_PATTERNS", "literal_prefix", "starts"]
__all__ += ["RESERVED", "is_reserved"]

MAX_KEY_BYTES = 16_384
"""Longest key, prefix or pattern in UTF-8; a backend may take less."""
MAX_KEYS = 10_000
"""Keys and prefixes of one selection."""
FEW_PATTERNS = 8
"""Beyond these, patterns are found by an index."""
MAX_PATTERNS = 1_000
"""Patterns of one selection, those of ``exclude`` included."""
RESERVED = "_datastream/"
"""Keys below it belong to mirrors and their like; they are neither compared nor copied."""


T = TypeVar("T")


class Selects(Protocol):
    """What a Source sees of a selection, be it one subscriber's or everybody's together."""

    @property
    def keys(self) -> frozenset[str]: ...
    @property
    def prefixes(self) -> frozenset[str]: ...
    @property
    def patterns(self) -> frozenset[str]: ...
    def matches(self, key: str) -> bool: ...


def is_reserved(key: str) -> bool:
    """Whether a key is one of a mirror's own."""
    return key.startswith(RESERVED)


NOTHING: frozenset[str] = frozenset()
"""No keys. The same object everywhere: an empty frozenset of its own takes 216 bytes."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Keys, prefixes and patterns, joined by "or"; none at all selects everything.

    ``"fx/"`` is a prefix because it ends in a slash, ``"fx/USD"`` is a key. In a pattern ``*``
    and ``?`` stay within one segment, ``**`` crosses slashes: ``fx/*`` is what lies directly in
    ``fx/``, ``**/name`` every ``name`` at any depth. ``[*]``, ``[?]``, ``[[]`` and ``[{]`` stand
    for the character itself. What matches a pattern of ``exclude`` is never selected.

    Made directly, nothing is checked, so that a key may hold a ``*``.
    """

    keys: frozenset[str] = NOTHING
    prefixes: frozenset[str] = NOTHING
    patterns: frozenset[str] = NOTHING
    exclude: frozenset[str] = NOTHING
    _compiled: _Compiled | None = field(default=None, init=False, compare=False, repr=False)

    @classmethod
    def of(
        cls, *keys: str, match: str | Iterable[str] = (), exclude: str | Iterable[str] = ()
    ) -> Selection:
        """The selection that `Store.watch` and `Store.snapshot` make of their arguments.

        Args:
            keys: keys, and prefixes, which end in ``/``.
            match: one pattern or several.
            exclude: one pattern or several, of what to leave out.

        Raises:
            InvalidKey: a key, prefix or pattern that no key can have or match, or too many.
        """
        if len(keys) > MAX_KEYS:
            raise InvalidKey(
                f"{len(keys)} keys and prefixes are too many, {MAX_KEYS} are allowed; "
                "use a prefix or a pattern that covers them"
            )
        for key in keys:
            _check_selected(key)
        patterns, excluded = _patterns(match, "match"), _patterns(exclude, "exclude")
        if len(patterns) + len(excluded) > MAX_PATTERNS:
            raise InvalidKey(f"too many patterns, {MAX_PATTERNS} are allowed; use broader ones")
        return cls(
            frozenset(key for key in keys if not key.endswith("/")) or NOTHING,
            frozenset(key for key in keys if key.endswith("/")) or NOTHING,
            patterns,
            excluded,
        )

    @property
    def everything(self) -> bool:
        """There are no keys, prefixes and patterns; `exclude` may still leave something out."""
        return not (self.keys or self.prefixes or self.patterns)

    def matches(self, key: str) -> bool:
        """Whether `key` is selected."""
        if key not in self.keys:
            starts, patterns, _ = self._compiled or self._compile()
            if not (key.startswith(starts) or patterns(key)):
                return False
        return not (self.exclude and self.excludes(key))

    def excludes(self, key: str) -> bool:
        """Whether `key` is left out, whatever else selects it."""
        return bool(self.exclude) and (self._compiled or self._compile())[2](key)

    def _compile(self) -> _Compiled:
        # Done at the first use: of the patterns of a watch only the index of all is ever asked.
        starts = ("",) if self.everything else tuple(self.prefixes)
        compiled = (starts, _matcher(self.patterns), _matcher(self.exclude))
        object.__setattr__(self, "_compiled", compiled)
        return compiled


_Matches = Callable[[str], bool]
_Compiled = tuple[tuple[str, ...], _Matches, _Matches]


def selected(held: Mapping[str, T], selection: Selects) -> list[T]:
    """What `held` has at the selected keys; single keys are looked up, not searched for."""
    if selection.keys and not (selection.prefixes or selection.patterns):
        return [held[key] for key in selection.keys if key in held]
    return [value for key, value in held.items() if selection.matches(key)]


def selects_any(selection: Selection, keys: Collection[str]) -> bool:
    """Whether one of `keys` is selected; single keys are looked up, not searched for."""
    if selection.keys and not (selection.prefixes or selection.patterns):
        single = {key for key in selection.keys if not selection.excludes(key)}
        if isinstance(keys, AbstractSet):
            return not keys.isdisjoint(single)
        # In a list, each would be searched for.
        return not single.isdisjoint(keys)
    if selection.exclude or selection.patterns or selection.keys:
        return any(map(selection.matches, keys))
    starts = tuple(selection.prefixes) or ("",)
    # A call of `matches` for each of very many takes three times as long.
    return any(key.startswith(starts) for key in keys)


def check_key(key: str) -> None:
    """Refuse what can be no key on any backend.

    Raises:
        InvalidKey: empty, not a str, ends in "/", holds NUL or a lone surrogate, or is too long.
    """
    check_text(key)
    if key[-1] == "/":
        raise InvalidKey(f"{shown(key)} ends in '/', which makes it a prefix; drop the slash")


def check_text(text: str) -> None:
    """The part of `check_key` that holds for prefixes and patterns too."""
    if not isinstance(text, str):
        raise InvalidKey(f"a key is a str, not {type(text).__name__}; convert it first")
    if not text:
        raise InvalidKey("a key cannot be empty; give it at least one character")
    # ASCII is the common case, and isascii() is a flag test, so encoding is rarely paid for.
    if len(text) > MAX_KEY_BYTES or not text.isascii():
        _check_encoding(text)
    if "\0" in text:
        raise InvalidKey(f"{shown(text)} holds a NUL character; drop it")


def _check_encoding(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidKey(
            f"{shown(text)} holds a lone surrogate, which is no UTF-8; decode the name properly"
        ) from error
    if size > MAX_KEY_BYTES:
        raise InvalidKey(f"{shown(text)} has {size} bytes; a key has {MAX_KEY_BYTES} at most")


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str, option: str = "match") -> Matcher:
    """What matches the keys of one pattern, in time linear in the key.

    Raises:
        InvalidKey: no key can match it, or it uses what is no wildcard here; the text names
            `option` as the argument that it was given as.
    """
    _glob.check_glob(pattern, option)
    return _glob.compile_glob(_glob.parse(pattern))


def literal_prefix(pattern: str) -> str:
    """The start that every key matching `pattern` has, cut at the last slash."""
    first = _glob.parse(pattern)[0]
    return first[: first.rfind("/") + 1] if isinstance(first, str) else ""


def starts(selection: Selects) -> set[str]:
    """What the keys of its prefixes and patterns begin with: one of these, "" for anything."""
    return {*selection.prefixes, *map(literal_prefix, selection.patterns)}


def _check_selected(key: str) -> None:
    check_text(key)
    if key == "/":
        raise InvalidKey(
            '"/" is no prefix of all keys: give no key for those, or match="/**" for keys that '
            "begin with a slash"
        )
    if "*" in key:
        pattern = f"{key}**" if key.endswith("/") else key
        literal = escape(key) + pattern[len(key) :]
        raise InvalidKey(
            f"{shown(key)} is a pattern, not a key: did you mean match={shown(pattern)}? "
            f"For the character '*' itself write match={shown(literal)}"
        )


def _patterns(given: str | Iterable[str], option: str) -> frozenset[str]:
    if isinstance(given, str):
        some: Iterable[str] = (given,)
    elif not given and isinstance(given, tuple):
        return NOTHING
    elif isinstance(given, Iterable):
        # One more than allowed shows that there are too many, also of an endless iterator.
        some = tuple(islice(given, MAX_PATTERNS + 1))
    else:
        raise InvalidKey(f"{option} takes patterns, not {type(given).__name__}; give str")
    for pattern in some:
        check_text(pattern)
        _glob.check_glob(pattern, option)
    return frozenset(some)


def _matcher(patterns: Collection[str]) -> _Matches:
    """Whether a key matches one of `patterns`."""
    return _Indexed(patterns) if len(patterns) > FEW_PATTERNS else _OneByOne(patterns)


class _OneByOne:
    def __init__(self, patterns: Iterable[str]) -> None:
        self._matchers = tuple(compile_pattern(pattern).fullmatch for pattern in patterns)

    def __call__(self, key: str) -> bool:
        # A generator would cost more than most patterns.
        for fullmatch in self._matchers:  # noqa: SIM110
            if fullmatch(key):
                return True
        return False


class _Indexed:
    def __init__(self, patterns: Iterable[str]) -> None:
        self._index: PatternIndex[None] = PatternIndex()
        for pattern in patterns:
            self._index.add(pattern, None)

    def __call__(self, key: str) -> bool:
        return bool(self._index.of(key))

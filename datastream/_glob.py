"""Globs: their grammar, and matching them in time linear in the key.

``*`` and ``?`` stay within one segment, ``**`` crosses slashes, ``**/`` stands for any number of
leading segments, also none. ``[*]``, ``[?]``, ``[[]`` and ``[{]`` stand for the character itself.

A backtracking matcher takes exponential time on ``**a**a**b``. So a glob becomes either a regular
expression in which atomic groups keep the leftmost match of each part, which is where a match
exists if there is any, or, where leftmost is not always right, an automaton whose states are bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Protocol

from datastream.errors import InvalidKey, shown

MAX_WILDCARDS = 64
"""Wildcards that one pattern has at most."""
MAX_REGEX = 512
"""Longest regular expression; at worst it takes as many steps as the product of both lengths."""
SHOWN_ALTERNATIVES = 3


class Wild(Enum):
    """A wildcard."""

    ONE = "?"
    STAR = "*"
    DIRS = "**/"
    ANY = "**"


Token = str | Wild
"""A wildcard or literal text."""


class Matcher(Protocol):
    """A compiled glob; a compiled regular expression is one too."""

    def fullmatch(self, string: str, /) -> object:
        """Something true if the whole string matches."""


def parse(pattern: str) -> list[Token]:
    """The tokens of a glob; neither two literals nor two of ``*``, ``**``, ``**/`` are in a row."""
    tokens: list[Token] = []
    for escaped, wild, literal in _TOKENS.findall(pattern):
        token = Wild(wild) if wild else escaped or literal
        if tokens and (merged := _merge(tokens[-1], token)) is not None:
            tokens[-1] = merged
        else:
            tokens.append(token)
    return tokens


def compile_glob(tokens: Sequence[Token]) -> Matcher:
    """What matches the keys that a parsed glob stands for."""
    regex = _regex(tokens)
    if regex is None or len(regex) > MAX_REGEX:
        return Automaton(tokens)
    return re.compile(regex, re.DOTALL)


def segments(tokens: Sequence[Token]) -> list[tuple[Token, ...]] | None:
    """A parsed glob cut at its slashes, ``**/`` as a part of its own.

    None for one in which ``**`` stands inside a segment, such as ``a**b``: it cannot be cut.
    """
    parts: list[tuple[Token, ...]] = []
    part: list[Token] = []
    for token in _without_any(tokens):
        if token is Wild.ANY or (token is Wild.DIRS and part):
            return None
        if token is Wild.DIRS:
            parts.append((token,))
        elif isinstance(token, str):
            first, *others = token.split("/")
            part += [first] if first else []
            for text in others:
                parts.append(tuple(part))
                part = [text] if text else []
        else:
            part.append(token)
    return [*parts, tuple(part)]


def escape(text: str) -> str:
    """The glob that matches `text` and nothing else."""
    return re.sub(r"[*?\[{]", r"[\g<0>]", text)


def check_glob(pattern: str, option: str) -> None:
    """Refuse what no key can match, and what means something else in a shell.

    Args:
        pattern: the glob.
        option: the name of the argument it was given as, for the error's text.
    """
    if pattern.endswith("/"):
        raise InvalidKey(
            f"{shown(pattern)} ends in '/', but no key does; "
            f"did you mean {option}={shown(pattern + '**')}, which is all below it?"
        )
    if len(pattern) > MAX_WILDCARDS:
        wildcards = sum(1 for _, wild, _ in _TOKENS.findall(pattern) if wild)
        if wildcards > MAX_WILDCARDS:
            raise InvalidKey(
                f"{shown(pattern)} has {wildcards} wildcards; {MAX_WILDCARDS} are allowed"
            )
    if "[" in pattern or "{" in pattern:
        for found in _FOREIGN.finditer(pattern):
            if not found["escaped"]:
                _check_foreign(pattern, found, option)


def _check_foreign(pattern: str, found: re.Match[str], option: str) -> None:
    opening, inner = found[0][0], found[0][1:-1]
    if opening == "{" and "," not in inner and ".." not in inner:
        return
    text = f"{shown(pattern)}: patterns have no {shown(found[0])}; "
    listed = inner.split(",") if opening == "{" else list(inner)
    if ".." in inner or not inner or (opening == "[" and (inner[0] in "!^" or "-" in inner)):
        text += "list the patterns that you mean"
    else:
        start, end = pattern[: found.start()], pattern[found.end() :]
        some = [shown(start + one + end) for one in listed[:SHOWN_ALTERNATIVES]]
        more = ", …" if len(listed) > SHOWN_ALTERNATIVES else ""
        text += f"did you mean {option}=[{', '.join(some)}{more}]?"
    raise InvalidKey(f"{text} For the character {opening!r} itself write '[{opening}]'")


class Automaton:
    """A glob as a nondeterministic automaton; the states it is in are the bits of one number.

    Bit i stands for "the first i literal characters and ``?`` have matched". A ``**/`` has one
    more bit, for "inside": it is entered when the bit before is set, and left at each slash.
    """

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._next: dict[str, int] = {}
        self._ones = self._stay = self._through = self._enter = self._last = 0
        for token in tokens:
            self._add(token)
        slash = self._next.get("/", 0)
        self._next = {char: bits | self._ones for char, bits in self._next.items()}
        self._next["/"] = slash
        self._stay |= self._through

    def _add(self, token: Token) -> None:
        bit = 1 << self._last
        if token is Wild.STAR:
            self._stay |= bit
        elif token is Wild.ANY:
            self._through |= bit
        elif token is Wild.ONE:
            self._ones |= bit
            self._last += 1
        elif token is Wild.DIRS:
            self._enter |= bit
            self._through |= bit << 1
            self._last += 1
            self._add("/")
        else:
            for char in token:
                self._next[char] = self._next.get(char, 0) | 1 << self._last
                self._last += 1

    def fullmatch(self, key: str) -> bool:
        """Whether the whole of `key` matches; each character costs the same few steps."""
        following, ones, enter = self._next, self._ones, self._enter
        states = self._closure(1)
        for char in key:
            stay = self._through if char == "/" else self._stay
            states = (states & following.get(char, ones)) << 1 | states & stay
            if states & enter:
                states = self._closure(states)
            if not states:
                return False
        return bool(states >> self._last & 1)

    def _closure(self, states: int) -> int:
        entered = states & self._enter
        return states | entered << 1 | entered << 2


def _merge(before: Token, token: Token) -> Token | None:
    """One token for two in a row, where that means the same."""
    if isinstance(before, str):
        return before + token if isinstance(token, str) else None
    if isinstance(token, str) or Wild.ONE in (before, token):
        return None
    return before if before is token else Wild.ANY


def _without_any(tokens: Sequence[Token]) -> list[Token]:
    """With ``**`` at the start of a segment spelled as ``**/*``, which means the same."""
    result: list[Token] = []
    for token in tokens:
        start = not result or (isinstance(result[-1], str) and result[-1].endswith("/"))
        result += (Wild.DIRS, Wild.STAR) if token is Wild.ANY and start else (token,)
    return result


def _regex(tokens: Sequence[Token]) -> str | None:
    """The regular expression of a glob; None where it would have to backtrack.

    ``**`` means ``**/*``. Between two of ``**/`` the leftmost match is as good as any, since
    whatever follows may start at any later segment. That is not so for a ``**/`` inside a segment:
    ``a*b**/c`` may also go on right behind a later ``b``.
    """
    groups: list[list[Token]] = [[]]
    for place, token in enumerate(tokens):
        if token is Wild.DIRS and place and not str(tokens[place - 1]).endswith("/"):
            return None
        if token is Wild.ANY:
            groups.append([Wild.STAR])
        elif token is Wild.DIRS:
            groups.append([])
        else:
            groups[-1].append(token)
    first, *others = groups
    if not others:
        return _group(first, last=True)
    *middle, last = others
    tail = ".*" if last == [Wild.STAR] else f"(?:.*/)?{_group(last, last=True)}"
    return "".join([_group(first), *(f"(?>(?:.*?/)??{_group(one)})" for one in middle), tail])


def _group(tokens: Iterable[Token], *, last: bool = False) -> str:
    """What has no ``**``. Only the last ``*`` before the end of the key need not be leftmost."""
    start, *stars = _split(tokens)
    if not stars:
        return start
    *before, end = stars if last else [*stars, ""]
    found = "".join(f"(?>[^/]*?{part})" for part in before)
    return f"{start}{found}[^/]*{end}" if last else start + found


def _split(tokens: Iterable[Token]) -> list[str]:
    """The regular expressions of what stands between the ``*``."""
    parts = [""]
    for token in tokens:
        if token is Wild.STAR:
            parts.append("")
        else:
            parts[-1] += re.escape(token) if isinstance(token, str) else "[^/]"
    return parts


_TOKENS = re.compile(r"\[([*?\[{])\]|(\*\*/|\*\*|[*?])|([^*?\[]+|\[)", re.DOTALL)
_FOREIGN = re.compile(r"(?P<escaped>\[[*?\[{]\])|\[[^\[\]]*\]|\{[^{}]*\}", re.DOTALL)

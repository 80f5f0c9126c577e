"""The library's texts in the words of the command line: its advice is Python."""

from __future__ import annotations

import re
from collections.abc import Iterable

_QUOTED = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
_NOTHING = re.compile(r"\bnothing was written\b")
_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r" \(in code: [^()]*\)", ""),
        (r"\blist\(store\) gives its keys", "datastream ls URL lists its keys"),
        (r"; its entry has the raw bytes", ""),
        (r"\bor bytes with a value_type\b", "or another --type"),
        # Elsewhere it is the name of a column.
        (r"\b(no|the|a) value_type\b(?!=)", r"\1 type"),
        (r"; give it in code: open\(.*?\)", "; leave it out, a command cannot give it"),
        (r", or give it as an option in code", ""),
        (r"\bmatch=", "--match "),
        (r"\banother name= or place=", "another --place"),
        (r"\bas place=", "as --place"),
        (r"\bon_conflict=", "--on-conflict "),
        (r"\bdelete_limit=", "--delete-limit "),
        (r"\bhide=True\b", "--hide"),
        (r"\binsecure=True serves\b", "--insecure serves"),
        (r"\b([a-z_]+)=True\b", r"\1=true in the URL"),
        (r"\b([a-z_]+)=False\b", r"\1=false in the URL"),
        (r"\b(history|at|replay)\(\)", r"\1"),
    )
]


def in_our_words(text: str) -> str:
    """`text` as it helps someone at a command line; what is quoted in it stays as it is."""
    for pattern, replacement in _RULES:
        text = _replaced(text, pattern, replacement)
    return text


def of_one_of_many(text: str) -> str:
    """`text` about a write that is refused, where others beside it are made."""
    return _replaced(text, _NOTHING, "it was left out")


def of_a_later_one(text: str) -> str:
    """`text` about a write that went wrong, where others before it were made."""
    return _replaced(text, _NOTHING, "nothing more was written")


def _replaced(text: str, pattern: re.Pattern[str], replacement: str) -> str:
    parts = _QUOTED.split(text)
    parts[::2] = (pattern.sub(replacement, part) for part in parts[::2])
    return "".join(parts)


def did_you_mean(word: str, known: Iterable[str], alike: float = 0.6) -> str:
    """The end of an error about an unknown word: "; did you mean …?", or nothing."""
    from difflib import get_close_matches

    near = get_close_matches(word.lower(), known, n=1, cutoff=alike)
    return f"; did you mean {near[0]}?" if near else ""

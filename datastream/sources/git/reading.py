"""Commits, tags and trees, read as git reads them: kindly.

dulwich wants a date, an author, and names in order; what old or foreign programs wrote has none.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

from dulwich.objects import Commit, ObjectID

from datastream.sources.git.tree import Items

_ID = rb"([0-9a-f]{40})"
_TREE = re.compile(rb"tree " + _ID + rb"$", re.MULTILINE)
_PARENT = re.compile(rb"parent " + _ID)
_TAGGED = re.compile(rb"object " + _ID + rb"$", re.MULTILINE)
_DATE = re.compile(rb"\s*(-?\d{1,18})")
_MODE, _MODES = re.compile(rb"[0-7]+"), 0o177777


class ReadCommit(NamedTuple):
    """What a commit says."""

    id: ObjectID
    tree: ObjectID
    parents: list[ObjectID]
    time: datetime | None
    """When it was made; None if its date is none."""
    author: str
    message: str

    @classmethod
    def of(cls, commit: Commit) -> ReadCommit:
        """The same of a commit that was made here."""
        return read_commit(commit.id, commit.as_raw_string())


def read_commit(name: ObjectID, raw: bytes) -> ReadCommit:
    """What a commit says.

    Raises:
        ValueError: it does not say which tree it has, so that git cannot read it either.
    """
    tree = _TREE.match(raw)
    if tree is None:
        raise ValueError("it names no tree")
    head, _, message = raw.partition(b"\n\n")
    lines = head.split(b"\n")
    parents = [ObjectID(found[1]) for found in map(_PARENT.fullmatch, lines) if found]
    encoding = _header(lines, b"encoding") or b"utf-8"
    author = _header(lines, b"author")
    who = author[: author.rfind(b">") + 1] or author
    time = _time(_header(lines, b"committer"))
    texts = _text(who, encoding), _text(message, encoding)
    return ReadCommit(name, ObjectID(tree[1]), parents, time, *texts)


def tagged(raw: bytes) -> ObjectID:
    """What an annotated tag stands for.

    Raises:
        ValueError: it does not say that.
    """
    found = _TAGGED.match(raw)
    if found is None:
        raise ValueError("it names no object")
    return ObjectID(found[1])


def read_tree(raw: bytes) -> Items:
    """What a tree holds; of two entries with one name, the first, as git takes it.

    Names that no path can have, such as an empty one, are left out.

    Raises:
        ValueError: it is cut, or has an entry without a mode.
    """
    items: dict[bytes, tuple[int, ObjectID]] = {}
    at = 0
    while at < len(raw):
        space = raw.find(b" ", at)
        end = raw.find(b"\0", space)
        mode = raw[at:space]
        if space < 0 or end < 0 or end + 21 > len(raw) or not _MODE.fullmatch(mode):
            raise ValueError("it is cut, or an entry has no mode")
        item = raw[space + 1 : end]
        if item and b"/" not in item:
            content = ObjectID(raw[end + 1 : end + 21].hex().encode())
            items.setdefault(item, (int(mode, 8) & _MODES, content))
        at = end + 21
    return items


def _header(lines: list[bytes], name: bytes) -> bytes:
    return next((line[len(name) + 1 :] for line in lines if line.startswith(name + b" ")), b"")


def _time(committer: bytes) -> datetime | None:
    found = _DATE.match(committer, committer.rfind(b">") + 1)
    try:
        return None if found is None else datetime.fromtimestamp(int(found[1]), UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _text(raw: bytes, encoding: bytes) -> str:
    try:
        text = raw.decode(encoding.decode("ascii"))
    except (LookupError, ValueError):
        return raw.decode("utf-8", "replace")
    # Some encodings can spell what is no text.
    return text.encode("utf-8", "replace").decode()

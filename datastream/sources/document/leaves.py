"""A document's leaves as keys: ``{"db": {"url": "x"}}`` holds ``x`` at ``db/url``. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, MutableMapping
from datetime import date, time
from typing import Any, NamedTuple

from datastream import codecs
from datastream._formats import spelled_as
from datastream.entry import Entry
from datastream.errors import InvalidKey, InvalidValue, shown
from datastream.selection import check_key
from datastream.source import Write
from datastream.sources._common.listing import fingerprint

BINARY = "!!binary "
"""What text begins with that stands for bytes, followed by Base64: only YAML can hold bytes."""

Path = tuple[Any, ...]


class Leaf(NamedTuple):
    """One value of a document."""

    path: Path
    """The names of the tables above it and its own, as the document has them."""
    entry: Entry


def leaves(document: Mapping[Any, Any]) -> tuple[dict[str, Leaf], list[str]]:
    """The leaves by key; and what has to be left out, with the reason, for the log.

    A list is one leaf, as JSON. An empty table is none.
    """
    found: dict[str, Leaf] = {}
    skipped: list[str] = []
    for path, value in _walk(document, ()):
        key = "/".join(map(str, path))
        try:
            check_key(key)
            if key in found:
                raise InvalidKey(f"{shown(key)} is there twice; the first one counts")
            found[key] = Leaf(path, entry_of(key, value))
        except (InvalidKey, InvalidValue) as error:
            skipped.append(str(error))
    return found, skipped


def _walk(node: Mapping[Any, Any], above: Path) -> Iterator[tuple[Path, Any]]:
    # Not by recursion: a dotted name of TOML is as deep as it is long.
    below = [(above, iter(node.items()))]
    while below:
        above, items = below[-1]
        for name, value in items:
            path = (*above, name)
            if isinstance(value, Mapping):
                below.append((path, iter(value.items())))
                break
            yield path, value
        else:
            below.pop()


def entry_of(key: str, value: Any) -> Entry:
    """The entry of a leaf.

    Raises:
        InvalidValue: nothing stands for such a value.
    """
    data, value_type = _encoded(key, value)
    return Entry(key, data, value_type, None, fingerprint(value_type.encode() + b"\0" + data))


def _encoded(key: str, value: Any) -> tuple[bytes, str]:
    if isinstance(value, bool | int | float):
        return codecs.encode(_plain(value), key=key)
    if isinstance(value, bytes):
        return value, "bytes"
    if isinstance(value, str):
        return _text_or_bytes(str(value))
    if isinstance(value, date | time):
        return value.isoformat().encode(), "str"
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_as_text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValue(f"no value stands for what is at {shown(key)}: {error}") from error
    return text.encode(), "json"


def _plain(value: bool | float) -> bool | float:
    """Without what a parser adds to a number, such as how it was written."""
    kind = next(kind for kind in (bool, int, float) if isinstance(value, kind))
    return kind(value)


def _as_text(value: Any) -> str:
    if isinstance(value, date | time):
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__} in a list")


def _text_or_bytes(text: str) -> tuple[bytes, str]:
    import base64
    import binascii

    if text.startswith(BINARY):
        try:
            return base64.b64decode(text[len(BINARY) :], validate=True), "bytes"
        except binascii.Error:
            pass
    return text.encode("utf-8", "surrogatepass"), "str"


def value_of(write: Write) -> Any:
    """What a write puts into a document.

    Raises:
        InvalidValue: a document cannot hold it as one leaf, or the bytes are not of their type.
    """
    value = codecs.decode(write.value or b"", write.value_type, key=write.key)
    if isinstance(value, bytes):
        return _as_leaf(value)
    if isinstance(value, dict):
        raise InvalidValue(
            f"a document holds the leaves of what is put at {shown(write.key)}: put them by "
            f"their own keys, such as {shown(write.key + '/name')}"
        )
    if isinstance(value, str) and _text_or_bytes(value)[1] != "str":
        raise InvalidValue(f"{shown(write.key)} would read back as bytes: text in {BINARY!r}")
    return value


def _as_leaf(value: bytes) -> str:
    """Bytes as text: as they are where they can be read, else as Base64."""
    import base64

    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\0"
    if text.startswith(BINARY) or not all(c.isprintable() or c in "\t\n" for c in text):
        return BINARY + base64.b64encode(value).decode()
    return text


def put(document: MutableMapping[Any, Any], path: Path, value: Any) -> None:
    """Put a leaf at `path`, with the tables above it.

    Raises:
        InvalidKey: a leaf is where a table has to be, or the other way round.
    """
    *above, name = path
    node: Any = document
    for text in above:
        part = _name(node, text)
        below = node.get(part)
        if below is None and part not in node:
            node[part] = {}
            below = node[part]
        if not isinstance(below, MutableMapping):
            raise InvalidKey(
                f"{shown('/'.join(map(str, path)))}: {shown(str(part))} is a value, so that "
                "nothing can be below it; nothing was written"
            )
        node = below
    name = _name(node, name)
    if isinstance(node.get(name), Mapping) and next(_walk(node[name], ()), None) is not None:
        raise InvalidKey(
            f"{shown('/'.join(map(str, path)))} has keys below it, so that it can hold no value; "
            "nothing was written"
        )
    node[name] = spelled_as(node.get(name), value)


def _name(node: Mapping[Any, Any], part: Any) -> Any:
    """The name in a table that is spelled `part`; YAML has numbers for names, too."""
    if part in node:
        return part
    return next((name for name in node if str(name) == part), part)


def remove(document: MutableMapping[Any, Any], path: Path) -> None:
    """Remove a leaf, and the tables that it leaves empty."""
    nodes: list[Any] = [document]
    for part in path[:-1]:
        nodes.append(nodes[-1][part])
    for node, name in zip(reversed(nodes), reversed(path), strict=True):
        del node[name]
        if node:
            return

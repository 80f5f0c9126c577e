"""Writes the protocol's methods and messages into `docs/wire.md`: ``python docs/build_wire.py``.

What they mean stands in the comments of `proto/datastream_kv/service.proto`, and nowhere else.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent
PROTO = DOCS.parent / "proto" / "datastream_kv" / "service.proto"
PAGE = DOCS / "wire.md"
BEGIN, END = "<!-- protocol -->", "<!-- end of protocol -->"

_RPC = re.compile(r"rpc (\w+)\((stream )?(\w+)\) returns \((stream )?([\w.]+)\);")
_FIELD = re.compile(r"((?:repeated |optional )?[\w.]+|map<[^>]+>) (\w+) = (\d+);( // ancestor)?")
_VALUE = re.compile(r"(\w+) = (\d+);")
_BLOCK = re.compile(r"^(service|message|enum) (\w+) \{$", re.MULTILINE)


class Block(NamedTuple):
    """A service, message or enum."""

    kind: str
    name: str
    comment: list[str]
    items: list[tuple[list[str], str]]
    """Each with the comment above it."""


def page() -> str:
    """The page as it should be."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{PAGE} has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{reference()}\n{END}{after}"


def reference() -> str:
    """Methods, messages and enums."""
    blocks = list(_blocks(PROTO.read_text().splitlines()))
    lines: list[str] = []
    for kind, title in (("service", "Methods"), ("message", "Messages"), ("enum", "Enums")):
        lines += ["", f"### {title}"]
        for block in blocks:
            if block.kind == kind:
                lines += _methods(block) if kind == "service" else _table(block)
    return "\n".join(lines).strip()


def _blocks(lines: list[str]) -> Iterator[Block]:
    comment: list[str] = []
    block: Block | None = None
    for line in map(str.strip, lines):
        if line.startswith("//"):
            comment.append(line.removeprefix("//").removeprefix(" "))
            continue
        if found := _BLOCK.match(line):
            block = Block(found[1], found[2], comment, [])
        elif line == "}" and block is not None:
            yield block
            block = None
        elif line and block is not None:
            block.items.append((comment, line))
        comment = []


def _methods(block: Block) -> Iterator[str]:
    for comment, line in block.items:
        found = _RPC.match(line)
        assert found, line  # noqa: S101
        name, sends, request, streams, response = found.groups()
        answer = response.rpartition(".")[2]
        yield ""
        yield (
            f"**`{name}`** `({sends or ''}{request}) → {streams or ''}{answer}`: {_text(comment)}"
        )


def _table(block: Block) -> Iterator[str]:
    yield from ("", f"#### {block.name}")
    if block.comment:
        yield from ("", _text(block.comment))
    is_enum = block.kind == "enum"
    yield ""
    yield from (
        ("| no. | name | |", "|---|---|---|")
        if is_enum
        else (
            "| no. | field | type | |",
            "|---|---|---|---|",
        )
    )
    for comment, line in block.items:
        yield _value(comment, line) if is_enum else _field(comment, line)


def _field(comment: list[str], line: str) -> str:
    found = _FIELD.match(line)
    assert found, line  # noqa: S101
    type_, name, number, is_ancestor = found.groups()
    text = _text(comment)
    if is_ancestor:
        text = f"{text} *(ancestor)*".strip()
    return f"| {number} | `{name}` | `{type_}` | {text.replace('|', chr(92) + '|')} |"


def _value(comment: list[str], line: str) -> str:
    found = _VALUE.match(line)
    assert found, line  # noqa: S101
    return f"| {found[2]} | `{found[1]}` | {_text(comment)} |"


def _text(comment: list[str]) -> str:
    """A comment in one line, whose stars are no emphasis."""
    parts = " ".join(" ".join(comment).split()).split("`")
    return "`".join(
        part if number % 2 else part.replace("*", "\\*") for number, part in enumerate(parts)
    )


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"{PAGE} written\n")

"""``import``: what ``export`` wrote, and other JSON lines and tar archives."""

from __future__ import annotations

import base64
import binascii
import json
import sys
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import click

from datastream import InvalidValue, Operation, Write, codecs
from datastream.cli._copying import Copier
from datastream.cli._export import TYPE, format_of, format_option
from datastream.cli._open import open_store
from datastream.cli._output import emit
from datastream.cli._progress import progress
from datastream.cli._select import message_options, url_argument
from datastream.cli._values import inferred_type
from datastream.errors import shown


@click.command("import")
@url_argument
@click.argument("file", required=False)
@format_option
@message_options
def import_(url: str, *, file: str | None, form: str | None, message: str, author: str) -> None:
    """Put into a store what FILE or standard input holds: JSON lines or a tar archive.

    A line needs "key" and "value"; with "operation": "DELETE", as watch --json prints it, the key
    is removed. Without "value_type" it is inferred, as put does. Keys that are not named stay. What
    the store cannot hold is said, and left out.
    """
    with ExitStack() as stack:
        data = stack.enter_context(_input(file))
        is_archive = form != "jsonl" if form else _is_archive(file, data)
        writes = _members(data) if is_archive else _lines(data)
        # What is no such file makes no database.
        first = list(islice(writes, 1))
        store = stack.enter_context(open_store(url))
        advance = stack.enter_context(progress("importing"))
        copier = Copier(store)
        signed = (write._replace(message=message, author=author) for write in chain(first, writes))
        copier.write(signed, advance)
        copier.check()
    emit(f"{copier.written} entries written")


@contextmanager
def _input(name: str | None) -> Iterator[BinaryIO]:
    if name in (None, "-"):
        yield sys.stdin.buffer
    else:
        with Path(str(name)).open("rb") as file:
            yield file


def _is_archive(name: str | None, data: BinaryIO) -> bool:
    """By its name, or by what it begins with."""
    peek = getattr(data, "peek", None)
    begin: bytes = b"" if peek is None else peek(tarfile.BLOCKSIZE)
    is_packed = begin.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))
    return format_of(name) != "jsonl" or is_packed or begin[257:262] == b"ustar"


def _lines(data: Iterable[bytes]) -> Iterator[Write]:
    for number, line in enumerate(data, 1):
        if line.strip():
            try:
                found = json.loads(line)
                # What `watch --json --cursors` prints between the changes.
                if not (isinstance(found, dict) and found.keys() == {"cursor"}):
                    yield _write(found)
            except (ValueError, TypeError, RecursionError) as error:
                raise InvalidValue(f"line {number}: {error}") from error


def _write(found: Any) -> Write:
    """The write that a line asks for; raises ValueError if it asks for none."""
    if not (isinstance(found, dict) and isinstance(found.get("key"), str)):
        raise ValueError('it is no JSON object with a "key"')
    key, name = found["key"], found.get("value_type")
    if found.get("operation") == Operation.DELETE:
        return Write(key, None)
    if "value" not in found or not isinstance(name, str | None):
        raise ValueError('it needs a "value", and "value_type" is text')
    value = found["value"]
    if isinstance(value, str):
        data = _bytes(value, found.get("encoding"))
        return Write(key, data, name or inferred_type(data))
    return Write(key, *codecs.encode(value, name, key=key))


def _bytes(text: str, encoding: object) -> bytes:
    if encoding is None:
        return text.encode()
    if encoding != "base64":
        raise ValueError(f"no encoding {shown(str(encoding))}; give base64, or none")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"its value is no base64: {error}") from error


def _members(data: BinaryIO) -> Iterator[Write]:
    hint = "; if it is of JSON lines, unpack it first, as gzip -d does"
    try:
        with tarfile.open(fileobj=data, mode="r|*") as archive:
            while (member := archive.next()) is not None:
                hint = ""
                # Or it remembers all of them.
                archive.members.clear()  # type: ignore[attr-defined]
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None:
                    value = file.read()
                    name = member.pax_headers.get(TYPE) or inferred_type(value)
                    yield Write(member.name.removeprefix("./"), value, name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InvalidValue(f"the archive cannot be read on: {error}{hint}") from error

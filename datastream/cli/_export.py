"""``export``: entries as JSON lines or as a tar archive."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import click

from datastream import DatastreamError, Entry
from datastream.cli._open import opened_at
from datastream.cli._output import json_line
from datastream.cli._progress import Advance, progress
from datastream.cli._select import Keys, at_option, keys_argument, left_out, selection, url_argument

FORMATS = ("jsonl", "tar", "tar.gz")
OTHERS = (".gz", ".bz2", ".xz", ".zst", ".zip", ".7z")
"""What names promise, and is not written."""
TYPE = "DATASTREAM.type"
"""The header of a tar member that has its type."""

format_option = click.option(
    "--format", "form", type=click.Choice(FORMATS), help="Else by the file's name, or jsonl."
)


@click.command()
@url_argument
@keys_argument
@selection
@click.option("-o", "--output", metavar="FILE", help="Else standard output.")
@format_option
@at_option
def export(
    url: str,
    *,
    keys: tuple[str, ...],
    match: tuple[str, ...],
    exclude: tuple[str, ...],
    output: str | None,
    form: str | None,
    at: str | None,
) -> None:
    """Write what a store holds as JSON lines, as ls --json does, or as a tar archive.

    Everything, or each KEY and what --match selects, all of one moment. In an archive each key is
    a file; its type is in a header that only import reads. import takes both.
    """
    chosen = form or _written(output)
    if output is None and chosen != "jsonl" and sys.stdout.isatty():
        raise click.UsageError("an archive is nothing for a terminal; give --output")
    portable = Keys(keys, match, exclude).portable
    with opened_at(url, at) as store, portable.entries(store) as entries:
        # What cannot be read at all leaves no file.
        first = list(islice(entries, 1))
        with progress("exporting") as advance, _Output(output) as file:
            _write(chain(first, entries), file, chosen, advance)
        if entries.unread:
            raise DatastreamError(left_out(entries.unread))


class _Output:
    """A file that takes the place of the one of that name when it is complete; or stdout.

    What is no file, such as a pipe or a device, is written as it is.
    """

    def __init__(self, name: str | None) -> None:
        self._path = None if name in (None, "-") else Path(str(name))
        self._part = None
        if self._path is not None and (self._path.is_file() or not self._path.exists()):
            # Not in place of a link to it.
            self._path = self._path.resolve()
            self._part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")

    def __enter__(self) -> BinaryIO:
        self._file: BinaryIO = self._opened()
        return self._file

    def _opened(self) -> BinaryIO:
        if self._path is None:
            return sys.stdout.buffer
        try:
            return self._path.open("wb") if self._part is None else _made(self._part, self._path)
        except OSError as error:
            error.filename = str(self._path)
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._path is None:
            if kind is None:
                self._file.flush()
            return
        self._close()
        if self._part is not None and kind is None:
            self._part.replace(self._path)
        elif self._part is not None:
            self._part.unlink()

    def _close(self) -> None:
        try:
            self._file.close()
        except OSError:
            # What was left to be written has no room.
            if self._part is not None:
                self._part.unlink()
            raise


def _made(part: Path, path: Path) -> BinaryIO:
    """A new file `part`, open to those alone who may read what is at `path` now, if it is there."""
    mode = path.stat().st_mode & 0o777 if path.exists() else None
    made = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666 if mode is None else mode)
    if mode is not None:
        # Not less either, by the mask of this process.
        part.chmod(mode)
    return os.fdopen(made, "wb")


def _written(name: str | None) -> str:
    """`format_of`, where what is written is what the name promises."""
    chosen = format_of(name)
    if chosen == "jsonl" and name is not None and name.lower().endswith(OTHERS):
        raise click.UsageError(
            f"nothing writes {Path(name).suffix}; name it .jsonl, .tar or .tar.gz, or give --format"
        )
    return chosen


def format_of(name: str | None) -> str:
    """The format that the name of a file stands for."""
    for ending, form in ((".tar", "tar"), (".tar.gz", "tar.gz"), (".tgz", "tar.gz")):
        if name is not None and name.lower().endswith(ending):
            return form
    return "jsonl"


def _write(entries: Iterable[Entry], file: BinaryIO, form: str, advance: Advance) -> None:
    if form == "jsonl":
        for entry in entries:
            file.write(f"{json_line(entry)}\n".encode())
            advance(1)
        return
    compressed = form == "tar.gz"
    with tarfile.open(
        fileobj=file, mode="w|gz" if compressed else "w|", format=tarfile.PAX_FORMAT
    ) as archive:
        for entry in entries:
            archive.addfile(_member(entry), io.BytesIO(entry.value))
            # Or it remembers all of them.
            archive.members.clear()  # type: ignore[attr-defined]
            advance(1)


def _member(entry: Entry) -> tarfile.TarInfo:
    # `import` takes one "./" for the way in which others name files.
    name = f"./{entry.key}" if entry.key.startswith("./") else entry.key
    member = tarfile.TarInfo(name)
    member.size = len(entry.value)
    member.mtime = int(entry.updated_at.timestamp()) if entry.updated_at else 0
    if entry.value_type:
        member.pax_headers = {TYPE: entry.value_type}
    return member

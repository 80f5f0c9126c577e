"""The table of contents of an archive: read to its end, with the names that are extracted."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from datastream.errors import SourceUnavailable

BLOCK = bytes(512)
"""What a tar archive ends with, and no member begins with."""


def check_whole(system: Any) -> None:
    """Look for the end of a tar archive: its reader takes a header that is cut for the end.

    Args:
        system: fsspec's, of any archive; others have their table of contents at the end.

    Raises:
        SourceUnavailable: the archive breaks off, or a header in it is damaged.
    """
    tar = getattr(system, "tar", None)
    if tar is None:
        return
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(len(BLOCK)) != BLOCK:
        raise SourceUnavailable(
            f"the archive is cut or damaged at byte {tar.offset}, so nothing is taken for deleted; "
            "write it anew, under another name first"
        )


def name_plainly(system: Any) -> None:
    """Have a member that is called ``./a`` or ``/a`` in the archive be ``a``.

    So call their members ``tar -C directory .`` and `shutil.make_archive`. Of several that are
    one path when they are extracted, the last one stays.

    Args:
        system: fsspec's, of any archive, before its first use.
    """
    if (index := getattr(system, "index", None)) is not None:
        _name_in_tar(index)
    if (archive := getattr(system, "zip", None)) is not None:
        _name_in_zip(archive)


def _name_in_tar(index: dict[str, Any]) -> None:
    members = sorted(index.values(), key=itemgetter(1))
    index.clear()
    for info, offset, name in members:
        if plain := _plain(name):
            info["name"] = plain
            index[plain] = info, offset, name


def _name_in_zip(archive: Any) -> None:
    for info in archive.filelist:
        end = "/" if info.is_dir() else ""
        info.filename = _plain(info.filename) + end
    archive.filelist = [info for info in archive.filelist if info.filename != "/"]
    archive.NameToInfo = {info.filename: info for info in archive.filelist}


def _plain(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))

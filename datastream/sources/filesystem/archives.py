"""Whether the table of contents of an archive was read to its end."""

from __future__ import annotations

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

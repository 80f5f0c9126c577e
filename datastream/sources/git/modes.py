"""Folders in a repository, accessible to whom ``core.sharedRepository`` says."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from dulwich.file import SharedPerm, adjust_shared_perm


def make_folders(folder: Path, top: Path, shared: SharedPerm | None) -> None:
    """Make a folder and those above it, below one that is there, each as the others expect it."""
    missing = []
    while folder != top and not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        with suppress(FileExistsError):
            new.mkdir()
            adjust_shared_perm(new, shared)

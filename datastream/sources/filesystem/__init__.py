"""Every filesystem of fsspec as a source."""

from datastream.sources.filesystem.source import FilesystemSource, open_filesystem

__all__ = [
    "FilesystemSource",
    "open_filesystem",
]

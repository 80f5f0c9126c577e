"""A directory as a source."""

from datastream.sources.files.source import FilesSource, open_files

__all__ = [
    "FilesSource",
    "open_files",
]

"""A directory of which few files matter: what lies deeper is not watched."""

from __future__ import annotations

from datastream.sources.files.source import FilesSource


class DirectorySource(FilesSource):
    """A `FilesSource` that is notified only of what lies directly in the directory.

    What lies deeper is seen by the looks that are taken anyway. One document in a large tree then
    costs one watch of the operating system, not one for each directory of it.
    """

    recursive = False

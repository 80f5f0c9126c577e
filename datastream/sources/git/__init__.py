"""A branch of a git repository as a source."""

from datastream.sources.git.remote_source import RemoteGitSource
from datastream.sources.git.source import GitSource, open_git

__all__ = [
    "GitSource",
    "RemoteGitSource",
    "open_git",
]

"""Reading the files of a commit one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import itemgetter

from datastream.entry import Entry
from datastream.selection import Selects
from datastream.sources.git.files import Files
from datastream.sources.git.handles import Handles
from datastream.sources.git.objects import State


def walk(
    handles: Handles, selection: Selects, state_of: Callable[[Files], State]
) -> Iterator[Entry]:
    """What a commit holds, sorted. No handle is kept meanwhile: others may need all there are."""
    with handles.lend() as files:
        state = state_of(files)
        listed = sorted(files.blobs(selection, state), key=itemgetter(0))
    for key, blob in listed:
        with handles.lend() as files:
            entry = files.entry(key, blob, state.time)
        yield entry

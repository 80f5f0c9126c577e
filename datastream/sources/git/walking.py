"""Reading the files of a commit one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from operator import itemgetter

from dulwich.objects import ObjectID

from datastream.entry import Entry
from datastream.selection import Selects
from datastream.sources.git.files import Files
from datastream.sources.git.handles import Handles
from datastream.sources.git.looks import Looks
from datastream.sources.git.objects import Broken, State
from datastream.sources.git.unread import Faults


def walk(handles: Handles, looks: Looks, selection: Selects, unread: set[str]) -> Iterator[Entry]:
    """What a commit holds, sorted. No handle is kept meanwhile: others may need all there are.

    Args:
        unread: takes the keys that cannot be read.
    """
    (state, listed), faults = looks(partial(_listed, selection))
    unread |= faults.keys
    for key, blob in listed:
        try:
            with handles.lend() as files:
                entry = files.entry(key, blob, state.time)
        except Broken:
            unread.add(key)
        else:
            yield entry


def _listed(
    selection: Selects, files: Files, state: State, faults: Faults
) -> tuple[State, list[tuple[str, ObjectID]]]:
    return state, sorted(files.blobs(selection, state, faults), key=itemgetter(0))

"""What a write to an overlay means for the one layer that is written: pure."""

from __future__ import annotations

from typing import NamedTuple

from datastream._overlay.tombstone import TOMBSTONE, is_tombstone, visible
from datastream.entry import DELETE, Entry, deleted
from datastream.errors import ReadOnly, shown
from datastream.source import ANY_REVISION, Write, check_expected


class Found(NamedTuple):
    """What a layer holds of a key."""

    layer: str
    entry: Entry


class Around(NamedTuple):
    """What the layers hold of the key of a write."""

    own: Entry | None = None
    """In the layer that is written."""
    above: Found | None = None
    """In the layers above, the first that holds it."""
    below: Found | None = None
    """In the layers below, the first that holds it."""

    @property
    def shown_below(self) -> Entry | None:
        """What is visible if the layer that is written holds nothing."""
        return visible(self.below.entry) if self.below is not None else None


UNASKED = Around()
"""For a write that does not depend on what the layers hold, and goes to the first of them or to one
above which none holds the key: what they hold was not asked for."""


def needs_all(write: Write) -> bool:
    """Whether `plan` has to know what is below, and in the layer itself."""
    return write.value is None or write.expect is not None or is_tombstone(write.value)


def plan(write: Write, around: Around) -> Write | None:
    """The write to the layer; None if there is nothing to be written.

    Raises:
        ReadOnly: it would change nothing that is visible, because a layer above holds the key; or
            a lower layer would still show what is deleted.
        RevisionConflict, KeyNotFound: what is visible is not what the write expects.
    """
    if around.above is not None:
        raise ReadOnly(
            f"{shown(write.key)} is held by the layer {around.above.layer}, above the one that is "
            "written; nothing was written: change it there"
        )
    if around is UNASKED:
        return write
    if write.value is None:
        return _plan_delete(write, around)
    expect = _expected(write, around)
    if is_tombstone(write.value):
        if around.own is None and around.shown_below is None:
            return None
        return write._replace(value=TOMBSTONE, expect=expect)
    return write._replace(expect=expect)


def as_seen(write: Write, stored: Entry | None, around: Around) -> Entry:
    """What is visible after a write, from what its layer stored; None if nothing was written."""
    if stored is None:
        return deleted(write.key)
    if stored.operation is DELETE:
        return around.shown_below or stored
    return visible(stored) or deleted(write.key, stored.updated_at)


def _plan_delete(write: Write, around: Around) -> Write | None:
    if around.own is not None and not is_tombstone(around.own.value):
        return write
    below = around.shown_below if around.own is None else None
    check_expected(write, None if below is None else below.revision)
    if below is None or around.below is None:
        return None
    raise ReadOnly(
        f"{shown(write.key)} is held by the layer {around.below.layer}, below the one that is "
        "written; nothing was deleted: delete it there, or hide it with hide=True"
    )


def _expected(write: Write, around: Around) -> str | None:
    """What a write has to expect of the layer, if it expects that of what is visible."""
    own = around.own
    if write.expect is None or (own is not None and not is_tombstone(own.value)):
        return write.expect
    below = around.shown_below if own is None else None
    check_expected(write, None if below is None else below.revision)
    if write.expect == ANY_REVISION:
        return None
    return "" if own is None else own.revision

"""The contract between a store and one backend: everything a plug-in has to write.

A Source is blocking and pull-shaped. It knows nothing of threads, subscribers, reactivex or
asyncio; one that needs an event loop keeps it private. The hub above it

1. calls `read` and `write` one at a time, never two at once;
2. calls `wait` from a thread of its own, beside `read` and `write`;
3. calls `wake` from any thread, to end a `wait` early;
4. calls `close` once, when no other call is running.

The past (`history`, `at`, `replay`) is asked for by the store, from any thread and beside all of
these: what looks there keeps a connection of its own.

No missed change follows from one rule: **arm first, then read**. Whatever happens after a
`read` returned must end the next `wait`, also when it happens before that `wait` begins. A
`wait` that returns for nothing costs one `read`; one that does not return loses a change. It has
to notice changes of the selection last read with ``since``: the hub wakes it and reads again
when that selection grows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from enum import Enum, auto
from typing import NamedTuple

from datastream.entry import Capability, Change, Entry
from datastream.errors import KeyNotFound, RevisionConflict, Unsupported, shown
from datastream.selection import Selects

ANY_REVISION = "*"
"""``expect`` of a write that wants the key to exist, whatever its revision."""


NO_PAST = (
    "this backend keeps no past; git repositories do, versioned S3 buckets, and PostgreSQL tables "
    "opened with history=True"
)


class Feature(Enum):
    """What not every backend can do; the store refuses early what is not declared."""

    WRITE = auto()
    """`write` works at all."""
    COMPARE_AND_SET = auto()
    """``expect`` is checked and the value written in one atomic step."""
    ATOMIC = auto()
    """Several writes happen all together or not at all."""
    TYPES = auto()
    """A value's type is stored with it; else it follows from key and content."""
    LOG = auto()
    """`read` can answer with what changed since an earlier position, not only with a full state."""
    HISTORY = auto()
    """`history` works: the backend keeps what keys held before."""
    AT = auto()
    """`at` works: the whole store as it was."""
    REPLAY = auto()
    """`replay` works: what was committed together in the past comes together again."""


WRITING = frozenset({Feature.WRITE, Feature.COMPARE_AND_SET, Feature.ATOMIC})
"""All that concerns writes."""


class Write(NamedTuple):
    """One put, or with ``value=None`` one delete."""

    key: str
    value: bytes | None
    value_type: str = ""
    expect: str | None = None
    """None: whatever is there; "": must not exist; `ANY_REVISION`: must exist; else a revision."""
    updated_at: datetime | None = None
    """None: the backend's or this host's time, now."""


class Reading(NamedTuple):
    """The answer to `Source.read`."""

    entries: Sequence[Entry]
    position: str
    """Where the backend was: opaque, carries an epoch, equal only if nothing changed between."""
    complete: bool
    """``entries`` is the whole state of the selection (PUTs only), not what changed."""
    load: Callable[[Sequence[Entry]], Sequence[Entry]] | None = None
    """For backends that list for less than they read: ``entries`` have revisions, but no values
    and types yet; this returns those it is given with all, as a DELETE what has gone meanwhile.
    The hub has only those loaded that are wanted and new."""


class Source(ABC):
    """One backend. Subclass it, declare `features`, implement the five methods and `close`."""

    features: frozenset[Feature] = WRITING | {Feature.TYPES, Feature.LOG}
    """What this backend can do."""

    instant: bool = False
    """`read` and `write` never wait for I/O, so that an event loop may call them directly."""

    note: str = ""
    """How it works just now, where that is not how it best could; part of the status."""

    keeps_copy: bool = False
    """`read` answers from a copy while the backend is away: only `wait` finds out, by raising.
    It is called again then, and returns as soon as the backend is back."""

    lags: bool = False
    """`read` with ``since`` may show less than a `write` or `read` before it; see `settle`."""

    @abstractmethod
    def capabilities(self) -> Sequence[Capability]:
        """Every key there is now, with its type, in the backend's order."""

    @abstractmethod
    def read(self, selection: Selects, since: str | None) -> Reading:
        """What there is, or what changed.

        1. Without `since`: the complete current state of `selection`.
        2. With `since`, a position of an earlier reading: what changed after it, each key once
           with its newest state, deletes included, a transaction wholly or not at all.
        3. A `since` that cannot be honoured (another epoch, older than the log) is no error:
           answer as in 1, ``complete=True``, and the hub works out the difference.
        4. Revision and bytes come from one look at the backend, never from two.
        5. Keys outside `selection` may be returned; the hub drops them.

        Raises:
            SourceUnavailable: the backend did not answer, or answered only in part. Never return
                a partial or empty state instead: it would be taken for deletes.
        """

    @abstractmethod
    def wait(self, timeout: float | None) -> None:
        """Block until something *may* have changed since the last `read`, at most `timeout` s.

        Returns early on `wake`. May return for no reason at all.
        """

    @abstractmethod
    def wake(self) -> None:
        """Make the running `wait`, or if none runs the next one, return at once."""

    @abstractmethod
    def write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        """Store all of `writes`, or nothing; each key occurs once.

        Returns the entries as stored, in the same order. A put that changes neither value nor
        type writes nothing and returns the entry that is there; so does a delete of a missing
        key, unless `Write.expect` says otherwise (`check_expected` decides).

        Raises:
            RevisionConflict, KeyNotFound: an `expect` did not hold.
            InvalidKey, InvalidValue: this backend cannot hold it.
        """

    def read_written(self, entries: Sequence[Entry]) -> Reading | None:
        """What `read` would answer now that `entries` have been written, if known without a look.

        For backends where a look takes many requests. None: there has to be one.
        """
        return None

    def settle(self, entries: Sequence[Entry]) -> None:  # noqa: B027
        """Return when `read` would show `entries`, just written, or what has replaced them.

        Called only where `lags` is set: for backends read through a stream or a replica.
        Bounded in time.
        """

    def release(self) -> None:  # noqa: B027
        """Nobody watches any more: free what only `wait` needs, such as a stream.

        Called when no other call is running; `read` and `wait` may follow all the same.
        """

    def history(self, key: str) -> Iterator[Change]:
        """Every revision of `key`, newest first, read as the iterator goes on.

        A key that never held anything has none.
        """
        raise Unsupported(NO_PAST)

    def at(self, point: str | datetime) -> Source:
        """A Source that can only be read, on the state at `point`.

        Args:
            point: a time, with time zone, or what the backend names its states by.

        Raises:
            DatastreamError: there is no such point.
        """
        raise Unsupported(NO_PAST)

    def replay(self, selection: Selects, since: str | datetime | None) -> Iterator[Reading]:
        """What happened after `since`, oldest first, one reading for what belongs together.

        The first is complete: the state at `since`, empty if that is None, which means the
        beginning. Those that hold nothing of `selection` may be left out, except the last. Its
        position is one from which `read` goes on.

        Raises:
            DatastreamError: there is no such point.
        """
        raise Unsupported(NO_PAST)

    @abstractmethod
    def close(self) -> None:
        """Free every thread, socket and file. Called once."""


def check_expected(write: Write, revision: str | None) -> None:
    """Compare what a write expects with the revision its key has (None: the key is missing).

    Raises:
        RevisionConflict: the key has another revision, or exists although it must not.
        KeyNotFound: it must exist and does not.
    """
    expect = write.expect
    if expect is None or expect == (revision or ""):
        return
    if revision is None and expect == ANY_REVISION:
        raise KeyNotFound(f"{shown(write.key)} holds nothing; put a value first, or list the keys")
    if revision is not None and expect == ANY_REVISION:
        return
    wanted = f"revision {shown(expect)}" if expect else "no value"
    found = f"revision {revision!r}" if revision is not None else "no value"
    raise RevisionConflict(
        f"{shown(write.key)} has {found}, expected {wanted}; read it again, decide and retry"
    )

"""The contract between a store and one backend: everything a plug-in has to write.

A Source is blocking and pull-shaped. It knows nothing of subscribers, reactivex or asyncio; one
that needs an event loop keeps it private. The store above it

1. calls `read`, `get`, `capabilities` and `write` from any thread, several at a time, unless
   `thread_safe` is False: then one at a time, in the order in which they came;
2. calls `wait` from one thread, beside all of these;
3. calls `wake` from any thread, to end a `wait` early;
4. calls `close` once. Calls that have not returned by then are expected to fail soon.

The past (`history`, `at`, `replay`) is part of the Protocols below; a Source that has one
implements them and declares the feature. They are called from any thread, beside all else.

No missed change follows from one rule: **arm first, then read**. Whatever happens after a `read`
with `since` began must end the next `wait`, also when it happens before that `wait` begins. A
`wait` that returns for nothing costs one `read`; one that does not return loses a change. It has
to notice changes of the selection last read with ``since``.

A reading may be dropped: another call may have been faster. The next read then comes with the
same ``since`` again, or with the position of the faster one, and has to answer in full.

Errors of a client library below are translated by `Source.translate`, in one place of each
source; the store calls it for whatever a call of the source raises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from datetime import datetime
from enum import Enum, auto
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

from datastream._secrets import NONE, Secrets
from datastream.entry import PUT, Capability, Entry, Revision
from datastream.errors import KeyNotFound, RevisionConflict, shown
from datastream.selection import Selection, Selects

ANY_REVISION = "*"
"""``expect`` of a write that wants the key to exist, whatever its revision."""

NO_PAST = (
    "this backend keeps no past; git repositories do, versioned S3 buckets, NATS buckets with a "
    "history= of more than one, and PostgreSQL tables opened with history=True"
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
    MESSAGES = auto()
    """``message`` and ``author`` of a write are kept."""
    HISTORY = auto()
    """`HasHistory`: the backend keeps what keys held before."""
    AT = auto()
    """`HasAt`: the whole store as it was."""
    REPLAY = auto()
    """`HasReplay`: what was committed together in the past comes together again."""
    TTL = auto()
    """``ttl`` of a put: the key is removed by itself after a while."""
    TRANSIENT = auto()
    """With a position, `read` also names the keys that came and went since it, and those that are
    again what they were. Without, what a newcomer was shown is compared once more where the
    backend moved on meanwhile."""


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
    message: str = ""
    """Why, for backends with `Feature.MESSAGES`; the first non-empty one of a batch counts."""
    author: str = ""
    """Who, as ``Name <address>``; likewise. "" is who the source was opened as."""
    id: str = ""
    """Names what is written together, where it may come again after a lost answer: a backend that
    knows ids does it once."""
    ttl: float | None = None
    """Seconds after which the key is removed, for backends with `Feature.TTL`; None for never."""


NO_REVISIONS: Mapping[str, str] = MappingProxyType({})


class Reading(NamedTuple):
    """The answer to `Source.read`."""

    entries: Sequence[Entry]
    position: str
    """Where the backend was: opaque, carries an epoch, equal only if nothing changed between."""
    complete: bool
    """``entries`` is the whole state of the selection (PUTs only), not what changed."""
    load: Callable[[Sequence[Entry]], Sequence[Entry]] | None = None
    """For backends that list for less than they read: ``entries`` have revisions, but no values
    and types yet; this returns those it is given with all, as a DELETE what has gone meanwhile,
    and leaves out what cannot be read. The store has only those loaded that are wanted and new."""
    author: str = ""
    """Who made these changes, where one commit or transaction made them all and it is known."""
    message: str = ""
    """Why, likewise."""
    point: str = ""
    """What `Store.at` takes to see the store as it was after them, likewise."""
    created: frozenset[str] = frozenset()
    """Keys of ``entries`` that held nothing at ``since``, a DELETE among them too: a reader which
    stood at ``since`` never had those. Empty where the backend does not know."""
    unread: frozenset[str] = frozenset()
    """Keys that hold what cannot be read, so that ``entries`` is without them; one that ends in "/"
    stands for all keys below it. Readers who have them keep what they have."""
    before: Mapping[str, str] = NO_REVISIONS
    """The revisions at ``since`` of keys of ``entries`` which held something then: a reader which
    stood there is not given those again. Without keys of which the backend does not know it."""

    def is_unread(self, key: str) -> bool:
        """Whether `key` is among those that cannot be read."""
        return is_below(key, self.unread)

    def without(self, keys: Iterable[str]) -> Reading:
        """The same, where `keys` turned out to be unreadable."""
        unread = self.unread.union(keys)
        entries = [entry for entry in self.entries if entry.key not in unread]
        return self._replace(entries=entries, unread=unread)


class Written(NamedTuple):
    """The answer to `Source.write`: what is stored now, and where that leaves the backend."""

    entries: Sequence[Entry]
    """As stored, in the order of the writes; a DELETE for a delete."""
    position: str = ""
    """The position just after the write, "" where it is not known: the store then reads."""
    since: str | None = None
    """The position just before it: nothing but this write lies between the two. None: the write
    moved any position to `position`, for backends that are listed and have no log."""
    author: str = ""
    """As in `Reading`, so that own watchers get what those elsewhere get."""
    message: str = ""
    point: str = ""


class Health(NamedTuple):
    """How a Source works just now, where calls succeed all the same."""

    error: Exception | None = None
    """Why the backend is away although `read` answers, from a copy: the status is STALE."""
    degraded: str = ""
    """Why it works less well than it could, such as "polling every 5 s: no triggers"."""
    since: datetime | None = None
    """Since when, where another process tells; None is now."""

    def says_what(self, other: Health) -> bool:
        """Whether it says what `other` says: an error made anew is the same trouble."""
        return (str(self.error), self.degraded) == (str(other.error), other.degraded)


WELL = Health()


class Source(ABC):
    """One backend. Subclass it, declare `features`, implement the five methods and `close`."""

    features: frozenset[Feature] = frozenset()
    """What this backend can do; empty is a backend that can be read and watched. A Source that
    learns it later replaces the set."""

    why_only_read: str = ""
    """Why `features` lack `Feature.WRITE`, where who opened it did not ask for that: part of the
    error of a write."""

    thread_safe: bool = True
    """False: calls other than `wait`, `wake` and `close` must not overlap."""

    instant: bool = False
    """No call waits for I/O, so that an event loop may make it directly."""

    eventually_consistent: bool = False
    """`read` with ``since`` may show less than an earlier `write`, or `read` without. After
    `release`, the next `read` shows at least that. What a `read` without ``since`` has shown, one
    with it tells the end of, also of a key that came and went meanwhile."""

    health: Health = WELL
    """How it works just now; the store looks at it after every call, and after every `wait`."""

    secrets: Secrets = NONE
    """What it was given and nobody may see: hidden in errors, statuses and logs while it lives."""

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
           answer as in 1, ``complete=True``, and the store works out the difference.
        4. Revision and bytes come from one look at the backend, never from two.
        5. Keys outside `selection` may be returned; the store drops them.

        Raises:
            SourceUnavailable: the backend did not answer, or answered only in part. Never return
                a partial or empty state instead: it would be taken for deletes.
        """

    def get(self, key: str) -> Entry | None:
        """The entry of one key, None if it holds nothing; by default a `read` of that key."""
        reading = self.read(Selection(frozenset((key,))), None)
        found = [entry for entry in reading.entries if entry.key == key]
        if found and reading.load is not None:
            found = list(reading.load(found))
        return found[0] if found and found[0].operation is PUT else None

    def get_value(self, key: str) -> tuple[bytes, str] | None:
        """Value and type of one key: what `get` finds, of which ``store[key]`` needs no more."""
        entry = self.get(key)
        return None if entry is None else (entry.value, entry.value_type)

    @abstractmethod
    def wait(self, timeout: float | None) -> None:
        """Block until something *may* have changed since the last `read`, at most `timeout` s.

        That is one with a position, by any thread: the store calls `wake` where it has read what
        it did not publish. Returns early on `wake`. May return for no reason at all. A Source
        whose `read` answers from a copy finds out here that the backend is away, and says so in
        `health`.
        """

    @abstractmethod
    def wake(self) -> None:
        """Make the running `wait`, or if none runs the next one, return at once."""

    @abstractmethod
    def write(self, writes: Sequence[Write]) -> Written | Sequence[Entry]:
        """Store all of `writes`, or nothing; each key occurs once.

        Returns the entries as stored, in the same order; as `Written`, where the backend was
        before and after. A put that changes neither value nor type writes nothing and returns
        the entry that is there; so does a delete of a missing key, unless `Write.expect` says
        otherwise (`check_expected` decides).

        Raises:
            RevisionConflict, KeyNotFound: an `expect` did not hold.
            InvalidKey, InvalidValue: this backend cannot hold it.
        """

    def translate(self, error: Exception, key: str | None) -> Exception:
        """A foreign error as one of ours; `error` itself if it is none that this source knows.

        Args:
            error: what a call of this source raised.
            key: the key it was about, if it was about one.
        """
        return error

    def refresh(self) -> None:  # noqa: B027
        """A user wants a look at the backend now, which follows: tell what lies between.

        Called from any thread, also of an event loop, so it must not wait for an answer.
        """

    def reach(self) -> None:  # noqa: B027
        """Have the next `read` with ``since`` show at least all that is there now.

        For a Source whose `read` tells what a stream, or a store below, has brought so far; one
        that reads its backend then and there shows it anyway.
        """

    def newcomer(self, since: str | None, *, covered: bool) -> bool:
        """Somebody comes for whom `compared` may be too late.

        A Source whose log may lack a change knows now that what this one has may hold it already,
        or that it would not be told of it.

        Args:
            since: the cursor from which it wants to be told what changed, if it has one.
            covered: others watch these keys, and have a state of them that is older. Else this one
                was given the state just now.

        Returns:
            Whether the cursor may be honoured; if not, the state is read.
        """
        return True

    def compared(self, position: str, *, same: bool) -> None:  # noqa: B027
        """A complete reading at the very position that was published last has been published.

        Either it answered a `read` with ``since``, as a Source does when its log may lack a change;
        or one without, and then only if it was not the same. If the state was not that which was
        known at `position`, positions given out until now must not be honoured any more.
        """

    def release(self) -> None:  # noqa: B027
        """Nobody watches any more: free what only `wait` needs, such as a stream.

        `read` and `wait` may follow all the same.
        """

    @abstractmethod
    def close(self) -> None:
        """Free every thread, socket and file. Called once."""


@runtime_checkable
class HasHistory(Protocol):
    """A Source with `Feature.HISTORY`."""

    def history(self, key: str) -> Iterator[Revision]:
        """Every revision of `key`, newest first, read as the iterator goes on.

        A key that never held anything has none.
        """
        ...


@runtime_checkable
class HasAt(Protocol):
    """A Source with `Feature.AT`."""

    def at(self, point: str | datetime) -> Source:
        """A Source that can only be read, on the state at `point`.

        Args:
            point: a time, with time zone, or what the backend names its states by.

        Raises:
            DatastreamError: there is no such point.
        """
        ...


@runtime_checkable
class HasReplay(Protocol):
    """A Source with `Feature.REPLAY`."""

    def replay(self, selection: Selects, since: str | datetime | None) -> Iterator[Reading]:
        """What happened after `since`, oldest first, one reading for what belongs together.

        The first is complete: the state at `since`, empty if that is None, which means the
        beginning. Those that hold nothing of `selection` may be left out, except the last. Its
        position is one from which `read` goes on.

        Raises:
            DatastreamError: there is no such point.
        """
        ...


@runtime_checkable
class HasAsyncCalls(Protocol):
    """A Source whose calls a coroutine awaits, on any event loop, without a thread for each."""

    async def aget(self, key: str) -> Entry | None:
        """`Source.get`."""
        ...

    async def aread(self, selection: Selects) -> Reading | None:
        """`Source.read` of a complete state; None if that is to be called instead, in a thread."""
        ...

    async def awrite(self, writes: Sequence[Write]) -> Written | Sequence[Entry] | None:
        """`Source.write`; None if that is to be called instead, in a thread."""
        ...


class Publish(Protocol):
    """Offers watchers a change that a source brings; see `HasChanges.publish_to`."""

    def __call__(self, change: Written, asked: Selects | None = None, /) -> bool:
        """Take a change, if it begins where the watchers are and is all that they watch."""
        ...


@runtime_checkable
class HasChanges(Protocol):
    """A Source that has a change in hand when it happens: one over other stores, a stream, or one
    that asks in `wait` what it was notified of.

    Such a change needs neither `wait` nor `read` to reach the watchers, and so no thread for it.
    """

    def publish_to(self, publish: Publish) -> None:
        """Give each change to `publish` from now on, on the thread that brings it.

        ``publish(change, asked)`` does memory work only. It takes a change that begins where the
        watchers are; where it answers False, or is not called, `wait` has to return and `read` to
        tell. `asked` is what the change is all of, just as `read` was given it with a position;
        without, the change is all of what anybody watches.
        """
        ...


class Summary(NamedTuple):
    """What a listing tells of one key without its value."""

    key: str
    """One that ends in "/" stands for all below it, which cannot be listed."""
    size: int | None = None
    """Bytes of the value, where the listing tells."""
    digest: str = ""
    """``ALGORITHM:HEX`` of the value, where the listing tells, such as ``git:…``."""
    updated_at: datetime | None = None
    """When it was written, likewise."""
    signature: Hashable = None
    """Changes when the value may have; None where nothing tells."""


@runtime_checkable
class HasWalk(Protocol):
    """A Source that reads a state entry by entry, so that few are in memory."""

    def walk(self, selection: Selects, unread: set[str]) -> Iterator[Entry]:
        """What there is, sorted by key and all of one moment; other keys may be among it.

        Closed, if left early.

        Args:
            unread: takes what cannot be read, as in `Reading.unread`.
        """
        ...


@runtime_checkable
class HasSummaries(Protocol):
    """A Source that can be compared with another one without reading all values.

    It keeps no types, or they follow from key and value.
    """

    def summaries(self, selection: Selects) -> Iterable[Summary]:
        """One for each selected key; others may be among them.

        Raises:
            SourceUnavailable: the backend did not answer, or answered only in part.
        """
        ...

    def contents(self, keys: Sequence[str]) -> Sequence[Entry]:
        """What `keys` hold; without what is gone, or cannot be read."""
        ...

    def digest(self, key: str, algorithm: str) -> str:
        """The digest of one value, read in pieces; "" where that is not possible here."""
        ...

    def differing(self, other: Source, selection: Selects) -> Iterable[str] | None:
        """The keys whose values are not the same in `other`; None where only listings tell."""
        ...


@runtime_checkable
class HasStreams(Protocol):
    """A Source whose values can be read and written in pieces, never whole in memory."""

    def pieces(self, key: str) -> Iterator[bytes]:
        """The value of one key, all of one moment; the last piece is the last one given.

        Raises:
            KeyNotFound: there is none.
            SourceUnavailable: it changed, or broke off, before its end.
        """
        ...

    def put_pieces(self, key: str, pieces: Iterable[bytes]) -> None:
        """Store a value; what was there stays until the last piece was taken.

        Raises:
            InvalidKey: this backend cannot hold the key.
        """
        ...


def is_below(key: str, places: Set[str]) -> bool:
    """Whether `key` is one of `places`, or below one of those that end in "/"."""
    if not places:
        return False
    return key in places or any(key[: at + 1] in places for at, c in enumerate(key) if c == "/")


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

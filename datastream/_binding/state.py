"""The object of a binding: what is in force, and why a newer state is not."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from datastream._binding.changes import BindingChange, changed_paths
from datastream._binding.evaluate import Evaluator, Outcome, described
from datastream._binding.paths import check_path
from datastream._binding.tree import Path
from datastream._view.changes import Listener, Listeners
from datastream.entry import DELETE, Batch, Entry, Rejected
from datastream.errors import InvalidValue

T = TypeVar("T")

PENDING = 100
"""Batches without a valid state of which is remembered what they changed."""

log = logging.getLogger("datastream")


class About(NamedTuple):
    """Who changed a key, and why, as its batch said."""

    author: str
    message: str


class InForce(NamedTuple):
    """An object that users have, and the entries that made it."""

    outcome: Outcome[Any]
    made_of: Mapping[str, Entry]


class _Seen(NamedTuple):
    """What an evaluation began with; it counts if it is still so when it is done."""

    version: int
    entries: Mapping[str, Entry] | None
    """None before the backend has answered."""
    pending: tuple[Batch, ...]
    overrides: Mapping[Path, Any]
    in_force: InForce | None
    base: InForce | None


class _Made(NamedTuple):
    """What an evaluation came to."""

    in_force: InForce | None
    base: InForce | None
    newest: Outcome[Any] | None
    change: BindingChange[Any] | None


class Holder(Protocol):
    """Shows users the object that is in force."""

    def _show(self, value: Any) -> None: ...
    def _hide(self) -> None:
        """There is none any more."""
        ...


class BindingState(Generic[T]):
    """The state of one binding. One thread applies batches; any overrides or reads.

    Validators are users' code: no lock is held while they run. What they made is installed only
    if nothing has changed meanwhile; else it is made anew.

    Args:
        evaluate: makes the object.
        what: this is, for the log and errors.
    """

    def __init__(self, evaluate: Evaluator[T], what: str) -> None:
        self.evaluate = evaluate
        self.listeners = Listeners()
        self.exists = False
        self.entries: Mapping[str, Entry] = {}
        """The newest ones, in force or not."""
        self.about: Mapping[str, About] = {}
        self.in_force: InForce | None = None
        self.rejected: tuple[Rejected, ...] = ()
        self.error: Exception | None = None
        self._what = what
        self._lock = threading.Lock()
        self._evaluated = threading.Condition(self._lock)
        self._evaluated_entries: Mapping[str, Entry] = {}
        self._has_entries = False
        # What would be in force without overrides.
        self._base: InForce | None = None
        # What was applied since an object came into force.
        self._pending: tuple[Batch, ...] = ()
        self._version = 0
        self._overrides: tuple[Mapping[Path, Any], ...] = ()
        self._holder: Callable[[], Holder | None] = _nobody

    @property
    def complaint(self) -> str:
        """Why the newest state is not in force, if it is not."""
        rejected = self.rejected
        return f"the newest state is refused: {described(rejected)}" if rejected else ""

    def show(self, holder: Holder) -> None:
        """Show `holder` each object that comes into force, and the present one."""
        with self._lock:
            self._holder = weakref.ref(holder)
            if self.in_force is not None:
                holder._show(self.in_force.outcome.value)

    def listen(self, listener: Listener) -> None:
        """Offer `listener` all changes that follow the object of now."""
        with self._lock:
            self.listeners.add(listener)

    def apply(self, batch: Batch) -> None:
        """Take in a batch; the object it makes comes into force, if it validates."""
        entries = {} if batch.reset else dict(self.entries)
        about = {} if batch.reset else dict(self.about)
        for entry in batch.entries:
            about.pop(entry.key, None)
            if entry.operation is DELETE:
                entries.pop(entry.key, None)
            else:
                entries[entry.key] = entry
                if batch.author or batch.message:
                    about[entry.key] = About(batch.author, batch.message)
        with self._lock:
            self.entries, self.about = entries, about
            self._pending = (*self._pending[-PENDING:], batch)
            self._has_entries = True
            self._version += 1
        self._renew()

    @contextmanager
    def overriding(self, overrides: Mapping[Path, Any]) -> Iterator[None]:
        """Have these values in force, whatever the keys say, and changed keys beside them.

        Raises:
            InvalidValue: they do not validate.
        """
        with self._lock:
            self._overrides = (*self._overrides, overrides)
            self._version += 1
        try:
            self._renew()
            if self.rejected:
                raise InvalidValue(f"{self._what} refuses these values: {described(self.rejected)}")
            for path in overrides:
                check_path(self.in_force and self.in_force.outcome.value, path, self._what)
            yield
        finally:
            with self._lock:
                self._overrides = tuple(o for o in self._overrides if o is not overrides)
                self._version += 1
            self._renew()

    def await_seen(self, revisions: Mapping[str, str], timeout: float) -> bool:
        """Wait until each of these keys was seen with another revision than this one."""

        def is_seen() -> bool:
            entries = self._evaluated_entries
            return all(_revision(entries, key) != before for key, before in revisions.items())

        with self._evaluated:
            return self._evaluated.wait_for(is_seen, timeout)

    def _renew(self) -> None:
        """Put in force what the newest entries and the overrides make."""
        before = self.rejected
        while True:
            seen = self._look()
            made = self._make(seen)
            with self._lock:
                if seen.version == self._version:
                    self._install(seen, made)
                    break
        if self.rejected and self.rejected != before:
            _log_rejected(self._what, self.rejected, exists=self.exists)

    def _look(self) -> _Seen:
        with self._lock:
            return _Seen(
                self._version,
                self.entries if self._has_entries else None,
                self._pending,
                {path: value for some in self._overrides for path, value in some.items()},
                self.in_force,
                self._base,
            )

    def _make(self, seen: _Seen) -> _Made:
        """Evaluate: users' code runs here, without any lock."""
        entries, overrides = seen.entries, seen.overrides
        newest = base = None
        if entries is not None:
            newest = self.evaluate(entries, {})
            base = seen.base if newest.rejected else InForce(newest, entries)
        in_force = base
        if overrides:
            newest = self.evaluate(entries or {}, overrides)
            in_force = seen.in_force if newest.rejected else InForce(newest, entries or {})
        old = seen.in_force
        if in_force is None or in_force is old:
            return _Made(in_force, base, newest, None)
        before = None if old is None else old.outcome.value
        paths = changed_paths(before, in_force.outcome.value)
        if old is not None and not paths:
            # The same object all along, for those who compare identities.
            in_force.outcome.value = before
            return _Made(in_force, base, newest, None)
        change = BindingChange(before, in_force.outcome.value, paths, *_summary(seen.pending))
        return _Made(in_force, base, newest, change)

    def _install(self, seen: _Seen, made: _Made) -> None:
        """Put in force what was made, under the lock."""
        self.in_force, self._base = made.in_force, made.base
        self.exists = made.in_force is not None
        self.rejected = () if made.newest is None else made.newest.rejected
        has_failed = not self.exists and bool(self.rejected)
        self.error = self._missing(made.newest) if has_failed and made.newest else None
        if not self.rejected:
            self._pending = ()
        self._evaluated_entries = seen.entries or {}
        self._evaluated.notify_all()
        holder = self._holder()
        if holder is not None and made.in_force is None:
            holder._hide()
        if made.change is not None:
            if holder is not None:
                holder._show(made.change.new)
            self.listeners.offer(made.change)

    def _missing(self, outcome: Outcome[T]) -> InvalidValue:
        if not outcome.missing or len(outcome.missing) < len(outcome.rejected):
            return InvalidValue(f"{self._what} cannot begin: {described(outcome.rejected)}")
        names = ", ".join(one.reason.partition(":")[0] for one in outcome.rejected)
        keys = ", ".join(outcome.missing)
        return InvalidValue(
            f"{self._what} lacks required fields: {names}; put the keys it looked for: {keys}"
        )


def _log_rejected(what: str, rejected: tuple[Rejected, ...], *, exists: bool) -> None:
    stands = ", the last good one stands" if exists else ""
    log.warning("%s: a state is refused%s: %s", what, stands, described(rejected))


def _summary(batches: tuple[Batch, ...]) -> tuple[tuple[Entry, ...], str, str]:
    """The newest entry of each key, and author and message if one batch brought them all."""
    newest = {entry.key: (entry, batch) for batch in batches for entry in batch.entries}
    entries = tuple(entry for entry, _ in newest.values())
    about = {id(batch): (batch.author, batch.message) for _, batch in newest.values()}
    author, message = about.popitem()[1] if len(about) == 1 else ("", "")
    return entries, author, message


def _revision(entries: Mapping[str, Entry], key: str) -> str:
    entry = entries.get(key)
    return "" if entry is None else entry.revision


def _nobody() -> None:
    return None

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
from datastream.entry import Batch, Entry, Operation, Rejected
from datastream.errors import DatastreamError, InvalidValue, printable

T = TypeVar("T")

ROUNDS = 100
"""Evaluations after which it is given up that nobody else changes the state meanwhile."""

PENDING = 100
"""Batches without a valid state of which is remembered what they changed."""

log = logging.getLogger("datastream")


class About(NamedTuple):
    """Who changed a key, and why, as its batch said."""

    author: str
    message: str


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
        self.outcome: Outcome[T] | None = None
        """The one in force, and the entries that made it."""
        self.made_of: Mapping[str, Entry] = {}
        self.rejected: tuple[Rejected, ...] = ()
        self.error: Exception | None = None
        self._what = what
        self._lock = threading.Lock()
        self._evaluated = threading.Condition(self._lock)
        self._seen: Mapping[str, Entry] = {}
        self._has_entries = False
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
            if self.outcome is not None:
                holder._show(self.outcome.value)

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
            if entry.operation is Operation.DELETE:
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
                check_path(self.outcome and self.outcome.value, path, self._what)
            yield
        finally:
            with self._lock:
                self._overrides = tuple(o for o in self._overrides if o is not overrides)
                self._version += 1
            self._renew()

    def await_seen(self, revisions: Mapping[str, str], timeout: float) -> bool:
        """Wait until each of these keys was seen with another revision than this one."""

        def is_seen() -> bool:
            seen = self._seen
            return all(_revision(seen, key) != before for key, before in revisions.items())

        with self._evaluated:
            return self._evaluated.wait_for(is_seen, timeout)

    def _renew(self) -> None:
        for _ in range(ROUNDS):
            with self._lock:
                version, entries, pending = self._version, self.entries, self._pending
                overrides = {path: v for some in self._overrides for path, v in some.items()}
                old = None if self.outcome is None else self.outcome.value
                if not self._has_entries and not overrides:
                    self._forget_state()
                    return
            outcome = self.evaluate(entries, overrides)
            paths = () if outcome.rejected else changed_paths(old, outcome.value)
            change = BindingChange(old, outcome.value, paths, *_summary(pending))
            with self._lock:
                if version == self._version:
                    newly = self._install(outcome, change)
                    self.made_of = self.made_of if outcome.rejected else entries
                    self._seen = entries
                    self._evaluated.notify_all()
                    break
        else:
            raise DatastreamError(f"{self._what} changes faster than it can be validated")
        if newly:
            _log_rejected(self._what, newly, exists=self.exists)

    def _forget_state(self) -> None:
        """What overrides alone had in force is no state."""
        self.exists, self.outcome, self.rejected, self.error = False, None, (), None
        holder = self._holder()
        if holder is not None:
            holder._hide()

    def _install(self, outcome: Outcome[T], change: BindingChange[T]) -> tuple[Rejected, ...]:
        """Put an outcome in force, under the lock; what is newly rejected."""
        before, self.rejected = self.rejected, outcome.rejected
        if outcome.rejected:
            self.error = None if self.exists else self._missing(outcome)
            return outcome.rejected if outcome.rejected != before else ()
        self.error = None
        if self.outcome is not None and not change.paths:
            # The same object all along, for those who compare identities.
            outcome.value = self.outcome.value
        self.outcome, self.exists, self._pending = outcome, True, ()
        if change.paths or change.old is None:
            holder = self._holder()
            if holder is not None:
                holder._show(outcome.value)
            self.listeners.offer(change)
        return ()

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
    log.warning(
        "%s: a state is refused%s: %s", printable(what), stands, printable(described(rejected))
    )


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

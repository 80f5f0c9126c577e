"""Decides what is news to whom, and offers it: memory only, no I/O, no thread of its own.

The publisher stands at a position of the backend, the same for all joined subscriptions, and
knows the revision of every key they select. A reading is published only if it starts from that
position; else somebody was faster, and the caller reads again. So order needs no lock around I/O.

It has four parts, all guarded by its lock: `Members` (who selects what), `Known` (which revisions
were published), `Apart` (newcomers that were given others) and `Delivery`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import sleep
from typing import NamedTuple

from datastream._columns import differing, keys_of, make_revisions, matching, revisions_of
from datastream._watch.apart import Apart, News, Told
from datastream._watch.confirm_empty import ConfirmEmpty
from datastream._watch.delivery import NOBODY, Delivery
from datastream._watch.diff import has_moved_on, without_value
from datastream._watch.known import Known
from datastream._watch.members import Members
from datastream._watch.steps import Outcome, Step, Ticket
from datastream._watch.subscription import Join, Published, Sink, Subscription
from datastream.entry import Entry, deleted
from datastream.selection import NOTHING, Selection, Selects, selects_any
from datastream.source import NO_REVISIONS, Reading, Written

NO_VALUES: Mapping[str, Entry] = {}


class Publisher:
    """Position, known revisions and subscriptions of one store.

    Args:
        atomic: the backend writes several keys together, so that no part of a reading may be
            published without the rest.
        consistent: a read shows all that another one has shown before.
        has_log: subscribers resume from the position they were given.
    """

    def __init__(self, *, atomic: bool, consistent: bool, has_log: bool = False) -> None:
        self._lock = threading.Lock()
        self._atomic = atomic
        self._consistent = consistent
        self._has_log = has_log
        self.position: str | None = None
        """None while nobody has joined."""
        # The state published is just that of `position`: no write, and no part of a reading, was
        # published on top of it.
        self._at_position = True
        self.is_ahead = False
        """What was published is later than `position`: a log that begins there may say nothing of
        what came after it and is over by then."""
        # Reads are numbered: the last that began, when what is selected last grew, and the last
        # that was published.
        self._reads = self._grown_at = self._covered = 0
        # How often a reading found what the position should have told, and how often the source
        # was told so: from then on it honours no position from before.
        self._found = self._found_told = 0
        self._told = threading.Condition(self._lock)
        self._members = Members()
        self.routes = self._members.routes
        self._known = Known()
        self._apart = Apart()
        # Those that join with what only a complete reading can tell.
        self._mixed: set[Subscription] = set()
        self._delivery = Delivery(self._members, self._known, self._apart, self._lock)
        self._confirm_empty = ConfirmEmpty()
        self.remembering = self._delivery.remembering
        self.await_published = self._delivery.await_published

    # Reads and what they bring.

    def ticket(self) -> Ticket | None:
        """To be taken before a read; None if nobody has joined."""
        with self._lock:
            if self.position is None:
                return None
            self._reads += 1
            since = None if self._needs_state() else self.position
            return Ticket(self.position, self._known.version, self._reads, self.routes.union, since)

    def _needs_state(self) -> bool:
        """Whether somebody was shown what may be over already: only the complete state tells."""
        return bool(self._apart.given or self._mixed or self.is_ahead)

    @property
    def version(self) -> int:
        """Counts what was published."""
        return self._known.version

    @property
    def reads(self) -> int:
        """The number of the last read that began."""
        return self._reads

    def covers(self, number: int) -> bool:
        """Whether a reading was published whose read had this number or began later."""
        with self._lock:
            return self.position is not None and self._covered >= number

    def has_published_since(self, number: int) -> bool:
        """Whether a reading was published whose read began after that with `number`."""
        with self._lock:
            return self._covered > number or self.position is None

    def reached(self) -> str | None:
        """The position up to which all that have joined were offered everything.

        None if nobody has, or some stand apart: a later position does not tell what they have.
        """
        with self._lock:
            return None if self._apart.given else self.position

    def publish(
        self, ticket: Ticket, reading: Reading, values: Mapping[str, Entry] = NO_VALUES
    ) -> Outcome | list[Entry]:
        """Offer everybody what is news to them in a reading.

        Args:
            ticket: taken before the read.
            values: entries of it that were loaded.

        Returns:
            The outcome; or the entries that have to be loaded before, where the reading comes
            without values: call again with those.

        Raises:
            Vanished: all watched keys are gone, and no second look has confirmed it.
        """
        make_revisions(reading.entries)
        with self._lock:
            if self.position is None:
                return Outcome.PUBLISHED
            part = self._part_of(reading, ticket)
            if part is None:
                return Outcome.OUTRUN
            return self._publish(part, part.covered(reading), values, ticket)

    def _publish(
        self, part: _Part, reading: Reading, values: Mapping[str, Entry], ticket: Ticket
    ) -> Outcome | list[Entry]:
        entries = [values.get(e.key, e) for e in reading.entries] if values else reading.entries
        told = Told(entries, reading.complete, part.skipped, reading.unread, part.covers)
        news = self._news(told)
        apart = self._apart_news(told)
        if reading.load is not None:
            missing = without_value([news, *(own for own, _ in apart.values())], values)
            if missing:
                return missing
        # One that did not ask for a newcomer's keys does not move the position, and tells it
        # nothing; every other one has to be applied, whenever it began.
        number = None if part.covers is None else ticket.number
        if self._members.joining:
            shown = reading if reading.complete else self._with_before(reading)
            self._members.buffer(Published(shown, values, part.skipped), number)
        compares = reading.complete and reading.position == ticket.position == self.position
        # What was left out has to be read again: by the next poll, from where all are.
        if part.is_whole:
            self.position = reading.position
        self.is_ahead = not part.is_whole or has_moved_on(reading, values)
        self._at_position = not self.is_ahead
        self._confirm_empty.clear()
        self._covered = max(self._covered, ticket.number)
        self._delivery.deliver(news, self.position or "", reading, apart)
        self._apart.published(told)
        if part.covers is not None:
            return Outcome.PART
        if not (compares and part.is_whole):
            return Outcome.PUBLISHED
        if news:
            self._found += 1
            return Outcome.DIFFERENT
        return Outcome.PUBLISHED if ticket.since is None else Outcome.SAME

    def told(self) -> None:
        """The source knows of one more `Outcome.DIFFERENT`."""
        with self._told:
            self._found_told += 1
            self._told.notify_all()

    def await_told(self, timeout: float) -> int | None:
        """How often there was one, once the source knows of all; None if `timeout` s are over."""
        with self._told:
            is_told = self._told.wait_for(lambda: self._found_told == self._found, timeout)
            return self._found if is_told else None

    def _part_of(self, reading: Reading, ticket: Ticket) -> _Part | None:
        """What of a reading may be published; None if it has to be read again."""
        known = self._known
        moved = self.position != ticket.position or known.version != ticket.version
        if moved and not self._may_skip(ticket, reading):
            return None
        # What newcomers select was not asked for: it is no part of this reading.
        has_grown = ticket.number <= self._grown_at
        if has_grown and (self.routes.excluding or self._has_log or not reading.complete):
            # What a log tells is read again for little; published in part, its changes would go
            # out under a cursor from which they come once more, or their end is never told.
            return None
        skipped = known.touched_since(ticket.version) if moved else NOTHING
        covers = _covers(ticket.union) if has_grown else None
        return _Part(skipped, covers, is_whole=not (moved or has_grown))

    def _may_skip(self, ticket: Ticket, reading: Reading) -> bool:
        """Whether a reading that was outrun, by writes only, may be published without their keys.

        Else a backend that takes long to list would never be heard while this store writes.
        """
        is_due = reading.complete and not self._atomic and self._covered < ticket.number
        return is_due and self._known.remembers(ticket.version)

    def _apart_news(self, told: Told) -> Mapping[Subscription, News]:
        return self._apart.news(self._known.revisions, told) if self._apart.given else NOBODY

    def _news(self, told: Told) -> list[Entry]:
        if not (told.complete or told.entries):
            # What most looks find, the first of them while revisions are still to be found out.
            return []
        known, entries, skipped = self._known.revisions, told.entries, told.skipped
        if not told.complete:
            return list(differing(entries, known))
        self._confirm_empty.check(known, is_empty=not (entries or all(map(told.is_unread, known))))
        present = set(keys_of(entries))
        gone = [deleted(key) for key in known if key not in present and told.tells_of(key)]
        changed = [e for e in differing(entries, known) if e.key not in skipped]
        return gone + self._members.watched(changed)

    # Writes.

    def publish_written(self, written: Written, version: int) -> bool:
        """Offer everybody what was written here, without another read.

        Args:
            version: of the publisher, before the write began.

        Returns:
            False if where it leads is not known, or something else may have happened meanwhile:
            the caller reads.
        """
        since = written.since
        if not written.position:
            return False
        with self._lock:
            if self.position is None:
                return True
            if since is None:
                if self._known.is_touched(written.entries, version):
                    return False
                self._at_position = False
            elif since != self.position:
                return False
            self._publish_written(written)
            return True

    def publish_change(self, written: Written, asked: Selects | None = None, /) -> bool:
        """Offer everybody a change that the source brings of its own accord; see `Publish`.

        Returns:
            False if it does not begin at the publisher's position, or is not all that somebody
            watches: a poll has to find it.
        """
        with self._lock:
            # Who joins just now may have read its state before this change.
            if self.position is None or written.since != self.position:
                return False
            if asked is not None and not self._is_all(asked):
                return False
            self._publish_written(written)
            return True

    def _is_all(self, asked: Selects) -> bool:
        """Whether what `asked` selects is all that anybody watches, and all were told the same."""
        differs = self._members.joining or self._needs_state()
        return asked is self.routes.union and not differs

    def _publish_written(self, written: Written) -> None:
        entries, position = written.entries, written.position
        if self._members.joining:
            self._buffer_written(written)
        self.position = position
        if self._apart.given:
            told = Told(entries)
            apart = self._apart.news(self._known.revisions, told)
            self._delivery.deliver(self._news(told), position, written, apart)
            self._apart.published(told)
        elif len(entries) == 1:
            self._delivery.deliver_one(entries[0], position, written)
        else:
            self._delivery.deliver(self._news(Told(entries)), position, written)

    def _buffer_written(self, written: Written) -> None:
        """Keep a write for those that join."""
        entries, known = written.entries, self._known.revisions
        created = frozenset(entry.key for entry in entries if entry.key not in known)
        reading = Reading(entries, written.position, False, created=created)
        self._members.buffer(Published(self._with_before(reading), NO_VALUES))

    def _with_before(self, reading: Reading) -> Reading:
        """A reading that tells those who join what its keys held until now."""
        known = self._known.revisions
        before = {e.key: known[e.key] for e in reading.entries if e.key in known}
        return reading._replace(before=before)

    @contextmanager
    def deleted(self, keys: Sequence[str]) -> Iterator[None]:
        """From the acknowledgement of own deletes until they are published.

        That nothing else is left raises no suspicion meanwhile.
        """
        with self._lock:
            self._confirm_empty.deleting(keys)
        try:
            yield
        finally:
            with self._lock:
                self._confirm_empty.deleted(keys)

    # What is known.

    def learn(self) -> None:
        """Find out the revisions that joining has left for later; beside the lock."""
        state, revisions = self._known.later, dict[str, str]()
        if state is None:
            return
        for part in state.steps():
            revisions |= revisions_of(part)
            # The thread that joined has its first batch to take.
            sleep(0)
            if self._known.later is not state:
                return
        with self._lock:
            self._known.finish(state, revisions)

    def concerns(self, entries: Iterable[Entry]) -> bool:
        """Whether anybody watches one of these keys."""
        with self._lock:
            return any(self.routes.matches(entry.key) for entry in entries)

    def knows(self, key: str) -> bool:
        """Whether `key` is known to hold something."""
        with self._lock:
            return key in self._known.revisions

    def knows_any(self, selection: Selection) -> bool:
        """Whether a selected key is known to hold something."""
        with self._lock:
            return selects_any(selection, self._known.keys)

    # Subscriptions come and go.

    def register(self, subscription: Subscription) -> None:
        """Begin to join: from here on, what is published is buffered for it."""
        with self._lock:
            self._register(subscription)

    def _register(self, subscription: Subscription) -> None:
        subscription.position = self.position
        if self._members.register(subscription, self._reads, is_idle=self.position is None):
            self._grown_at = self._reads

    def is_covered(self, subscription: Subscription) -> bool:
        """Whether others have joined for the same selection, so that its keys are known."""
        route = subscription.route
        return route is not None and bool(route.subscriptions)

    def join(self, subscription: Subscription, join: Join, number: int) -> Step:
        """Let it join, if its state can be brought to the common position.

        Args:
            number: of a read that began after the state of `join` was read; 0 if there was none.
        """
        if self.position is not None and join.columns is not None:
            make_revisions(join.columns)
        with self._lock:
            if subscription.left or subscription.route is None or subscription.buffer is None:
                return Step.DONE
            step = self._step(subscription, join, number)
            if step is Step.DONE and self._is_mixed(subscription, join):
                # The next reading is complete, and replaces it.
                self._mixed.add(subscription)
                step = Step.CATCH_UP
            if step is Step.BEGIN_AGAIN:
                self._register(subscription)
            elif step is Step.DONE and join.unconfirmed():
                return Step.CONFIRM
            elif step is Step.DONE and join.needs_values():
                return Step.LOAD
            elif step is Step.DONE:
                self._join(subscription, join)
            return step

    def _step(self, subscription: Subscription, join: Join, number: int) -> Step:
        """What to do next, but for what follows once the common position is reached."""
        if join.cursor is not None and join.found != self._found:
            # Its cursor may have been honoured only because the source did not know yet.
            return Step.BEGIN_AGAIN
        return self._reach(subscription, join, number)

    def _reach(self, subscription: Subscription, join: Join, number: int) -> Step:
        """Bring `join` to the common position, if what lies between is known."""
        if not (join.has_state or self.is_covered(subscription)):
            return Step.BEGIN_AGAIN
        if join.is_as_read and self._is_here(join):
            return Step.DONE
        if subscription.was_idle or self.position is None:
            return Step.BEGIN_AGAIN
        if not 0 < number <= self._covered:
            return Step.CATCH_UP
        buffer, subscription.buffer = subscription.buffer or [], []
        if join.apply(buffer, subscription.position):
            return Step.DONE
        subscription.needs_state = True
        return Step.BEGIN_AGAIN

    def _is_here(self, join: Join) -> bool:
        """Whether no change lies between it and the common position, whatever was buffered."""
        if self.position is None:
            return True
        is_sure = self._consistent and self._at_position and join.is_aligned
        return is_sure and join.position == self.position

    def _is_mixed(self, subscription: Subscription, join: Join) -> bool:
        """Whether a state that was brought up to date may be none that was published.

        It still has what came and went between the common position and its own read, where the
        backend does not remember that, beside what changed later: it is of two moments.
        """
        if self.position is None or subscription in self._mixed:
            return False
        if not join.is_exact(self.position):
            return True
        if not join.is_patched:
            return False
        known, is_watched = self._known.revisions, self._members.is_watched
        revisions = join.revisions().items()
        return any(known.get(key) != at and is_watched(key) for key, at in revisions)

    def _join(self, subscription: Subscription, join: Join) -> None:
        """Know the state that a newcomer read, and offer it to it."""
        known, is_first = self._known, self.position is None
        subscription.is_first = is_first
        revisions: Mapping[str, str] = NO_REVISIONS
        if is_first:
            known.begin(join.columns or join.revisions())
            # What was read of two moments is compared with the state at once.
            self.position, self.is_ahead = join.position, not join.is_aligned
            self._at_position = not self.is_ahead
        else:
            revisions = join.revisions()
            if join.has_state:
                known.learn_state(revisions, self._members.is_watched)
        batch, kept = join.batch(self.position or ""), join.kept()
        if join.cursor is not None:
            self._apart.resumed(subscription, batch, known.revisions)
        elif kept or not is_first:
            given = known.revisions if is_first else revisions
            self._apart.began(subscription, {**given, **kept}, known.revisions)
        self._mixed.discard(subscription)
        self._members.joined(subscription)
        subscription.sink.offer(batch)

    def stands_apart(self, subscription: Subscription) -> bool:
        """Whether it was given something else than was published."""
        return subscription in self._apart

    def leave(self, subscription: Subscription) -> bool:
        """End a subscription, joined or joining; True if it was the last one."""
        with self._lock:
            if subscription.left:
                return False
            self._apart.remove(subscription)
            self._mixed.discard(subscription)
            route = self._members.leave(subscription)
            if route is None:
                return False
            if self._members.is_rest():
                self._rest()
            elif not route.subscriptions:
                self._members.forget_unwatched(route, self._known)
            return not self.routes

    def close(self) -> list[Sink]:
        """Publish nothing any more; the sinks, to be ended."""
        with self._lock:
            self._rest()
            return list(self._members.sinks())

    def _rest(self) -> None:
        """Nobody has joined: stand nowhere."""
        self.position = None
        self._known.clear()
        self._confirm_empty.clear()
        self._members.rest()


class _Part(NamedTuple):
    """What of a reading is published."""

    skipped: frozenset[str]
    """Keys that were written since it was read."""
    covers: Callable[[str], bool] | None
    """What it was asked for, where that is less than what is selected now."""
    is_whole: bool
    """It is all that is selected, and of the position it names."""

    def covered(self, reading: Reading) -> Reading:
        """`reading` without the keys that it was not asked for."""
        if self.covers is None:
            return reading
        return reading._replace(entries=matching(reading.entries, self.covers))


def _covers(union: Selects) -> Callable[[str], bool]:
    """What a union selected when the ticket was taken; its own `matches` is that of now."""
    return Selection(union.keys, union.prefixes, union.patterns).matches

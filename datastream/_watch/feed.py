"""Reads of a Source and what becomes of them: where the I/O and the publisher meet."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from datastream._watch.calls import Calls
from datastream._watch.confirm_empty import CONFIRM_AFTER, Vanished
from datastream._watch.publisher import Publisher
from datastream._watch.steps import Outcome, Ticket
from datastream._watch.subscription import selected
from datastream.entry import Entry
from datastream.errors import SourceUnavailable
from datastream.selection import Selection, Selects
from datastream.source import Reading, Source

SETTLE = 0.2
"""Seconds an eventually consistent source has to show what is known to be there."""
TURN = 10.0
"""Seconds for which a catch-up waits for that of another thread; then it reads beside it."""


class Feed:
    """Reads `source` and publishes, from any thread.

    Args:
        source: what is read.
        calls: make its calls.
        publisher: takes the readings.
        stopped: set when the store closes; ends every pause.
    """

    def __init__(
        self, source: Source, calls: Calls, publisher: Publisher, stopped: threading.Event
    ) -> None:
        self._source = source
        self._calls = calls
        self._publisher = publisher
        self._stopped = stopped
        self._turn = threading.Condition()
        self._is_taken = False

    def read(self, selection: Selection, since: str | None) -> Reading:
        """What one subscriber is given, or a caller."""
        try:
            return selected(self._read(selection, since), selection)
        finally:
            if since is not None:
                # A `wait` concerns what was last read with a position: everybody's again.
                self._source.wake()

    def _read(self, selection: Selects, since: str | None) -> Reading:
        return self._calls(None, self._source.read, selection, since)

    def catch_up(self) -> int:
        """Publish what is new since the publisher's position; the number of the read.

        Where a read may have to open a stream anew, one is made for all who wait for it: of many
        newcomers at once each would throw away the stream that another one has just opened.
        """
        if not self._source.eventually_consistent:
            return self._catch_up()
        before = self._publisher.reads
        if not self._take_turn():
            return self._catch_up()
        try:
            return before + 1 if self._publisher.covers(before + 1) else self._catch_up()
        finally:
            self._give_turn()

    def _take_turn(self) -> bool:
        with self._turn:
            self._turn.wait_for(lambda: self._stopped.is_set() or not self._is_taken, TURN)
            if self._is_taken:
                return False
            self._is_taken = True
            return True

    def _give_turn(self) -> None:
        with self._turn:
            self._is_taken = False
            self._turn.notify()

    def stop(self) -> None:
        """End every wait for a turn, as the store closes: a read of its own tells who waited."""
        with self._turn:
            self._turn.notify_all()

    def _catch_up(self) -> int:
        first, outcome = 0, Outcome.PUBLISHED
        try:
            while (ticket := self._publisher.ticket()) is not None:
                first, outcome = first or ticket.number, Outcome.OUTRUN
                reading = self._read(ticket.union, ticket.since)
                outcome = self._publish(ticket, reading)
                if outcome is not Outcome.OUTRUN:
                    return ticket.number
                if self._publisher.has_published_since(first):
                    return first
            return first
        finally:
            if outcome in (Outcome.OUTRUN, Outcome.PART):
                # The source has shown what nobody was told of, also if it was lost on the way: it
                # is read again.
                self._source.wake()

    def _publish(self, ticket: Ticket, reading: Reading) -> Outcome:
        values: dict[str, Entry] = {}
        while True:
            outcome = self._publisher.publish(ticket, reading, values)
            if outcome is Outcome.SAME or outcome is Outcome.DIFFERENT:
                self._tell(outcome, reading.position)
            if isinstance(outcome, Outcome):
                return outcome
            loaded = self._calls(None, reading.load, outcome) if reading.load else outcome
            values |= {entry.key: entry for entry in loaded}
            if len(loaded) < len(outcome):
                unread = {entry.key for entry in outcome} - values.keys()
                reading = reading.without(unread)

    def _tell(self, outcome: Outcome, position: str) -> None:
        same = outcome is Outcome.SAME
        try:
            self._calls(None, self._source.compared, position, same=same)
        finally:
            if not same:
                self._publisher.told()

    def catch_up_twice(self) -> None:
        """Catch up; if all is gone at once, look again before that is an error."""
        try:
            self.catch_up()
        except Vanished:
            self.pause()
            try:
                self.catch_up()
            except Vanished as error:
                raise SourceUnavailable(str(error)) from error

    def begin_anew(self) -> None:
        """Before a catch-up: have an eventually consistent source show all that it has shown.

        Its stream may lag behind what a newcomer has read, also for keys that came and went
        meanwhile. A new one begins with the whole difference from the publisher's position.
        """
        if self._source.eventually_consistent and self._publisher.position is not None:
            self._source.release()

    def settle(self, entries: Sequence[Entry]) -> None:
        """Have an eventually consistent source show `entries`, or what has replaced them."""
        if self._publisher.await_published(entries, SETTLE):
            return
        # What it opens anew shows at least what was acknowledged before.
        self._source.release()
        self.catch_up()

    def pause(self) -> None:
        """Let a real time pass between two looks."""
        self._stopped.wait(CONFIRM_AFTER)

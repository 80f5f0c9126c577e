"""How a subscription joins: register, read the state, catch up, and apply both."""

from __future__ import annotations

from datastream._watch.calls import Calls
from datastream._watch.feed import Feed
from datastream._watch.publisher import Publisher
from datastream._watch.steps import Step
from datastream._watch.subscription import Join, Subscription, had_of
from datastream.errors import SourceUnavailable
from datastream.source import Feature, Source

JOINS = 20
"""Attempts to bring a newcomer to the position of all others."""
TOLD = 2.0
"""Seconds for which one that resumes waits until the source knows what its log did not tell."""
RESUMES = 3
"""Attempts to read what changed since a cursor at the position of the state."""


class Joiner:
    """Lets subscriptions join a publisher.

    Args:
        source, calls, publisher: of the store.
        feed: reads and publishes.
    """

    def __init__(self, source: Source, calls: Calls, publisher: Publisher, feed: Feed) -> None:
        self._source = source
        self._calls = calls
        self._publisher = publisher
        self._feed = feed

    def join(self, subscription: Subscription) -> None:
        """Read what it has to be given, and offer it that.

        Raises:
            SourceUnavailable: the backend is away; it has not joined, and may do so later.
        """
        since = subscription.since
        publisher = self._publisher
        if isinstance(since, str) and publisher.position is not None:
            # So that what is published from here on is later than the cursor.
            self._feed.begin_anew()
            self._feed.catch_up()
        publisher.register(subscription)
        try:
            for _ in range(JOINS):
                if self._join_once(subscription):
                    return
        except BaseException:
            publisher.leave(subscription)
            subscription.left = False
            raise
        publisher.leave(subscription)
        subscription.left = False
        raise SourceUnavailable("the backend changes faster than it can be read; retrying")

    def _join_once(self, subscription: Subscription) -> bool:
        """Read the state and join with it; False if it has to be read again."""
        publisher = self._publisher
        join = self._state_of(subscription)
        number = 0
        for _ in range(JOINS):
            step = publisher.join(subscription, join, number)
            if step is Step.DONE:
                if publisher.stands_apart(subscription):
                    # The next poll tells whether what it was given still holds.
                    self._source.wake()
                return True
            if step is Step.BEGIN_AGAIN:
                return False
            if step is Step.CONFIRM:
                changes = self._feed.read(subscription.selection, join.cursor)
                if changes.complete:
                    return False
                join.confirm(changes)
            elif step is Step.LOAD:
                number = 0 if self._calls(None, join.load) else number
            else:
                is_first = not number
                number = self._feed.catch_up()
                if is_first:
                    self._advance(join)
        return False

    def _state_of(self, subscription: Subscription) -> Join:
        """What a joining subscriber has to be given, as of its own read."""
        selection, since = subscription.selection, subscription.since
        is_told_all = Feature.TRANSIENT in self._source.features
        join = Join(selection, since, is_told_all=is_told_all)
        if join.cursor is not None:
            self._await_told(join)
        covered = self._publisher.is_covered(subscription) and not subscription.needs_state
        if join.cursor is None or not covered:
            self._begin(subscription, join)
        is_honoured = True
        if join.cursor is not None or not covered:
            is_honoured = self._calls(None, self._source.newcomer, join.cursor, covered=covered)
        if join.cursor is not None:
            self._resume(subscription, join, join.cursor if is_honoured else None)
        if join.is_empty and (join.reset or had_of(selection, since)):
            self._confirm_gone(subscription, join)
        return join

    def _await_told(self, join: Join) -> None:
        found = self._publisher.await_told(TOLD)
        if found is None:
            raise SourceUnavailable("what the log did not tell is being taken in; retrying")
        join.found = found

    def _begin(self, subscription: Subscription, join: Join) -> None:
        reading = self._feed.read(subscription.selection, None)
        self._feed.begin_anew()
        join.begin(reading)

    def _advance(self, join: Join) -> None:
        """Bring a state to where all others are, if nothing changes meanwhile."""
        position = self._publisher.position
        is_state = join.cursor is None and join.has_state and join.position
        if is_state and position is not None and not join.is_exact(position):
            join.advance(self._feed.read(join.selection, join.position))

    def _resume(self, subscription: Subscription, join: Join, cursor: str | None) -> None:
        selection = subscription.selection
        changes = self._feed.read(selection, cursor)
        for _ in range(RESUMES):
            # What is over again between the two may be in the state, and no change.
            if changes.complete or not join.has_state or join.position == changes.position:
                break
            join.advance(self._feed.read(selection, join.position))
            if join.position != changes.position:
                changes = self._feed.read(selection, cursor)
        self._feed.begin_anew()
        join.resume(changes, transient=subscription.transient)
        if not join.is_aligned and self._publisher.position is None:
            # Nobody else is told of what was over between the two. What is gone from the state now
            # may have come after the cursor, which is asked for once more.
            join.begin(self._feed.read(selection, None))

    def _confirm_gone(self, subscription: Subscription, join: Join) -> None:
        """A reader that had something is told that all is gone after a second look only."""
        self._feed.pause()
        join.begin(self._feed.read(subscription.selection, None))

"""What tables, plots and timelines have in common: subscriptions, and how it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from reactivex import Observable
from reactivex.abc import DisposableBase

from datastream.entry import Batch, Entry
from datastream.notebook import _html, _parts
from datastream.status import Status

if TYPE_CHECKING:
    from datastream.store import Store


class HasStatus(Protocol):
    """How a store or a view stands: now, and as an Observable."""

    @property
    def current(self) -> Status: ...
    def subscribe(
        self,
        on_next: Callable[[Status], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
        on_completed: Callable[[], None] | None = None,
    ) -> DisposableBase: ...


class Standing:
    """What a table says above its rows."""

    def __init__(self, status: HasStatus) -> None:
        self._status = status
        self.lag: float | None = None
        """Milliseconds between a write and its arrival here, of the last change."""

    def arrived(self, entries: Iterable[Entry]) -> None:
        """Take the lag of what came just now."""
        times = [entry.updated_at for entry in entries if entry.updated_at is not None]
        if times:
            self.lag = max(0.0, (datetime.now(UTC) - max(times)).total_seconds() * 1_000)

    def picture(self) -> dict[str, Any]:
        """For a page."""
        status = self._status.current
        words = status.degraded if status.error is None else str(status.error)
        return {
            "state": status.state.value,
            "colour": _parts.COLOURS[status.state],
            "words": _parts.visible(words, _parts.CARD_CHARS),
            "lag": self.lag,
        }


class Subscriptions:
    """What a display subscribed to, and the status of it.

    Args:
        status: of the store or the view that is followed.
    """

    def __init__(self, status: HasStatus) -> None:
        self.standing = Standing(status)
        self._status = status
        self._subscriptions: list[DisposableBase] = []

    def follow(
        self,
        observable: Observable[Any],
        take: Callable[[Any], object],
        ended: Callable[[], object],
    ) -> None:
        """Subscribe, until `stop`."""

        def end(error: Exception | None = None) -> None:
            ended()

        def each(item: Any) -> None:
            take(item)

        self._subscriptions.append(observable.subscribe(each, end, end))

    def follow_status(self, changed: Callable[[], object], ended: Callable[[], object]) -> None:
        """Have `changed` called when the status changed."""

        def end(error: Exception | None = None) -> None:
            ended()

        def each(status: Status) -> None:
            changed()

        self._subscriptions.append(self._status.subscribe(each, end, end))

    def stop(self) -> None:
        """Follow no more."""
        while self._subscriptions:
            self._subscriptions.pop().dispose()


def picture_of(store: Store, name: str, watch: Callable[..., Observable[Batch]]) -> str:
    """The first entries of what `watch` follows, as HTML."""
    found: list[Entry] = []
    subscription = watch().subscribe(lambda batch: found.extend(batch.entries))
    subscription.dispose()
    return _html.entries_table(name, store.status.current, found)

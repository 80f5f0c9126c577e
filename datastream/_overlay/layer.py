"""One layer: a store, or what opens it later if it is optional and missing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from time import monotonic

from datastream._upstream import Upstream
from datastream.errors import DatastreamError, SourceUnavailable, StoreClosed
from datastream.source import Feature
from datastream.status import State, Status
from datastream.store import Store

OPEN_AGAIN = 2.0
"""Seconds between two attempts to open an optional layer that is missing."""


Look = tuple[Status | None, bool, str]
"""What `Layer.trouble` and `Layer.degraded` follow from; plain, for each change makes one."""


class Layer:
    """One of the stores of an overlay.

    Args:
        name: of its store, for error texts and statuses.
        store: the store, None if it could not be opened.
        open: opens a store that belongs to the overlay; None if the store is the user's.
        optional: it may be missing until it is first seen.
        why: it could not be opened.
    """

    def __init__(
        self,
        name: str,
        store: Store | None,
        open: Callable[[], Store] | None,
        *,
        optional: bool,
        why: str = "",
    ) -> None:
        self.name = name
        self.optional = optional
        self.upstream = Upstream(store, owned=open is not None) if store is not None else None
        self.seen = False
        """It has answered once: from then on it is not missing, but in trouble."""
        self._open = open
        self._why = why
        self._again_at = monotonic() + OPEN_AGAIN
        self._lock = threading.Lock()
        self._closed = False

    def can(self, feature: Feature) -> bool:
        """Whether its store is there and declares this."""
        return self.upstream is not None and feature in self.upstream.features

    @property
    def may_be_missing(self) -> bool:
        """Nothing is wrong if it does not answer."""
        return self.optional and not self.seen

    @property
    def look(self) -> Look:
        """How it is now."""
        upstream = self.upstream
        status = None if upstream is None else upstream.status
        return status, self.optional and not self.seen, self._why

    def find(self) -> Upstream | None:
        """Its store; opened now, if it is time for another attempt."""
        if self.upstream is None and self._open is not None and monotonic() >= self._again_at:
            self._again_at = monotonic() + OPEN_AGAIN
            try:
                self._adopt(self._open())
            except DatastreamError as error:
                self._why = str(error)
        return self.upstream

    def at(self, point: str | datetime) -> Layer:
        """The layer as it was, to be closed by who asks.

        Raises:
            Unsupported: its backend keeps no earlier states.
            DatastreamError: there is no such point, or the backend is away.
        """
        if self.upstream is None:
            return Layer(self.name, None, None, optional=True, why=self._why)
        try:
            past = self.upstream.store.at(point)
        except DatastreamError as error:
            raise self.named(error) from error
        return Layer(self.name, past, lambda: past, optional=False)

    def _adopt(self, store: Store) -> None:
        with self._lock:
            if self.upstream is None and not self._closed:
                self.upstream = Upstream(store, owned=True)
                return
        # Another thread was faster, or the overlay was closed meanwhile.
        store.close()

    def named(self, error: Exception) -> DatastreamError:
        """An error of this layer as the overlay raises it."""
        text = f"layer {self.name}: {error}"
        # That the store of a layer was closed is trouble; the overlay itself is open.
        is_trouble = isinstance(error, SourceUnavailable | StoreClosed)
        if isinstance(error, DatastreamError) and not is_trouble:
            return type(error)(text)
        return SourceUnavailable(text)

    @property
    def trouble(self) -> Exception | None:
        """Why its last good state stands."""
        if self.upstream is None or self.may_be_missing:
            return None
        status = self.upstream.status
        if status.state is State.CLOSED:
            return SourceUnavailable(f"layer {self.name}: its store was closed")
        return None if status.error is None else SourceUnavailable(str(self.named(status.error)))

    @property
    def degraded(self) -> str:
        """Why it works less well than it could; that it is missing, if it is."""
        if self.upstream is None:
            return f"layer {self.name} is missing: {self._why}"
        status = self.upstream.status
        if status.error is not None and self.may_be_missing:
            return f"layer {self.name} is missing: {status.error}"
        return f"layer {self.name}: {status.degraded}" if status.degraded else ""

    def close(self) -> None:
        with self._lock:
            self._closed = True
        if self.upstream is not None:
            self.upstream.close()

"""Asks who may read and write what, and has streams ask again when that changes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from datastream import Batch
from datastream.errors import shown
from datastream.selection import Selection
from datastream_grpc._limits import Forbidden
from datastream_grpc._narrow import EVERYTHING
from datastream_grpc._principal import NOBODY, Principal, principal_of
from datastream_grpc._rules import Action, Authorize
from datastream_grpc._scope import Scope, mark_of

ACTIONS: tuple[Action, ...] = ("read", "write")
KEPT = 16
"""Batches that are kept as they are shown, for other streams of the same right."""


class Access:
    """What principals may do.

    Args:
        authorize: decides; None allows everything.
    """

    def __init__(self, authorize: Authorize | None) -> None:
        self._authorize = authorize
        self._lock = threading.Lock()
        self._live: dict[Scope, Callable[[], None]] = {}
        self._shown: OrderedDict[tuple[int, str], tuple[Batch, Batch]] = OrderedDict()
        subscribe = getattr(authorize, "subscribe", None)
        self.close: Callable[[], None] = subscribe(self._changed) if subscribe else _nothing
        """Follow the rules no more."""

    def scope(self, principal: Principal, keys: Sequence[str], match: Sequence[str]) -> Scope:
        """What `principal` may read of a request.

        Raises:
            InvalidKey: a key or pattern is none.
        """
        if self._authorize is None:
            return Scope(keys, match)
        asked = Selection.of(*keys, match=match)
        scope = Scope(keys, match, asked, self._right(principal, "read", asked), principal)
        scope.may_write = self.may_write(principal)
        return scope

    @property
    def restricts(self) -> bool:
        """Whether there may be somebody who may not do everything."""
        return self._authorize is not None

    def principal(self, context: Any) -> Principal:
        """Who makes a call; nobody, where that makes no difference."""
        return NOBODY if self._authorize is None else principal_of(context)

    def may_write(self, principal: Principal) -> bool:
        """Whether there may be anything that the principal may write."""
        return self._right(principal, "write", EVERYTHING) is not None

    def check_refresh(self, principal: Principal) -> None:
        """Refuse to look at the backend for somebody who may do nothing with it.

        Raises:
            Forbidden: it is such.
        """
        for action in ACTIONS:
            if self._right(principal, action, EVERYTHING) is not None:
                return
        raise Forbidden("a client that may neither read nor write may not refresh, either")

    def check_writes(self, principal: Principal, writes: Iterable[tuple[str, bool]]) -> None:
        """Refuse writes, if one of them is of a key that may not be written.

        Args:
            writes: key, and whether its write asks what is there, as compare-and-set does.

        Raises:
            Forbidden: there is such a key.
        """
        if self._authorize is None:
            return
        asks = dict(writes)
        self._check(principal, "write", list(asks), "write")
        # The answer to a comparison tells what is there.
        compared = [key for key, compares in asks.items() if compares]
        self._check(principal, "read", compared, "read, and so not compare,")

    def unread(self, principal: Principal, keys: Iterable[str]) -> Collection[str]:
        """Those of `keys` that the principal may not read."""
        if self._authorize is None:
            return ()
        asked = frozenset(keys)
        right = self._right(principal, "read", Selection(asked))
        return {key for key in asked if right is None or not right.matches(key)}

    @contextmanager
    def following(self, scope: Scope, changed: Callable[[], None]) -> Iterator[None]:
        """Around a stream: call `changed` once its scope is not current any more."""
        with self._lock:
            self._live[scope] = changed
        try:
            # What changed before is noticed, too.
            self._look_at(scope)
            yield
        finally:
            with self._lock:
                self._live.pop(scope, None)

    def shown(self, scope: Scope, batch: Batch) -> Batch:
        """A change as a scope shows it: one object for all streams, which is serialised once."""
        if not scope.mark:
            return batch
        key = id(batch), scope.mark
        kept = self._shown.get(key)
        if kept is None:
            kept = self._shown[key] = batch, scope.shown(batch)
            if len(self._shown) > KEPT:
                self._shown.popitem(last=False)
        return kept[1]

    def _right(self, principal: Principal, action: Action, asked: Selection) -> Selection | None:
        """What the principal may do; None for nothing."""
        if self._authorize is None:
            return EVERYTHING
        answer = self._authorize(principal, action, asked)
        if isinstance(answer, Selection):
            return answer
        return EVERYTHING if answer else None

    def _check(self, principal: Principal, action: Action, keys: Sequence[str], what: str) -> None:
        if not keys:
            return
        right = self._right(principal, action, Selection(frozenset(keys)))
        for key in keys:
            if right is None or not right.matches(key):
                who = shown(principal.name) if principal.name else "a client without a name"
                raise Forbidden(f"{who} may not {what} {shown(key)}; nothing was written")

    def _changed(self) -> None:
        with self._lock:
            live = list(self._live.items())
        for scope, changed in live:
            self._look_at(scope)
            if not scope.is_current:
                changed()

    def _look_at(self, scope: Scope) -> None:
        if scope.asked is None:
            return
        try:
            right = self._right(scope.principal, "read", scope.asked)
            may_write = self.may_write(scope.principal)
        except Exception:  # noqa: BLE001
            # Its stream asks again, and says so to its client.
            scope.is_current = False
            return
        scope.is_current = (mark_of(right), may_write) == (scope.mark, scope.may_write)


def _nothing() -> None:
    """Nothing to end."""

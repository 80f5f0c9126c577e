"""What live views have in common: each display of one is a widget that follows while it is seen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from datastream._secrets import hide
from datastream.notebook import _cells, _parts

EVERY = 0.1
"""Seconds between two updates of a display, at least."""
SHARE = 4
"""Times as long as an update took, it pauses: one that is dear leaves the kernel to others."""
BEAT = 5.0
"""Seconds without news after which a page hears that the kernel is there all the same."""

Reach = Callable[[dict[str, Any]], bool]


class Following(Protocol):
    """What one display follows, while it does."""

    def start(self, changed: Callable[[], object], ended: Callable[[], object]) -> None:
        """Begin; call `changed` when there may be something new to show, `ended` at the end."""
        ...

    def picture(self, ask: dict[str, Any]) -> dict[str, Any]:
        """What is to be shown now; `ask` is what the display asked for last."""
        ...

    def stop(self) -> None:
        """Follow no more, and let go of everything."""
        ...


class Live:
    """Something that shows itself live as the last line of a cell.

    Each display is a widget of its own. It follows while somebody sees it: it stops when its output
    is cleared, its cell is run again, this is closed, or the kernel ends. Where nobody sits in
    front, as when nbclient runs a notebook, it is the picture of a moment.

    Args:
        name: for `repr`.
        picture: makes HTML of what there is now.
        following: makes what a new display follows.
    """

    script = ""
    """Name of the JavaScript file that draws it."""

    def __init__(
        self, name: str, picture: Callable[[], str], following: Callable[[], Following]
    ) -> None:
        self.name = name
        self._picture = picture
        self._following = following
        self._lock = threading.Lock()
        self._displays: list[Display] = []
        self._closed = False

    def widget(self) -> Any:
        """A new widget, for ``ipywidgets.VBox`` and others; a display makes one by itself.

        Raises:
            ImportError: anywidget is not installed: the extra ``notebook``.
        """
        return self._display().widget

    def close(self) -> None:
        """End all displays; they keep the last picture. Idempotent."""
        with self._lock:
            self._closed = True
            displays, self._displays = self._displays, []
        for display in displays:
            display.close()

    def html(self) -> str:
        """The picture of now."""
        try:
            return self._picture()
        except Exception as error:  # noqa: BLE001
            # A display must not raise, whatever a source does.
            return _parts.box(_parts.title(self.name), _parts.problem(error))

    def _display(self) -> Display:
        from datastream.notebook import _widget

        display = Display(self._following(), _widget.make(self.script), self._forget)
        with self._lock:
            self._displays.append(display)
            closed = self._closed
        if closed:
            display.close()
        _cells.belongs(display)
        return display

    def _forget(self, display: Display) -> None:
        with self._lock:
            if display in self._displays:
                self._displays.remove(display)

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": repr(self), "text/html": self.html()}
        if not self._closed and _cells.is_seen():
            bundle |= self._display().bundle()
        return bundle

    def _display_(self) -> Any:
        # What marimo shows.
        return self.widget()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class Display:
    """One widget, and what it follows while a page shows it.

    A page says "here" for each place where it shows the widget, and "gone" when one goes. After
    that, those which are left are asked to say it again: no count can go wrong when a page reloads.

    Args:
        following: begins with the first page, and again after the last one went.
        widget: sends to all pages, and gets what they say.
        forget: is told of the end.
    """

    def __init__(
        self, following: Following, widget: Any, forget: Callable[[Display], object]
    ) -> None:
        self.widget = widget
        self._following = following
        self._forget = forget
        self._session = _cells.session()
        self._lock = threading.Lock()
        self._updates: Updates | None = None
        self._ask: dict[str, Any] = {}
        self._fresh = True
        """A page came that has nothing yet."""
        self._closed = False
        widget.on_msg(lambda _, content, __: self.take(content))

    @property
    def is_running(self) -> bool:
        """It follows just now."""
        updates = self._updates
        return updates is not None and updates.is_alive()

    def bundle(self) -> dict[str, Any]:
        """The MIME bundle that has a page show the widget."""
        found = self.widget._repr_mimebundle_()
        view: dict[str, Any] = found[0] if isinstance(found, tuple) else found
        return {kind: data for kind, data in view.items() if not kind.startswith("text/")}

    def take(self, message: dict[str, Any]) -> None:
        """A page says something."""
        kind = message.get("kind")
        if kind == "here":
            self._fresh = True
            self._start()
        elif kind == "gone":
            self._stop()
            self._send({"kind": "who"})
        elif kind == "ask":
            self._ask = message
        updates = self._updates
        if updates is not None:
            updates.due()

    def close(self) -> None:
        """Stop, and take the widget away. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._stop()
        from datastream.notebook import _widget

        self._send({"kind": "over"})
        _widget.close(self.widget)
        self._forget(self)

    def _start(self) -> None:
        with self._lock:
            if self._closed or (self._updates is not None and self._updates.is_alive()):
                return
            self._updates = Updates(self._following, self._picture, self._reach)
            self._updates.start()

    def _stop(self) -> None:
        with self._lock:
            updates, self._updates = self._updates, None
        if updates is not None:
            updates.stop()

    def _picture(self) -> dict[str, Any]:
        ask = self._ask | {"fresh": self._fresh}
        self._fresh = False
        return {"kind": "show", **self._following.picture(ask)}

    def _send(self, message: dict[str, Any]) -> None:
        self.widget.send(message)

    def _reach(self, message: dict[str, Any]) -> bool:
        """Send, if there may be a page; else this ends."""
        from datastream.notebook import _widget

        if _widget.is_cut(self.widget) or not self._session.is_alive():
            self.close()
            return False
        self._send(message)
        return True


class Updates(threading.Thread):
    """Sends pictures as they change, some ten times a second at most.

    Args:
        following: knows when the picture changes.
        picture: makes it.
        reach: sends to all pages; False says that there can be none any more.
    """

    def __init__(
        self, following: Following, picture: Callable[[], dict[str, Any]], reach: Reach
    ) -> None:
        super().__init__(name="datastream live", daemon=True)
        self._following = following
        self._picture = picture
        self._reach = reach
        self._due = threading.Event()
        self._ended = False
        self._trouble: Exception | None = None
        self._stopped = threading.Event()

    def due(self) -> None:
        """Have the next picture sent."""
        self._due.set()

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped.set()
        self._due.set()

    def run(self) -> None:
        """Follow until stopped."""
        try:
            self._begin()
            while self._wait_and_send():
                pass
        finally:
            self._following.stop()

    def _wait_and_send(self) -> bool:
        """Send what is due, or that the kernel is there; False at the end."""
        if not self._due.wait(BEAT):
            return self._reach({"kind": "alive"})
        if self._stopped.is_set():
            return False
        self._due.clear()
        begin = monotonic()
        newest = self._newest()
        if self._stopped.is_set() or not self._reach(newest):
            return False
        self._stopped.wait(max(EVERY, SHARE * (monotonic() - begin)))
        return not self._ended or self._due.is_set()

    def _begin(self) -> None:
        try:
            self._following.start(self.due, self._end)
        except Exception as error:  # noqa: BLE001
            # Such as that of a store which was closed: the page shows it.
            self._trouble = error
            self._ended = True
        self.due()

    def _end(self) -> None:
        self._ended = True
        self.due()

    def _newest(self) -> dict[str, Any]:
        """The picture of now; in words if there is none."""
        try:
            if self._trouble is not None:
                raise self._trouble
            return self._picture()
        except Exception as error:  # noqa: BLE001
            return {"kind": "trouble", "text": _parts.visible(hide(str(error)), 1_000)}

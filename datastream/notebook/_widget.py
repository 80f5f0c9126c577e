"""The widget of a live view: an ES module, a style sheet, and messages both ways."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("js")
COMMON = "live.js"


def make(script: str) -> Any:
    """A widget that `script` draws.

    Raises:
        ImportError: anywidget is not installed.
    """
    return _class(script)()


def close(widget: Any) -> None:
    """Take a widget away, with the one that it made for its layout, which it leaves behind."""
    layout = getattr(widget, "layout", None)
    widget.close()
    if layout is not None:
        layout.close()


def is_cut(widget: Any) -> bool:
    """Whether nothing connects a widget with a page any more.

    marimo cuts it when a cell is run again or a session ends, and tells no one.
    """
    comm = widget.comm
    return comm is None or getattr(comm, "_closed", False) is True


def check() -> None:
    """Refuse early.

    Raises:
        ImportError: anywidget is not installed.
    """
    try:
        import anywidget  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(
            'live views need anywidget: pip install "datastream-kv[notebook]"'
        ) from error


def module(script: str) -> str:
    """The ES module of a widget: what all have in common, then its own.

    A widget's module has no address that an import could be relative to.
    """
    own = (FOLDER / script).read_text("utf-8")
    own = re.sub(r'^import .* from "\./live\.js";$', "", own, flags=re.MULTILINE)
    return (FOLDER / COMMON).read_text("utf-8") + own


@cache
def _class(script: str) -> Any:
    check()
    import anywidget

    style = (FOLDER / "live.css").read_text("utf-8")
    name = script.removesuffix(".js").title()
    return type(name, (anywidget.AnyWidget,), {"_esm": module(script), "_css": style})

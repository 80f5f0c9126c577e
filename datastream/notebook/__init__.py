"""What a notebook shows of stores, and keeps of what they held."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datastream.notebook._magic import load_ipython_extension
    from datastream.notebook._plot import LivePlot
    from datastream.notebook._recording import Recording
    from datastream.notebook._span import Span
    from datastream.notebook._table import LiveTable
    from datastream.notebook._timeline import Timeline

__all__ = ["LivePlot", "LiveTable", "Recording", "Span", "Timeline", "load_ipython_extension"]

_PLACES = {
    "LivePlot": "_plot",
    "LiveTable": "_table",
    "Recording": "_recording",
    "Span": "_span",
    "Timeline": "_timeline",
    "load_ipython_extension": "_magic",
}


def __getattr__(name: str) -> Any:
    # Whatever shows itself imports a part of this package, and must not load the others.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

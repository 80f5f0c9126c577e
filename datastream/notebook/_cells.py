"""Which displays belong to which cell: running a cell again ends what it displayed before."""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from typing import Any, Protocol
from weakref import WeakSet

CELL = "cellId"


class Display(Protocol):
    """What a cell displayed."""

    def close(self) -> None: ...


# The front end's widgets keep what is displayed; what was closed need not be kept here.
_displays: defaultdict[str, WeakSet[Display]] = defaultdict(WeakSet)


def is_seen() -> bool:
    """Whether a person may sit in front: nbclient, papermill and nbconvert allow no input."""
    shell = _shell()
    parent = _parent(shell)
    return shell is not None and parent.get("content", {}).get("allow_stdin", True) is not False


def session() -> threading.Thread:
    """The thread that lives as long as what is displayed now.

    marimo serves each visitor of an app from a thread of its own, and closes nothing when it ends.
    """
    return threading.main_thread() if _shell() is not None else threading.current_thread()


def belongs(display: Display) -> None:
    """Close `display` when the cell that runs now is run again."""
    shell = _shell()
    if shell is None:
        return
    parent = _parent(shell)
    _displays[_name(parent)].add(display)
    if _before_a_cell not in shell.events.callbacks["pre_run_cell"]:
        shell.events.register("pre_run_cell", _before_a_cell)


def _before_a_cell(info: Any) -> None:
    for display in list(_displays.pop(info.cell_id or info.raw_cell, ())):
        display.close()


def _name(parent: dict[str, Any]) -> str:
    """What tells cells apart: an id, where the front end gives one, else the code."""
    cell = parent.get("metadata", {}).get(CELL) or parent.get("content", {}).get("code", "")
    return str(cell)


def _shell() -> Any:
    """The shell of a kernel, if this is one."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if hasattr(shell, "kernel") else None


def _parent(shell: Any) -> dict[str, Any]:
    """The message that has the cell run."""
    parent: dict[str, Any] = shell.get_parent() if shell is not None else {}
    return parent or {}

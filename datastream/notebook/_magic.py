"""``%load_ext datastream.notebook``, then ``%datastream URL``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import datastream
from datastream.errors import DatastreamError

if TYPE_CHECKING:
    from datastream.notebook import LiveTable

NAME = "store"


def load_ipython_extension(shell: Any) -> None:
    """Have the line magic ``%datastream URL [NAME]``."""
    opened: dict[str, datastream.Store] = {}

    def magic(line: str) -> LiveTable:
        """Open a store as the variable NAME, else `store`, and show it live."""
        words = shlex.split(line)
        if not 1 <= len(words) <= 2:
            raise DatastreamError("%datastream takes a URL, and perhaps the name of a variable")
        name = words[1] if len(words) > 1 else NAME
        if not name.isidentifier():
            raise DatastreamError(f"{name!r} cannot be the name of a variable")
        store = datastream.open(words[0])
        before = opened.pop(name, None)
        if before is not None:
            before.close()
        opened[name] = store
        shell.push({name: store})
        return store.live()

    shell.register_magic_function(magic, "line", "datastream")

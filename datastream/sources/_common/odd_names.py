"""Names in a backend that no key can be."""

from __future__ import annotations

import logging
from collections.abc import Callable

from datastream.errors import InvalidKey, printable
from datastream.selection import check_key

LOGGED = 20
"""Names that the log names each."""

log = logging.getLogger("datastream")


class OddNames:
    """Leaves out what no key can be. Each is logged once, and of many the first ones only.

    Args:
        where: what log lines call the store.
        what: what such a name belongs to, such as "a row".
        check: raises InvalidKey for what is no key.
    """

    def __init__(self, where: str, what: str, check: Callable[[str], None] = check_key) -> None:
        self._where = where
        self._what = what
        self._check = check
        self._logged: set[str] = set()

    def admits(self, key: str) -> bool:
        """Whether a store can have this key."""
        try:
            self._check(key)
        except InvalidKey as error:
            self._log(key, error)
            return False
        return True

    def _log(self, key: str, error: InvalidKey) -> None:
        logged = self._logged
        if key in logged or len(logged) > LOGGED:
            return
        logged.add(key)
        where = printable(self._where)
        if len(logged) <= LOGGED:
            log.warning("%s: %s is left out: %s", where, self._what, error)
        else:
            log.warning("%s: over %d are left out for their names", where, LOGGED)

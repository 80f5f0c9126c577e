"""The environment variables of this process: ``APP_DB__URL`` is the key ``db/url`` of ``env:APP_``.

They are read only, and nobody notifies of a change: one is found by `Store.refresh`, and by the
look that every watched store takes from time to time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b

from datastream.entry import Capability, Entry, deleted
from datastream.errors import DatastreamError, InvalidKey, ReadOnly, SourceUnavailable
from datastream.selection import Selects, check_key
from datastream.source import Reading, Source, Write
from datastream.sources._common.file_types import type_of
from datastream.sources._common.listing import fingerprint
from datastream.sources._common.versions import Versions
from datastream.sources._common.wake import WakeEvent
from datastream.url import Location, checks_options, configured

SEGMENT = "__"
"""What stands for the slash between two segments of a key."""

COPY_TRIES = 1000
"""How often the variables are copied anew because one was set meanwhile."""

log = logging.getLogger("datastream")


class EnvSource(Source):
    """A Source over the variables whose name begins with `prefix`.

    The rest of the name is the key: in lower case, with ``__`` for ``/``. Values have the types
    that files have: ``20`` is an int, ``true`` a bool, ``{"a": 1}`` JSON, other text a str.

    Args:
        prefix: such as ``APP_``; "" takes every variable.
        case_sensitive: keep the case of names.
        environ: the variables; those of this process if None.
    """

    instant = True
    why_only_read = "variables are set where the program is started, or in os.environ"

    @checks_options
    def __init__(
        self,
        prefix: str = "",
        *,
        case_sensitive: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        if "=" in prefix or "\0" in prefix:
            raise DatastreamError(f"{prefix!r} begins no variable's name; write env:APP_")
        self._prefix = prefix
        self._keeps_case = case_sensitive
        self._environ = os.environ if environ is None else environ
        self._wake = WakeEvent()
        self._versions = Versions()
        # The last position that was given, and what there was.
        self._last: tuple[str, dict[str, Entry]] = ("", {})
        self._warned: set[str] = set()

    def capabilities(self) -> Sequence[Capability]:
        return [Capability(entry.key, entry.value_type) for entry in self._entries().values()]

    def read(self, selection: Selects, since: str | None) -> Reading:
        entries = self._entries()
        position = self._versions.position(_digest(entries))
        if since is not None and self._versions.is_same(since, position):
            return Reading((), since, complete=False)
        (before, had), self._last = self._last, (position, entries)
        if since == before:
            # Unlike a directory, the environment is never empty for no reason.
            return _difference(had, entries, selection)._replace(position=position)
        selected = [entry for entry in entries.values() if selection.matches(entry.key)]
        return Reading(selected, position, complete=True)

    def get(self, key: str) -> Entry | None:
        return self._entries().get(key)

    def wait(self, timeout: float | None) -> None:
        self._wake.wait(timeout)

    def wake(self) -> None:
        self._wake.set()

    def write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        raise ReadOnly(
            f"environment variables can only be read: {self.why_only_read}; nothing was written"
        )

    def close(self) -> None:
        self._wake.set()

    def _entries(self) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        for name, text in self._variables():
            key = self._key(name)
            try:
                check_key(key)
            except InvalidKey as error:
                self._warn(name, str(error))
                continue
            if key in entries:
                self._warn(name, f"another variable is the key {key!r} already")
                continue
            value = os.fsencode(text)
            entries[key] = Entry(key, value, type_of(key, value), None, fingerprint(value))
        return entries

    def _variables(self) -> Iterator[tuple[str, str]]:
        """Those with the prefix, in the order of their names, so that it is always the same."""
        prefix = self._prefix
        for name, text in sorted(_copy(self._environ).items()):
            if name.startswith(prefix) and len(name) > len(prefix):
                yield name, text

    def _key(self, name: str) -> str:
        key = name[len(self._prefix) :].replace(SEGMENT, "/")
        return key if self._keeps_case else key.lower()

    def _warn(self, name: str, why: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            log.warning("variable %s is left out: %s", name, why)


def _copy(environ: Mapping[str, str]) -> dict[str, str]:
    """All variables, of one moment."""
    for _ in range(COPY_TRIES):
        # Another thread sets or removes variables meanwhile.
        with suppress(KeyError, RuntimeError):
            return dict(environ)
    raise SourceUnavailable("the environment changes all the time; read it again")


def _difference(
    had: Mapping[str, Entry], entries: Mapping[str, Entry], selection: Selects
) -> Reading:
    changed = [deleted(key) for key in had if key not in entries]
    changed += [entry for key, entry in entries.items() if had.get(key) != entry]
    selected = [entry for entry in changed if selection.matches(entry.key)]
    return Reading(selected, "", complete=False, created=frozenset(entries.keys() - had.keys()))


def _digest(entries: Mapping[str, Entry]) -> str:
    """Of all: the same in every process, so that a cursor outlives this one."""
    digest = blake2b(digest_size=16)
    for key, entry in sorted(entries.items()):
        digest.update(f"{len(key)}:{key}{entry.revision}".encode())
    return digest.hexdigest()


def open_env(location: Location, **options: object) -> EnvSource:
    """The Source of ``env:PREFIX``."""
    return configured(partial(EnvSource, location.path), location, options)

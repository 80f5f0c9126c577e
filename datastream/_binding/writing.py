"""From values at paths of an object to the writes that make it so. Pure, but for the validators."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from datastream import codecs
from datastream._binding import document
from datastream._binding.evaluate import Evaluator, Overrides, described, spelling
from datastream._binding.paths import check_path, differing, dotted, plain
from datastream._binding.tree import Path
from datastream.entry import Entry
from datastream.errors import InvalidValue, Unsupported, shown
from datastream.source import Write

_GONE: Any = object()


class Plan(NamedTuple):
    """What to write, and what must not have changed meanwhile."""

    writes: tuple[Write, ...]
    before: dict[str, str]
    """By key, the revision that is replaced; "" where there is none."""


def plan(
    evaluate: Evaluator[Any], entries: Mapping[str, Entry], values: Overrides, what: str
) -> Plan:
    """The writes after which each path of `values` holds its value, and all else what it held.

    Raises:
        InvalidValue: the whole would not validate.
        InvalidKey: there is no such field.
        Unsupported: keys cannot say it here, such as a document in YAML.
    """
    wanted = evaluate(entries, values)
    if wanted.rejected:
        raise InvalidValue(
            f"{what} refuses this, nothing was written: {described(wanted.rejected)}"
        )
    for path in values:
        check_path(wanted.value, path, what)
    planner, spelled = _Planner(evaluate, entries), evaluate.spelled(entries)
    for path, value in values.items():
        planner.put(spelled(path), plain(value))
    for keeps_types in (True, False):
        after = planner.after(keeps_types=keeps_types)
        found = evaluate(after, {})
        differ = [dotted(path) for path in differing(wanted.value, found.value)]
        if not (found.rejected or differ):
            return planner.plan(after)
    raise Unsupported(
        f"{what}: keys cannot say this at {', '.join(differ) or described(found.rejected)}; "
        "put the keys yourself"
    )


class _Planner:
    """Collects changes of keys' decoded values."""

    def __init__(self, evaluate: Evaluator[Any], entries: Mapping[str, Entry]) -> None:
        self._layout = evaluate.layout
        self._entries = entries
        # By key the decoded value it is to hold, `_GONE` for a delete.
        self._changed: dict[str, Any] = {}

    def put(self, path: Path, value: Any) -> None:
        """Have `value`, of plain objects, at `path`."""
        if self._layout.is_document:
            self._put_within(self._layout.place, path, value)
            return
        at = self._spelled(path)
        key = self._layout.key(at)
        below = f"{key}/"
        explicit = [k for k in self._keys() if k == key or k.startswith(below)]
        carrier = next(
            (n for n in range(len(at) - 1, 0, -1) if self._is_container(self._layout.key(at[:n]))),
            None,
        )
        if carrier is not None and not explicit:
            self._put_within(self._layout.key(at[:carrier]), at[carrier:], value)
            return
        new = dict(self._flat(key, value))
        for old in explicit:
            if old not in new:
                self._changed[old] = _GONE
        self._changed |= new

    def after(self, *, keeps_types: bool) -> dict[str, Entry]:
        """The entries as they will be, but for revisions; those that do not change are the same.

        Args:
            keeps_types: of keys that can hold the new value as well, though as another: an int
                among floats, where the model may want either.
        """
        entries = dict(self._entries)
        for key, value in self._changed.items():
            before = self._entries.get(key)
            if value is _GONE:
                entries.pop(key, None)
            elif before is None or not _holds(before, value):
                data, kind = self._encoded(key, value, before if keeps_types else None)
                entries[key] = Entry(key, data, kind)
        return entries

    def plan(self, after: Mapping[str, Entry]) -> Plan:
        writes, before = [], {}
        for key in self._changed:
            old, new = self._entries.get(key), after.get(key)
            if new is old:
                continue
            before[key] = "" if old is None else old.revision
            value = None if new is None else new.value
            writes.append(Write(key, value, "" if new is None else new.value_type, before[key]))
        return Plan(tuple(writes), before)

    def _keys(self) -> list[str]:
        """Those that hold something, as things stand."""
        gone = {key for key, value in self._changed.items() if value is _GONE}
        return [key for key in {**self._entries, **self._changed} if key not in gone]

    def _value(self, key: str) -> Any:
        """The decoded value of a key, as things stand."""
        if key in self._changed:
            return self._changed[key]
        entry = self._entries.get(key)
        if entry is None:
            return _GONE
        return document.parse(entry) if self._layout.is_document else entry.decode()

    def _is_container(self, key: str) -> bool:
        return isinstance(self._value(key), dict | list)

    def _spelled(self, path: Path) -> Path:
        """The segments of `path` as the keys there spell them."""
        at: Path = ()
        for name in path:
            prefix = self._layout.key((*at, "")) if at else self._layout.place
            rest = [key[len(prefix) :] for key in self._keys() if key.startswith(prefix)]
            below = {one.split("/", 1)[0]: None for one in rest}
            container = self._value(self._layout.key(at)) if at else _GONE
            if isinstance(container, dict):
                below |= dict.fromkeys(map(str, container))
            at = (*at, spelling(name, below))
        return at

    def _put_within(self, key: str, path: Path, value: Any) -> None:
        """Have `value` at `path` within the object or list that `key` holds."""
        content = self._value(key)
        content = {} if content is _GONE or content is None else copy.deepcopy(content)
        here: Any = content
        for number, name in enumerate(path):
            last = number == len(path) - 1
            if isinstance(here, list):
                position: Any = int(name) if name.isdecimal() else None
                if position is None or position > len(here):
                    raise InvalidValue(f"{shown(key)} holds a list, which has no {shown(name)}")
                here.extend([{}] * (position == len(here)))
            elif isinstance(here, dict):
                position = spelling(name, {str(k): None for k in here})
                here.setdefault(position, {})
            else:
                raise InvalidValue(f"{shown(key)} holds no object that could have {shown(name)}")
            if last:
                here[position] = value
            here = here[position]
        self._changed[key] = content if path else value

    def _flat(self, key: str, value: Any) -> Iterator[tuple[str, Any]]:
        """The keys that say `value`: one for each leaf, one for a list or for no leaf at all."""
        is_keyed = isinstance(value, dict) and bool(value)
        if not is_keyed or isinstance(self._value(key), dict) or not _are_segments(value):
            yield key, value
            return
        for name, part in value.items():
            yield from self._flat(f"{key}/{name}", part)

    def _encoded(self, key: str, value: Any, before: Entry | None) -> tuple[bytes, str]:
        """The value as it is stored, as what was there `before` if that can be."""
        if self._layout.is_document:
            return document.dump(key, self._entries.get(key), value)
        if before is not None:
            try:
                return codecs.encode(value, before.value_type, key=key)
            except InvalidValue:
                # What it held was of another type; the new one's is inferred.
                pass
        return codecs.encode(value, key=key)


def _holds(entry: Entry, value: Any) -> bool:
    try:
        held = entry.decode()
    except (InvalidValue, ImportError):
        return False
    return type(held) is type(value) and held == value


def _are_segments(names: Mapping[str, Any]) -> bool:
    return all(name and "/" not in name and "\0" not in name for name in names)

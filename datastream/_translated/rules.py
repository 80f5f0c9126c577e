"""How keys and values are spelled in another store, and back: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar

from datastream.entry import Entry
from datastream.errors import InvalidKey, InvalidValue, shown
from datastream.selection import Selection, Selects, is_reserved
from datastream.source import Write

T = TypeVar("T")

SpellKey = Callable[[str], str | None]
SpellValue = Callable[[Entry], Entry]


class Pair(NamedTuple):
    """A function, and the one that undoes it."""

    there: Callable[..., Any]
    back: Callable[..., Any]


@dataclass(frozen=True)
class Translation:
    """Keys and values *here*, which are spelled otherwise *there*: in the store below.

    What does not come back as it was is refused: so no two keys share one, and no value is another
    one afterwards.

    Args:
        key, key_back: the key there, and the key here that one there stands for; None for those
            that stand for none.
        value, value_back: the same for entries, of which value and type count. Their key is
            always the one here.
        within: where all keys lie there: "" or a prefix.
    """

    key: SpellKey
    key_back: SpellKey
    value: SpellValue
    value_back: SpellValue
    within: str = ""
    name: str = ""
    """Tells it from others in the place of a mirror."""

    @classmethod
    def of(
        cls,
        key: Pair | None,
        value: Pair | None,
        prefix: tuple[str, str] | None,
    ) -> Self:
        """What `translated` is asked for."""
        spell, spell_back = key or AS_IT_IS
        within = ""
        if prefix is not None:
            here, within = prefix
            spell, spell_back = partial(_moved, here, within), partial(_moved, within, here)
        encode, decode = value or AS_IT_IS
        name = ", ".join(_names((key, value), prefix))
        return cls(spell, spell_back, encode, decode, within, name)

    def there(self, key: str) -> str:
        """The key there.

        Raises:
            InvalidKey: it has none, or one that stands for another key.
        """
        if is_reserved(key):
            return key
        try:
            found = self.key(key)
        except ValueError as error:
            raise InvalidKey(f"{shown(key)} has no place there: {error}") from error
        if not found or is_reserved(found):
            raise InvalidKey(f"{shown(key)} has no place there")
        back = self._back(found)
        if back != key:
            which = "no key" if back is None else shown(back)
            raise InvalidKey(f"{shown(key)} would be {shown(found)} there, which is {which} here")
        return found

    def here(self, key: str) -> str | None:
        """The key that one there stands for; None if it stands for none."""
        if is_reserved(key):
            return key
        found = self._back(key)
        if not found or is_reserved(found):
            return None
        try:
            # Another one there may stand for the same, such as %2f beside %2F.
            return found if self.key(found) == key else None
        except ValueError:
            return None

    def read(self, key: str, entry: Entry) -> Entry:
        """An entry from there, as the one of `key` here.

        Raises:
            ValueError: its value is no translated one.
        """
        entry = entry._replace(key=key)
        if is_reserved(key):
            return entry
        found = self.value_back(entry)
        return entry._replace(value=found.value, value_type=found.value_type)

    def write(self, write: Write, *, types: bool) -> Write:
        """A write as it is made there.

        Raises:
            InvalidKey, InvalidValue: it would not come back as it was.
        """
        key = self.there(write.key)
        if write.value is None or is_reserved(key):
            return write._replace(key=key)
        given = Entry(write.key, write.value, write.value_type)
        try:
            made = self.value(given)
            back = self.value_back(given._replace(value=made.value, value_type=made.value_type))
        except ValueError as error:
            raise InvalidValue(f"{shown(write.key)} cannot be translated: {error}") from error
        if back.value != write.value or (types and back.value_type != write.value_type):
            raise InvalidValue(
                f"{shown(write.key)} would read back as other bytes or another type; the functions "
                "that translate its value do not undo each other"
            )
        return write._replace(key=key, value=made.value, value_type=made.value_type)

    def asked(self, selection: Selects) -> Selection:
        """What to read there for a selection here, or more."""
        if selection.keys and not (selection.prefixes or selection.patterns):
            return Selection(frozenset(self._known(selection.keys)))
        return Selection(prefixes=frozenset((self.within,))) if self.within else Selection()

    def _back(self, key: str) -> str | None:
        try:
            return self.key_back(key)
        except ValueError:
            return None

    def _known(self, keys: Iterable[str]) -> Iterable[str]:
        for key in keys:
            try:
                yield self.there(key)
            except InvalidKey:
                continue


def _same(given: T) -> T:
    return given


AS_IT_IS = Pair(_same, _same)


def _moved(old: str, new: str, key: str) -> str | None:
    return new + key[len(old) :] if key.startswith(old) and len(key) > len(old) else None


def _names(pairs: Iterable[Pair | None], prefix: tuple[str, str] | None) -> Iterable[str]:
    if prefix is not None:
        yield f"{prefix[0]} → {prefix[1]}"
    for pair in pairs:
        if pair is not None:
            module = getattr(pair.there, "__module__", "")
            yield f"{module}.{getattr(pair.there, '__qualname__', type(pair.there).__name__)}"

"""`diff`: how two stores differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from itertools import chain, islice
from typing import Literal, NamedTuple, Self

from datastream import _registry
from datastream._closing import Closing
from datastream._mirror.compare import (
    Both,
    Side,
    differing_keys,
    is_told,
    joined,
    tell,
)
from datastream._mirror.entries import same
from datastream._watch.walking import LOADED, LOADED_BYTES, fetch, in_pieces
from datastream.entry import Entry
from datastream.errors import DatastreamError, InvalidValue
from datastream.selection import Selection
from datastream.source import Feature
from datastream.store import Store

Compare = Literal["content", "times"]
Kind = Literal["only_a", "only_b", "changed"]


class Difference(NamedTuple):
    """One key at which two stores differ."""

    key: str
    kind: Kind
    """``"only_a"``, ``"only_b"`` or ``"changed"``: which of them hold the key."""
    a: Entry | None
    """What the first store holds; None if nothing."""
    b: Entry | None
    """What the second one holds."""


class Diff(Closing, Iterator[Difference]):
    """What `diff` returns: an iterator of `Difference`, sorted by key, read as you go on.

    ``with`` or `close` lets go of stores that were opened for it, if it is not read to its end.

    Args:
        differences: starts the comparison; called at the first step.
        close: called once, at the end.
        names: of the stores.
    """

    def __init__(
        self,
        differences: Callable[[Diff], Iterator[Difference]],
        close: Callable[[], None],
        names: tuple[str, str],
    ) -> None:
        self._names = names
        self.unread: frozenset[str] = frozenset()
        """Keys that one of the stores cannot read just now, so that nothing is said of them; one
        that ends in "/" stands for all below it. Complete once the last difference was given."""
        self._differences = differences(self)
        self._close: Callable[[], None] | None = close

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Difference:
        try:
            return next(self._differences)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._names[0]} and {self._names[1]}>"

    def _repr_html_(self) -> str:
        from datastream.notebook import _diff
        from datastream.notebook._parts import ROWS

        try:
            first = list(islice(self, ROWS + 1))
        except DatastreamError as error:
            return _diff.no_difference_known(self._names, error)
        # Shown, and still there for who iterates.
        self._differences = chain(first, self._differences)
        return _diff.differences_table(first[:ROWS], names=self._names, more=len(first) > ROWS)

    def close(self) -> None:
        """Compare no further. Idempotent."""
        close, self._close = self._close, None
        if close is not None:
            close()
            self._differences = iter(())


def diff(
    a: Store | str,
    b: Store | str,
    *keys: str,
    match: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    compare: Compare = "content",
    values: bool = True,
) -> Diff:
    """How two stores differ: an iterator of `Difference`, sorted by key.

    Values are read only of keys that differ, and where nothing else tells whether they do: not
    where both stores make revisions alike, where sizes differ, or where one lists a checksum that
    the other can give. Types count where both stores keep them. Keys below ``_datastream/``, where
    mirrors keep their places, are left out.

    Args:
        a, b: stores, or URLs of stores, which are opened for this and closed at its end.
        keys: exact keys, and prefixes ending in "/"; with neither keys nor match, everything.
        match: globs: ``*`` within a segment, ``**`` across.
        exclude: globs of what to leave out.
        compare: "content" is always right. "times" takes files and objects of the same size for
            equal where that in `b` is not older than that in `a`, as tools that copy files do: no
            value is read, and an edit that keeps the size and sets the time back is missed.
        values: False gives entries without values where comparing needed none: `Entry.value` and
            ``value_type`` are empty then.

    Raises:
        DatastreamError: a store cannot be opened; or, while iterating, cannot be read.
    """
    if compare not in ("content", "times"):
        raise InvalidValue(f'compare={compare!r}: give "content" or "times"')
    selection = Selection.of(*keys, match=match, exclude=exclude)
    with ExitStack() as stack:
        stores = opened(stack, a), opened(stack, b)

        def start(into: Diff) -> Iterator[Difference]:
            return _Comparing(stores, selection, into, compare).run(values=values)

        return Diff(start, stack.pop_all().close, (stores[0].name, stores[1].name))


def opened(stack: ExitStack, given: Store | str) -> Store:
    """A store; one that is opened here is closed with `stack`."""
    if isinstance(given, Store):
        return given
    if not isinstance(given, str):
        raise DatastreamError(f"give a store or the URL of one, not a {type(given).__name__}")
    return stack.enter_context(_registry.open(given))


def keep_types(a: Store, b: Store) -> bool:
    """Whether both keep the types of values."""
    return Feature.TYPES in a.features and Feature.TYPES in b.features


class _Comparing:
    """One comparison, started at the first step.

    Args:
        stores: both.
        selection: which keys.
        into: takes what cannot be read.
        compare: as for `diff`.
    """

    def __init__(
        self, stores: tuple[Store, Store], selection: Selection, into: Diff, compare: Compare
    ) -> None:
        self._stores = stores
        self._selection = selection
        self._into = into
        self._times = compare == "times"
        self._types = keep_types(*stores)

    def run(self, *, values: bool) -> Iterator[Difference]:
        keys = differing_keys(*self._stores, self._selection)
        if keys is None:
            a, b = (Side(store, self._selection) for store in self._stores)
            yield from self._compared(a, b, values=values)
            self._unreadable(a.unread | b.unread)
            return
        for piece in in_pieces(keys, lambda _: 0):
            unread: set[str] = set()
            one, other = (fetch(store._core, piece, unread) for store in self._stores)
            self._unreadable(unread)
            yield from self._of(piece, one, other, unread)

    def _compared(self, a: Side, b: Side, *, values: bool) -> Iterator[Difference]:
        waiting: list[Both] = []
        held = 0
        with closing(a.items()) as mine, closing(b.items()) as theirs:
            for found in joined(mine, theirs):
                if not is_told(found.key, a, b):
                    continue
                same = tell(found, a, b, types=self._types, times=self._times)
                is_bare = same is False and not values
                if not (same or is_bare):
                    waiting.append(found)
                    held += found.held
                if is_bare or len(waiting) >= LOADED or held >= LOADED_BYTES:
                    yield from self._loaded(waiting, a, b)
                    waiting, held = [], 0
                if is_bare:
                    yield self._bare(found)
        yield from self._loaded(waiting, a, b)

    def _loaded(self, waiting: list[Both], a: Side, b: Side) -> Iterator[Difference]:
        there = {found.key: found for found in waiting}
        for piece in in_pieces(list(there), lambda key: there[key].missing):
            one, other = (
                a.load(there[key].a for key in piece),
                b.load(there[key].b for key in piece),
            )
            yield from self._of(piece, one, other, a.unread | b.unread)

    def _of(
        self, keys: list[str], a: Mapping[str, Entry], b: Mapping[str, Entry], unread: set[str]
    ) -> Iterator[Difference]:
        for key in keys:
            found = differing(key, a.get(key), b.get(key), types=self._types)
            if found is not None and key not in unread:
                yield found

    @staticmethod
    def _bare(found: Both) -> Difference:
        one, other = (item and item.bare for item in (found.a, found.b))
        return Difference(found.key, _kind(one, other), one, other)

    def _unreadable(self, keys: set[str]) -> None:
        self._into.unread |= keys


def differing(key: str, a: Entry | None, b: Entry | None, *, types: bool) -> Difference | None:
    """How two stores differ at a key; None if they do not."""
    return None if same(a, b, types=types) else Difference(key, _kind(a, b), a, b)


def _kind(a: Entry | None, b: Entry | None) -> Kind:
    if a is None:
        return "only_b"
    return "only_a" if b is None else "changed"

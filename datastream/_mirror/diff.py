"""`diff`: how two stores differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Literal, NamedTuple, Self

from datastream import _registry
from datastream._mirror.entries import present, same
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


class Diff(Iterator[Difference]):
    """What `diff` returns: an iterator of `Difference`, sorted by key, read as you go on.

    ``with`` or `close` lets go of stores that were opened for it, if it is not read to its end.

    Args:
        differences: starts the comparison; called at the first step.
        close: called once, at the end.
    """

    def __init__(
        self,
        differences: Callable[[Diff], Iterator[Difference]],
        close: Callable[[], None],
    ) -> None:
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

    def close(self) -> None:
        """Compare no further. Idempotent."""
        close, self._close = self._close, None
        if close is not None:
            close()
            self._differences = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def diff(
    a: Store | str,
    b: Store | str,
    *keys: str,
    match: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    compare: Compare = "content",
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

    Raises:
        DatastreamError: a store cannot be opened; or, while iterating, cannot be read.
    """
    if compare not in ("content", "times"):
        raise InvalidValue(f'compare={compare!r}: give "content" or "times"')
    selection = Selection.of(*keys, match=match, exclude=exclude)
    with ExitStack() as stack:
        stores = opened(stack, a), opened(stack, b)
        return Diff(lambda into: _differences(*stores, selection, into), stack.pop_all().close)


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


def _differences(a: Store, b: Store, selection: Selection, into: Diff) -> Iterator[Difference]:
    one = present(a._core.state(selection).entries)
    other = present(b._core.state(selection).entries)
    types = keep_types(a, b)
    for key in sorted(one.keys() | other.keys()):
        difference = differing(key, one.get(key), other.get(key), types=types)
        if difference is not None:
            yield difference


def differing(key: str, a: Entry | None, b: Entry | None, *, types: bool) -> Difference | None:
    """How two stores differ at a key; None if they do not."""
    if same(a, b, types=types):
        return None
    if a is None:
        return Difference(key, "only_b", a, b)
    return Difference(key, "only_a" if b is None else "changed", a, b)

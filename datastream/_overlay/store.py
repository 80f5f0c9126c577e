"""`overlay` and `Overlay`: several stores laid over each other, as one store."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple

from datastream import _registry
from datastream._overlay.layer import Layer
from datastream._overlay.source import OverlaySource
from datastream._overlay.tombstone import TOMBSTONE, TOMBSTONE_TYPE, is_tombstone, visible
from datastream._past import History
from datastream.entry import Entry, Revision, deleted
from datastream.errors import DatastreamError, ReadOnly, StoreClosed, Unsupported
from datastream.selection import check_key
from datastream.source import ANY_REVISION, Feature, Write
from datastream.store import Store, check_point
from datastream.url import shown


class Held(NamedTuple):
    """What one layer holds of a key."""

    layer: str
    """The name of its store."""
    store: Store
    entry: Entry
    """As the layer holds it; a tombstone with the value that makes it one."""
    visible: bool
    """The overlay shows it; else a layer above hides it, or it is a tombstone."""
    hides: bool
    """It is a tombstone: the key holds nothing, whatever is below."""


class Overlay(Store):
    """Several stores as one: of each key, the first layer that holds it is visible.

    What is removed above shows what is below, as an update with the revision that has there; what
    comes back above hides it again. While a layer is away, its last good state stands for those
    who watch, and the status is STALE with its name. Made by `overlay`.

    Args:
        source: over the layers.
        name: of the store.
    """

    def __init__(self, source: OverlaySource, *, name: str) -> None:
        super().__init__(source, name=name)
        self._overlaid = source
        self._layers = source.layers

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers, the first one wins."""
        return tuple(layer.name for layer in self._layers)

    def explain(self, key: str) -> tuple[Held, ...]:
        """All layers that hold `key`, the first one first; read from their backends.

        Of a layer that is away, what it held last counts if that is known.

        Raises:
            SourceUnavailable: a layer is away, and nothing is known of what it held.
        """
        check_key(key)
        self._core.check_open()
        found: list[Held] = []
        for index, layer in enumerate(self._layers):
            entry = self._overlaid.held(index, key)
            if entry is not None and layer.upstream is not None:
                hides = is_tombstone(entry.value)
                is_first = not found
                store = layer.upstream.store
                found.append(Held(layer.name, store, entry, is_first and not hides, hides))
        return tuple(found)

    async def aexplain(self, key: str) -> tuple[Held, ...]:
        """`explain`."""
        return await self.threads.call(self.explain, key)

    def history(self, key: str) -> History:
        """Every revision of `key` in the layer that decides what it holds now, newest first.

        That is the first layer which holds it; where none does, the first one that ever did. What
        lower layers held meanwhile is in theirs: ``explain(key)[1].store.history(key)``.

        Raises:
            Unsupported: that layer keeps no past.
            SourceUnavailable: a layer above it is away, and nothing is known of what it held.
        """
        held = self.explain(key)
        if held:
            return History(_past(held[0].store, key))
        stores = (one.upstream.store for one in self._layers if one.upstream is not None)
        keeping = [store for store in stores if Feature.HISTORY in store.features]
        if not keeping:
            raise Unsupported(f"no layer of {self.name} keeps a past")
        return History(_first_past(keeping, key))

    def at(self, point: str | datetime) -> Overlay:
        """All layers as they were at `point`, laid over each other; close it after use.

        Args:
            point: a time with time zone, as datetime or in ISO 8601; another name of a state only
                if every layer knows it.

        Raises:
            Unsupported: a layer keeps no earlier states; its name is in the text.
            DatastreamError: a layer has no such point.
        """
        self._core.check_open()
        lacking = [layer.name for layer in self._layers if not layer.can(Feature.AT)]
        if lacking:
            raise Unsupported(
                f"{self.name} has no at(): {', '.join(lacking)} cannot be read as of a time; "
                "lay the other layers over each other, or call at() of one"
            )
        check_point(point)
        past = self._core.ask_past(self._overlaid.at, point)
        overlay = Overlay(past, name=f"{self.name} at {point}")
        overlay._origin = self
        return overlay

    def delete(
        self,
        key: str,
        *,
        expect: str | None = None,
        missing_ok: bool = False,
        message: str = "",
        author: str = "",
        wait: float = 0.0,
        hide: bool = False,
    ) -> None:
        """Remove a key from the layer that is written; what is below shows then.

        Args:
            expect: the revision that is visible.
            missing_ok, message, author, wait: as for `Store.delete`.
            hide: write a tombstone there instead: the key holds nothing, whatever is below.

        Raises:
            ReadOnly: a layer above holds the key; or, without `hide`, only one below does.
            KeyNotFound: the key holds nothing, unless `missing_ok`.
            RevisionConflict: `expect` did not hold.
        """
        unconditional = None if missing_ok else ANY_REVISION
        wanted = unconditional if expect is None else expect
        value, name = (TOMBSTONE, TOMBSTONE_TYPE) if hide else (None, "")
        self.write(Write(key, value, name, wanted, None, message, author), wait=wait)

    async def adelete(
        self,
        key: str,
        *,
        expect: str | None = None,
        missing_ok: bool = False,
        message: str = "",
        author: str = "",
        wait: float = 0.0,
        hide: bool = False,
    ) -> None:
        """`delete`."""
        await self.threads.call(
            self.delete,
            key,
            expect=expect,
            missing_ok=missing_ok,
            message=message,
            author=author,
            wait=wait,
            hide=hide,
        )

    def refresh(self) -> None:
        """Look at the backends of all layers now."""
        super().refresh()
        for layer in self._layers:
            upstream = layer.upstream
            if upstream is not None:
                try:
                    upstream.refresh()
                except StoreClosed:
                    # The status says so.
                    continue


def overlay(
    *layers: Store | str,
    write: Store | str | None = None,
    optional: Store | str | Iterable[Store | str] = (),
) -> Overlay:
    """Several stores as one: of each key, the first layer that holds it is visible.

    Args:
        layers: stores, or URLs of stores; the first one wins. A store that you give stays yours
            to close, one that is opened here is closed with the overlay.
        write: the layer that writes go to; else the first one that can be written.
        optional: layers that may be missing when the overlay is opened; they join when they come.

    Raises:
        DatastreamError: no layers, one that is given twice, `write` or `optional` that is none of
            them, or a layer that cannot be opened and is not optional.
        ReadOnly: the layer to `write` cannot be written.
    """
    may_be_missing = [optional] if isinstance(optional, Store | str) else list(optional)
    if not all(isinstance(one, Store | str) for one in (*layers, *may_be_missing)):
        raise DatastreamError("the layers of an overlay are stores, or URLs of stores")
    _check_layers(layers, {"write": [] if write is None else [write], "optional": may_be_missing})
    opened: list[Layer] = []
    try:
        for layer in layers:
            # One by one: what was opened is closed if the next one cannot be.
            opened += [_layer(layer, optional=layer in may_be_missing)]
        written = _written(opened, None if write is None else layers.index(write))
    except BaseException:
        for one in opened:
            one.close()
        raise
    name = f"overlay({', '.join(layer.name for layer in opened)})"
    return Overlay(OverlaySource(opened, written), name=name)


def _check_layers(
    layers: Sequence[Store | str], options: Mapping[str, Sequence[Store | str]]
) -> None:
    """Refuse what are no layers of an overlay, and options that name none of them."""
    if not layers:
        raise DatastreamError("an overlay takes one layer or more; give stores, or URLs of stores")
    for number, layer in enumerate(layers):
        if layer in layers[:number]:
            raise DatastreamError(f"{_name(layer)} is given twice; give each layer once")
    for option, named in options.items():
        for layer in named:
            if layer not in layers:
                known = ", ".join(map(_name, layers))
                raise DatastreamError(
                    f"{option}={_name(layer)} is none of the layers; name it as it is given "
                    f"among them: {known}"
                )


def _past(store: Store, key: str) -> Generator[Revision, None, None]:
    """The past of a key in one layer, as it shows it: a tombstone is a DELETE."""
    for revision in store.history(key):
        entry = visible(revision.entry) or deleted(key, revision.entry.updated_at)
        yield revision._replace(entry=entry)


def _first_past(stores: Sequence[Store], key: str) -> Generator[Revision, None, None]:
    """The past of a key in the first of these layers that has one."""
    for store in stores:
        is_known = False
        for revision in _past(store, key):
            is_known = True
            yield revision
        if is_known:
            return


def _layer(given: Store | str, *, optional: bool) -> Layer:
    if isinstance(given, Store):
        return Layer(given.name, given, None, optional=optional)
    # Wrong spelling is no layer that is missing.
    _registry.check(given)
    opens = partial(_registry.open, given)
    try:
        store = opens()
    except DatastreamError as error:
        if not optional:
            raise
        return Layer(shown(given), None, opens, optional=True, why=str(error))
    return Layer(store.name, store, opens, optional=optional)


def _written(layers: Sequence[Layer], wanted: int | None) -> int | None:
    """The index of the layer that is written."""
    if wanted is None:
        return next((n for n, layer in enumerate(layers) if layer.can(Feature.WRITE)), None)
    if not layers[wanted].can(Feature.WRITE):
        raise ReadOnly(
            f"the layer {layers[wanted].name} cannot be written; give another one as write="
        )
    return wanted


def _name(given: Store | str) -> str:
    return given.name if isinstance(given, Store) else shown(given)

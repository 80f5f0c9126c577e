"""Values for a test in place of those that a binding follows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from datastream.binding import Binding

T = TypeVar("T")


@contextmanager
def overriding(settings: Binding[T], **values: Any) -> Iterator[T]:
    """Have these values in force within a ``with`` block; everything else stays as it is.

    ::

        def test_few_connections(settings):
            with overriding(settings, max_connections=1, db={"pool": 1}):
                ...

    Subscribers are called as for any change. Values of keys that change meanwhile come into force
    beside these. It also works before the backend has answered, if these values and the defaults
    make an object.

    Args:
        settings: what `Store.bind` returned.
        values: by field; a dict replaces those of its keys that it names, at any depth.

    Raises:
        InvalidValue: they do not validate.
    """
    with settings._state.overriding(dict(_paths(values, ()))):
        yield settings.current


def _paths(values: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _paths(value, (*path, name))
        else:
            yield (*path, name), value

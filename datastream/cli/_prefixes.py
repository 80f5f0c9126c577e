"""Keys that are spelled otherwise in the other store: ``--from-prefix`` and ``--to-prefix``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

import datastream
from datastream import Store

F = TypeVar("F", bound=Callable[..., Any])
Prefixes = tuple[str, str]


def prefix_options(command: F) -> F:
    """Options ``--from-prefix`` and ``--to-prefix``."""
    to = click.option(
        "--to-prefix", default="", metavar="B", help="What stands for A in the other store."
    )
    return click.option(
        "--from-prefix", default="", metavar="A", help="Only keys below A, and without it there."
    )(to(command))


def taken(options: dict[str, Any]) -> Prefixes:
    """Both, taken out of the options; each ends with a slash, or is empty."""
    both = options.pop("from_prefix"), options.pop("to_prefix")
    one, other = (part and f"{part.removesuffix('/')}/" for part in both)
    return one, other


def selected(keys: tuple[str, ...], match: tuple[str, ...], prefixes: Prefixes) -> tuple[str, ...]:
    """The keys that were named, or else all that have a place in the other store."""
    return keys or (() if match or not prefixes[0] else (prefixes[0],))


@contextmanager
def in_words_of_first(store: Store, prefixes: Prefixes) -> Iterator[Store]:
    """The other store, with the keys that they have in the first one."""
    if not any(prefixes):
        yield store
        return
    with datastream.translated(store, prefix=prefixes) as translated:
        yield translated

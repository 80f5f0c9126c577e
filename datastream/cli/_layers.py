"""``overlay:FILE``: several stores as one, named in a small TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import datastream
from datastream import DatastreamError
from datastream.cli._words import did_you_mean
from datastream.errors import shown
from datastream.url import expanded, unescaped

NAMES = ("layers", "write", "optional")
OVERLAY = "overlay:"
LOCAL = ("sqlite:", "git:", "file:", "local:", OVERLAY)
"""URLs whose place is a path, which is looked for beside the TOML file."""


class _Layers(NamedTuple):
    """What a file says, those that it names in their places."""

    layers: list[str]
    write: str | None
    optional: list[str]


def open_layers(place: str, adapt: Callable[[str], str]) -> datastream.Overlay:
    """The overlay that the file at `place` describes.

    ::

        layers = ["env:APP_", "sqlite:local.db", "git:/srv/config"]   # the first wins
        write = "sqlite:local.db"        # else the first that can be written
        optional = ["sqlite:local.db"]   # may be missing

    The layers of another such file stand in the place of its ``"overlay:FILE"``.

    Args:
        place: its path, as in a URL.
        adapt: makes of a layer's URL the one to open.

    Raises:
        DatastreamError: no such file, or not of this form.
    """
    layers, write, optional = _layers(place, ())
    return datastream.overlay(
        *map(adapt, layers),
        write=None if write is None else adapt(write),
        optional=list(map(adapt, optional)),
    )


def _layers(place: str, within: tuple[Path, ...]) -> _Layers:
    """What the file at `place` says.

    Args:
        within: the files that name it.
    """
    file = Path(expanded(unescaped(place)))
    at = file.resolve()
    if at in within:
        raise DatastreamError(
            f"overlay:{within[-1]} names overlay:{file}, which names it in turn; drop one"
        )
    table = _read(file)

    def named(given: str) -> _Layers:
        url = _beside(given, file)
        if not url.startswith(OVERLAY):
            return _Layers([url], url, [])
        return _layers(url.removeprefix(OVERLAY), (*within, at))

    found = [named(layer) for layer in table["layers"]]
    may_be_missing = [url for one in table.get("optional", ()) for url in named(one).layers]
    return _Layers(
        [url for one in found for url in one.layers],
        _written(table, named, file),
        [url for one in found for url in one.optional] + may_be_missing,
    )


def _written(table: Mapping[str, Any], named: Callable[[str], _Layers], file: Path) -> str | None:
    if "write" not in table:
        return None
    written = named(table["write"]).write
    if written is None:
        raise DatastreamError(
            f"overlay:{file}: {shown(table['write'])} does not say which of its layers is written; "
            "name that one as write ="
        )
    return written


def _read(file: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DatastreamError(
            f"overlay:{file}: {reason}; give the path of a TOML file with layers = [URL, …]"
        ) from error
    except ValueError as error:
        raise DatastreamError(f"overlay:{file} is no TOML: {error}") from error
    _check(table, file)
    return table


def _check(table: Mapping[str, Any], file: Path) -> None:
    for name in table:
        if name not in NAMES:
            raise DatastreamError(
                f"overlay:{file} has no use for {shown(name)}{did_you_mean(name, NAMES)}; "
                f"it has {', '.join(NAMES)}"
            )
    layers, write = table.get("layers"), table.get("write", "")
    optional = table.get("optional", [])
    if not (layers and _is_texts(layers) and _is_texts(optional) and isinstance(write, str)):
        raise DatastreamError(
            f"overlay:{file} wants layers = [URL, …], and optional = [URL, …] and write = URL "
            "of some of them"
        )


def _is_texts(given: object) -> bool:
    return isinstance(given, list) and all(isinstance(one, str) for one in given)


def _beside(url: str, file: Path) -> str:
    """`url` with a relative path made one from the folder of `file`."""
    scheme, colon, path = url.partition(":")
    if f"{scheme}:" not in LOCAL or path.startswith(("/", "~")) or not path:
        return url
    folder = str(file.absolute().parent).replace("#", "%23").replace("?", "%3F")
    return f"{scheme}{colon}{folder}/{path}"

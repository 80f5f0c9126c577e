"""Names of types given on the command line: only what can be read back, or is meant as it is."""

from __future__ import annotations

import click

from datastream.cli._words import did_you_mean
from datastream.errors import shown

KNOWN = ("int", "float", "bool", "str", "json", "bytes")
READ = ("json", "toml", "yaml")
_PROPER = (*READ, "x-yaml", "jsonl", "json5")
"""Those, and what only looks like one of them misspelt."""
DECODED = ("application/json", "application/toml", "application/yaml", "text/plain")
"""Media types that values are read by; all others are read as bytes."""
_MEANT = {
    **dict.fromkeys(("integer", "long", "number", "i64"), "int"),
    **dict.fromkeys(("double", "real", "decimal", "f64"), "float"),
    **dict.fromkeys(("string", "text", "txt", "utf8"), "str"),
    **dict.fromkeys(("dict", "list", "object", "array"), "json"),
    **dict.fromkeys(("binary", "blob", "raw"), "bytes"),
    "toml": "application/toml",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "html": "text/html",
    "csv": "text/csv",
}
_MEDIA = (
    *("application", "audio", "chemical", "example", "font", "haptics", "image", "message"),
    *("model", "multipart", "text", "video", "x-conference", "x-shader"),
)
"""What a media type begins with."""


def check_type(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The callback of ``--type``.

    Raises:
        click.BadParameter: nobody would read such a value back by this name.
    """
    if value is None or value in KNOWN:
        return value
    kind, slash, name = value.partition(";")[0].strip().lower().partition("/")
    if not slash:
        meant = _MEANT.get(kind)
        hint = f"; did you mean {meant}?" if meant else did_you_mean(kind, KNOWN)
        others = f"; give one of {', '.join(KNOWN)}, or a media type"
        raise click.BadParameter(f"no type {shown(value)}{hint or others}")
    misspelt = kind == "application" and name not in _PROPER and did_you_mean(name, READ, 0.85)
    if misspelt or not name or kind not in _MEDIA:
        raise click.BadParameter(
            f"no media type {shown(value)}{did_you_mean(f'{kind}/{name}', DECODED)}"
        )
    return value

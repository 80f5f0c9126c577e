"""``status``: how a store stands with its backend."""

from __future__ import annotations

import click

from datastream import DatastreamError, State, Store
from datastream.cli._open import open_existing
from datastream.cli._output import as_json, emit, one_line
from datastream.cli._progress import progress
from datastream.cli._select import url_argument
from datastream.cli._words import in_our_words


@click.command()
@url_argument
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def status(url: str, *, is_json: bool) -> None:
    """Say how a store stands with its backend, after asking it for its keys.

    Exit code 0 if it is READY, else 1.
    """
    with open_existing(url) as store, progress("asking for keys"):
        found = _found(store)
    if is_json:
        emit(as_json(found))
    else:
        for name, value in found.items():
            shown = ", ".join(value) if isinstance(value, list) else value
            text = "" if shown is None else one_line(str(shown))
            emit(f"{name:9} {text}".rstrip())
    if found["state"] != State.READY:
        raise SystemExit(1)


def _found(store: Store) -> dict[str, str | int | list[str] | None]:
    try:
        keys: int | None = len(store.capabilities())
    except DatastreamError:
        # Its reason is in the status.
        keys = None
    now = store.status.current
    return {
        "store": store.name,
        "state": str(now.state),
        "since": now.since.isoformat(),
        "error": in_our_words(str(now.error)) if now.error else None,
        "degraded": in_our_words(now.degraded) or None,
        "keys": keys,
        "features": sorted(feature.name.lower() for feature in store.features),
    }

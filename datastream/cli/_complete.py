"""What a shell is offered for a URL or a key that is being typed."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

import datastream
from datastream import DatastreamError
from datastream.cli._open import SCHEMES, open_existing

LOCAL = ("sqlite:", "git:", "file:", "overlay:")
"""What answers before anybody gets impatient."""


def complete_url(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Schemes, and after those of local stores their paths."""
    scheme, colon, path = incomplete.partition(":")
    if not colon or f"{scheme}:" not in LOCAL:
        return [CompletionItem(one) for one in SCHEMES if one.startswith(incomplete)]
    folder, _, start = path.rpartition("/")
    place = f"{folder}/" if "/" in path else ""
    try:
        found = sorted(Path(place or ".").expanduser().iterdir())
    except OSError:
        return []
    return [
        CompletionItem(f"{scheme}:{place}{one.name}{'/' if one.is_dir() else ''}")
        for one in found
        if one.name.startswith(start) and one.name.isprintable()
    ]


def complete_key(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The keys of a local store, up to the next slash."""
    url = ctx.params.get("url") or ""
    if not url.startswith(LOCAL):
        return []
    try:
        with open_existing(url) as store:
            return [CompletionItem(one) for one in _next(store, incomplete)]
    except (DatastreamError, ImportError, OSError):
        return []


def _next(store: datastream.Store, start: str) -> list[str]:
    rests = [c.key[len(start) :] for c in store.capabilities() if c.key.startswith(start)]
    found = {start + "".join(rest.partition("/")[:2]) for rest in rests}
    # A shell takes one for each line.
    return sorted(filter(str.isprintable, found))

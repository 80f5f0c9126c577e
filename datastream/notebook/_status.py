"""A status, and an Observable, as HTML."""

from __future__ import annotations

from datastream.notebook import _parts as parts
from datastream.notebook._parts import text
from datastream.status import Status


def status_badge(status: Status) -> str:
    """A state on its colour, since when, and why."""
    since = text(f"since {status.since.isoformat(' ', 'seconds')}")
    return parts.box(parts.standing(status), f" {parts.dim(since)}", parts.problem(status.error))


def observable_line(what: str, kind: str = "Observable", status: Status | None = None) -> str:
    """What an Observable of ours follows, and how that stands if it is known."""
    standing = "" if status is None else f" {parts.standing(status)}"
    return parts.box(f"<div>{parts.dim(kind)} <strong>{text(what)}</strong>{standing}</div>")

"""The revisions of a key, to scrub over."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from difflib import unified_diff
from itertools import islice
from typing import TYPE_CHECKING, Any

from datastream.entry import Entry, Operation, Revision
from datastream.errors import shown
from datastream.notebook import _parts as parts
from datastream.notebook._following import Subscriptions
from datastream.notebook._live import Live
from datastream.notebook._values import STARS, key_holds_secret, masked, shown_entry, size

if TYPE_CHECKING:
    from datastream.store import Store

MOST_REVISIONS = 500
"""The newest ones, which the bar goes over."""
MOST_LINES = 400
"""Lines of a difference."""
MOST_BYTES = 200_000
"""A value that is longer is not compared line by line."""
LINE_CHARS = 400
COLOURS = {"+": "rgba(34,197,94,.22)", "-": "rgba(239,68,68,.22)"}

DiffLine = tuple[str, str]


class Timeline(Live):
    """A bar over the revisions of a key: what each changed, who made it and why.

    Made by `Store.timeline`. It follows: a new revision appears at its end.
    """

    script = "timeline.js"


def of_key(store: Store, key: str) -> Timeline:
    """The revisions of a key.

    Raises:
        Unsupported: the backend keeps none.
    """
    # Refuses what cannot be; reads nothing yet.
    store.history(key).close()
    name = f"{store.name}, timeline({shown(key)})"
    return Timeline(name, lambda: _picture(store, key, name), lambda: Scrubbed(store, key))


class Scrubbed(Subscriptions):
    """Follows the revisions of a key; they are read again when the key changed."""

    def __init__(self, store: Store, key: str) -> None:
        super().__init__(store.status)
        self._store = store
        self._key = key
        self._revisions: list[Revision] = []
        self._outdated = True

    def start(self, changed: Callable[[], object], ended: Callable[[], object]) -> None:
        def take(entry: Entry) -> None:
            self._outdated = True
            changed()

        self.follow(self._store.watch(self._key), take, ended)
        self.follow_status(changed, ended)

    def picture(self, ask: dict[str, Any]) -> dict[str, Any]:
        told: dict[str, Any] = {}
        if self._outdated or ask.get("fresh"):
            self._read()
            told["revisions"] = list(map(_about, self._revisions))
        ids = list(map(_id, self._revisions))
        at = ids.index(ask["id"]) if ask.get("id") in ids else len(ids) - 1
        return {
            **told,
            **self.standing.picture(),
            "id": ids[at] if ids else None,
            "diff": difference(self._revisions, at),
            "remark": self._key,
        }

    def _read(self) -> None:
        # Before the read: what comes meanwhile is read again.
        self._outdated = False
        try:
            self._revisions = revisions_of(self._store, self._key)
        except Exception:
            # The next look, such as when the status changes, may do better.
            self._outdated = True
            raise


def _picture(store: Store, key: str, name: str) -> str:
    revisions = revisions_of(store, key)
    columns = ("time", "author", "message", "value")
    table = parts.table(map(_row, reversed(revisions[-parts.ROWS :])), columns)
    head = parts.title(name, parts.dim(parts.counted(len(revisions), "revision")))
    rest = parts.more(len(revisions) - parts.ROWS)
    return parts.box(head, table, rest, _html_of(difference(revisions, len(revisions) - 1)))


def revisions_of(store: Store, key: str) -> list[Revision]:
    """The newest revisions of a key, the oldest of them first."""
    history = store.history(key)
    try:
        return list(islice(history, MOST_REVISIONS))[::-1]
    finally:
        history.close()


def difference(revisions: Sequence[Revision], at: int) -> list[DiffLine]:
    """What a revision changed, line by line: the sign and the text of each."""
    if not 0 <= at < len(revisions):
        return []
    old = lines_of(revisions[at - 1].entry) if at else []
    new = lines_of(revisions[at].entry)
    # The first two lines would name files.
    found = list(islice(unified_diff(old, new, lineterm="", n=5), 2, MOST_LINES + 3))
    lines = [(line[:1], parts.visible(line[1:], LINE_CHARS)) for line in found[:MOST_LINES]]
    if len(found) > MOST_LINES:
        lines.append(("@", "… and more"))
    return lines or [(" ", parts.visible(line, LINE_CHARS)) for line in new[:MOST_LINES]]


def lines_of(entry: Entry) -> list[str]:
    """A value as lines to compare: JSON a field a line, secrets as stars."""
    if entry.operation is Operation.DELETE:
        return []
    if key_holds_secret(entry.key):
        return [STARS]
    if len(entry.value) > MOST_BYTES:
        return [f"{size(entry.value)}, revision {entry.revision}"]
    try:
        text = _indented(entry) if entry.value_type == "json" else entry.value.decode()
    except ValueError:
        in_hex = shown_entry(entry)
        return [f"{in_hex.text} {in_hex.remark}"]
    return masked(text).splitlines()


def _indented(entry: Entry) -> str:
    return json.dumps(json.loads(entry.value), indent=2, ensure_ascii=False)


def _id(revision: Revision) -> str:
    """What tells revisions of one key apart; a DELETE has no revision of its own."""
    moment = revision.entry.updated_at
    return revision.point or revision.entry.revision or str(moment)


def _about(revision: Revision) -> dict[str, Any]:
    moment = revision.entry.updated_at
    gone = revision.entry.operation is Operation.DELETE
    return {
        "id": _id(revision),
        "time": None if moment is None else moment.timestamp() * 1_000,
        "author": parts.visible(revision.author),
        "message": parts.visible(revision.message.strip(), parts.CARD_CHARS),
        "revision": "removed" if gone else parts.visible(revision.entry.revision[:12]),
    }


def _row(revision: Revision) -> str:
    cells = (
        (parts.SLIM, parts.time(revision.entry.updated_at)),
        (parts.SLIM, parts.text(revision.author, parts.SHORT_CHARS)),
        (parts.EXACT, parts.text(revision.message.strip())),
        (parts.WIDE, shown_entry(revision.entry).html(parts.CELL_CHARS)),
    )
    return "".join(parts.cell(*each) for each in cells)


def _html_of(lines: Iterable[DiffLine]) -> str:
    divs = (
        f'<div style="background:{COLOURS.get(sign, "none")}">{parts.text(sign + text, 500)}</div>'
        for sign, text in lines
    )
    return f'<pre style="margin:.4em 0">{"".join(divs)}</pre>'

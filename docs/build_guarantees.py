"""Writes what each source guarantees into its page: ``python docs/build_guarantees.py``.

``--run`` runs the conformance suite first, over every source and on real servers, and keeps what
the sources declare in ``docs/guarantees.json``; ``--run s3.md`` does so for those of that page.
That a source keeps all that it does not decline, and declares just that, is what
``tests/conformance`` checks whenever it runs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent
ROOT = DOCS.parent
RECORDED = DOCS / "guarantees.json"
BEGIN, END = "<!-- guarantees -->", "<!-- end of guarantees -->"
OVERVIEW = "sources.md"
NO = "no"

Columns = Mapping[str, str]
"""By title, a test class of ``tests/conformance`` as ``module.Class``."""

PAGES: Mapping[str, Columns] = {
    "memory.md": {
        "memory:": "test_memory.TestMemory",
        "behind gRPC": "test_grpc.TestGrpcOverMemory",
    },
    "sqlite.md": {
        "a table": "test_sqlite.TestSqlite",
        "of others": "test_sqlite.TestSqliteForeignTable",
        "no triggers": "test_sqlite.TestSqliteWithoutTriggers",
        "a view": "test_sqlite.TestSqliteView",
        "read-only": "test_sqlite.TestSqliteReadOnly",
        "behind gRPC": "test_grpc.TestGrpcOverSqlite",
    },
    "postgres.md": {
        "a table": "test_postgres.TestPostgres",
        "of others": "test_postgres.TestPostgresForeignTable",
        "polled": "test_postgres.TestPostgresPolled",
        "a view": "test_postgres.TestPostgresView",
        "behind gRPC": "test_postgres.TestPostgresBehindGrpc",
    },
    "git.md": {
        "bare": "test_git.TestGitBare",
        "checked out": "test_git.TestGitCheckedOut",
        "git+file:": "test_git_remote.TestGitRemoteFile",
        "git+http:": "test_git_remote.TestGitRemoteHttp",
        "behind gRPC": "test_git.TestGitOverGrpc",
    },
    "files.md": {
        "notified": "test_files.TestFiles",
        "polling": "test_files.TestFilesPolling",
        "read-only": "test_files.TestFilesReadOnly",
        "behind gRPC": "test_files.TestFilesOverGrpc",
    },
    "s3.md": {"s3:": "test_s3.TestS3", "behind gRPC": "test_s3.TestS3OverGrpc"},
    "nats.md": {"a bucket": "test_nats.TestNats", "behind gRPC": "test_nats.TestNatsBehindGrpc"},
    "filesystems.md": {
        "can remove files": "test_filesystem.TestFilesystem",
        "cannot": "test_filesystem.TestFilesystemReadOnly",
        "behind gRPC": "test_filesystem.TestFilesystemOverGrpc",
    },
    "env.md": {"env:": "test_env.TestEnv"},
    "documents.md": {
        "TOML": "test_document.TestTomlFile",
        "YAML": "test_document.TestYamlFile",
        "JSON": "test_document.TestJsonDocument",
        "in git": "test_document.TestDocumentInGit",
        "read-only": "test_document.TestDocumentReadOnly",
        "behind gRPC": "test_document.TestDocumentOverGrpc",
    },
    "grpc.md": {
        "memory": "test_grpc.TestGrpcOverMemory",
        "SQLite": "test_grpc.TestGrpcOverSqlite",
        "other writers": "test_grpc.TestGrpcWithAnotherWriter",
    },
    "layers.md": {
        "first written": "test_overlay.TestOverlayWrittenAbove",
        "middle": "test_overlay.TestOverlayWrittenBetween",
        "last": "test_overlay.TestOverlayWrittenBelow",
        "behind gRPC": "test_overlay.TestOverlayOverGrpc",
    },
}
MAIN: Columns = {
    "[memory](memory.md)": "test_memory.TestMemory",
    "[SQLite](sqlite.md)": "test_sqlite.TestSqlite",
    "[PostgreSQL](postgres.md)": "test_postgres.TestPostgres",
    "[git](git.md)": "test_git.TestGitBare",
    "[files](files.md)": "test_files.TestFiles",
    "[S3](s3.md)": "test_s3.TestS3",
    "[NATS](nats.md)": "test_nats.TestNats",
    "[others](filesystems.md)": "test_filesystem.TestFilesystem",
    "[env](env.md)": "test_env.TestEnv",
    "[document](documents.md)": "test_document.TestTomlFile",
    "[layers](layers.md)": "test_overlay.TestOverlayWrittenAbove",
}
FEATURES = {
    "WRITE": "can be written",
    "COMPARE_AND_SET": "compare-and-set: `expect=`",
    "ATOMIC": "several keys together: `put_many`",
    "TYPES": "keeps a value's type",
    "LOG": "resumes from a log of changes",
    "MESSAGES": "keeps `message=` and `author=`",
    "HISTORY": "`history`",
    "AT": "`at`",
    "REPLAY": "`replay`",
    "TTL": "`ttl=`: keys that expire",
    "TRANSIENT": "its log names keys that came and went",
}


class Optional(NamedTuple):
    """Features that a source has in some places only."""

    where: str = ""
    features: Set[str] = frozenset()
    needs: str = ""
    """Another feature, without which it has none of these."""


OPTIONAL = {
    "test_postgres": Optional("with `history=true`", {"HISTORY"}, "LOG"),
    "test_s3": Optional("in a bucket with versions", {"HISTORY", "AT"}, "WRITE"),
    "test_nats": Optional("in a bucket with history", {"HISTORY", "AT", "REPLAY"}, "LOG"),
}
"""By module of ``tests/conformance``: the suite runs where they are not."""
NEEDS = {12: "WRITE", 13: "COMPARE_AND_SET"}
"""Promises of what a source does itself, not others who write to its backend."""


class Guarantees(NamedTuple):
    """What one source declares."""

    features: list[str]
    declared: dict[str, str]
    """By test of the suite, why it is left out."""

    def keeps(self, number: int) -> bool:
        """Whether a promise holds."""
        declined = any(test.startswith(f"test_{number:02}_") for test in self.declared)
        return not declined and NEEDS.get(number, "") in ("", *self.features)


def promises() -> dict[int, str]:
    """The names of the promises by number."""
    text = (DOCS / "promises.md").read_text()
    return {
        int(n): name for n, name in re.findall(r"^(\d+)\. \*\*([^.]+)\.\*\*", text, re.MULTILINE)
    }


def recorded() -> dict[str, Guarantees]:
    """What the last run found."""
    return {name: Guarantees(**known) for name, known in json.loads(RECORDED.read_text()).items()}


def pages() -> dict[Path, str]:
    """All pages that have a table, as they should be."""
    known = recorded()
    made = {DOCS / name: _page(name, columns, known) for name, columns in PAGES.items()}
    return made | {DOCS / OVERVIEW: _page(OVERVIEW, MAIN, known)}


def _page(name: str, columns: Columns, known: Mapping[str, Guarantees]) -> str:
    text = (DOCS / name).read_text()
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"docs/{name} has no {BEGIN} … {END}")
    table = "\n".join(_table(columns, known))
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def _table(columns: Columns, known: Mapping[str, Guarantees]) -> Iterator[str]:
    sources = [known[name] for name in columns.values()]
    optional = [OPTIONAL.get(name.partition(".")[0], Optional()) for name in columns.values()]
    yield _row("", *columns)
    yield _row("---", *("---" for _ in columns))
    for name, meaning in FEATURES.items():
        cells = zip(sources, optional, strict=True)
        yield _row(meaning, *(_cell(name, one, more) for one, more in cells))
    yield from _promises(sources)
    reasons = {
        why.partition(" declares that ")[2]: None
        for one in sources
        for why in one.declared.values()
    }
    yield ""
    yield "*kept*: the tests of [these promises](promises.md) pass. *no*: the source declares so,"
    yield "and the store refuses early" + (f" ({'; '.join(sorted(reasons))})." if reasons else ".")


def _cell(feature: str, source: Guarantees, optional: Optional) -> str:
    if feature in source.features:
        return "yes"
    is_there = feature in optional.features and optional.needs in source.features
    return optional.where if is_there else NO


def _promises(sources: Sequence[Guarantees]) -> Iterator[str]:
    """A row for each promise that not all keep, and one for all others."""
    kept: list[int] = []
    for number, name in promises().items():
        if all(one.keeps(number) for one in sources):
            kept.append(number)
        else:
            cells = ("kept" if one.keeps(number) else NO for one in sources)
            yield _row(f"promise {number}. {name}", *cells)
    yield _row(f"promises {_ranges(kept)}", *("kept" for _ in sources))


def _ranges(numbers: Sequence[int]) -> str:
    """``1 to 5, 7``"""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def run(pages: Sequence[str]) -> None:
    """Run the suite over the sources of some pages, and keep what they declare."""
    names = sorted({name for page in pages for name in PAGES[page].values()})
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as record:
        tests = [f"tests/conformance/{name.replace('.', '.py::')}" for name in names]
        subprocess.run(  # noqa: S603
            [sys.executable, "-m", "pytest", "-q", "-m", "chaos or not chaos", *tests],
            check=True,
            cwd=ROOT,
            env=os.environ | {"DATASTREAM_RECORD_GUARANTEES": record.name},
        )
        lines = [json.loads(line) for line in record]
    known = json.loads(RECORDED.read_text()) | _summary(names, lines)
    RECORDED.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def _summary(names: Sequence[str], lines: Sequence[dict[str, str]]) -> dict[str, object]:
    features = {line["source"]: line["features"] for line in lines if line["features"] is not None}
    declared: dict[str, dict[str, str]] = defaultdict(dict)
    for line in lines:
        if line["declared"]:
            declared[line["source"]][line["test"]] = line["declared"]
    return {name: {"features": features[name], "declared": declared[name]} for name in names}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(sys.argv[2:] or list(PAGES))
    for page, text in pages().items():
        page.write_text(text)
        sys.stdout.write(f"{page} written\n")

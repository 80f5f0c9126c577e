"""Commits stamped values with dulwich alone, as any other program would."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from functools import partial

from dulwich.objects import Blob, Commit, Tree
from dulwich.repo import Repo

from tests.bench.arrivals import write_stamps
from tests.bench.child import answer_requests
from tests.bench.git_files import MAIN, WHO


def main(path: str) -> None:
    """Serve until stdin ends."""
    with closing(Repo(path)) as repo:
        answer_requests({"write": partial(write_stamps, partial(_commit, repo))})


def _commit(repo: Repo, value: bytes) -> None:
    head = repo.refs[MAIN]
    parent = repo[head]
    assert isinstance(parent, Commit)
    root = repo[parent.tree]
    assert isinstance(root, Tree)
    blob = Blob.from_string(value)
    root[b"key"] = (0o100644, blob.id)
    made = Commit()
    made.tree, made.parents, made.message = root.id, [head], b"stamp\n"
    made.author = made.committer = WHO
    made.author_time = made.commit_time = int(time.time())
    made.author_timezone = made.commit_timezone = 0
    for item in (blob, root, made):
        repo.object_store.add_object(item)
    repo.refs.set_if_equals(MAIN, head, made.id)


if __name__ == "__main__":
    main(sys.argv[1])

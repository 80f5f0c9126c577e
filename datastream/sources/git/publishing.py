"""Publishing a commit in a repository on this machine: objects, work trees, and then the ref."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dulwich.objects import ObjectID
from dulwich.repo import Repo

from datastream.sources.git.commit import NewCommit
from datastream.sources.git.moving import Moved, moving
from datastream.sources.git.objects import Objects
from datastream.sources.git.refs import HEAD, Refs
from datastream.sources.git.repository import Layout, LayoutNow
from datastream.sources.git.work_trees import News, Restore, WorkTrees


class Publishing:
    """Publishes commits. Safe to use from several threads.

    Args:
        repo: the repository, bare or not; it is not used later.
        where: the repository as error texts name it.
        reopen: opens it once more.
        restore: commits once more what git commit has taken back; None if nobody can.
    """

    def __init__(
        self,
        repo: Repo,
        where: str,
        reopen: Callable[[], Repo],
        restore: Restore | None = None,
    ) -> None:
        self._layout = LayoutNow(repo, reopen)
        self.work_trees = WorkTrees(repo, where, reopen, restore, self._layout)

    def publish(self, objects: Objects, refs: Refs, base: ObjectID | None, new: NewCommit) -> None:
        """Make a commit the newest one of the branch that `refs` finds.

        Raises:
            Moved: the branch is not at `base` any more; nothing has changed.
        """
        before = refs.find()
        if before.commit != base:
            raise Moved(f"{refs.where}: the branch moved")
        layout = self._layout()
        objects.add(new.objects, layout.shared)
        with (
            self.work_trees.held(before.ref) as bring,
            moving(refs, before, new.commit, self._logs(refs, before.ref, layout), layout.shared),
        ):
            # First the indexes: whoever reads a HEAD and then an index, as git commit does, must
            # not find the new commit with the index of the old one.
            bring(News(objects, new.commit.id, new.commit.tree, new.changes))

    def close(self) -> None:
        """Stop waiting for indexes."""
        self.work_trees.close()

    def _logs(self, refs: Refs, ref: bytes, layout: Layout) -> list[Path]:
        """The logs of a ref, and of the HEADs that stand for it, as far as they are kept."""
        heads = [folder / "logs" / "HEAD" for folder in self.work_trees.folders(ref)]
        own = [] if ref == HEAD else [refs.log(ref)]
        return [log for log in [*own, *heads] if layout.keeps_logs or log.exists()]

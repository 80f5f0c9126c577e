"""One branch of a repository on disk: moving it, and waiting until it moves."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from dulwich.objects import ObjectID
from dulwich.refs import Ref
from dulwich.repo import Repo

from datastream.errors import DatastreamError, SourceUnavailable, StoreClosed, shown
from datastream.sources._common.wake import FileNotifications, WakeEvent
from datastream.sources.git.commit import NewCommit
from datastream.sources.git.objects import Objects, State, reopen_repo
from datastream.sources.git.publishing import Publishing
from datastream.sources.git.refs import Missing, Place, Refs, branch_ref
from datastream.sources.git.work_trees import Restore

log = logging.getLogger("datastream")


class LocalBranch:
    """The branch of a local repository that a store reads and writes. Safe to use from threads.

    Args:
        restore: commits once more what git commit has taken back.

    Raises:
        DatastreamError: there is no such branch, though there are others.
    """

    def __init__(self, repo: Repo, name: str, where: str, restore: Restore) -> None:
        self._where = where
        self._name = branch_ref(name)
        self._restore = restore
        # Guards the assignment of these.
        self._moving = threading.Lock()
        self._refs, self.publishing = self._parts(repo)
        self._alive: Ref | None = None
        self.watch = RefWatch(repo.commondir(), repo.controldir(), self._find)
        self._check(name)

    def tip(self) -> ObjectID | None:
        """The newest commit, None if there is none yet.

        Raises:
            SourceUnavailable: the branch was deleted, or the repository is away. Its keys were
                not deleted.
        """
        # Before the look: another thread may see the first commit right after it.
        alive = self._alive
        ref, commit = self._find()
        if commit is not None:
            self._alive = ref
        elif ref == alive:
            raise self._deleted(ref)
        return commit

    def catch_up(self) -> None:
        """No-op: `tip` reads the branch itself."""

    def give_way(self) -> None:
        """No-op: the file system lets everybody through."""

    def check_unborn(self) -> None:
        """Check that the branch is new, since a commit that was on a branch here is known.

        Raises:
            SourceUnavailable: it had commits, as far as the repository can tell.
        """
        ref, commit = self._find()
        if commit is None and self._refs.was_alive(ref):
            raise self._deleted(ref)

    def publish(self, objects: Objects, base: State, new: NewCommit) -> None:
        """Make a commit the newest one.

        Raises:
            Moved: the branch is not at `base` any more; nothing has changed.
        """
        self.publishing.publish(objects, self._refs, base.commit, new)

    @property
    def degraded(self) -> str:
        """What works less well than it could; "" if nothing does."""
        indexes = self.publishing.work_trees.degraded
        return "; ".join(filter(None, (self.watch.degraded, indexes)))

    def confirm(self, base: State) -> None:
        """No-op: a local read is authoritative."""

    def close(self) -> None:
        """Stop watching, for good."""
        self.watch.close()
        self.publishing.close()

    def _parts(self, repo: Repo) -> tuple[Refs, Publishing]:
        folders = repo.commondir(), repo.controldir()
        reopen = partial(reopen_repo, self._where)
        refs = Refs(*folders, self._name, self._where)
        return refs, Publishing(repo, self._where, reopen, self._restore)

    def _find(self) -> Place:
        refs = self._refs
        try:
            return refs.find()
        except Missing:
            if not self._is_elsewhere(refs):
                raise
            return self._refs.find()

    def _is_elsewhere(self, refs: Refs) -> bool:
        """Whether .git leads to other folders than `refs`; if so, these are followed."""
        with closing(reopen_repo(self._where)) as repo:
            folders = repo.commondir(), repo.controldir()
            if refs.folders == folders:
                return self._refs is not refs
            found, former = self._parts(repo)
        with self._moving:
            if self._refs is refs:
                # Else another thread was quicker.
                former, self.publishing = self.publishing, former
                self._refs = found
                self.watch.follow(*folders)
        former.close()
        return True

    def _check(self, name: str) -> None:
        if name and self.tip() is None and (others := self._refs.names()):
            raise DatastreamError(
                f"{self._where} has no branch {shown(name)}; it has {', '.join(others[:9])}"
            )

    def _deleted(self, ref: Ref) -> SourceUnavailable:
        return SourceUnavailable(
            f"{self._where}: {ref.decode('utf-8', 'replace')} was deleted; make it again, or "
            "open another branch"
        )


class RefWatch:
    """Waits until the branch is elsewhere than it was last read. One thread waits at a time.

    Args:
        common, own: the repository's folders; two where it has several work trees.
        find: reads where the branch is.
    """

    def __init__(self, common: str | Path, own: str | Path, find: Callable[[], Place]) -> None:
        self._own, self._common = Path(own), Path(common)
        self._find = find
        # Guards the notifications: `close` comes from any thread, also while `wait` runs.
        self._lock = threading.Lock()
        self._notifications: FileNotifications | None = None
        self._armed: list[tuple[Path, int]] = []
        self._waiting = self._releasing = self._closed = False
        self.degraded = ""
        """Why it polls; "" while the file system sends notifications."""

    def wait(self, seen: ObjectID | None, wake: WakeEvent, seconds: float) -> None:
        """Return when the branch is not at `seen`, may have moved, or `wake` is set.

        At the latest after `seconds`, since some file systems send no notifications.
        """
        with self._lock:
            if self._closed:
                raise StoreClosed("this git repository was closed; open it anew")
            self._waiting, self._releasing = True, False
        try:
            # Armed first, then read: a change in between ends the wait.
            notifications = self._arm(self._find().ref)
            if wake.is_set() or self._find().commit != seen:
                wake.clear()
            elif notifications is None:
                wake.wait(seconds)
            else:
                notifications.wait(wake, seconds)
        finally:
            with self._lock:
                self._waiting = False
                releasing = self._releasing
            if releasing:
                self.release()

    def close(self) -> None:
        """Release it for good."""
        with self._lock:
            self._closed = True
        self.release()

    def follow(self, common: str | Path, own: str | Path) -> None:
        """Watch these folders from the next `wait` on."""
        self._own, self._common = Path(own), Path(common)

    def release(self) -> None:
        """Free what `wait` needs, now or when the one that runs returns."""
        with self._lock:
            if self._waiting:
                self._releasing = True
                return
            notifications, self._notifications = self._notifications, None
            self._armed = []
        if notifications is not None:
            notifications.close()

    def _arm(self, ref: Ref) -> FileNotifications | None:
        """Watch every folder in which the ref, HEAD or packed-refs may be replaced."""
        # Again, if one has come or gone before it was watched.
        while (there := self._there(ref)) != self._armed:
            before, self._notifications = self._notifications, None
            if before is not None:
                before.close()
            self._notifications = self._watching([folder for folder, _ in there])
            self._armed = there
        return self._notifications

    def _there(self, ref: Ref) -> list[tuple[Path, int]]:
        """The folders that there are, and which ones."""
        folders = [self._own, self._common]
        for part in ref.split(b"/")[:-1]:
            folders.append(folders[-1] / os.fsdecode(part))
        return [(f, f.stat().st_ino) for f in dict.fromkeys(folders) if f.is_dir()]

    def _watching(self, folders: Sequence[Path]) -> FileNotifications | None:
        try:
            found = FileNotifications(folders, recursive=False)
        except OSError as error:
            self.degraded = f"polling: no file notifications ({error})"
            log.info("%s: %s", self._common, self.degraded)
            return None
        self.degraded = ""
        return found

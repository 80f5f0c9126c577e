"""When to look again below a directory, and where."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from time import monotonic

from datastream.sources._common.wake import WakeEvent, jittered
from datastream.sources.files.notify import TreeNotifications
from datastream.sources.files.tree import Place, Tree

LOOK_AT_ROOT = 0.5
"""Seconds between looks whether the path still leads to the same directory."""
LOOK_AGAIN = 2.0
"""Seconds from notifications, or from a write, until everything is looked at, since these are not
the whole truth. inotify misses files created before a new directory's watch exists, and its queue
may overflow; the library drops what comes while it hands out what it has; and what a look has found
beside a write is told before that write."""
AT_LATEST = 10.0
"""The same, while notifications come all the time: such a look delays what they are about."""
UNDECODED = "decode path"
"""In the text of notifications that fail over a name that is no UTF-8."""
REFUSALS = 3
"""Looks at what cannot be watched until it is taken for something that never can be: a security
module may allow the one and not the other."""
FAILS_AGAIN, REST = 10.0, 60.0
"""Notifications that fail twice within so many seconds are given up for so many."""


class Watcher:
    """Collects notifications, and polls where there are none.

    One thread arms it and takes what was collected, and waits between; any may do the rest.

    Args:
        tree: what to watch.
        wake: ends waits early.
        interval: seconds between looks without notifications.
        polling: never ask for notifications.
        recursive: be notified of what lies deeper, too.
    """

    def __init__(
        self,
        tree: Tree,
        wake: WakeEvent,
        *,
        interval: float,
        polling: bool,
        recursive: bool = True,
    ) -> None:
        self.degraded = ""
        """Why it polls although `polling` is False."""
        self._tree = tree
        self._wake = wake
        self._interval = interval
        self._polling = polling
        self._recursive = recursive
        self._lock = threading.Lock()
        self._notifications: TreeNotifications | None = None
        self._place: Place | None = None
        # Paths that changed since they were last taken; None where all has to be looked at.
        self._changed: deque[set[str] | None] = deque([None])
        self._lost = False
        # Why it could not be watched, and how often in a row it could be looked at all the same.
        self._refusal = ""
        self._refusals = 0
        # Whether the last look met a directory that cannot be read.
        self._is_part_closed = False
        self._folders = 0
        self._failed_at = self._rests_until = float("-inf")
        # When to look at everything: after the last notification, or long after the first.
        self._last_at: float | None = None
        self._latest_at: float | None = None
        # How long the last look at everything took.
        self._seconds = 0.0
        # Whether files are mounted by themselves, and when to look at those.
        self._mounts_files = False
        self._poll_at = 0.0

    # Looks.

    def arm(self, place: Place) -> None:
        """Collect notifications from now on, before anything is looked at."""
        notifications = self._notifications
        is_same = place == self._place and not (self._lost or self._tree.opened)
        if is_same and notifications is not None and not notifications.failure:
            return
        self._lost = self._tree.opened = False
        self._refusal = ""
        self.disarm()
        self._place = place
        self._mounts_files = any(Path(point).is_file() for point in place.mounts)
        self.look_at_all()
        if self._polling or monotonic() < self._rests_until:
            return
        try:
            self._replace(
                TreeNotifications(place.root, recursive=self._recursive, apart=self._is_part_closed)
            )
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            # It is away, which the look that follows says better, unless it is back by then.
            self._lost = True
            self._refusal = error.strerror or str(error)
        except OSError as error:
            self._fall_back(error.strerror or str(error))

    def take(self) -> set[str] | None:
        """The paths that changed since the last call; None if everything has to be looked at."""
        changed: set[str] | None = None if self._notifications is None else set()
        while self._changed:
            more = self._changed.popleft()
            if more:
                self.look_again()
            changed = None if changed is None or more is None else changed | more
        return changed

    def look_at_all(self) -> None:
        """Have the next look look at everything."""
        self._changed.append(None)

    def look_again(self) -> None:
        """Have everything looked at some time from now, besides."""
        with self._lock:
            now, rare = monotonic(), 20 * self._seconds
            self._last_at = now + max(LOOK_AGAIN, rare)
            self._latest_at = self._latest_at or now + max(AT_LATEST, rare)

    def looked_at_all(self, seconds: float, *, is_part_closed: bool) -> None:
        """After a look at the whole: are the new directories watched too?

        Args:
            seconds: how long it took.
            is_part_closed: it met a directory that cannot be read.
        """
        self._seconds, self._is_part_closed = seconds, is_part_closed
        notifications = self._notifications
        self._refusals = self._refusals + 1 if notifications is None and self._refusal else 0
        if self._refusals >= REFUSALS:
            self._fall_back(self._refusal)
        if notifications is None or notifications.failure:
            return
        if self._tree.opened:
            # The next look arms anew, and the wait before it must not miss that directory.
            self._wake.set()
        elif self._misses_folders(notifications):
            self._lost = True
            self._wake.set()
        elif self._folders != (folders := len(self._tree.folders)):
            self._folders = folders
            try:
                notifications.check()
            except OSError as error:
                self.disarm()
                self._wake.set()
                self._fall_back(error.strerror or str(error))

    def _misses_folders(self, notifications: TreeNotifications) -> bool:
        if self._is_part_closed and not notifications.is_apart:
            return True
        try:
            return notifications.misses_folders()
        except OSError:
            # It has just gone.
            return True

    def lose(self) -> None:
        """The directory was away: when it is back its watch is gone, even if it is the same one."""
        self._lost = True

    # Waiting.

    def wait(self, timeout: float | None) -> None:
        """See `Source.wait`."""
        notifications = self._notifications
        if notifications is None:
            # What was away for a moment can be watched again.
            is_soon = self._lost and not self.degraded
            pause = LOOK_AT_ROOT if is_soon else jittered(self._interval)
            return self._wake.wait(pause if timeout is None else min(timeout, pause))
        until = None if timeout is None else monotonic() + timeout
        while True:
            left = LOOK_AT_ROOT if until is None else min(LOOK_AT_ROOT, until - monotonic())
            changed = notifications.wait(self._wake, max(left, 0))
            if notifications.failure:
                return self._fail(notifications)
            if self.degraded and monotonic() - self._failed_at > FAILS_AGAIN:
                self.degraded = ""
            if notifications.is_doubtful:
                self._lost = True
                return self.look_at_all()
            if changed:
                self._changed.append(changed)
            # A wait that was woken, or was in vain, means everything.
            is_over = changed is None or (not changed and left < LOOK_AT_ROOT)
            # One that is notified all the time must not put off the rest.
            if is_over or self._is_due() or not (changed or self._is_in_place()):
                return self.look_at_all()
            if changed:
                return None

    def disarm(self) -> None:
        """Collect no more notifications."""
        self._replace(None)

    def _replace(self, notifications: TreeNotifications | None) -> None:
        with self._lock:
            old, self._notifications = self._notifications, notifications
        if old is not None:
            old.close()

    def _is_due(self) -> bool:
        now = monotonic()
        with self._lock:
            last = self._last_at
            if last is not None and now > min(last, self._latest_at or last):
                # What was notified since that time was set needs as much.
                self._last_at = last if last > now else None
                self._latest_at = None
                return True
        if self._mounts_files and now > self._poll_at:
            # It is one of another directory, and the system tells that one what is done to it.
            self._poll_at = now + jittered(self._interval)
            return True
        return False

    def _is_in_place(self) -> bool:
        return self._place is not None and self._tree.is_at(self._place)

    def _fail(self, notifications: TreeNotifications) -> None:
        """Begin anew, but not again and again: a look may be what makes them fail."""
        self.look_at_all()
        if notifications.failure == "closed":
            return
        now = monotonic()
        if now - self._failed_at < FAILS_AGAIN:
            self._rests_until = now + REST
            self._fall_back(notifications.failure)
        self._failed_at = now

    def _fall_back(self, reason: str) -> None:
        polling = f"polling every {self._interval:g} s"
        if UNDECODED in reason and self._tree.has_odd_names:
            # Which name it is has been logged.
            self.degraded = f"{polling}: {self._tree.path} holds a name that is no UTF-8"
            return
        self.degraded = f"{polling}: {self._tree.path} is not watched"
        self._tree.warn(
            "",
            f"{self._tree.path} is not watched ({reason}), so it is polled every "
            f"{self._interval:g} s instead; raise fs.inotify.max_user_watches or "
            "max_user_instances, or give polling=True",
        )

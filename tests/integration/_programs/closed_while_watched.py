"""``closed_while_watched.py ROOT NAME``: watches ROOT as nobody, and prints every change.

NAME below it, ROOT itself where that is ".", may not be read just while the system is first asked
to watch. Where there is no NAME, ``make`` makes it, and it may not be read until that is notified.
Nothing is looked at anyway: what is printed was notified.
"""

import os
import sys
from pathlib import Path

import datastream
from datastream.sources._common.wake import WakeEvent
from datastream.sources.files import watcher
from datastream.sources.files.notify import TreeNotifications

root, name = sys.argv[1:]
folder = Path(root, name)
is_new = not folder.exists()
is_closed = [] if is_new else [True]


class Closed(TreeNotifications):
    def __init__(self, root, **options):
        closes = is_closed and is_closed.pop()
        if closes:
            folder.chmod(0o000)
        try:
            super().__init__(root, **options)
        finally:
            if closes:
                folder.chmod(0o755)

    def wait(self, wake, timeout):
        found = super().wait(wake, timeout)
        if is_new and found and str(folder) in found and not folder.stat().st_mode & 0o777:
            folder.chmod(0o755)
            Path(folder, "first").write_text("1")
            # That it was opened is notified, too.
            found |= super().wait(WakeEvent(), 30)
        return found


watcher.TreeNotifications = Closed
watcher.LOOK_AGAIN = watcher.AT_LATEST = 3600.0
# Whatever is imported on use is imported now: the new user may not be able to read it.
with datastream.open(f"file:{root}") as store:
    import watchfiles._rust_notify  # noqa: F401
if os.geteuid() == 0:
    for path in (Path(root), folder):
        if path.exists():
            os.chown(path, 65534, 65534)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
with datastream.open(f"file:{root}", interval=3600) as store:
    store.watch().subscribe(lambda e: print(e.key, e.value.decode(), flush=True))
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "make\n":
            folder.mkdir(0o000)

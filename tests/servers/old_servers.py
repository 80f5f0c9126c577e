"""The ancestor's real servers, as rude as they are, one habit at a time."""

from __future__ import annotations

import grpc

from tests.integration._programs import ancestor


class Rude(ancestor.Server):
    """What they have in common: a stream that is cancelled leaves its poller behind.

    Reads without keys find nothing, whatever there is.
    """

    leaked = 0
    fails_missing = False
    """A key that is not there, such as a prefix or a glob, fails the whole call."""
    is_silent_for_several = False
    """Streams of several keys send nothing, ever."""
    reads_fail = False

    def __init__(self):
        # Listed, and not to be read.
        self.unreadable = set()
        super().__init__()

    def _sync(self, request, context):
        if self.reads_fail:
            context.abort(grpc.StatusCode.INTERNAL, "unsupported Scan, storing driver.Value")
        there = self.data.keys() - self.unreadable
        missing = [key for key in request.keys if key not in there]
        if missing and self.fails_missing:
            context.abort(grpc.StatusCode.UNKNOWN, "file not found")
        with self.changed:
            return self._response([key for key in request.keys if key in there])

    def _subscribe(self, request, context):
        context.add_callback(self._leak)
        if len(request.keys) != 1 and self.is_silent_for_several:
            while context.is_active() and not self._stopping:
                with self.changed:
                    self.changed.wait(0.1)
            return
        yield from super()._subscribe(request, context)

    def _leak(self):
        if not self._stopping:
            self.leaked += 1


class Example(Rude):
    """It cannot scan its own timestamps: list and push work, each read fails."""

    reads_fail = True
    is_silent_for_several = True


class Sqlite(Rude):
    """Once a poller was left behind, every push by anybody fails."""

    is_silent_for_several = True

    def _push(self, request, context):
        if self.leaked:
            context.abort(grpc.StatusCode.UNKNOWN, "database is locked")
        return super()._push(request, context)


class Git(Rude):
    fails_missing = True


class S3(Git):
    """It lists its root, which is no key."""

    def _list(self, request, context):
        response = super()._list(request, context)
        response.capabilities.add(key="/", value_type="directory")
        return response


STORAGES = (Sqlite, Git, S3)

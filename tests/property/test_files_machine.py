"""Random histories over a directory that programs without this library write to as well."""

import os
import shutil
import tempfile
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from datastream import Store
from datastream.sources.files import FilesSource
from tests.property.machine import Served, StoreMachine, keys, search, searched, values

WAYS = ("in place", "rename", "link", "append", "new directory", "symbolic link")


class FilesMachine(StoreMachine):
    def open(self):
        self.directory = Path(tempfile.mkdtemp())
        self.path = self.directory / "conf"
        self.path.mkdir()
        self.numbers = count()
        return Store(FilesSource(self.path)), Store(FilesSource(self.path))

    @rule(key=keys, value=values, way=st.sampled_from(WAYS))
    def write_beside_in_another_way(self, key, value, way):
        self.raw(key, value, way)
        self.model[key] = value

    def note(self, entry):
        """A content that comes back has the revision it had: those have no order."""

    def raw(self, key, value, way="in place"):
        path = self.path / key
        if value is None:
            path.unlink(missing_ok=True)
            for above in path.relative_to(self.path).parents[:-1]:
                with suppress(OSError):
                    (self.path / above).rmdir()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.directory / f"draft-{next(self.numbers)}"
        if way == "in place":
            path.write_bytes(value)
            return
        if way == "append":
            with path.open("ab") as file:
                file.truncate(0)
                file.write(value[:1])
                file.flush()
                file.write(value[1:])
            return
        if way == "new directory" and path.parent != self.path:
            # All of the directory is copied, changed and put in its place.
            shutil.copytree(path.parent, draft, symlinks=True)
            (draft / path.name).unlink(missing_ok=True)
            (draft / path.name).write_bytes(value)
            path.parent.rename(self.directory / f"old-{next(self.numbers)}")
            draft.rename(path.parent)
            return
        if way == "symbolic link":
            # To a hidden file; what is put there later goes through it.
            hidden = self.path / f".hidden-{next(self.numbers)}"
            hidden.write_bytes(value)
            draft.symlink_to(os.path.relpath(hidden, path.parent))
        else:
            draft.write_bytes(value)
        if way == "link":
            path.unlink(missing_ok=True)
            os.link(draft, path)
        else:
            draft.rename(path)

    def teardown(self):
        super().teardown()
        shutil.rmtree(self.directory)


class ServedFilesMachine(Served, FilesMachine):
    pass


@searched((FilesMachine, 40, 25), (ServedFilesMachine, 25, 25))
@pytest.mark.timeout(300)
def test_random_histories(machine, examples, steps):
    search(machine, examples, steps)

"""A repository's objects, as one call reads and writes them, and what calls share."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import threading
import zlib
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from traceback import clear_frames
from typing import Any, NamedTuple

from dulwich.config import StackedConfig
from dulwich.errors import FileFormatException, NotGitRepository
from dulwich.file import SharedPerm, adjust_shared_perm
from dulwich.objects import Blob, Commit, ObjectID, ShaFile, Tag, Tree, hex_to_sha
from dulwich.refs import DiskRefsContainer, Ref
from dulwich.repo import Repo, UnsupportedExtension, UnsupportedVersion

from datastream.errors import DatastreamError, Unsupported
from datastream.sources.git.errors import Damaged, local_errors
from datastream.sources.git.modes import make_folders
from datastream.sources.git.reading import ReadCommit, read_commit, read_tree, tagged
from datastream.sources.git.refs import Missing, Refs, TolerantRefs
from datastream.sources.git.repository import TolerantRepo
from datastream.sources.git.tree import Items

KEPT_ITEMS = 100_000
"""Names in trees kept in memory, those used last."""
KEPT_STATES = 1_000
"""Commits kept in memory."""
EMPTY = Tree()
"""git knows this one without having it stored."""
ATTEMPTS = 10
"""How often a folder for an object is made that git gc removes."""
_KINDS = {kind.type_name: kind.type_num for kind in (Commit, Tree, Blob, Tag)}
_NAMES = {number: name for name, number in _KINDS.items()}
OF_FILE = frozenset({errno.EACCES, errno.EPERM, errno.EIO, errno.EISDIR, errno.ELOOP})
"""Errors of the system that concern one file, such as that of an object, and not all."""
READ_ONLY = 0o444
"""Mode of a file that holds an object."""


class Broken(Damaged):
    """One object is missing or broken."""

    def __init__(self, where: str, name: ObjectID, how: str) -> None:
        self.object = name
        self.reason = f"object {name.decode()} {how}; see what git fsck says"
        super().__init__(f"{where}: {self.reason}")


class Absent(Broken):
    """The repository lacks an object."""


class NoRepository(DatastreamError):
    """There is no repository."""


class State(NamedTuple):
    """What a commit says; that of no commit is the unborn branch's."""

    commit: ObjectID | None = None
    tree: ObjectID | None = None
    time: datetime | None = None

    @property
    def position(self) -> str:
        """The cursor of this state: its commit."""
        return "unborn" if self.commit is None else self.commit.decode()


UNBORN = State()


def open_repo(path: str | Path) -> Repo:
    """The repository at `path`, bare or not.

    Raises:
        DatastreamError: there is none, or it is of a kind that is not supported.
    """
    with local_errors(str(path)):
        repo = _opened(path)
    if repo.object_format.name != "sha1" or not isinstance(repo.refs, DiskRefsContainer):
        repo.close()
        raise Unsupported(
            f"{path}: only repositories with SHA-1 objects and refs in files are supported; "
            "see git refs migrate"
        )
    # The same object with one method replaced: it has what Repo gave it.
    repo.refs.__class__ = TolerantRefs
    return repo


def reopen_repo(path: str | Path) -> Repo:
    """The repository at `path`, which was opened before.

    Raises:
        Missing: it is not there now.
    """
    try:
        return open_repo(path)
    except NoRepository as error:
        raise Missing(f"{path}: the repository is not there") from error


def config_of(path: str | Path) -> StackedConfig:
    """What git is configured with, for the repository at `path`."""
    with closing(reopen_repo(path)) as repo:
        return repo.get_config_stack()


def _opened(path: str | Path) -> Repo:
    try:
        repo = TolerantRepo(str(path))
        _check_compression(repo)
    except NotGitRepository as error:
        raise NoRepository(
            f"{path} is no git repository; name the folder that holds .git, or git init it"
        ) from error
    except (DatastreamError, OSError, UnsupportedExtension, UnsupportedVersion):
        raise
    except Exception as error:
        raise Damaged(
            f"{path} cannot be opened, because git's configuration or another file there is broken "
            f"({error!r}); see what git status says there"
        ) from error
    hidden = Path(repo.controldir()).resolve()
    if repo.bare and hidden.name == ".git" and not repo.get_config().get_boolean("core", "bare"):
        # Named by its inner folder, it has a work tree all the same.
        repo.close()
        return TolerantRepo(str(hidden.parent))
    return repo


def _check_compression(repo: Repo) -> None:
    """Refuse the levels that git refuses, before something is to be written."""
    level = repo.object_store.loose_compression_level
    if not -1 <= level <= 9:
        repo.close()
        raise ValueError(f"bad zlib compression level {level}")


class Trees:
    """Trees as they were parsed, those used last, and commits. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._trees: OrderedDict[ObjectID, Items] = OrderedDict()
        self._kept = 0
        self.states: dict[ObjectID, State] = {}
        """What commits say."""

    def get(self, tree: ObjectID) -> Items | None:
        """The items of a tree, None if they are not kept."""
        with self._lock:
            found = self._trees.get(tree)
            if found is not None:
                self._trees.move_to_end(tree)
            return found

    def keep(self, tree: ObjectID, items: Items) -> None:
        """Keep the items of a tree instead of those used longest ago."""
        with self._lock:
            if tree in self._trees:
                return
            self._trees[tree] = items
            self._kept += len(items)
            while self._kept > KEPT_ITEMS and len(self._trees) > 1:
                self._kept -= len(self._trees.popitem(last=False)[1])

    def keep_state(self, state: State) -> None:
        """Keep what a commit says."""
        with self._lock:
            if len(self.states) >= KEPT_STATES:
                self.states.clear()
            if state.commit is not None:
                self.states[state.commit] = state

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self.states.clear()
            self._trees.clear()
            self._kept = 0


class Objects:
    """Reads through `repo`, which belongs to this object and to one call at a time.

    Args:
        trees: what other handles on the repository know too.
    """

    def __init__(self, repo: Repo, trees: Trees | None = None) -> None:
        self.repo = repo
        self._store = repo.object_store
        self._trees = Trees() if trees is None else trees

    def state(self, commit: ObjectID | None) -> State:
        """Tree and time of a commit."""
        if commit is None:
            return UNBORN
        state = self._trees.states.get(commit)
        if state is None:
            found = self.commit(commit)
            state = State(commit, found.tree, found.time)
            self._trees.keep_state(state)
        return state

    def commit(self, name: ObjectID) -> ReadCommit:
        """The commit, through an annotated tag if need be."""
        kind, raw = self._raw(name)
        while kind == Tag.type_num:
            with self._errors(name):
                name = tagged(raw)
            kind, raw = self._raw(name)
        with self._errors(name):
            _check_kind(kind, Commit)
            return read_commit(name, raw)

    def has_commit(self, name: ObjectID) -> bool:
        try:
            return self._raw(name)[0] == Commit.type_num
        except Absent:
            return False

    def ref(self, name: Ref) -> ObjectID | None:
        """What a ref of this repository stands for, None if there is none."""
        repo = self.repo
        return Refs(repo.commondir(), repo.controldir(), name, repo.path).find().commit

    def beginning(self, part: str) -> list[ObjectID]:
        """The objects whose ids begin so."""
        name = ObjectID(part.encode())
        with self._errors(name):
            return list(self._store.iter_prefix(name))

    def items(self, tree: ObjectID | None) -> Items:
        """What a tree holds."""
        if tree is None or tree == EMPTY.id:
            return {}
        found = self._trees.get(tree)
        if found is None:
            found = self._parsed(tree)
            self._trees.keep(tree, found)
        return found

    def content(self, blob: ObjectID) -> bytes:
        """The bytes of a file."""
        return self._raw(blob)[1]

    def parents(self, commit: ObjectID) -> list[ObjectID]:
        """Its parents, as far as this repository has them: a shallow clone ends somewhere."""
        if commit in self.repo.get_shallow():
            return []
        return list(self.commit(commit).parents)

    def confirm(self, state: State) -> None:
        """Read a commit and its tree from the disk, whatever is known of them.

        Raises:
            SourceUnavailable: they cannot be read, or a store of objects is away.
        """
        lenders: Any = self._store.alternates
        for lender in lenders:
            if not Path(lender.path).is_dir():
                raise Damaged(
                    f"{self.repo.path}: it borrows objects from {lender.path}, which is away"
                )
        for name in (state.commit, state.tree):
            if name is not None and name != EMPTY.id:
                self._raw(name)

    def signature(self, name: ObjectID) -> Hashable:
        """Changes when git stores anything where the object might be."""
        folders = (Path(self._store.path, part) for part in (name[:2].decode(), "pack"))
        return (name, *map(_changed_at, folders))

    @property
    def shared(self) -> SharedPerm | None:
        """How files were made accessible to others when this was opened."""
        return self._store.shared_perm

    def add(self, objects: Iterable[ShaFile], shared: SharedPerm | None) -> None:
        """Store objects, each wholly or not at all, accessible to others as `shared` says."""
        for item in objects:
            self._write(item, shared)

    def packs(self) -> int:
        """How many pack files it has open, or may."""
        return len(getattr(self._store, "_pack_cache", ()))

    def close(self) -> None:
        """Close all files."""
        self.repo.close()

    def _raw(self, name: ObjectID) -> tuple[int, bytes]:
        with suppress(Exception):
            found = self._store.get_raw(name)
            if _is_whole(name, *found):
                return found
        with self._errors(name):
            return self._raw_again(name)

    def _raw_again(self, name: ObjectID) -> tuple[int, bytes]:
        # A gc that runs just now moves objects into packs; then the second look finds it.
        try:
            found = self._store.get_raw(name)
        except FileFormatException:
            # dulwich has parsed it, too, which is done more kindly here.
            found = self._loose(name)
        except KeyError:
            raise
        except Exception:
            # Of a pack or an index that is broken; git then looks into the others.
            elsewhere = self._elsewhere(name)
            if elsewhere is None:
                raise
            found = elsewhere
        if not _is_whole(ObjectID(name.lower()), *found):
            raise ValueError("it is cut, or its content is another one")
        return found

    @contextmanager
    def _errors(self, name: ObjectID) -> Iterator[None]:
        """Whatever is raised of an object that cannot be read becomes ours, and names it."""
        where = self.repo.path
        try:
            yield
        except KeyError as error:
            how = (
                "was never fetched: this is a partial clone" if self._is_partial() else "is missing"
            )
            raise Absent(where, name, how) from error
        except MemoryError:
            raise
        except OSError as error:
            if error.errno not in OF_FILE:
                # Of the system, not of the object.
                raise
            raise Broken(where, name, f"cannot be read ({error.strerror})") from error
        except Exception as error:
            _release(error)
            raise Broken(where, name, f"is broken ({error})") from error

    def _is_partial(self) -> bool:
        """Whether git fetches objects only when it needs them."""
        config = self.repo.get_config()
        return any(config.get_boolean(name, b"promisor", False) for name in config.sections())

    def _elsewhere(self, name: ObjectID) -> tuple[int, bytes] | None:
        """An object, wherever it can be read; None if that is nowhere."""
        stores: tuple[Any, ...] = (self._store, *self._store.alternates)
        for pack in (pack for store in stores for pack in store.packs):
            with suppress(Exception):
                found: tuple[int, bytes] = pack.get_raw(hex_to_sha(name))
                if _is_whole(name, *found):
                    return found
        with suppress(Exception):
            return self._loose(name)
        return None

    def _loose(self, name: ObjectID) -> tuple[int, bytes]:
        """An object in a file of its own, as it is."""
        text = name.decode()
        stores: tuple[Any, ...] = (self._store, *self._store.alternates)
        places = (Path(store.path, text[:2], text[2:]) for store in stores)
        data = zlib.decompress(next(filter(Path.is_file, places)).read_bytes())
        head, _, raw = data.partition(b"\0")
        kind, _, size = head.partition(b" ")
        if int(size) != len(raw):
            raise ValueError("its size is wrong")
        return _KINDS[kind], raw

    def _parsed(self, tree: ObjectID) -> Items:
        kind, raw = self._raw(tree)
        with self._errors(tree):
            _check_kind(kind, Tree)
            return read_tree(raw)

    def _write(self, item: ShaFile, shared: SharedPerm | None) -> None:
        # Not by dulwich: it locks the object's name, which two writers of one value would both
        # want, and which a killed process would leave locked for ever.
        store = self._store
        name = item.id.decode()
        folder = Path(store.path, name[:2])
        place = folder / name[2:]
        try:
            # Younger again, so that a gc that runs does not take it for garbage.
            os.utime(place)
            return
        except OSError:
            pass
        data = item.as_legacy_object(store.loose_compression_level)
        for attempt in range(ATTEMPTS):
            make_folders(folder, Path(store.path), shared)
            try:
                temporary = folder / f"tmp_obj_{secrets.token_hex(6)}"
                _write_file(temporary, place, data, shared, sync=store.fsync_object_files)
                return
            except FileNotFoundError:
                # git gc removes folders that it has emptied, between our two steps, too.
                if attempt == ATTEMPTS - 1:
                    raise


def _is_whole(name: ObjectID, kind: int, raw: bytes) -> bool:
    """Whether an object is what its name says: dulwich reads a file that was cut, too."""
    found = hashlib.sha1(b"%s %d\0" % (_NAMES[kind], len(raw)), usedforsecurity=False)
    found.update(raw)
    return found.hexdigest().encode() == name


def _changed_at(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _release(error: BaseException) -> None:
    """Let go of what an error's frames hold: views of pack files, which could not be closed."""
    found: BaseException | None = error
    while found is not None:
        clear_frames(found.__traceback__)
        found = found.__context__


def _check_kind(kind: int, expected: type[ShaFile]) -> None:
    if kind != expected.type_num:
        raise ValueError(f"it is no {expected.type_name.decode()}")


def _write_file(
    temporary: Path, place: Path, data: bytes, shared: SharedPerm | None, *, sync: bool
) -> None:
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, READ_ONLY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        adjust_shared_perm(temporary, shared)
        temporary.replace(place)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

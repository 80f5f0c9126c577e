"""Trees by value: looking up, walking, comparing and rewriting, with no repository in sight.

All is done over one function that gives the items of a tree by its id.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from dulwich.objects import S_IFGITLINK, ObjectID, Tree

from datastream.errors import InvalidKey, shown
from datastream.sources.git.keys import check_case

Item = tuple[int, ObjectID]
"""Mode and id."""
Items = Mapping[bytes, Item]
"""What a tree holds, by name."""
ReadBelow = Callable[[bytes, ObjectID | None], Items | None]
"""The items of the tree at a path; None if it cannot be read, and all below it is left out."""
ReadTree = Callable[[ObjectID | None], Items]
"""The items of a tree; of None, of the empty one."""

FILE = stat.S_IFREG | 0o644


class Change(NamedTuple):
    """One path at which two trees differ; None where it has no file."""

    path: bytes
    old: ObjectID | None
    new: ObjectID | None


def is_file(mode: int) -> bool:
    """Whether it has content: files, and symbolic links, whose content is their target."""
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)


def lookup(read: ReadTree, root: ObjectID | None, path: bytes) -> Item | None:
    """What is at `path`, be it file, tree or submodule."""
    item: Item = (stat.S_IFDIR, root) if root is not None else (0, ObjectID(b""))
    for name in path.split(b"/") if path else ():
        found = read(item[1]).get(name) if stat.S_ISDIR(item[0]) else None
        if found is None:
            return None
        item = found
    return item if item[0] else None


def subtree(read: ReadTree, root: ObjectID | None, path: bytes) -> ObjectID | None:
    """The tree at `path`, None if there is none."""
    found = lookup(read, root, path)
    return found[1] if found is not None and stat.S_ISDIR(found[0]) else None


def walk(
    read: ReadTree,
    root: ObjectID | None,
    above: bytes = b"",
    read_below: ReadBelow | None = None,
) -> Iterator[tuple[bytes, Item]]:
    """Every file below a tree, with its path.

    Args:
        read_below: reads the trees below the root.
    """
    # Not by recursion: a tree may be deeper than Python's stack.
    pending = [(iter(read(root).items()), above)]
    while pending:
        items, above = pending[-1]
        for name, item in items:
            mode = item[0]
            if stat.S_ISDIR(mode):
                path = above + name + b"/"
                below = read_below(path, item[1]) if read_below else read(item[1])
                pending.append((iter((below or {}).items()), path))
                break
            if is_file(mode):
                yield above + name, item
        else:
            pending.pop()


def changes(
    read: ReadTree,
    old: ObjectID | None,
    new: ObjectID | None,
    above: bytes = b"",
    *,
    read_new: ReadTree | None = None,
    read_below: ReadBelow | None = None,
) -> Iterator[Change]:
    """Where the files of two trees differ in content, deletes included.

    Args:
        read_new: reads the new tree, if it is in another repository.
        read_below: reads the trees below the new one.
    """
    pending = [(old, new, above)]
    start = above
    while pending:
        old, new, above = pending.pop()
        if old == new:
            continue
        after: Items | None
        if read_below is None or above == start:
            after = (read_new or read)(new)
        elif (after := read_below(above, new)) is None:
            continue
        before = read(old)
        gone = [(name, before[name], None) for name in before.keys() - after.keys()]
        there = [
            (name, before.get(name), item)
            for name, item in after.items()
            if before.get(name) != item
        ]
        for name, was, item in [*gone, *there]:
            trees = _tree(was), _tree(item)
            if trees != (None, None):
                pending.append((*trees, above + name + b"/"))
            files = _file(was), _file(item)
            if files[0] != files[1]:
                yield Change(above + name, *files)


def _tree(item: Item | None) -> ObjectID | None:
    return item[1] if item is not None and stat.S_ISDIR(item[0]) else None


def _file(item: Item | None) -> ObjectID | None:
    return item[1] if item is not None and is_file(item[0]) else None


class _Plan:
    """What is to become of one directory."""

    def __init__(self) -> None:
        self.files: dict[bytes, tuple[str, ObjectID | None]] = {}
        self.below: dict[bytes, _Plan] = {}


def rewritten(
    read: ReadTree, root: ObjectID | None, writes: Iterable[tuple[str, bytes, ObjectID | None]]
) -> tuple[ObjectID | None, list[Tree]]:
    """A tree with `writes` (key, path, new content or None to remove it) applied.

    Only the trees on the way to what is written are read and made anew.

    Returns:
        its id, None if nothing is left, and the trees to store.

    Raises:
        InvalidKey: something is in the way: a directory, a file, a symbolic link, a submodule,
            or a name that differs only in case.
    """
    plan = _Plan()
    for key, path, content in writes:
        *above, name = path.split(b"/")
        place = plan
        for part in above:
            place = place.below.setdefault(part, _Plan())
        place.files[name] = key, content
    builder = _Builder(read)
    return builder.carry_out(root, plan), builder.made


class _Builder:
    """Makes trees anew, from the leaves to the root."""

    def __init__(self, read: ReadTree) -> None:
        self._read = read
        self.made: list[Tree] = []

    def carry_out(self, tree: ObjectID | None, plan: _Plan) -> ObjectID | None:
        items = dict(self._read(tree))
        before = set(items)
        # Deletes first: they may make room for what else is written.
        for name, (_, content) in plan.files.items():
            if content is None:
                items.pop(name, None)
        for name, below in plan.below.items():
            self._put_directory(items, name, below)
        for name, (key, content) in plan.files.items():
            if content is not None:
                _put_file(items, name, key, content)
        for name in items.keys() - before:
            check_case(_written_key(plan, name), name, items.keys() - {name})
        return self._stored(items)

    def _put_directory(self, items: dict[bytes, Item], name: bytes, plan: _Plan) -> None:
        there = items.get(name)
        if there is not None and not stat.S_ISDIR(there[0]):
            key = _any_key(plan)
            if key is None:
                return
            raise InvalidKey(f"{shown(key)} lies below {_kind(there[0])}; write beside it")
        tree = self.carry_out(there[1] if there else None, plan)
        if tree is None:
            items.pop(name, None)
        else:
            items[name] = (stat.S_IFDIR, tree)

    def _stored(self, items: dict[bytes, Item]) -> ObjectID | None:
        if not items:
            return None
        tree = Tree()
        for name, (mode, content) in items.items():
            tree.add(name, mode, content)
        self.made.append(tree)
        return tree.id


def _put_file(items: dict[bytes, Item], name: bytes, key: str, content: ObjectID) -> None:
    there = items.get(name)
    if there is not None and not stat.S_ISREG(there[0]):
        raise InvalidKey(f"{shown(key)} is {_kind(there[0])}; delete that first, or write beside")
    # An executable stays one.
    items[name] = (FILE if there is None else there[0], content)


def _written_key(plan: _Plan, name: bytes) -> str:
    """The key, or one of the keys, for which a directory has `name`."""
    return plan.files[name][0] if name in plan.files else _any_key(plan.below[name]) or ""


def _any_key(plan: _Plan) -> str | None:
    """A key that is put; None if all are removed."""
    for key, content in plan.files.values():
        if content is not None:
            return key
    return next(filter(None, map(_any_key, plan.below.values())), None)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return "a submodule" if mode == S_IFGITLINK else "a file"

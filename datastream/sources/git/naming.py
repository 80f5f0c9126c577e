"""The commit that git calls by a name: refs, ids in whole or in part, what git describe says."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dulwich.objects import ObjectID
from dulwich.refs import Ref, check_ref_format

from datastream.errors import DatastreamError, shown
from datastream.sources.git.errors import Damaged
from datastream.sources.git.objects import Objects

_FORMS = (
    *("{}", "refs/{}", "refs/tags/{}", "refs/heads/{}"),
    *("refs/remotes/{}", "refs/remotes/{}/HEAD"),
)
"""Where git looks for a ref, in this order."""
_ROOT = re.compile(r"[A-Z_]+")
LONGEST = 4096
"""Characters of a name: those of a path, and no more digits than Python takes for a number."""
# No ref has a "~" or "^" in it: a name that does not match is found out in one pass.
_NAME = re.compile(r"([^~^]*)((?:~\d*|\^\d*|\^\{(?:commit)?\})*)")
_STEP = re.compile(r"~(\d*)|\^(?:\{(?:commit)?\}|(\d*))")
_ID = re.compile(r"[0-9a-f]{40}", re.IGNORECASE)
_PART = re.compile(r"[0-9a-f]{4,40}", re.IGNORECASE)
_DESCRIBED = re.compile(r".+-\d+-g([0-9a-f]{4,40})", re.IGNORECASE)


def base_of(name: str) -> str:
    """A name without the steps back that follow it."""
    found = _NAME.fullmatch(name)
    return found[1] if found else name


def find_commit(objects: Objects, name: str) -> ObjectID | None:
    """The commit of a name such as ``v1.2~3``, ``@``, ``1a2b3c``, ``main^2`` or ``v1.2-4-g1a2b3c``.

    Returns:
        None if there is none.

    Raises:
        DatastreamError: several ids begin so.
    """
    found = _NAME.fullmatch(name)
    if found is None or len(name) > LONGEST:
        return None
    commit = _base(objects, found[1])
    for step in _STEP.finditer(found[2]):
        if commit is None:
            return None
        commit = _stepped(objects, commit, step)
    return commit


def _base(objects: Objects, name: str) -> ObjectID | None:
    if _ID.fullmatch(name):
        return _peeled(objects, ObjectID(name.lower().encode()))
    if name == "@":
        name = "HEAD"
    for form in _FORMS:
        found = _ref(objects, form.format(name))
        if found is not None:
            return found
    described = _DESCRIBED.fullmatch(name)
    part = described[1] if described else name
    return _beginning(objects, part.lower()) if _PART.fullmatch(part) else None


def _ref(objects: Objects, name: str) -> ObjectID | None:
    ref = Ref(name.encode("utf-8", "replace"))
    if not (_ROOT.fullmatch(name) or (name.startswith("refs/") and check_ref_format(ref))):
        return None
    found = objects.ref(ref)
    return None if found is None else _peeled(objects, found)


def _beginning(objects: Objects, part: str) -> ObjectID | None:
    """The only commit whose id begins so; tags that stand for it do not make it ambiguous."""
    found = {commit for name in objects.beginning(part) if (commit := _peeled(objects, name))}
    if len(found) > 1:
        raise DatastreamError(f"{shown(part)} begins several ids; write more of it")
    return next(iter(found), None)


def _peeled(objects: Objects, name: ObjectID) -> ObjectID | None:
    try:
        return objects.commit(name).id
    except (Damaged, KeyError):
        return None


def _stepped(objects: Objects, commit: ObjectID, step: re.Match[str]) -> ObjectID | None:
    back, parent = step[1], step[2]
    if back is not None:
        return next(_line(objects, commit, int(back or 1)), None)
    number = 0 if parent is None else int(parent or 1)
    if number == 0:
        return commit
    parents = objects.parents(commit)
    return parents[number - 1] if number <= len(parents) else None


def _line(objects: Objects, commit: ObjectID, back: int) -> Iterator[ObjectID]:
    """The commit that is `back` first parents earlier, if there is one."""
    for _ in range(back):
        parents = objects.parents(commit)
        if not parents:
            return
        commit = parents[0]
    yield commit

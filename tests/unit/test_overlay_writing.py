"""What a write to an overlay means for the layer that is written."""

import pytest

from datastream import Entry, KeyNotFound, ReadOnly, RevisionConflict, Write
from datastream._overlay.tombstone import TOMBSTONE
from datastream._overlay.writing import Around, Found, plan
from datastream.source import ANY_REVISION

OWN = Entry("k", b"own", "str", None, "r-own")
BELOW = Found("git", Entry("k", b"below", "str", None, "r-below"))
TOMB = Entry("k", TOMBSTONE, "str", None, "r-tomb")
HIDDEN_BELOW = Found("git", TOMB)


def put(expect=None, value=b"new"):
    return Write("k", value, "str", expect)


def hide(expect=None):
    return put(expect, TOMBSTONE)


@pytest.mark.parametrize(
    ("write", "around", "expect"),
    [
        (put(), Around(), None),
        (put(""), Around(), ""),
        (put("r-own"), Around(OWN, None, BELOW), "r-own"),
        (put("r-below"), Around(None, None, BELOW), ""),
        (put(""), Around(TOMB, None, BELOW), "r-tomb"),
        (put(""), Around(None, None, HIDDEN_BELOW), ""),
        (put(ANY_REVISION), Around(None, None, BELOW), None),
        (hide(ANY_REVISION), Around(None, None, BELOW), None),
        (hide(ANY_REVISION), Around(OWN, None, BELOW), ANY_REVISION),
        (hide("r-below"), Around(None, None, BELOW), ""),
    ],
)
def test_what_the_layer_has_to_hold(write, around, expect):
    planned = plan(write, around)
    assert (planned.expect, planned.value) == (expect, write.value)


@pytest.mark.parametrize(
    ("write", "around", "error"),
    [
        (put(), Around(above=Found("env", OWN)), ReadOnly),
        (put(""), Around(None, None, BELOW), RevisionConflict),
        (put("r-own"), Around(None, None, BELOW), RevisionConflict),
        (put("r-below"), Around(TOMB, None, BELOW), RevisionConflict),
        (put(ANY_REVISION), Around(TOMB, None, BELOW), KeyNotFound),
        (hide(ANY_REVISION), Around(), KeyNotFound),
        (put(None, None), Around(None, None, BELOW), ReadOnly),
        (put("other", None), Around(None, None, BELOW), RevisionConflict),
        (put(ANY_REVISION, None), Around(), KeyNotFound),
        (put(ANY_REVISION, None), Around(TOMB, None, BELOW), KeyNotFound),
        (put(None, None), Around(above=Found("env", OWN)), ReadOnly),
    ],
)
def test_what_is_refused(write, around, error):
    with pytest.raises(error, match="'k'"):
        plan(write, around)


@pytest.mark.parametrize(
    ("write", "around"),
    [
        (put(None, None), Around()),
        (put(None, None), Around(TOMB, None, BELOW)),
        (put(None, None), Around(None, None, HIDDEN_BELOW)),
        (hide(), Around()),
    ],
)
def test_what_writes_nothing(write, around):
    assert plan(write, around) is None


def test_a_delete_of_what_the_layer_holds_is_one():
    delete = put("r-own", None)
    assert plan(delete, Around(OWN, None, BELOW)) == delete

"""The values of a view: whole batches, pictures of one moment, what is refused; without threads."""

import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastream import Batch, ChangeBatch, Entry
from datastream._view.cache import in_chunks
from datastream._view.state import ViewState
from datastream._watch.values import reason_of
from datastream.entry import deleted


def put(key, value, revision="1"):
    return Entry(key, str(value).encode(), "int", None, revision)


def batch(*entries, **marks):
    return Batch(entries, **marks)


class Heard:
    """A listener that keeps what it is offered."""

    def __init__(self):
        self.batches = []

    def offer(self, item):
        self.batches.append(item)

    def end(self, error=None):
        raise AssertionError("nothing ends here")

    @property
    def changes(self):
        return [(c.key, c.old, c.new) for item in self.batches for c in item]


@pytest.fixture
def rejected():
    return []


@pytest.fixture
def state(rejected):
    return ViewState(None, rejected.append, keeps_rows=True)


def test_puts_and_deletes(state):
    state.apply(batch(put("a", 1), put("b", 2), initial=True, cursor="1"))
    state.apply(batch(deleted("a"), put("b", 3, "2"), put("c", 4), cursor="2"))
    assert (state.values, state.cursor, state.exists) == ({"b": 3, "c": 4}, "2", True)
    state.apply(batch(deleted("b")))
    assert state.values == {"c": 4}
    assert state.rows == {"c": (b"4", "int", "1")}


def test_listeners_get_what_follows_their_coming(state):
    state.apply(batch(put("a", 1)))
    everything, one = Heard(), Heard()
    state.listen(everything)
    state.listen(one, "b")
    state.apply(batch(put("a", 2, "2"), put("b", 1), author="Ann", message="why", cursor="2"))
    state.apply(batch(deleted("a")))
    assert everything.changes == [("a", 1, 2), ("b", None, 1), ("a", 2, None)]
    first = everything.batches[0]
    assert isinstance(first, ChangeBatch)
    assert (first.author, first.message, first.cursor) == ("Ann", "why", "2")
    assert one.changes == [("b", None, 1)]
    state.listeners.remove(everything)
    state.listeners.remove(one, "b")
    state.apply(batch(put("b", 2, "2")))
    assert len(everything.batches) == 2
    assert not state.listeners


def test_a_picture_stays_as_it_is_and_costs_a_copy_once(state):
    state.apply(batch(put("a", 1)))
    picture = state.picture()
    assert state.picture().values is picture.values
    state.apply(batch(put("a", 2, "2")))
    assert picture.values == {"a": 1}
    assert picture.rows == {"a": (b"1", "int", "1")}
    values = state.values
    state.apply(batch(put("b", 2)))
    assert state.values is values, "copied although nobody has a picture"


def test_a_commit_with_deletes_replaces_the_dict_at_once(state):
    state.apply(batch(put("a", 1), put("b", 1)))
    before = state.values
    state.apply(batch(deleted("a"), put("b", 2, "2")))
    assert before == {"a": 1, "b": 1}


def test_what_does_not_decode_leaves_the_last_good_value(state, rejected):
    state.apply(batch(put("a", 1), put("b", 1)))
    state.apply(batch(put("a", "x", "2"), put("b", 2, "2")))
    assert state.values == {"a": 1, "b": 2}
    assert state.refused["a"].rejected == rejected[0]
    assert (rejected[0].key, rejected[0].revision) == ("a", "2")
    assert "not a whole number" in rejected[0].reason
    state.apply(batch(put("a", "x", "2")))
    assert len(rejected) == 1, "told once for each revision"
    state.apply(batch(put("a", "y", "3")))
    assert len(rejected) == 2
    state.apply(batch(put("a", 3, "4")))
    assert (state.values, state.refused) == ({"a": 3, "b": 2}, {})


def test_a_refused_value_that_never_was_good_is_missing_and_its_delete_no_change(state):
    heard = Heard()
    state.listen(heard)
    state.apply(batch(put("a", "x")))
    assert state.values == {}
    state.apply(batch(deleted("a")))
    assert state.refused == {}
    assert heard.changes == []


def test_a_reset_removes_what_is_missing_and_decodes_what_differs_only(rejected):
    decoded = []
    state = ViewState(
        lambda value: decoded.append(value) or value, rejected.append, keeps_rows=True
    )
    state.apply(batch(put("a", 1), put("b", 1), put("c", 1)))
    heard = Heard()
    state.listen(heard)
    decoded.clear()
    state.apply(batch(put("a", 1), put("b", 2, "2"), reset=True))
    assert decoded == [2]
    assert sorted(heard.changes) == [("b", 1, 2), ("c", 1, None)]
    assert state.values == {"a": 1, "b": 2}


def test_convert_may_raise_anything(rejected):
    state = ViewState({1: "one"}.__getitem__, rejected.append)
    state.apply(batch(put("a", 1), put("b", 2)))
    assert state.values == {"a": "one"}
    assert rejected[0].reason == "KeyError: ***"


def test_reasons_of_pydantic_do_not_repeat_the_input():
    pydantic = pytest.importorskip("pydantic")
    with pytest.raises(pydantic.ValidationError) as caught:
        pydantic.TypeAdapter(dict[str, int]).validate_python({"pin": "hunter2"})
    reason = reason_of(caught.value, Entry("a", b'{"pin": "hunter2"}', "json"))
    assert "hunter2" not in reason
    assert reason.startswith("pin: Input should be")


@pytest.mark.parametrize(
    ("entry", "convert"),
    [
        (Entry("a", b"hunter2", "int"), None),
        (Entry("a", b"hunter2", "float"), None),
        (Entry("a", b"hunter2", "bool"), None),
        (Entry("a", b"hunter2", "json"), None),
        (Entry("a", b"x: hunter2: y", "application/yaml"), None),
        (Entry("a", b"x = hunter2", "application/toml"), None),
        (Entry("a", b"hunter2", "str"), float),
        (Entry("a", b"hunter2" * 100, "str"), float),
        (Entry("a", b'{"pin": ["hunter2"]}', "json"), lambda value: float(value["pin"][0])),
        (Entry("a", b"hunter2", "str"), {}.__getitem__),
    ],
)
def test_reasons_do_not_quote_the_value(entry, convert, rejected):
    ViewState(convert, rejected.append).apply(batch(entry))
    assert rejected[0].reason
    assert "hunter" not in rejected[0].reason


entries = st.dictionaries(
    st.sampled_from("abcd"), st.none() | st.sampled_from(["1", "2", "x", "1_0", "inf"])
)


@given(st.lists(entries, max_size=6))
def test_it_is_what_a_dict_would_be(commits):
    rejected = []
    state = ViewState(None, rejected.append, keeps_rows=True)
    heard, model, told = Heard(), {}, {}
    state.listen(heard)
    for number, commit in enumerate(commits):
        picture, before = state.picture(), dict(state.values)
        made = [
            deleted(key) if value is None else put(key, value, f"{number}")
            for key, value in commit.items()
        ]
        state.apply(batch(*made))
        for key, value in commit.items():
            if value is None:
                model.pop(key, None)
            elif value.isdecimal():
                model[key] = int(value)
        assert state.values == model
        assert picture.values == before
    for key, old, new in heard.changes:
        assert told.get(key) == old
        told[key] = new
    assert {key: new for key, new in told.items() if new is not None} == model
    # What a cache would keep begins another state with the same values.
    other = ViewState(None, rejected.append, keeps_rows=True)
    other.restore(in_chunks(state.rows), "cursor")
    assert (other.values, other.rows, other.cursor) == (state.values, state.rows, "cursor")


def test_readers_never_see_half_a_commit():
    state = ViewState(None, print)
    keys = [f"k{n}" for n in range(200)]
    state.apply(batch(*(put(key, 0) for key in keys)))
    stop, torn = threading.Event(), []

    def read():
        while not stop.is_set():
            # The first key is written first: who sees it new must see the last one new.
            first = state.values[keys[0]]
            if state.values[keys[-1]] < first:
                torn.append(first)

    threads = [threading.Thread(target=read) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for number in range(1, 300):
            made = [put(key, number, str(number)) for key in keys]
            if number % 3 == 0:
                made.append(deleted(f"extra{number - 3}"))
                made.append(put(f"extra{number}", number))
            state.apply(batch(*made))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert not torn

from hypothesis import given
from hypothesis import strategies as st

from datastream import Entry, Operation
from datastream._watch.diff import difference, is_news
from datastream.entry import deleted

revisions = st.dictionaries(st.sampled_from("abcde"), st.sampled_from("123"))


def learn(known, changes):
    for entry in changes:
        if entry.operation is Operation.DELETE:
            known.pop(entry.key)
        else:
            known[entry.key] = entry.revision


def entries(state):
    return [Entry(key, revision=revision) for key, revision in state.items()]


@given(revisions, revisions)
def test_learning_the_difference_leads_to_the_state(known, state):
    changes = difference(known, entries(state))
    assert all(is_news(known, change) for change in changes)
    learned = dict(known)
    learn(learned, changes)
    assert learned == state
    assert difference(learned, entries(state)) == []


@given(revisions)
def test_what_is_known_is_no_news(known):
    assert not any(is_news(known, entry) for entry in entries(known))
    assert not is_news(known, deleted("never seen"))


def test_deletes_come_first_and_carry_no_revision():
    changes = difference({"a": "1", "b": "1"}, [Entry("b", revision="2")])
    assert [(c.key, c.operation, c.revision) for c in changes] == [
        ("a", Operation.DELETE, ""),
        ("b", Operation.PUT, "2"),
    ]

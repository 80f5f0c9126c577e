"""A document over a holder that does what a real one does at the worst of moments."""

import pytest

from datastream import Batch, Entry, Operation, Selection, SourceUnavailable
from datastream.source import WRITING
from datastream.sources.document import DocumentSource
from datastream.sources.document import source as source_module

EVERYTHING = Selection()


class Holder:
    """Answers `get` with one text after the other, the last one again and again."""

    name = "holder"
    features = WRITING

    def __init__(self, *texts):
        self.texts = list(texts)
        self.caught_up = 0
        self.sink = None

    def get(self, key):
        text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
        return None if text is None else Entry(key, text, "text/plain", None, repr(text))

    def offer(self, text):
        self.sink.offer(Batch((Entry("s.toml", text, "text/plain", None, repr(text)),)))

    def follow(self, selection, sink):
        self.sink = sink
        return lambda: None

    def follow_status(self, changed):
        return lambda: None

    def catch_up(self):
        self.caught_up += 1

    def close(self):
        pass


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(source_module, "SETTLED", 0.001)


def opened(*texts, **options):
    holder = Holder(*texts)
    return holder, DocumentSource(holder, "s.toml", **options)


def keys(reading):
    return sorted(entry.key for entry in reading.entries)


def test_a_file_that_lost_keys_has_to_stay_like_that():
    whole, half = b"a = 1\nb = 2\n", b"a = 1\n"
    _, source = opened(whole, half, half + b"b =", b"a = 9\nb = 2\n", torn=True)
    since = source.read(EVERYTHING, None).position
    with pytest.raises(SourceUnavailable):
        # Half of a line is no document; what is read after it is.
        source.read(EVERYTHING, None)
    assert keys(source.read(EVERYTHING, since)) == ["a", "b"]
    _, source = opened(whole, half, whole, torn=True)
    source.read(EVERYTHING, None)
    assert keys(source.read(EVERYTHING, None)) == ["a", "b"], "half of it was believed"
    _, source = opened(whole, half, torn=True)
    source.read(EVERYTHING, None)
    assert keys(source.read(EVERYTHING, None)) == ["a"], "it stays like that"


def test_what_other_stores_hold_is_never_half():
    _, source = opened(b"a = 1\nb = 2\n", b"a = 1\n", b"a = 1\nb = 2\n")
    source.read(EVERYTHING, None)
    assert keys(source.read(EVERYTHING, None)) == ["a"]


def test_a_file_that_changes_all_the_time_is_trouble():
    texts = [b"a = 1\nb = 2\n", *(b"c%d = 1\n" % n for n in range(2 * source_module.SETTLES))]
    _, source = opened(*texts, torn=True)
    source.read(EVERYTHING, None)
    with pytest.raises(SourceUnavailable, match="all the time"):
        source.read(EVERYTHING, None)


def test_what_was_read_ahead_of_the_holders_news_is_caught_up_with():
    holder, source = opened(b"a = 1\n", b"a = 1\n", b"a = 2\n", b"a = 2\n", b"a = 1\n")
    since = source.read(EVERYTHING, None).position
    source.read(EVERYTHING, since)
    assert holder.caught_up == 1, "nothing was offered yet"
    holder.offer(b"a = 1\n")
    since = source.read(EVERYTHING, since).position
    assert holder.caught_up == 2, "a change back to 1 would be no news to the holder"
    holder.offer(b"a = 2\n")
    source.read(EVERYTHING, since)
    assert holder.caught_up == 2
    back = source.read(EVERYTHING, since)
    assert [entry.value for entry in back.entries] == [b"1"]


def test_while_it_is_watched_its_last_good_state_stands():
    _, source = opened(b"a = 1\n", b"a = 1\n", b"a = ", None, b"a = 2\n")
    since = source.read(EVERYTHING, None).position
    assert source.read(EVERYTHING, since).entries == ()
    for word in ("no TOML", "create=True"):
        assert source.read(EVERYTHING, since).position == since
        assert word in str(source.health.error)
    assert [entry.value for entry in source.read(EVERYTHING, since).entries] == [b"2"]
    assert source.health.error is None
    source.release()


def test_history_leaves_out_what_changed_elsewhere_in_the_document():
    from datastream import Revision
    from datastream._formats import format_of
    from datastream.sources.document.holder import history_of

    texts = (b"b = 1\n", b"a = 2\nb = 1\n", b"a = 2\n", b"a = ", b"a = 1\n")
    revisions = [Revision(Entry("s.toml", text), point=str(n)) for n, text in enumerate(texts)]
    found = list(history_of("a", iter(revisions), format_of("s.toml")))
    assert [(r.point, r.entry.operation) for r in found] == [
        ("0", Operation.DELETE),
        ("2", Operation.PUT),
        ("3", Operation.DELETE),
        ("4", Operation.PUT),
    ]

"""A stream's messages: which are published as they come, and which wait to be read."""

import threading

import pytest
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._stream import EVERYTHING, Stream


class Running:
    def cancel(self):
        pass


class Setting:
    """A stream that has begun at "p1", beside watchers who are told what they publish."""

    def __init__(self):
        self.position = "p1"
        self.news = threading.Event()
        self.published = []
        self.stream = Stream(
            lambda request, sink: Running(),
            EVERYTHING,
            "p1",
            told=pytest.fail,
            changed=lambda entries: None,
            position=str,
            news=self.news,
            publish=self.publish,
        )
        self.bring("p1")
        self.has_news()

    def publish(self, stream, change):
        assert stream is self.stream
        takes = change.since == self.position
        if takes:
            self.position = change.position
            self.published.append(sorted((e.key, e.revision) for e in change.entries))
        return takes

    def bring(self, cursor, reset=False, unread=(), **revisions):
        data = {key: pb.Data(key=key, revision=rev) for key, rev in revisions.items()}
        self.stream.take(pb.DataResponse(data=data, cursor=cursor, reset=reset, unread=unread))

    def has_news(self):
        """Whether something has to be read."""
        has_news = self.news.is_set()
        self.news.clear()
        return has_news

    def read(self):
        """What is read from where the watchers are; they are then where that ends."""
        reading = self.stream.after(self.position)
        self.position = reading.position
        return {entry.key: entry.revision for entry in reading.entries}


@pytest.fixture
def it():
    return Setting()


def test_what_begins_where_the_watchers_are_is_published_at_once(it):
    it.bring("p2", a="1")
    it.bring("p3", b="1", c="1")
    assert it.published == [[("a", "1")], [("b", "1"), ("c", "1")]]
    assert not it.has_news()
    assert it.read() == {}


def test_what_begins_elsewhere_is_read(it):
    it.position = "p0"
    it.bring("p2", a="1")
    assert it.has_news()
    it.position = "p1"
    assert it.read() == {"a": "1"}
    it.bring("p3", a="2")
    assert it.published == [[("a", "2")]]


def test_what_was_published_is_there_for_one_that_reads_just_now(it):
    it.bring("p2", a="1")
    it.position = "p1"
    assert it.read() == {"a": "1"}


def test_a_quiet_cursor_moves_the_watchers(it):
    it.bring("p2")
    assert (it.published, it.position, it.has_news()) == ([[]], "p2", False)


@pytest.mark.parametrize("special", [{"reset": True}, {"unread": ["u"]}])
def test_what_is_more_than_a_change_is_read(it, special):
    it.bring("p2", a="1", **special)
    assert (it.published, it.has_news()) == ([], True)


def test_what_follows_two_messages_of_one_position_is_read(it):
    """Who is at that position may have had only the first of the two."""
    it.position = "elsewhere"
    it.bring("p2", a="1")
    it.bring("p2", a="2")
    it.position = "p2"
    it.bring("p3", a="3")
    assert it.published == []
    assert it.read() == {"a": "3"}
    it.bring("p4", a="4")
    assert it.published == [[("a", "4")]]


def test_messages_that_were_published_are_not_kept(it):
    for number in range(2, 100):
        it.bring(f"p{number}", a=str(number))
    assert len(it.stream._messages) == 1

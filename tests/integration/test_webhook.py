"""Webhooks, against a real HTTP server."""

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import datastream
from datastream import InvalidValue, SourceUnavailable
from datastream.consume import Retry, Undeliverable, verify
from tests.integration._programs.tools import eventually

QUICK = Retry(5, 0.001, 0.002)
SECRET = "s3cret-of-the-hook"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


class Receiver:
    """Answers with what is queued, else 200; keeps what it got."""

    def __init__(self):
        self.answers = deque()
        self.requests = []
        self.release = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((dict(self.headers), body))
                status, headers = receiver.answers.popleft() if receiver.answers else (200, {})
                if status == "hang":
                    receiver.release.wait(30)
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in ({"Content-Length": "2"} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_):
                pass

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/T0KEN"
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self.thread.start()

    def close(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def hook(receiver):
    made = datastream.webhook(receiver.url, secret=SECRET, timeout=5)
    yield made
    made.close()


def test_changes_arrive_signed(receiver, hook, tmp_path):
    with datastream.open("memory:") as store:
        with store.consume(hook, place=tmp_path / "place") as consumer:
            entry = store.put("a", {"b": 1})
            store.put("raw", b"\xff")
            del store["a"]
            assert consumer.flush(30)
    contents = [json.loads(body) for _, body in receiver.requests]
    assert contents[0] == {
        "key": "a",
        "operation": "PUT",
        "value_type": "json",
        "revision": entry.revision,
        "updated_at": entry.updated_at.isoformat(),
        "value": '{"b":1}',
    }
    assert contents[1]["value_base64"] == "/w=="
    assert contents[2]["operation"] == "DELETE"
    for headers, body in receiver.requests:
        assert headers["Content-Type"] == "application/json"
        signature = headers["X-Datastream-Signature"]
        assert verify(SECRET, signature, body)
        assert not verify("another", signature, body)
        assert not verify(SECRET, signature, body + b" ")
        assert not verify(SECRET, signature, body, tolerance=-1)
    assert len({headers["X-Datastream-Delivery"] for headers, _ in receiver.requests}) == 3


@pytest.mark.parametrize(
    "signature", ["", "t=", "t=x,v1=y", "t=1,v1=", "t=" + "9" * 99, "t=²,v1=é"]
)
def test_a_signature_that_is_none_verifies_nothing(signature):
    assert not verify(SECRET, signature, b"{}")


def test_trouble_of_the_receiver_is_tried_again(receiver, hook, tmp_path):
    receiver.answers.extend(
        [(503, {}), (500, {"Retry-After": "0"}), (429, {"Retry-After": "soon"})]
    )
    with datastream.open("memory:") as store:
        with store.consume(hook, place=tmp_path / "place", retry=QUICK) as consumer:
            store["a"] = 1
            assert consumer.flush(30)
    assert len(receiver.requests) == 4
    # What is sent again can be told from what is new.
    assert len({headers["X-Datastream-Delivery"] for headers, _ in receiver.requests}) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((400, {}), "answered 400 Bad Request"),
        ((404, {}), "answered 404"),
        ((302, {"Location": "http://127.0.0.1:1/"}), "redirects are not followed"),
    ],
)
def test_a_refusal_is_not_tried_again(receiver, hook, tmp_path, answer, words):
    receiver.answers.append(answer)
    with datastream.open("memory:") as store:
        consumer = store.consume(hook, place=tmp_path / "place", retry=None)
        store["a"] = 1
        with pytest.raises(datastream.DatastreamError, match=words) as caught:
            consumer.wait(30)
    assert isinstance(caught.value.__cause__, Undeliverable)
    assert "T0KEN" not in str(caught.value)
    assert len(receiver.requests) == 1


def test_a_receiver_that_says_when_is_asked_then(receiver, hook):
    receiver.answers.append((503, {"Retry-After": "7"}))
    with pytest.raises(SourceUnavailable) as caught:
        hook(datastream.Entry("a"))
    assert caught.value.retry_after == 7.0


def test_a_receiver_leaves_no_cookies(receiver, hook):
    receiver.answers += [(200, {"Set-Cookie": f"name{n}={'x' * 4000}; Path=/"}) for n in range(3)]
    for _ in range(4):
        hook(datastream.Entry("a"))
    assert [headers for headers, _ in receiver.requests if "Cookie" in headers] == []


def test_one_that_hangs_keeps_no_connection_from_others(receiver):
    hanging = 105
    receiver.answers += [("hang", {})] * hanging
    with datastream.open("memory:") as store:
        hook = datastream.webhook(receiver.url, timeout=30)
        with store.consume(hook, place=None, retry=1, concurrency=hanging + 1) as consumer:
            store.put_many({f"k{n}": n for n in range(hanging)})
            eventually(lambda: len(receiver.requests) == hanging, "all hang")
            store["one more"] = 1
            eventually(lambda: consumer.counts.handled == 1, "one is taken")
            receiver.release.set()
        hook.close()


def test_a_receiver_that_hangs_or_is_away(receiver):
    receiver.answers.append(("hang", {}))
    hook = datastream.webhook(receiver.url, timeout=0.05)
    with pytest.raises(SourceUnavailable, match=r"127.0.0.1:\d+: ReadTimeout") as caught:
        hook(datastream.Entry("a"))
    assert "T0KEN" not in str(caught.value)
    hook.close()
    hook = datastream.webhook("http://127.0.0.1:1/x")
    with pytest.raises(SourceUnavailable, match="ConnectError"):
        hook(datastream.Entry("a"))
    hook.close()


@pytest.mark.parametrize(
    "headers",
    [{"Content-Length": "50"}, {"Content-Encoding": "gzip"}, {"Content-Length": "4000000000"}],
    ids=["cut", "no gzip", "endless"],
)
def test_what_was_taken_is_taken_whatever_is_wrong_with_the_rest(receiver, headers):
    receiver.answers.append((200, headers))
    hook = datastream.webhook(receiver.url, timeout=0.1)
    hook(datastream.Entry("a"))
    hook.close()
    assert len(receiver.requests) == 1


def test_batches_are_sent_whole(receiver, hook, tmp_path):
    with datastream.open("memory:") as store:
        with store.consume(hook, place=tmp_path / "place", batch=True) as consumer:
            store.put_many({"a": 1, "b": 2})
            assert consumer.flush(30)
    [(_, body)] = receiver.requests
    assert [entry["key"] for entry in json.loads(body)["entries"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("url", "more"),
    [
        ("ftp://x", {}),
        ("https://", {}),
        ("http://[::1", {}),
        ("http://x:99999/", {}),
        ("http://x", {"secret": ""}),
        *(("http://x", {"timeout": number}) for number in (0, -1, float("nan"), 1e300, "5")),
        *(("http://x", {"headers": h}) for h in ({"X": "a\nb"}, {"X": 5}, {"ü": "x"}, {"": "x"})),
        *(("http://x", {"headers": {"X": text}}) for text in ("its secret ", " its secret")),
        *(
            ("http://x", {"headers": {name: "its secret"}})
            for name in ("X y", "X:", "Content-Length")
        ),
        ("http://xn--a/x", {}),
    ],
)
def test_what_makes_no_webhook_is_refused(url, more):
    with pytest.raises(InvalidValue, match="of a webhook") as raised:
        datastream.webhook(url, **more)
    assert "its secret" not in str(raised.value)


def test_what_cannot_be_sent_is_not_tried_again():
    hook = datastream.webhook(f"http://{'a' * 300}/")
    with pytest.raises(Undeliverable, match="UnicodeError"):
        hook(datastream.Entry("a"))
    hook.close()


def test_nothing_of_it_shows_a_secret(hook):
    assert "T0KEN" not in repr(hook)
    assert SECRET not in repr(hook)

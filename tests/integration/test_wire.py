"""The ancestor's clients and servers and ours, byte by byte."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import datastream_grpc
import grpc
import pytest

import datastream
from datastream import (
    InvalidValue,
    KeyNotFound,
    Operation,
    SourceUnavailable,
    State,
    Unsupported,
)
from datastream._watch import feed
from tests.integration._programs import ancestor
from tests.integration._programs.tools import (
    TIMEOUT,
    Follower,
    Statuses,
    database,
    eventually,
    never,
)

YEAR_2020 = 1577836800


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    url = "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'store.db'}"
    with datastream.open(url) as store:
        yield store


@pytest.fixture
def server(store):
    with datastream_grpc.serve(store, "127.0.0.1:0") as server:
        yield server


@pytest.fixture
def client(server):
    with ancestor.Client(server.address) as client:
        yield client


def values(data):
    assert all(key == entry.key for key, entry in data.items())
    return {key: entry.value for key, entry in data.items()}


class Stream:
    """What an ancestor's client knows from its stream."""

    def __init__(self, call):
        self.call = call
        self.messages = []
        self.state = {}

    def next(self):
        message = next(self.call)
        self.messages.append(message)
        self.state |= values(message.data)
        return values(message.data)

    def until(self, expected):
        while self.state != expected:
            self.next()


# --- (a) the ancestor's client, our server ---


def test_the_committed_proto_keeps_the_ancestors_names_and_numbers():
    text = Path("proto/datastream_kv/service.proto")
    if not text.exists():
        pytest.skip("not in a source tree")
    proto = re.sub(r"//.*", "", text.read_text())
    for wanted in (
        "package datastream;",
        "rpc ListCapabilities(ListCapabilitiesRequest) returns (ListCapabilitiesResponse)",
        "rpc Sync(DataRequest) returns (DataResponse)",
        "rpc Subscribe(DataRequest) returns (stream DataResponse)",
        "rpc PushUpdate(Data) returns (google.protobuf.Empty)",
        "repeated Capability capabilities = 1;",
        "repeated string keys = 1;",
        "map<string, Data> data = 1;",
        "string key = 1;",
        "bytes value = 2;",
        "string value_type = 3;",
        "google.protobuf.Timestamp updated_at = 4;",
        "string value_type = 2;",
    ):
        assert wanted in proto


def test_a_push_in_bytes(client, store):
    """Data{key: "k", value: "v", value_type: "str", updated_at{seconds: 1577836800}}."""
    request = b"\x0a\x01k\x12\x01v\x1a\x03str\x22\x06\x08\x80\xc2\xaf\xf0\x05"
    assert client.raw("PushUpdate", request) == b""
    entry = store.entry("k")
    assert (entry.value, entry.value_type) == (b"v", "str")
    assert entry.updated_at == datetime(2020, 1, 1, tzinfo=UTC)


def test_a_sync_in_bytes(client, store):
    """DataResponse begins with field 1, an entry {1: key, 2: Data with fields 1 to 4}."""
    store.put("k", "v", updated_at=datetime(2020, 1, 1, tzinfo=UTC))
    ancestors = b"\x0a\x01k\x12\x01v\x1a\x03str\x22\x06\x08\x80\xc2\xaf\xf0\x05"
    for response in (
        client.raw("Sync", b"\x0a\x01k"),
        next(client.raw_stream("Subscribe", b"\x0a\x01k")),
    ):
        # What follows field 4 within Data, and field 1 within the response, is ours.
        assert ancestors in response
        assert response[:1] == b"\x0a"
        assert response[2:6] == b"\x0a\x01k\x12"
        length = response[6]
        data = response[7 : 7 + length]
        assert data.startswith(ancestors)
        rest = data[len(ancestors) :]
        assert rest[:1] == b"\x2a"  # field 5, revision: skipped by who does not know it
        parsed = ancestor.DataResponse.FromString(response)
        assert values(parsed.data) == {"k": b"v"}
        assert parsed.data["k"].updated_at.seconds == YEAR_2020


def test_capabilities_in_bytes(client, store):
    store["k"] = "v"
    assert client.raw("ListCapabilities", b"") == b"\x0a\x08\x0a\x01k\x12\x03str"


def test_sync_leaves_missing_keys_out(client, store):
    store["a"] = 1
    assert values(client.sync("a", "missing")) == {"a": b"1"}
    assert client.sync("missing") == {}


def test_no_keys_are_all_keys(client, store):
    store.put_many({"a": 1, "fx/b": 2})
    assert values(client.sync()) == {"a": b"1", "fx/b": b"2"}
    stream = Stream(client.subscribe())
    assert stream.next() == {"a": b"1", "fx/b": b"2"}
    store["new"] = 3
    assert stream.next() == {"new": b"3"}


def test_subscribe_to_a_missing_key_waits_for_it(client, store):
    store["there"] = 1
    stream = Stream(client.subscribe("missing", "there"))
    assert stream.next() == {"there": b"1"}
    store["missing"] = 2
    assert stream.next() == {"missing": b"2"}


def test_subscribe_gets_current_values_at_once_and_several_keys_live(client, store):
    store.put_many({"a": 1, "b": 2, "c": 3})
    stream = Stream(client.subscribe("a", "b"))
    assert stream.next() == {"a": b"1", "b": b"2"}
    store.put_many({"a": 10, "b": 20, "c": 30})
    assert stream.next() == {"a": b"10", "b": b"20"}
    store["b"] = 200
    assert stream.next() == {"b": b"200"}


def test_two_updates_in_one_second_both_arrive(client, store):
    stream = Stream(client.subscribe("k"))
    stream.next()
    client.push("k", b"1", seconds=YEAR_2020)
    client.push("k", b"2", seconds=YEAR_2020)
    stream.until({"k": b"2"})
    client.push("k", b"1", seconds=YEAR_2020)
    stream.until({"k": b"1"})


def test_a_push_without_a_time_gets_the_servers(client, store):
    stream = Stream(client.subscribe("k"))
    stream.next()
    client.push("k", b"v")
    stream.until({"k": b"v"})
    sent = stream.messages[-1].data["k"].updated_at.seconds
    assert abs(sent - datetime.now(UTC).timestamp()) < 60


def test_a_push_with_a_future_time_masks_nothing(client, store):
    stream = Stream(client.subscribe("k"))
    stream.next()
    client.push("k", b"future", seconds=32503680000)
    stream.until({"k": b"future"})
    client.push("k", b"now")
    stream.until({"k": b"now"})
    client.push("k", b"past", seconds=1)
    stream.until({"k": b"past"})
    assert client.sync("k")["k"].updated_at.seconds == 1


def test_a_time_that_is_none_is_refused(client, store):
    with pytest.raises(grpc.RpcError) as error:
        client.push("k", b"v", seconds=10**15)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "k" not in store


def test_the_same_value_pushed_again_emits_nothing(client, store):
    stream = Stream(client.subscribe())
    stream.next()
    for _ in range(3):
        client.push("k", b"v", seconds=YEAR_2020)
    client.push("k", b"v", seconds=YEAR_2020 + 5)
    client.push("end", b"")
    assert stream.next() == {"k": b"v"}
    assert stream.next() == {"end": b""}


def test_unchanged_rows_are_never_sent_again(client, store):
    store.put_many({f"k/{number}": number for number in range(100)})
    stream = Stream(client.subscribe())
    assert len(stream.next()) == 100
    for number in range(5):
        store["k/1"] = -number
        assert stream.next() == {"k/1": b"%d" % -number}


def test_a_client_that_does_not_ask_is_sent_no_deletes(client, store):
    store.put_many({"a": 1, "b": 1})
    stream = Stream(client.subscribe())
    assert stream.next() == {"a": b"1", "b": b"1"}
    store.delete("a")
    store["b"] = 2
    assert stream.next() == {"b": b"2"}
    store["a"] = 3
    assert stream.next() == {"a": b"3"}
    assert values(client.sync()) == {"a": b"3", "b": b"2"}


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../b", ".", "C:\\x"])
def test_paths_are_keys_and_touch_no_file(client, store, key, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    client.push(key, b"v")
    assert values(client.sync(key)) == {key: b"v"}
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert not (tmp_path.parent / "x").exists()


@pytest.mark.parametrize("key", ["", "fx/", "a\0b", "k" * 20_000])
def test_bad_keys_are_invalid_arguments(client, store, key):
    with pytest.raises(grpc.RpcError) as error:
        client.push(key, b"v")
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(store) == 0


def test_a_value_over_the_limit_is_resource_exhausted_and_a_big_one_arrives(client, store):
    stream = Stream(client.subscribe("big"))
    stream.next()
    with pytest.raises(grpc.RpcError) as error:
        client.push("big", b"x" * (5 << 20))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "big" not in store
    client.push("big", b"x" * (3 << 20))
    stream.until({"big": b"x" * (3 << 20)})


def test_a_large_initial_state_is_split_for_a_client_with_the_default_limit(client, store):
    expected = {f"k/{number}": b"%0100000d" % number for number in range(100)}
    store.put_many(expected)
    stream = Stream(client.subscribe())
    stream.until(expected)
    assert len(stream.messages) > 2


def test_with_the_backend_down_the_stream_stays_and_calls_are_unavailable(tmp_path):
    path, away = tmp_path / "store.db", tmp_path / "away"
    with database(path, "PRAGMA journal_mode=delete"), datastream.open(f"sqlite:{path}") as store:
        store["k"] = 1
        with (
            datastream_grpc.serve(store, "127.0.0.1:0") as server,
            ancestor.Client(server.address) as client,
        ):
            stream = Stream(client.subscribe())
            assert stream.next() == {"k": b"1"}
            statuses = Statuses(store)
            with database(path) as db:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            path.replace(away)
            statuses.wait(State.STALE)
            for call in (lambda: client.sync("k"), client.list, lambda: client.push("k", b"2")):
                with pytest.raises(grpc.RpcError) as error:
                    call()
                assert error.value.code() is grpc.StatusCode.UNAVAILABLE
            away.replace(path)
            statuses.wait(State.READY)
            client.push("k", b"2")
            assert stream.next() == {"k": b"2"}


def test_a_client_that_is_gone_is_released_at_once(client, store):
    streams = [Stream(client.subscribe()) for _ in range(10)]
    for stream in streams:
        stream.next()
    (route,) = store._core._publisher.routes.all()
    assert len(route.subscriptions) == 10
    for stream in streams[:9]:
        stream.call.cancel()
    eventually(lambda: len(route.subscriptions) == 1, "nine are released")
    client.channel.close()
    eventually(lambda: not store._core._publisher.routes, "the last is released")


def test_the_value_type_is_as_stored(client, store):
    for number, kind in enumerate(["int", "text/plain", "application/x-own", "yaml"]):
        client.push(f"k{number}", b"1", kind)
        assert client.sync(f"k{number}")[f"k{number}"].value_type == kind
        assert client.list()[f"k{number}"] == kind
    client.push("none", b"1", "")
    assert client.sync("none")["none"].value_type == client.list()["none"] == "bytes"


@pytest.mark.parametrize("value", [b"12", b"1.1", b"1e+06", b"-0.5"])
def test_a_float_as_a_go_program_prints_it_is_taken_by_files_too(tmp_path, value):
    with (
        datastream.open(f"file:{tmp_path}") as files,
        datastream_grpc.serve(files, "127.0.0.1:0") as server,
        ancestor.Client(server.address) as client,
    ):
        client.push("rate", value, "float")
        assert values(client.sync("rate")) == {"rate": value}
        assert files["rate"] == float(value)


def test_a_key_ending_in_a_slash_is_a_prefix(client, store):
    store.put_many({"fx/a": 1, "fx/b/c": 2, "fxa": 3})
    assert values(client.sync("fx/")) == {"fx/a": b"1", "fx/b/c": b"2"}
    stream = Stream(client.subscribe("fx/"))
    assert stream.next() == {"fx/a": b"1", "fx/b/c": b"2"}
    store["fxa"] = store["fx/d"] = 4
    assert stream.next() == {"fx/d": b"4"}


def test_an_unknown_method_and_an_unknown_service_are_unimplemented(client):
    for method in (f"/{ancestor.SERVICE}/NoSuch", "/datastream.Other/Sync"):
        with pytest.raises(grpc.RpcError) as error:
            client.channel.unary_unary(method)(b"", timeout=20)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("method", ["Sync", "PushUpdate", "ListCapabilities"])
def test_bytes_that_are_no_message_harm_nobody(client, store, method):
    with pytest.raises(grpc.RpcError):
        client.raw(method, b"\xff\xff\xff")
    store["k"] = 1
    assert values(client.sync()) == {"k": b"1"}


def test_fields_that_nobody_knows_are_ignored(client, store):
    """Field 15 of a request from a future client."""
    assert client.raw("PushUpdate", b"\x0a\x01k\x12\x01v\x7a\x03new") == b""
    assert store["k"] == b"v"
    assert values(ancestor.DataResponse.FromString(client.raw("Sync", b"\x7a\x01x")).data)


# --- (b) our client, the ancestor's server ---


@pytest.fixture
def old():
    with ancestor.Server() as server:
        yield server


@pytest.fixture
def remote(old):
    with datastream.open(f"grpc://{old.address}") as store:
        yield store


def test_reads_and_lists_an_ancestors_server(old, remote):
    old.put("a", b"1", "int", seconds=YEAR_2020)
    old.put("fx/b", b"x")
    assert dict(remote) == {"a": 1, "fx/b": "x"}
    assert remote.entry("a").updated_at == datetime(2020, 1, 1, tzinfo=UTC)
    assert set(remote.snapshot("a", "missing")) == {"a"}
    with pytest.raises(KeyNotFound, match="'missing'"):
        remote["missing"]


def test_a_put_to_an_ancestors_server_in_bytes(old, remote):
    entry = remote.put("k", 20, updated_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert (entry.value, entry.value_type, remote["k"]) == (b"20", "int", 20)
    pushed = b"\x0a\x01k\x12\x0220\x1a\x03int\x22\x06\x08\x80\xc2\xaf\xf0\x05"
    assert pushed in old.requests
    assert remote.entry("k").revision == entry.revision


def test_a_put_without_a_time_sends_ours(old, remote):
    """It would store 1970 and never show the value to its subscribers."""
    remote["k"] = 1
    sent = old.data["k"].updated_at.seconds
    assert abs(sent - datetime.now(UTC).timestamp()) < 60


def test_what_the_ancestor_cannot_do_is_unsupported_and_does_nothing(old, remote):
    old.put("k", b"1", "int")
    revision = remote.entry("k").revision
    for call in (
        lambda: remote.delete("k"),
        lambda: remote.put("k", 2, expect=revision),
        lambda: remote.put("new", 2, expect=""),
        lambda: remote.put_many({"k": 2, "l": 2}),
        remote.clear,
    ):
        with pytest.raises(Unsupported, match="older protocol"):
            call()
    assert dict(remote) == {"k": 1}


@pytest.mark.parametrize("habit", [{}, {"one_by_one": True}, {"resend": True}, {"silent": True}])
def test_follows_an_ancestors_server(habit):
    with (
        ancestor.Server(**habit) as old,
        datastream.open(f"grpc://{old.address}", timeout=2.0) as remote,
    ):
        for key in ("a", "b", "c"):
            old.put(key, b"0")
        batches = []
        follower = Follower(remote)
        some = Follower(remote, "a", "b")
        remote.watch_batches().subscribe(batches.append)
        follower.wait_state({"a": b"0", "b": b"0", "c": b"0"})
        some.wait_state({"a": b"0", "b": b"0"})
        assert batches[0].initial
        eventually(lambda: old.streams, "a stream")
        for number in range(1, 20):
            old.put("a", b"%d" % number)
            old.put("d", b"%d" % number)
            follower.wait(lambda s, n=number: (s.get("a"), s.get("d")) == (b"%d" % n,) * 2)
        assert follower.state == {"a": b"19", "b": b"0", "c": b"0", "d": b"19"}
        some.wait_state({"a": b"19", "b": b"0"})
        _never_repeated(follower)
        _never_repeated(some)
        assert not [e for e in follower.entries if e.operation is Operation.DELETE]


def _never_repeated(follower):
    last = {}
    for entry in follower.entries:
        assert last.get(entry.key) != (entry.value, entry.value_type), f"{entry.key} repeated"
        last[entry.key] = (entry.value, entry.value_type)


class Polling(ancestor.Server):
    """Answers at once with what its poller tells the stream a moment later."""

    def __init__(self):
        super().__init__()
        self.changed_unseen, self.poll = False, threading.Event()

    def _sync(self, request, context):
        if self.streams and not self.changed_unseen:
            self.changed_unseen = True
            self.data["k"] = ancestor.Data(key="k", value=b"2", value_type="int")
        return super()._sync(request, context)


def test_a_slow_poller_of_an_ancestors_server_does_not_make_a_key_go_back():
    with Polling() as old, datastream.open(f"grpc://{old.address}", timeout=2.0) as remote:
        old.put("k", b"1", "int")
        follower = Follower(remote, "k")
        eventually(lambda: old.streams, "a stream")
        # The stream has begun with the old value by now, and a later question gets the new one.
        never(lambda: follower.state == {}, "an empty state", 0.3)
        remote.snapshot()
        old.put("k", b"2", "int")
        follower.wait_key("k", b"2")
        old.put("end", b"")
        never(lambda: len(follower.entries) > 2, "a key goes back", 0.3)
        assert [entry.decode() for entry in follower.entries] == [1, 2]


@pytest.mark.parametrize("habit", [{}, {"silent": True}, {"silent": True, "strict": True}])
def test_waits_for_a_key_an_ancestors_server_does_not_have_yet(habit):
    with (
        ancestor.Server(**habit) as old,
        datastream.open(f"grpc://{old.address}", timeout=2.0) as remote,
    ):
        follower, statuses = Follower(remote, "late"), Statuses(remote)
        eventually(lambda: old.streams or habit.get("strict"), "a stream")
        # Longer than a call may take: that nothing comes is no trouble.
        never(lambda: State.STALE in statuses.states, "STALE", 2.5)
        old.put("late", b"1")
        follower.wait_state({"late": b"1"})
        assert [e.key for e in follower.entries] == ["late"]


def test_a_server_that_ends_streams_for_a_missing_key_is_not_asked_without_pause():
    with (
        ancestor.Server(ending=True) as old,
        datastream.open(f"grpc://{old.address}", timeout=2.0) as remote,
    ):
        old.put("there", b"1")
        follower = Follower(remote, "there", "late")
        follower.wait_state({"there": b"1"})
        threading.Event().wait(1)
        assert old.streams < 30
        old.put("there", b"2")
        old.put("late", b"1")
        follower.wait_state({"there": b"2", "late": b"1"})
        _never_repeated(follower)


def test_an_own_put_reaches_own_watchers_before_it_returns(old, remote, monkeypatch):
    # However slow the machine: the stream is not opened anew for what it will bring.
    monkeypatch.setattr(feed, "SETTLE", TIMEOUT)
    follower = Follower(remote)
    for number in range(20):
        remote["k"] = number
        assert remote.flush(TIMEOUT)
        assert follower.state == {"k": b"%d" % number}
    assert old.streams <= 1


def test_comes_back_to_a_restarted_ancestors_server_with_only_what_differs():
    data = {}
    old = ancestor.Server(data=data)
    try:
        with datastream.open(f"grpc://{old.address}", timeout=2.0) as remote:
            for key in ("same", "changed"):
                old.put(key, b"1")
            follower, statuses = Follower(remote), Statuses(remote)
            follower.wait_state({"same": b"1", "changed": b"1"})
            eventually(lambda: old.streams, "a stream")
            old.stop()
            statuses.wait(State.STALE)
            with pytest.raises(SourceUnavailable, match=re.escape(old.address)):
                remote["same"]
            assert follower.state == {"same": b"1", "changed": b"1"}
            old = ancestor.Server(old.address, data)
            old.put("changed", b"2")
            old.put("new", b"1")
            follower.wait_state({"same": b"1", "changed": b"2", "new": b"1"})
            statuses.wait(State.READY)
            old.put("same", b"2")
            follower.wait_key("same", b"2")
            assert [e.key for e in follower.entries].count("same") == 2
    finally:
        old.stop()


def test_an_entry_with_an_impossible_time_harms_no_other(old, remote):
    """Go's time package writes years that Python's does not know."""
    old.put("good", b"0")
    follower = Follower(remote)
    eventually(lambda: old.streams, "a stream")
    old.put("bad", b"1", seconds=10**14)
    old.put("good", b"1")
    # A first state listed before "bad" was put knows "good" alone.
    follower.wait_state({"good": b"1", "bad": b"1"})
    assert remote.entry("bad").updated_at is None


def test_a_server_of_something_else_is_a_clear_error():
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with datastream.open(f"grpc://127.0.0.1:{port}") as remote:
            for call in (lambda: remote["k"], lambda: list(remote), lambda: remote.put("k", 1)):
                with pytest.raises(Unsupported, match=f"127.0.0.1:{port}"):
                    call()
    finally:
        server.stop(0).wait(30)


def test_errors_of_an_ancestors_server_are_ours(old, remote):
    """It names none, so the status alone decides."""
    with ancestor.Server(strict=True) as strict:
        with datastream.open(f"grpc://{strict.address}") as store, pytest.raises(KeyNotFound):
            store["missing"]
    with pytest.raises(InvalidValue, match="max_message_size"):
        remote["k"] = "x" * (5 << 20)

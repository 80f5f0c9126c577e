"""A server that goes by rules: what may not be read is as if it were not there."""

from __future__ import annotations

import threading

import datastream_grpc
import grpc
import pytest
import trustme
from datastream_grpc import Rules, Tls
from datastream_grpc._pb import service_pb2 as pb
from dulwich import porcelain

import datastream
from datastream import Denied, Feature, KeyNotFound, Operation, ReadOnly, Selection, Store
from datastream.sources.memory import MemorySource
from datastream.testing import Recorder
from tests.integration._programs.tools import TIMEOUT

NAMES = {"webtoken": "web", "admintoken": "admin", "othertoken": "other", "blindtoken": "blind"}
TABLE = {
    "*/read": ["public"],
    "web/read": ["a/", "p*"],
    "web/write": ["a/"],
    "web/deny": ["a/secret", "a/deep/"],
    "admin/read": "**",
    "admin/write": "**",
    "blind/write": ["a/"],
}
STATE = {
    "a/1": 1, "a/secret": 2, "a/deep/x": 3, "b": 4, "public": 5, "private": 6, "p/x": 7,
}  # fmt: skip
IN_GIT = pytest.mark.parametrize("store", ["git"], indirect=True)
SHOWN = {"a/1": 1, "public": 5, "private": 6}


@pytest.fixture
def store(request, stack, tmp_path):
    url = "memory:"
    if getattr(request, "param", "") == "git":
        porcelain.init(tmp_path / "repository").close()
        url = f"git:{tmp_path}/repository"
    store = stack.enter_context(datastream.open(url))
    store.put_many(STATE)
    return store


@pytest.fixture
def table(stack):
    table = stack.enter_context(datastream.open("memory:"))
    table.put_many(TABLE)
    return table


@pytest.fixture
def server(stack, store, table):
    rules = stack.enter_context(Rules(table))
    return stack.enter_context(
        datastream_grpc.serve(store, "127.0.0.1:0", tokens=NAMES.get, authorize=rules)
    )


@pytest.fixture
def opened(stack, server):
    return lambda name: stack.enter_context(
        datastream.open(f"grpc://{server.address}", token=f"{name}token")
    )


def keys(entries):
    return sorted(entry.key for entry in entries)


@IN_GIT
def test_reads_find_what_may_be_read(store, opened):
    web, admin, other = opened("web"), opened("admin"), opened("other")
    assert dict(web) == SHOWN
    assert sorted(one.key for one in web.capabilities()) == sorted(SHOWN)
    assert dict(admin) == STATE
    assert dict(other) == {"public": 5}
    for key in ("a/secret", "b", "missing"):
        assert key not in web
        with pytest.raises(KeyNotFound):
            web.entry(key)
    assert sorted(web.snapshot("a/", "b")) == ["a/1"]
    assert sorted(web.snapshot(match="**")) == sorted(SHOWN)
    assert sorted(web.snapshot(match="*/*")) == ["a/1"]
    assert sorted(web.snapshot("a/deep/", "a/secret")) == []
    assert sorted(web.snapshot("a/1", "a/secret", "p/x")) == ["a/1"]


@IN_GIT
def test_the_past_shows_what_may_be_read(store, opened):
    point = next(store.history("a/1")).point
    store.put_many({"a/1": 10, "a/secret": 20})
    store.put("b", 40)
    web = opened("web")
    assert len(list(web.history("a/1"))) == 2
    assert list(web.history("a/secret")) == list(web.history("never")) == []
    with web.at(point) as past:
        assert dict(past) == SHOWN
        assert list(past.history("b")) == []
    replayed = [entry for batch in web.replayed() for entry in batch.entries]
    assert keys(replayed) == sorted([*SHOWN, "a/1"])


HIDDEN = {"message": "the hidden one", "author": "Hidden <h@example.com>"}


@IN_GIT
@pytest.mark.parametrize("match", ["a/*", "**"])
def test_the_past_has_no_trace_of_what_may_not_be_read(store, opened, match):
    store.put("a/1", 10, message="shown")
    for number in range(3):
        store.put("a/secret", number, **HIDDEN)
    store.put("a/1", 11, message="shown too")
    store.put("a/secret", 9, **HIDDEN)
    web = opened("web")
    first, *batches = web.replayed(match=match)
    assert [batch.message.strip() for batch in batches if batch.entries][-2:] == [
        "shown", "shown too"
    ]  # fmt: skip
    # The last has the cursor from which a watch goes on.
    assert all(batch.entries for batch in batches[:-1])
    assert not any(batch.author.startswith("Hidden") for batch in (first, *batches))
    assert not any("hidden" in batch.message for batch in (first, *batches))
    assert not batches[-1].point


@IN_GIT
@pytest.mark.parametrize("selected", [{}, {"match": "a/*"}])
def test_who_resumes_is_not_told_who_made_what_may_not_be_read(store, opened, selected):
    web = opened("web")
    before = Recorder(web, **selected)
    before.wait_ready()
    cursor = before.cursor
    before.dispose()
    store.put("a/secret", 20, **HIDDEN)
    recorder = Recorder(web, since=cursor, **selected)
    recorder.wait_ready()
    store.put("a/secret", 21, **HIDDEN)
    store.put("a/1", 10, message="shown")
    recorder.wait(lambda r: r.state.get("a/1") == b"10", "the change")
    assert not any(b.author.startswith("Hidden") or "hidden" in b.message for b in recorder.batches)


class Broken(MemorySource):
    """Keys that end in "!" cannot be read."""

    instant = False

    def read(self, selection, since):
        reading = super().read(selection, since)
        broken = frozenset(entry.key for entry in reading.entries if entry.key.endswith("!"))
        kept = [entry for entry in reading.entries if entry.key not in broken]
        return reading._replace(entries=kept, unread=broken)


def test_what_cannot_be_read_is_told_to_who_may_read_it_only(stack, table):
    store = stack.enter_context(Store(Broken(), name="broken"))
    store.put_many({"a/x": 1, "a/secret!": 2, "a/open!": 3})
    table.put_many({"web/read": ["a/o*", "a/*x"], "web/deny": []})
    rules = stack.enter_context(Rules(table))
    server = stack.enter_context(
        datastream_grpc.serve(store, "127.0.0.1:0", tokens=NAMES.get, authorize=rules)
    )
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    call = channel.unary_unary("/datastream.DataService/Sync")
    metadata = (("authorization", "Bearer webtoken"),)

    def sync(*match):
        request = pb.DataRequest(match=match).SerializeToString()
        return pb.DataResponse.FromString(call(request, metadata=metadata, timeout=TIMEOUT))

    for match in ("a/s*", "**/secret?", "a/never*"):
        answer = sync(match)
        assert (dict(answer.data), list(answer.unread)) == ({}, [])
    assert list(sync("a/*").unread) == ["a/open!"]
    with pytest.raises(grpc.RpcError) as error:
        sync("**/op*")
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_watch_is_told_of_what_may_be_read(store, opened):
    web = opened("web")
    everything, some = Recorder(web), Recorder(web, "a/secret", match="**/1")
    everything.wait(lambda r: len(r.state) == 3, "the state")
    some.wait_ready()
    store.put_many({"a/1": 10, "a/secret": 20, "b": 40})
    store.delete("b")
    store.delete("private")
    everything.wait(lambda r: sorted(r.state) == ["a/1", "public"], "the delete")
    some.wait(lambda r: r.state == {"a/1": b"10"}, "the change")
    assert keys(everything.live) == ["a/1", "private"]
    assert keys(some.entries) == ["a/1", "a/1"]
    assert not any(batch.created for batch in everything.batches)


@pytest.mark.parametrize("selected", [(), ("a/", "b", "public")])
def test_rules_that_change_count_for_streams_that_run(store, table, opened, selected):
    web = opened("web")
    before = {key: value for key, value in SHOWN.items() if not selected or key != "private"}
    recorder = Recorder(web, *selected)
    recorder.wait_state({key: b"%d" % value for key, value in before.items()})
    table.put_many({"web/read": ["a/", "b"], "web/deny": []})
    after = {"a/1": 1, "a/secret": 2, "a/deep/x": 3, "b": 4, "public": 5}
    recorder.wait_state({key: b"%d" % value for key, value in after.items()})
    store["a/secret"] = 21
    recorder.wait(lambda r: r.state["a/secret"] == b"21", "a change")
    del table["web/read"]
    recorder.wait_state({"public": b"5"})
    store["a/1"] = 11
    store["public"] = 51
    recorder.wait_state({"public": b"51"})
    # Only differences, and no key that was never shown.
    told = [entry for batch in recorder.batches for entry in batch.entries]
    assert len(told) == len({(e.key, e.revision, e.operation) for e in told})
    assert "private" not in {e.key for e in told} or not selected


def test_all_that_was_shown_may_be_taken_away(store, table, opened):
    recorder = Recorder(opened("web"), "a/")
    recorder.wait_state({"a/1": b"1"})
    table["web/read"] = []
    recorder.wait_state({})
    table["web/read"] = ["a/"]
    recorder.wait_state({"a/1": b"1"})


@IN_GIT
def test_a_resume_is_for_the_rules_of_now(store, table, opened):
    web = opened("web")
    recorder = Recorder(web)
    recorder.wait(lambda r: len(r.state) == 3, "the state")
    cursor, had = recorder.cursor, dict(recorder.state)
    revisions = {entry.key: entry.revision for entry in web.snapshot().values()}
    recorder.dispose()
    store["a/secret"] = 22
    same = Recorder(web, since=cursor)
    same.wait_ready()
    assert (same.entries, same.batches[0].reset) == ([], False)
    same.dispose()
    table["web/read"] = ["a/1", "b"]
    table.flush()
    after = {"a/1": b"1", "b": b"4", "public": b"5"}
    by_cursor = Recorder(web, since=cursor, had=had)
    by_cursor.wait_state(after)
    by_revision = Recorder(web, since=revisions, had=had)
    by_revision.wait_state(after)
    assert keys(by_revision.entries) == ["b", "private"]


@pytest.mark.parametrize(("before", "after"), [("**", "a/"), ("a/", "**")])
def test_a_resume_after_there_was_no_restriction_or_is_none(table, opened, before, after):
    table["admin/read"] = before
    table.flush()
    admin = opened("admin")
    recorder = Recorder(admin)
    recorder.wait_ready()
    cursor, had = recorder.cursor, dict(recorder.state)
    recorder.dispose()
    table["admin/read"] = after
    table.flush()
    Recorder(admin, since=cursor, had=had).wait(
        lambda r: sorted(r.state) == sorted(admin.snapshot()), "what may be read now"
    )


def test_a_client_that_resumes_by_revisions_is_told_of_what_it_may_read_no_more(
    stack, server, store
):
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    subscribe = channel.unary_stream(
        "/datastream.DataService/Subscribe",
        request_serializer=pb.DataRequest.SerializeToString,
        response_deserializer=pb.DataResponse.FromString,
    )
    revisions = {entry.key: entry.revision for entry in store.snapshot().values()}
    request = pb.DataRequest(revisions=revisions, deletes=True, once=True)
    metadata = (("authorization", "Bearer webtoken"),)
    (first,) = subscribe(request, metadata=metadata, timeout=TIMEOUT)
    deletes = {k for k, d in first.data.items() if d.operation == pb.OPERATION_DELETE}
    assert deletes == set(STATE) - set(SHOWN)
    assert set(first.data) == deletes


def test_writes_are_of_what_may_be_written(store, opened):
    web = opened("web")
    web["a/1"] = 10
    web["a/new"] = 1
    web.delete("a/new")
    before = dict(store)
    for write in (
        lambda: web.put("b", 1),
        lambda: web.put("a/secret", 1),
        lambda: web.put("public", 1),
        lambda: web.put_many({"a/1": 11, "b": 1}),
        lambda: web.delete("a/secret"),
        lambda: web.delete("a/deep/x", missing_ok=True),
    ):
        with pytest.raises(Denied, match="'web' may not write"):
            write()
    assert dict(store) == before
    other = opened("other")
    assert Feature.WRITE not in other.features
    with pytest.raises(ReadOnly):
        other["public"] = 1
    # Threads write through a stream.
    barrier, denied = threading.Barrier(4), []

    def write():
        barrier.wait()
        for number in range(20):
            web["a/1"] = number
            try:
                web["b"] = number
            except Denied as error:
                denied.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join(TIMEOUT) for thread in threads]
    assert len(denied) == 80
    assert store["b"] == 4


def test_who_may_write_and_not_read_learns_nothing(store, opened):
    blind = opened("blind")
    blind["a/1"] = 10
    assert store["a/1"] == 10
    blind.delete("a/1", missing_ok=True)
    for compare in (
        lambda: blind.put("a/1", 1, expect=""),
        lambda: blind.put("a/secret", 1, expect="x"),
        lambda: blind.delete("a/secret"),
    ):
        with pytest.raises(Denied, match="may not read"):
            compare()
    assert "a/1" not in store


@pytest.mark.parametrize("store", ["memory", "git"], indirect=True)
def test_who_may_write_and_not_read_is_not_told_whether_a_value_was_there(stack, server, store):
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    metadata = (("authorization", "Bearer blindtoken"),)

    def written(key, **fields):
        item = pb.WriteItem(data=pb.Data(key=key, **fields))
        request = pb.WriteRequest(id=key, writes=[item])
        call = channel.unary_unary("/datastream.DataService/Write")
        sent = request.SerializeToString()
        answer = pb.WriteResponse.FromString(call(sent, metadata=metadata, timeout=TIMEOUT))
        push = channel.stream_stream("/datastream.DataService/Push")
        many = pb.PushRequest(writes=[request]).SerializeToString()
        (raw,) = push(iter([many]), metadata=metadata, timeout=TIMEOUT)
        assert pb.PushResponse.FromString(raw).answers[0].response == answer
        (entry,) = answer.entries
        assert entry.key == key
        entry.key = ""
        return entry

    one = {"value": b"1", "value_type": "int"}
    assert store.entry("a/1").value == b"1"
    assert written("a/1", **one) == written("a/never", **one) == pb.Data(**one)
    gone = pb.Data(operation=pb.OPERATION_DELETE)
    assert written("a/1", operation=gone.operation) == gone
    assert written("a/1/no", operation=gone.operation) == gone
    assert "a/1" not in store


def test_an_answer_is_given_to_who_wrote_only(stack, server, store):
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    call = channel.unary_unary("/datastream.DataService/Write")

    def write(token, key):
        item = pb.WriteItem(data=pb.Data(key=key, value=b"1", value_type="int"))
        request = pb.WriteRequest(writes=[item], id="same")
        metadata = (("authorization", f"Bearer {token}"),)
        answer = call(request.SerializeToString(), metadata=metadata, timeout=TIMEOUT)
        return pb.WriteResponse.FromString(answer).entries[0].key

    assert write("admintoken", "a/secret") == "a/secret"
    assert write("webtoken", "a/1") == "a/1"
    assert write("admintoken", "a/1") == "a/1"


def test_the_ancestors_push_is_held_to_the_rules(stack, server, store):
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    for key, code in (("b", grpc.StatusCode.PERMISSION_DENIED), ("a/1", None)):
        request = pb.Data(key=key, value=b"9", value_type="int").SerializeToString()
        metadata = (("authorization", "Bearer webtoken"),)
        call = channel.unary_unary("/datastream.DataService/PushUpdate")
        if code is None:
            call(request, metadata=metadata, timeout=TIMEOUT)
            continue
        with pytest.raises(grpc.RpcError) as error:
            call(request, metadata=metadata, timeout=TIMEOUT)
        assert error.value.code() is code
    assert (store["b"], store["a/1"]) == (4, 9)


def test_a_certificate_has_a_name_too(stack, tmp_path, table):
    ca = trustme.CA()
    roots, served = str(tmp_path / "roots.pem"), ca.issue_cert("localhost")
    ca.cert_pem.write_to_path(roots)
    files = {}
    for name, issued in (("server", served), ("web", ca.issue_cert("x", common_name="web"))):
        certificate, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        files[name] = str(certificate), str(key)
    store = stack.enter_context(datastream.open("memory:"))
    store.put_many(STATE)
    rules = stack.enter_context(Rules(table))
    server = stack.enter_context(
        datastream_grpc.serve(
            store, "localhost:0", tls=Tls(*files["server"], roots), authorize=rules
        )
    )
    certificate, key = files["web"]
    url = f"grpcs://localhost:{server.address.rpartition(':')[2]}"
    client = stack.enter_context(
        datastream.open(url, roots=roots, certificate=certificate, key=key)
    )
    assert dict(client) == SHOWN


def test_rules_of_ones_own(stack, store):
    asked = []

    def authorize(principal, action, selection):
        asked.append((principal.name, action, selection))
        return Selection.of("a/" if action == "read" else "b")

    server = stack.enter_context(
        datastream_grpc.serve(store, "127.0.0.1:0", tokens=NAMES.get, authorize=authorize)
    )
    client = stack.enter_context(datastream.open(f"grpc://{server.address}", token="webtoken"))
    assert sorted(client.snapshot("a/", "b")) == ["a/1", "a/deep/x", "a/secret"]
    assert ("web", "read", Selection.of("a/", "b")) in asked
    client.write(datastream.Write("b", b"1", "int"))
    with pytest.raises(Denied):
        client["a/1"] = 2
    recorder = Recorder(client)
    recorder.wait(lambda r: len(r.state) == 3, "the state")
    store["b"] = 2
    store["a/1"] = 2
    recorder.wait(lambda r: r.state["a/1"] == b"2", "the change")
    assert {entry.operation for entry in recorder.entries} == {Operation.PUT}


def test_a_file_of_named_tokens_and_rules_of_a_file(stack, tmp_path):
    tokens, rules = tmp_path / "tokens", tmp_path / "rules.toml"
    tokens.write_text("web first\nsecond\n")
    rules.write_text('["*"]\nread = ["public"]\n[web]\nread = ["a/"]\n')
    store = stack.enter_context(datastream.open("memory:"))
    store.put_many(STATE)
    server = stack.enter_context(
        datastream_grpc.serve(store, "127.0.0.1:0", tokens=tokens, authorize=str(rules))
    )
    for token, count in (("first", 4), ("second", 1)):
        url = f"grpc://{server.address}"
        client = stack.enter_context(datastream.open(url, token=token))
        assert len(client.snapshot()) == count

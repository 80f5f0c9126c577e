"""Who reaches a server: addresses, TLS, certificates of clients, tokens, reading only."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import datastream_grpc
import grpc
import pytest
import trustme
from datastream_grpc import Tls, _revoking
from datastream_grpc._pb import service_pb2 as pb
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

import datastream
from datastream import DatastreamError, Denied, Feature, ReadOnly, SourceUnavailable, State
from datastream.testing import Recorder
from tests.integration._programs.tools import TIMEOUT, eventually


@pytest.fixture
def store(stack):
    store = stack.enter_context(datastream.open("memory:"))
    store["k"] = 1
    return store


YESTERDAY = datetime.now(UTC) - timedelta(days=1)
YEARS_AGO = YESTERDAY - timedelta(days=1000)


class Authority:
    """A certificate authority with files in a directory."""

    def __init__(self, directory):
        self.directory = directory
        self.directory.mkdir()
        self.ca = trustme.CA()
        self.roots = str(directory / "roots.pem")
        self.ca.cert_pem.write_to_path(self.roots)

    def issue(self, name, *, expired=False):
        """Files of a certificate and its key."""
        times = {"not_before": YEARS_AGO, "not_after": YESTERDAY} if expired else {}
        issued = self.ca.issue_cert("localhost", "127.0.0.1", **times)
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return str(certificate), str(key)


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ours")


@pytest.fixture
def foreign(tmp_path):
    return Authority(tmp_path / "foreign")


def serving(stack, store, address="localhost:0", **options):
    return stack.enter_context(datastream_grpc.serve(store, address, **options))


def opened(stack, server, scheme="grpcs", **options):
    url = f"{scheme}://localhost:{server.address.rpartition(':')[2]}"
    return stack.enter_context(datastream.open(url, timeout=5.0, **options))


# --- addresses ---


@pytest.mark.parametrize(
    "address", ["0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:0", "ipv4:0.0.0.0:0", "[::ffff:8.8.8.8]:0"]
)
def test_other_machines_are_served_with_tls_and_proof_only(store, authority, address, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    for options in ({}, {"tokens": tokens}, {"tls": Tls(*authority.issue("server"))}):
        with pytest.raises(DatastreamError, match="other machines"):
            datastream_grpc.serve(store, address, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"insecure": True},
        {"tls": True, "tokens": lambda token: True},
        {"tls": True, "mutual": True},
    ],
)
def test_other_machines_are_served_if_they_may(stack, store, authority, options):
    options = dict(options)
    roots = authority.roots if options.pop("mutual", False) else None
    if options.get("tls"):
        options["tls"] = Tls(*authority.issue("server"), roots)
    serving(stack, store, "0.0.0.0:0", **options)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.1.2.3:0", "localhost:0"])
def test_this_machine_is_served_as_it_is(stack, store, address):
    serving(stack, store, address)


# --- TLS ---


def test_tls_with_an_authority_of_ones_own(stack, store, authority, foreign):
    server = serving(stack, store, tls=Tls(*authority.issue("server")))
    assert opened(stack, server, roots=authority.roots)["k"] == 1
    for options in ({"roots": foreign.roots}, {}):
        with pytest.raises(SourceUnavailable):
            opened(stack, server, **options)["k"]
    with pytest.raises(SourceUnavailable):
        opened(stack, server, scheme="grpc")["k"]


def test_clients_prove_themselves_by_certificates(stack, store, authority, foreign):
    server = serving(stack, store, tls=Tls(*authority.issue("server"), authority.roots))
    certificate, key = authority.issue("client")
    client = opened(stack, server, roots=authority.roots, certificate=certificate, key=key)
    client["k"] = 2
    assert store["k"] == 2
    certificate, key = foreign.issue("client")
    for options in ({}, {"certificate": certificate, "key": key}):
        with pytest.raises(SourceUnavailable):
            opened(stack, server, roots=authority.roots, **options)["k"]


def test_a_certificate_that_has_expired_proves_nothing(stack, store, authority):
    old, new = authority.issue("old", expired=True), authority.issue("new")
    server = serving(stack, store, tls=Tls(*new, authority.roots))
    for certificate, key in (old, new):
        client = opened(stack, server, roots=authority.roots, certificate=certificate, key=key)
        if (certificate, key) == new:
            assert client["k"] == 1
            continue
        with pytest.raises(SourceUnavailable):
            client["k"]
    server = serving(stack, store, tls=Tls(*old))
    with pytest.raises(SourceUnavailable):
        opened(stack, server, roots=authority.roots)["k"]


def test_files_of_a_server_count_when_they_change(stack, store, authority, foreign):
    certificate, key = authority.issue("server")
    server = serving(stack, store, tls=Tls(certificate, key))
    assert opened(stack, server, roots=authority.roots)["k"] == 1
    for old, new in zip((certificate, key), foreign.issue("other"), strict=True):
        with open(new) as source, open(old, "w") as target:
            target.write(source.read())

    def is_new():
        try:
            return opened(stack, server, roots=foreign.roots)["k"] == 1
        except SourceUnavailable:
            return False

    eventually(is_new, "the new certificate")


def test_files_that_are_missing_are_said_at_once(store, authority, tmp_path):
    certificate, key = authority.issue("server")
    with pytest.raises(DatastreamError, match=r"nothing\.key"):
        datastream_grpc.serve(store, "localhost:0", tls=Tls(certificate, tmp_path / "nothing.key"))
    for options in ({"roots": "nothing.pem"}, {"certificate": certificate}, {"key": key}):
        with pytest.raises(DatastreamError):
            datastream.open("grpcs://localhost:1", **options)


def test_files_that_hold_something_else_are_said_at_once(store, authority, tmp_path):
    certificate, key = authority.issue("server")
    _, other_key = authority.issue("other")
    garbage, empty = tmp_path / "garbage.pem", tmp_path / "empty.pem"
    garbage.write_text("no PEM")
    empty.write_text("")
    for pair in ((garbage, key), (certificate, garbage), (certificate, other_key)):
        with pytest.raises(DatastreamError, match="no certificate with its private key"):
            datastream_grpc.serve(store, "localhost:0", tls=Tls(*pair))
        shown = {"certificate": str(pair[0]), "key": str(pair[1])}
        with pytest.raises(DatastreamError, match="no certificate with its private key"):
            datastream.open("grpcs://localhost:1", **shown)
    for roots in (garbage, empty):
        with pytest.raises(DatastreamError, match="holds no certificates"):
            datastream_grpc.serve(store, "localhost:0", tls=Tls(certificate, key, roots))
        with pytest.raises(DatastreamError, match="holds no certificates"):
            datastream.open("grpcs://localhost:1", roots=str(roots))


def test_files_that_become_wrong_leave_those_before(stack, store, authority, caplog):
    certificate, key = authority.issue("server")
    server = serving(stack, store, tls=Tls(certificate, key))
    _, other_key = authority.issue("other")
    with open(other_key, "rb") as source, open(key, "wb") as target:
        target.write(source.read())
    assert opened(stack, server, roots=authority.roots)["k"] == 1
    assert "the files of TLS are wrong, those before stand" in caplog.text


# --- tokens ---


def test_who_cannot_check_a_token_tells_a_stranger_nothing(stack, store, caplog):
    caplog.set_level("INFO", "datastream.grpc")

    def check(token):
        raise RuntimeError("no answer from /srv/secret")

    server = serving(stack, store, tokens=check)
    client = opened(stack, server, "grpc", token="any")
    for call in (lambda: client["k"], lambda: client.put("k", 2), client.snapshot):
        with pytest.raises(SourceUnavailable, match="cannot find out just now") as error:
            call()
        assert "secret" not in str(error.value)
    assert "/srv/secret" in caplog.text
    assert store["k"] == 1


def test_a_refused_call_is_logged_and_has_details(stack, store, caplog):
    caplog.set_level("INFO", "datastream.grpc")
    server = serving(stack, store, tokens={"right": "web"}.get)
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary("/datastream.DataService/Sync")(b"", timeout=TIMEOUT)
    (detail,) = rpc_status.from_call(error.value).details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    assert info.reason == "DENIED"
    assert "Sync ipv" in caplog.text
    assert "UNAUTHENTICATED" in caplog.text


def test_a_token_that_cannot_be_had_fails_calls_until_it_can(stack, store):
    away = True

    def token():
        if away:
            raise OSError("the vault is sealed")
        return "s3cret"

    def put_by_threads():
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda n: client.put("k", n), range(8)))

    server = serving(stack, store, tokens={"s3cret": "web"}.get)
    client = opened(stack, server, "grpc", token=token)
    for call in (
        lambda: client["k"],
        lambda: client.put("k", 2),
        put_by_threads,
        lambda: asyncio.run(client.aget("k")),
        lambda: asyncio.run(client.aput("k", 2)),
        lambda: asyncio.run(client.asnapshot()),
    ):
        with pytest.raises(SourceUnavailable, match="the vault is sealed"):
            call()
    recorder = Recorder(client, "k")
    eventually(lambda: client.status.current.state is State.STALE, "the status of the watch")
    away = False
    asyncio.run(client.aput("k", 3))
    assert asyncio.run(client.aget("k")) == 3
    recorder.wait_state({"k": b"3"})


def test_a_token_that_no_header_holds_is_refused():
    for token in ("gr\u00fc\u00df", "two\nlines"):
        with pytest.raises(DatastreamError, match="printable ASCII") as error:
            datastream.open("grpc://127.0.0.1:1", token=token)
        assert token not in str(error.value)


def test_a_token_that_is_too_long_for_the_headers_of_a_call_is_said_to_be(stack, store):
    """Also to who only reads, whose values are not too large."""
    client = opened(stack, serving(stack, store, tokens=bool), "grpc", token="t" * 30_000)
    for call in (lambda: client["k"], lambda: client.put("k", 0), client.snapshot):
        with pytest.raises(DatastreamError, match="such as a token") as error:
            call()
        assert error.type is DatastreamError
        assert "max_message_size" not in str(error.value)


def test_a_token_is_sent_in_plaintext_to_several_ports_of_this_machine(stack, store):
    server = serving(stack, store, tokens={"s3cret": "web"}.get)
    port = server.address.rpartition(":")[2]
    url = f"grpc://127.0.0.1:1,127.0.0.1:{port}"
    assert stack.enter_context(datastream.open(url, token="s3cret"))["k"] == 1


def test_calls_need_a_token(stack, store, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("# ours\nfirst\n\nsecond\n")
    server = serving(stack, store, tokens=tokens)
    for token in ("first", "second"):
        client = opened(stack, server, "grpc", token=token)
        client["k"] = token
        assert client["k"] == token
    for options in ({}, {"token": "third"}, {"token": "# ours"}, {"token": "fir"}):
        wrong = opened(stack, server, "grpc", **options)
        for call in (lambda w=wrong: w["k"], lambda w=wrong: w.put("k", 0), wrong.capabilities):
            with pytest.raises(Denied, match="token"):
                call()
    assert store["k"] == "second"
    tokens.write_text("third\n")
    assert opened(stack, server, "grpc", token="third")["k"] == "second"
    with pytest.raises(Denied):
        client["k"]


@pytest.fixture
def looks_often(monkeypatch):
    monkeypatch.setattr(_revoking, "LOOK", 0.02)


@pytest.mark.usefixtures("looks_often")
@pytest.mark.parametrize("after", ["ada first\n", "ada first\nmallory second\n"])
def test_streams_end_whose_token_is_taken_out_of_the_file(stack, store, tmp_path, after):
    tokens = tmp_path / "tokens"
    tokens.write_text("ada first\neve second\n")
    server = serving(stack, store, tokens=tokens)
    kept, gone = (opened(stack, server, "grpc", token=token) for token in ("first", "second"))
    recorder = Recorder(kept)
    recorder.wait_state({"k": b"1"})
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    metadata = (("authorization", "Bearer second"),)
    path = "/datastream.DataService"
    one = pb.DataRequest(keys=["k"]).SerializeToString()
    hold = threading.Event()
    stack.callback(hold.set)

    def requests(*first):
        yield from first
        hold.wait(TIMEOUT)

    follow = pb.FollowRequest(watch=1, add=pb.DataRequest(keys=["k"])).SerializeToString()
    push = pb.PushRequest(
        writes=[pb.WriteRequest(writes=[pb.WriteItem(data=pb.Data(key="p", value=b"1"))])]
    ).SerializeToString()
    options = {"metadata": metadata, "timeout": TIMEOUT}
    streams = [
        channel.unary_stream(f"{path}/Subscribe")(one, **options),
        channel.stream_stream(f"{path}/Follow")(requests(follow), **options),
        channel.stream_stream(f"{path}/Push")(requests(push), **options),
    ]
    for stream in streams:
        next(stream)
    watched = Recorder(gone)
    watched.wait_state({"k": b"1", "p": b"1"})
    tokens.write_text(after)
    for stream in streams:
        with pytest.raises(grpc.RpcError) as error:
            next(stream)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    if "second" not in after:
        eventually(lambda: isinstance(gone.status.current.error, Denied), "the refusal")
    store["k"] = 2
    recorder.wait_state({"k": b"2", "p": b"1"})
    assert kept.status.current.state is State.READY


@pytest.mark.usefixtures("looks_often")
def test_a_stream_whose_request_comes_after_its_token_was_revoked_is_refused(
    stack, store, tmp_path, monkeypatch
):
    tokens = tmp_path / "tokens"
    tokens.write_text("ada first\neve second\n")
    server = serving(stack, store, tokens=tokens)
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    one = pb.DataRequest(keys=["k"]).SerializeToString()
    asks, has_passed = threading.Event(), threading.Semaphore(0)
    stack.callback(asks.set)
    around = _revoking.Revoking.around
    monkeypatch.setattr(
        _revoking.Revoking,
        "around",
        lambda *given: has_passed.release() or around(*given),
    )

    def begun(token, requests):
        # On the wire, a request that is a stream is one like any other.
        metadata = (("authorization", f"Bearer {token}"),)
        subscribe = channel.stream_stream("/datastream.DataService/Subscribe")
        stream = subscribe(requests, metadata=metadata, timeout=TIMEOUT)
        assert has_passed.acquire(timeout=TIMEOUT)
        return stream

    def later():
        asks.wait(TIMEOUT)
        yield one

    kept, gone = begun("first", iter([one])), begun("second", iter([one]))
    for stream in (kept, gone):
        next(stream)
    late = begun("second", later())
    tokens.write_text("ada first\n")
    with pytest.raises(grpc.RpcError):
        next(gone)
    asks.set()
    with pytest.raises(grpc.RpcError) as error:
        next(late)
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    store["k"] = 2
    next(kept)


def test_a_watch_needs_a_token_and_the_health_none(stack, store):
    asked = []
    server = serving(stack, store, tokens=lambda token: asked.append(token) or token == "right")
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    stream = channel.unary_stream(
        "/datastream.DataService/Subscribe",
        request_serializer=pb.DataRequest.SerializeToString,
        response_deserializer=pb.DataResponse.FromString,
    )
    for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "right"),)):
        with pytest.raises(grpc.RpcError) as error:
            next(stream(pb.DataRequest(), metadata=metadata, timeout=TIMEOUT))
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert asked == ["wrong"]
    call = stream(pb.DataRequest(), metadata=(("authorization", "bearer right"),), timeout=TIMEOUT)
    assert set(next(call).data) == {"k"}
    call.cancel()
    check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert check.status == health_pb2.HealthCheckResponse.SERVING


def test_a_token_is_read_from_a_file_or_made_for_each_call(stack, store, tmp_path):
    file = tmp_path / "token"
    file.write_text("old\n")
    valid = {"old"}
    server = serving(stack, store, tokens=valid.__contains__)
    from_file = opened(stack, server, "grpc", token_file=str(file))
    made = opened(stack, server, "grpc", token=lambda: next(iter(valid)))
    assert (from_file["k"], made["k"]) == (1, 1)
    valid.clear()
    valid.add("newer")
    with pytest.raises(Denied):
        from_file["k"]
    file.write_text("newer\n")
    assert (from_file["k"], made["k"]) == (1, 1)


def test_a_token_is_not_sent_in_plaintext_to_another_machine():
    for options in ({"token": "s3cret"}, {"token": lambda: "s3cret"}):
        with pytest.raises(DatastreamError, match="plaintext") as error:
            datastream.open("grpc://192.0.2.1:1", **options)
        assert "s3cret" not in str(error.value)


# --- reading only ---


def test_a_server_that_can_only_be_read(stack, store):
    server = serving(stack, store, read_only=True)
    remote = opened(stack, server, "grpc")
    assert remote.features == store.features - {
        Feature.WRITE, Feature.COMPARE_AND_SET, Feature.ATOMIC, Feature.MESSAGES
    }  # fmt: skip
    with pytest.raises(ReadOnly):
        remote["k"] = 2
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    for method, request in (
        ("PushUpdate", pb.Data(key="k", value=b"2")),
        ("Write", pb.WriteRequest(writes=[pb.WriteItem(data=pb.Data(key="k"))])),
    ):
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(f"/datastream.DataService/{method}")(
                request.SerializeToString(), timeout=TIMEOUT
            )
        assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert store["k"] == 1
    assert remote["k"] == 1

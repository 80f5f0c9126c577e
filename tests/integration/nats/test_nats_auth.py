"""Who may come in, by all ways that NATS knows; and nothing of it is shown."""

import base64
import json
import logging
import os
import ssl
import traceback
from contextlib import suppress

import nkeys
import pytest
import trustme

import datastream
from datastream import Denied, SourceUnavailable
from datastream.testing import Recorder
from datastream.testing._tools import eventually
from tests.servers.nats import server
from tests.servers.nats_cluster import Cluster
from tests.servers.postgres import free_port

TLS_FILES = {"roots": "ca", "certificate": "client"}
SECRET = "s3cret-pässword/@:"


def seed_of(kind):
    """A new key pair: its seed and its public key."""
    raw = bytes((nkeys.PREFIX_BYTE_SEED | (kind >> 5), (kind & 31) << 3)) + os.urandom(32)
    seed = base64.b32encode(raw + crc(raw).to_bytes(2, "little")).rstrip(b"=")
    return seed, nkeys.from_seed(bytearray(seed)).public_key.decode()


def crc(data):
    value = 0
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1) ^ 0x1021 if value & 0x8000 else value << 1
        value &= 0xFFFF
    return value


def check(url, **proof):
    with datastream.open(f"{url}/b", create=True, **proof) as store:
        store["a"] = 1
        assert store["a"] == 1
        assert SECRET not in repr(store)


def shown_of(error):
    return "".join(traceback.format_exception(error))


def test_user_and_password():
    config = f'authorization {{ user: ann, password: "{SECRET}" }}'
    with server(config) as running:
        encoded = "s3cret-p%C3%A4ssword%2F%40%3A"
        check(f"nats://ann:{encoded}@{running.address}")
        check(running.url, user="ann", password=SECRET)
        for proof in ({}, {"user": "ann", "password": "wr0ng-one"}):
            with pytest.raises(Denied, match="check user, password") as refused:
                datastream.open(f"{running.url}/b", **proof)
            assert "wr0ng-one" not in shown_of(refused.value)


def test_token(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    with server(f'authorization {{ token: "{SECRET}" }}') as running:
        check(running.url, token=SECRET)
        check(running.url, token=lambda: SECRET)
        check(running.url, token_file=str(file))
        with pytest.raises(Denied):
            datastream.open(f"{running.url}/b?token=wr0ng-one")
    assert SECRET not in caplog.text
    assert "wr0ng-one" not in caplog.text


def test_a_file_is_found_from_another_working_directory(tmp_path, monkeypatch):
    """It is read anew with each connection."""
    (tmp_path / "token").write_text(SECRET)
    monkeypatch.chdir(tmp_path)
    with (
        server(f'authorization {{ token: "{SECRET}" }}') as running,
        datastream.open(f"{running.url}/b", create=True, token_file="token") as store,
    ):
        monkeypatch.chdir("/")
        running.kill()
        running.start()
        store["a"] = 1
        assert store["a"] == 1


def test_nkey(tmp_path):
    seed, public = seed_of(nkeys.PREFIX_BYTE_USER)
    file = tmp_path / "user.nk"
    file.write_bytes(seed)
    other = tmp_path / "other.nk"
    other.write_bytes(seed_of(nkeys.PREFIX_BYTE_USER)[0])
    with server(f"authorization {{ users: [ {{ nkey: {public} }} ] }}") as running:
        check(running.url, nkey=str(file))
        with pytest.raises(Denied) as refused:
            datastream.open(f"{running.url}/b", nkey=str(other))
        assert other.read_text() not in shown_of(refused.value)


def test_credentials_file(tmp_path):
    operator = seed_of(nkeys.PREFIX_BYTE_OPERATOR)
    account, system = seed_of(nkeys.PREFIX_BYTE_ACCOUNT), seed_of(nkeys.PREFIX_BYTE_ACCOUNT)
    user = seed_of(nkeys.PREFIX_BYTE_USER)
    of_operator = jwt(operator, operator, {"type": "operator", "version": 2})
    streams = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    limits = {"subs": -1, "data": -1, "payload": -1, "conn": -1, "leaf": -1}
    limits |= {"imports": -1, "exports": -1, "wildcards": True}
    of_account, of_system = (
        jwt(one, operator, {"type": "account", "version": 2, "limits": limits | more})
        for one, more in ((account, streams), (system, {}))
    )
    unlimited = {"subs": -1, "data": -1, "payload": -1}
    of_user = jwt(user, account, {"type": "user", "version": 2, **unlimited})
    file = tmp_path / "user.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user[0].decode()}\n------END USER NKEY SEED------\n"
    )
    config = (
        f"operator: {of_operator}\nsystem_account: {system[1]}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {account[1]}: {of_account}, {system[1]}: {of_system} }}\n"
    )
    with server(config) as running:
        check(running.url, credentials=str(file))
        with pytest.raises(Denied):
            datastream.open(f"{running.url}/b")


def jwt(subject, issuer, claims):
    """A JWT as NATS has them, signed by the issuer's key."""

    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    head = part(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
    body = {"jti": "x", "iat": 1, "iss": issuer[1], "sub": subject[1], "nats": claims}
    text = f"{head}.{part(json.dumps(body).encode())}"
    return f"{text}.{part(nkeys.from_seed(bytearray(issuer[0])).sign(text.encode()))}"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An authority, a server's certificate and a client's, as files."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, identity in (("server", "127.0.0.1"), ("client", "ann@example.org")):
        certificate = authority.issue_cert(identity)
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    return folder


def tls(files, more=""):
    return (
        f'tls {{ cert_file: "{files / "server.pem"}", key_file: "{files / "server.key"}"\n'
        f'ca_file: "{files / "ca.pem"}"\n{more} }}'
    )


def test_tls(files, caplog):
    with server(tls(files)) as running:
        check(running.url, roots=str(files / "ca.pem"))
        check(f"{running.url}", tls=True, roots=str(files / "ca.pem"))
        with pytest.raises(Denied, match=r"certificate.*check tls="):
            datastream.open(f"{running.url}/b", roots=str(files / "other.pem"))
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_mutual_tls(files):
    with server(tls(files, "verify: true")) as running:
        proof = {"roots": str(files / "ca.pem")}
        both = {"certificate": str(files / "client.pem"), "key": str(files / "client.key")}
        check(running.url, **proof, **both)
        with pytest.raises((Denied, SourceUnavailable)):
            datastream.open(f"{running.url}/b", timeout=2, **proof)
        mixed = both | {"key": str(files / "server.key")}
        with pytest.raises(datastream.DatastreamError, match="do not belong together"):
            datastream.open(f"{running.url}/b", **proof, **mixed)


@pytest.mark.chaos
@pytest.mark.timeout(240)
def test_mutual_tls_with_a_cluster(files):
    """The other nodes, of which the first one told, want the same proof."""
    proof = {name: str(files / f"{file}.pem") for name, file in TLS_FILES.items()}
    proof["key"] = str(files / "client.key")
    context = ssl.create_default_context(cafile=proof["roots"])
    context.load_cert_chain(proof["certificate"], proof["key"])
    config = tls(files, "verify: true")
    with Cluster.started(config=config, client={"tls": context}) as cluster:
        url = f"{cluster.urls[0]}/b"
        with datastream.open(url, create=True, replicas=3, interval=0.5, **proof) as store:
            recorder = Recorder(store)
            store.put_many({"a": 1, "b": 1})
            recorder.wait_state({"a": b"1", "b": b"1"})
            cluster.servers[0].kill()

            def writes():
                with suppress(SourceUnavailable):
                    store.put_many({"a": 2, "b": 2})
                    return True

            eventually(writes, "another node took it")
            recorder.wait_state({"a": b"2", "b": b"2"})
            states = [state for state in recorder.states if state]
            assert all(state["a"] == state["b"] for state in states)
        with pytest.raises((Denied, SourceUnavailable)):
            datastream.open(f"{cluster.urls[1]}/b", timeout=2, roots=proof["roots"])


NEEDED = (
    '"$JS.API.STREAM.INFO.KV_b", "$JS.API.STREAM.MSG.GET.KV_b", "$JS.API.DIRECT.GET.KV_b", '
    '"$JS.API.CONSUMER.CREATE.KV_b.>", "$JS.API.CONSUMER.DELETE.KV_b.*", "$JS.FC.KV_b.>"'
)


def users_with(publish):
    rights = f'publish: [{publish}]\nsubscribe: ["_INBOX.>"]'
    return (
        "authorization { users: [ { user: boss, password: boss }, "
        f"{{ user: ann, password: ann, permissions {{ {rights} }} }} ] }}"
    )


def test_keys_that_a_user_may_not_write():
    with server(users_with(f'{NEEDED}, "$KV.b.mine.>"')) as running:
        check(running.url, user="boss", password="boss")
        with datastream.open(f"nats://ann:ann@{running.address}/b") as store:
            for keys in (["a"], ["a", "mine/a"], ["mine/a", "a"], ["mine/a", "a", "mine/b"]):
                with pytest.raises(Denied, match=r'violation for publish to "\$kv.b.a"'):
                    store.put_many(dict.fromkeys(keys, 2))
            assert store.put("mine/a", 1).decode() == store["mine/a"] == 1
            assert dict(store) == {"a": 1, "mine/a": 1}


def test_a_user_who_may_not_read():
    with server(users_with('"$JS.API.STREAM.INFO.KV_b", "$KV.b.>"')) as running:
        check(running.url, user="boss", password="boss")
        with datastream.open(f"nats://ann:ann@{running.address}/b", timeout=3) as store:
            asked = {"stream.msg.get": store.entry, "consumer.create": store.snapshot}
            for what, read in asked.items():
                with pytest.raises(Denied, match=rf"js.api.{what}.kv_b.*grant it"):
                    read("a")


@pytest.mark.chaos
def test_a_bucket_of_another_domain():
    """A leaf node hands on what is sent to the other domain's API, and nothing else of it."""
    port = free_port()
    hub = server(f'leafnodes {{ listen: "127.0.0.1:{port}" }}', jetstream="domain: hub")
    remote = f'leafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{port}" }} ] }}'
    with hub as far, server(remote, jetstream="domain: leaf") as near:
        eventually(lambda: near.ask("leafz")["leafnodes"], "they know each other")
        with (
            datastream.open(f"{far.url}/b", create=True) as store,
            datastream.open(f"{near.url}/b?domain=hub") as other,
        ):
            recorder = Recorder(other)
            store.put_many({"a": 1, "b": 2})
            recorder.wait_state({"a": b"1", "b": b"2"})
            other["a"] = 3
            other.put_many({"b": 3, "c": 3})
            assert dict(store) == dict(other) == {"a": 3, "b": 3, "c": 3}


def test_rights_that_end_where_the_bucket_ends():
    """What a store needs, and no more: the stream of its bucket, its subjects, its inbox."""
    with server(users_with(f'{NEEDED}, "$KV.b.>"')) as running:
        check(running.url, user="boss", password="boss")
        with datastream.open(f"nats://ann:ann@{running.address}/b") as store:
            seen = []
            store.watch().subscribe(seen.append)
            store.put_many({"b": 2, "c": 3})
            eventually(lambda: len(seen) == 3, "all keys came")
        with pytest.raises(Denied, match=r"permissions violation.*grant it"):
            datastream.open(f"nats://ann:ann@{running.address}/other", timeout=3)

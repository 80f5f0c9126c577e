"""The blocks of the pages on PostgreSQL, S3 and NATS run against servers of ours.

They name hosts that there are not, so `tests/test_docs.py` leaves them out.
"""

import re
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

import datastream
from tests.servers import nats_cluster, s3
from tests.servers.nats import make_bucket

DOCS = Path(__file__).parents[2] / "docs"

pytestmark = pytest.mark.chaos


def run_blocks(page, replaced, **names):
    """Run all blocks of a page that are not run elsewhere, as one program."""
    text = (DOCS / page).read_text()
    program = "\n".join(re.findall(r"```python no-run\n(.*?)```", text, re.DOTALL))
    for there, here in replaced.items():
        assert there in program, f"docs/{page} does not say {there!r} any more"
        program = program.replace(there, here)
    exec(compile(program, page, "exec"), names)
    return names


def test_postgres(postgres, capsys):
    with datastream.open(postgres, table="settings", create=True, history=True) as before:
        before["fx/USD"] = 1.09
    places = {
        "postgresql://app@db.example/shop?table=settings": f"{postgres}&table=settings",
        "postgresql:///shop?table=tasks": f"{postgres}&table=tasks",
    }
    with psycopg.connect(postgres) as connection:
        connection.execute(
            "CREATE TABLE tasks (tenant text, id int, title text, tags text[], done bool, "
            "PRIMARY KEY (tenant, id))"
        )
    names = run_blocks("postgres.md", places)
    with names["store"] as store, names["tasks"] as tasks, names["titles"] as titles:
        assert store["fx/USD"] == 1.09
        assert tasks["acme/7"]["tags"] == ["blue"]
        assert titles["acme/7"] == {"title": "paint", "done": True}
    with psycopg.connect(postgres) as connection:
        user = connection.execute("SELECT current_user").fetchone()[0]
    assert capsys.readouterr().out.rstrip().endswith(f"{user} 1.09")


def test_s3(monkeypatch):
    with s3.s3_server() as url:
        s3.client(url).create_bucket(Bucket="bucket")
        for name, value in {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        names = run_blocks("s3.md", {"http://127.0.0.1:9000": url, '"…"': '"test"'})
        with closing(names["store"]) as amazon, closing(names["minio"]) as minio:
            amazon["limits"] = 9
            assert minio["limits"] == 9


def test_nats():
    with nats_cluster.Cluster.started() as cluster:
        make_bucket(cluster.urls[0], "settings", replicas=3)
        one, two, three = (server.address for server in cluster.servers)
        places = {"one:4222": one, "two:4222": two, "three:4222": three}
        with run_blocks("nats.md", places)["store"] as store:
            store["limits"] = 9
            assert store["limits"] == 9


def test_consume(postgres, monkeypatch, tmp_path):
    """Nothing is sent: there are no orders."""
    with psycopg.connect(postgres) as connection:
        connection.execute("CREATE TABLE orders (id text PRIMARY KEY, state text)")
    monkeypatch.setenv("HOOK_SECRET", "secret")
    monkeypatch.chdir(tmp_path)
    names = run_blocks("consume.md", {"postgresql://localhost/shop?": f"{postgres}&"})
    names["store"].close()

"""Sources that are made without a URL type what they are given as a URL does."""

import math

import pytest
from datastream_grpc.source import GrpcSource

from datastream import DatastreamError, Store
from datastream.sources.env import EnvSource
from datastream.sources.files import FilesSource
from datastream.sources.filesystem import FilesystemSource
from datastream.sources.git import GitSource, RemoteGitSource
from datastream.sources.nats import NatsSource
from datastream.sources.postgres import PostgresSource
from datastream.sources.s3 import S3Source
from datastream.sources.sqlite import SqliteSource
from datastream.url import Seconds, checks_options

PLACES = {
    SqliteSource: ("no/such.db",),
    FilesSource: ("no/such",),
    GitSource: ("no/such",),
    RemoteGitSource: ("https://127.0.0.1:1/no",),
    S3Source: ("no-such",),
    FilesystemSource: ("memory://no/such",),
    PostgresSource: ("postgresql://127.0.0.1:1/no",),
    NatsSource: (["nats://127.0.0.1:1"], "no"),
    GrpcSource: ("127.0.0.1:1",),
}
TIMED = dict.fromkeys(PLACES, "interval") | {GrpcSource: "timeout"}


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("value", [math.nan, math.inf, 0, -1, 1e308, "soon", "nan", None, b"1", []])
def test_a_time_is_a_number_of_seconds(kind, value):
    with pytest.raises(DatastreamError, match=rf"option {TIMED[kind]} of '{kind.__name__}' wants"):
        kind(*PLACES[kind], **{TIMED[kind]: value})


@pytest.mark.parametrize("kind", [kind for kind in PLACES if kind is not FilesystemSource])
def test_an_option_that_there_is_not_is_refused(kind):
    with pytest.raises(DatastreamError, match=r"no option .tiemout."):
        kind(*PLACES[kind], tiemout=1)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SqliteSource, {"create": "banana"}),
        (SqliteSource, {"table": 5}),
        (FilesSource, {"hidden": "perhaps"}),
        (FilesSource, {"exclude": [1]}),
        (GitSource, {"branch": b"main"}),
        (RemoteGitSource, {"cache": 7}),
        (S3Source, {"client_kwargs": "region_name"}),
        (S3Source, {"anon": 2}),
    ],
)
def test_what_is_of_another_type_is_refused(kind, options):
    (name,) = options
    with pytest.raises(DatastreamError, match=f"option {name} of '{kind.__name__}' wants"):
        kind(*PLACES[kind], **options)


@pytest.mark.parametrize(
    ("kind", "places"),
    [(SqliteSource, (5,)), (FilesSource, (b"a",)), (S3Source, (None,)), (EnvSource, (1,))],
)
def test_places_are_typed_too(kind, places):
    with pytest.raises(DatastreamError, match=f"of '{kind.__name__}' wants"):
        kind(*places)


def test_text_is_taken_as_in_a_url_and_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with Store(SqliteSource("~/app.db", create="yes", timeout="2.5", table="data")) as store:
        store["a"] = 1
    assert (tmp_path / "app.db").exists()


def test_what_is_typed_once_stays_what_it_is():
    class Mine:
        @checks_options
        def __init__(self, place: str, *, every: Seconds = 1.0, others: object = None) -> None:
            self.given = place, every, others

    marker = object()
    assert Mine("a", every="2", others=marker).given == ("a", 2.0, marker)
    assert Mine(place="a").given == ("a", 1.0, None)
    with pytest.raises(TypeError, match="place"):
        Mine()
    with pytest.raises(TypeError, match="positional"):
        Mine("a", 1.0)

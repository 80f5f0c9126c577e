"""Hostile URLs and options of every scheme: only errors of ours leave `open`, without secrets."""

import pytest

import datastream
from datastream import DatastreamError

PLACES = [
    "",
    ":",
    "://",
    "x",
    "nope:x",
    "sqlite:",
    "git:",
    "nats://",
    "grpc:",
    "postgresql:",
    "s3:",
]
ENDED = ["memory:", "env:APP_", "sqlite:x.db", "file:dir", "grpc://h:1"]
ENDS = [
    *("?", "#part", "?a", "?=", "?a=b&a=c", "?table=%00", "?%69nterval=nan", "?\ud800=x", "//"),
    *("/../..", "/%00", "/%ff", "/%2e%2e", "\n", "\0", "/\u202e", "/\ud800", "/" + "x" * 5000),
]
OPTIONS = ["interval", "table", "create"]
VALUES = ["nan", "-inf", "1e308", "1e400", "-1", "0", "", "banana", "%00", "%ZZ", "9" * 400, "١٢"]
HOSTS = [
    *("[::1", "[::1]:1", "::1", "[fe80::1%25lo]:1", "[fe80::1%lo]:1", "xn--", "a..b:1", "-:1"),
    *("h:99999", "h:abc", "h:", "h:-1", "h:１", "h:1:1", "h x:1", "h\nx:1", "\u202eh:1", "☃:1"),
    *("*.x:1", "%00:1", "u:%ff@h:x", "u:tops@cret@[::1", "u:tops%40cret@h:abc", "u:tops#cret@h:1"),
]
LAZY = ["grpc", "grpcs", "nats", "postgresql"]
"""Schemes that connect only when they are used."""


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "dir").mkdir()


def urls():
    yield from PLACES
    yield from (place + end for place in ENDED for end in ENDS)
    for place in ("sqlite:x.db", "file:dir"):
        yield from (f"{place}?{name}={value}" for name in OPTIONS for value in VALUES)
    yield from (f"{scheme}://{host}/x" for scheme in LAZY for host in HOSTS)


def said(url):
    """What the error says that opening it raises, "" if it raises none."""
    try:
        datastream.open(url).close()
    except DatastreamError as error:
        return str(error)
    return ""


def test_only_errors_of_ours_leave_open_and_show_no_password(places):
    assert not [url for url in urls() if "cret" in said(url)]

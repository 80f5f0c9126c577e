"""What clients are told of errors: not where the server keeps its data."""

import pytest
from datastream_grpc._texts import Texts

from datastream import RevisionConflict

SECRETS = ("/srv", "db.internal", "10.1.2.3", "5432", "app_user", "secret_table", "fe80", "ledger")


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:/srv/app/ledger.db can only be read; nothing was written",
        "/srv/app/ledger.db: unable to open database file; check the path",
        "ledger.db: database is locked",
        "./data/ledger.db is no database",
        "ledger.db-wal: disk I/O error",
        'connection to server at "10.1.2.3", port 5432 failed: Connection refused',
        "db.internal:5432: no answer within 10 s; is the server overloaded?",
        "localhost:5432: connection refused",
        "[fe80::1]:5432: connection refused; fe80::1 is away",
        'FATAL: password authentication failed for user "app_user"',
        'relation "secret_table" does not exist\nLINE 1: SELECT key FROM secret_table WHERE x',
        "syntax error: UPDATE secret_table SET x = 1",
        "could not clone https://db.internal/app.git: 403",
        "git+ssh://app_user@db.internal/srv: no such repository",
        "s3://ledger/x: Could not connect to the endpoint URL: http://10.1.2.3:9000/ledger",
        "C:\\srv\\ledger.db cannot be read",
        "Permission denied: '/srv/app/ledger.db'",
    ],
)
def test_what_tells_of_the_server_is_left_out(text):
    texts = Texts("sqlite:/srv/app/ledger.db", hides_keys=False)
    told = texts.public(text)
    assert not [secret for secret in SECRETS if secret in told], told
    assert len(told.replace("…", "")) > 3


@pytest.mark.parametrize(
    "text",
    [
        "'fx/USD' holds nothing; put a value first, or list the keys",
        "this server can only be read; nothing was written",
        "updated_at of 'k' is no time between the years 1 and 9999; leave it out",
        "operation 7 of 'k' is none of this protocol; send PUT or DELETE",
        "polling every 5 s: no triggers; reads take 0.5 s",
        "the patterns are too long; together they may have 65536 characters, so use broader ones",
        "'old/2019' cannot be read: archived; restore it",
        "datastream: connection refused; it is retried",
        "a value of 'k' is no JSON: Expecting value: line 1 column 1 (char 0)",
    ],
)
def test_what_a_client_needs_stays(text):
    assert Texts("memory:", hides_keys=False).public(text) == text


def test_revisions_stay():
    text = "'fx/USD' has revision 'a1b2c3:17', expected revision 'x'; read it again"
    assert Texts("memory:", hides_keys=True).of(RevisionConflict(text), text, bytes) == text


def test_what_the_client_has_sent_stays():
    texts = Texts("sqlite:/srv/x.db", hides_keys=True)
    text = "'/etc/passwd' and 'a.b.example.com' are no keys; 'other/key' is one"
    told = texts.public(text, lambda: b"..\n\x0b/etc/passwd\n\x0fa.b.example.com")
    assert told == "'/etc/passwd' and 'a.b.example.com' are no keys; … is one"

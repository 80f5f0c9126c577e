"""What must not be shown is shown nowhere: errors, what caused them, statuses, names, log lines."""

import logging
import re
import traceback
from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import datastream
from datastream import DatastreamError, SourceUnavailable, Store
from datastream._secrets import HiddenError, Secrets, hide, hide_in
from datastream.source import Health
from datastream.sources.memory import MemorySource
from datastream.url import parse, secrets_of, shown

# With a digit: none of the words that texts have anyway.
passwords = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=6, max_size=20
).filter(lambda text: any(char.isdigit() for char in text))

USERINFO = [
    "postgresql://bob:{}@127.0.0.1:1/db?connect_timeout=1",
    "git+https://bob:{}@127.0.0.1:1/x",
    "git+ssh://bob:{}@127.0.0.1:1/x?timeout=1",
    "http://bob:{}@127.0.0.1:1/x",
    "sftp://bob:{}@127.0.0.1:1/x",
    "s3://AK:{}@bucket/x",
    "grpc://bob:{}@127.0.0.1:1",
    "redis://bob:{}@127.0.0.1:1",
    "zip://x.zip::http://bob:{}@127.0.0.1:1/x",
    "bob:{}@127.0.0.1:1/x",
    "bob@mail.example:{}@127.0.0.1:1/x",
]
TOKENS = ["git+http://{}@127.0.0.1:1/x", "git+https://{}:x-oauth-basic@127.0.0.1:1/x"]
SLOW = "s3://no?key={0}&secret={0}&endpoint_url=http://127.0.0.1:1&token={0}"
"""Its library asks again for ten seconds."""
OPTIONS = [
    "postgresql://127.0.0.1:1/db?connect_timeout=1&password={}",
    "postgresql://127.0.0.1:1/db?connect_timeout=1&sslpassword={}",
    "git+https://127.0.0.1:1/x?token={}",
    "memory://no-such-place?token={}",
    "memory://no-such-place?pass%77ord={}",
    SLOW,
    "s3://no?endpoint_url=http%3A%2F%2Fbob%3A{}%40127.0.0.1%3A1",
    "file:no-such-directory?api_key={}",
    "sqlite:no/such/directory/x.db?passwrd={}",
    "nosuch:place?client_secret={}",
    "grpc://127.0.0.1:1?authorization={}",
    "az://container?connection_string={}",
]


def everything_said(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


def said_of(url: str, caplog: pytest.LogCaptureFixture, **options: object) -> str:
    """All that is shown of opening `url`, and of using it."""
    caplog.clear()
    said = ""
    try:
        with datastream.open(url, **options) as store:
            said += repr(store) + str(store) + store.name
            with suppress(DatastreamError):
                store["x"]
            said += repr(store.status.current)
            said += str(store.status.current.error)
    except (DatastreamError, ImportError) as error:
        said += everything_said(error)
    return said + caplog.text


def assert_hidden(secret: str, said: str) -> None:
    for spelling in (secret, quote(secret, safe=""), repr(secret)[1:-1]):
        # Lines of our own source stand in a traceback.
        lines = [line for line in said.splitlines() if not line.startswith("    ")]
        assert spelling not in "\n".join(lines)


@pytest.mark.parametrize(
    "url", [pytest.param(url, marks=pytest.mark.chaos if url is SLOW else ()) for url in OPTIONS]
)
def test_options_that_hold_secrets(url, caplog):
    caplog.set_level(logging.DEBUG, "datastream")
    for secret in ("hunter2cretpw", "p@ss/w:rd#1&?", "geheim%20é"):
        assert_hidden(secret, said_of(url.format(quote(secret, safe="")), caplog))


@pytest.mark.parametrize("url", USERINFO)
def test_passwords_of_users(url, caplog):
    caplog.set_level(logging.DEBUG, "datastream")
    for secret in ("hunter2cretpw", "p@ss@w0rd", "s3/cretpw", "s3?cretpw", "s3#cretpw", "pä:ss'w"):
        assert_hidden(secret, said_of(url.format(secret), caplog))
        assert_hidden(secret, said_of(url.format(quote(secret, safe="")), caplog))


@pytest.mark.parametrize("url", TOKENS)
def test_tokens_in_place_of_a_user(url, caplog):
    caplog.set_level(logging.DEBUG, "datastream")
    for secret in ("hunter2cretpw", "s3@cretpw"):
        assert_hidden(secret, said_of(url.format(secret), caplog))
        assert_hidden(secret, said_of(url.format(quote(secret, safe="")), caplog))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://127.0.0.1:1/db?connect_timeout=1", "password"),
        ("postgresql://127.0.0.1:1/db?connect_timeout=1", "sslpassword"),
        ("git+https://127.0.0.1:1/x", "token"),
        ("s3://no?endpoint_url=http://127.0.0.1:1&key=AK", "secret"),
        ("memory:x", "token"),
        ("memory:x", "passwrd"),
        ("memory://x", "credentials"),
    ],
)
def test_secrets_given_in_code(url, name, caplog):
    caplog.set_level(logging.DEBUG, "datastream")
    assert_hidden("hunter2cretpw", said_of(url, caplog, **{name: "hunter2cretpw"}))


@settings(max_examples=60, deadline=None)
@given(passwords, st.sampled_from(USERINFO + TOKENS + OPTIONS))
@example("a@b@c/d?e#f", USERINFO[0])
@example("12345/6@7", USERINFO[1])
def test_no_text_about_a_url_shows_its_secret(secret, form):
    assume(secret not in form)
    encoded = quote(secret, safe="")
    if form in TOKENS and re.search("[/:]", secret):
        # Without a user before it, nothing tells it from a path, or from a user.
        secret = encoded
    for url in (
        (form.format(encoded), form.format(secret))
        if form not in OPTIONS
        else (form.format(encoded),)
    ):
        texts = [shown(url)]
        try:
            location = parse(url)
        except DatastreamError as error:
            texts.append(str(error))
        else:
            secrets = secrets_of(location, {})
            # As libraries say it; what has no scheme reaches none.
            texts += [
                hide(f"cannot connect to {url!r}: {secret} refused"),
                hide(f"GET {encoded} 403"),
                str(DatastreamError(f"no option {secret!r}")),
            ][: 3 * ("://" in form)]
            del secrets
        for text in texts:
            assert secret not in text.replace("***", "")
            assert encoded not in text.replace("***", "")


@settings(max_examples=20, deadline=None)
@given(passwords)
def test_what_caused_an_error_shows_none_either(secret):
    secrets = Secrets([secret])
    try:
        try:
            try:
                raise OSError(5, f"refused {secret}", f"/x/{secret}")
            except OSError as error:
                raise OddError(secret) from error
        except OddError as error:
            error.add_note(f"with {secret}")
            raise DatastreamError(f"place: {error}") from ExceptionGroup(secret, [error])
    except DatastreamError as error:
        said = everything_said(hide_in(error))
    assert_hidden(secret, said)
    assert "OddError" in said
    assert secrets is not None


class OddError(Exception):
    """Shows what cannot be taken out of it."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __str__(self) -> str:
        return f"odd {self._secret}"


def test_an_error_that_can_be_cleaned_stays_what_it_is():
    error = ValueError("at https://bob:hunter2@host/x?token=abc")
    assert hide_in(error) is error
    assert str(error) == "at https://bob:***@host/x?token=***"
    assert isinstance(hide_in(OddError("//bob:hunter2@host")), HiddenError)


def test_secrets_are_hidden_while_somebody_has_them():
    secrets = Secrets(["only-in-this-test"])
    assert hide("only-in-this-test") == "***"
    del secrets
    assert hide("only-in-this-test") == "only-in-this-test"


def test_short_secrets_are_hidden_where_they_stand_alone():
    secrets = Secrets(["k8s"])
    assert hide("k8s, mk8s, 'k8s'") == "***, mk8s, '***'"
    assert secrets.hide("k8s") == "***"


WORDS = ["first", "postgres", "Hunter", "1234"]
"""Passwords that texts hold by chance."""


@pytest.mark.parametrize("word", WORDS)
def test_a_password_that_is_a_word_is_hidden_where_a_password_stands(word):
    text = f"the {word} of {word}s, '{word}', //bob:{word}@host, bob:{word}@host, password={word}"
    secrets = Secrets([word])
    assert hide(text) == (
        f"the {word} of {word}s, '***', //bob:***@host, bob:***@host, password=***"
    )
    assert secrets.hide(f"the {word} of {word}s") == f"the *** of {word}s"
    del secrets
    assert hide(f"the '{word}'") == f"the '{word}'"


@pytest.mark.parametrize("word", WORDS)
def test_a_password_that_is_a_word_is_hidden_in_what_its_store_and_libraries_say(word, caplog):
    caplog.set_level(logging.DEBUG, "datastream")
    source = Trouble("")
    source.password = word
    source.secrets = Secrets([word])
    other = DatastreamError(f"give the {word} key")
    with Store(source, name="x") as store:
        for refused in (store.snapshot, lambda: store["a"]):
            with pytest.raises(DatastreamError) as caught:
                refused()
            assert_hidden(word, everything_said(caught.value))
        assert_hidden(word, repr(store.status.current) + str(store.status.current.error))
        source.health = Health(degraded=f"polling with {word}")
        store.put("b", 1)
        assert store.status.current.degraded == "polling with ***"
        log = logging.getLogger("datastream")
        log.warning("refused: %s", OddError(word), exc_info=OddError(word))
        assert_hidden(word, caplog.text)
    # What has nothing to do with it keeps its words.
    assert str(other) == f"give the {word} key"


@pytest.mark.parametrize(
    "url", [USERINFO[0], USERINFO[6], USERINFO[9], OPTIONS[0], OPTIONS[3], OPTIONS[8]]
)
def test_a_store_that_does_not_open_hides_a_password_that_is_a_word(url, caplog):
    caplog.set_level(logging.DEBUG, "datastream")
    assert_hidden("first", said_of(url.format("first"), caplog))


@pytest.mark.parametrize(
    "text",
    [
        "give key= and secret=",
        "author=Alice signs",
        "sqlite:a.db?table=tokens",
        "design=5 passive=no bypass",
        "ssh://git@host/x: mail me@host",
        "https://host:8443/x",
    ],
)
def test_what_is_no_secret_stays(text):
    assert hide(text) == text


class Trouble(MemorySource):
    """Fails as a library does that tells all it knows."""

    degraded = ""

    def read(self, selection, since):
        raise SourceUnavailable(f"no \x1b[31m{self.password}\nforged line") from OddError(
            self.password
        )

    def get(self, key):
        raise OddError(self.password)

    password = "hunter2cretpw"


def test_status_and_log_show_neither_secrets_nor_escapes(caplog):
    caplog.set_level(logging.DEBUG, "datastream")
    source = Trouble("")
    source.secrets = Secrets([source.password])
    with Store(source, name="x\x1b[31m") as store:
        with pytest.raises(SourceUnavailable) as caught:
            store.snapshot()
        status = store.status.current
        with pytest.raises(DatastreamError) as odd:
            store["a"]
        source.health = Health(degraded="polling \x07hunter2cretpw")
        store.put("b", 1)
        status_after = store.status.current
    said = everything_said(caught.value) + everything_said(odd.value)
    said += repr(status) + repr(status_after) + caplog.text
    assert_hidden("hunter2cretpw", said)
    assert "\x1b" not in said
    assert "\x07" not in said
    assert str(caught.value) == "no \\x1b[31m***\\nforged line"
    assert status_after.degraded == "polling \\x07***"


def test_what_others_raise_is_logged_without_escapes(caplog):
    with datastream.open("memory:") as store:

        def subscriber(entry):
            raise ValueError(f"\x1b]52;c;evil\x07 https://bob:{'hunter'}2@host/x")

        store["a"] = 1
        store.watch().subscribe(subscriber)
        store.flush()
    assert "disposed" in caplog.text
    assert "\x1b" not in caplog.text
    assert "hunter2" not in caplog.text

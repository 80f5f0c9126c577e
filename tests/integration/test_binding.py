"""Bindings: an object that follows its keys, keeps the last good state, and writes back."""

import asyncio
import gc
import json
import logging
import subprocess
import sys
import threading
import weakref
from contextlib import ExitStack
from typing import Any

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, Field, SecretStr, field_validator

import datastream
from datastream import (
    DatastreamError,
    InvalidKey,
    InvalidValue,
    RevisionConflict,
    SourceUnavailable,
    State,
    Store,
    StoreClosed,
)
from datastream._binding import explain
from datastream._binding.evaluate import Evaluator
from datastream.sources.memory import MemorySource
from datastream.testing import overriding
from tests.integration._core_sources import Gated
from tests.integration._programs.tools import Collected, eventually
from tests.repositories import ENVIRONMENT, GIT, Repository

AWAY = SourceUnavailable("the server is away")


class Db(BaseModel):
    url: str
    pool: int = 5
    password: SecretStr = SecretStr("")


class Settings(BaseModel):
    limit: int = 10
    db: Db


@pytest.fixture
def source():
    return Gated()


@pytest.fixture
def store(source):
    with Store(source, name="conf") as store:
        yield store


@pytest.fixture
def settings(store):
    store.put_many({"app/db/url": "u", "other": 1})
    return store.bind(Settings, "app/")


def test_it_is_there_on_return_and_follows(store, settings):
    assert settings.current == Settings(db=Db(url="u"))
    before = settings.current
    store.put_many({"app/LIMIT": 11, "app/db/pool": "6"})
    store.flush()
    assert settings.current == Settings(limit=11, db=Db(url="u", pool=6))
    assert before.limit == 10
    assert settings.status.current.state is State.READY


def test_missing_fields_at_start_are_listed_with_their_keys(store):
    with pytest.raises(InvalidValue, match=r"lacks required fields: db\.url; .* app/db/url"):
        store.bind(Settings, "app/")
    store["app/db/url"] = "u"
    store["app/limit"] = "many"
    with pytest.raises(InvalidValue, match="cannot begin: 'app/limit': limit: Input should be"):
        store.bind(Settings, "app/")
    eventually(lambda: not store._core._publisher.routes, "nothing is left subscribed")


def test_a_bad_state_leaves_the_good_one_in_force_across_other_keys(store, settings, caplog):
    good = settings.current
    store["app/limit"] = "many"
    store["app/db/pool"] = 7
    store.flush()
    assert settings.current is good
    (rejected,) = settings.rejected
    assert (rejected.key, rejected.revision) == ("app/limit", store.entry("app/limit").revision)
    assert rejected.reason.startswith("limit: Input should be")
    status = settings.status.current
    assert (status.state, "app/limit" in status.degraded) == (State.READY, True)
    assert len([r for r in caplog.records if "is refused" in r.getMessage()]) == 1
    store["app/limit"] = 12
    store.flush()
    assert settings.current == Settings(limit=12, db=Db(url="u", pool=7))
    assert settings.rejected == ()
    assert settings.status.current.degraded == ""


def test_nothing_is_applied_half(store, settings):
    store.put_many({"app/limit": 12, "app/db/pool": "bad"})
    store.flush()
    assert settings.current == Settings(db=Db(url="u"))
    del store["app/db/url"]
    store["app/db/pool"] = 1
    store.flush()
    assert settings.current == Settings(db=Db(url="u"))
    assert settings.rejected[0].key == "app/db/url"


def test_a_change_of_status_is_told(store, settings):
    degraded = Collected(settings.status)
    store["app/limit"] = "many"
    degraded.wait(lambda got: got[-1].degraded, "degraded")
    store["app/limit"] = 1
    degraded.wait(lambda got: not got[-1].degraded, "well again")


def test_changes_have_old_new_paths_and_entries(store, settings):
    changes, pools, urls = [], [], []
    settings.changes.subscribe(changes.append)
    settings.on("db", pools.append)
    settings.on("db.url", urls.append)
    store.put_many({"app/limit": 11, "app/db/pool": 6})
    store.flush()
    (change,) = changes
    assert (change.old.limit, change.new.limit) == (10, 11)
    assert change.paths == ("limit", "db.pool")
    assert {entry.key for entry in change.entries} == {"app/limit", "app/db/pool"}
    assert [(c.old.pool, c.new.pool, c.paths) for c in pools] == [(5, 6, ("db.pool",))]
    assert not urls
    store["app/limit"] = "11"
    store.flush()
    assert len(changes) == 1, "what differs in no field is no change"
    with pytest.raises(InvalidKey):
        settings.on("db..url", print)
    with pytest.raises(InvalidKey, match=r"no field 'db\.urll'; did you mean 'url'"):
        settings.on("db.urll", print)


def test_before_the_first_state_reading_raises_or_waits(store, source):
    store["app/db/url"] = "u"
    for name in ("poll", "read", "get", "wait"):
        source.failures[name] = AWAY
    impatient, patient = (store.bind(Settings, "app/", wait=wait) for wait in (0, 30))
    assert impatient.status.current.state is State.CONNECTING
    with pytest.raises(SourceUnavailable, match="no state yet: the server is away"):
        _ = impatient.current.limit
    got = []
    thread = threading.Thread(target=lambda: got.append(patient.current))
    thread.start()
    source.failures.clear()
    store.refresh()
    thread.join(30)
    assert got == [Settings(db=Db(url="u"))]
    assert impatient.ready(30)


def test_a_first_state_that_comes_late_and_bad_is_the_error(store, source):
    store["app/limit"] = "many"
    for name in ("poll", "read", "get", "wait"):
        source.failures[name] = AWAY
    settings = store.bind(Settings, "app/")
    source.failures.clear()
    store.refresh()
    eventually(lambda: settings.rejected, "refused")
    with pytest.raises(InvalidValue, match="cannot begin"):
        _ = settings.current.limit
    store.put_many({"app/limit": 1, "app/db/url": "u"})
    assert settings.ready(30)
    assert settings.current.limit == 1


def test_an_outage_changes_nothing(store, source, settings):
    eventually(lambda: source.calls["wait"], "the poller waits")
    for name in ("poll", "read", "get", "wait"):
        source.failures[name] = AWAY
    store.refresh()
    eventually(lambda: settings.status.current.state is State.STALE, "STALE")
    assert settings.current.db.url == "u"
    source.failures.clear()
    store.refresh()
    eventually(lambda: settings.status.current.state is State.READY, "READY")


def test_writing_back_is_validated_written_as_one_batch_and_in_force_on_return(store, settings):
    batches = []
    store.watch_batches("app/", initial=False).subscribe(batches.append)
    settings.patch({"db.pool": 9, "limit": 12})
    assert (settings.current.limit, settings.current.db.pool) == (12, 9)
    store.flush()
    assert [len(batch) for batch in batches] == [2]
    with pytest.raises(InvalidValue, match="nothing was written"):
        settings.patch({"limit": "many", "db.pool": 1})
    assert store["app/db/pool"] == 9
    settings.put(db=Db(url="v", password=SecretStr("hunter2")))
    assert (store["app/db/url"], store["app/db/password"]) == ("v", "hunter2")
    assert "hunter2" not in repr(settings.current)


def test_who_has_changed_a_key_meanwhile_is_not_overwritten():
    source, theirs = (Gated("changed meanwhile") for _ in range(2))
    with Store(source, name="conf") as store, Store(theirs, name="elsewhere") as elsewhere:
        store["app/db/url"] = "u"
        settings = store.bind(Settings, "app/")
        source.hold("poll")
        elsewhere["app/db/url"] = "v"
        try:
            with pytest.raises(RevisionConflict):
                settings.patch({"db.url": "w"})
        finally:
            source.release_all()
        eventually(lambda: settings.current.db.url == "v", "theirs")


def test_a_patch_in_a_subscriber_does_not_wait_for_itself(store, settings):
    done = threading.Event()

    def react(change):
        if change.new.db.pool == 5:
            settings.patch({"db.pool": change.new.limit})
            done.set()

    settings.changes.subscribe(react)
    store["app/limit"] = 11
    assert done.wait(30)
    assert settings.current.db.pool == 11


def test_one_document(tmp_path):
    (tmp_path / "app.yaml").write_text("db:\n  url: u  # ours\n")
    with datastream.open(f"file:{tmp_path}") as store:
        settings = store.bind(Settings, "app.yaml")
        assert settings.current.db.url == "u"
        changes = Collected(settings.changes)
        (tmp_path / "app.yaml").write_text("db:\n  url: v\nlimit: 3\n")
        changes.wait(lambda got: got[-1].new.limit == 3, "the new document")
        (tmp_path / "app.yaml").write_text("db: {url: [\n")
        eventually(lambda: settings.rejected, "refused")
        assert settings.current == Settings(limit=3, db=Db(url="v"))
        (tmp_path / "app.yaml").write_text("db: {password: hunter2\n")
        eventually(lambda: "line 2" in settings.rejected[0].reason, "refused anew")
        assert "hunter2" not in settings.status.current.degraded
    with datastream.open("memory:") as store:
        store["app.json"] = {"db": {"url": "u"}}
        settings = store.bind(Settings, "app.json")
        settings.patch({"limit": 4})
        assert store["app.json"] == {"db": {"url": "u"}, "limit": 4}
        assert settings.current.limit == 4


def test_explain_says_where_each_field_comes_from(store, settings):
    settings.patch({"db.password": SecretStr("hunter2")})
    store["app/limit"] = "many"
    store.flush()
    found = settings.explain()
    assert set(found) == {"limit", "db.url", "db.pool", "db.password"}
    url = found["db.url"]
    assert (url.value, url.key, url.layer) == ("u", "app/db/url", "conf")
    assert url.revision == store.entry("app/db/url").revision
    assert url.updated_at is not None
    assert (found["limit"].layer, found["limit"].key) == ("defaults", "")
    assert "hunter2" not in repr(found)
    assert found["db.password"].key == "app/db/password"


def test_explain_says_what_each_layer_hides():
    with ExitStack() as stack:
        top, middle, bottom = (
            stack.enter_context(Store(MemorySource(), name=name))
            for name in ("top", "middle", "bottom")
        )
        laid = stack.enter_context(datastream.overlay(top, middle, bottom))
        bottom.put_many({"app/db": {"url": "u0", "password": "hunter1"}, "app/limit": 7})
        middle.put_many({"app/db": {"url": "u1", "pool": 8}, "app/limit": "many"})
        top.put_many({"app/db": {"url": "u2", "password": "hunter2"}, "app/limit": 9})
        found = laid.bind(Settings, "app/").explain()
        revisions = [store.entry("app/db").revision for store in (middle, bottom)]
        assert [(one.layer, one.value) for one in found["limit"].hides] == [
            ("middle", None),
            ("bottom", 7),
            ("defaults", 10),
        ]
        below = [("middle", "u1", revisions[0]), ("bottom", "u0", revisions[1])]
        assert list(found["db.url"].hides) == below
        assert [(one.layer, one.value) for one in found["db.pool"].hides] == [
            ("middle", 8),
            ("bottom", 5),
        ]
        assert found["db.password"].hides[1].value == found["db.password"].value
        assert "hunter" not in repr(found)


def test_explain_names_the_key_that_an_alias_path_leads_to(store):
    class Aliased(BaseModel):
        host: str = Field("h", validation_alias=AliasChoices(AliasPath("old", "host"), "host"))
        port: int = Field(1, validation_alias=AliasPath("ports", 1))
        other: int = Field(2, validation_alias=AliasPath("none", "such"))

    store.put_many({"app/old/host": "x", "app/ports": [80, 8080]})
    found = store.bind(Aliased, "app/").explain()
    assert [(one.value, one.key, one.layer) for one in found.values()] == [
        ("x", "app/old/host", "conf"),
        (8080, "app/ports", "conf"),
        (2, "", "defaults"),
    ]
    assert [one.value for one in found["host"].hides] == ["h"]


def test_explain_names_the_key_that_takes_the_place_of_one(store):
    class Part(BaseModel):
        url: str = "u"

    class Whole(BaseModel):
        part: Part = Part()

    whole = store.put("app/part", {"url": "of the whole"})
    store["app/part/url"] = "its own"
    found = store.bind(Whole, "app/").explain()["part.url"]
    assert (found.value, found.key) == ("its own", "app/part/url")
    assert found.hides == (explain.Hidden("conf", "of the whole", whole.revision),)


@pytest.mark.skipif(GIT is None, reason="needs the git program: apt-get install git")
def test_explain_and_changes_name_author_and_message(tmp_path, monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    Repository.new(tmp_path / "r", bare=True)
    url = f"git:{tmp_path / 'r'}?branch=main"
    with datastream.open(url) as store, datastream.open(url) as other:
        store.put("app/db/url", "u", message="begin", author="Ann <ann@example.org>")
        settings = store.bind(Settings, "app/")
        found = settings.explain()["db.url"]
        assert (found.message.strip(), "Ann" in found.author) == ("begin", True)
        changes = Collected(settings.changes)
        other.put("app/limit", 3, message="fewer", author="Bob <bob@example.org>")
        changes.wait(lambda got: got, "the change")
        assert "Bob" in changes.got[0].author
        assert changes.got[0].message.strip() == "fewer"
        settings.patch({"limit": 4}, message="four")
        assert settings.explain()["limit"].message.strip() == "four"


def test_overriding_for_tests(store, settings):
    changes = []
    settings.changes.subscribe(changes.append)
    with overriding(settings, limit=1, db={"pool": 2}) as current:
        assert current is settings.current
        assert settings.current == Settings(limit=1, db=Db(url="u", pool=2))
        assert settings.explain()["limit"].layer == "overriding"
        store.put_many({"app/db/url": "v", "app/limit": 99})
        store.flush()
        assert settings.current == Settings(limit=1, db=Db(url="v", pool=2))
        with overriding(settings, limit=2):
            assert settings.current.limit == 2
        assert settings.current.limit == 1
    assert settings.current == Settings(limit=99, db=Db(url="v"))
    with pytest.raises(InvalidValue, match="refuses these values"), overriding(settings, limit="x"):
        pass
    with pytest.raises(InvalidKey, match="no field 'limits'"), overriding(settings, limits=1):
        pass
    assert settings.current.limit == 99
    store.flush()
    assert [change.new.limit for change in changes] == [1, 1, 2, 1, 99]


def test_overriding_leaves_no_trace_where_the_newest_state_is_refused(store, settings):
    good = settings.current
    store["app/db/pool"] = "many"
    store.flush()
    with overriding(settings, db={"pool": 2}):
        assert settings.current.db.pool == 2
        assert settings.rejected == ()
        store["app/limit"] = 11
        store.flush()
        assert settings.current == Settings(limit=11, db=Db(url="u", pool=2))
    assert settings.current == good
    assert settings.rejected[0].key == "app/db/pool"
    store["app/db/pool"] = 3
    store.flush()
    assert settings.current == Settings(limit=11, db=Db(url="u", pool=3))


def test_overriding_before_there_is_a_state(store, source):
    for name in ("poll", "read", "get", "wait"):
        source.failures[name] = AWAY
    settings = store.bind(Settings, "app/")
    with overriding(settings, db={"url": "test"}):
        assert settings.current.db.url == "test"
    with pytest.raises(SourceUnavailable):
        _ = settings.current.limit


def test_async(store, settings):
    async def main():
        bound = await store.abind(Settings, "app/")
        assert await bound.aready(30)
        async with bound.achanges() as changes:
            await bound.apatch({"limit": 100})
            assert (await anext(changes)).new.limit == 100
        await bound.aput(limit=1)
        assert bound.current.limit == 1
        assert (await bound.aexplain())["limit"].value == 1
        view = await store.aview("app/")
        assert view["app/limit"] == 1

    asyncio.run(main())


def test_current_cannot_be_set_and_what_is_misspelled_is_an_attribute_error(settings):
    with pytest.raises(AttributeError, match="put"):
        settings.current = 1
    with pytest.raises(AttributeError, match="no attribute 'curent'"):
        settings.curent  # noqa: B018


def test_it_is_freed_when_it_is_dropped_and_ended_when_it_is_closed(store, settings):
    kept = weakref.ref(store.bind(Settings, "app/"))
    gc.collect()
    eventually(lambda: kept() is None, "collected")
    ended = threading.Event()
    settings.changes.subscribe(on_completed=ended.set)
    settings.close()
    assert ended.wait(30)
    assert settings.current.db.url == "u"
    assert settings.status.current.state is State.CLOSED
    with pytest.raises(StoreClosed):
        settings.changes.subscribe(print)
    eventually(lambda: not store._core._publisher.routes, "unsubscribed")


def test_reasons_do_not_quote_what_a_validator_was_given(store, caplog):
    class Pin(BaseModel):
        pin: str = ""

        @field_validator("pin")
        @classmethod
        def check(cls, pin):
            if pin:
                raise ValueError(f"{pin} is no good pin")
            return pin

    with store.bind(Pin, "app/") as pin:
        store["app/pin"] = "hunter2"
        store.flush()
        assert pin.rejected[0].reason == "pin: Value error, *** is no good pin"
    assert "hunter2" not in caplog.text


def test_a_validator_may_be_slow_or_call_the_store(store):
    class Slow(BaseModel):
        limit: int = 0

        @field_validator("limit")
        @classmethod
        def _look(cls, value):
            store.get("other")
            return value

    settings = store.bind(Slow, "app/")
    store["app/limit"] = 3
    store.flush()
    assert settings.current.limit == 3


def test_a_hundred_bindings_and_changes_in_many_threads(store, caplog):
    caplog.set_level(logging.WARNING)
    store.put_many({f"app{n}/db/url": "u" for n in range(100)})
    bindings = [store.bind(Settings, f"app{n}/") for n in range(100)]

    def write(number):
        for n in range(number, 100, 4):
            bindings[n].patch({"limit": n})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [binding.current.limit for binding in bindings] == list(range(100))
    assert not caplog.records


def test_readers_never_see_half_an_object(store, settings):
    stop, torn = threading.Event(), []

    def read():
        while not stop.is_set():
            current = settings.current
            if current.limit != 10 and current.limit != current.db.pool:
                torn.append(current)

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(100):
        store.put_many({"app/limit": number, "app/db/pool": number})
    store.flush()
    stop.set()
    thread.join()
    assert not torn
    assert settings.current.limit == 99


def test_without_pydantic_the_extra_is_named():
    program = (
        "import sys; sys.modules['pydantic'] = None\n"
        "import datastream\n"
        "try: datastream.open('memory:').bind(dict, 'app/')\n"
        "except ImportError as error: print(error)"
    )
    output = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert 'pip install "datastream-kv[settings]"' in output


def test_in_a_child_process_the_last_object_stands():
    program = """
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import datastream
store = datastream.open("memory:")
store["app/limit"] = 3
settings = store.bind(dict[str, int], "app/")
pid = os.fork()
if pid == 0:
    assert settings.current == {"limit": 3} and settings.status.current.state == "CLOSED"
    try:
        settings.patch({"limit": 4})
    except datastream.StoreClosed:
        os._exit(0)
    os._exit(1)
assert os.waitpid(pid, 0)[1] == 0
settings.patch({"limit": 4})
assert settings.current == {"limit": 4}
store.close()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_error_is_ours(store, settings):
    for call in (
        lambda: settings.patch({"nothing": 1}),
        lambda: settings.put(limits=1),
        lambda: settings.patch({"limit.x": 1}),
        lambda: settings.put(db=None),
        lambda: settings.patch({"": 1}),
    ):
        with pytest.raises(DatastreamError):
            call()
    assert json.dumps(store.copy())


def test_a_key_of_very_many_segments_is_refused_like_any_other(store):
    settings = store.bind(dict[str, Any], "app/")
    deep = "app/" + "a/" * 500 + "a"
    store[deep] = 1
    store.flush()
    assert "too deeply" in settings.rejected[0].reason
    with pytest.raises(InvalidValue, match="too deeply"):
        settings.patch({".".join("b" * 900): 1})
    del store[deep]
    store["app/k"] = 1
    store.flush()
    assert settings.current == {"k": 1}


def test_very_many_keys_are_explained_together(store, monkeypatch):
    evaluated = []
    with datastream.open("memory:") as below, datastream.overlay(store, below) as laid:
        below.put_many({"limit": 1, "db/url": "low"})
        store.put_many({"limit": 2, "db/url": "high", "db/pool": 3})
        settings = laid.bind(Settings)
        apart = settings.explain()
        monkeypatch.setattr(explain, "MANY", 1)
        call = Evaluator.__call__
        monkeypatch.setattr(
            Evaluator, "__call__", lambda *given: evaluated.append(given) or call(*given)
        )
        together = settings.explain()
    assert together == apart
    assert [one.value for one in together["limit"].hides] == [1, 10]
    # Once for the layer below; once for the defaults, and again with what has none.
    assert len(evaluated) == 3

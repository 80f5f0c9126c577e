"""Rules in files and stores, and a server that goes by them."""

from __future__ import annotations

import pytest
from datastream_grpc._principal import Principal
from datastream_grpc._rules import Rules

import datastream
from datastream import DatastreamError, Feature, Selection, Store, Unreadable
from datastream.sources.memory import MemorySource
from tests.integration._programs.tools import eventually

WEB = Principal("web")


@pytest.mark.parametrize("kind", ["toml", "yaml", "json"])
def test_rules_of_a_file_are_followed(tmp_path, kind, caplog):
    file = tmp_path / f"rules.{kind}"
    texts = {
        "toml": '[web]\nread = ["%s"]\n',
        "yaml": 'web:\n  read: ["%s"]\n',
        "json": '{"web": {"read": ["%s"]}}',
    }
    file.write_text(texts[kind] % ("a/"))
    changes = []
    with Rules(str(file)) as rules:
        rules.subscribe(lambda: changes.append(1))
        assert rules(WEB, "read", Selection()) == Selection.of("a/")
        assert rules(WEB, "write", Selection()) is None
        file.write_text(texts[kind] % ("b/"))
        eventually(lambda: rules(WEB, "read", Selection()) == Selection.of("b/"), "the new rules")
        assert changes
        file.write_text(texts[kind] % ("a/{b,c}*"))
        eventually(lambda: "those before stand" in caplog.text, "the log line")
        assert rules(WEB, "read", Selection()) == Selection.of("b/")


@pytest.mark.parametrize("change", ["broken", "gone"])
def test_a_file_that_cannot_be_read_any_more_is_said(tmp_path, change, caplog):
    """Who has just shut somebody out, with a slip of the pen, has to know that it is no use."""
    file = tmp_path / "rules.toml"
    file.write_text('[web]\nread = ["a/"]\n')
    with Rules(file) as rules:
        if change == "broken":
            file.write_text('[web]\nread = ["a/"\n')
        else:
            file.unlink()
        eventually(lambda: "rules cannot be read, those before stand" in caplog.text, "the log")
        assert rules(WEB, "read", Selection()) == Selection.of("a/")
        file.write_text('[web]\nread = ["b/"]\n')
        eventually(lambda: rules(WEB, "read", Selection()) == Selection.of("b/"), "the new rules")


def test_rules_of_a_store():
    with datastream.open("memory:") as store:
        store["web/read"] = ["a/"]
        rules = Rules(store)
        store["web/write"] = "a/x"
        store.flush()
        assert rules(WEB, "write", Selection()) == Selection.of("a/x")
        del store["web/read"]
        store.flush()
        assert rules(WEB, "read", Selection()) is None
        rules.close()
        assert store["web/write"] == "a/x"


def test_rules_that_are_wrong_or_missing_are_said_at_once(tmp_path):
    file = tmp_path / "rules.toml"
    with pytest.raises(DatastreamError):
        Rules(file)
    file.write_text("[web]\nreed = ['a']\n")
    with pytest.raises(DatastreamError, match="web/reed"):
        Rules(file)


class Archive(MemorySource):
    """A table of which some keys cannot be read; no log, so that each change is a new state."""

    features = MemorySource.features - {Feature.LOG}
    hidden = frozenset()

    def read(self, selection, since):
        reading = super().read(selection, None)
        entries = [entry for entry in reading.entries if entry.key not in self.hidden]
        return reading._replace(entries=entries, unread=self.hidden)


def test_a_rule_that_cannot_be_read_denies_all_the_same(caplog):
    """Who may read ``**`` but for what is denied would read that, too."""
    source = Archive()
    with Store(source, name="archive") as store:
        store.put_many({"web/read": ["**"], "web/deny": ["secret"]})
        source.hidden = frozenset(("web/deny",))
        with pytest.raises(Unreadable, match="web/deny"):
            Rules(store)
        caplog.clear()
        source.hidden = frozenset()
        with Rules(store) as rules:
            source.hidden = frozenset(("web/deny",))
            store.put("web/write", ["a"])
            store.flush()
            assert rules(WEB, "write", Selection()) == Selection.of("a", exclude="secret")
            assert not rules(WEB, "read", Selection()).matches("secret")
    assert "those before stand" not in caplog.text

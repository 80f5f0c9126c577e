"""The file of a consumer's place: what was saved is there, whatever tore it or failed meanwhile."""

import json
import os
import random

import pytest

from datastream import DatastreamError, Selection
from datastream._consume import file_place
from datastream._consume.file_place import FilePlace, Taken

SELECTION = Selection.of("fx/", match="a/*")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "place"


def opened(path, selection=SELECTION):
    return FilePlace(path, "mails", selection)


def test_what_a_child_has_open_is_free_once_it_is_closed(path):
    """A child that was forked just now has not closed yet what it got of its parent."""
    place = opened(path)
    childs = os.dup(place._fd)
    place.close()
    try:
        opened(path).close()
    finally:
        os.close(childs)


def known(place):
    progress = place.progress
    return progress.begun, progress.cursor, dict(progress.revisions)


def read(path, selection=SELECTION):
    place = opened(path, selection)
    place.close()
    return known(place)


def saves(seed, number=30):
    """Random saves."""
    rolled = random.Random(seed)
    for cursor in range(number):
        keys = rolled.sample(["fx/a", "fx/ü", "a/\n\t", 'q"', "z" * 40], 2)
        handled = {key: rolled.choice([None, f"r{cursor}", "é"]) for key in keys}
        yield handled, rolled.choice([None, f"c{cursor}"])


def test_what_was_saved_is_there(path):
    place = opened(path)
    assert known(place) == (False, "", {})
    for handled, cursor in saves(1):
        place.save(handled, cursor)
    expected = known(place)
    place.close()
    assert read(path) == expected
    assert expected[0]


def test_of_a_torn_file_the_last_sound_save_is_there_and_one_can_go_on(path):
    place, states, ends = opened(path), [], []
    for handled, cursor in saves(2, 8):
        ends.append(path.stat().st_size)
        states.append(known(place))
        place.save(handled, cursor)
    place.close()
    content = path.read_bytes()
    for size in range(ends[0], len(content), 11):
        path.write_bytes(content[:size])
        place = opened(path)
        last = max(number for number, end in enumerate(ends) if end <= size)
        assert known(place) == states[last]
        place.save({"fx/new": "r"}, "new")
        expected = known(place)
        place.close()
        assert read(path) == expected


def test_damage_costs_what_follows_it_and_no_more(path):
    place = opened(path)
    states = [known(place)]
    for handled, cursor in saves(3, 6):
        place.save(handled, cursor)
        states.append(known(place))
    place.close()
    content = path.read_bytes()
    for at in range(content.index(b"\n") + 1, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert read(path) in states


def test_a_file_is_written_anew_when_most_of_it_is_old(path, monkeypatch):
    monkeypatch.setattr(file_place, "SLACK", 1000)
    place = opened(path)
    for number in range(100):
        place.save({"fx/a": f"r{number}"}, f"c{number}")
    assert path.stat().st_size < 4000
    place.close()
    assert read(path) == (True, "c99", {"fx/a": "r99"})
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("step", ["_write", "fdatasync", "fsync", "replace", "_sync_directory"])
def test_a_save_that_fails_is_made_up_for(path, monkeypatch, step):
    monkeypatch.setattr(file_place, "SLACK", 200)
    rolled, failed = random.Random(step), 0
    place = opened(path)
    for number in range(60):
        with monkeypatch.context() as patch:
            if rolled.random() < 0.4:
                _let_fail(patch, step)
            handled, cursor = {f"fx/{number % 5}": f"r{number}"}, f"c{number}"
            try:
                place.save(handled, cursor)
            except OSError:
                failed += 1
                patch.undo()
                place.save(handled, cursor)
        assert _content(path) == known(place)
    place.close()
    assert failed
    assert read(path) == known(place)
    assert list(path.parent.iterdir()) == [path]


def _let_fail(patch, step):
    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    if step == "replace":
        patch.setattr(file_place.Path, "replace", fail)
    elif step.startswith("_"):
        patch.setattr(file_place, step, fail)
    else:
        patch.setattr(file_place.os, step, fail)


def _content(path):
    """What another process would find."""
    begun, cursor, revisions = False, "", {}
    for line in path.read_bytes().splitlines()[1:]:
        saved = json.loads(line.split(b" ", 1)[1])
        revisions.update(saved["revisions"])
        if saved["cursor"] is not None:
            begun, cursor = True, saved["cursor"]
    return begun, cursor, {key: r for key, r in revisions.items() if r is not None}


def test_of_another_selection_only_the_revisions_count(path):
    place = opened(path)
    place.save({"fx/a": "r"}, "c")
    place.close()
    other = opened(path, Selection.of("fx/"))
    assert known(other) == (True, "", {"fx/a": "r"})
    other.save({}, "d")
    other.close()
    assert read(path, Selection.of("fx/")) == (True, "d", {"fx/a": "r"})
    assert read(path)[1] == ""


@pytest.mark.parametrize("is_kept", [True, False], ids=["moved away", "removed"])
def test_a_file_that_goes_meanwhile_is_made_anew(path, is_kept, caplog):
    """Else all that is handled from then on would be forgotten by the next start."""
    place = opened(path)
    place.save({"fx/a": "1"}, "c1")
    if is_kept:
        path.rename(path.with_name("elsewhere"))
    else:
        path.unlink()
    place.save({"fx/b": "2"}, "c2")
    with pytest.raises(Taken):
        opened(path)
    place.save({"fx/b": "3"}, "c3")
    place.close()
    assert read(path) == (True, "c3", {"fx/a": "1", "fx/b": "3"})
    assert caplog.messages == [f"{path}: it was removed or moved away; it is made anew"]


def test_a_file_that_another_one_has_replaced_is_left_to_that(path):
    place = opened(path)
    path.rename(path.with_name("elsewhere"))
    other = opened(path)
    other.save({"fx/a": "9"}, "c9")
    for _ in range(2):
        with pytest.raises(Taken, match="another file"):
            place.save({"fx/b": "2"}, "c2")
    place.close()
    other.close()
    assert read(path) == (True, "c9", {"fx/a": "9"})


def test_it_is_used_by_one_at_a_time_also_after_it_was_written_anew(path, monkeypatch):
    monkeypatch.setattr(file_place, "SLACK", -(1 << 40))
    place = opened(path)
    for _ in range(2):
        with pytest.raises(Taken, match="another consumer"):
            opened(path)
        place.save({"fx/a": "r"}, "c")
    place.close()
    assert read(path)[0]


@pytest.mark.parametrize("content", [b"text\n", b"\0" * 100, b"00000000 {}\n"])
def test_what_is_no_place_is_left_as_it_is(path, content):
    path.write_bytes(content)
    with pytest.raises(DatastreamError, match="no place of a consumer"):
        opened(path)
    assert path.read_bytes() == content

from datastream import Entry
from datastream._watch.remembered import Remembered


def entry(number, key="k"):
    return Entry(key, b"", "bytes", None, str(number))


def test_without_anybody_who_waits_nothing_is_remembered():
    remembered = Remembered()
    remembered.add([entry(1)])
    assert entry(1) not in remembered


def test_what_was_published_is_remembered_by_who_began_before():
    remembered = Remembered()
    token = remembered.begin()
    remembered.add([entry(1), entry(2)])
    assert entry(1) in remembered
    assert entry(1, "other") not in remembered
    remembered.end(token)
    assert entry(1) not in remembered


def test_it_does_not_grow_while_somebody_always_waits():
    remembered = Remembered()
    tokens = [remembered.begin()]
    for number in range(1000):
        tokens.append(remembered.begin())
        remembered.add([entry(number), entry(0, "again and again")])
        assert entry(number) in remembered
        remembered.end(tokens.pop(0))
        assert len(remembered) <= 2
    remembered.end(tokens.pop())
    assert len(remembered) == 0


def test_who_waits_for_long_keeps_what_came_since():
    remembered = Remembered()
    patient = remembered.begin()
    for number in range(3):
        other = remembered.begin()
        remembered.add([entry(number)])
        remembered.end(other)
    assert all(entry(number) in remembered for number in range(3))
    remembered.end(patient)
    assert len(remembered) == 0

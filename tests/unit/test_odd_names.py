"""Names that no key can be: left out, and each logged once."""

from datastream.sources._common.odd_names import LOGGED, OddNames


def test_each_is_logged_once_and_of_many_the_first_ones(caplog):
    names = OddNames("the store", "a row")
    assert names.admits("a")
    for _ in range(3):
        assert not names.admits("k\udcff")
    assert caplog.text.count("a row is left out") == 1
    for number in range(10 * LOGGED):
        assert not names.admits(f"{number}\0")
    assert len(caplog.records) == LOGGED + 1
    assert f"over {LOGGED}" in caplog.text

"""Files that are read again when they change."""

from datastream_grpc._files import WatchedFile


def test_it_is_found_from_another_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_bytes(b"first")
    (tmp_path / "other").mkdir()
    file = WatchedFile("token", "token")
    monkeypatch.chdir(tmp_path / "other")
    (tmp_path / "token").write_bytes(b"second")
    assert file.data() == b"second"


def test_one_that_is_lost_is_said_once_and_stands(tmp_path, caplog):
    """Who removes the tokens, so that they count no more, has to know that they do."""
    place = tmp_path / "tokens"
    place.write_bytes(b"first")
    file = WatchedFile(place, "tokens")
    for _ in range(2):
        place.unlink()
        caplog.clear()
        assert [file.data() for _ in range(3)] == [b"first"] * 3
        (record,) = caplog.records
        assert record.getMessage().endswith("the tokens; what it held last stands")
        place.write_bytes(b"first")
        assert file.data() == b"first"

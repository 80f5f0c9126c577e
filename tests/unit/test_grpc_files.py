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

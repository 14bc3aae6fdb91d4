"""Tests of files on remote file systems, here in the memory of fsspec."""

import fsspec
import pytest

from avatar_bench.errors import OutputError
from avatar_bench.files import remote
from avatar_bench.files.remote import is_remote, list_remote, open_remote, read_remote

NAMES = ("b.png", "c/d.png", ".hidden/x.png", "c/.y.png", "e[1].png", "c/note.txt")


@pytest.fixture
def folder():
    files = fsspec.filesystem("memory")
    for name in NAMES:
        files.pipe(f"/host/a/{name}", name.encode())
    yield "memory://host/a"
    files.rm("/host", recursive=True)


def test_a_folder_and_a_glob_name_their_files_but_no_hidden_ones_which_are_read(folder):
    every = [f"{folder}/{name}" for name in ("b.png", "c/d.png", "c/note.txt", "e[1].png")]
    assert list_remote(folder) == list_remote(f"{folder}/") == every
    assert list_remote(f"{folder}/**/*.png") == [name for name in every if name.endswith(".png")]
    assert list_remote(f"{folder}/*.png") == [every[0], every[3]]
    assert list_remote(f"{folder}/e[1].png") == [every[3]]
    assert list_remote(f"{folder}/nothing") == []
    assert read_remote(f"{folder}/c/d.png") == b"c/d.png"
    with pytest.raises(FileNotFoundError):
        read_remote(f"{folder}/none.png")


def test_a_server_that_fails_is_asked_again_and_then_ends_the_command(folder, monkeypatch):
    waits = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    files = fsspec.filesystem("memory")
    real, failures = files.open, [ConnectionError("no answer")] * 3

    def fail(*args, **options):
        if failures:
            raise failures.pop()
        return real(*args, **options)

    monkeypatch.setattr(type(files), "open", lambda self, *args, **options: fail(*args, **options))
    assert read_remote(f"{folder}/b.png") == b"b.png"
    assert waits == [1, 2, 4]
    failures += [ConnectionError("no answer")] * 100
    with pytest.raises(OutputError, match=r"b\.png cannot be read: no answer"):
        read_remote(f"{folder}/b.png")
    assert len(waits) == 3 + 7


def test_an_address_has_a_scheme_and_an_unknown_one_is_refused():
    assert is_remote("s3://bucket/a")
    assert not any(map(is_remote, ("a/b", "C:\\a", "a:b", "/a://b")))
    with pytest.raises(OutputError, match="nosuch"):
        open_remote("nosuch://host/a")

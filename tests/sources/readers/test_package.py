"""Tests of images in packages: a wheel that lies in the cache."""

import pytest

from avatar_bench.errors import ConfigError, DataError
from avatar_bench.files import package_files
from avatar_bench.sources.reader import SourceJob
from avatar_bench.sources.readers.folder import ImageFolder
from avatar_bench.sources.readers.package import Package, download_packages
from tests.builders.archives import write_zip

SOURCE = {"distribution": "faces", "version": "1.0", "archive": "wheel", "files": {}}


@pytest.fixture(autouse=True)
def wheel(tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path))
    folder = tmp_path / "archives" / "faces-1.0-wheel"
    folder.mkdir(parents=True)
    names = ("faces/anna-1.png", "faces/anna-2.png", "faces/flux_bob.svg", "faces/code.py")
    write_zip(folder / "faces-1.0-py3-none-any.whl", {name: name for name in names})


def read(tmp_path, done=(), **options):
    job = SourceJob("faces", {"label": "drawing"}, tmp_path / "place", done)
    return list(Package(**{**SOURCE, **options}).read(job)), job.quarantine


def test_files_that_globs_name_come_by_the_first_that_fits_with_group_and_generator_of_their_names(tmp_path):
    files = {"*/anna-1.png": [0.1, 0.2, 0.5], "*.png": None, "*.svg": None, "*.gif": None}
    images, quarantine = read(tmp_path, files=files)
    assert read(tmp_path, {image.name for image in images[:2]}, files=files)[0] == images[2:]  # those not yet stored
    assert [(image.name, image.content, image.box) for image in images] == [
        ("faces/anna-1.png", b"faces/anna-1.png", (0.1, 0.2, 0.5)),
        ("faces/anna-2.png", b"faces/anna-2.png", None),
        ("faces/flux_bob.svg", b"faces/flux_bob.svg", None),
    ]
    assert quarantine == [("faces-1.0-py3-none-any.whl: *.gif", "not in the archive")]
    options = {"group": r"^(.+)-\d$", "groups": {"anna-2": "the_annas"}, "generators": {"*flux*": "FLUX"}}
    images, _ = read(tmp_path, files={"*.png": None, "*.svg": None}, **options)
    expected = [("anna", "", ""), ("anna", "the_annas", ""), ("flux_bob", "", "FLUX")]
    assert [(image.group, image.shared_group, image.generator) for image in images] == expected


@pytest.mark.parametrize("change", [{"tag": "manylinux"}, {"tag": "cp311-cp311-win32", "archive": "sdist"}])
def test_a_tag_that_names_no_wheel_is_refused(change):
    with pytest.raises(ConfigError, match=r"source\.faces\.tag=.*expected the tag of a wheel"):
        Package(**{**SOURCE, **change}).check("faces", {})


def test_fetching_all_looks_at_packages_alone_each_once_and_tells_what_fails(monkeypatch):
    download_packages([ImageFolder(root="x"), Package(**SOURCE)])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DataError, match=r"pip could not download faces==2\.0"):
        download_packages([Package(**{**SOURCE, "version": "2.0"})])
    fetched = []
    monkeypatch.setattr(package_files, "fetch_archive", lambda *release: fetched.append(release))
    download_packages([Package(**SOURCE), Package(**SOURCE), Package(**{**SOURCE, "version": "2.0"})])
    assert sorted(fetched) == [("faces", version, "wheel", None, None) for version in ("1.0", "2.0")]

"""Packages as carriers of files: archives that pip downloads once into the cache, read without installing them."""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from avatar_bench.errors import DataError
from avatar_bench.files.paths import cache_root

PIP_FORMAT_OPTIONS = {"wheel": "--only-binary", "sdist": "--no-binary"}


def fetch_archive(
    distribution: str, version: str, archive: str = "wheel", sha256: str | None = None, tag: str | None = None
) -> Path:
    """Give the archive of one release from the cache, where pip puts it on first use; `archive` is wheel or sdist.

    `tag` (cp311-cp311-manylinux_2_28_x86_64) names one of several wheels, on whatever machine: only files are read from
    it. Nothing is installed. For a wheel nothing is executed either; for an sdist pip itself runs the setup.py to learn
    its metadata, so a recipe should name its `sha256`: pip then refuses any other file before it opens it.
    Raise DataError where pip cannot download it.
    """
    folder = cache_root() / "archives" / f"{distribution}-{version}-{archive}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as part:
            _download(distribution, version, archive, sha256, tag, Path(part))
            with suppress(OSError):  # another process was faster
                (Path(part) / "got").rename(folder)
    return next(file for file in folder.iterdir() if file.name.endswith((".whl", ".tar.gz", ".zip")))


def list_members(archive: Path) -> list[str]:
    """Give the paths of the files in a wheel or sdist, in the archive's order; raise DataError if it is broken."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                return [name for name in wheel.namelist() if not name.endswith("/")]
        with tarfile.open(archive) as sdist:
            return [member.name for member in sdist if member.isfile()]
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{archive} is broken: {error}.", "Delete its folder and run the same command again."
        ) from error


def read_members(archive: Path, names: set[str]) -> Iterator[tuple[str, bytes]]:
    """Give path and content of the named files, in the archive's order."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            yield from ((name, wheel.read(name)) for name in wheel.namelist() if name in names)
        return
    with tarfile.open(archive) as sdist:
        for member in sdist:
            content = sdist.extractfile(member) if member.name in names else None
            if content is not None:
                yield member.name, content.read()


def extract_member(archive: Path, pattern: str) -> Path:
    """Give the one file of an archive that fits a glob, unpacked beside it; raise DataError where none does."""
    names = filter_names(list_members(archive), pattern)
    if not names:
        raise DataError(f"{archive.name} holds no file {pattern}.", "Another version may: see the yaml that names it.")
    target = archive.with_name(Path(names[0]).name)
    if not target.is_file():
        part = target.with_name(f"{target.name}.part-{os.getpid()}")
        for _, data in read_members(archive, set(names[:1])):
            part.write_bytes(data)
        part.replace(target)
    return target


def filter_names(names: list[str], pattern: str) -> list[str]:
    """Give the names that fit a glob, in which `*` crosses folders; letters count as they are."""
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def _download(distribution: str, version: str, archive: str, sha256: str | None, tag: str | None, part: Path) -> None:
    wanted = part / "requirements.txt"
    wanted.write_text(f"{distribution}=={version}" + (f" --hash=sha256:{sha256}" if sha256 else "") + "\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--ignore-requires-python", "--no-cache-dir"]
    command += ["--no-input", "--disable-pip-version-check", "--quiet", PIP_FORMAT_OPTIONS[archive], distribution]
    if tag:
        python, abi, platform = tag.split("-")
        command += [
            "--implementation",
            python[:2],
            "--python-version",
            python[2:],
            "--abi",
            abi,
            "--platform",
            platform,
        ]
    done = subprocess.run(
        [*command, "--requirement", str(wanted), "--dest", str(part / "got")], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise DataError(
            f"pip could not download {distribution}=={version}: {_extract_error(done.stderr)}",
            "Its files come from the package index that pip is set up to use.",
            "Connect to it and run the same command again, or set AVATAR_BENCH_CACHE to a cache that holds it.",
        )


def _extract_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no reason given."])[-1][:200]

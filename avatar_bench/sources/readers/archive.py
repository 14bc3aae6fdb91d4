"""Images in a zip or tar archive, which is unpacked safely or refused as a whole."""

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
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from avatar_bench.config.options import copy_option, option, path_option
from avatar_bench.console.terminal import escape_control_characters
from avatar_bench.errors import DataError
from avatar_bench.sources import reader
from avatar_bench.sources.download import Address, check_hash, download_file
from avatar_bench.sources.reader import Source, SourceImage, SourceJob, SourceReader
from avatar_bench.sources.readers.folder import ImageFolder

MAX_RATIO = 200  # of unpacked to packed size: images hardly compress, so a larger ratio indicates a zip bomb
ALWAYS_ALLOWED_BYTES = 2**26  # may be unpacked at any ratio
ARCHIVE_CHUNK_BYTES = 2**20
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO)  # not the archive's fault
# errors raised for a damaged or unsafe archive
ARCHIVE_ERRORS: tuple[type[Exception], ...] = (ValueError, EOFError, RuntimeError, OSError, zlib.error)
ARCHIVE_ERRORS += (lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)
DECOMPRESSORS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
ArchiveMember = tuple[str, IO[bytes] | None]  # path and content; None for a folder


@dataclass(kw_only=True)
class Archive(SourceReader):
    alternatives = ("file", "url")

    file: str | None = path_option("the archive")
    url: str | None = option(None, help="or where to download it")
    sha256: str | None = option(None, help="of the archive")
    root: str = option(".", help="the folder in it to read")
    max_gib: float = option(20, help="GiB that it may unpack to")
    max_files: int = option(500_000, help="files that it may hold")
    rules: list[Any] | None = copy_option(ImageFolder, "rules")
    manifest: str | None = copy_option(ImageFolder, "manifest")

    def read(self, job: SourceJob) -> Iterator[SourceImage]:
        """Yield the images in the archive as kind folder does; raise DataError if it is unreachable or unsafe."""
        target = job.place / f"unpacked-{reader.hash_facts([self.file, self.url, self.sha256, self.hash_state()])}"
        if not target.is_dir():
            limit = round(self.max_gib * 2**30)
            if self.url:
                archive = download_file(Address(self.url, self.sha256 or ""), job.place, limit)
            else:
                archive = reader.resolve_path(str(self.file))
            _unpack(archive, target, limit, self.max_files, self.sha256)
        root = (target / self.root).resolve()
        if not root.is_relative_to(target.resolve()) or not root.is_dir():
            inside = ", ".join(sorted(path.name for path in target.iterdir())[:8])
            reason = f"source.{job.name}.root={self.root}: the archive has no such folder."
            raise DataError(reason, f"It has: {inside}")
        manifest = str(root / self.manifest) if self.manifest else None
        return ImageFolder(rules=self.rules, manifest=manifest).read_root(job, root)

    def check(self, name: str, source: Source) -> None:
        """Raise ConfigError for invalid rules, or rules without a class."""
        ImageFolder(rules=self.rules).check(name, source)

    def hash_state(self) -> str:
        """Return a hash that changes with the file."""
        return reader.hash_facts(reader.read_stamp(reader.resolve_path(self.file))) if self.file else ""


def _unpack(archive: Path, target: Path, max_bytes: int, max_files: int, sha256: str | None) -> None:
    """Unpack into a folder that appears once complete; raise DataError for anything but plain files."""
    if not archive.is_file():
        raise DataError(f"{archive} does not exist.", "Expected a zip or tar.")
    if sha256 and (reason := check_hash(archive, sha256)):
        raise DataError(f"{archive}: {reason}.", "Use the file that the source names, or correct its sha256.")
    target.parent.mkdir(parents=True, exist_ok=True)
    limit = min(max_bytes, max(ALWAYS_ALLOWED_BYTES, MAX_RATIO * archive.stat().st_size))
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-", ignore_cleanup_errors=True) as part:
        try:
            with archive.open("rb") as file:
                start = file.read(6)  # is_zipfile would also accept a tar that contains a zip
            is_zip = start[:4] in (b"PK\x03\x04", b"PK\x05\x06")
            members = _iterate_zip(archive) if is_zip else _iterate_tar(archive, start)
            _write(members, Path(part, "all"), limit, max_files)
        except ARCHIVE_ERRORS as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                raise
            raise DataError(f"{archive} is refused: {error}.", "No file of it is used.") from error
        Path(part, "all").rename(target)


def _write(members: Iterator[ArchiveMember], target: Path, max_bytes: int, max_files: int) -> None:
    """Write the members below `target`; raise ValueError for an unsafe member."""
    target.mkdir()
    left = max_bytes
    for number, (name, content) in enumerate(members, start=1):
        path = _make_path(target, name)
        if number > max_files:
            raise ValueError(f"it contains more than max_files={max_files} files")
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
    """Return the path of a member; raise ValueError for an unsafe name, or one that exists already."""
    known = name.encode("utf-8", "ignore").decode()  # names in an old tar need not be Unicode
    if escape_control_characters(known) != known:
        raise ValueError(f"the name '{escape_control_characters(name)}' contains control characters")
    inside = PurePosixPath(name.replace("\\", "/"))
    if inside.is_absolute() or ".." in inside.parts or re.match("[A-Za-z]:", name):
        raise ValueError(f"{name!r} leads out of the archive")
    path = target / inside
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{name!r} lies below a file") from error
    if path.exists() and not path.is_dir():
        raise ValueError(f"it contains {name!r} twice")
    return path


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


def _iterate_tar(archive: Path, start: bytes) -> Iterator[ArchiveMember]:
    decompress = next((opener for magic, opener in DECOMPRESSORS.items() if start.startswith(magic)), open)
    with decompress(archive, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as opened:
        for member in opened:
            if not (member.isreg() or member.isdir()):
                raise ValueError(f"{member.name!r} is a link or a device")
            yield member.name, opened.extractfile(member)
        while stream.read(ARCHIVE_CHUNK_BYTES):  # to the end, to detect a truncated archive
            pass

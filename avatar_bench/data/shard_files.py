"""Images in shards: members of tar files, which are fetched from a remote folder when they are first read."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import tarfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PosixPath, WindowsPath
from typing import Any

from avatar_bench.errors import DataError
from avatar_bench.files.atomic_write import atomic_write, write_text
from avatar_bench.files.hashes import sha256_of_bytes, sha256_of_text
from avatar_bench.files.output_folder import shared_lock
from avatar_bench.files.paths import cache_root
from avatar_bench.files.remote import read_remote

SHARD_SUFFIX = ".tar"
SHARD_LIST = "shards.csv"  # the SHA-256 of each shard
_ORIGIN = "origin.json"  # in the folder of fetched shards: where they come from and how much of them to keep
_KNOWN_SHARDS = 256  # whose members a process remembers; some 200 bytes an image


class ShardedImage(WindowsPath if os.name == "nt" else PosixPath):  # type: ignore[misc]
    """Path of an image in a shard, such as DIR/00000.tar/photos/1.png, to be read like a file."""

    def read_bytes(self) -> bytes:
        """Return the content; raise OSError if the shard or the member is missing."""
        shard, name = self._divide()
        offset, size = _find_member(shard, name)
        with shard.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def open(self, *args: Any, **options: Any) -> Any:
        """Open the content as a binary stream."""
        return io.BytesIO(self.read_bytes())

    def is_file(self) -> bool:
        """Return whether the image can be read; shards that are still to be fetched are taken on trust."""
        shard, name = self._divide()
        if not shard.is_file():
            return (shard.parent / _ORIGIN).is_file()
        try:
            _find_member(shard, name)
        except OSError:
            return False
        return True

    def _divide(self) -> tuple[Path, str]:
        folder, _, name = self.as_posix().partition(f"{SHARD_SUFFIX}/")
        return Path(folder + SHARD_SUFFIX), name


def measure_size(file: Path) -> int | None:
    """Return the size of an image in bytes, be it a file or inside a shard; None for anything but a regular file."""
    if isinstance(file, ShardedImage):
        return _find_member(*file._divide())[1]
    status = file.stat()
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def locate_image(path: Path) -> Path:
    """Return the path of an image that can be read, be it a file or inside a shard."""
    return ShardedImage(path) if f"{SHARD_SUFFIX}/" in path.as_posix() else path


def open_remote_folder(address: str, files: Mapping[str, bool], keep_gb: float) -> Path:
    """Return the local folder of remote shards, of which `keep_gb` GB are kept; fetch `files` (name: is needed)."""
    address = address.rstrip("/")
    folder = cache_root() / "shards" / sha256_of_text(address)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / _ORIGIN, json.dumps({"address": address, "keep_gb": keep_gb}))
    for name, is_needed in files.items():
        local = folder / name
        local.parent.mkdir(exist_ok=True)
        try:
            content = read_remote(f"{address}/{name}")
        except OSError as error:
            if is_needed:
                raise DataError(f"data.shards: {address}/{name} cannot be read: {error}.") from error
            local.unlink(missing_ok=True)
            continue
        with atomic_write(local) as part:
            part.write_bytes(content)
    return folder


def _find_member(shard: Path, name: str) -> tuple[int, int]:
    """Return the offset and size of a member in its shard, which is fetched if it is remote."""
    if not shard.is_file():
        _fetch(shard)
    try:
        return _list_members(shard, shard.stat().st_mtime_ns)[name]
    except (KeyError, tarfile.TarError) as error:
        raise FileNotFoundError(2, f"not in {shard.name}", str(shard / name)) from error


@lru_cache(_KNOWN_SHARDS)
def _list_members(shard: Path, changed: int) -> dict[str, tuple[int, int]]:
    with tarfile.open(shard, "r:") as archive:
        return {member.name: (member.offset_data, member.size) for member in archive if member.isreg()}


def _fetch(shard: Path) -> None:
    """Fetch a shard, one process at a time; delete those used least recently beyond the limit."""
    folder = shard.parent
    if not (folder / _ORIGIN).is_file():
        raise FileNotFoundError(2, "No such file", str(shard))
    origin = json.loads((folder / _ORIGIN).read_text(encoding="utf-8"))
    with shared_lock(folder / f"{shard.name}.lock"):
        if shard.is_file():
            return
        content = read_remote(f"{origin['address']}/{shard.name}")
        if sha256_of_bytes(content) != dict(csv.reader((folder / SHARD_LIST).open()))[shard.name]:
            raise DataError(
                f"{origin['address']}/{shard.name} has changed: its SHA-256 differs from the one in {SHARD_LIST}.",
                "Write all files of the data set there again: images of another version may be in test.",
            )
        with atomic_write(shard) as part:
            part.write_bytes(content)
    fetched = sorted(folder.glob(f"*{SHARD_SUFFIX}"), key=lambda file: file.stat().st_mtime, reverse=True)
    total = 0
    for file in fetched:
        total += file.stat().st_size
        if total > origin["keep_gb"] * 10**9 and file != shard:
            file.unlink(missing_ok=True)

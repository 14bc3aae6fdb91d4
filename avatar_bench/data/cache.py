"""Prepared images on disk: each is decoded and brought to the network's size once, for all epochs and runs."""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray

from avatar_bench import __version__
from avatar_bench.data.decoding import decode_bytes, read_bytes
from avatar_bench.data.equalise import ImageArray
from avatar_bench.data.file_names import format_name
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.files.hashes import sha256_of_bytes
from avatar_bench.files.paths import cache_root

PREPARED_FOLDER = "prepared"
MIN_FREE_BYTES = 2**30  # bytes that must stay free on the disk: a run's checkpoints come first
_CHECKSUM = 4  # bytes of CRC-32 after the pixels


class ImageCache:
    """Keep images as one preprocessing gives them, uint8 (size, size, 3), by the SHA-256 of their files.

    An image is a file of its own that takes its name once it is whole, so that any number of processes may read and
    fill the cache, and be killed meanwhile. It is read, not mapped: that takes two thirds of the time, and a page that
    is mapped counts as memory of the process. A file that is damaged is made anew.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self.shape = (preprocessing.size, preprocessing.size, 3)
        self.folder = cache_root() / PREPARED_FOLDER / _hash_settings(preprocessing)
        self.fills = True  # until the disk is full

    @property
    def image_bytes(self) -> int:
        """Give the size of one image's file."""
        return int(np.prod(self.shape)) + _CHECKSUM

    def reserve(self, hashes: Collection[str], limit: int) -> str | None:
        """Make room for images within `limit` bytes of all caches; give the reason in words where there is none.

        Those that were used longest ago go first. The images asked for count as used now.
        """
        wanted = set(hashes)
        if (needed := len(wanted) * self.image_bytes) > limit:
            return f"{needed / 2**30:.1f} GiB are more than its limit of {limit / 2**30:g} GiB"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            kept = _list_files(self.folder.parent)
            ours = [file for file in map(self._file, wanted) if file in kept]
            for file in ours:
                with suppress(FileNotFoundError):  # another process may be making room
                    os.utime(file)
                kept.pop(file)
            missing = needed - len(ours) * self.image_bytes
            if (free := shutil.disk_usage(self.folder).free) < missing + MIN_FREE_BYTES:
                return f"{missing / 2**30:.1f} GiB more would leave too little of the {free / 2**30:.1f} GiB free"
            _evict(kept, limit - needed)
        except OSError as error:
            return f"{error.strerror}: {error.filename}"
        return None

    def read(self, file: Path, digest: str) -> ImageArray:
        """Give an image file as the preprocessing makes it; raise DataError where it cannot be decoded."""
        if (found := self._load(digest)) is not None:
            return found
        name = format_name(str(file))
        content = read_bytes(file, name)
        image = self.preprocessing(decode_bytes(content, name))
        if self.fills and sha256_of_bytes(content) == digest:  # it may have changed since it was hashed
            self._store(digest, image)
        return image

    def _file(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest

    def _load(self, digest: str) -> ImageArray | None:
        try:
            content = np.fromfile(self._file(digest), np.uint8)
        except OSError:
            return None
        pixels = content[:-_CHECKSUM]
        whole = len(content) == self.image_bytes and content[-_CHECKSUM:].tobytes() == _compute_checksum(pixels)
        return pixels.reshape(self.shape) if whole else None

    def _store(self, digest: str, image: ImageArray) -> None:
        file = self._file(digest)
        part = file.with_name(f"{digest}.{os.getpid()}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as stream:  # not waiting for the disk: the checksum tells what a loss of power leaves
                stream.write(image.tobytes() + _compute_checksum(image))
            part.replace(file)
        except FileNotFoundError:  # another process has just made room
            pass
        except OSError:
            self.fills = False
            with suppress(OSError):
                part.unlink()


def _hash_settings(preprocessing: Preprocessing) -> str:
    """Name all that the pixels depend on beside the file: how they are prepared, and by what."""
    how = (preprocessing.size, preprocessing.resize, preprocessing.equalise)
    return hashlib.sha256(repr((how, __version__, PIL.__version__, cv2.__version__)).encode()).hexdigest()[:16]


def _compute_checksum(pixels: NDArray[np.uint8]) -> bytes:
    return zlib.crc32(np.ascontiguousarray(pixels).data).to_bytes(_CHECKSUM)


def _list_files(root: Path) -> dict[Path, os.stat_result]:
    """Give every file below the caches, those that a killed process left included."""
    found = {}
    for place, _, names in os.walk(root):
        for name in names:
            with suppress(FileNotFoundError):
                file = Path(place, name)
                found[file] = file.stat()
    return found


def _evict(files: dict[Path, os.stat_result], limit: int) -> None:
    """Remove files, the one that was used longest ago first, until the rest fits."""
    total = sum(status.st_size for status in files.values())
    for file, status in sorted(files.items(), key=lambda item: item[1].st_mtime):
        if total <= limit:
            break
        file.unlink(missing_ok=True)
        total -= status.st_size

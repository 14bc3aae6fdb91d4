"""On-disk caches of arrays: of preprocessed images, and of their features."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import PIL
from numpy.typing import DTypeLike, NDArray

from avatar_bench import __version__
from avatar_bench.console.terminal import format_name, print_note
from avatar_bench.data.decoding import decode_bytes, read_bytes
from avatar_bench.data.equalise import ImageArray
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.hashes import sha256_of_bytes, sha256_of_text
from avatar_bench.files.paths import cache_root

PREPARED_FOLDER = "prepared"
MIN_FREE_BYTES = 2**30  # bytes kept free on the disk, for a run's checkpoints
_CHECKSUM = 4  # bytes of CRC-32 after the pixels


class ArrayCache:
    """Cache of arrays of one shape and type in a folder, keyed by a SHA-256 in hexadecimal digits.

    Each array is one file that is renamed into place when complete, so any number of processes may read and fill the
    cache and be killed at any time. Files are read, which takes two thirds of the time of memory-mapping.
    """

    _kept_bounds: ClassVar[set[tuple[Path, int]]] = set()  # folders, and sizes to which they were cut

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.folder, self.shape, self.dtype = folder, shape, np.dtype(dtype)
        self.is_writable = True  # until the disk is full

    @property
    def item_bytes(self) -> int:
        """Return the size in bytes of one cached array."""
        return int(np.prod(self.shape)) * self.dtype.itemsize + _CHECKSUM

    def reserve(self, hashes: Collection[str], limit: int) -> str | None:
        """Free space for arrays so that all caches beside this one and it stay within `limit` bytes.

        The least recently used files are deleted first. Return the reason if that is impossible.
        """
        requested = set(hashes)
        if (needed := len(requested) * self.item_bytes) > limit:
            return f"{needed / 2**30:.1f} GiB are more than its limit of {limit / 2**30:g} GiB"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            present = [file for file in map(self._file, requested) if _touch(file)]
            missing, bounds = needed - len(present) * self.item_bytes, (self.folder.parent, limit)
            if not missing and bounds in self._kept_bounds:
                return None  # listing all caches takes as long as a training on cached features
            evictable = _list_files(self.folder.parent)
            for file in present:
                evictable.pop(file, None)  # another process may be evicting
            if (free := shutil.disk_usage(self.folder).free) < missing + MIN_FREE_BYTES:
                return f"{missing / 2**30:.1f} GiB more would leave too little of the {free / 2**30:.1f} GiB free"
            _evict(evictable, limit - needed)
            self._kept_bounds.add(bounds)
        except OSError as error:
            return f"{error.strerror}: {error.filename}"
        return None

    def load(self, digest: str) -> NDArray[Any] | None:
        """Return a cached array; None if it is missing or damaged."""
        try:
            content = np.fromfile(self._file(digest), np.uint8)
        except OSError:
            return None
        values = content[:-_CHECKSUM]
        is_intact = len(content) == self.item_bytes and content[-_CHECKSUM:].tobytes() == _compute_checksum(values)
        return values.view(self.dtype).reshape(self.shape) if is_intact else None

    def store(self, digest: str, array: NDArray[Any]) -> None:
        """Store an array, as long as the disk has room."""
        if not self.is_writable:
            return
        file = self._file(digest)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file, alone=False, sync=False) as part:  # the checksum detects losses at a power failure
                part.write_bytes(array.tobytes() + _compute_checksum(array))
        except FileNotFoundError:  # another process has just evicted the folder
            pass
        except OSError:
            self.is_writable = False

    def _file(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest


class ImageCache(ArrayCache):
    """Cache of images after one preprocessing, uint8 (size, size, 3), keyed by the SHA-256 of the source file."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        # everything that the cached pixels depend on besides the file: settings and library versions
        key = sha256_of_text(repr((preprocessing.pixel_settings, __version__, PIL.__version__, cv2.__version__)))[:16]
        super().__init__(cache_root() / PREPARED_FOLDER / key, (preprocessing.size, preprocessing.size, 3), np.uint8)
        self.preprocessing = preprocessing

    def read(self, file: Path, digest: str) -> ImageArray:
        """Return the preprocessed image of a file; raise DataError if it cannot be decoded."""
        if (cached := self.load(digest)) is not None:
            return cached
        name = format_name(str(file))
        content = read_bytes(file, name)
        image = self.preprocessing(decode_bytes(content, name))
        if self.is_writable and sha256_of_bytes(content) == digest:  # the file may have changed since it was hashed
            self.store(digest, image)
        return image


def open_image_cache(hashes: Collection[str], preprocessing: Preprocessing, gigabytes: float) -> ImageCache | None:
    """Open the cache of preprocessed images; warn and return None if it has no room for the images of these SHA-256."""
    if not gigabytes:
        return None
    cache = ImageCache(preprocessing)
    if reason := cache.reserve(hashes, int(gigabytes * 2**30)):
        print_note(f"warning: preprocessed images are not cached ({reason}); see data.cache_gb")
        return None
    return cache


def _compute_checksum(values: NDArray[Any]) -> bytes:
    return zlib.crc32(np.ascontiguousarray(values).data).to_bytes(_CHECKSUM)


def _touch(file: Path) -> bool:
    """Mark a file as just used; return whether it exists."""
    try:
        os.utime(file)
    except FileNotFoundError:
        return False
    return True


def _list_files(root: Path) -> dict[Path, os.stat_result]:
    """Return every file of all caches with its status, including leftovers of killed processes."""
    status_of = {}
    for folder, _, names in os.walk(root):
        for name in names:
            with suppress(FileNotFoundError):
                file = Path(folder, name)
                status_of[file] = file.stat()
    return status_of


def _evict(files: dict[Path, os.stat_result], limit: int) -> None:
    """Delete the least recently used files until the total size is within `limit` bytes."""
    total = sum(status.st_size for status in files.values())
    for file, status in sorted(files.items(), key=lambda item: item[1].st_mtime):
        if total <= limit:
            break
        file.unlink(missing_ok=True)
        total -= status.st_size

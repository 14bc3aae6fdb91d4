"""SHA-256 of files, bytes and texts, as 64 hex digits, and the hashes that npm and git state."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.output_folder import shared_lock
from avatar_bench.files.paths import cache_root

_SETTLED_SECONDS = 3  # the coarsest file system, FAT, states times in steps of two seconds
_MOST_KEPT = 2**18  # digests, of some 600 bytes each
_kept: dict[tuple[Path, int, int, int, int], str] = {}


def sha256_of_file(file: Path) -> str:
    """Compute the SHA-256 of a file's content; raise OSError if it cannot be read.

    A process reads a file once for as long as its size and times stay the same. A file that has changed within the last
    seconds is always read: it may change again within the same step of its file system's clock.
    """
    try:
        status = file.stat()
    except OSError:  # inside a shard, or opening it raises the error
        return _read(file)
    key = (file, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if (digest := _kept.get(key)) is None:
        digest = _read(file)
        age = time.time() - max(status.st_mtime, status.st_ctime)
        if age > _SETTLED_SECONDS and len(_kept) < _MOST_KEPT:
            _kept[key] = digest
    return digest


@contextmanager
def keep_digests(files: Collection[Path]) -> Iterator[None]:
    """Know in the body the digests of files that earlier processes have read, and keep those read there for later."""
    kept_file = cache_root() / "digests" / sha256_of_text("\n".join(map(str, files)))[:32]
    with suppress(OSError, ValueError, TypeError):
        _kept.update({(Path(file), *stamp): digest for file, *stamp, digest in json.loads(kept_file.read_bytes())})
    known, listed = len(_kept), set(files)
    yield
    if len(_kept) > known:
        kept = [[str(file), *stamp, digest] for (file, *stamp), digest in _kept.items() if file in listed]
        with suppress(OSError):  # a full disk only costs time
            kept_file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(kept_file, alone=False, sync=False) as part:
                part.write_text(json.dumps(kept), encoding="utf-8")


def sha256_of_bytes(data: bytes) -> str:
    """Compute the SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_parts(parts: Iterable[bytes | memoryview]) -> str:
    """Compute the SHA-256 of bytes that follow each other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def sha256_of_text(text: str) -> str:
    """Compute the SHA-256 of a text in UTF-8; file names that are not UTF-8 count as their bytes."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def sign_text(text: str) -> str | None:
    """Compute the HMAC-SHA-256 of a text by a key of this user alone, made on first use; None if it cannot be kept."""
    file = Path(platformdirs.user_data_dir("avatar_bench")) / "key"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with shared_lock(file.with_suffix(".lock")):
            if not file.is_file():
                with atomic_write(file) as part:
                    part.chmod(0o600)
                    part.write_bytes(secrets.token_bytes(32))
        return hmac.new(file.read_bytes(), text.encode(), "sha256").hexdigest()
    except OSError:
        return None


def is_signed(file: Path, signature: str | None) -> bool:
    """Return whether a signature is that of a text file by the key of this user."""
    return signature is not None and signature == sign_text(file.read_text(encoding="utf-8"))


def compute_integrity(data: bytes) -> str:
    """Compute the SHA-512 of bytes as npm states it: "sha512-" and the digest in base64."""
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


def compute_git_hash(data: bytes) -> str:
    """Compute the SHA-1 by which git names a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _read(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

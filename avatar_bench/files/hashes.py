"""SHA-256 of files and bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256_of_file(file: Path) -> str:
    """Compute the SHA-256 of a file's content as 64 hex digits; raise OSError if it cannot be read."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    """Compute the SHA-256 of bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()

"""Atomic writing of files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident


@contextmanager
def atomic_write(file: Path, alone: bool = True, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `file`, which replaces `file` once it is complete and on disk.

    After an error, such as a full disk, the earlier file is intact and the temporary one is gone. `alone` states that
    nothing else writes the same file at the same time, so that the temporary name may be predictable: what has that
    name is removed, also a link of somebody else. Without `sync`, which takes milliseconds, a power failure may leave
    an empty file under the name.
    """
    part = file.with_name(f"{file.name}.part" if alone else f"{file.name}.{os.getpid()}-{get_ident()}.part")
    try:
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666))
        yield part
        if sync:
            with part.open("rb+") as stream:
                os.fsync(stream.fileno())
        part.replace(file)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(file)  # the error of a full disk names no file
        raise


def write_text(file: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_write(file) as part:
        part.write_text(text, encoding="utf-8")


def remove_parts(folder: Path) -> None:
    """Remove the temporary files that killed processes have left below a folder."""
    for part in folder.rglob("*.part"):
        if part.is_file():
            part.unlink()

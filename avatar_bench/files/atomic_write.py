"""Writing of files: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(file: Path, alone: bool = True) -> Iterator[Path]:
    """Give a place beside `file` to write to; it takes the name of `file` once it is complete and on the disk.

    An error, such as a full disk, leaves what bore that name before, and nothing beside it. `alone` says that no
    other process writes the same file meanwhile, so that the place may bear a name that is known.
    """
    part = file.with_name(f"{file.name}.part" if alone else f"{file.name}.{os.getpid()}.part")
    try:
        yield part
        sync_to_disk(part)
        part.replace(file)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(file)  # a full disk does not say where
        raise


def write_text(file: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with atomic_write(file) as part:
        part.write_text(text, encoding="utf-8")


def sync_to_disk(file: Path) -> None:
    """Have the system put a file's content on the disk, so that a loss of power does not leave its name alone."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())

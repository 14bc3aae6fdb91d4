"""Sizes and times of change of the files that rows of predictions were made from, kept beside their output."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from avatar_bench.files.atomic_write import atomic_write

Stamp = tuple[int, int]  # bytes, and nanoseconds since 1970


def locate_stamps(output: Path) -> Path:
    """Return the file of the stamps of an output of predict."""
    return output.with_name(f".{output.name}.stamps")


def read_stamp(file: str) -> Stamp | None:
    """Return the stamp of a file, None if it is not there."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):  # of a name that holds a null
        return None
    return status.st_size, status.st_mtime_ns


def load_stamps(file: Path) -> dict[str, Stamp | None]:
    """Return the stamps of rows by their path, {} if there are none; what is damaged is left out."""
    stamps: dict[str, Stamp | None] = {}
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                path, stamp = json.loads(line)
                stamps[path] = stamp and tuple(stamp)
    except (OSError, ValueError, TypeError):
        return stamps
    return stamps


def save_stamps(stamps: Mapping[str, Stamp | None], file: Path) -> None:
    """Write stamps, one a line."""
    with atomic_write(file, sync=False) as part, part.open("w", encoding="utf-8") as lines:
        lines.writelines(f"{json.dumps(pair)}\n" for pair in stamps.items())


def find_outdated(
    current: Mapping[str, Stamp | None], earlier: Mapping[str, Stamp | None], paths: Iterable[str], written: int
) -> Iterator[str]:
    """Yield those of the `paths` of rows whose file has changed since, by its stamp; a file that is gone has not.

    A row without an `earlier` stamp was made before its output was `written`, in nanoseconds since 1970.
    """
    for path in paths:
        if (stamp := current.get(path)) and (stamp != earlier[path] if path in earlier else stamp[1] > written):
            yield path

"""The place of an output: its folder is made, and no second process writes there meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from avatar_bench.errors import OutputError


def make_room(output: str, option: str = "output") -> None:
    """Make the folder of an output, so that a place that cannot be written shows before the work; or OutputError."""
    if output == "-":
        return
    file = Path(output)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{option}={output}: its folder cannot be made: {error.strerror}.") from error
    # the folder too: while an earlier file is replaced, the new one lies beside it, and so does the lock
    if file.is_dir() or not all(os.access(place, os.W_OK) for place in (file.parent, file) if place.exists()):
        raise OutputError(f"{option}={output} cannot be written.", "Expected a file in a folder that you may write to.")


@contextmanager
def held(output: str) -> Iterator[None]:
    """Keep other processes from an output meanwhile; the system lets go of it should this one die.

    Raise OutputError where another has it.
    """
    if output == "-":
        yield
        return
    place = Path(f"{output}.lock")
    lock = FileLock(place, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"output={output}: another process is writing it.", "Wait for it, or choose another output."
        ) from error
    except OSError as error:
        raise OutputError(f"output={output} cannot be written: {place}: {error.strerror}.") from error
    try:
        yield
    finally:
        place.unlink(missing_ok=True)
        lock.release()

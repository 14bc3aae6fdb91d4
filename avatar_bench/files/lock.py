"""Locks on folders and output files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock

from avatar_bench.errors import OutputError


class LockedError(Exception):
    """Error for a lock that another process holds."""


@contextmanager
def exclusive_lock(file: Path) -> Iterator[None]:
    """Acquire a lock file and remove it at the end; the system releases it if the process dies.

    Raise LockedError if another process holds it, OSError if it cannot be created.
    """
    lock = filelock.FileLock(file, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise LockedError(str(file)) from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()


@contextmanager
def shared_lock(file: Path, before_waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Acquire a lock file, waiting if necessary, and leave it in place; call `before_waiting` before a wait."""
    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        before_waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def prepare_output(output: str, option: str = "output", is_folder: bool = False) -> None:
    """Create the folder of an output, which may be a folder; raise OutputError early if it cannot be written."""
    if output == "-":
        return
    file = Path(output)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{option}={output}: its folder cannot be created: {error.strerror}.") from error
    # the folder too: the temporary file and the lock are created beside the output
    is_writable = all(os.access(place, os.W_OK) for place in (file.parent, file) if place.exists())
    if (file.is_dir() and not is_folder) or not is_writable:
        raise OutputError(f"{option}={output} cannot be written.", "Expected a file in a writable folder.")


@contextmanager
def lock_output(output: str) -> Iterator[None]:
    """Lock an output against other processes; the system releases the lock if the process dies.

    Raise OutputError if another process holds it.
    """
    if output == "-":
        yield
        return
    place = Path(f"{output}.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(place))
        except LockedError as error:
            raise OutputError(
                f"output={output}: another process is writing it.", "Wait for it, or choose another output."
            ) from error
        except OSError as error:
            raise OutputError(f"output={output} cannot be written: {place}: {error.strerror}.") from error
        yield

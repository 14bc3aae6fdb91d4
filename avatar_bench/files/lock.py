"""Locks on folders and output files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock

from avatar_bench.errors import OutputError


class LockedError(Exception):
    """Another process holds a lock."""


@contextmanager
def exclusive_lock(file: Path) -> Iterator[None]:
    """Hold a lock file and remove it at the end; the system releases it should this process die.

    Raise LockedError where another process holds it, OSError where it cannot be made.
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
    """Hold a lock file that others wait for, and leave it there; `before_waiting` is called before a wait."""
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


def prepare_output(output: str, option: str = "output") -> None:
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
def lock_output(output: str) -> Iterator[None]:
    """Keep other processes from an output meanwhile; the system lets go of it should this one die.

    Raise OutputError where another has it.
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

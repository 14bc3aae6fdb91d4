"""Locks on files, and folders that commands write to: what they may hold before, and new ones that appear complete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from avatar_bench.errors import CheckpointError, ConfigError, DataError, OutputError


class LockedError(Exception):
    """Error for a lock that another process holds."""


@contextmanager
def exclusive_lock(file: Path) -> Iterator[None]:
    """Acquire a lock file, which is removed at the end of the `with`; raise LockedError if another process holds it."""
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
    is_writable = all(os.access(path, os.W_OK) for path in (file.parent, file) if path.exists())
    if (file.is_dir() and not is_folder) or not is_writable:
        raise OutputError(f"{option}={output} cannot be written.", "Expected a file in a writable folder.")


@contextmanager
def lock_output(output: str) -> Iterator[None]:
    """Lock an output, until the process ends at the latest; raise OutputError if another process holds the lock."""
    if output == "-":
        yield
        return
    path = Path(f"{output}.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(path))
        except LockedError as error:
            reason = f"output={output}: another process is writing it."
            raise OutputError(reason, "Wait for it, or choose another output.") from error
        except OSError as error:
            raise OutputError(f"output={output} cannot be written: {path}: {error.strerror}.") from error
        yield


def refuse_outward_links(folder: Path, below: str = "") -> None:
    """Raise CheckpointError if a folder that somebody else may have made, or what is `below` in it, links out of it."""
    root = os.path.realpath(folder)
    top = os.path.join(root, below)
    walked = ((parent, name) for parent, folders, files in os.walk(top) for name in (*folders, *files))
    for path in (top, *(os.path.join(*parts) for parts in walked)):
        if os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(root):
            shown = folder / os.path.relpath(path, root)
            raise CheckpointError(
                f"{shown} is a link that leads out of its folder.",
                "If it is yours, replace it by what it links to; a folder of somebody else has no need of it.",
            )


FILE_MANAGER_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")  # of a folder that a person sees as empty


def refuse_foreign_folder(
    folder: Path, record: str = "", keys: Collection[str] = (), marker: str = "", option: str = "out"
) -> None:
    """Raise DataError unless a folder is missing, empty, or made by the command that is about to write to it.

    The command recognises its own by `marker`, a name in it, or by `record`, a JSON file of an object with `keys`.
    """
    if not os.path.lexists(folder):
        return
    try:
        names = sorted(os.listdir(folder))
    except NotADirectoryError:
        raise DataError(f"{option}={folder} is a file.", f"Choose a new folder: {option}=DIR") from None
    except OSError as error:
        raise OutputError(f"{option}={folder} cannot be read: {error.strerror}.") from error
    if marker in names or not set(names) - set(FILE_MANAGER_FILES):
        return
    with suppress(OSError, ValueError):
        content = json.loads((folder / record).read_text(encoding="utf-8")) if record in names else None
        if isinstance(content, dict) and content.keys() >= set(keys):
            return
    reason = f"{option}={folder} holds other files, such as {min(set(names) - set(FILE_MANAGER_FILES))}."
    raise DataError(reason, f"Nothing was written. Choose a new or empty folder: {option}=DIR")


def refuse_among_images(out: str | None, root: Any, option: str = "out") -> None:
    """Raise ConfigError for a folder in that of the images, which would be read as some of them the next time.

    `runs/` is left out then, and is where a working folder of images has its runs.
    """
    images, folder = Path(root or "").resolve(), Path(out or "").resolve()
    if out and root and folder.is_relative_to(images) and not folder.is_relative_to(images / "runs"):
        reason = f"{option}={out} is in {root}, and would be taken for some of its images the next time."
        raise ConfigError(reason, f"Nothing was written. Choose a folder beside it: {option}=DIR")


@contextmanager
def new_folder(out: Path, option: str = "out") -> Iterator[Path]:
    """Yield a folder beside `out` that becomes `out` after the `with`, and is removed after an error.

    Raise DataError if `out` is not empty, ConfigError if it is the working folder, which cannot be replaced,
    OutputError if another process is writing it, or if it cannot be written.
    """
    refuse_foreign_folder(out, option=option)
    out = Path(os.path.abspath(out))
    if out == Path.cwd():
        raise ConfigError(f"{option}= is the working folder.", f"Choose a new folder in it: {option}=NAME")
    part = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(out.with_name(f".{out.name}.lock")):
            try:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                yield part
                if out.is_dir():
                    for name in FILE_MANAGER_FILES:
                        (out / name).unlink(missing_ok=True)
                    out.rmdir()
                part.rename(out)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except LockedError as error:
        raise OutputError(f"{option}={out}: another process is writing it.", "Wait for it.") from error
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{option}={out} cannot be written: {reason}.", f"Choose another: {option}=DIR") from error

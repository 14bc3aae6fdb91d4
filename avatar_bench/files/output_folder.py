"""Folders that commands write to: what they may hold before, and new ones that appear once they are complete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from avatar_bench.errors import ConfigError, DataError, OutputError
from avatar_bench.files.lock import LockedError, exclusive_lock

FILE_MANAGER_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")  # of a folder that a person sees as empty


def refuse_foreign_folder(
    folder: Path, record: str = "", keys: Collection[str] = (), marker: str = "", option: str = "out"
) -> None:
    """Raise DataError unless a folder is missing, empty, or made by the command that is about to write to it.

    The command recognises its own by `marker`, a file or folder that it keeps there, or by `record`, a JSON file of an
    object with `keys`. Raise OutputError if the folder cannot be read.
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
    raise DataError(
        f"{option}={folder} holds other files, such as {min(set(names) - set(FILE_MANAGER_FILES))}.",
        f"Nothing was written. Choose a new or empty folder: {option}=DIR",
    )


@contextmanager
def new_folder(out: Path, option: str = "out") -> Iterator[Path]:
    """Yield a folder beside `out` that becomes `out` after the `with`, and is removed after an error.

    What a killed process has left there is removed first. Raise DataError if `out` is not empty, ConfigError if it is
    the working folder, which cannot be replaced, OutputError if another process is writing it, or if it cannot be
    written.
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

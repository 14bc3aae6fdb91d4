"""Uploaded image files, in a folder of their own until they are answered."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile

from avatar_bench.console.terminal import format_name
from avatar_bench.files.output_folder import LockedError, exclusive_lock

_FOLDER, _LOCK = "avatar-bench-app-", "lock"
_MAX_NAME_BYTES = 200  # of a name on disk


@contextmanager
def open_app_folder() -> Iterator[Path]:
    """Yield a temporary folder that is deleted in the end; those of apps that were killed are deleted first."""
    for lock in Path(gettempdir()).glob(f"{_FOLDER}*/{_LOCK}"):
        with suppress(OSError, LockedError), exclusive_lock(lock):  # the system releases that of a killed app
            shutil.rmtree(lock.parent)
    with TemporaryDirectory(prefix=_FOLDER) as folder, exclusive_lock(Path(folder, _LOCK)):
        yield Path(folder)


@asynccontextmanager
async def receive_uploads(
    request: Request, field: str, most: int, folder: Path, max_bytes: int
) -> AsyncIterator[dict[Path, str]]:
    """Yield the files in a field of a multipart body, which are deleted in the end, with why one is refused, or "".

    Raise HTTPException for none or too many.
    """
    with TemporaryDirectory(dir=folder) as parent:
        uploads = {}
        async with request.form(max_files=most, max_fields=0) as form:
            for number, file in enumerate(part for part in form.getlist(field) if isinstance(part, UploadFile)):
                path = Path(parent, str(number), make_name(file.filename or ""))
                uploads[path] = f"larger than {max_bytes / 1e6:g} MB" if (file.size or 0) > max_bytes else ""
                if not uploads[path]:
                    path.parent.mkdir()
                    with path.open("wb") as stream:
                        while chunk := await file.read(2**20):
                            stream.write(chunk)
        if not uploads:
            raise HTTPException(422, f"Expected multipart/form-data with a file in the field {field}.")
        yield uploads


def make_name(name: str) -> str:
    """Return the name of an uploaded file as one on disk, without folders."""
    base = format_name(name.replace("\\", "/").rpartition("/")[2].replace("\0", "")).strip(". ") or "image"
    return base.encode(errors="replace")[-_MAX_NAME_BYTES:].decode(errors="ignore")

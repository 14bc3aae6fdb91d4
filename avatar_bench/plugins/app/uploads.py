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


class Uploads:
    """Folder of uploaded files, each of at most `max_bytes`."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    @asynccontextmanager
    async def receive(self, request: Request, field: str, most: int) -> AsyncIterator[list[Path]]:
        """Yield the files in a field of a multipart body, which are deleted in the end.

        Raise HTTPException for none, too many, or a large one.
        """
        with TemporaryDirectory(dir=self.folder) as folder:
            async with request.form(max_files=most, max_fields=0) as form:
                files = [part for part in form.getlist(field) if isinstance(part, UploadFile)]
                if not files:
                    raise HTTPException(422, f"Expected multipart/form-data with a file in the field {field}.")
                paths = [Path(folder, str(number), make_name(file.filename or "")) for number, file in enumerate(files)]
                for path, file in zip(paths, files, strict=True):
                    if (file.size or 0) > self.max_bytes:
                        raise HTTPException(413, f"An image is larger than {self.max_bytes // 10**6} MB.")
                    path.parent.mkdir()
                    with path.open("wb") as stream:
                        while chunk := await file.read(2**20):
                            stream.write(chunk)
            yield paths


def make_name(name: str) -> str:
    """Return the name of an uploaded file as one on disk, without folders."""
    base = format_name(name.replace("\\", "/").rpartition("/")[2].replace("\0", "")).strip(". ") or "image"
    return base.encode(errors="replace")[-_MAX_NAME_BYTES:].decode(errors="ignore")

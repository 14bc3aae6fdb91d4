"""Uploaded image files, each in a folder of its own until its answer is given."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile

from avatar_bench.data.file_names import format_name
from avatar_bench.files.lock import LockedError, exclusive_lock

_FOLDER, _LOCK = "avatar-bench-app-", "lock"
KEPT_SECONDS = 600  # for which an upload waits for a question about it
_MAX_NAME_BYTES = 200  # of a name on disk


@contextmanager
def open_app_folder() -> Iterator[Path]:
    """Yield a temporary folder that is deleted in the end; those of apps that were killed are deleted first."""
    for lock in Path(gettempdir()).glob(f"{_FOLDER}*/{_LOCK}"):
        with suppress(OSError, LockedError), exclusive_lock(lock):  # the system releases that of a killed app
            shutil.rmtree(lock.parent)
    with TemporaryDirectory(prefix=_FOLDER) as place, exclusive_lock(Path(place, _LOCK)):
        yield Path(place)


class Uploads:
    """Folder of uploaded files, each of at most `max_bytes`."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder.resolve(), max_bytes

    async def save(self, request: Request, field: str, most: int) -> list[Path]:
        """Save the files in a field of a multipart body; raise HTTPException for none, too many, or a large one."""
        self.delete_old()
        saved: list[Path] = []
        try:
            async with request.form(max_files=most, max_fields=0) as form:
                files = [part for part in form.getlist(field) if isinstance(part, UploadFile)]
                if not files:
                    raise HTTPException(422, f"Expected multipart/form-data with a file in the field {field}.")
                for file in files:
                    if (file.size or 0) > self.max_bytes:
                        raise HTTPException(413, f"An image is larger than {self.max_bytes // 10**6} MB.")
                    saved.append(self._reserve(file.filename or ""))
                    with saved[-1].open("wb") as stream:
                        while chunk := await file.read(2**20):
                            stream.write(chunk)
        except BaseException:
            for place in saved:
                self.delete(place)
            raise
        return saved

    def find(self, path: str) -> Path:
        """Return the file of an upload by the path that `save` returned; raise ValueError for any other."""
        place = Path(path)
        if place.parent.parent != self.folder or place.is_symlink() or not place.is_file():
            raise ValueError("It was not uploaded.")
        return place

    def delete(self, place: Path) -> None:
        """Delete an upload with its folder."""
        shutil.rmtree(place.parent, ignore_errors=True)

    def delete_old(self) -> None:
        """Delete uploads that nobody has asked about."""
        for folder in self.folder.iterdir():
            if folder.is_dir() and time.time() - folder.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)

    def _reserve(self, name: str) -> Path:
        """Return a place for a file of this name, which nobody else can guess."""
        base = format_name(name.replace("\\", "/").rpartition("/")[2].replace("\0", "")).strip(". ") or "image"
        short = base.encode(errors="replace")[-_MAX_NAME_BYTES:].decode(errors="ignore")
        place = self.folder / secrets.token_urlsafe(18) / short
        place.parent.mkdir(mode=0o700)
        return place

"""The store of a data set: images by content hash, and a journal of each source that survives an interruption."""

from __future__ import annotations

import io
import json
import os
import random
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avatar_bench.audit.properties import metadata
from avatar_bench.data.decoding import MAX_BYTES, decode_bytes, format_of
from avatar_bench.data.equalise import equalise_bytes
from avatar_bench.data.fingerprints import fingerprint
from avatar_bench.errors import DataError
from avatar_bench.files.hashes import sha256_of_bytes
from avatar_bench.sources.drawn_avatars import rasterise
from avatar_bench.sources.source_image import SourceImage, cut

# Transparent images that are encoded anew get one of these: a white ground would tell the drawings.
GROUNDS = ("white", "white", "white", "#eceff1", "#f5efe6", "#dbe7f3", "#cfe3d4", "#f2d9d9", "#d9d4e8", "#b8c4cc")
ENDINGS = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "AVIF": ".avif",
    "BMP": ".bmp",
}


@dataclass(frozen=True)
class Making:
    """Say what is done to the images of one source on their way into the store.

    `equalise`: "jpeg", or None to keep each file as it is. `rasterise`: whether SVG is drawn, or refused.
    """

    source: str
    label: str
    equalise: str | None = None
    rasterise: bool = False


def put(source_image: SourceImage, making: Making, folder: Path) -> dict[str, Any]:
    """Bring one image into `folder`/images/<label>/<source>/ and give its row, or a row with the `reason` it cannot.

    A file that is kept as it is becomes a hard link where that is possible, else a copy. Raise OSError where the
    folder cannot be written.
    """
    try:
        found = _content(source_image)
        data, image = _make(source_image, found, making)
    except (DataError, ValueError, OSError) as error:
        return {"name": source_image.name, "reason": _reason(error).removeprefix(f"{source_image.name}: ")}
    sha256, kind = sha256_of_bytes(data), format_of(data)
    path = "/".join(
        ["images", *map(_safe, (source_image.label or making.label, source_image.source or making.source)), sha256[:20]]
    )
    original = source_image.content if isinstance(source_image.content, Path) and data is found else None
    _keep(data, original, folder / (path + ENDINGS[kind]))
    prints = fingerprint(image)
    known = {key: value for key, value in asdict(source_image).items() if isinstance(value, str) and key != "name"}
    return {
        "name": source_image.name,
        "path": path + ENDINGS[kind],
        "sha256": sha256,
        "origin_sha256": sha256_of_bytes(found),
        "pixels": prints.pixels,
        "phashes": list(prints.phashes),
        "width": image.shape[1],
        "height": image.shape[0],
        "format": kind,
        "jpeg_quality": metadata(data, image)["jpeg_quality"] if kind == "JPEG" else "",
        **{key: value for key, value in known.items() if value},
    }


@dataclass
class Journal:
    """Hold what has been stored of one source; each row is on disk before the next is begun.

    `digest` is of the source as it was read; a journal of another digest, or of images that are gone, is begun anew.
    """

    file: Path
    digest: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)  # file, reason
    complete: bool = False

    @classmethod
    def open(cls, file: Path, digest: str, folder: Path, again: bool = False) -> Journal:
        """Read what an earlier run has left in the store `folder`, up to a last line that was cut short.

        With `again` a complete journal is gone on with, as if its source had not been read to the end.
        """
        journal = cls(file, digest)
        entries = list(_lines(file))
        stored = (folder / entry["path"] for entry in entries if "path" in entry)
        if not entries or entries[0] != {"digest": digest} or not all(place.is_file() for place in stored):
            _write(file, {"digest": digest}, "w")
            return journal
        ending = entries.pop() if entries[-1].get("complete") else None
        if ending and not again:
            journal.complete = True
            journal.refused = [(name, reason) for name, reason in ending["refused"]]
        else:
            _rewrite(file, entries)  # without a broken line
        journal.rows = entries[1:]
        return journal

    @staticmethod
    def has_refused(file: Path) -> bool:
        """Say whether a complete journal holds images that its reader could not get."""
        *_, last = [{}, *_lines(file)]
        return bool(last.get("refused"))

    def add(self, row: dict[str, Any]) -> None:
        """Put down one image."""
        self.rows.append(row)
        _write(self.file, row, "a")

    def close(self, refused: list[tuple[str, str]]) -> None:
        """Put down that the source is read to its end, and what its reader refused."""
        self.refused, self.complete = list(refused), True
        _write(self.file, {"complete": True, "refused": refused}, "a")


def prune(folder: Path, wanted: set[str]) -> int:
    """Delete the images of the store whose paths are not wanted; give how many."""
    gone = [
        file
        for file in (folder / "images").rglob("*")
        if file.is_file() and file.relative_to(folder).as_posix() not in wanted
    ]
    for file in gone:
        file.unlink()
    for below in sorted((folder / "images").rglob("*"), reverse=True):
        if below.is_dir():
            with suppress(OSError):  # it holds something still
                below.rmdir()
    return len(gone)


def _content(source_image: SourceImage) -> bytes:
    if isinstance(source_image.content, Path) and source_image.content.stat().st_size > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES // 2**20} MiB.")
    return source_image.read()


def _reason(error: Exception) -> str:
    if isinstance(error, DataError):
        return error.lines[0]
    return f"cannot be read: {error.strerror}." if isinstance(error, OSError) and error.strerror else str(error)


def _make(source_image: SourceImage, found: bytes, making: Making) -> tuple[bytes, NDArray[np.uint8]]:
    """Give what is stored of an image, and its pixels; `found` itself where it is stored as it is."""
    data = found
    if making.rasterise and source_image.name.lower().endswith(".svg"):
        data = _png(rasterise(found.decode("utf-8")))
    if making.equalise is None and source_image.box is None:
        return data, decode_bytes(data, source_image.name)
    draw = random.Random(found)
    image = cut(decode_bytes(data, source_image.name, ground=draw.choice(GROUNDS)), source_image.box)
    made = equalise_bytes(image, "crop") if making.equalise else _png(Image.fromarray(image))
    return made, decode_bytes(made, source_image.name)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _safe(name: str) -> str:
    """Give a folder name that holds no separator, space or sign that a shell or Hydra reads."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "_"


def _keep(data: bytes, original: Path | None, target: Path) -> None:
    """Put an image in its place, whole or not at all."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.part")  # copies meet here
    if original is not None and not original.is_symlink():
        with suppress(OSError):  # another file system, or one without links
            os.link(original, part)
    if not part.exists():
        part.write_bytes(data)
    part.replace(target)


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    if not file.is_file():
        return
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:  # the last line of a process that was killed
                return


def _rewrite(file: Path, entries: list[dict[str, Any]]) -> None:
    part = file.with_name(f"{file.name}.part")
    part.write_text("".join(_line(entry) for entry in entries), encoding="utf-8")
    part.replace(file)


def _write(file: Path, entry: dict[str, Any], mode: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open(mode, encoding="utf-8") as stream:
        stream.write(_line(entry))


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"

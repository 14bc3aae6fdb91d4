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

from avatar_bench.audit.properties import measure_metadata
from avatar_bench.data.decoding import MAX_IMAGE_BYTES, decode_bytes, detect_format
from avatar_bench.data.equalise import equalise_bytes
from avatar_bench.data.fingerprints import fingerprint_image
from avatar_bench.errors import DataError
from avatar_bench.files.hashes import sha256_of_bytes
from avatar_bench.sources.drawn_avatars import rasterise
from avatar_bench.sources.source_image import SourceImage, crop_square

# Transparent images that are encoded anew get one of these: a white ground would tell the drawings.
BACKGROUNDS = ("white", "white", "white", "#eceff1", "#f5efe6", "#dbe7f3", "#cfe3d4", "#f2d9d9", "#d9d4e8", "#b8c4cc")
EXTENSIONS = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "AVIF": ".avif",
    "BMP": ".bmp",
}


@dataclass(frozen=True)
class StoreOptions:
    """Say what is done to the images of one source on their way into the store.

    `equalise`: "jpeg", or None to keep each file as it is. `rasterise`: whether SVG is drawn, or refused.
    """

    source: str
    label: str
    equalise: str | None = None
    rasterise: bool = False


def store_image(source_image: SourceImage, making: StoreOptions, folder: Path) -> dict[str, Any]:
    """Bring one image into `folder`/images/<label>/<source>/ and give its row, or a row with the `reason` it cannot.

    A file that is kept as it is becomes a hard link where that is possible, else a copy. Raise OSError where the
    folder cannot be written.
    """
    try:
        found = _read_content(source_image)
        data, image = _convert(source_image, found, making)
    except (DataError, ValueError, OSError) as error:
        return {"name": source_image.name, "reason": _format_reason(error).removeprefix(f"{source_image.name}: ")}
    sha256, kind = sha256_of_bytes(data), detect_format(data)
    path = "/".join(
        [
            "images",
            *map(_make_folder_name, (source_image.label or making.label, source_image.source or making.source)),
            sha256[:20],
        ]
    )
    original = source_image.content if isinstance(source_image.content, Path) and data is found else None
    _save(data, original, folder / (path + EXTENSIONS[kind]))
    prints = fingerprint_image(image)
    known = {key: value for key, value in asdict(source_image).items() if isinstance(value, str) and key != "name"}
    return {
        "name": source_image.name,
        "path": path + EXTENSIONS[kind],
        "sha256": sha256,
        "origin_sha256": sha256_of_bytes(found),
        "pixels": prints.pixels,
        "phashes": list(prints.phashes),
        "width": image.shape[1],
        "height": image.shape[0],
        "format": kind,
        "jpeg_quality": measure_metadata(data, image)["jpeg_quality"] if kind == "JPEG" else "",
        **{key: value for key, value in known.items() if value},
    }


@dataclass
class SourceJournal:
    """Hold what has been stored of one source; each row is on disk before the next is begun.

    `digest` is of the source as it was read; a journal of another digest, or of images that are gone, is begun anew.
    """

    file: Path
    digest: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)  # file, reason
    complete: bool = False

    @classmethod
    def open(cls, file: Path, digest: str, folder: Path, again: bool = False) -> SourceJournal:
        """Read what an earlier run has left in the store `folder`, up to a last line that was cut short.

        With `again` a complete journal is gone on with, as if its source had not been read to the end.
        """
        journal = cls(file, digest)
        entries = list(_read_lines(file))
        stored = (folder / entry["path"] for entry in entries if "path" in entry)
        if not entries or entries[0] != {"digest": digest} or not all(place.is_file() for place in stored):
            _write_entry(file, {"digest": digest}, "w")
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
        *_, last = [{}, *_read_lines(file)]
        return bool(last.get("refused"))

    def add(self, row: dict[str, Any]) -> None:
        """Put down one image."""
        self.rows.append(row)
        _write_entry(self.file, row, "a")

    def close(self, refused: list[tuple[str, str]]) -> None:
        """Put down that the source is read to its end, and what its reader refused."""
        self.refused, self.complete = list(refused), True
        _write_entry(self.file, {"complete": True, "refused": refused}, "a")


def prune_images(folder: Path, wanted: set[str]) -> int:
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


def _read_content(source_image: SourceImage) -> bytes:
    if isinstance(source_image.content, Path) and source_image.content.stat().st_size > MAX_IMAGE_BYTES:
        raise ValueError(f"larger than {MAX_IMAGE_BYTES // 2**20} MiB.")
    return source_image.read()


def _format_reason(error: Exception) -> str:
    if isinstance(error, DataError):
        return error.lines[0]
    return f"cannot be read: {error.strerror}." if isinstance(error, OSError) and error.strerror else str(error)


def _convert(source_image: SourceImage, found: bytes, making: StoreOptions) -> tuple[bytes, NDArray[np.uint8]]:
    """Give what is stored of an image, and its pixels; `found` itself where it is stored as it is."""
    data = found
    if making.rasterise and source_image.name.lower().endswith(".svg"):
        data = _encode_png(rasterise(found.decode("utf-8")))
    if making.equalise is None and source_image.box is None:
        return data, decode_bytes(data, source_image.name)
    draw = random.Random(found)
    image = crop_square(decode_bytes(data, source_image.name, ground=draw.choice(BACKGROUNDS)), source_image.box)
    made = equalise_bytes(image, "crop") if making.equalise else _encode_png(Image.fromarray(image))
    return made, decode_bytes(made, source_image.name)


def _encode_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _make_folder_name(name: str) -> str:
    """Give a folder name that holds no separator, space or sign that a shell or Hydra reads."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "_"


def _save(data: bytes, original: Path | None, target: Path) -> None:
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


def _read_lines(file: Path) -> Iterator[dict[str, Any]]:
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
    part.write_text("".join(_format_line(entry) for entry in entries), encoding="utf-8")
    part.replace(file)


def _write_entry(file: Path, entry: dict[str, Any], mode: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open(mode, encoding="utf-8") as stream:
        stream.write(_format_line(entry))


def _format_line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"

"""Content-addressed image store of a dataset, with a journal per source that survives interruptions."""

from __future__ import annotations

import io
import json
import os
import random
import re
from collections import deque
from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avatar_bench.audit.file_metadata import read_date
from avatar_bench.audit.properties import measure_metadata
from avatar_bench.data.decoding import decode_bytes, detect_format, read_bytes
from avatar_bench.data.equalise import equalise_bytes
from avatar_bench.data.fingerprints import fingerprint_image
from avatar_bench.errors import DataError
from avatar_bench.files.atomic_write import atomic_write, write_text
from avatar_bench.files.hashes import sha256_of_bytes
from avatar_bench.sources.reader import CropBox, Source, SourceImage, import_package

# Transparent images get one of these when re-encoded: a white background would reveal drawings.
BACKGROUNDS = ("white", "white", "white", "#eceff1", "#f5efe6", "#dbe7f3", "#cfe3d4", "#f2d9d9", "#d9d4e8", "#b8c4cc")
RASTER_WIDTH = 256  # pixels, the largest size of an equalised image
EXTENSIONS = {name: f".{name.lower()}" for name in ("PNG", "WEBP", "GIF", "AVIF", "BMP")}
EXTENSIONS |= {"JPEG": ".jpg", "TIFF": ".tif"}


def store_image(
    source_image: SourceImage, name: str, source: Source, equalise: str | None, folder: Path
) -> dict[str, Any]:
    """Store one image of the source `name` in `folder`/images/<label>/<source>/ and return its row.

    `equalise` is "jpeg", or None to keep the file unchanged: it is then hard-linked if possible, else copied. A row of
    an unusable image has the `reason`. Raise OSError if the folder cannot be written.
    """
    content = source_image.content
    try:
        original_bytes = content if isinstance(content, bytes) else read_bytes(content, source_image.name)
        data, image = _convert(source_image, original_bytes, bool(source.get("rasterise")), equalise)
    except (DataError, ValueError) as error:
        reason = error.lines[0] if isinstance(error, DataError) else str(error)
        return {"name": source_image.name, "reason": reason.removeprefix(f"{source_image.name}: ")}
    sha256, kind = sha256_of_bytes(data), detect_format(data)
    # without separators, spaces and characters special to shells or Hydra
    names = (source_image.label or source["label"], source_image.source or name)
    relative = "/".join(re.sub(r"[^\w.-]+", "_", part).lstrip(".") or "_" for part in names)
    path = f"images/{relative}/{sha256[:20]}{EXTENSIONS[kind]}"
    _save(data, content if isinstance(content, Path) and data is original_bytes else None, folder / path)
    prints = fingerprint_image(image)
    known = {key: value for key, value in asdict(source_image).items() if isinstance(value, str) and key != "name"}
    known |= _find_dates(source_image, source, original_bytes)
    return {
        "name": source_image.name,
        "path": path,
        "sha256": sha256,
        "origin_sha256": sha256_of_bytes(original_bytes),
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
    """Record of the stored images of one source; each row is on disk before the next image starts.

    A journal of another `digest`, or with missing images, is restarted, with the images that it has named before.
    """

    file: Path
    digest: str
    refused: list[tuple[str, str]] = field(default_factory=list)  # file, reason
    complete: bool = False

    @classmethod
    def open(cls, file: Path, digest: str, folder: Path, retry: bool = False) -> SourceJournal:
        """Open the journal of an earlier run, without a cut last line; with `retry`, go on with a complete one."""
        journal, entries = cls(file, digest), _read_lines(file)
        is_ours = next(entries, None) == {"digest": digest}
        if not is_ours or not all((folder / entry["path"]).is_file() for entry in entries if "path" in entry):
            _restart_journal(file, digest, folder)
            return journal
        last = _read_last_line(file)
        if last.get("complete") and not retry:
            journal.complete = True
            journal.refused = [(name, reason) for name, reason in last["refused"]]
        else:
            write_text(file, "".join(_format_line(entry) for entry in _read_lines(file) if not entry.get("complete")))
        return journal

    @property
    def rows(self) -> Iterator[dict[str, Any]]:
        """Read the rows one by one: those of a million images would need gigabytes of memory."""
        return (entry for entry in _read_lines(self.file) if "name" in entry)

    @staticmethod
    def has_refused(file: Path) -> bool:
        """Return whether a complete journal lists images that its reader could not get."""
        return bool(_read_last_line(file).get("refused"))

    def add(self, entry: dict[str, Any]) -> None:
        """Append an entry, such as the row of an image."""
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(_format_line(entry))

    def close(self, refused: list[tuple[str, str]]) -> None:
        """Mark the source as complete, with the images that its reader refused."""
        self.refused, self.complete = list(refused), True
        self.add({"complete": True, "refused": refused})


def rasterise(svg: str, width: int = RASTER_WIDTH) -> Image.Image:
    """Render an SVG as RGBA, without system fonts: alike on every machine; raise ValueError for no SVG."""
    resvg = import_package("resvg_py")
    return Image.open(io.BytesIO(bytes(resvg.svg_to_bytes(svg_string=svg, width=width, skip_system_fonts=True))))


def crop_square(image: NDArray[np.uint8], box: CropBox) -> NDArray[np.uint8]:
    """Return the square of an image, (H, W, 3), given by `box`, shifted to lie within it."""
    height, width = image.shape[:2]
    side = min(height, width, max(1, round(box[2] * width)))
    left = min(round(box[0] * width), width - side)
    top = min(round(box[1] * height), height - side)
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def list_unwanted(journals: Iterable[Path], folder: Path, wanted: Set[str]) -> dict[str, str]:
    """Return the stored images that journals name and nobody wants, each with its name in a source that has lost it.

    The name of the others is "": they have moved to another class or source, or are replaced by a new version.
    """
    unwanted: dict[str, str] = {}
    digests: set[str] = set()
    for file in journals:
        stored = ((path, name) for path, name in _list_stored(file) if path not in wanted)
        names = {path: name for path, name in stored if (folder / path).is_file()}
        if names:
            digests = digests or {Path(path).name for path in wanted}
            gone = set(names.values())
            gone -= {entry["name"] for entry in _read_lines(file) if "name" in entry and entry.get("path") in wanted}
            for path, name in names.items():
                unwanted[path] = name if name in gone and Path(path).name not in digests else ""
    return unwanted


def delete_images(folder: Path, paths: Iterable[str]) -> None:
    """Delete stored images, and folders left empty."""
    for path in paths:
        file = folder / path
        file.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            for parent in (file.parent, file.parent.parent):
                parent.rmdir()


def _convert(
    source_image: SourceImage, original_bytes: bytes, is_rasterised: bool, equalise: str | None
) -> tuple[bytes, NDArray[np.uint8]]:
    """Return the bytes to store and their pixels; `original_bytes` if stored unchanged."""
    data = original_bytes
    if is_rasterised and source_image.name.lower().endswith(".svg"):
        data = _encode_png(rasterise(original_bytes.decode("utf-8")))
    if equalise is None and source_image.box is None:
        return data, decode_bytes(data, source_image.name)
    draw = random.Random(original_bytes)
    image = decode_bytes(data, source_image.name, ground=draw.choice(BACKGROUNDS))
    image = image if source_image.box is None else crop_square(image, source_image.box)
    converted = equalise_bytes(image, "crop") if equalise else _encode_png(Image.fromarray(image))
    return converted, decode_bytes(converted, source_image.name)


def _find_dates(source_image: SourceImage, source: Source, original_bytes: bytes) -> dict[str, str]:
    """Return date and released with `date_from`, where the date is stated: table, EXIF, XMP, source, or "" for none.

    "odd" is where the file states a date that cannot be its own.
    """
    of_source = str(source.get("date") or "")
    date, origin = (source_image.date, "table") if source_image.date else read_date(original_bytes, of_source)
    return {
        "date": date or of_source,
        "date_from": origin if date else "source" if of_source else "",
        "odd_date": "" if date else origin,
        "released": source_image.released or str(source.get("released") or ""),
    }


def _encode_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _save(data: bytes, original: Path | None, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target, alone=False, sync=False) as part:  # threads may write copies of one image
        part.unlink()  # which a link takes the place of
        if original is not None and not original.is_symlink():
            with suppress(OSError):  # another file system, or no hard links
                os.link(original, part)
        if not part.exists():
            part.write_bytes(data)


def _read_lines(file: Path) -> Iterator[dict[str, Any]]:
    if not file.is_file():
        return
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:  # a line truncated by a killed process
                return


def _read_last_line(file: Path) -> dict[str, Any]:
    """Return the last entry of a journal, without keeping the others; {} if there is none."""
    return next(iter(deque(_read_lines(file), maxlen=1)), {})


def _restart_journal(file: Path, digest: str, folder: Path) -> None:
    """Replace a journal, if there is one, by a new one that begins with the stored images that it has named."""
    file.parent.mkdir(parents=True, exist_ok=True)
    listed: set[str] = set()
    with atomic_write(file) as part, part.open("w", encoding="utf-8") as stream:
        stream.write(_format_line({"digest": digest}))
        for path, name in _list_stored(file):
            if path not in listed and (folder / path).is_file():
                listed.add(path)
                stream.write(_format_line({"former": name, "stored": path}))


def _list_stored(file: Path) -> Iterator[tuple[str, str]]:
    """Yield path and name in the source of each image that a journal names, as stored now or before its restart."""
    for entry in _read_lines(file):
        if path := entry.get("path") or entry.get("stored"):
            yield path, entry.get("name") or entry["former"]


def _format_line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"

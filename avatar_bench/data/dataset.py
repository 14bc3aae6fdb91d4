"""Datasets: images with label, source and group, read from class folders or a manifest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.data.decoding import SUFFIXES, decode
from avatar_bench.data.file_names import format_name
from avatar_bench.data.folders import list_class_folders, list_images
from avatar_bench.data.user_tables import read_user_table
from avatar_bench.errors import DataError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.csv_io import read_csv, write_csv
from avatar_bench.files.hashes import sha256_of_file

ENCODING_COLUMNS = ("width", "height", "format", "jpeg_quality")  # how an image is stored
DATASET_COLUMNS = (
    "path",
    "label",
    "source",
    "generator",
    "group",
    "split",
    "fold",
    "sha256",
    "phash",
    *ENCODING_COLUMNS,
)
RUN_COLUMNS = ("turned_phashes", "stated_group")  # of a run's images alone
DATASET_SPLITS = ("train", "val", "calibration", "test")


@dataclass(frozen=True)
class Dataset:
    """Hold N images by reference: `frame` has the COLUMNS, all strings, paths relative to `root`.

    An empty string means not known. `group` is never empty: images of one group stay on one side of a split.
    """

    name: str
    root: Path
    frame: pd.DataFrame

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def classes(self) -> tuple[str, ...]:
        """Give the class names that occur, sorted."""
        return tuple(sorted({label for label in self.frame["label"] if label}))

    @cached_property
    def fingerprint(self) -> str:
        """Give 16 hex digits that change with any image, label or group, and not with their order or place."""
        rows = sorted(zip(self.frame["sha256"], self.frame["label"], self.frame["group"], strict=True))
        return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]

    @cached_property
    def digest(self) -> str:
        """Give 16 hex digits that change with anything that is known of the images, and with their order."""
        return hashlib.sha256(self.frame.to_csv(index=False).encode()).hexdigest()[:16]

    @cached_property
    def available(self) -> Dataset:
        """Give the images whose files are there."""
        return self.take(np.array([os.path.isfile(file) for file in list_files(self)], dtype=bool))

    def file(self, row: int) -> Path:
        """Give the absolute path of one image."""
        return self.root / str(self.frame["path"].iat[row])

    def image(self, row: int) -> NDArray[np.uint8]:
        """Decode one image, (H, W, 3) uint8 RGB."""
        return decode(self.file(row))

    def take(self, rows: pd.Series | NDArray[np.bool_] | NDArray[np.integer], name: str | None = None) -> Dataset:
        """Give some of the images, by mask or position, in their order here."""
        wanted = np.asarray(rows)
        frame = self.frame[wanted] if wanted.dtype == bool else self.frame.iloc[wanted]
        return Dataset(name or self.name, self.root, frame.reset_index(drop=True))

    def select_split(self, split: str) -> Dataset:
        """Give the images of one split, under its name."""
        return self.take(self.frame["split"] == split, name=split)


def read_dataset(path: Path, name: str | None = None) -> Dataset:
    """Read a folder of class folders, or a manifest file; raise DataError where there is nothing to read."""
    if os.path.isdir(path):
        return read_folder(path, name)
    return read_manifest(path, name)


def read_folder(root: Path, name: str | None = None) -> Dataset:
    """Read `root/<class>/...`, or `root/{train,val,test}/<class>/...` where those folders exist.

    A folder below the class folder names the source; the group is the image's own hash, so that byte copies
    stay together. Raise DataError on a missing folder, and on a class without images.
    """
    if not os.path.isdir(root):
        raise DataError(f"data.root: {root} is not a folder.", "Expected a folder with one folder per class.")
    fixed = [split for split in ("train", "val", "test") if os.path.isdir(root / split)]
    rows: list[tuple[str, str, str, str]] = []
    folders = [(split, folder) for split in fixed or [""] for folder in list_class_folders(root / split)]
    for split, folder in folders:
        for file in list_images(folder):
            below = file.relative_to(folder).parts
            source = below[0] if len(below) > 1 else ""
            rows.append((file.relative_to(root).as_posix(), folder.name, source, split))
    if not rows:
        raise DataError(
            f"{root} holds no images in class folders.",
            f"Expected {root.name}/<class>/<image> with endings {', '.join(sorted(SUFFIXES))}.",
        )
    frame = pd.DataFrame(rows, columns=["path", "label", "source", "split"])
    empty = [folder for _, folder in folders if folder.name not in set(frame["label"])]
    if empty:
        raise DataError(
            f"{format_name(str(empty[0]))}: the class folder holds no image.",
            "Fill it, or take it out of the data set.",
        )
    return _complete(frame, root, name or root.name)


def read_images(root: Path, name: str | None = None) -> Dataset:
    """Read every image at or below a folder, of no known class; raise DataError where there is none."""
    files = [file.relative_to(root).as_posix() for file in list_images(root)] if os.path.isdir(root) else []
    if not files:
        raise DataError(
            f"{root} is no folder of images.", f"Expected images with endings {', '.join(sorted(SUFFIXES))}."
        )
    return _complete(pd.DataFrame({"path": files}), root, name or root.name)


def read_manifest(file: Path, name: str | None = None, needed: Sequence[str] = ("path", "label")) -> Dataset:
    """Read a CSV with at least the columns `needed`, paths relative to it; other known ones are used, the rest ignored.

    Raise DataError on a missing file, column or image, naming the first.
    """
    if not os.path.isfile(file):
        raise DataError(
            f"data.manifest: {file} does not exist.", f"Expected a CSV file with columns {','.join(needed)}."
        )
    table = read_user_table(file, needed, DATASET_COLUMNS)
    if table.empty:
        raise DataError(f"{file} has no rows.")
    for row, path in enumerate(table["path"]):
        if not os.path.isfile(file.parent / path):
            what = f"{file}, row {row + 1}: {format_name(path)} does not exist, or is no file."
            raise DataError(what, "Expected a file; paths are relative to the manifest.")
    return _complete(table, file.parent, name or file.stem)


def write_split(dataset: Dataset, file: Path) -> None:
    """Write what `read_split` reads: every image of a run with its side, and what tells copies of it."""
    columns = [
        "path",
        "label",
        "source",
        "group",
        "split",
        "generator",
        "sha256",
        "phash",
        *RUN_COLUMNS,
        *ENCODING_COLUMNS,
    ]
    frame = dataset.frame.reindex(columns=columns, fill_value="")
    with atomic_write(file) as part:
        write_csv(frame, part)


def read_split(file: Path, root: Path) -> Dataset:
    """Read the split.csv of a run: every image that it used, below `root`; raise DataError where it is damaged."""
    try:
        frame = read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}.") from error
    if "path" not in frame:
        raise DataError(f"{file} is damaged: it has no column path.")
    return Dataset("run", root, frame.reindex(columns=[*DATASET_COLUMNS, *RUN_COLUMNS], fill_value=""))


def list_files(dataset: Dataset) -> list[Path]:
    """Give the absolute path of each image, in order."""
    return [dataset.root / path for path in dataset.frame["path"]]


def hash_files(files: Iterable[Path]) -> list[str]:
    """Give the SHA-256 of each file, in order, as hex digits."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(_hash_file, files))


def _hash_file(file: Path) -> str:
    try:
        return sha256_of_file(file)
    except OSError as error:
        raise DataError(f"{format_name(str(file))}: cannot be read: {error.strerror}.") from error


def _complete(frame: pd.DataFrame, root: Path, name: str) -> Dataset:
    frame = frame.reindex(columns=list(DATASET_COLUMNS), fill_value="").astype(str)
    frame["label"] = frame["label"].str.strip()
    blank = frame["sha256"].str.len() != 64
    if blank.any():
        frame.loc[blank, "sha256"] = hash_files(root / path for path in frame.loc[blank, "path"])
    frame["group"] = frame["group"].where(frame["group"] != "", "sha256:" + frame["sha256"].str[:16])
    unknown = ~frame["split"].isin(["", *DATASET_SPLITS])
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        path = str(frame["path"].iat[row])
        raise DataError(
            f"{name}, row {row + 1}, {format_name(path)}: unknown split {format_name(repr(frame['split'].iat[row]))}.",
            f"Expected one of {', '.join(DATASET_SPLITS)}, or nothing in any row.",
        )
    unknown = ~frame["fold"].str.fullmatch(r"\d{0,3}")
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        path = str(frame["path"].iat[row])
        raise DataError(
            f"{name}, row {row + 1}, {format_name(path)}: unknown fold {format_name(repr(frame['fold'].iat[row]))}.",
            "Expected a whole number from 0, or nothing.",
        )
    return Dataset(name, root, frame)

"""Datasets: images with label, source and group, read from class folders or a manifest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.console.progress import track
from avatar_bench.console.terminal import format_name, format_names
from avatar_bench.data.dates import DATE_FORM, is_date
from avatar_bench.data.decoding import SUFFIXES, decode
from avatar_bench.data.folders import find_split_folders, list_class_folders, list_images, refuse_other_folders
from avatar_bench.data.shard_files import ShardedImage, locate_image
from avatar_bench.data.user_tables import locate_rows, read_user_table
from avatar_bench.errors import DataError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.hashes import keep_digests, sha256_of_file, sha256_of_parts, sha256_of_text
from avatar_bench.files.paths import suggest_slashes
from avatar_bench.files.table_io import find_table, read_table, write_csv
from avatar_bench.results.reasons import Reason
from avatar_bench.results.view import View

ENCODING_COLUMNS = ("width", "height", "format", "jpeg_quality")  # of the stored file
DATE_COLUMNS = ("date", "released")  # of the image, and of its generator
_COLUMNS = ("path", "label", "source", "origin", "generator", "group", "split", "fold", "sha256", "phash")
DATASET_COLUMNS = (*_COLUMNS, *ENCODING_COLUMNS, *DATE_COLUMNS)
OTHER_PREFIX = "other:"  # of the columns of a manifest that the package does not know, so that no name is taken
RUN_COLUMNS = ("turned_phashes", "stated_group")  # only in runs
OOD_PREFIX = "ood_"  # of manifests of out-of-domain sets
_MAX_MISSING = 4  # files named beside the first
DATASET_SPLITS = ("train", "val", "calibration", "test")


@dataclass(frozen=True)
class Dataset:
    """N images by reference: `frame` has one row per image, with paths relative to `root`.

    Its columns are all strings: path, label, source, origin (shared by the sources of one publisher), generator, group,
    split, fold, sha256, phash, width, height, format, jpeg_quality, date and released. It also has the other columns of
    its manifest, by which results can be sliced, with `other:` before their names. An empty string means unknown.
    `group` is never empty: images of one group stay on one side of a split. Of a data set in a view, `origin` is
    the whole data set, and the row there of each image. `changes` are those since it was first recorded, and
    missing files, `unrecorded` is what to record, and where.
    """

    name: str
    root: Path
    frame: pd.DataFrame
    origin: tuple[Dataset, NDArray[np.intp]] | None = None
    changes: tuple[Reason, ...] = ()
    unrecorded: tuple[Path, pd.DataFrame] | None = None

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the sorted names of the classes that occur."""
        return tuple(sorted({label for label in self.frame["label"] if label}))

    @cached_property
    def fingerprint(self) -> str:
        """Return 16 hex digits that depend on images, labels and groups, but not on their order or location."""
        columns = ["sha256", "label", "group"]
        rows = self.frame[columns].sort_values(columns).itertuples(index=False, name=None)
        parts = (f"{', ' * (number > 0)}{row!r}".encode() for number, row in enumerate(rows))
        return sha256_of_parts(chain([b"["], parts, [b"]"]))[:16]

    @cached_property
    def digest(self) -> str:
        """Return 16 hex digits that depend on the whole table, including the order of rows."""
        # without dates, it is that of earlier versions
        blank = [name for name in DATE_COLUMNS if name in self.frame and not (self.frame[name] != "").any()]
        return sha256_of_text(f"{self.frame.drop(columns=blank).to_csv(index=False)}{''.join(map(str, self.changes))}")[
            :16
        ]

    @cached_property
    def available(self) -> Dataset:
        """Return the images whose files exist."""
        return self.take(np.array([file.is_file() for file in list_files(self)], dtype=bool))

    @property
    def absolute_frame(self) -> pd.DataFrame:
        """Return the table with absolute paths, for a data set with images of several roots."""
        root = self.root.absolute()
        return self.frame.assign(path=[(root / path).as_posix() for path in self.frame["path"]])

    def file(self, row: int) -> Path:
        """Return the absolute path of one image."""
        return locate_image(self.root / str(self.frame["path"].iat[row]))

    def image(self, row: int) -> NDArray[np.uint8]:
        """Decode one image, (H, W, 3) uint8 RGB."""
        return decode(self.file(row))

    @property
    def whole(self) -> Dataset:
        """Return the data set without a view."""
        return self.origin[0] if self.origin else self

    def take(self, rows: pd.Series | NDArray[np.bool_] | NDArray[np.integer], name: str | None = None) -> Dataset:
        """Return a subset of the images by mask or position; positions set the order."""
        wanted = np.asarray(rows)
        frame = self.frame[wanted] if wanted.dtype == bool else self.frame.iloc[wanted]
        origin = (self.origin[0], self.origin[1][wanted]) if self.origin else None
        return replace(self, name=name or self.name, frame=frame.reset_index(drop=True), origin=origin)

    def select_split(self, split: str) -> Dataset:
        """Return the images of one split, as a dataset with its name."""
        return self.take(self.frame["split"] == split, name=split)

    def count_missing(self, n: int) -> Dataset:
        """Return the data set with a note that so many of its images, or so many more, are missing or unreadable."""
        known = sum(change.values["n"] for change in self.changes)
        return replace(self, changes=(Reason("missing_files", set=self.name, n=n + known),))

    def apply_view(self, view: View) -> Dataset:
        """Return the images whose class is in a view, with their labels there, and those of unknown class."""
        if not view.classes:
            return self
        labels = np.array([view.find_class(label) for label in self.frame["label"]], dtype=object)
        rows = np.flatnonzero((labels != "") | (self.frame["label"] == ""))
        frame = self.frame.iloc[rows].assign(label=labels[rows]).reset_index(drop=True)
        return replace(self, frame=frame, origin=(self, rows))


def read_dataset(path: Path, name: str | None = None) -> Dataset:
    """Read a folder of class folders or a manifest file; raise DataError if there is nothing to read."""
    return read_folder(path, name) if os.path.isdir(path) else read_manifest(path, name)


def read_folder(root: Path, name: str | None = None) -> Dataset:
    """Read `root/[{train,val,test}/]<class>/[<source>/]...`; raise DataError for a missing folder or an empty class."""
    if not os.path.isdir(root):
        expected = "Expected a folder with one folder per class."
        if os.path.isfile(root):
            expected += " Unpack an archive; a table of images is data=manifest data.manifest=FILE."
        raise DataError(f"data.root: {root} is not a folder.", suggest_slashes(root) or expected)
    fixed = find_split_folders(root)
    refuse_other_folders(root, fixed)
    rows: list[tuple[str, str, str, str]] = []
    skipped: list[str] = []
    folders = [(split, folder) for split in fixed or [""] for folder in list_class_folders(root / split)]
    for split, folder in folders:
        for file in list_images(folder, skipped):
            below = file.relative_to(folder).parts
            source = below[0] if len(below) > 1 else ""
            rows.append((file.relative_to(root).as_posix(), folder.name, source, split))
    if not rows:
        reason = f"{root} contains no images in class folders."
        raise DataError(reason, f"Expected {root.name}/<class>/<image> with extension {', '.join(sorted(SUFFIXES))}.")
    frame = pd.DataFrame(rows, columns=["path", "label", "source", "split"])
    known = {*frame["label"], *(Path(path).relative_to(root).parts[bool(fixed)] for path in skipped)}
    empty = [folder for _, folder in folders if folder.name not in known]
    if empty:
        what = f"{format_name(str(empty[0]))}: the class folder contains no images."
        raise DataError(what, "Add images or remove the folder.")
    return _complete(frame, root, name or root.absolute().name)


def read_images(root: Path, name: str | None = None) -> Dataset:
    """Read every image in or below a folder, unlabelled; raise DataError if there is none."""
    files = [file.relative_to(root).as_posix() for file in list_images(root)] if os.path.isdir(root) else []
    if not files:
        reason = f"{root} is not a folder of images."
        raise DataError(reason, f"Expected images with extension {', '.join(sorted(SUFFIXES))}.")
    return _complete(pd.DataFrame({"path": files}), root, name or root.absolute().name)


def read_manifest(
    file: Path, name: str | None = None, needed: Sequence[str] = ("path", "label"), skip_missing: bool = False
) -> Dataset:
    """Read a CSV or Parquet with paths relative to it and columns `needed`; raise DataError for what it lacks.

    Missing files raise one DataError that names them, or their rows are left out.
    """
    file = find_table(file)
    if not os.path.isfile(file):
        expected = f"Expected a CSV or Parquet file with columns {','.join(needed)}."
        if os.path.isdir(file):
            raise DataError(f"data.manifest: {file} is a folder.", f"{expected} A folder is data=folder data.root=DIR.")
        raise DataError(f"data.manifest: {file} does not exist.", expected)
    table = read_user_table(file, needed, names=DATASET_COLUMNS)
    table = table.loc[:, ~table.columns.duplicated()]
    table = table.rename(columns=lambda name: name if name in DATASET_COLUMNS else OTHER_PREFIX + name)
    if table.empty:
        raise DataError(f"{file} has no rows.", "Expected a row for each image.")
    there = np.array([_is_image_file(file.parent / path) for path in table["path"]])
    if not there.any() or not (there.all() or skip_missing):
        raise _name_missing(file, table["path"], np.flatnonzero(~there))
    dataset = _complete(table[there].reset_index(drop=True), file.parent, name or file.stem, file)
    return dataset if there.all() else dataset.count_missing(int((~there).sum()))


def _is_image_file(path: Path) -> bool:
    # Path.is_file raises for a name that is too long
    return os.path.isfile(path) or ((image := locate_image(path)) is not path and image.is_file())


def _name_missing(file: Path, paths: pd.Series, rows: NDArray[np.intp]) -> DataError:
    """Return the error that names the rows of a manifest whose files are missing, of several the first."""
    first = str(paths.iloc[rows[0]])
    where = f"{file}, {locate_rows(file, len(paths))[rows[0]]}: {format_name(first)} does not exist or is not a file"
    advice = suggest_slashes(first) or "Expected a file; paths are relative to the manifest."
    if len(rows) == 1:
        return DataError(f"{where}.", advice)
    others = format_names(paths.iloc[rows[1:]].tolist(), _MAX_MISSING)
    return DataError(f"{where} ({len(rows)} of {len(paths)} images).", f"The others: {others}.", advice)


def make_ood_path(root: Path, name: str) -> Path:
    """Return the path of an out-of-domain manifest: beside the others, because paths are relative."""
    return root / f"{OOD_PREFIX}{name}.csv"


def tabulate_split(dataset: Dataset) -> pd.DataFrame:
    """Return every image of a run with its split and the hashes that identify its copies."""
    columns = ["path", "label", "source", "group", "split", "generator", "origin", "sha256", "phash"]
    columns += [*RUN_COLUMNS, *ENCODING_COLUMNS, *DATE_COLUMNS, *list_other_columns(dataset.frame)]
    return dataset.frame.reindex(columns=columns, fill_value="")


def write_split(dataset: Dataset, file: Path) -> None:
    """Write the table of a split as a CSV."""
    with atomic_write(file) as part:
        write_csv(tabulate_split(dataset), part)


def read_split(file: Path, root: Path) -> Dataset:
    """Read the split of a run: every image that it used, below `root`; raise DataError if it is damaged."""
    try:
        frame = read_table(file, texts=None)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}.") from error
    if "path" not in frame:
        raise DataError(f"{file} is damaged: it has no column path.")
    columns = [*DATASET_COLUMNS, *RUN_COLUMNS, *list_other_columns(frame)]
    return Dataset("run", root, frame.reindex(columns=columns, fill_value=""))


def list_other_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns of a manifest that the package does not know, with the OTHER_PREFIX."""
    return [str(column) for column in frame if str(column).startswith(OTHER_PREFIX)]


def list_files(dataset: Dataset) -> list[Path]:
    """Return the absolute path of each image, in order."""
    return [locate_image(dataset.root / path) for path in dataset.frame["path"]]


def hash_present(dataset: Dataset) -> pd.Series:
    """Return the SHA-256 of each image now, "" if it is gone; as stated for images in shards, or if all are gone."""
    files, stated = list_files(dataset), dataset.frame["sha256"]
    present = [file for file in files if file.is_file()]
    if not present or isinstance(files[0], ShardedImage):
        return stated
    digests = dict(zip(present, hash_files(present), strict=True))
    return pd.Series([digests.get(file, "") for file in files], stated.index, dtype=object)


def hash_files(files: Iterable[Path]) -> list[str]:
    """Compute the SHA-256 of each file, in order, as hex digits."""
    listed = list(files)
    with keep_digests(listed), ThreadPoolExecutor(4) as pool:
        return list(track(pool.map(_hash_file, listed), "read files", len(listed), "file"))


def _hash_file(file: Path) -> str:
    try:
        return sha256_of_file(file)
    except OSError as error:
        raise DataError(f"{format_name(str(file))}: cannot be read: {error.strerror}.") from error


def _complete(frame: pd.DataFrame, root: Path, name: str, file: Path | None = None) -> Dataset:
    frame = frame.reindex(columns=[*DATASET_COLUMNS, *list_other_columns(frame)], fill_value="").astype(str)
    for column in ("label", *DATE_COLUMNS):
        frame[column] = frame[column].str.strip()
    frame["sha256"] = frame["sha256"].str.strip().str.lower()
    blank = frame["sha256"].str.len() != 64
    if blank.any():
        frame.loc[blank, "sha256"] = hash_files(root / path for path in frame.loc[blank, "path"])
    frame["group"] = frame["group"].where(frame["group"] != "", "sha256:" + frame["sha256"].str[:16])
    for column, is_valid, expected in (
        (
            "split",
            frame["split"].isin(["", *DATASET_SPLITS]),
            f"one of {', '.join(DATASET_SPLITS)}, or none in every row",
        ),
        ("fold", frame["fold"].str.fullmatch(r"\d{0,3}"), "an integer from 0, or an empty cell"),
        *(
            (column, (frame[column] == "") | frame[column].map(is_date), f"{DATE_FORM}, or an empty cell")
            for column in DATE_COLUMNS
        ),
    ):
        for row in np.flatnonzero(~is_valid)[:1]:
            path, value = format_name(str(frame["path"].iat[row])), format_name(repr(frame[column].iat[row]))
            location = f"{name}, {locate_rows(file, len(frame))[row]}" if file else name
            raise DataError(f"{location}, {path}: unknown {column} {value}.", f"Expected {expected}.")
    return Dataset(name, root, frame)

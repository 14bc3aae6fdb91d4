"""What every kind of source shares: the job of reading one, its options, and the tables that come with images."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from avatar_bench.data import user_tables
from avatar_bench.errors import DataError
from avatar_bench.sources.source_image import SourceImage

Source = Mapping[str, Any]  # a yaml of conf/source
DESCRIPTION_KEYS = ("label", "licence", "author", "generator", "homepage")  # what every source says of itself
COMMON_KEYS = ("kind", *DESCRIPTION_KEYS, "rasterise")
INPUT_SPLITS = ("train", "val", "test")
IMAGE_COLUMNS = (
    "label",
    "source",
    "generator",
    "licence",
    "author",
    "url",
    "split",
)  # columns that are fields of a Image


@dataclass
class SourceJob:
    """Hold one source that is being read.

    `place` is a folder of its own for downloads and unpacked files, kept until the set is complete. `done` are names
    of images that were stored before an interruption: they are left out. What cannot be used is added to
    `quarantine` as (file, reason).
    """

    name: str
    source: Source
    place: Path
    done: Container[str] = frozenset()
    quarantine: list[tuple[str, str]] = field(default_factory=list)


def return_empty_state(source: Source) -> str:
    """Give the state of a source that its own options describe in full."""
    return ""


def accept_any_options(name: str, source: Source) -> None:
    """Accept any values of the options."""


class SourceReader(NamedTuple):
    """Say how sources of one kind are read.

    `read` gives the images in the same order each time. `state` gives a short hash that changes with what lies
    behind the source, "" where the options alone say it. `required` are options that must be given, several
    alternatives with `|` between them; `optional` holds the others with their defaults. `check` raises ConfigError
    for values that make no sense.
    """

    read: Callable[[SourceJob], Iterator[SourceImage]]
    state: Callable[[Source], str] = return_empty_state
    required: tuple[str, ...] = ()
    optional: Mapping[str, Any] = {}
    check: Callable[[str, Source], None] = accept_any_options


def fill_defaults(source: Source, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Give the options of a source, defaults where it says nothing or null."""
    return {**defaults, **{key: value for key, value in source.items() if value is not None}}


def resolve_path(path: str | Path) -> Path:
    """Give a path that a user typed as an absolute one, `~` and `..` understood and links kept."""
    return Path(os.path.abspath(Path(path).expanduser()))


def hash_facts(facts: Iterable[Any]) -> str:
    """Give 16 hex digits of some facts, in their order."""
    return hashlib.sha256(repr(list(facts)).encode(errors="surrogateescape")).hexdigest()[:16]


def read_stamp(file: Path) -> tuple[int, int]:
    """Give size and time of change in ns of a file; (-1, -1) where there is none."""
    try:
        found = file.stat()
    except OSError:
        return (-1, -1)
    return (found.st_size, found.st_mtime_ns)


def find_group(pattern: str | None, name: str) -> str:
    """Give what the bracket of a regular expression finds in a file's stem; a text without one is the group of all."""
    if not pattern or not re.compile(pattern).groups:
        return pattern or ""
    found = re.search(pattern, Path(name).stem)
    return (found.group(1) or "") if found else ""


def read_table(file: Path, needed: str) -> pd.DataFrame:
    """Read a CSV that has a column `needed`, every value a stripped string, "" where it is missing.

    Raise DataError on a missing or unreadable file, a missing column, no rows, or an unknown split.
    """
    table = user_tables.read_user_table(file, (needed,))
    if table.empty:
        raise DataError(f"{file} has no rows.", f"Expected one row for each {needed}.")
    table = pd.DataFrame({column: table[column].str.strip() for column in table})
    if "split" in table and not (known := table["split"].isin(["", *INPUT_SPLITS])).all():
        row = int((~known).argmax())
        raise DataError(
            f"{file}, row {row + 1}: unknown split {table['split'].iat[row]!r}.",
            f"Expected one of {', '.join(INPUT_SPLITS)}, or nothing.",
        )
    return table


def extract_fields(row: Mapping[str, str]) -> dict[str, Any]:
    """Give what a row of a table says of its image as fields of a Image; a group counts across sources."""
    said = {key: row[key] for key in IMAGE_COLUMNS if row.get(key)}
    return said | ({"shared_group": row["group"]} if row.get("group") else {})

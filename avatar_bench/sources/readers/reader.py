"""The reader protocol of image sources, with common functions for options, paths, hashes and tables."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from avatar_bench.data import user_tables
from avatar_bench.errors import DataError
from avatar_bench.files.hashes import sha256_of_text
from avatar_bench.sources.source_image import SourceImage

Source = Mapping[str, Any]  # a yaml of conf/source
DESCRIPTION_KEYS = ("label", "licence", "author", "generator", "homepage")  # options of every source that describe it
COMMON_KEYS = ("kind", *DESCRIPTION_KEYS, "rasterise")
INPUT_SPLITS = ("train", "val", "test")
# columns that are fields of a SourceImage
IMAGE_COLUMNS = ("label", "source", "generator", "licence", "author", "url", "split")


@dataclass
class SourceJob:
    """A source that is being read.

    `place` is a separate folder for downloads and unpacked files, kept until the set is complete. `done` are the names
    of images stored before an interruption, which are skipped. Unusable files are added to `quarantine` as
    (file, reason).
    """

    name: str
    source: Source
    place: Path
    done: Container[str] = frozenset()
    quarantine: list[tuple[str, str]] = field(default_factory=list)


class SourceReader(NamedTuple):
    """A reader of one kind of source.

    `read` yields the images in the same order each time. `state` returns a short hash that changes with the files of
    the source, or "" if the options describe it completely. `required` are options that must be set, with `|` between
    alternatives; `optional` are the others with their defaults. `check` raises ConfigError for invalid values.
    """

    read: Callable[[SourceJob], Iterator[SourceImage]]
    state: Callable[[Source], str] = lambda source: ""
    required: tuple[str, ...] = ()
    optional: Mapping[str, Any] = {}
    check: Callable[[str, Source], None] = lambda name, source: None


def fill_defaults(source: Source, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a source, with defaults for missing and null ones."""
    return {**defaults, **{key: value for key, value in source.items() if value is not None}}


def resolve_path(path: str | Path) -> Path:
    """Return a user's path as an absolute one, with `~` and `..` resolved and links kept."""
    return Path(os.path.abspath(Path(path).expanduser()))


def hash_facts(facts: Iterable[Any]) -> str:
    """Return 16 hex digits that identify a sequence of facts."""
    return sha256_of_text(repr(list(facts)))[:16]


def read_stamp(file: Path) -> tuple[int, int]:
    """Return size and modification time in ns of a file; (-1, -1) for a missing one."""
    try:
        status = file.stat()
    except OSError:
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)


def find_group(pattern: str | None, name: str) -> str:
    """Return the first group of a regular expression in a file's stem; a pattern without one is the group itself."""
    if not pattern or not re.compile(pattern).groups:
        return pattern or ""
    found = re.search(pattern, Path(name).stem)
    return (found.group(1) or "") if found else ""


def read_rows(file: Path, needed: str) -> list[dict[str, str]]:
    """Read the rows of a CSV with a column `needed` as stripped strings, "" for missing values.

    Raises DataError for a missing or unreadable file, a missing column, no rows, or an unknown split.
    """
    table = user_tables.read_user_table(file, (needed,))
    if table.empty:
        raise DataError(f"{file} has no rows.", f"Expected one row for each {needed}.")
    rows: Any = table.apply(lambda column: column.str.strip()).to_dict("records")
    for number, row in enumerate(rows, start=1):
        if row.get("split") and row["split"] not in INPUT_SPLITS:
            reason = f"{file}, row {number}: unknown split {row['split']!r}."
            raise DataError(reason, f"Expected one of {', '.join(INPUT_SPLITS)}, or nothing.")
    return list(rows)


def extract_fields(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a row of a table as fields of a SourceImage; its group applies across sources."""
    fields = {key: row[key] for key in IMAGE_COLUMNS if row.get(key)}
    return fields | ({"shared_group": row["group"]} if row.get("group") else {})

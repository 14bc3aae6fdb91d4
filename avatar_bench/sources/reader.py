"""Readers of image sources, with common functions for paths, hashes and tables."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from avatar_bench.config.entries import describe_folders, find_entries, find_entry
from avatar_bench.data import user_tables
from avatar_bench.data.dates import DATE_FORM, is_date
from avatar_bench.data.folders import SPLIT_FOLDERS
from avatar_bench.errors import ConfigError, DataError, suggest_names
from avatar_bench.files.hashes import sha256_of_text

Source = Mapping[str, Any]  # a yaml of conf/source
CropBox = tuple[float, float, float]
DESCRIPTION_KEYS = ("label", "licence", "author", "generator", "homepage")  # options of every source that describe it
DATE_KEYS = ("date", "released")  # further ones: of its images, the last where they differ, and of its generator
COMMON_KEYS = ("kind", *DESCRIPTION_KEYS, *DATE_KEYS, "rasterise")
# columns that are fields of a SourceImage
IMAGE_COLUMNS = ("label", "source", "generator", "licence", "author", "url", "split", *DATE_KEYS)


@dataclass(frozen=True)
class SourceImage:
    """Image of a source as found, with its metadata; an empty string means unknown.

    `name` is its unique path within the source, with suffix. `content` is its file, which is never modified, or its
    bytes. `box` is (left, top, side) of the square to crop, as fractions of width, height and width; None means the
    whole image. `group` names images of the source that must stay on one side of a split; `shared_group` does so across
    sources.
    """

    name: str
    content: Path | bytes
    label: str = ""  # "": the source's own
    source: str = ""  # "": the source's own name
    box: CropBox | None = None
    group: str = ""
    shared_group: str = ""
    generator: str = ""
    licence: str = ""
    author: str = ""
    url: str = ""
    split: str = ""
    date: str = ""
    released: str = ""


@dataclass
class SourceJob:
    """A source that is being read, with a separate folder `place`, kept until the set is complete.

    `done` are the names of images stored before. Unusable files are added to `quarantine` as (file, reason).
    """

    name: str
    source: Source
    place: Path
    done: Container[str] = frozenset()
    quarantine: list[tuple[str, str]] = field(default_factory=list)


@dataclass(kw_only=True)
class SourceReader:
    """Reader of a kind of source; its fields are options, required without default, or one of `alternatives`."""

    alternatives: ClassVar[tuple[str, ...]] = ()

    def check(self, name: str, source: Source) -> None:
        """Raise ConfigError for invalid values of the options of a source."""

    def read(self, job: SourceJob) -> Iterator[SourceImage]:
        """Yield the images, in the same order each time."""
        raise NotImplementedError

    def hash_state(self) -> str:
        """Return a short hash that changes with the files of the source, "" if the options describe it completely."""
        return ""


def open_reader(name: str, source: Source) -> SourceReader:
    """Return the reader of a source; raise ConfigError for an unknown kind or option, or a missing or invalid value."""
    if missing := [key for key in ("kind", *DESCRIPTION_KEYS) if source.get(key) is None]:
        raise ConfigError(f"source.{name} has no {', '.join(missing)}.", "Add the missing options.")
    kinds = find_entries("source")
    if source["kind"] not in kinds:
        reason = f"source.{name}.kind={source['kind']}: expected one of {', '.join(kinds)}."
        raise ConfigError(reason, describe_folders("source"))
    owner = kinds[source["kind"]].load_class()
    if not issubclass(owner, SourceReader):
        raise ConfigError(f"{kinds[source['kind']].module} must define a SourceReader, not {owner.__name__}.")
    options = [member.name for member in fields(owner)]
    known = [*COMMON_KEYS, *options]
    for key in source:
        if key not in known:
            nearest = suggest_names(str(key), known, f"; expected one of: {', '.join(known)}.")
            raise ConfigError(f"source.{name} of kind {source['kind']} has no option {key}{nearest}")
    for key in DESCRIPTION_KEYS:
        if not isinstance(source[key], str):
            raise ConfigError(f"source.{name}.{key}={source[key]}: expected a string.")
    for key in DATE_KEYS:
        if source.get(key) and not is_date(str(source[key])):
            raise ConfigError(f"source.{name}.{key}={source[key]}: expected {DATE_FORM}.")
    if not isinstance(source.get("rasterise") or False, bool):
        raise ConfigError(f"source.{name}.rasterise={source['rasterise']}: expected true or false.")
    required = [
        (member.name,) for member in fields(owner) if member.default is MISSING and member.default_factory is MISSING
    ]
    for keys in filter(None, (*required, owner.alternatives)):
        stated = [key for key in keys if source.get(key) not in (None, "", [], {})]
        if len(stated) != 1:
            problem = f"has several of them: {' and '.join(stated)}" if stated else "has no input"
            expected = " or ".join(f"source.{name}.{key}=" for key in keys)
            raise ConfigError(f"source.{name} {problem}.", f"Expected {'one of ' if len(keys) > 1 else ''}{expected}")
    reader: SourceReader = owner(**{key: source[key] for key in options if source.get(key) is not None})
    reader.check(name, source)
    return reader


def read_images(job: SourceJob) -> Iterator[SourceImage]:
    """Yield the images of a source; raise ConfigError that names the code of a user's kind if it fails."""
    with find_entry("source", job.source["kind"]).explain_failure():
        yield from open_reader(job.name, job.source).read(job)


def hash_state(name: str, source: Source) -> str:
    """Return a short hash that changes with the files of a source and with the code of a user's kind."""
    entry = find_entry("source", source["kind"])
    with entry.explain_failure():
        state = open_reader(name, source).hash_state()
    return state if entry.is_builtin else f"{state}{entry.digest}"


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
    match = re.search(pattern, Path(name).stem)
    return (match.group(1) or "") if match else ""


def read_rows(file: Path, needed: str) -> list[dict[str, str]]:
    """Read a CSV with a column `needed` as rows of stripped strings; raise DataError for none, odd splits or dates."""
    table = user_tables.read_user_table(file, (needed,))
    if table.empty:
        raise DataError(f"{file} has no rows.", f"Expected one row for each {needed}.")
    rows: Any = table.apply(lambda column: column.str.strip()).to_dict("records")
    for number, row in enumerate(rows):
        valid = {"split": row.get("split") in SPLIT_FOLDERS} | {key: is_date(row.get(key, "")) for key in DATE_KEYS}
        if odd := next((key for key, is_valid in valid.items() if row.get(key) and not is_valid), ""):
            reason = f"{file}, {user_tables.locate_rows(file, len(rows))[number]}: unknown {odd} {row[odd]!r}."
            expected = f"one of {', '.join(SPLIT_FOLDERS)}" if odd == "split" else DATE_FORM
            raise DataError(reason, f"Expected {expected}, or nothing.")
    return list(rows)


def extract_fields(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a row of a table as fields of a SourceImage; its group applies across sources."""
    fields = {key: row[key] for key in IMAGE_COLUMNS if row.get(key)}
    return fields | ({"shared_group": row["group"]} if row.get("group") else {})


def import_package(name: str) -> ModuleType:
    """Import a package of the demo, which draws; raise DataError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        reason = f"drawing needs the package {name.partition('.')[0]}, which is not installed."
        raise DataError(reason, "Install the demo's packages: pip install 'avatar-bench[demo]'") from error

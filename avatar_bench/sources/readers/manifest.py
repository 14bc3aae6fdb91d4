"""Reader of images that are listed in a CSV manifest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avatar_bench.sources.readers.reader import (
    Source,
    SourceJob,
    SourceReader,
    extract_fields,
    hash_facts,
    read_stamp,
    read_table,
    resolve_path,
)
from avatar_bench.sources.source_image import SourceImage


def read(job: SourceJob) -> Iterator[SourceImage]:
    """Yield the images in `file`, with columns path (absolute, or relative to it), label and more, in its order.

    Rows without a class or a file, and repeated paths, are quarantined. Raises DataError if the CSV cannot be read.
    """
    file = resolve_path(job.source["file"])
    seen: set[str] = set()
    for number, row in _read_rows(file):
        name = row["path"]
        if reason := _explain_unusable(file.parent / name, row, seen, str(job.source["label"])):
            job.quarantine.append((f"{file.name}, row {number}: {name}", reason))
        elif name not in job.done:
            yield SourceImage(name=name, content=file.parent / name, **extract_fields(row))
        seen.add(name)


def _read_rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for number, row in enumerate(read_table(file, "path").to_dict("records"), start=1):
        yield number, {str(key): str(value) for key, value in row.items()}


def _explain_unusable(path: Path, row: dict[str, str], seen: set[str], label: str) -> str:
    if row["path"] in seen:
        return "listed twice"
    if not row["path"] or not path.is_file():
        return "does not exist"
    return "" if row.get("label") or label else "has no label"


def _hash_state(source: Source) -> str:
    file = resolve_path(source["file"])
    if not file.is_file():  # `read` reports the error
        return ""
    seen: list[Any] = [(row["path"], *read_stamp(file.parent / row["path"])) for _, row in _read_rows(file)]
    return hash_facts([read_stamp(file), *seen])


MANIFEST_READER = SourceReader(read, _hash_state, required=("file",))

"""Images that are listed in a CSV manifest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass

from avatar_bench.config.options import path_option
from avatar_bench.data.user_tables import locate_rows
from avatar_bench.sources import reader
from avatar_bench.sources.reader import SourceImage, SourceJob, SourceReader


@dataclass(kw_only=True)
class Manifest(SourceReader):
    file: str = path_option("a CSV with columns path, label and more", MISSING)

    def read(self, job: SourceJob) -> Iterator[SourceImage]:
        """Yield the images in order; quarantine rows without a class or a file, and repeated paths; raise DataError."""
        file = reader.resolve_path(self.file)
        seen: set[str] = set()
        rows = reader.read_rows(file, "path")
        for location, row in zip(locate_rows(file, len(rows)), rows, strict=True):
            name, reason = row["path"], ""
            if name in seen:
                reason = "listed twice"
            elif not name or not (file.parent / name).is_file():
                reason = "does not exist"
            elif not (row.get("label") or job.source["label"]):
                reason = "has no label"
            if reason:
                job.quarantine.append((f"{file.name}, {location}: {name}", reason))
            elif name not in job.done:
                yield SourceImage(name=name, content=file.parent / name, **reader.extract_fields(row))
            seen.add(name)

    def hash_state(self) -> str:
        """Return a hash that changes with the manifest and its files."""
        file = reader.resolve_path(self.file)
        if not file.is_file():  # `read` reports the error
            return ""
        seen = ((row["path"], *reader.read_stamp(file.parent / row["path"])) for row in reader.read_rows(file, "path"))
        return reader.hash_facts([reader.read_stamp(file), *seen])

"""A data set in parquet shards, on the Hugging Face Hub or in a folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyarrow.lib import ArrowException

from avatar_bench.config.options import option, path_option
from avatar_bench.errors import ConfigError, DataError
from avatar_bench.sources import reader
from avatar_bench.sources.reader import Source, SourceImage, SourceJob, SourceReader

BATCH_ROWS = 64  # rows in memory at once
MAGIC_BYTES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp"}


@dataclass(kw_only=True)
class HuggingFace(SourceReader):
    alternatives = ("root", "files", "repo")

    root: str | None = path_option("a folder of parquet shards")
    files: list[str] | None = option(None, help="or shards")
    repo: str | None = option(None, help="or OWNER/NAME of a data set on the hub")
    revision: str | None = option(None, help="commit of the repo")
    pattern: str = option("**/*.parquet", help="which files are shards")
    image_column: str = option("image", help="column of the images")
    label_column: str | None = option(None, help="column of the classes")
    labels: dict[str, str] | None = option(None, help="our class of each value in that column")
    group_column: str | None = option(None, help="column of the groups")
    generator_column: str | None = option(None, help="column of the generators")
    count: int | None = option(None, help="maximum of images of a class, the first ones")

    def read(self, job: SourceJob) -> Iterator[SourceImage]:
        """Yield the images by shard and row, of each class the first `count`; raise DataError for unreadable shards."""
        taken: Counter[str] = Counter()
        for name, shard in self._find_shards(job):
            for row, values, names in self._stream_rows(shard):
                at = f"{name.removesuffix('.parquet')}/{row:06}"
                try:
                    label = self._find_label(values, names, job.source["label"])
                    if self.count is not None and taken[label] >= self.count:
                        continue
                    image = self._make_image(at, shard, label, values)
                except ValueError as error:
                    job.quarantine.append((at, str(error)))
                    continue
                taken[label] += 1
                if image.name not in job.done:
                    yield image

    def check(self, name: str, source: Source) -> None:
        """Raise ConfigError for a repository without a revision, or images without a class."""
        if self.repo and not self.revision:
            reason = f"source.{name}.repo needs source.{name}.revision."
            raise ConfigError(reason, "Use a commit hash, so that the data stay the same.")
        if not source.get("label") and not self.label_column:
            raise ConfigError(f"source.{name} has no class.", f"Set source.{name}.label or source.{name}.label_column")

    def hash_state(self) -> str:
        """Return a hash that changes with the shards of a folder."""
        if self.repo:
            return ""
        shards = [reader.resolve_path(file) for file in self.files or []]
        if self.root:
            shards += sorted(reader.resolve_path(self.root).glob(self.pattern))
        return reader.hash_facts((str(shard), *reader.read_stamp(shard)) for shard in shards)

    def _find_shards(self, job: SourceJob) -> list[tuple[str, Path]]:
        if self.files:
            names = [Path(file).name for file in self.files]
            if len(set(names)) < len(names):  # shards of the same name in several folders
                names = [reader.resolve_path(file).as_posix().lstrip("/") for file in self.files]
            files = [(name, reader.resolve_path(file)) for name, file in zip(names, self.files, strict=True)]
        else:
            root = reader.resolve_path(self.root) if self.root else self._download(job)
            files = [(file.relative_to(root).as_posix(), file) for file in root.glob(self.pattern)]
        if not files:
            raise DataError(f"source.{job.name}: no file matches pattern={self.pattern}.", "Expected parquet shards.")
        return sorted(files)

    def _download(self, job: SourceJob) -> Path:
        import huggingface_hub  # slow to import, and rarely needed

        folder, repo, revision = job.place / "hub", str(self.repo), self.revision
        try:
            huggingface_hub.snapshot_download(
                repo, repo_type="dataset", revision=revision, allow_patterns=self.pattern, local_dir=folder
            )
        except Exception as error:  # of the hub's client, or of its HTTP library, which depends on its version
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"source.{job.name}: {self.repo} could not be downloaded: {reason}",
                "Check the connection and run the same command again,",
                f"or copy its shards to a folder and set source.{job.name}.root=DIR source.{job.name}.repo=null",
            ) from error
        return folder

    def _stream_rows(self, shard: Path) -> Iterator[tuple[int, dict[str, Any], list[str]]]:
        """Yield the number, values and class names of each row."""
        named = (getattr(self, member.name) for member in fields(self) if member.name.endswith("_column"))
        columns = [value for value in named if value]
        try:
            with pq.ParquetFile(shard) as file:  # type: ignore[no-untyped-call]
                known = file.schema_arrow.names
                if missing := [column for column in columns if column not in known]:
                    raise DataError(f"{shard} has no column {missing[0]}.", f"It has: {', '.join(known)}.")
                described = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
                feature = described.get("info", {}).get("features", {}).get(self.label_column, {})  # a ClassLabel's
                names = list(feature.get("names", [])) if isinstance(feature, dict) else []
                batches = file.iter_batches(BATCH_ROWS, columns=columns)
                for row, values in enumerate(chain.from_iterable(batch.to_pylist() for batch in batches)):
                    yield row, values, names
        except (ArrowException, OSError) as error:
            reason = f"{shard} cannot be read: {' '.join(str(error).split())[:200]}"
            raise DataError(reason, "Expected a parquet shard; copy or download it again.") from error

    def _find_label(self, values: Mapping[str, Any], names: list[str], default: str) -> str:
        """Return the class of a row, mapped by `labels` from number or name; raise ValueError if it is not there."""
        if self.label_column is None:
            return default
        value = values[self.label_column]
        name = names[value] if isinstance(value, int) and 0 <= value < len(names) else str(value)
        labels = {str(key): str(label) for key, label in (self.labels or {}).items()}
        if not labels and value not in (None, "", -1):  # -1: unlabelled
            return name
        if label := labels.get(str(value)) or labels.get(name):
            return label
        raise ValueError(f"label {name} is missing from labels")

    def _make_image(self, at: str, shard: Path, label: str, values: Mapping[str, Any]) -> SourceImage:
        content, path = _read_content(values[self.image_column], shard)
        guessed = (end for start, end in MAGIC_BYTES.items() if content.startswith(start))
        suffix = Path(path).suffix.lower() or next(guessed, "")
        columns = {"group": self.group_column, "generator": self.generator_column}
        known: dict[str, Any] = {key: str(values[column] or "") for key, column in columns.items() if column}
        return SourceImage(name=f"{at}{suffix}", content=content, label=label, **known)


def _read_content(image: Any, shard: Path) -> tuple[bytes, str]:
    """Return the bytes and the path of an image cell: {bytes, path}, bytes, or a path beside the shard."""
    if isinstance(image, bytes):
        return image, ""
    data, path = (image.get("bytes"), image.get("path")) if isinstance(image, Mapping) else (None, image)
    if data:
        return bytes(data), path or ""
    if not isinstance(path, str) or not path:
        raise ValueError("has no image")
    file = (shard.parent / path).resolve()
    if not file.is_relative_to(shard.parent.resolve()) or not file.is_file():
        raise ValueError(f"{path} is not a file beside the shard")
    return file.read_bytes(), path

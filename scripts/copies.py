"""Search for copies among drawn images by one tool; prints the measurements as JSON."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import logging
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64  # px
A_COPY = 50  # one of this many images is copied under another name
WHOM = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)

Pairs = set[tuple[str, str]]
Task = Callable[[], Pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("folder", type=Path, help="a folder made by draw_set")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.tool, arguments.folder)))


def measure(tool: str, folder: Path) -> dict[str, float]:
    """Return the number of pairs that a tool finds, its time, and the peak memory of this process or a child."""
    logging.disable()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        search = TOOLS[tool](folder)
        start, before = time.perf_counter(), processor_seconds()
        pairs = search()
        seconds, processor = time.perf_counter() - start, processor_seconds() - before
    planted = planted_pairs(folder)
    return {
        "seconds": seconds,
        "processor seconds": processor,
        "peak MiB": max(resource.getrusage(who).ru_maxrss for who in WHOM) / 1024,
        "planted pairs found": len(pairs & planted),
        "of": len(planted),
        "other exact pairs": len(pairs - planted),
    }


def processor_seconds() -> float:
    """Return the processor time of this process and its finished children, which other processes do not affect."""
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, WHOM))


def draw_set(folder: Path, size: int) -> Path:
    """Draw `size` JPEG images, the last fiftieth byte copies of the first."""
    folder.mkdir()
    copies = size // A_COPY
    for number in range(size - copies):
        draw(number, SIDE).save(folder / f"{number:07}.jpg", quality=85)
    for number in range(copies):
        shutil.copy(folder / f"{number:07}.jpg", folder / f"{size - copies + number:07}.jpg")
    return folder


def draw(seed: int, side: int) -> Image.Image:
    """Draw shapes on a smooth background."""
    rng = np.random.default_rng(seed)
    ground = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    image = ground.resize((side, side), Image.Resampling.BICUBIC)
    brush = ImageDraw.Draw(image)
    for left, top, width, height, *colour in rng.integers(0, 256, (4, 7)).tolist():
        x, y = left % side, top % side
        brush.ellipse((x, y, x + width % (side // 2) + 4, y + height % (side // 2) + 4), fill=tuple(colour))
    return image


def planted_pairs(folder: Path) -> Pairs:
    """Return the pairs of names that `draw_set` made equal."""
    names = sorted(file.name for file in folder.iterdir())
    copies = len(names) // A_COPY
    return set(zip(names[:copies], names[len(names) - copies :], strict=True))


def avatar_bench(folder: Path) -> Task:
    """Return a search for exact and near copies, including mirrored and rotated ones."""
    from avatar_bench.data.decoding import decode
    from avatar_bench.data.duplicates import ImageSet, find_matches
    from avatar_bench.data.fingerprints import Fingerprint, fingerprint_files

    def search() -> Pairs:
        files = sorted(folder.iterdir())
        sha256s = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        prints = [one for one in fingerprint_files(files) if isinstance(one, Fingerprint)]
        matches = find_matches(ImageSet.of(sha256s, prints, lambda row: decode(files[row])))
        return {(files[one.left].name, files[one.right].name) for one in matches if one.kind != "near"}

    return search


def cleanvision(folder: Path) -> Task:
    """Return a search for exact and near duplicates, without the other checks of cleanvision."""
    from cleanvision import Imagelab

    def search() -> Pairs:
        lab = Imagelab(data_path=str(folder), verbose=False)
        lab.find_issues({"exact_duplicates": {}, "near_duplicates": {}}, verbose=False)
        sets = lab.info["exact_duplicates"]["sets"]
        return {
            (first, other) for first, *others in (sorted(Path(f).name for f in one) for one in sets) for other in others
        }

    return search


def imagededup(folder: Path) -> Task:
    """Return a search for near duplicates by perceptual hash at its default distance; those with equal hashes count."""
    from imagededup.methods import PHash

    def search() -> Pairs:
        found = PHash(verbose=False).find_duplicates(image_dir=str(folder), scores=True)
        return {(one, other) for one, near in found.items() for other, bits in near if bits == 0 and one < other}

    return search


TOOLS = {"avatar_bench": avatar_bench, "cleanvision": cleanvision, "imagededup": imagededup}

if __name__ == "__main__":
    main()

"""Recall, false finds and time of the search for aligned copies, on images of a manifest; prints a line for each."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from avatar_bench.data.aligned_copies import Sketch, is_copy
from avatar_bench.data.dataset import Dataset, read_images, read_manifest
from avatar_bench.data.leakage import find_shared_images
from avatar_bench.inference.copy_search import search_aligned_copies
from avatar_bench.results.reasons import Reason

QUALITY = 85  # of the JPEG that each copy is saved as


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("known", type=Path, help="manifest of the originals")
    parser.add_argument("--other", type=Path, help="manifest of other images, none of which is a copy")
    parser.add_argument("--images", type=int, default=150, help="originals of which copies are made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", help="class within whose sources all pairs are aligned, such as drawing")
    arguments = parser.parse_args()
    known = read_manifest(arguments.known)
    if arguments.other:
        other = read_manifest(arguments.other)
        for left, right in report("others", known, other):
            print(f"  {other.frame['path'].iat[right]} of {known.frame['path'].iat[left]}")
    chosen = np.random.default_rng(arguments.seed).choice(len(known), arguments.images, replace=False)
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            report(kind, known, save_copies(known, chosen, kind, Path(folder)))
    for source, rows in known.frame[known.frame["label"] == arguments.label].groupby("source").indices.items():
        align_all_pairs(str(source), known.take(rows))


def report(what: str, known: Dataset, dataset: Dataset) -> list[tuple[int, int]]:
    """Print and return the matches of a set; of copies, those with their original, whose row is their file's name."""
    start, processor = time.perf_counter(), time.process_time()
    matches = search_aligned_copies(known, dataset)
    if isinstance(matches, Reason):
        raise SystemExit(f"not searched: {matches}")
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    names = [Path(path).stem for path in dataset.frame["path"]]
    correct = sum(names[match.right] == str(match.left) for match in matches)
    whole = len({match.right for match in find_shared_images(known, dataset)})
    each = 1000 / len(dataset)
    print(
        f"{what}: {len(matches)} of {len(dataset)} found, {correct} with their original, {whole} by whole images;",
        f"{seconds * each:.0f} ms an image, {processor * each:.0f} ms of processors",
        flush=True,
    )
    return [(match.left, match.right) for match in matches]


def save_copies(known: Dataset, rows: np.ndarray, kind: str, folder: Path) -> Dataset:
    """Save a copy of each row, named by it."""
    for row in rows.tolist():
        copy = KINDS[kind](Image.fromarray(known.image(row)), np.random.default_rng(row))
        copy.convert("RGB").save(folder / f"{row}.jpg", quality=QUALITY)
    return read_images(folder)


def align_all_pairs(source: str, images: Dataset) -> None:
    """Print the pairs of a source that an alignment confirms, without a search for neighbours."""
    start, sketches = time.perf_counter(), [Sketch.of(images.image(row)) for row in range(len(images))]
    pairs = [pair for pair in combinations(range(len(images)), 2) if is_copy(*(sketches[row] for row in pair))]
    seconds, count = time.perf_counter() - start, len(images) * (len(images) - 1) // 2
    print(f"{source}: {len(pairs)} of {count} pairs confirmed, {seconds:.0f} s", flush=True)
    for pair in pairs:
        print("  {} and {}".format(*images.frame["path"].iloc[list(pair)]))


Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def crop(share: float) -> Change:
    def change(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        width, height = (round(side * share) for side in image.size)
        left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
        return image.crop((left, top, left + width, top + height))

    return change


def turn(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    ground = (int(rng.choice([0, 255])),) * 3
    return image.rotate(3 * rng.choice([-1, 1]), Image.Resampling.BICUBIC, fillcolor=ground)


def turn_and_crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    inside = tuple(round(side * share) for share in (0.06, 0.94) for side in (width, height))
    return image.rotate(3 * rng.choice([-1, 1]), Image.Resampling.BICUBIC).crop(inside)


def add_border(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.expand(image, round(max(image.size) * 0.05), draw_colour(rng))


def paint_border(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    box = (0, 0, image.width - 1, image.height - 1)
    ImageDraw.Draw(image).rectangle(box, outline=draw_colour(rng), width=round(max(image.size) * 0.05))
    return image


def write_band(top: bool) -> Change:
    def change(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        brush, height = ImageDraw.Draw(image), round(image.height * 0.15)
        first, dark = 0 if top else image.height - height, int(rng.integers(2)) * 255
        brush.rectangle((0, first, image.width, first + height), fill=(dark,) * 3)
        place = image.width * 0.06, first + height * 0.15
        font = ImageFont.load_default(max(8, height * 0.6))
        brush.text(place, f"avatar number {rng.integers(1000)}", fill=(255 - dark,) * 3, font=font)
        return image

    return change


def make_round(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    square = ImageOps.fit(image, (min(image.size),) * 2)
    mask = Image.new("L", (4 * square.width,) * 2)
    ImageDraw.Draw(mask).ellipse((0, 0, *mask.size), fill=255)
    ground = Image.new("RGB", square.size, (int(rng.choice([0, 255])),) * 3)
    return Image.composite(square, ground, mask.resize(square.size, Image.Resampling.LANCZOS))


def draw_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """Draw black, white or any colour."""
    shade = int(rng.integers(256))
    return ((0, 0, 0), (255, 255, 255), (shade, int(rng.integers(256)), 255 - shade))[rng.integers(3)]


KINDS: dict[str, Change] = {
    "cropped to 95 %": crop(0.95),
    "cropped to 90 %": crop(0.9),
    "cropped to 80 %": crop(0.8),
    "turned by 3 degrees": turn,
    "turned by 3 degrees, corners cropped": turn_and_crop,
    "border of 5 % added": add_border,
    "border of 5 % painted": paint_border,
    "band of text below": write_band(top=False),
    "band of text above": write_band(top=True),
    "round": make_round,
    "grey": lambda image, rng: image.convert("L"),
}

if __name__ == "__main__":
    main()

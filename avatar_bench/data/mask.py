"""Masks: grey boxes that hide marks in images, painted alike in every class."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from avatar_bench.console.progress import track
from avatar_bench.console.terminal import format_name
from avatar_bench.data.corruptions import encode
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.equalise import ImageArray, hash_pixels
from avatar_bench.data.stamps import NEUTRAL
from avatar_bench.data.user_tables import locate_rows, read_user_table
from avatar_bench.errors import DataError
from avatar_bench.files.hashes import sha256_of_file

if TYPE_CHECKING:
    from avatar_bench.config.schema import MaskConfig

_BOX = ["left", "top", "width", "height"]
Box = tuple[float, ...]  # left, top, width, height, as fractions of the sides of an image


@dataclass(frozen=True)
class Mask:
    """Grey boxes painted on a decoded image; which ones depends on its pixels alone.

    corners: side of a square in each corner, as a fraction of the shorter side; None for none. patches: by mark, the
    boxes of each image that bears it, by `hash_pixels`; any other image gets those of a bearer that its hash draws, so
    that boxes of no mark tell the class. table: SHA-256 of the file of these patches.
    """

    corners: float | None = None
    patches: Mapping[str, Mapping[str, tuple[Box, ...]]] = field(default_factory=dict, hash=False)
    table: str = ""

    def __call__(self, image: ImageArray, original: ImageArray | None = None) -> ImageArray:
        """Return a painted copy of (H, W, 3) uint8 RGB; `original` is what it is a variation of, if it is."""
        masked = image.copy()
        height, width = image.shape[:2]
        for left, top, columns, rows in self._find_boxes(image if original is None else original):
            masked[_cut(top, rows, height), _cut(left, columns, width)] = NEUTRAL
        if self.corners:
            side = max(1, round(self.corners * min(height, width)))
            for of_rows, of_columns in product((slice(side), slice(-side, None)), repeat=2):
                masked[of_rows, of_columns] = NEUTRAL
        return masked

    def _find_boxes(self, image: ImageArray) -> Iterator[Box]:
        digest = hash_pixels(image) if self.patches else ""
        for mark, boxes in self.patches.items():
            drawn = random.Random(f"{mark} {digest}").choice(sorted(boxes))
            yield from boxes.get(digest, boxes[drawn])

    def __str__(self) -> str:
        table = f"patches of {self.table[:8]}" if self.table else ""
        return ", ".join(filter(None, (f"corners {self.corners:g}" if self.corners else "", table)))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as numbers, strings, lists and dicts, for JSON or a checkpoint."""
        patches = {
            mark: {digest: list(map(list, boxes)) for digest, boxes in bearers.items()}
            for mark, bearers in self.patches.items()
        }
        return {"corners": self.corners, "patches": patches, "table": self.table}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Mask:
        """Restore the result of `to_dict`."""
        patches = {
            mark: {digest: tuple(map(tuple, boxes)) for digest, boxes in bearers.items()}
            for mark, bearers in state["patches"].items()
        }
        return cls(state["corners"], patches, state["table"])


@dataclass(frozen=True)
class Erasure:
    """Variation of an image as stored: its corners are painted grey."""

    at: ClassVar[str] = "native"
    corners: float

    @property
    def key(self) -> str:
        """Return the side of the squares."""
        return f"corners {self.corners:g} 1"

    def __call__(self, image: ImageArray, seed: int) -> ImageArray:
        """Return a masked copy."""
        return Mask(self.corners)(image)

    def encode(self, image: ImageArray, seed: int) -> tuple[bytes, str]:
        """Return the masked copy as a PNG."""
        return encode(self(image, seed), "PNG"), "PNG"


def read_mask(options: MaskConfig, dataset: Dataset) -> Mask | None:
    """Return the mask of data.mask for the images of a data set; None if there is none.

    Raise DataError for a table that cannot be read, a path that the data set lacks, or a box outside of its image.
    """
    if options.patches is None:
        return Mask(options.corners) if options.corners else None
    file = Path(options.patches)
    table = read_user_table(file, ("path", "mark", *_BOX))
    lines = dict(zip(table.index, locate_rows(file, len(table)), strict=True))
    position = {path: row for row, path in enumerate(dataset.frame["path"])}
    boxes: dict[str, dict[str, tuple[Box, ...]]] = {}
    for path, rows in track(table.groupby("path", sort=False), "marked images"):
        image = dataset.image(position[path]) if path in position else None
        for row in rows.itertuples():
            where = f"data.mask.patches={file}, {lines[row.Index]}: {format_name(str(path))}"
            if image is None:
                raise DataError(f"{where} is no image of {dataset.name}.", "Expected paths as in the manifest.")
            height, width = image.shape[:2]
            try:
                left, top, columns, lengths = (int(getattr(row, name)) for name in _BOX)
                if not (0 <= left < left + columns <= width and 0 <= top < top + lengths <= height):
                    raise ValueError
            except ValueError as error:
                reason = f"{where}: a box is not within its {width} x {height} pixels."
                raise DataError(reason, f"Expected whole numbers in {', '.join(_BOX)}.") from error
            box = left / width, top / height, columns / width, lengths / height
            bearers, digest = boxes.setdefault(str(row.mark), {}), hash_pixels(image)
            bearers[digest] = (*bearers.get(digest, ()), box)
    if not boxes:
        raise DataError(f"data.mask.patches={file} has no rows.", "Expected a row for each mark of an image.")
    return Mask(options.corners, boxes, sha256_of_file(file))


def _cut(start: float, length: float, side: int) -> slice:
    """Return the pixels of a fraction of a side, at least one."""
    first = min(round(start * side), side - 1)
    return slice(first, max(first + 1, round((start + length) * side)))

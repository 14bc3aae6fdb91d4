"""Drawn stamps, such as generated images carry by law, and plain patches that cover the same pixels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from avatar_bench.data.corruptions import encode
from avatar_bench.data.equalise import ImageArray

STAMPS = ("letters", "pill", "logo", "frame")
CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")
POSITIONS = (*CORNERS, "any")
NEUTRAL = (128, 128, 128)  # RGB of a plain patch
_MARGIN = 0.02  # between a stamp and the border, as a fraction of the shorter side
_OVERSAMPLING = 4  # outlines are drawn larger and averaged, as Pillow does not smooth them
_WHITE = (255, 255, 255)


def paste_stamp(image: ImageArray, kind: str, opacity: float, size: float, position: str, seed: int) -> ImageArray:
    """Return (H, W, 3) uint8 RGB with a stamp mixed in by `opacity`, 0 to 1.

    kind: "letters" is AI in a circle, "pill" AI GENERATED in a pill, "logo" a star on a square, "frame" a coloured
    border. size: the side of the square that bounds letters and logo, as a fraction of the shorter side of the image; a
    pill is twice as wide and half as high, a frame an eighth as thick. position: a corner, or "any", drawn by `seed`; a
    frame has none. Raise ValueError for an unknown kind or position.
    """
    colours, cover, (top, left) = _lay_out(image, kind, size, position, seed)
    return _mix(image, colours, cover * np.float32(opacity), top, left)


def paste_neutral(image: ImageArray, kind: str, opacity: float, size: float, position: str, seed: int) -> ImageArray:
    """Return the image with mid-grey instead of the stamp that `paste_stamp` mixes in, over the same pixels."""
    _, cover, (top, left) = _lay_out(image, kind, size, position, seed)
    return _mix(image, np.array(NEUTRAL, np.float32), cover * np.float32(opacity), top, left)


@dataclass(frozen=True)
class Marking:
    """Variation of an image as stored: a stamp, or instead of it a plain patch over the same pixels."""

    at: ClassVar[str] = "native"
    kind: str
    opacity: float
    size: float
    position: str
    is_patch: bool = False

    @property
    def key(self) -> str:
        """Return every parameter, and the version of the drawings."""
        return f"stamp {asdict(self)} 1"

    def __call__(self, image: ImageArray, seed: int) -> ImageArray:
        """Return a marked copy; the seed draws the place of one at any position."""
        paste = paste_neutral if self.is_patch else paste_stamp
        return paste(image, self.kind, self.opacity, self.size, self.position, seed)

    def encode(self, image: ImageArray, seed: int) -> tuple[bytes, str]:
        """Return the marked copy as a PNG."""
        return encode(self(image, seed), "PNG"), "PNG"


def _lay_out(
    image: ImageArray, kind: str, size: float, position: str, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[int, int]]:
    """Return the colours (h, w, 3) of a stamp, how far it covers each pixel (h, w, 1), 0 to 1, and its top and left."""
    if kind not in STAMPS or position not in POSITIONS:
        raise ValueError(f"unknown stamp {kind} {position}: expected {', '.join(STAMPS)} at {', '.join(POSITIONS)}")
    height, width = image.shape[:2]
    shorter = min(height, width)
    if kind == "frame":
        thickness = min(max(1, round(size * shorter / 8)), (shorter + 1) // 2)
        colours, cover = np.full((height, width, 3), (255, 120, 0), np.float32), np.ones((height, width, 1), np.float32)
        cover[thickness : height - thickness, thickness : width - thickness] = 0
        return colours, cover, (0, 0)
    wide, high = (2, 0.5) if kind == "pill" else (1, 1)
    columns, rows = (min(max(1, round(size * shorter * scale)), shorter) for scale in (wide, high))
    colours, cover = _draw(kind, columns, rows)
    if position == "any":
        rng = np.random.default_rng(seed)
        return colours, cover, (int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1)))
    margin = round(_MARGIN * shorter)
    top = min(margin, height - rows) if position.startswith("top") else max(0, height - rows - margin)
    left = min(margin, width - columns) if position.endswith("left") else max(0, width - columns - margin)
    return colours, cover, (top, left)


@lru_cache(64)
def _draw(kind: str, columns: int, rows: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    width, height = columns * _OVERSAMPLING, rows * _OVERSAMPLING
    background = {"letters": (0, 51, 153), "pill": (20, 20, 20), "logo": (110, 40, 200)}[kind]
    stamp, cover = Image.new("RGB", (width, height), background), Image.new("L", (width, height))
    drawn, outline = ImageDraw.Draw(stamp), ImageDraw.Draw(cover)
    radius = height / 5 if kind == "logo" else height / 2
    outline.rounded_rectangle((0, 0, width - 1, height - 1), radius, fill=255)
    if kind == "logo":
        angles, radii = np.arange(8) * np.pi / 4, height * np.array([0.42, 0.12] * 4)
        points = np.column_stack([width / 2 + radii * np.sin(angles), height / 2 - radii * np.cos(angles)])
        drawn.polygon([(x, y) for x, y in points.tolist()], fill=_WHITE)
    else:
        text, share = ("AI", 0.6) if kind == "letters" else ("AI GENERATED", 0.45)
        font = ImageFont.load_default(share * height)
        drawn.text((width / 2, height / 2), text, _WHITE, font, anchor="mm")
    size = (columns, rows)
    colours, shares = (np.asarray(part.resize(size, Image.Resampling.BOX), np.float32) for part in (stamp, cover))
    return colours, shares[..., None] / np.float32(255)


def _mix(
    image: ImageArray, colours: NDArray[np.float32], cover: NDArray[np.float32], top: int, left: int
) -> ImageArray:
    mixed = image.copy()
    part = mixed[top : top + cover.shape[0], left : left + cover.shape[1]]
    part[:] = np.rint(part * (1 - cover) + colours * cover).astype(np.uint8)
    return mixed

"""Class activation maps over images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from numpy.typing import NDArray

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.metrics.attribution_maps import upsample

EVIDENCE_COLORMAP = "inferno"
_MAP_OPACITY = 0.55  # of a map over its image

Arrays = Mapping[str, NDArray[Any]]


def draw_overlay(
    axes: Axes,
    image: NDArray[np.uint8],
    shown: NDArray[np.float32],
    colours: str = EVIDENCE_COLORMAP,
    signed: bool = False,
) -> None:
    """Draw a map (h, w), scaled to its largest value, over a grey image (S, S, 3)."""
    axes.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    largest = float(np.abs(shown).max()) or 1.0
    share = upsample(shown[None] / largest, image.shape[0])[0]
    axes.imshow(share, cmap=colours, vmin=-1 if signed else 0, vmax=1, alpha=_MAP_OPACITY)
    if not shown.any():
        axes.text(0.5, 0.04, _("no evidence"), transform=axes.transAxes, ha="center", color="white", fontsize=7)


def render_overlay(image: NDArray[np.uint8], shown: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a map (h, w), scaled to its largest value, over a grey image (S, S, 3), at most 360 pixels a side."""
    share = upsample(shown[None] / (float(shown.max()) or 1.0), image.shape[0])[0]
    colours = 255 * colormaps[EVIDENCE_COLORMAP](share)[..., :3]
    grey = image.mean(axis=2, keepdims=True)
    return plots.make_thumbnail((_MAP_OPACITY * colours + (1 - _MAP_OPACITY) * grey).round().astype(np.uint8))

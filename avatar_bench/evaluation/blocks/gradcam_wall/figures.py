"""Figures of gradcam_wall: a wall of all classes, and a collage of each class."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from avatar_bench.evaluation.activation_figures import draw_map_over_image, draw_wall
from avatar_bench.files.paths import make_folder_name
from avatar_bench.i18n import _
from avatar_bench.results.result import Result


def draw(result: Result) -> dict[str, Figure]:
    """Draw the first images of all classes, then those of each class that has images."""
    maps, wall = result.arrays["maps"], result.arrays["wall"]
    shown = {"wall": wall["of_all_classes"]}
    for k, name in enumerate(result.classes):
        shown[f"class_{k + 1}_{make_folder_name(name)}"] = np.flatnonzero(maps["targets"] == k)
    names, about = maps["classes"][maps["targets"]], _("image and its true class")
    return {
        figure: draw_wall(maps, wall, rows.tolist(), names[rows].tolist(), draw_map_over_image, about)
        for figure, rows in shown.items()
        if len(rows)
    }

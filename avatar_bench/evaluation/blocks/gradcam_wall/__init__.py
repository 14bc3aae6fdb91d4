"""gradcam_wall: Grad-CAM maps of several runs on the same images, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.options import Options
from avatar_bench.data.selection import draw_shots
from avatar_bench.evaluation import activation_figures as figures
from avatar_bench.evaluation import class_activation as maps
from avatar_bench.evaluation.block import align_predictions
from avatar_bench.files.paths import make_folder_name
from avatar_bench.i18n import _
from avatar_bench.metrics import stats
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from avatar_bench.data.dataset import Dataset
    from avatar_bench.evaluation.class_activation import RunMaps
    from avatar_bench.runs.run import Run


@dataclass(kw_only=True)
class GradCamWall(Options):
    """Grad-CAM maps of several runs on the same images, side by side.

    `images` of each class are drawn with `seed` for the collage of the class; the first `wall` of them appear on the
    wall of all classes; `of` selects the class whose map is drawn: each run's own "prediction" or the "target", the
    true class.
    """

    images: int = 6
    wall: int = 3
    of: str = "prediction"
    seed: int = 0

    def __post_init__(self) -> None:
        self.require("images", self.images >= 1, "1 or more")
        self.require("wall", 1 <= self.wall <= self.images, f"1 to {self.images}, the images of a class")
        self.require("of", self.of in maps.MAPPED_CLASSES, " or ".join(maps.MAPPED_CLASSES))
        self.require("seed", self.seed >= 0, "0 or more")

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Draw a wall and a collage of each class; runs without a layer with a spatial map are left out with a warning.

        Raise BlockError as `align_predictions` does, and if no run has a map.
        """
        answers = align_predictions(runs, datasets)
        rows = draw_shots(np.array(answers[0].classes)[answers[0].targets].tolist(), self.images, self.seed)
        panels, messages = maps.compute_maps(runs, datasets, answers, rows, self.of)
        one = panels[0].predictions
        result = Result("gradcam_wall", datasets[0].name, len(rows), one.classes)
        result.provenance = {"layers": {panel.label: panel.layer.name for panel in panels}}
        result.arrays["maps"] = maps.collect_arrays(panels)
        result.metrics["unanimous"] = _compute_unanimity(panels)
        result.tables["wall"] = pd.concat([_build_predictions_table(panel) for panel in panels], ignore_index=True)
        result.warnings = messages
        if len(panels) > figures.MAX_WALL_RUNS:
            result.warnings.append(
                _(
                    "the figures show {n} of {all} runs; the table lists them all",
                    n=figures.MAX_WALL_RUNS,
                    all=len(panels),
                )
            )
        by_class = {k: np.flatnonzero(one.targets == k) for k in range(len(one.classes))}
        result.figures["wall"] = _draw(panels, np.concatenate([own[: self.wall] for own in by_class.values()]), self.of)
        for k, own in by_class.items():
            if len(own):
                result.figures[f"class_{k + 1}_{make_folder_name(one.classes[k])}"] = _draw(panels, own, self.of)
        return result


def _compute_unanimity(panels: Sequence[RunMaps]) -> Metric:
    """Compute the proportion of images for which all runs predict the same class."""
    predicted = np.stack([panel.predictions.predicted for panel in panels])
    hits = (predicted == predicted[0]).all(axis=0)
    ends = stats.proportion_interval(hits, panels[0].predictions.groups)
    return Metric(float(hits.mean()), ends.n, ends.low, ends.high, ends.method, higher_is_better=None)


def _build_predictions_table(panel: RunMaps) -> pd.DataFrame:
    """Return path, target, run, prediction, confidence and correctness of each image for one run."""
    one, names = panel.predictions, np.array(panel.predictions.classes)
    return pd.DataFrame(
        {
            "path": one.paths,
            "target": names[one.targets],
            "run": panel.label,
            "prediction": names[one.predicted],
            "confidence": one.confidence,
            "correct": one.correct,
        }
    )


def _draw(panels: Sequence[RunMaps], rows: NDArray[np.intp], of: str) -> Figure:
    titles = [panels[0].predictions.classes[k] for k in panels[0].predictions.targets[rows]]
    shown = [panel.take(rows) for panel in panels[: figures.MAX_WALL_RUNS]]
    return figures.draw_wall(shown, titles, figures.draw_map_over_image, of, _("image and its true class"))

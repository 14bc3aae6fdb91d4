"""gradcam_wall: Grad-CAM maps of several runs on the same images, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from avatar_bench.config.options import Options, option
from avatar_bench.data.selection import draw_shots
from avatar_bench.errors import ConfigError
from avatar_bench.evaluation import class_activation as maps
from avatar_bench.evaluation.block import align_predictions, tabulate_predictions
from avatar_bench.metrics import stats
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run


_COLUMNS = ["path", "target", "run", "prediction", "confidence", "correct"]


@dataclass(kw_only=True)
class GradCamWall(Options):
    """Grad-CAM maps of several runs on the same images, side by side."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("predictions", "module", "own_classes")

    images: int = option(6, help="images per class, in the collage of the class", range=(1, None))
    wall: int = option(3, help="images per class, in the wall of all classes", range=(1, None))
    of: str = option(
        "prediction",
        help="class of the maps: prediction (each network's own) | target (true class)",
        choices=maps.MAPPED_CLASSES,
    )
    seed: int = option(0, help="of the draw of images", range=(0, None))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.wall > self.images:
            expected = f"1 to {self.images}, the images of a class"
            raise ConfigError(f"block.gradcam_wall.wall={self.wall}: expected {expected}.")

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute the maps of each run; runs without a layer with a spatial map are left out with a warning.

        Raise BlockError as `align_predictions` does, and if no run has a map.
        """
        answers = align_predictions(runs, datasets)
        rows = draw_shots(np.array(answers[0].classes)[answers[0].targets].tolist(), self.images, self.seed)
        panels, warnings = maps.compute_maps(runs, datasets, answers, rows, self.of)
        one = panels[0].predictions
        result = Result("gradcam_wall", datasets[0].name, len(rows), one.classes)
        result.provenance = {"layers": {panel.label: panel.layer.name for panel in panels}}
        by_class = [np.flatnonzero(one.targets == k)[: self.wall] for k in range(len(one.classes))]
        wall = maps.collect_thumbnails(panels, np.arange(len(rows)), self.of)
        wall["of_all_classes"] = np.concatenate(by_class)
        result.arrays = {"maps": maps.collect_arrays(panels), "wall": wall}
        predicted = np.stack([panel.predictions.predicted for panel in panels])
        hits = (predicted == predicted[0]).all(axis=0)
        ends = stats.proportion_interval(hits, one.groups)
        unanimous = Metric(float(hits.mean()), ends.n, ends.low, ends.high, ends.method, higher_is_better=None)
        result.metrics["unanimous"] = unanimous
        predictions = [tabulate_predictions(panel.predictions).assign(run=panel.label) for panel in panels]
        result.tables["wall"] = pd.concat(predictions, ignore_index=True)[_COLUMNS]
        more = [Reason("runs_not_drawn", n=maps.MAX_WALL_RUNS, all=len(panels))]
        result.warnings = warnings + (more if len(panels) > maps.MAX_WALL_RUNS else [])
        return result

"""Block cam_overlap: agreement of Grad-CAM maps between runs, compared with a null of maps of other images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.options import option
from avatar_bench.data.selection import draw_stratified_rows
from avatar_bench.errors import BlockError
from avatar_bench.evaluation import class_activation as maps
from avatar_bench.evaluation.block import align_predictions
from avatar_bench.evaluation.blocks.cam_overlap import overlap_tables as tables
from avatar_bench.evaluation.blocks.cam_overlap.overlap_tables import ALL_CLASSES, MEAN_OF_PAIRS
from avatar_bench.evaluation.intervals import IntervalOptions, metric_with_interval
from avatar_bench.metrics.overlap import OVERLAP_MEASURES
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run


# columns of value, ends and floor, and the interval's method: for the same image, and for other images
_SAME_IMAGE = ("value", "low", "high", "null", "bootstrap by group")
_OTHER_IMAGES = ("null", "null_low", "null_high", "null_random", "images of a class shuffled")


@dataclass(kw_only=True)
class CamOverlap(IntervalOptions):
    """Comparison of runs' raw Grad-CAM maps by pair and class, against maps of different images.

    `resamples` is also the number of permutations of maps among images.
    """

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("predictions", "module", "own_classes")

    images: int = option(60, help="images drawn, stratified by class, at most one per group", range=(1, None))
    of: str = option(
        "target",
        help="class of the maps: target (true class) | prediction (each network's own)",
        choices=maps.MAPPED_CLASSES,
    )
    gallery: int = option(2, help="images shown per class, from least to most overlap; 0: none", range=(0, None))

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute the overlap of maps of the same images with its null; runs without a map are left out with a warning.

        Raise BlockError like `align_predictions`, and if fewer than two runs have maps.
        """
        aligned = align_predictions(runs, datasets)
        panels, warnings = maps.compute_maps(runs, datasets, aligned, self._sample_images(aligned[0]), self.of)
        if len(panels) < 2:
            raise BlockError("Only one run has a layer with a spatial map.", *map(format_reason, warnings[:1]))
        labels, one = [panel.label for panel in panels], panels[0].predictions
        raw = [panel.maps for panel in panels]
        found = tables.compute_overlap(raw, one.targets, len(one.classes), self.resamples, self.seed)
        result = Result("cam_overlap", datasets[0].name, len(one), one.classes)
        layers = {panel.label: "{}, {} x {}".format(panel.layer.name, *panel.layer.size) for panel in panels}
        result.provenance = {"layers": layers, "level": self.level}
        result.arrays["maps"] = maps.collect_arrays(panels)
        summary = tables.tabulate_summary(found, labels, one, self)
        means = summary[summary["a"] == MEAN_OF_PAIRS]
        result.tables = {
            "classes": means.drop(columns=["a", "b"]),
            "pairs": summary[summary["a"] != MEAN_OF_PAIRS],
            "images": tables.tabulate_images(found, labels, one),
        }
        result.metrics = _build_metrics(means, one.classes)
        unlike = means[(means["class"] == ALL_CLASSES) & means["value"].notna() & ~means["above_null"]]
        result.warnings = warnings + ([Reason("not_above_null", names=list(unlike["metric"]))] if len(unlike) else [])
        if self.gallery:
            iou = found.values[-1, OVERLAP_MEASURES.index("iou_top20")]  # mean over pairs
            rows = np.array(_select_spread(iou, found.targets, self.gallery))
            result.arrays["gallery"] = maps.collect_thumbnails(panels, rows, self.of) | {"iou": iou[rows]}
        return result

    def _sample_images(self, aligned: Predictions) -> NDArray[np.intp]:
        """Draw images of different groups: maps of two images of a group are not maps of different images."""
        order = np.random.default_rng(self.seed).permutation(len(aligned))
        alone = np.sort(order[np.unique(aligned.groups[order], return_index=True)[1]])
        frame = pd.DataFrame({"label": np.array(aligned.classes)[aligned.targets[alone]]})
        return alone[draw_stratified_rows(frame, self.images, self.seed)]


def _select_spread(alike: NDArray[np.float64], targets: NDArray[np.int64], each: int) -> list[int]:
    """Return `each` images of every class, evenly spread from the least to the most similar, or the first image."""
    rows: list[int] = []
    for k in range(int(targets.max()) + 1):
        own = np.flatnonzero((targets == k) & ~np.isnan(alike))
        own = own[np.argsort(alike[own], kind="stable")]
        rows += own[np.unique((np.arange(each) + 0.5) / each * len(own)).astype(int)].tolist() if len(own) else []
    return list(dict.fromkeys(rows)) or [0]


def _build_metrics(means: pd.DataFrame, classes: Sequence[str]) -> dict[str, Metric]:
    """Return each metric over all classes and by class, and the same for maps of different images."""
    rows = {(row["class"], row["metric"]): row for __, row in means.iterrows()}
    found: dict[str, Metric] = {}
    for name, metric in product((ALL_CLASSES, *classes), OVERLAP_MEASURES):
        full = metric if name == ALL_CLASSES else f"{metric}/{name}"
        found[full] = _build_metric(rows.get((name, metric)), *_SAME_IMAGE)
        found[f"null/{full}"] = _build_metric(rows.get((name, metric)), *_OTHER_IMAGES)
    return found


def _build_metric(row: pd.Series | None, value: str, low: str, high: str, floor: str, method: str) -> Metric:
    if row is None:
        return Metric(None, 0, higher_is_better=None, reason=Reason("class_not_sampled"))
    n, base = int(row["n"]), None if np.isnan(row[floor]) else float(row[floor])
    return metric_with_interval(row[value], row[low], row[high], n, method, None, base, Reason("too_few_maps"))

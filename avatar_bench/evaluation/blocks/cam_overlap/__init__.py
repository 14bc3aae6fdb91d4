"""Block cam_overlap: agreement of Grad-CAM maps between runs, compared with a null of maps of other images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.data.selection import draw_stratified_rows
from avatar_bench.errors import BlockError
from avatar_bench.evaluation import activation_figures
from avatar_bench.evaluation import class_activation as maps
from avatar_bench.evaluation.block import align_predictions
from avatar_bench.evaluation.blocks.cam_overlap import figures
from avatar_bench.evaluation.blocks.cam_overlap import overlap_tables as tables
from avatar_bench.evaluation.blocks.cam_overlap.overlap_tables import ALL_CLASSES, MEAN_OF_PAIRS
from avatar_bench.evaluation.intervals import IntervalOptions, metric_with_interval
from avatar_bench.i18n import _
from avatar_bench.metrics.overlap import OVERLAP_MEASURES
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from avatar_bench.data.dataset import Dataset
    from avatar_bench.evaluation.blocks.cam_overlap.overlap_tables import Overlap
    from avatar_bench.evaluation.class_activation import RunMaps
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run


# columns of value, ends and floor, and the interval's method: for the same image, and for other images
_SAME_IMAGE = ("value", "low", "high", "null", "bootstrap by group")
_OTHER_IMAGES = ("null", "null_low", "null_high", "null_random", "images of a class shuffled")


@dataclass(kw_only=True)
class CamOverlap(IntervalOptions):
    """Comparison of runs' raw Grad-CAM maps by pair and class, against maps of different images.

    `images` are drawn in the proportions of the classes, at most one per group; `of` is the class of the maps:
    "target", the true class, or each run's own "prediction"; `gallery` is the number of images shown per class.
    `resamples` is also the number of permutations of maps among images.
    """

    images: int = 60
    of: str = "target"
    gallery: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("images", self.images >= 1, "1 or more")
        self.require("of", self.of in maps.MAPPED_CLASSES, " or ".join(maps.MAPPED_CLASSES))
        self.require("gallery", self.gallery >= 0, "0 or more")

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute the overlap of maps of the same images with its null; runs without a map are left out with a warning.

        Raise BlockError like `align_predictions`, and if fewer than two runs have maps.
        """
        aligned = align_predictions(runs, datasets)
        panels, messages = maps.compute_maps(runs, datasets, aligned, self._sample_images(aligned[0]), self.of)
        if len(panels) < 2:
            raise BlockError("Only one run has a layer with a spatial map.", *messages[:1])
        labels, one = [panel.label for panel in panels], panels[0].predictions
        raw = [panel.maps for panel in panels]
        found = tables.compute_overlap(raw, one.targets, len(one.classes), self.resamples, self.seed)
        result = Result("cam_overlap", datasets[0].name, len(one), one.classes)
        result.provenance = {"layers": {panel.label: _describe_layer(panel) for panel in panels}}
        result.arrays["maps"] = maps.collect_arrays(panels)
        summary = tables.tabulate_summary(found, labels, one.classes, one.groups, self.level, self.resamples, self.seed)
        means = summary[summary["a"] == MEAN_OF_PAIRS]
        result.tables = {
            "classes": means.drop(columns=["a", "b"]),
            "pairs": summary[summary["a"] != MEAN_OF_PAIRS],
            "images": tables.tabulate_images(found, labels, one.paths, one.classes),
        }
        result.metrics = _build_metrics(means, one.classes)
        result.warnings = messages + _collect_warnings(means)
        result.figures["overlap"] = figures.draw_overlaps_by_class(summary, self.level)
        if len(panels) > 2:
            result.figures["pairs"] = figures.draw_overlaps_by_pair(summary, self.level)
        if self.gallery:
            result.figures["maps"] = self._draw_gallery(panels, found)
        return result

    def _sample_images(self, aligned: Predictions) -> NDArray[np.intp]:
        """Draw images of different groups: maps of two images of a group are not maps of different images."""
        order = np.random.default_rng(self.seed).permutation(len(aligned))
        alone = np.sort(order[np.unique(aligned.groups[order], return_index=True)[1]])
        frame = pd.DataFrame({"label": np.array(aligned.classes)[aligned.targets[alone]]})
        return alone[draw_stratified_rows(frame, self.images, self.seed)]

    def _draw_gallery(self, panels: Sequence[RunMaps], found: Overlap) -> Figure:
        """Draw images of each class, from those with the least to those with the most agreement between runs."""
        alike = found.values[-1, OVERLAP_MEASURES.index("iou_top20")]
        rows = _select_spread(alike, found.targets, self.gallery)
        names = [panels[0].predictions.classes[found.targets[row]] for row in rows]
        titles = [f"{name}\n{_('IoU {value:.2f}', value=alike[row])}" for name, row in zip(names, rows, strict=True)]
        shown = [panel.take(np.array(rows)) for panel in panels[: activation_figures.MAX_WALL_RUNS]]
        about = _("image, its true class, and the IoU of the top 20 %, mean over pairs")
        return activation_figures.draw_wall(shown, titles, activation_figures.draw_map_cells, self.of, about)


def _select_spread(alike: NDArray[np.float64], targets: NDArray[np.int64], each: int) -> list[int]:
    """Return `each` images of every class, evenly spread from the least to the most similar, or the first image."""
    rows: list[int] = []
    for k in range(int(targets.max()) + 1):
        own = np.flatnonzero((targets == k) & ~np.isnan(alike))
        own = own[np.argsort(alike[own], kind="stable")]
        rows += own[np.unique((np.arange(each) + 0.5) / each * len(own)).astype(int)].tolist() if len(own) else []
    return list(dict.fromkeys(rows)) or [0]


def _describe_layer(panel: RunMaps) -> str:
    return f"{panel.layer.name}, {panel.layer.size[0]} x {panel.layer.size[1]}"


def _build_metrics(means: pd.DataFrame, classes: Sequence[str]) -> dict[str, Metric]:
    """Return each metric over all classes and by class, and the same for maps of different images."""
    rows = {(row["class"], row["metric"]): row for __, row in means.iterrows()}
    found = {}
    for name in (ALL_CLASSES, *classes):
        for metric in OVERLAP_MEASURES:
            row, full = rows.get((name, metric)), metric if name == ALL_CLASSES else f"{metric}/{name}"
            if row is None:
                for kind in (full, f"null/{full}"):
                    reason = _("no image of the class was sampled")
                    found[kind] = Metric(None, 0, higher_is_better=None, reason=reason)
                continue
            found[full] = _build_metric(row, _SAME_IMAGE)
            found[f"null/{full}"] = _build_metric(row, _OTHER_IMAGES)
    return found


def _build_metric(row: pd.Series, columns: tuple[str, ...]) -> Metric:
    value, low, high, floor, method = columns
    n, base = int(row["n"]), None if np.isnan(row[floor]) else float(row[floor])
    reason = _("fewer than two maps of the class have cells that differ")
    return metric_with_interval(row[value], row[low], row[high], n, method, None, base, reason)


def _collect_warnings(means: pd.DataFrame) -> list[str]:
    names = means.loc[(means["class"] == ALL_CLASSES) & means["value"].notna() & ~means["above_null"], "metric"]
    if names.empty:
        return []
    joined = ", ".join(names)
    return [
        _(
            "{names}: maps of the same image are not significantly more similar than maps of different images",
            names=joined,
        )
    ]

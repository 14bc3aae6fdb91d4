"""gradcam: the regions that drive the predictions of a run, how faithful its maps are, and how those of runs agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.options import option
from avatar_bench.data.selection import draw_stratified_rows
from avatar_bench.errors import ConfigError
from avatar_bench.evaluation import block
from avatar_bench.evaluation.blocks.gradcam.map_overlays import render_overlay
from avatar_bench.evaluation.blocks.gradcam.run_comparison import build_wall, compare_overlap, warn_about_maps
from avatar_bench.evaluation.intervals import IntervalOptions, bootstrap_metrics
from avatar_bench.files.paths import make_folder_name
from avatar_bench.metrics import plots, stats
from avatar_bench.metrics.attribution_maps import area_under_curve, rank_correlation, rank_pixels
from avatar_bench.models import attribution
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from torch import Tensor

    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

FAITHFULNESS_GAINS = ("deletion_gain", "insertion_gain")
SANITY_METRIC = "sanity_correlation"
_ROLLOUT = "_rollout"  # suffix of names that belong to attention rollout instead of Grad-CAM
_BETTER = {"deletion": False, "insertion": True, **dict.fromkeys(FAITHFULNESS_GAINS, True), SANITY_METRIC: False}
_BETTER |= {f"{name}{_ROLLOUT}": better for name, better in _BETTER.items() if name != SANITY_METRIC}
_FILLS = ("mean", "blur")
_MAPPED_CLASSES = ("target", "prediction")
_BATCH_SIZE = 64  # images whose pixels are ranked at once: 100 MB at 224 px
_MOST_SHOWN = 6  # images in the sanity figure
_MOST_LETTERS = 40  # of the image's name in the file name of its overlay
_SHOWN_PIXELS = 224  # side of an image in the figures

MapArrays = dict[str, NDArray[np.float32]]


@dataclass(kw_only=True)
class GradCam(IntervalOptions):
    """Grad-CAM maps: their faithfulness in a run, and the maps of several runs, beside each other and their overlap.

    For a run with a class token, attention rollout is evaluated too. `resamples` is also the number of permutations of
    maps among images, the null of an overlap.
    """

    version: ClassVar[int] = 3
    needs: ClassVar[tuple[str, ...]] = ("predictions", "module", "own_classes")

    images: int = option(
        60,
        help="images drawn, stratified by class, for an overlap at most one per group; run time is proportional",
        range=(1, None),
    )
    steps: int = option(10, help="steps of deletion and insertion", range=(2, None))
    deletion_to: str = option(
        "mean", help="replacement of deleted pixels: mean (the image's mean colour) | blur", choices=_FILLS
    )
    insertion_from: str = option("blur", help="baseline for insertion: mean | blur", choices=_FILLS)
    random_weights: int = option(
        4, help="networks with more and more layers randomised from the head down; the last: all", range=(1, None)
    )
    gallery: int = option(
        2,
        help="images shown per class, as many correct as incorrect, or from least to most overlap; 0: none",
        range=(0, None),
    )
    overlays: int | None = option(
        None,
        help="images saved with their map as an overlay; null: all images drawn or shown; 0: none",
        range=(0, None),
        expected="0 or more, or null for all",
    )
    overlap_of: str = option(
        "target",
        help="class of the maps whose overlap is measured: target (true class) | prediction (each network's own)",
        choices=_MAPPED_CLASSES,
    )
    collage: int = option(6, help="images per class of several runs, in the collage of the class", range=(1, None))
    wall: int = option(3, help="images per class of several runs, in the wall of all classes", range=(1, None))
    wall_of: str = option(
        "prediction",
        help="class of the maps of wall and collages: prediction (each network's own) | target (true class)",
        choices=_MAPPED_CLASSES,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.wall > self.collage:
            expected = f"1 to {self.collage}, the images of a class"
            raise ConfigError(f"block.gradcam.wall={self.wall}: expected {expected}.")

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute maps, faithfulness and sanity of a draw of labelled images; further errors are only shown."""
        whole = run.predictions(dataset)
        rows = block.labelled_rows(whole, dataset)
        block.check_class_order(whole, run.allow)
        drawn = rows[draw_stratified_rows(dataset.frame.iloc[rows], self.images, self.seed)]
        errors = np.setdiff1d(np.flatnonzero((whole.targets >= 0) & ~whole.correct), drawn)
        errors = errors[np.argsort(-whole.confidence[errors], kind="stable")]  # the most confident of each class
        shown = [errors[whole.targets[errors] == k][: self.gallery] for k in range(len(whole.classes))]
        every = np.concatenate([drawn, *shown])
        predictions, inputs, n = whole.take(every), run.predictor.read_inputs(dataset, every), len(drawn)
        layer = attribution.find_spatial_layer(run.predictor.module, inputs)
        maps = _compute_maps(run, layer, inputs, predictions)
        evaluated = {"": maps["predicted"][:n]} | ({_ROLLOUT: maps["rollout"][:n]} if "rollout" in maps else {})
        curves = self._compute_curves(run, inputs[:n], evaluated, predictions.predicted[:n])
        sanity = self._compute_sanity(run, layer, inputs[:n], predictions.predicted[:n])
        result = Result("gradcam", dataset.name, n, run.classes)
        result.provenance = {"layer": layer.name, "map_size": list(layer.size), "level": self.level}
        pixels = inputs.permute(0, 2, 3, 1).numpy()
        about = {"paths": predictions.paths, "targets": predictions.targets, "predictions": predictions.predicted}
        about |= {"classes": np.array(run.classes, dtype=np.str_), "drawn": np.arange(len(predictions)) < n}
        result.arrays = {"maps": maps | about, "curves": curves, "sanity": sanity}
        result.arrays["shown"] = self._collect_shown(pixels, predictions, n)
        images, groups = _tabulate_images(predictions, curves, sanity), predictions.groups[:n]
        images["overlay"] = ""
        for row, (image, path) in enumerate(zip(pixels[: self.overlays], predictions.paths, strict=False)):
            name = f"overlays/{row + 1:04d}_{make_folder_name(PurePath(path).stem)[:_MOST_LETTERS]}"
            result.images[name] = render_overlay(image, maps["predicted"][row])
            images.loc[row, "overlay"] = f"{name}.png"
        result.tables = {
            "images": images,
            "curves": _tabulate_curves(curves, groups, self),
            "sanity": _tabulate_sanity(sanity, groups, self),
        }
        result.metrics = self._compute_metrics(images[:n], curves, sanity, groups)
        result.warnings = warn_about_maps(layer, maps["predicted"][:n])
        for name, metric in result.metrics.items():
            if name.removesuffix(_ROLLOUT) in FAITHFULNESS_GAINS and (metric.low is None or metric.low <= 0):
                result.warnings.append(Reason("not_better_than_random", name=name))
        return result

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute the overlap of the runs' raw maps with its null, and maps of the same images side by side."""
        arguments = (self, runs, datasets, block.align_predictions(runs, datasets))
        return block.join_parts(partial(compare_overlap, *arguments), partial(build_wall, *arguments))

    def _compute_curves(self, run: Run, images: Tensor, maps: MapArrays, classes: NDArray[np.int64]) -> MapArrays:
        """Compute the probability of the predicted class by step, (n, steps + 1), for each curve of each map."""
        rng = np.random.default_rng(self.seed)
        shown: dict[str, NDArray[np.floating]] = {"": maps[""], "_random": rng.random(maps[""].shape), **maps}
        arrays: dict[str, list[NDArray[np.float32]]] = {}
        for first in range(0, len(images), _BATCH_SIZE):
            rows = slice(first, first + _BATCH_SIZE)
            batch = images[rows]
            empty, blurred = (
                attribution.make_baseline(batch, kind) for kind in (self.deletion_to, self.insertion_from)
            )
            for ending, part in shown.items():
                ranks = rank_pixels(part[rows], images.shape[-1], rng)
                for kind, start, end in (("deletion", batch, empty), ("insertion", blurred, batch)):
                    about = (ranks, classes[rows], self.steps, run.batch_size)
                    curves = attribution.compute_replacement_curves(run.predictor.module, start, end, *about)
                    arrays.setdefault(f"{kind}{ending}", []).append(curves)
        return {name: np.concatenate(curves) for name, curves in arrays.items()}

    def _compute_sanity(
        self, run: Run, layer: attribution.SpatialLayer, images: Tensor, classes: NDArray[np.int64]
    ) -> MapArrays:
        """Compute unrectified maps of the run (n, h, w), of K randomised networks (K, n, h, w), and random maps."""
        compute = partial(attribution.compute_grad_cam, rectify=False)
        arguments = (layer, images, classes, run.batch_size)
        trained = compute(run.predictor.module, *arguments)
        networks = attribution.randomise_layers(run.predictor.module, self.seed, self.random_weights)
        sanity = [(drawn, of, compute(network, *arguments)) for drawn, of, network in networks]
        drawn, groups, maps = (np.array(column) for column in zip(*sanity, strict=True))
        chance = np.random.default_rng(self.seed).random(trained.shape).astype(np.float32)
        known = {"trained": trained, "randomised": maps, "groups_randomised": drawn, "groups": groups}
        return known | {"chance": chance}

    def _compute_metrics(
        self, images: pd.DataFrame, curves: MapArrays, sanity: MapArrays, groups: NDArray[np.str_]
    ) -> dict[str, Metric]:
        kinds = _list_suffixes(curves)
        gains = [f"{gain}{ending}" for ending in kinds for gain in FAITHFULNESS_GAINS]
        names = [*curves, *gains, SANITY_METRIC]
        values, floors = images[names].to_numpy(dtype=np.float64), dict.fromkeys(gains, 0.0)
        for kind in ("deletion", "insertion"):
            floors |= dict.fromkeys((f"{kind}{ending}" for ending in kinds), float(images[f"{kind}_random"].mean()))
        chance = np.abs(rank_correlation(sanity["trained"], sanity["chance"]))
        if not np.isnan(chance).all():
            floors[SANITY_METRIC] = float(np.nanmean(chance))
        better, why = {name: _BETTER.get(name) for name in names}, Reason("constant_maps")
        return bootstrap_metrics(self, names, stats.build_mean_statistic(values), groups, better, floors, why)

    def _collect_shown(self, pixels: NDArray[np.uint8], predictions: Predictions, n: int) -> dict[str, NDArray[Any]]:
        """Return what the figures show: `rows` of images with their thumbnails, and which of the rows each shows.

        `panels` (L, 2) pairs the first correct images of a class with its most confident errors, -1 where there are too
        few; `sanity` are the first correct images of the classes among the `n` that were drawn.
        """
        targets, first = predictions.targets, []
        pairs: list[tuple[int, int]] = []
        for k in range(len(predictions.classes)):
            correct = np.flatnonzero((targets == k) & predictions.correct)
            incorrect = np.flatnonzero((targets == k) & ~predictions.correct)
            incorrect = incorrect[np.argsort(-predictions.confidence[incorrect], kind="stable")]
            pairs += zip_longest(correct[: self.gallery], incorrect[: self.gallery], fillvalue=-1)
            first += correct[correct < n][:1].tolist()
        panels, sanity = np.array(pairs[: plots.MAX_BARS], dtype=np.intp).reshape(-1, 2), first[:_MOST_SHOWN] or [0]
        rows = np.unique([*panels[panels >= 0], *sanity])
        images = np.stack([plots.make_thumbnail(pixels[row], _SHOWN_PIXELS) for row in rows])
        return {"rows": rows, "images": images, "panels": panels, "sanity": np.array(sanity)}


def _compute_maps(run: Run, layer: attribution.SpatialLayer, inputs: Tensor, predictions: Predictions) -> MapArrays:
    """Compute the maps of the predicted and of the true class of each image, and its attention rollout if available."""
    predicted = attribution.compute_grad_cam(run.predictor.module, layer, inputs, predictions.predicted, run.batch_size)
    true, wrong = predicted.copy(), np.flatnonzero(~predictions.correct)
    if len(wrong):
        targets = predictions.targets[wrong]
        true[wrong] = attribution.compute_grad_cam(run.predictor.module, layer, inputs[wrong], targets, run.batch_size)
    rollout = attribution.compute_attention_rollout(run.predictor.module, inputs, run.batch_size)
    return {"predicted": predicted, "true": true} | ({} if rollout is None else {"rollout": rollout})


def _list_suffixes(curves: MapArrays) -> tuple[str, ...]:
    """Return the name suffix of each kind of map: "" for Grad-CAM, and _ROLLOUT if there is a rollout."""
    return ("", _ROLLOUT) if f"deletion{_ROLLOUT}" in curves else ("",)


def _tabulate_images(predictions: Predictions, faded: MapArrays, arrays: MapArrays) -> pd.DataFrame:
    """Return one row per image; errors added for the gallery only have no metrics."""
    n = len(faded["deletion"])
    areas = {name: area_under_curve(curve) for name, curve in faded.items()}
    for ending in _list_suffixes(faded):
        areas[f"deletion_gain{ending}"] = areas["deletion_random"] - areas[f"deletion{ending}"]
        areas[f"insertion_gain{ending}"] = areas[f"insertion{ending}"] - areas["insertion_random"]
    areas[SANITY_METRIC] = np.abs(rank_correlation(arrays["trained"], arrays["randomised"][-1]))
    table = block.tabulate_predictions(predictions).assign(drawn=np.arange(len(predictions)) < n)
    return table.join(pd.DataFrame(areas))


def _tabulate_curves(arrays: MapArrays, groups: NDArray[np.str_], options: IntervalOptions) -> pd.DataFrame:
    """Compute the mean of each curve (n, steps + 1) by step, with its interval."""
    values = np.concatenate([*arrays.values()], axis=1).astype(np.float64)
    points = values.shape[1] // len(arrays)
    shares = np.tile(np.linspace(0, 1, points), len(arrays))
    table = pd.DataFrame({"curve": np.repeat([*arrays], points), "share": shares, "probability": values.mean(axis=0)})
    return _add_intervals(table, values, groups, options)


def _tabulate_sanity(arrays: MapArrays, groups: NDArray[np.str_], options: IntervalOptions) -> pd.DataFrame:
    """Compute the mean correlation with the maps of each network with random weights, with its interval."""
    correlations = np.abs([rank_correlation(arrays["trained"], maps) for maps in arrays["randomised"]]).T
    mean = stats.build_mean_statistic(correlations)(np.ones((1, len(correlations))))[0]
    table = pd.DataFrame({name: arrays[name] for name in ("groups_randomised", "groups")} | {"correlation": mean})
    return _add_intervals(table, correlations, groups, options)


def _add_intervals(
    table: pd.DataFrame, values: NDArray[np.float64], groups: NDArray[np.str_], options: IntervalOptions
) -> pd.DataFrame:
    """Add the ends of the intervals of the means of columns (n, K), and their numbers of values, to K rows."""
    mean = stats.build_mean_statistic(values)
    low, high = stats.bootstrap_interval(mean, groups, options.resamples, options.level, options.seed)
    return table.assign(low=low, high=high, n=(~np.isnan(values)).sum(axis=0))

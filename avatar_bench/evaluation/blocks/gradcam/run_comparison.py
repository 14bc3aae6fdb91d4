"""Grad-CAM maps of several runs on the same images: their overlap with its null, and a wall that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.console.progress import track
from avatar_bench.data.selection import draw_shots, draw_stratified_rows
from avatar_bench.errors import BlockError
from avatar_bench.evaluation.block import group_by_recipe, tabulate_predictions
from avatar_bench.evaluation.intervals import metric_with_interval
from avatar_bench.metrics import attribution_maps, plots, stats
from avatar_bench.metrics.attribution_maps import OVERLAP_MEASURES
from avatar_bench.metrics.stats import nan_mean
from avatar_bench.models import attribution
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.evaluation.blocks.gradcam import GradCam
    from avatar_bench.evaluation.intervals import IntervalOptions
    from avatar_bench.models.attribution import SpatialLayer
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

MAX_WALL_RUNS = 20  # more rows of a wall are hard to distinguish
_WALL_PIXELS = 160  # side of an image of a wall, whose cells have 130 pixels
_WALL_COLUMNS = ["path", "target", "run", "prediction", "confidence", "correct"]
# columns of value, ends and floor, and the interval's method: for the same image, and for other images
_SAME_IMAGE = ("value", "low", "high", "null", "bootstrap by group")
_OTHER_IMAGES = ("null", "null_low", "null_high", "null_random", "images of a class shuffled")


@dataclass(frozen=True)
class RunMaps:
    """Maps and predictions of one run on n images.

    `maps` (n, h, w) are raw Grad-CAM maps, each of the class with index `mapped` (n,) in `predictions.classes`;
    `images` (n, S, S, 3) uint8 are the network's input; `place` is the position of the run's recipe, for its colour.
    """

    label: str
    place: int
    layer: SpatialLayer
    maps: NDArray[np.float32]
    mapped: NDArray[np.int64]
    images: NDArray[np.uint8]
    predictions: Predictions


def compare_overlap(
    block: GradCam, runs: Sequence[Run], datasets: Sequence[Dataset], aligned: Sequence[Predictions]
) -> Result:
    """Compute the overlap of the maps of the same images with its null; raise BlockError if only one run has maps."""
    rows = _sample_images(aligned[0], block.images, block.seed)
    panels, warnings = _compute_maps(runs, datasets, aligned, rows, block.overlap_of)
    if len(panels) < 2:
        raise BlockError("Only one run has a layer with a spatial map.", *map(format_reason, warnings[:1]))
    labels, predictions = [panel.label for panel in panels], panels[0].predictions
    raw = [panel.maps for panel in panels]
    overlap = compute_overlap(raw, predictions.targets, len(predictions.classes), block.resamples, block.seed)
    result = Result("gradcam", datasets[0].name, len(predictions), predictions.classes, warnings=warnings)
    layers = {panel.label: "{}, {} x {}".format(panel.layer.name, *panel.layer.size) for panel in panels}
    result.provenance = {"layers": layers, "level": block.level}
    result.arrays["maps"] = _collect_arrays(panels)
    summary = tabulate_summary(overlap, labels, predictions, block)
    means = summary[summary["a"] == MEAN_OF_PAIRS]
    result.tables = {
        "classes": means.drop(columns=["a", "b"]),
        "pairs": summary[summary["a"] != MEAN_OF_PAIRS],
        "images": tabulate_images(overlap, labels, predictions),
    }
    result.metrics = _build_metrics(means, predictions.classes)
    unlike = means[(means["class"] == ALL_CLASSES) & means["value"].notna() & ~means["above_null"]]
    result.warnings += [Reason("not_above_null", names=list(unlike["metric"]))] if len(unlike) else []
    if block.gallery:
        iou = overlap.values[-1, OVERLAP_MEASURES.index("iou_top20")]  # mean over pairs
        shown = np.array(_select_spread(iou, predictions.targets, block.gallery))
        result.arrays["gallery"] = _collect_thumbnails(panels, shown, block.overlap_of) | {"iou": iou[shown]}
    return result


def build_wall(
    block: GradCam, runs: Sequence[Run], datasets: Sequence[Dataset], aligned: Sequence[Predictions]
) -> Result:
    """Compute the maps that the wall and the collages show; raise BlockError if no run has maps."""
    rows = draw_shots(np.array(aligned[0].classes)[aligned[0].targets].tolist(), block.collage, block.seed)
    panels, warnings = _compute_maps(runs, datasets, aligned, rows, block.wall_of)
    answers = panels[0].predictions
    result = Result("gradcam", datasets[0].name, len(rows), answers.classes, warnings=warnings)
    by_class = [np.flatnonzero(answers.targets == k)[: block.wall] for k in range(len(answers.classes))]
    shown = _collect_thumbnails(panels, np.arange(len(rows)), block.wall_of)
    result.arrays["wall"] = _collect_arrays(panels) | shown | {"of_all_classes": np.concatenate(by_class)}
    predicted = np.stack([panel.predictions.predicted for panel in panels])
    hits = (predicted == predicted[0]).all(axis=0)
    ends = stats.proportion_interval(hits, answers.groups)
    unanimous = Metric(float(hits.mean()), ends.n, ends.low, ends.high, ends.method, higher_is_better=None)
    result.metrics["unanimous"] = unanimous
    predictions = [tabulate_predictions(panel.predictions).assign(run=panel.label) for panel in panels]
    result.tables["wall"] = pd.concat(predictions, ignore_index=True)[_WALL_COLUMNS]
    if len(panels) > MAX_WALL_RUNS:
        result.warnings.append(Reason("runs_not_drawn", n=MAX_WALL_RUNS, all=len(panels)))
    return result


def warn_about_maps(layer: SpatialLayer, maps: NDArray[np.float32]) -> list[Reason]:
    """Return warnings about maps that are not of the last stage, and about empty ones."""
    reasons = [] if layer.last else [Reason("maps_of_earlier_layer", layer=layer.name)]
    empty = int((maps.max(axis=(1, 2)) == 0).sum())
    return reasons + ([Reason("empty_maps", n=empty, all=len(maps))] if empty else [])


def _compute_maps(
    runs: Sequence[Run],
    datasets: Sequence[Dataset],
    predictions: Sequence[Predictions],
    rows: NDArray[np.integer],
    of: str,
) -> tuple[list[RunMaps], list[Reason]]:
    """Compute each run's maps of the given `rows` of its aligned predictions; return them with warnings."""
    made: list[RunMaps] = []
    panels, places = [], {name: index for index, name in enumerate(group_by_recipe(runs))}
    every = zip(runs, datasets, predictions, strict=True)
    for run, dataset, aligned in track(every, "maps", len(runs), "run"):
        selected, row = aligned.take(rows), {path: number for number, path in enumerate(dataset.frame["path"])}
        mapped = selected.targets if of == "target" else selected.predicted
        order = np.array([run.classes.index(name) for name in selected.classes])  # the run's class order may differ
        try:
            inputs = run.predictor.read_inputs(dataset, [row[str(path)] for path in selected.paths])
            layer = attribution.find_spatial_layer(run.predictor.module, inputs)
            maps = attribution.compute_grad_cam(run.predictor.module, layer, inputs, order[mapped], run.batch_size)
            pixels = inputs.permute(0, 2, 3, 1).numpy()
            made.append(RunMaps(run.label, places[run.recipe], layer, maps, mapped, pixels, selected))
        except BlockError:
            panels.append(Reason("no_spatial_map", run=run.label))
        run.predictor.unload()
    if not made:
        advice = "Grad-CAM maps cannot be compared; choose other runs."
        raise BlockError("No run has a layer with a spatial map.", advice)
    for panel in made:
        reasons = warn_about_maps(panel.layer, panel.maps)
        panels += [Reason("of_runs", runs=panel.label, reason=reason) for reason in reasons]
    ways = sorted({run.preprocessing.resize for run in runs})
    return made, panels + ([Reason("resized_differently", ways=ways)] if len(ways) > 1 else [])


def _sample_images(aligned: Predictions, n: int, seed: int) -> NDArray[np.intp]:
    """Draw images of different groups: maps of two images of a group are not maps of different images."""
    order = np.random.default_rng(seed).permutation(len(aligned))
    alone = np.sort(order[np.unique(aligned.groups[order], return_index=True)[1]])
    frame = pd.DataFrame({"label": np.array(aligned.classes)[aligned.targets[alone]]})
    return alone[draw_stratified_rows(frame, n, seed)]


def _collect_arrays(made: Sequence[RunMaps]) -> dict[str, NDArray[Any]]:
    """Return `maps_<k>` (n, h, w) of run k of `runs`, with their images and classes."""
    first = made[0].predictions
    return {
        **{f"maps_{k}": panel.maps for k, panel in enumerate(made)},
        "runs": np.array([panel.label for panel in made], dtype=np.str_),
        "places": np.array([panel.place for panel in made]),
        "shown": np.stack([panel.mapped for panel in made]),
        "predictions": np.stack([panel.predictions.predicted for panel in made]),
        "confidence": np.stack([panel.predictions.confidence for panel in made]),
        "paths": first.paths,
        "targets": first.targets,
        "groups": first.groups,
        "classes": np.array(first.classes, dtype=np.str_),
    }


def _collect_thumbnails(made: Sequence[RunMaps], rows: NDArray[np.integer], of: str) -> dict[str, NDArray[Any]]:
    """Return what a wall of the images in `rows` draws beside the maps: their thumbnails, `images_<k>` (R, s, s, 3)."""
    different: list[NDArray[np.uint8]] = []
    number = []
    for panel in made[:MAX_WALL_RUNS]:
        small = np.stack([plots.make_thumbnail(panel.images[row], _WALL_PIXELS) for row in rows])
        number.append(next((k for k, other in enumerate(different) if np.array_equal(other, small)), len(different)))
        different += [small] if number[-1] == len(different) else []
    images = {f"images_{k}": small for k, small in enumerate(different)}
    return {"rows": np.asarray(rows), "of": np.array(of), "input": np.array(number), **images}


def _select_spread(alike: NDArray[np.float64], targets: NDArray[np.int64], per_class: int) -> list[int]:
    """Return `per_class` rows of every class, evenly spread from the least to the most similar, or the first image."""
    rows: list[int] = []
    for k in range(int(targets.max()) + 1):
        of_class = np.flatnonzero((targets == k) & ~np.isnan(alike))
        of_class = of_class[np.argsort(alike[of_class], kind="stable")]
        rows += (
            of_class[np.unique((np.arange(per_class) + 0.5) / per_class * len(of_class)).astype(int)].tolist()
            if len(of_class)
            else []
        )
    return list(dict.fromkeys(rows)) or [0]


def _build_metrics(means: pd.DataFrame, classes: Sequence[str]) -> dict[str, Metric]:
    """Return each metric over all classes and by class, and the same for maps of different images."""
    rows = {(row["class"], row["metric"]): row for __, row in means.iterrows()}
    metrics: dict[str, Metric] = {}
    for name, metric in product((ALL_CLASSES, *classes), OVERLAP_MEASURES):
        row, full = rows.get((name, metric)), metric if name == ALL_CLASSES else f"{metric}/{name}"
        for key, (value, low, high, floor, method) in {full: _SAME_IMAGE, f"null/{full}": _OTHER_IMAGES}.items():
            if row is None:
                metrics[key] = Metric(None, 0, higher_is_better=None, reason=Reason("class_not_sampled"))
                continue
            numbers, base = (row[value], row[low], row[high]), None if np.isnan(row[floor]) else float(row[floor])
            metrics[key] = metric_with_interval(*numbers, int(row["n"]), method, None, base, Reason("too_few_maps"))
    return metrics


Floats = NDArray[np.float64]

ALL_CLASSES = "(all)"  # value of column `class` for all classes
MEAN_OF_PAIRS = ""  # value of columns `a` and `b` for the mean over pairs


@dataclass(frozen=True)
class Overlap:
    """Overlap of P pairs of runs on n images, with K metrics each.

    `pairs` are positions of runs. `values` (P + 1, K, n) compare maps of the same image, `others` those of different
    images of its class, `shuffled_cells` maps with shuffled cells; the last of P + 1 is the mean over pairs. `permuted`
    (P + 1, K, C + 1, B) are means over the images of all classes and of each, with maps permuted among images;
    `permuted_apart` are the same without maps assigned to the same image.
    """

    pairs: list[tuple[int, int]]
    values: Floats
    others: Floats
    shuffled_cells: Floats
    permuted: Floats
    permuted_apart: Floats


def compute_overlap(
    maps: Sequence[NDArray[np.floating]], targets: NDArray[np.int64], classes: int, times: int, seed: int
) -> Overlap:
    """Compare the raw maps (n, h, w) of each two runs; permute them `times` times within classes."""
    pairs = list(combinations(range(len(maps)), 2))
    measured = [list(attribution_maps.overlaps(maps[a], maps[b]).values()) for a, b in pairs]
    rng = np.random.default_rng(seed)
    places = [attribution_maps.shuffle_within_strata(targets, times, rng) for _ in maps]
    chances = [list(attribution_maps.chance_overlaps(maps[a], maps[b]).values()) for a, b in pairs]
    masks = _build_class_masks(targets, classes)
    apart = [[np.where(np.eye(len(table), dtype=np.bool_), np.nan, table) for table in tables] for tables in measured]
    permuted = (
        np.stack([_average_permuted(way, pairs, places, masks) for way in zip(*ways, strict=True)], axis=1)
        for ways in (measured, apart)
    )
    values = [[np.diag(table) for table in tables] for tables in measured]
    others = [[attribution_maps.overlap_with_other_images(table, targets) for table in tables] for tables in measured]
    # the last of each is the mean over pairs
    kinds = (np.array([*kind, nan_mean(np.array(kind), axis=0)]) for kind in (values, others, chances))
    return Overlap(pairs, *kinds, *permuted)


def tabulate_images(maps: Overlap, runs: Sequence[str], images: Predictions) -> pd.DataFrame:
    """Return one row per image and pair, with each metric and its value with maps of other images of the class."""
    frames, names = [], [*OVERLAP_MEASURES, *(f"null_{name}" for name in OVERLAP_MEASURES)]
    for (a, b), values, others in zip(maps.pairs, maps.values, maps.others, strict=False):
        columns = {"path": images.paths, "class": np.array(images.classes)[images.targets], "a": runs[a], "b": runs[b]}
        frames.append(pd.DataFrame(columns | dict(zip(names, [*values, *others], strict=True))))
    return pd.concat(frames, ignore_index=True)


def tabulate_summary(maps: Overlap, runs: Sequence[str], images: Predictions, options: IntervalOptions) -> pd.DataFrame:
    """Tabulate each pair, class and metric: mean and null with intervals; MEAN_OF_PAIRS and ALL_CLASSES come last.

    `p` is the proportion of permutations, the true assignment among them, with at least this value; `above_null` means
    that it is at most 1 - level. The range of the null is that of means over different images only.
    """
    names = [(runs[a], runs[b]) for a, b in maps.pairs] + [(MEAN_OF_PAIRS, MEAN_OF_PAIRS)]
    rows = [(*pair, metric) for pair in names for metric in OVERLAP_MEASURES]
    level, kinds = options.level, {"value": maps.values, "null": maps.others, "null_random": maps.shuffled_cells}
    parts = []
    masks = _build_class_masks(images.targets, len(images.classes))
    for number, (name, mask) in enumerate(zip([ALL_CLASSES, *images.classes], masks, strict=True)):
        if not mask.any():
            continue
        part = pd.DataFrame(rows, columns=["a", "b", "metric"]).assign(**{"class": name})
        columns = {kind: values[:, :, mask].reshape(len(rows), -1).T for kind, values in kinds.items()}
        part = part.assign(**{kind: nan_mean(values, axis=0) for kind, values in columns.items()})
        mean, groups = stats.build_mean_statistic(columns["value"]), images.groups[mask]
        bounds = np.where(part["metric"].str.startswith("iou"), 0, -1), 1
        dealt, apart = (ways[:, :, number].reshape(len(rows), -1) for ways in (maps.permuted, maps.permuted_apart))
        part["low"], part["high"] = stats.bootstrap_interval(
            mean, groups, options.resamples, level, options.seed, bounds
        )
        part["null_low"], part["null_high"] = stats.percentiles(apart.T, level)
        as_much = (dealt >= part[["value"]].to_numpy() - 1e-9).sum(axis=1)
        part["p"] = np.where(part["value"].isna(), np.nan, (1 + as_much) / (1 + dealt.shape[1]))
        part["n"] = (~np.isnan(columns["value"])).sum(axis=0)
        parts.append(part)
    table = pd.concat(parts[1:] + parts[:1], ignore_index=True)
    table["above_null"] = table["p"] <= 1 - level + 1e-9
    wanted = ["a", "b", "class", "metric", "n", "value", "low", "high", "null", "null_low", "null_high"]
    return table[[*wanted, "null_random", "p", "above_null"]]


def _average_permuted(
    tables: Sequence[Floats],
    pairs: list[tuple[int, int]],
    places: list[NDArray[np.intp]],
    masks: list[NDArray[np.bool_]],
) -> Floats:
    """Compute the means (P + 1, C + 1, B) of one metric; a run's maps are permuted alike in all its pairs."""
    total, counts, averages = np.zeros(places[0].shape), np.zeros(places[0].shape), []
    for table, (a, b) in zip(tables, pairs, strict=True):
        values = table[places[a], places[b]]
        total, counts = total + np.nan_to_num(values), counts + ~np.isnan(values)
        averages.append([nan_mean(values[:, mask], axis=1) for mask in masks])
    mean = np.divide(total, counts, out=np.full(total.shape, np.nan), where=counts > 0)
    return np.array([*averages, [nan_mean(mean[:, mask], axis=1) for mask in masks]])


def _build_class_masks(targets: NDArray[np.int64], classes: int) -> list[NDArray[np.bool_]]:
    return [np.ones(len(targets), dtype=np.bool_), *(targets == k for k in range(classes))]

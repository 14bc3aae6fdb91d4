"""Grad-CAM maps of several runs on the same images, for blocks that compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from avatar_bench.console.progress import track
from avatar_bench.errors import BlockError
from avatar_bench.evaluation.block import group_by_recipe
from avatar_bench.metrics import plots
from avatar_bench.models import attribution
from avatar_bench.results.reasons import Reason

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.models.attribution import SpatialLayer
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

MAPPED_CLASSES = ("target", "prediction")
MAX_WALL_RUNS = 20  # more rows of a wall are hard to distinguish
_WALL_PIXELS = 160  # side of an image of a wall, whose cells have 130 pixels


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


def compute_maps(
    runs: Sequence[Run],
    datasets: Sequence[Dataset],
    predictions: Sequence[Predictions],
    rows: NDArray[np.integer],
    of: str,
) -> tuple[list[RunMaps], list[Reason]]:
    """Compute each run's maps of the given `rows` of its aligned predictions; return them with warnings.

    The maps are of the "target" or of the "prediction". A run without a spatial layer is left out with a warning. Raise
    BlockError if no run has one.
    """
    made, found, places = [], [], {name: place for place, name in enumerate(group_by_recipe(runs))}
    every = zip(runs, datasets, predictions, strict=True)
    for run, dataset, aligned in track(every, "maps", len(runs), "run"):
        try:
            made.append(_compute_run_maps(run, dataset, aligned.take(rows), places[run.recipe], of))
        except BlockError:
            found.append(Reason("no_spatial_map", run=run.label))
        run.predictor.unload()
    if not made:
        advice = "Grad-CAM maps cannot be compared; choose other runs."
        raise BlockError("No run has a layer with a spatial map.", advice)
    for panel in made:
        reasons = warn_about_maps(panel.layer, panel.maps)
        found += [Reason("of_runs", runs=panel.label, reason=reason) for reason in reasons]
    ways = sorted({run.preprocessing.resize for run in runs})
    return made, found + ([Reason("resized_differently", ways=ways)] if len(ways) > 1 else [])


def warn_about_maps(layer: SpatialLayer, maps: NDArray[np.float32]) -> list[Reason]:
    """Return warnings about maps that are not of the last stage, and about empty ones."""
    found = [] if layer.last else [Reason("maps_of_earlier_layer", layer=layer.name)]
    empty = int((maps.max(axis=(1, 2)) == 0).sum())
    return found + ([Reason("empty_maps", n=empty, all=len(maps))] if empty else [])


def collect_arrays(made: Sequence[RunMaps]) -> dict[str, NDArray[Any]]:
    """Return the contents of maps.npz: `maps_<k>` (n, h, w) of run k of `runs`, with their images and classes."""
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


def collect_thumbnails(made: Sequence[RunMaps], rows: NDArray[np.integer], of: str) -> dict[str, NDArray[Any]]:
    """Return what a wall of the images in `rows` draws beside maps.npz: their thumbnails, `images_<k>` (R, s, s, 3).

    Those of the first runs are `input` (runs,): runs with the same input share them.
    """
    different: list[NDArray[np.uint8]] = []
    number = []
    for panel in made[:MAX_WALL_RUNS]:
        small = np.stack([plots.make_thumbnail(panel.images[row], _WALL_PIXELS) for row in rows])
        number.append(next((k for k, other in enumerate(different) if np.array_equal(other, small)), len(different)))
        different += [small] if number[-1] == len(different) else []
    images = {f"images_{k}": small for k, small in enumerate(different)}
    return {"rows": np.asarray(rows), "of": np.array(of), "input": np.array(number), **images}


def _compute_run_maps(run: Run, dataset: Dataset, aligned: Predictions, place: int, of: str) -> RunMaps:
    network = run.predictor.module
    row = {path: number for number, path in enumerate(dataset.frame["path"])}
    inputs = run.predictor.read_inputs(dataset, [row[str(path)] for path in aligned.paths])
    layer = attribution.find_spatial_layer(network, inputs)
    shown = aligned.targets if of == "target" else aligned.predicted
    own = np.array([run.classes.index(name) for name in aligned.classes])  # the run's class order may differ
    maps = attribution.compute_grad_cam(network, layer, inputs, own[shown], run.batch_size)
    return RunMaps(run.label, place, layer, maps, shown, inputs.permute(0, 2, 3, 1).numpy(), aligned)

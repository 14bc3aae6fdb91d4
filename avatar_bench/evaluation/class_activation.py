"""Grad-CAM maps of several runs on the same images, for blocks that compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from avatar_bench.errors import BlockError
from avatar_bench.evaluation.block import group_by_recipe
from avatar_bench.i18n import _
from avatar_bench.models import attribution

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.models.attribution import SpatialLayer
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

MAPPED_CLASSES = ("target", "prediction")


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

    def take(self, rows: NDArray[np.integer]) -> RunMaps:
        """Return a selection of the images."""
        parts = (self.maps[rows], self.mapped[rows], self.images[rows], self.predictions.take(rows))
        return RunMaps(self.label, self.place, self.layer, *parts)


def compute_maps(
    runs: Sequence[Run],
    datasets: Sequence[Dataset],
    predictions: Sequence[Predictions],
    rows: NDArray[np.integer],
    of: str,
) -> tuple[list[RunMaps], list[str]]:
    """Compute each run's maps of the given `rows` of its aligned predictions; return them with warnings.

    The maps are of the "target" or of the "prediction". A run without a spatial layer is left out with a warning. Raise
    BlockError if no run has one.
    """
    made, messages, places = [], [], {name: place for place, name in enumerate(group_by_recipe(runs))}
    every = zip(runs, datasets, predictions, strict=True)
    for run, dataset, aligned in tqdm(every, "maps", len(runs), leave=False, disable=None):
        try:
            made.append(_compute_run_maps(run, dataset, aligned.take(rows), places[run.recipe], of))
        except BlockError as error:
            messages.append(_("{run} is left out: {reason}", run=run.label, reason=" ".join(error.lines)))
        run.unload_model()
    if not made:
        raise BlockError(
            "No run has a layer with a spatial map.", "Grad-CAM maps cannot be compared; choose other runs."
        )
    return made, messages + _warn_about_maps(made) + _warn_about_resizing(runs)


def collect_arrays(made: Sequence[RunMaps]) -> dict[str, NDArray[np.generic]]:
    """Return the contents of maps.npz: `maps_<k>` (n, h, w) of run k of `runs`, with their images and classes."""
    first = made[0].predictions
    return {
        **{f"maps_{number}": panel.maps for number, panel in enumerate(made)},
        "runs": np.array([panel.label for panel in made], dtype=np.str_),
        "shown": np.stack([panel.mapped for panel in made]),
        "paths": first.paths,
        "targets": first.targets,
        "groups": first.groups,
        "classes": np.array(first.classes, dtype=np.str_),
    }


def _compute_run_maps(run: Run, dataset: Dataset, aligned: Predictions, place: int, of: str) -> RunMaps:
    row = {path: number for number, path in enumerate(dataset.frame["path"])}
    inputs = run.inputs(dataset, [row[str(path)] for path in aligned.paths])
    layer = attribution.find_spatial_layer(run.classifier, inputs)
    shown = aligned.targets if of == "target" else aligned.predicted
    own = np.array([run.classes.index(name) for name in aligned.classes])  # the run's class order may differ
    maps = attribution.compute_grad_cam(run.classifier, layer, inputs, own[shown], run.batch_size)
    return RunMaps(run.label, place, layer, maps, shown, inputs.permute(0, 2, 3, 1).numpy(), aligned)


def _warn_about_maps(made: Sequence[RunMaps]) -> list[str]:
    messages = []
    for panel in made:
        name, n = panel.label, len(panel.maps)
        if not panel.layer.last:
            layer = panel.layer.name
            messages.append(
                _(
                    "{run}: maps of {layer} are used; no later stage has a spatial map that affects the prediction",
                    run=name,
                    layer=layer,
                )
            )
        if empty := int((panel.maps.max(axis=(1, 2)) == 0).sum()):
            messages.append(
                _("{run}: {n} of {total} maps are empty: no cell has a positive activation", run=name, n=empty, total=n)
            )
    return messages


def _warn_about_resizing(runs: Sequence[Run]) -> list[str]:
    ways = sorted({run.preprocessing.resize for run in runs})
    if len(ways) == 1:
        return []
    return [
        _(
            "the runs resize images differently ({ways}), so map cells cover different image regions",
            ways=", ".join(ways),
        )
    ]

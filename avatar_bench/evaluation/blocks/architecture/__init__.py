"""Block architecture: stages, layers, depth, cost and first layers of a network, measured on the network itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from avatar_bench.config.options import Options
from avatar_bench.evaluation.blocks.architecture import figures
from avatar_bench.evaluation.model_traits import read_starting_weights
from avatar_bench.i18n import _
from avatar_bench.models import first_layers
from avatar_bench.models.inspection import NetworkSummary, inspect_network
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run


MAX_CHANNELS = 4  # channels shown per layer
MAX_SHOWN_CLASSES = 6  # classes with a shown image


@dataclass(kw_only=True)
class Architecture(Options):
    """Description of a run's network: structure, cost on one image, and first layers on an image per class."""

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Return sizes, tables of traits, stages and layers, a diagram, first filters and first feature maps."""
        size = run.preprocessing.size
        anatomy = inspect_network(run.classifier.net, size)
        result = Result("architecture", dataset.name, len(dataset), run.classes)
        result.metrics = _compute_metrics(anatomy, size)
        start = read_starting_weights(run)
        traits = anatomy.traits | {"pretraining": str(start), "trained_with": start.trained}
        result.tables = {"traits": pd.DataFrame([traits]), "stages": anatomy.stages, "layers": anatomy.layers}
        result.figures = {"diagram": figures.draw_diagram(anatomy, run.card.backbone, size, len(run.classes))}
        result.provenance = {"backbone": run.card.backbone, "network": type(run.classifier.net).__name__}
        self._show_first_layers(result, run, dataset.available)
        return result

    def _show_first_layers(self, result: Result, run: Run, dataset: Dataset) -> None:
        """Add filters and feature maps to a result, or the reason why there are none."""
        name = first_layers.find_first_convolution(run.classifier.net, run.preprocessing.size)
        if name is None:
            result.warnings.append(_("No filters are shown: the first layer is not a convolution of the image."))
        else:
            weights = first_layers.get_filters(run.classifier.net, name)
            result.arrays["filters"] = {"layer": np.array(name), "weights": weights}
            result.figures["filters"] = figures.draw_filters(weights, name)
        labels = dataset.frame["label"].to_numpy()
        rows = [int(np.flatnonzero(labels == each)[0]) for each in run.classes if each in labels][:MAX_SHOWN_CLASSES]
        if not rows:
            result.warnings.append(_("No feature maps are shown: no image of a known class is available."))
            return
        images = run.inputs(dataset, rows)
        maps = first_layers.compute_feature_maps(run.classifier, images, name, MAX_CHANNELS)
        if not maps:
            result.warnings.append(
                _("No feature maps are shown: the first layers of this network have no spatial output.")
            )
            return
        shown = images.permute(0, 2, 3, 1).numpy()
        result.arrays["feature_maps"] = {
            "paths": dataset.frame["path"].iloc[rows].to_numpy(dtype=str),
            "labels": labels[rows].astype(str),
            "images": shown,
            "layers": np.array([each.layer for each in maps]),
            **{f"channels_{number}": each.channels for number, each in enumerate(maps)},
            **{f"maps_{number}": each.maps for number, each in enumerate(maps)},
        }
        result.figures["feature_maps"] = figures.draw_feature_maps(shown, list(labels[rows]), maps)


def _compute_metrics(anatomy: NetworkSummary, size: int) -> dict[str, Metric]:
    return {
        "params_m": Metric(float(anatomy.layers["params"].sum() / 1e6), 1, higher_is_better=False),
        "macs_g": Metric(float(anatomy.layers["macs"].sum() / 1e9), 1, higher_is_better=False),
        "depth": Metric(float(anatomy.depth), 1, higher_is_better=None),
        "input_size": Metric(float(size), 1, higher_is_better=None),
    }

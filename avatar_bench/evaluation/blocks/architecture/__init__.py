"""Block architecture: stages, layers, depth, cost and first layers of a network, measured on the network itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.options import Options
from avatar_bench.evaluation.starting_weights import read_starting_weights
from avatar_bench.models import inspection
from avatar_bench.models.inspection import inspect_network
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run

MAX_CHANNELS = 4  # channels shown per layer
MAX_SHOWN_CLASSES = 6  # classes with a shown image


@dataclass(kw_only=True)
class Architecture(Options):
    """Description of a run's network: structure, cost on one image, and first layers on an image per class."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("module",)

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute sizes, tables of traits, stages and layers, the first filters and the first feature maps."""
        net, size = run.predictor.module.net, run.preprocessing.size
        anatomy, start = inspect_network(net, size), read_starting_weights(run)
        result = Result("architecture", dataset.name, len(dataset), run.classes)
        counts = anatomy.layers[["params", "macs"]].sum()
        sizes = {"params_m": counts["params"] / 1e6, "macs_g": counts["macs"] / 1e9}
        shape = {"depth": anatomy.depth, "input_size": size}
        result.metrics = {name: Metric(float(value), 1, higher_is_better=False) for name, value in sizes.items()}
        result.metrics |= {name: Metric(int(value), 1, higher_is_better=None) for name, value in shape.items()}
        traits = anatomy.traits | {"pretraining": str(start), "trained_with": start.trained}
        result.tables = {"traits": pd.DataFrame([traits]), "stages": anatomy.stages, "layers": anatomy.layers}
        result.provenance = {"backbone": run.card.backbone, "network": type(net).__name__}
        name = inspection.find_first_convolution(net, size)
        if name is None:
            result.warnings.append(Reason("no_first_convolution"))
        else:
            weights = net.get_parameter(f"{name}.weight").detach().float().cpu().numpy().copy()
            result.arrays["filters"] = {"layer": np.array(name), "weights": weights}
        feature_maps = _collect_feature_maps(run, dataset.available, name)
        if isinstance(feature_maps, Reason):
            result.warnings.append(feature_maps)
        else:
            result.arrays["feature_maps"] = feature_maps
        return result


def _collect_feature_maps(run: Run, dataset: Dataset, convolution: str | None) -> dict[str, NDArray[Any]] | Reason:
    """Return the feature maps of an image of each class with these images, or the reason why there are none."""
    labels = dataset.frame["label"].to_numpy()
    rows = [int(np.flatnonzero(labels == label)[0]) for label in run.classes if label in labels][:MAX_SHOWN_CLASSES]
    if not rows:
        return Reason("no_images")
    images = run.predictor.read_inputs(dataset, rows)
    maps = inspection.compute_feature_maps(run.predictor.module, images, convolution, MAX_CHANNELS)
    if not maps:
        return Reason("no_spatial_output")
    return {
        "paths": dataset.frame["path"].iloc[rows].to_numpy(dtype=str),
        "labels": labels[rows].astype(str),
        "images": images.permute(0, 2, 3, 1).numpy(),
        "layers": np.array([label.layer for label in maps]),
        **{f"channels_{number}": label.channels for number, label in enumerate(maps)},
        **{f"maps_{number}": label.maps for number, label in enumerate(maps)},
    }

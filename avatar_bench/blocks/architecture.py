"""architecture: a network's stages, layers, depth and cost, read off the network itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from avatar_bench.blocks import _architecture_figures as figures
from avatar_bench.blocks._transformer_traits import start_of
from avatar_bench.blocks.base import RunBlock
from avatar_bench.models.anatomy import Anatomy, dissect
from avatar_bench.results import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.manifest import Dataset
    from avatar_bench.runs import Run


@dataclass(kw_only=True)
class Architecture(RunBlock):
    """Describe a run's network by inspection and by how it runs on one picture; no picture of the set is read."""

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Give sizes, a table of traits, of stages and of layers, and a diagram."""
        size = run.preprocessing.size
        anatomy = dissect(run.classifier.net, size)
        result = Result("architecture", dataset.name, len(dataset), run.classes)
        result.metrics = _metrics(anatomy, size)
        start = start_of(run)
        traits = anatomy.traits | {"pretraining": str(start), "trained_with": start.trained}
        result.tables = {"traits": pd.DataFrame([traits]), "stages": anatomy.stages, "layers": anatomy.layers}
        result.figures = {"diagram": figures.diagram(anatomy, run.card.backbone, size, len(run.classes))}
        result.provenance = {"backbone": run.card.backbone, "network": type(run.classifier.net).__name__}
        return result


def _metrics(anatomy: Anatomy, size: int) -> dict[str, Metric]:
    return {
        "params_m": Metric(float(anatomy.layers["params"].sum() / 1e6), 1, higher_is_better=False),
        "macs_g": Metric(float(anatomy.layers["macs"].sum() / 1e9), 1, higher_is_better=False),
        "depth": Metric(float(anatomy.depth), 1, higher_is_better=None),
        "input_size": Metric(float(size), 1, higher_is_better=None),
    }

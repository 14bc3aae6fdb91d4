"""Every block on averaged ensembles: no metric is computed from a score that the predictor lacks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avatar_bench.config.catalogue import list_blocks
from avatar_bench.errors import BlockError
from avatar_bench.evaluation import registry
from avatar_bench.evaluation.block import CompareBlock, RunBlock
from avatar_bench.inference.network_predictor import NetworkPredictor
from avatar_bench.metrics.averaging import AveragingWeights
from avatar_bench.results.predictions import Predictions
from avatar_bench.results.result import Metric
from avatar_bench.runs.ensembles import describe_ensemble, open_run, save_ensemble
from avatar_bench.runs.run import Run

WEIGHTS = {"even": [0.5, 0.5], "uneven": [0.2, 0.8]}
QUICK: dict[str, dict[str, Any]] = {
    "robustness": {"severities": [3], "delivery": ["web"]},
    "clusters": {"permutations": 2},
    "error_bias": {"minimum": 5},
    "integrated_score": {"weights": {"speed": 0, "size": 0}},
}
LEFT_OUT = {  # they need a network, or runs that a sweep has trained
    *("architecture", "efficiency", "gradcam", "leave_one_source_out", "shots"),
}


@pytest.fixture(scope="module")
def folder(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of three epochs, and two averages of them."""
    root = tmp_path_factory.mktemp("averaged")
    runs = [open_run(train(root / f"lr{number}", "epochs=3", f"lr={lr}")) for number, lr in enumerate(("3e-3", "1e-3"))]
    for name, weights in WEIGHTS.items():
        mix = AveragingWeights(np.array(weights), np.array([1.0, 2.0]))
        save_ensemble(root / name, describe_ensemble("ensemble", runs, mix, 1.3, runs[0].classes))
    return root


@pytest.fixture(scope="module")
def walk(folder: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Metric]]:
    """Put both averages through all blocks, and give every metric by block, run and name.

    What the members say is `moved`, each image's logits by one number, which leaves its probabilities as they are, and
    `has_logits` or not.
    """
    sets = {"near": str(images / "blind" / "drawing" / "new-drawing"), "shifted": str(images / "blind" / "real")}
    described = NetworkPredictor.describe

    def put_through(moved: bool, has_logits: bool) -> dict[str, Metric]:
        def describe_member(predictor: NetworkPredictor, *given: Any) -> Predictions:
            made = described(predictor, *given)
            levels = np.random.default_rng(len(made)).integers(-8, 9, (len(made), 1)) if moved else 0
            return replace(made, logits=(made.logits + levels).astype(np.float32), has_logits=has_logits)

        root = Path(shutil.copytree(folder, tmp_path_factory.mktemp("walk") / "runs"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(NetworkPredictor, "describe", describe_member)
            return _metrics(
                [open_run(root / name, label=name, recipe=name, workers=0, others=sets) for name in WEIGHTS]
            )

    return put_through


def _metrics(runs: list[Run]) -> dict[str, Metric]:
    found: dict[str, Metric] = {}
    left_out = set()
    built = {
        name: registry.build_block(name, QUICK.get(name)) for name in list_blocks(("run", "comparison", "dataset"))
    }
    datasets = [run.dataset("test") for run in runs]
    for name, block in sorted(built.items(), key=lambda one: isinstance(one[1], CompareBlock)):
        if hasattr(block, "resamples"):
            block = replace(block, resamples=100)
        try:
            if isinstance(block, RunBlock):
                for run, dataset in zip(runs, datasets, strict=True):
                    result = block.evaluate(run, dataset)
                    result.provenance = {"checkpoint_sha256": run.checkpoint_sha256}
                    result.save(run.folder / "evaluation" / "test" / name)  # type: ignore[operator]
                    found |= {f"{name}/{run.label}/{metric}": about for metric, about in result.metrics.items()}
            elif isinstance(block, CompareBlock):
                found |= {f"{name}//{metric}": about for metric, about in block.compare(runs, datasets).metrics.items()}
        except BlockError:
            left_out.add(name)
    assert left_out == LEFT_OUT
    return found


def _differ(first: Metric, second: Metric) -> bool:
    if first.value is None or second.value is None:
        return first.value is not second.value
    return abs(first.value - second.value) > 1e-4


@pytest.mark.slow
def test_no_metric_of_any_block_is_computed_from_a_score_that_the_predictor_lacks(
    walk: Callable[..., dict[str, Metric]],
) -> None:
    plain, moved, lacking = walk(False, True), walk(True, True), walk(True, False)
    assert set(plain) == set(moved) == set(lacking)
    of_logits = {name for name in plain if _differ(plain[name], moved[name])}
    scored = {f"out_of_domain/{run}/auroc/near/{score}" for run in WEIGHTS for score in ("energy", "max_logit")}
    assert scored | {f"integrated_score//score/{run}" for run in WEIGHTS} <= of_logits
    assert all(name.endswith(("/energy", "/max_logit")) or name.startswith("integrated") for name in of_logits)
    null = {name for name in plain if _differ(plain[name], lacking[name])}
    assert of_logits <= null
    assert all(lacking[name].value is None and "needs_logits" in str(lacking[name].reason) for name in null)

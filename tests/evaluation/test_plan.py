"""Plan of an evaluation: runs of one command that share what is computed for each image."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from avatar_bench.commands.evaluate import EvaluateConfig
from avatar_bench.data.corruptions import Corruption, Delivery
from avatar_bench.data.loaders import VariedImageDataset
from avatar_bench.evaluation.plan import EvaluationPlan
from avatar_bench.inference import predictor
from avatar_bench.runs.run import Run

VARIATIONS = [Corruption("noise", 3), Corruption("blur", 1), Delivery("web")]


@pytest.mark.parametrize(
    ("n_passes", "limit"), [(1, "_BYTES_OF_NETWORKS"), (2, "_BYTES_OF_NETWORKS"), (3, "_BYTES_PER_PASS")]
)
def test_images_are_corrupted_once_for_all_runs_and_predictions_are_those_of_a_run_alone(
    n_passes: int, limit: str, run_pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if n_passes > 1:  # memory for one network at a time, or for one variation
        monkeypatch.setattr(predictor, limit, 1)
    rows: list[int] = []
    read = VariedImageDataset.__getitem__
    monkeypatch.setattr(VariedImageDataset, "__getitem__", lambda self, row: rows.append(row) or read(self, row))
    ignored = shutil.ignore_patterns("evaluation", "predictions")
    copies = [str(shutil.copytree(run, tmp_path / run.name, ignore=ignored)) for run in run_pair]
    settings = EvaluateConfig(ckpt=copies, block={"robustness": {}})
    settings.data.kind, settings.data.workers = "run", 0
    plan = EvaluationPlan(settings)
    together = [
        run.variations(runner.datasets[0], VARIATIONS) for run, runner in zip(plan.runs, plan.runners, strict=True)
    ]
    n_images = len(plan.runners[0].datasets[0])
    assert sorted(rows) == sorted([*range(n_images)] * n_passes)
    for copy, varied in zip(copies, together, strict=True):
        shutil.rmtree(Path(copy) / "predictions")
        run = Run.open(copy, workers=0)
        for shared, alone in zip(varied, run.variations(run.dataset("test"), VARIATIONS), strict=True):
            assert np.array_equal(shared.logits, alone.logits)
            assert shared.paths.tolist() == alone.paths.tolist()
    assert not np.array_equal(together[0][0].logits, together[1][0].logits)

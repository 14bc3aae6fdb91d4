"""pretrain: pretrain a backbone on images without labels."""

from __future__ import annotations

import numpy as np
from omegaconf import OmegaConf

from avatar_bench.config.rules import check_pretrain
from avatar_bench.config.schema import PretrainConfig
from avatar_bench.training.job import run_job
from avatar_bench.training.preparation import prepare_pretraining


def execute(options: PretrainConfig) -> float:
    """Pretrain the configured backbone; return its k-NN accuracy, NaN if it has none.

    Raises AvatarBenchError of every kind; files already written are kept, with the reason in run.json.
    """
    _, record = run_job(OmegaConf.structured(options), "pretrain", check_pretrain, prepare_pretraining)
    return record.metrics.get("probe/knn_accuracy", np.nan)

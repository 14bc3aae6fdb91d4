"""train: train one run, stage by stage."""

from __future__ import annotations

from omegaconf import DictConfig

from avatar_bench.config.rules import check_train
from avatar_bench.files.table_io import use_table_format
from avatar_bench.runs.record import METRIC
from avatar_bench.training.job import run_job
from avatar_bench.training.preparation import prepare_training


def train(cfg: DictConfig) -> float:
    """Train the configured Run; return its best val macro-F1.

    Raises AvatarBenchError of every kind; files already written are kept, with the reason in run.json.
    """
    with use_table_format(cfg.tables):
        return run_job(cfg, "train", check_train, prepare_training).metrics[METRIC]

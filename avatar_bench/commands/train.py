"""train: train one run, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from avatar_bench.config.rules import check_config
from avatar_bench.config.schema import TrainConfig
from avatar_bench.files.table_io import use_table_format
from avatar_bench.runs.record import METRIC, PROBE
from avatar_bench.training.admission import admit_images
from avatar_bench.training.job import Job, run_job


@dataclass(frozen=True)
class TrainedRun:
    """Folder of a finished run; as a number, its best val macro-F1, which a search maximises."""

    folder: Path
    macro_f1: float

    def __float__(self) -> float:
        return self.macro_f1


def execute(options: TrainConfig) -> TrainedRun:
    """Train the configured Run; return its folder and its best val macro-F1.

    Raises AvatarBenchError of every kind; files already written are kept, with the reason in run.json.
    """
    with use_table_format(options.tables):
        cfg = OmegaConf.structured(options)
        folder, record = run_job(cfg, "train", check_config, admit_images, _create_job)
    return TrainedRun(folder, record.metrics[METRIC])


def _create_job(settings: TrainConfig, *prepared: Any) -> Job:
    """Import the class of the steps after `prepare`, and torch with it, and build it."""
    if settings.mode.name == PROBE:
        from avatar_bench.training.probe_job import ProbeJob

        return ProbeJob(settings, *prepared)
    from avatar_bench.training.classifier_job import ClassifierJob

    return ClassifierJob(settings, *prepared)

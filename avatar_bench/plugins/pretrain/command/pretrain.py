"""pretrain: pretrain a backbone on images without labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
from omegaconf import MISSING, DictConfig, OmegaConf

from avatar_bench.commands.train import (
    AugmentConfig,
    CallbacksConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    TrainerConfig,
    check_training,
    check_warmup,
)
from avatar_bench.config.options import copy_option, option, path_option
from avatar_bench.config.rules import check_config
from avatar_bench.config.schema import (
    COUNT,
    FRACTION,
    INSIDE,
    POSITIVE,
    PROBABILITY,
    SplitDataConfig,
    StageConfig,
    format_alternatives,
)
from avatar_bench.errors import ConfigError

_MULTIPLE: dict[str, Any] = {"check": lambda value: value >= 32 and value % 32 == 0, "expected": "a multiple of 32"}
_METHODS, _CONTRAST = ("simclr", "dino", "mae"), ("simclr", "dino")
_GUARDS = ("pretraining", "near_duplicates", "test_images")


@dataclass
class MethodConfig:
    name: str = option(MISSING, help="objective of the pretraining", choices=_METHODS, expected="simclr, dino or mae")
    lr: float = copy_option(StageConfig, "lr", help="used unless lr= is set")
    temperature: float | None = option(None, help="of the loss or of the teacher", only_for=_CONTRAST, **POSITIVE)
    projection: int | None = option(None, help="dimension of the projection head", only_for=_CONTRAST, **COUNT)
    momentum: float | None = option(
        None, help="initial momentum of the teacher; rises to 1", only_for=("dino",), **PROBABILITY
    )
    local_views: int | None = option(
        None, help="small crops beside the two large ones", only_for=("dino",), range=(0, None)
    )
    mask_ratio: float | None = option(None, help="fraction of patches that are masked", only_for=("mae",), **INSIDE)
    decoder_depth: int | None = option(None, help="blocks of the decoder", only_for=("mae",), **COUNT)
    decoder_width: int | None = option(None, help="features of the decoder", only_for=("mae",), **_MULTIPLE)
    crop_scale: float = option(0.2, help="minimum area of a crop; for local views the maximum", **FRACTION)
    flip: float = copy_option(AugmentConfig, "flip")
    jitter: float = option(0.5, help="strength of colour jitter", **PROBABILITY)
    grey: float = option(0.2, help="probability of a greyscale view", **PROBABILITY)
    blur: float = option(0.5, help="probability", **PROBABILITY)


@dataclass
class ProbeConfig:
    every: int = option(10, help="epochs between probes; the first is before training, the last after it", **COUNT)
    k: int = option(20, help="neighbours that vote", **COUNT)


@dataclass
class PretrainConfig:
    seed: int = copy_option(TrainConfig, "seed")
    epochs: int = copy_option(StageConfig, "epochs", default=100)
    lr: float | None = copy_option(TrainConfig, "lr", help="null: the method's value")
    use_val: bool = option(False, help="also train on val, which train uses to choose its checkpoint")
    lang: str = copy_option(TrainConfig, "lang")
    out: str | None = path_option("output folder; null: below pretrained/")
    resume: str | None = path_option("an interrupted pretraining to continue")
    allow: list[str] = copy_option(TrainConfig, "allow", choices=_GUARDS, expected=format_alternatives(_GUARDS))
    data: SplitDataConfig = field(default_factory=SplitDataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: dict[str, Any] = copy_option(TrainConfig, "schedule")
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: CallbacksConfig = field(default_factory=CallbacksConfig)
    logger: dict[str, Any] = copy_option(TrainConfig, "logger")


def check(cfg: DictConfig) -> None:
    """Raise ConfigError if an option is invalid, or lightly is missing."""
    if find_spec("lightly") is None:
        raise ConfigError("pretrain needs lightly, which is not installed.", "pip install 'avatar-bench[pretrain]'")
    if cfg.optimizer.rho is not None:
        raise ConfigError(f"optimizer.rho={cfg.optimizer.rho}: an option of sam, which pretrain does not support")
    check_training("pretrain", cfg)
    if cfg.method.name == "simclr" and cfg.data.batch_size == 1:
        raise ConfigError("data.batch_size=1: method=simclr contrasts each image with the others in its batch")
    check_warmup(cfg.schedule, [cfg.epochs])
    if cfg.trainer.devices != 1 or cfg.trainer.strategy != "auto":
        raise ConfigError("trainer.devices, trainer.strategy: pretrain runs on one device")


def execute(options: PretrainConfig) -> float:
    """Pretrain the configured backbone; return its k-NN accuracy, NaN if it has none.

    Raises AvatarBenchError of every kind; files already written are kept, with the reason in run.json.
    """
    from avatar_bench.plugins.pretrain.pretraining_images import prepare_pretraining
    from avatar_bench.training.job import run_job

    _, record = run_job(OmegaConf.structured(options), "pretrain", check_config, prepare_pretraining, _create_job)
    return record.metrics.get("probe/knn_accuracy", np.nan)


def _create_job(*prepared: Any) -> Any:
    from avatar_bench.plugins.pretrain.pretraining_job import PretrainingJob  # imports torch

    return PretrainingJob(*prepared)

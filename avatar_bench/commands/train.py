"""train: train one run, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING, DictConfig, OmegaConf

from avatar_bench.config.catalogue import WEIGHTS_CHOICES, find_choices, find_conf_folder
from avatar_bench.config.composition import find_default_choices
from avatar_bench.config.entries import find_entry
from avatar_bench.config.instantiate import build, check_node
from avatar_bench.config.options import option, path_option
from avatar_bench.config.rules import check_config, check_held_out
from avatar_bench.config.schema import (
    COUNT,
    FRACTION,
    LANGUAGE,
    NATURAL,
    POSITIVE,
    PROBABILITY,
    PROFILE,
    SEED,
    TABLES,
    THREAD_COUNT,
    SplitDataConfig,
    StageConfig,
    accept,
    choose,
    format_alternatives,
    guard_option,
)
from avatar_bench.config.validation import list_nodes
from avatar_bench.console.terminal import format_count
from avatar_bench.errors import ConfigError, suggest_names
from avatar_bench.files.output_folder import refuse_among_images
from avatar_bench.models.card_schema import MAX_LIST_ITEMS, NETWORK_OPTIONS, find_option_fault
from avatar_bench.runs.record import METRIC, PROBE

if TYPE_CHECKING:
    from avatar_bench.training.job import Job, TrainedRun

_UNUSED_BY_PROBE = {  # reasons, and the options to which they apply
    "which solves a logistic regression to convergence, without epochs": (
        *("epochs", "lr", "stage", "mode.stages", "callbacks.others"),
    ),
    "which has a solver of its own": ("optimizer", "schedule", "trainer.gradient_clip", "trainer.accumulate"),
    "whose targets are single classes": ("label_smoothing", "teacher", "data.augment.mixup", "data.augment.cutmix"),
    "which computes its features on one device": ("trainer.devices", "trainer.strategy", "trainer.compile"),
}
_ANGLE = accept("from 0 to 180 degrees", lambda value: 0 <= value <= 180)
_SMOOTHING = accept("0 or more and less than 1", lambda value: 0 <= value < 1)
_JITTER = accept("four numbers, 0 or more", lambda values: len(values) == 4 and min(values) >= 0)
_STRENGTHS = accept(
    "one or more numbers above 0", lambda values: bool(values) and all(0 < value < math.inf for value in values)
)
_LAYERS = accept(
    f"up to {MAX_LIST_ITEMS} different numbers of -1 or more",
    lambda values: bool(values) and min(values) >= -1 and len(set(values)) == len(values) <= MAX_LIST_ITEMS,
)
_WEIGHTS = {"choices": WEIGHTS_CHOICES, "is_path": True}


@dataclass
class ModeConfig:
    name: str = option(MISSING, help="name of the mode")
    stages: list[StageConfig] = option(MISSING, help="stages of the training: {unfreeze, epochs, lr} of each")
    shots: int | None = option(None, help="images per class of the training split; null: all", **COUNT)
    val_shots: int | None = option(
        None, help="images per class of val, which are not counted in shots; null: as many as shots", **COUNT
    )
    balance: str = option(
        "sampler", help="how unequal classes and sources are balanced", **choose("sampler", "source", "loss", "none")
    )
    C: list[float] = option(
        [1e-4, 1e-3, 0.01, 0.1],
        help="inverse strengths of regularisation to choose from",
        only_for=(PROBE,),
        **_STRENGTHS,
    )
    layers: list[int] = option(
        [-1], help="-1: the embedding; 0, 1, ...: stages from the stem", only_for=(PROBE,), **_LAYERS
    )


@dataclass
class ModelConfig:
    backbone: str = option(MISSING, help="a name of timm, or of your own backbone/", example="resnet34")
    weights: str = option("hub", help="or a file of weights", **_WEIGHTS)
    package: dict[str, str] | None = option(None, help="pip distribution, file (glob), layout, licence")
    options: dict[str, Any] = option({}, help="of the network, e.g. drop_path_rate", is_open=True)


@dataclass
class AugmentConfig:
    flip: float = option(0.0, help="probability of mirroring; 0: off", **PROBABILITY)
    jitter: list[float] = option([0.0] * 4, help="brightness, contrast, saturation, hue", **_JITTER)
    rotation: float = option(0.0, help="degrees, in both directions; 0: off", **_ANGLE)
    noise: float = option(0.0, help="maximum standard deviation, as a fraction of 255; 0: off", **PROBABILITY)
    randaugment: int = option(0, help="magnitude of two random changes of colour or geometry; 0: off", range=(0, 30))
    delivery: float = option(
        0.0, help="probability of re-encoding as web platforms do, at the image's own size; 0: off", **PROBABILITY
    )
    mixup: float = option(0.0, help="alpha of the Beta distribution; 0: off", **NATURAL)
    cutmix: float = option(0.0, help="alpha of the Beta distribution; 0: off; beside mixup, half each", **NATURAL)
    others: dict[str, Any] = option({}, help="augmentations of your own: {NAME: {OPTION: VALUE}}", is_open=True)


@dataclass
class DataConfig(SplitDataConfig):
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    shuffle_shards: int = option(64, help="shards whose images are shuffled together", only_for=("shards",), **COUNT)
    augmented_copies: int | None = option(None, help="fixed copies per image; null: anew each epoch", **COUNT)


@dataclass
class OptimizerConfig:
    others_in: ClassVar[str] = "options"  # which takes any name set beside the options: the arguments
    name: str | None = option(None, help="a name of timm.optim.list_optimizers(); unused with _target_")
    _target_: str | None = option(None, help="class of an optimizer, such as torch.optim.NAdam; null: by name")
    options: dict[str, Any] = option({}, help="its arguments, as optimizer.momentum=.8 sets them", is_open=True)
    weight_decay: float = option(0.01, help="0: off", **NATURAL)
    layer_decay: float | None = option(None, help="factor of the rate per layer away from the head", **FRACTION)
    decay_norms: bool = option(True, help="also decay norms, biases, tokens and position embeddings")
    rho: float | None = option(
        None, help="radius of sharpness-aware minimisation, ten times as large if adaptive; null: off", **POSITIVE
    )
    adaptive: bool = option(False, help="with rho: scale the perturbation by each weight's size")


@dataclass
class TrainerConfig:
    accelerator: str = option("auto", help="device", **choose("auto", "cpu", "gpu", "cuda", "mps"))
    devices: Any = option(1, help="number of devices, as in Lightning")
    strategy: str = option(
        "auto", help="how devices share a step; auto: ddp if there are several", **choose("auto", "ddp")
    )
    precision: str = option(
        "32", help="auto: chosen by autotune", **choose("32", "auto", "amp", "16-mixed", "bf16-mixed")
    )
    max_epochs: int | None = option(None, help="limit for each stage", **COUNT)
    limit_batches: int | None = option(None, help="limit for each epoch", **COUNT)
    threads: int | None = option(None, help="CPU threads; null: torch's default", **THREAD_COUNT)
    channels_last: bool = option(True, help="memory format that is faster for convolutions")
    compile: bool = option(False, help="compile the network before training")
    gradient_clip: float | None = option(None, help="maximum norm of the gradient", **POSITIVE)
    accumulate: int = option(1, help="batches per optimizer step", **COUNT)
    plugins: dict[str, Any] = option({}, help="of Lightning, by name: {NAME: {_target_: CLASS}}", is_open=True)


@dataclass
class CallbacksConfig:
    others_in: ClassVar[str] = "others"  # which takes any name set beside the options: nodes
    others: dict[str, Any] = option({}, help="by name, as callbacks.NAME._target_=CLASS sets them", is_open=True)
    save_minutes: float = option(5.0, help="minutes between checkpoints in an epoch; 0: after every step", **NATURAL)
    progress: bool = option(True, help="progress bar on a terminal")


@dataclass
class TrainConfig:
    seed: int = option(42, help="training seed; the split has data.split.seed", **SEED)
    stage: int | None = option(None, help="last stage of the mode to train; null: all", **COUNT)
    epochs: int | None = option(None, help="of every stage; null: the mode's value", **COUNT)
    lr: float | None = option(None, help="of every stage; null: the mode's value", **POSITIVE)
    label_smoothing: float = option(0.0, help="part of each target that goes to all classes", **_SMOOTHING)
    lang: str = option("en", help="language of the curves", **LANGUAGE)
    tables: str = option("auto", **TABLES)
    profile: str | None = path_option(**PROFILE)
    out: str | None = path_option("run folder; in a sweep, the folder of its jobs")
    init_from: str | None = path_option("a run whose weights to start from")
    teacher: str | None = path_option("a run or an ensemble whose answers replace the labels of the training images")
    resume: str | None = path_option("an interrupted run to continue")
    allow: list[str] = guard_option("near_duplicates", "label_conflict", "shortcut", "pretraining")
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    mode: ModeConfig = field(default_factory=ModeConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: CallbacksConfig = field(default_factory=CallbacksConfig)
    schedule: dict[str, Any] = option({}, help="{_target_: CLASS} of a learning-rate schedule", is_open=True)
    logger: dict[str, Any] = option({}, help="loggers of Lightning by name: {NAME: {_target_: CLASS}}", is_open=True)


def check(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of train is invalid."""
    check_training("train", cfg)
    for name in cfg.data.augment.others:
        find_entry("augmentation", str(name), f"data.augment.others={{{name}: ...}}")
    stages = cfg.mode.stages
    if cfg.mode.name == PROBE:
        _check_probe(cfg)
    elif not stages:
        raise ConfigError("mode.stages is empty: expected at least one stage")
    elif cfg.stage is not None and cfg.stage > len(stages):
        raise ConfigError(f"stage={cfg.stage}: mode '{cfg.mode.name}' has {format_count(len(stages), 'stage')}")
    else:
        check_warmup(cfg.schedule, [cfg.epochs or stage.epochs for stage in stages[: cfg.stage]])
    if cfg.init_from is not None and cfg.resume is not None:
        raise ConfigError(
            "init_from and resume exclude each other",
            "resume=RUN continues an interrupted run; init_from=RUN starts a new one from its weights",
        )
    ema, swa = cfg.callbacks.others.get("ema"), cfg.callbacks.others.get("swa")
    if ema and swa:
        raise ConfigError("callbacks.ema and callbacks.swa exclude each other: both average weights; set one to null")
    longest = max((cfg.epochs or stage.epochs for stage in stages[: cfg.stage]), default=0)
    if swa and (start := swa.get("start", 0)) >= longest:
        raise ConfigError(
            f"callbacks.swa.start={start}: the longest stage has {longest} epochs, so none would be averaged",
            "expected a smaller number, or more epochs",
        )


def execute(options: TrainConfig) -> TrainedRun:
    """Train the configured Run; return its folder and its best val macro-F1.

    Raises AvatarBenchError of every kind; files already written are kept, with the reason in run.json.
    """
    from avatar_bench.files.table_io import use_table_format
    from avatar_bench.training.admission import admit_images
    from avatar_bench.training.job import TrainedRun, run_job

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


def check_training(command: str, cfg: DictConfig) -> None:
    """Raise ConfigError if an option that train and pretrain share is invalid."""
    data, trainer = cfg.data, cfg.trainer
    refuse_among_images(cfg.out, data.kind == "folder" and data.root)
    check_held_out("data.split", data.split)
    if data.kind == "run":
        raise ConfigError(f"data=run is for evaluate; {command} accepts data=demo, folder, manifest or shards")
    if data.fold >= data.split.folds:
        raise ConfigError(f"data.fold={data.fold}: expected less than data.split.folds={data.split.folds}")
    _check_model(cfg.model)
    if trainer.accelerator not in ("auto", "cpu") or trainer.devices != 1:  # imported only here, since it loads torch
        from avatar_bench.training.environment import refuse_missing_devices

        refuse_missing_devices(trainer.accelerator, trainer.devices)
    if cfg.optimizer.adaptive and cfg.optimizer.rho is None:
        raise ConfigError("optimizer.adaptive=true requires optimizer.rho=VALUE", "For example: optimizer=sam")
    if cfg.optimizer._target_ or cfg.optimizer.options or cfg.optimizer.name not in find_choices("optimizer"):
        from avatar_bench.training.optimization import check_optimizer  # imports torch

        check_optimizer(OmegaConf.to_object(cfg.optimizer))  # type: ignore[arg-type]
    nodes = {"schedule": cfg.schedule} if cfg.schedule else {}
    groups = {"callbacks": cfg.callbacks.others, "logger": cfg.logger, "trainer.plugins": trainer.plugins}
    nodes |= {f"{group}.{name}": node for group, named in groups.items() for name, node in named.items()}
    shipped = [None, *list_nodes((find_conf_folder(),))]  # callbacks.NAME=null: none
    for key, stated in nodes.items():
        node: Any = OmegaConf.to_container(stated, resolve=True) if isinstance(stated, DictConfig) else stated
        if node not in shipped:  # their classes are imported later, with torch
            check_node(key, node)
            if key.startswith("callbacks."):  # which also checks the values
                build(key, node, object)


def _check_model(model: DictConfig) -> None:
    if model.weights not in WEIGHTS_CHOICES and not Path(model.weights).is_file():
        raise ConfigError(
            f"model.weights={model.weights}: no such file{suggest_names(model.weights, WEIGHTS_CHOICES, '')}",
            f"expected {format_alternatives(WEIGHTS_CHOICES)}, or a .safetensors or .pth file",
        )
    known = () if model.backbone in find_choices("backbone") else NETWORK_OPTIONS
    if fault := find_option_fault(OmegaConf.to_container(model.options), known):  # type: ignore[arg-type]
        raise ConfigError(f"model.options: {fault}", f"known: {' '.join(sorted(NETWORK_OPTIONS))}")


def _check_probe(cfg: DictConfig) -> None:
    """Raise ConfigError, with the reason, for an option of training by epochs that a probe would ignore."""
    neutral = OmegaConf.structured(TrainConfig)
    neutral.optimizer.name, neutral.mode.stages = find_default_choices("train")["optimizer"], []
    for reason, options in _UNUSED_BY_PROBE.items():
        for name in options:
            if (value := OmegaConf.select(cfg, name)) != OmegaConf.select(neutral, name):
                shown = f"optimizer={value.name}" if name == "optimizer" else f"{name}={value}"
                otherwise = "remove the option, or train by epochs: mode=frozen, progressive or full"
                raise ConfigError(f"{shown}: not used by mode=probe, {reason}", otherwise)
    if cfg.mode.balance == "sampler":
        raise ConfigError(
            "mode.balance=sampler draws training batches, and mode=probe has none",
            "expected loss, which weights images so that classes weigh alike, source, or none",
        )


def check_warmup(schedule: DictConfig, epochs: Sequence[int]) -> None:
    """Raise ConfigError if the schedule would never lower the learning rate after its warm-up."""
    warmup = schedule.get("warmup_epochs", 0)
    if not isinstance(warmup, int | float) or warmup < 0:
        raise ConfigError(f"schedule.warmup_epochs={warmup}: expected 0 or more")
    if warmup and warmup >= min(epochs):
        trained = format_count(min(epochs), "epoch")
        raise ConfigError(f"schedule.warmup_epochs={warmup}: expected fewer than the {trained} of training")

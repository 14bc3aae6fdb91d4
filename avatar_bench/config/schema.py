"""The schema of every command, and the rules that types cannot say."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import MISSING, DictConfig, OmegaConf

from avatar_bench.config import config_loader
from avatar_bench.config.catalogue import WEIGHTS_CHOICES, find_user_folders
from avatar_bench.config.overrides import quote
from avatar_bench.console.terminal import format_count, print_line
from avatar_bench.errors import ConfigError, suggest_names
from avatar_bench.files.checkpoint_container import refuse_address
from avatar_bench.files.paths import make_folder_name
from avatar_bench.models.card_schema import NETWORK_OPTIONS, find_option_fault
from avatar_bench.runs.record import RESERVED_SET_NAMES


@dataclass
class StageConfig:
    """unfreeze: "classifier", "all", or a number of layer groups counted from the head."""

    unfreeze: Any = "all"
    epochs: int = MISSING
    lr: float = MISSING


@dataclass
class ModeConfig:
    name: str = MISSING
    stages: list[StageConfig] = MISSING
    shots: int | None = None  # images per class of the training split; null: all
    val_shots: int | None = None  # images per class of val; null: all
    balance: str = "sampler"  # sampler | loss | none


@dataclass
class ModelConfig:
    backbone: str = MISSING  # a timm name
    weights: str = "hub"  # hub | none | package | PATH
    package: dict[str, str] | None = None  # distribution, file (glob), layout
    options: dict[str, Any] = field(default_factory=dict)  # passed to timm.create_model, e.g. drop_path_rate


@dataclass
class SplitConfig:
    seed: int = 0
    folds: int = 10  # one fold is test, the next is val, the rest is train
    by: str | None = None  # group | source | generator: split anew; null: as the data set states, else by group
    held_out: list[str] = field(default_factory=list)  # of by=source|generator: these are test; none: some are drawn
    at_least: int = 20  # of sweep=leave_one_source_out and the like: images (within data.limit) of a unit held out


@dataclass
class AugmentConfig:
    flip: float = 0.5  # probability
    jitter: list[float] = field(default_factory=lambda: [0.2, 0.2, 0.2, 0.05])  # brightness contrast saturation hue
    rotation: float = 10.0  # degrees, both ways; 0: off
    noise: float = 0.02  # largest standard deviation, as a share of 255; 0: off
    mixup: float = 0.0  # alpha of its Beta distribution; 0: off


@dataclass
class ImagesConfig:
    kind: str = MISSING  # folder | manifest | demo | run
    name: str | None = None  # what the set is called; null: the folder's name or the file's stem
    root: str | None = None  # of data=folder
    manifest: str | None = None  # of data=manifest: a CSV with path,label
    image_size: int | None = None  # pixels a side; null in evaluate: the checkpoint's
    resize: str | None = None  # squash | crop | pad; null in evaluate: the checkpoint's
    equalise: str | None = None  # jpeg: encode all images alike first; null in evaluate: the checkpoint's
    batch_size: Any = 32  # a number, or in train {cpu: N, cuda: N}
    workers: int = 2  # processes that read images
    sources: dict[str, Any] = field(default_factory=dict)  # of data=demo: what it is built from, see conf/source
    blind_sources: list[str] = field(default_factory=list)  # of data=demo: the sources that make its blind set
    ood_sources: dict[str, list[str]] = field(default_factory=dict)  # of data=demo: its out-of-domain sets
    prepare: dict[str, Any] = field(default_factory=dict)  # of data=demo: how it is built, as in prepare --help
    cache_gb: float = 4.0  # of images at the network's size, kept in the cache folder for all runs; 0: off
    blind: str | None = None  # another set to judge on, of sources that training never saw: a folder or a manifest
    ood: dict[str, str] = field(default_factory=dict)  # further sets: {name: a folder or a manifest}
    ood_root: str | None = None  # a folder of such sets: each folder in it is one, by its name


@dataclass
class SplitDataConfig(ImagesConfig):
    split: SplitConfig = field(default_factory=SplitConfig)
    fold: int = 0  # which fold is test
    fraction: float = 1.0  # of train
    val_fraction: float = 1.0  # of val
    limit: int | None = None  # images drawn of the whole set, before the split


@dataclass
class DataConfig(SplitDataConfig):
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    augmented_copies: int | None = (
        None  # of each image, augmented once, one an epoch in turn; null: augmented anew each epoch
    )


@dataclass
class ScheduleConfig:
    name: str = "none"  # none | plateau | cosine
    warmup_epochs: float = 0  # of cosine; may be a part of one
    factor: float = 0.5  # of plateau
    patience: int = 1  # of plateau


@dataclass
class OptimizerConfig:
    name: str = MISSING  # adamw | adam | sgd | sam
    weight_decay: float = 0.01
    momentum: float = 0.9  # of sgd
    rho: float | None = None  # of sam: how far the weights are moved for the second pass
    adaptive: bool | None = None  # of sam: each weight in proportion to its size
    base: str | None = None  # of sam, the optimizer that steps: adamw | adam | sgd
    layer_decay: float | None = None  # of the rate, for each layer away from the head; null: one rate for all
    decay_norms: bool = True  # weight decay on norms, biases, tokens and positions too
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


@dataclass
class TrainerConfig:
    accelerator: str = "auto"
    devices: Any = 1
    strategy: str = "auto"
    precision: str = "32"  # 32 | auto (what a trial of the network found faster) | amp | 16-mixed | bf16-mixed
    max_epochs: int | None = None  # cap on each stage
    limit_batches: int | None = None  # of each epoch
    threads: int | None = None
    channels_last: bool = True
    compile: bool = False
    gradient_clip: float | None = None
    accumulate: int = 1


@dataclass
class CallbacksConfig:
    early_stopping: int | None = None  # epochs without a better val macro-F1
    ema: float | None = None  # decay of the averaged weights
    swa: int | None = None  # average the weights of each epoch from this one of a stage on
    save_minutes: float = 5.0  # of training between two checkpoints within an epoch; 0: after every step
    progress: bool = True


@dataclass
class LoggerConfig:
    name: str = MISSING  # csv | tensorboard | wandb | mlflow | none
    project: str = "avatar_bench"
    offline: bool = True


@dataclass
class TrainConfig:
    seed: int = 42  # of training; data.split.seed is the split's
    stage: int | None = None  # train through this stage of the mode; null: all
    epochs: int | None = None  # of every stage; null: the mode's
    lr: float | None = None  # of every stage; null: the mode's
    label_smoothing: float = 0.0
    lang: str = "en"  # of the curves: en | ru
    out: str | None = None  # the run's folder; in a sweep, the folder of its jobs
    init_from: str | None = None  # a run: start from its weights
    resume: str | None = None  # a run: go on where it was interrupted
    allow: list[str] = field(default_factory=list)  # guards to pass by name
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    mode: ModeConfig = field(default_factory=ModeConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: CallbacksConfig = field(default_factory=CallbacksConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


@dataclass
class MethodConfig:
    name: str = MISSING  # simclr | dino | mae
    lr: float = MISSING  # where lr= does not say another
    temperature: float | None = None  # of simclr: of its loss; of dino: the teacher's
    projection: int | None = None  # of simclr and dino: outputs of the head that the loss compares
    momentum: float | None = None  # of dino: of the teacher's average at the start; it rises to 1
    local_views: int | None = None  # of dino: small crops of each image beside the two large ones
    mask_ratio: float | None = None  # of mae: share of the patches that are hidden
    decoder_depth: int | None = None  # of mae: blocks
    decoder_width: int | None = None  # of mae: a multiple of 32
    crop_scale: float = 0.2  # least share of an image's area in a crop; in local views the largest
    flip: float = 0.5  # probability
    jitter: float = 0.5  # strength of the changes of brightness, contrast, saturation and hue
    grey: float = 0.2  # probability of a view without colours
    blur: float = 0.5  # probability


@dataclass
class ProbeConfig:
    every: int = 10  # epochs between two; the first is before training, the last after it
    k: int = 20  # neighbours that vote


@dataclass
class ProgressConfig:
    save_minutes: float = 5.0  # of training between two checkpoints within an epoch; 0: after every step
    progress: bool = True


@dataclass
class PretrainConfig:
    seed: int = 42  # of training; data.split.seed is the split's
    epochs: int = 100
    lr: float | None = None  # null: the method's
    use_val: bool = False  # learn from the images of val too, which train judges its epochs by
    lang: str = "en"  # of the curves: en | ru
    out: str | None = None  # the folder; null: in pretrained/
    resume: str | None = None  # a folder: go on where it was interrupted
    allow: list[str] = field(default_factory=list)  # guards to pass by name
    data: SplitDataConfig = field(default_factory=SplitDataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: ProgressConfig = field(default_factory=ProgressConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


@dataclass
class WhereConfig:
    """Slices as slices.csv of error_bias names them."""

    source: str | None = None  # evaluate only images of this source, as the manifest names it
    generator: str | None = None  # of this generator
    size: str | None = None  # of this range of the shorter side, such as "128-255 px"
    format: str | None = None  # of this file format, such as JPEG
    jpeg_quality: str | None = None  # of this range of JPEG quality, such as 75-84


@dataclass
class EvaluateConfig:
    ckpt: Any = None  # a run folder, a .ckpt file, a folder that holds runs, a list, or null: the newest run
    split: str = "test"  # of data=run: test, val, calibration, blind, or the name of one of its data.ood
    against: str | None = None  # an earlier result, or a run: differences from it, exit code 7 if significantly worse
    alpha: float = 0.05  # of against: a difference is significant below it
    out: str | None = None  # null: in the run's folder
    allow: list[str] = field(default_factory=list)  # guards to pass by name
    accelerator: str = "auto"
    threads: int | None = None  # of the network on a CPU; null: as many as torch takes
    lang: str = "en"  # of figures, warnings and reasons: en | ru
    where: WhereConfig = field(default_factory=WhereConfig)  # judge a slice of the images alone
    again: bool = False  # judge anew what is there already
    skip_unusable: bool = False  # leave out the blocks that the run or set cannot be put through, and say so
    data: ImagesConfig = field(default_factory=ImagesConfig)
    block: dict[str, Any] = field(default_factory=dict)


@dataclass
class PredictConfig:
    ckpt: str | None = None  # a run folder, a .ckpt file, an ensemble's folder, or null: the newest run
    input: str = MISSING  # a file, folder, glob, @list.txt, or - for paths on standard input
    output: str = MISSING  # a .csv, .jsonl or .parquet file, or - for standard output
    calibrated: bool = True  # scale by the run's temperature
    runtime: str = "torch"  # torch | onnx | openvino: what computes; the last two on the CPU
    precision: str = "auto"  # auto (what a trial found faster here) | 32 | bf16 | 16 (torch) | int8 (openvino)
    update: bool = False  # go on with an output cut short
    batch_size: int = 64
    workers: int | None = None  # processes that read images; null: one a core, 8 at most
    accelerator: str = "auto"
    threads: int | None = None  # of the network; null: what a trial on this machine found faster


@dataclass
class PrepareSplitConfig:
    by: str = "group"  # group | source | generator: what never stands on two sides
    seed: int = 0
    folds: int | None = None  # one is test, the next val, the rest train; null: as data says, else 10
    held_out: list[str] = field(default_factory=list)  # of by=source|generator: these are test; none: drawn


@dataclass
class CapConfig:
    per_class: int | None = None  # the most images of a class that are taken; null: all
    per_source: int | None = None


@dataclass
class PrepareConfig:
    out: str | None = None  # the data set's folder; null with data=demo: in the cache
    update: bool = False  # take in what has changed; no image moves to another side of the split
    lang: str = "en"  # of the data card and the audit's figures: en | ru
    equalise: str | None = None  # jpeg: encode all images alike; null: keep the files as they are
    blind: list[str] = field(default_factory=list)  # sources that are kept out, for blind.csv
    against: dict[str, str] = field(default_factory=dict)  # {name: folder or manifest} to share no image with
    split: PrepareSplitConfig = field(default_factory=PrepareSplitConfig)
    cap: CapConfig = field(default_factory=CapConfig)
    allow: list[str] = field(default_factory=list)  # guards to pass by name
    data: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    block: dict[str, Any] = field(default_factory=dict)  # options of data_audit


@dataclass
class ReportConfig:
    runs: str = "runs"  # a folder that holds runs, or one run
    out: str | None = None  # the page, a .html file; null: report.html in that folder
    lang: str = "en"  # of the report: en | ru; figures stay in the language that they were drawn in


@dataclass
class ExportConfig:
    ckpt: str | None = None  # a run folder, a .ckpt file, a soup's folder, or null: the newest run
    out: str = MISSING  # a .safetensors, .onnx or .xml (OpenVINO) file; what it is goes into a .json file beside it


SCHEMAS = {
    "train": TrainConfig,
    "pretrain": PretrainConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "prepare": PrepareConfig,
    "report": ReportConfig,
    "export": ExportConfig,
}

OPTION_CHOICES = {
    "mode.balance": ("sampler", "loss", "none"),
    "data.kind": ("folder", "manifest", "demo", "run"),
    "data.resize": ("squash", "crop", "pad"),
    "data.equalise": ("jpeg",),
    "data.split.by": ("group", "source", "generator"),
    "equalise": ("jpeg",),
    "split.by": ("group", "source", "generator"),
    "optimizer.name": ("adamw", "adam", "sgd", "sam"),
    "optimizer.base": ("adamw", "adam", "sgd"),
    "optimizer.schedule.name": ("none", "plateau", "cosine"),
    "accelerator": ("auto", "cpu", "gpu"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.precision": ("32", "auto", "amp", "16-mixed", "bf16-mixed"),
    "logger.name": ("csv", "tensorboard", "wandb", "mlflow", "none"),
    "precision": ("auto", "32", "bf16", "16", "int8"),
    "runtime": ("torch", "onnx", "openvino"),
    "lang": ("en", "ru"),
    "method.name": ("simclr", "dino", "mae"),
}
METHOD_OPTIONS = {  # of conf/method, those that one method alone reads
    "simclr": ("temperature", "projection"),
    "dino": ("temperature", "projection", "momentum", "local_views"),
    "mae": ("mask_ratio", "decoder_depth", "decoder_width"),
}
GUARDS = {  # what `allow` may name
    "train": ("near_duplicates", "label_conflict", "shortcut", "pretraining"),
    "pretrain": ("pretraining", "near_duplicates", "test_images"),
    "evaluate": ("overlap", "near_duplicates", "permutation", "shortcut"),
    "prepare": ("shortcut",),
}
LAUNCHERS: dict[str, dict[str, Any]] = {  # where we want other defaults than the launchers of hydra's plugins have
    "joblib": {"n_jobs": 2},
    "submitit_local": {"name": "avatar_bench", "timeout_min": 1440, "stderr_to_stdout": True},
    "submitit_slurm": {
        "name": "avatar_bench",
        "timeout_min": 1440,
        "stderr_to_stdout": True,
        "cpus_per_task": 2,
        "setup": ["export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK"],  # else each job takes all cores of its machine
    },
}
PREDICTION_SUFFIXES = (".csv", ".jsonl", ".parquet")
REPORT_SUFFIXES = (".html", ".htm")
EXPORT_SUFFIXES = (".safetensors", ".onnx", ".xml")
RUNTIME_PRECISIONS = {
    "torch": ("32", "bf16", "16"),
    "onnx": ("32",),
    "openvino": ("32", "bf16", "int8"),
}  # of a runtime
SAM_OPTIONS = ("rho", "adaptive", "base")  # of optimizer, those that sam alone reads

NumberRule = tuple[Callable[[float], bool], str]  # what must hold of a number, and that in words
_POSITIVE: NumberRule = (lambda value: 0 < value < math.inf, "more than 0")
_COUNT: NumberRule = (lambda value: value >= 1, "at least 1")
_SEED: NumberRule = (lambda value: 0 <= value < 2**32, "from 0 to 4294967295")
_WORKERS: NumberRule = (lambda value: 0 <= value <= 256, "from 0 to 256 processes")
_THREADS: NumberRule = (lambda value: 1 <= value <= 1024, "from 1 to 1024 threads")
_SIDE: NumberRule = (lambda value: 1 <= value <= 4096, "from 1 to 4096 pixels")
_NATURAL: NumberRule = (lambda value: value >= 0, "0 or more")
_FRACTION: NumberRule = (lambda value: 0 < value <= 1, "more than 0 and at most 1")
_PROBABILITY: NumberRule = (lambda value: 0 <= value <= 1, "from 0 to 1")
_INSIDE: NumberRule = (lambda value: 0 < value < 1, "between 0 and 1")
OPTION_RANGES: dict[str, NumberRule] = {
    "stage": _COUNT,
    "epochs": _COUNT,
    "lr": _POSITIVE,
    "seed": _SEED,
    "label_smoothing": (lambda value: 0 <= value < 1, "0 or more and less than 1"),
    "threads": _THREADS,
    "alpha": _INSIDE,
    "batch_size": _COUNT,
    "workers": _WORKERS,
    "mode.shots": _COUNT,
    "mode.val_shots": _COUNT,
    "data.image_size": _SIDE,
    "data.split.folds": (lambda value: value >= 3, "at least 3: test, val and train"),
    "data.split.at_least": _COUNT,
    "split.seed": _SEED,
    "data.split.seed": _SEED,
    "split.folds": (lambda value: value >= 3, "at least 3: test, val and train"),
    "cap.per_class": _COUNT,
    "cap.per_source": _COUNT,
    "data.fold": _NATURAL,
    "data.fraction": _FRACTION,
    "data.val_fraction": _FRACTION,
    "data.limit": _COUNT,
    "data.workers": _WORKERS,
    "data.cache_gb": _NATURAL,
    "data.augmented_copies": _COUNT,
    "data.augment.flip": _PROBABILITY,
    "data.augment.rotation": (lambda value: 0 <= value <= 180, "from 0 to 180 degrees"),
    "data.augment.noise": _PROBABILITY,
    "data.augment.mixup": _NATURAL,
    "optimizer.weight_decay": _NATURAL,
    "optimizer.layer_decay": _FRACTION,
    "optimizer.momentum": (lambda value: 0 <= value < 1, "0 or more and less than 1"),
    "optimizer.rho": _POSITIVE,
    "optimizer.schedule.warmup_epochs": _NATURAL,
    "optimizer.schedule.factor": _INSIDE,
    "optimizer.schedule.patience": _NATURAL,
    "trainer.max_epochs": _COUNT,
    "trainer.limit_batches": _COUNT,
    "trainer.threads": _THREADS,
    "trainer.gradient_clip": _POSITIVE,
    "trainer.accumulate": _COUNT,
    "callbacks.early_stopping": _COUNT,
    "callbacks.ema": _INSIDE,
    "callbacks.swa": _NATURAL,
    "callbacks.save_minutes": _NATURAL,
    "method.lr": _POSITIVE,
    "method.temperature": _POSITIVE,
    "method.projection": _COUNT,
    "method.momentum": _PROBABILITY,
    "method.local_views": _NATURAL,
    "method.mask_ratio": _INSIDE,
    "method.decoder_depth": _COUNT,
    "method.decoder_width": (lambda value: value >= 32 and value % 32 == 0, "a multiple of 32"),
    "method.crop_scale": _FRACTION,
    "method.flip": _PROBABILITY,
    "method.jitter": _PROBABILITY,
    "method.grey": _PROBABILITY,
    "method.blur": _PROBABILITY,
    "probe.every": _COUNT,
    "probe.k": _COUNT,
}


class UserFolderSearchPath(SearchPathPlugin):  # type: ignore[misc, unused-ignore]
    """Let Hydra find the yaml of AVATAR_BENCH_CONF and of installed packages, after the project's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append each folder."""
        for folder in find_user_folders():
            search_path.append("avatar_bench", f"file://{folder}")


def register() -> None:
    """Put the schemas where `defaults: [schema/<command>@_here_]` finds them, and the users' folders of yaml.

    `${units:source}` stands for the sources of the data set that the same configuration names, one a job of a sweep.
    """
    config_loader.install()
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(group="schema", name=name, node=schema)
    Plugins.instance().register(UserFolderSearchPath)
    OmegaConf.register_new_resolver("units", _list_units_to_hold_out, replace=True)
    _set_launchers()


def _set_launchers() -> None:
    store = ConfigStore.instance()
    installed = store.list("hydra/launcher")
    for name, options in LAUNCHERS.items():
        if f"{name}.yaml" in installed:
            plain = store.load(f"hydra/launcher/{name}.yaml")
            node = OmegaConf.merge(plain.node, options)
            store.store(group="hydra/launcher", name=name, node=node, provider=plain.provider)


def _list_units_to_hold_out(by: str, *, _root_: DictConfig) -> str:
    """Return the values of data.split.held_out for a sweep over units, of the images that data.limit draws: [a],[b]."""
    from avatar_bench.data.selection import limit_rows, mark_divided_rows
    from avatar_bench.data.splits import SplitPlan, find_hold_out_units
    from avatar_bench.sources.dataset_kinds import open_dataset

    options = OmegaConf.to_object(_root_.data)
    assert isinstance(options, DataConfig)
    frame = open_dataset(options).frame
    plan = SplitPlan(seed=options.split.seed, by=by, limit=options.limit)
    rows, _ = limit_rows(mark_divided_rows(plan, frame), frame, plan)
    kept, reasons = find_hold_out_units(frame.iloc[rows], by, options.split.at_least)
    if reasons:
        drawn = f" (of {len(rows)} images drawn, data.limit)" if len(rows) < len(frame) else ""
        told = ", ".join(f"{name} ({why})" for name, why in reasons.items())
        print_line(f"not held out{drawn}: {told}", file=sys.stderr)
    return ",".join(f"[{quote(name)}]" for name in kept)


def check_config(command: str, cfg: DictConfig) -> None:
    """Raise ConfigError where an option is missing, unknown, or breaks a rule that types cannot say."""
    check_required(command, cfg)
    _check_known(cfg)
    OmegaConf.to_container(cfg, resolve=True)  # what cannot be resolved shows before anything is done
    checks = {
        "train": check_train,
        "pretrain": check_pretrain,
        "evaluate": check_evaluate,
        "predict": check_predict,
        "prepare": check_prepare,
        "report": check_report,
        "export": check_export,
    }
    checks[command](cfg)


def check_required(command: str, cfg: DictConfig) -> None:
    """Raise ConfigError naming the options that have no value yet, with an example."""
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        examples = {"input": "photos/", "output": "verdicts.csv", "out": "net.onnx", "model.backbone": "resnet34"}
        values = " ".join(f"{option}={examples.get(option, 'VALUE')}" for option in missing)
        raise ConfigError(
            f"{command} needs a value for {', '.join(missing)}",
            f"for example: avatar-bench {command} {values}",
        )


def check_train(cfg: DictConfig) -> None:
    """Raise ConfigError where the options of train break a rule."""
    _check_values(cfg)
    _check_data(cfg)
    _check_split("train", cfg.data)
    _check_augment(cfg.data.augment)
    _check_stages(cfg)
    _check_optimizer(cfg.optimizer)
    _check_model(cfg.model)
    _check_allow("train", cfg.allow)
    _check_devices(cfg.trainer)
    if cfg.init_from is not None and cfg.resume is not None:
        raise ConfigError(
            "init_from and resume exclude each other",
            "resume=RUN goes on with an interrupted run; init_from=RUN starts another from its weights",
        )
    if cfg.callbacks.ema is not None and cfg.callbacks.swa is not None:
        raise ConfigError("callbacks.ema and callbacks.swa exclude each other: each averages the weights; set one null")
    longest = max(cfg.epochs or stage.epochs for stage in cfg.mode.stages[: cfg.stage])
    if cfg.callbacks.swa is not None and cfg.callbacks.swa >= longest:
        raise ConfigError(
            f"callbacks.swa={cfg.callbacks.swa} averages the epochs after so many, and no stage has more: {longest}",
            "expected fewer, or more epochs",
        )


def check_pretrain(cfg: DictConfig) -> None:
    """Raise ConfigError where the options of pretrain break a rule."""
    _check_values(cfg)
    _check_data(cfg)
    _check_split("pretrain", cfg.data)
    _check_model(cfg.model)
    _check_allow("pretrain", cfg.allow)
    name = cfg.method.name
    for option in dict.fromkeys(option for options in METHOD_OPTIONS.values() for option in options):
        given, read = cfg.method[option] is not None, option in METHOD_OPTIONS[name]
        if given and not read:
            raise ConfigError(f"method.{option}={cfg.method[option]}: method={name} reads no such option")
        if read and not given:
            raise ConfigError(f"method.{option}=null: method={name} needs it")
    if name == "simclr" and cfg.data.batch_size == 1:
        raise ConfigError("data.batch_size=1: method=simclr compares each image with the others of its batch")
    if cfg.optimizer.name not in ("adamw", "adam", "sgd"):
        raise ConfigError(f"optimizer={cfg.optimizer.name}: pretrain steps with adamw, adam or sgd")
    for option in SAM_OPTIONS:
        if cfg.optimizer[option] is not None:
            raise ConfigError(
                f"optimizer.{option}={cfg.optimizer[option]} goes with optimizer=sam, by which pretrain does not step"
            )
    _check_warmup(cfg.optimizer.schedule, [cfg.epochs])
    if cfg.optimizer.schedule.name == "plateau":
        raise ConfigError(
            "optimizer.schedule.name=plateau follows the loss on val, which pretrain does not have",
            "expected cosine or none",
        )
    if cfg.trainer.devices != 1 or cfg.trainer.strategy != "auto":
        raise ConfigError("trainer.devices, trainer.strategy: pretrain computes on one device")
    _check_devices(cfg.trainer)


def check_evaluate(cfg: DictConfig) -> None:
    """Raise ConfigError where the options of evaluate break a rule."""
    _check_values(cfg)
    _check_data(cfg)
    if isinstance(cfg.data.batch_size, DictConfig):
        raise ConfigError(f"data.batch_size={cfg.data.batch_size}: evaluate expects a whole number of at least 1")
    if cfg.split == "train":
        raise ConfigError(
            "split=train: figures on images that the network was trained on say nothing of new ones",
            "expected test, val, calibration, blind, or the name of one of the run's data.ood",
        )
    if cfg.data.kind != "run" and cfg.split != "test":
        raise ConfigError(
            f"split={cfg.split} goes with data=run, the run's own data; of data={cfg.data.kind} all is one set"
        )
    if str(cfg.data.name).casefold() in RESERVED_SET_NAMES:
        raise ConfigError(
            f"data.name={cfg.data.name}: expected a name that no set of the run has",
            f"names of the run's own sets: {', '.join(RESERVED_SET_NAMES)}",
        )
    if not cfg.block:
        raise ConfigError("block: none is chosen", "for example: avatar-bench evaluate block=blind_test")
    _check_allow("evaluate", cfg.allow)


def check_predict(cfg: DictConfig) -> None:
    """Raise ConfigError where the options of predict break a rule."""
    _check_values(cfg)
    output = str(cfg.output)
    if output != "-" and Path(output).suffix.lower() not in PREDICTION_SUFFIXES:
        raise ConfigError(
            f"output={output}: expected a file ending in {_format_alternatives(PREDICTION_SUFFIXES)}, or - for stdout"
        )
    if cfg.precision not in ("auto", *RUNTIME_PRECISIONS[cfg.runtime]):
        known = _format_alternatives(RUNTIME_PRECISIONS[cfg.runtime])
        raise ConfigError(f"precision={cfg.precision}: runtime={cfg.runtime} computes in {known}")
    if cfg.runtime != "torch" and cfg.accelerator == "gpu":
        raise ConfigError(f"accelerator=gpu: runtime={cfg.runtime} computes on the CPU; runtime=torch takes a GPU")


def check_prepare(cfg: DictConfig) -> None:
    """Raise ConfigError where the options of prepare break a rule."""
    _check_values(cfg)
    _check_allow("prepare", cfg.allow)
    _check_held_out("split", cfg.split)
    if set(cfg.block) != {"data_audit"}:
        raise ConfigError(f"block={','.join(cfg.block) or 'null'}: prepare runs data_audit; set its options alone")
    kind = cfg.data.get("kind")
    if not cfg.source and kind != "demo":
        raise ConfigError(
            f"data={kind}: prepare builds from sources",
            "for example: avatar-bench prepare source=folder source.folder.root=DIR out=NEW_DIR",
        )
    if cfg.source and cfg.out is None:
        raise ConfigError("out: where should it go?", "for example: avatar-bench prepare source=tabler out=DIR")


def check_report(cfg: DictConfig) -> None:
    """Raise ConfigError where the options of report break a rule."""
    _check_values(cfg)
    if cfg.out is not None and Path(str(cfg.out)).suffix.lower() not in REPORT_SUFFIXES:
        raise ConfigError(f"out={cfg.out}: expected a file that ends in {_format_alternatives(REPORT_SUFFIXES)}")


def check_export(cfg: DictConfig) -> None:
    """Raise ConfigError where the options of export break a rule."""
    _check_values(cfg)
    if Path(str(cfg.out)).suffix not in EXPORT_SUFFIXES:
        raise ConfigError(f"out={cfg.out}: expected a file that ends in {_format_alternatives(EXPORT_SUFFIXES)}")


def _check_known(cfg: DictConfig, around: str = "") -> None:
    """Raise ConfigError at an option that no schema has: Hydra adds one where it is written +option=value."""
    schema = OmegaConf.get_type(cfg)
    known = [item.name for item in fields(schema)] if is_dataclass(schema) else list(cfg)
    for name in cfg:
        option = f"{around}{name!s}"
        if name not in known:
            nearest = suggest_names(str(name), known)
            raise ConfigError(f"{option}: there is no such option" + (f"; {nearest}" if nearest else ""))
        if isinstance(inner := cfg._get_node(name), DictConfig) and is_dataclass(OmegaConf.get_type(inner)):
            _check_known(inner, f"{option}.")


def _check_values(cfg: DictConfig) -> None:
    for option, allowed in OPTION_CHOICES.items():
        value = OmegaConf.select(cfg, option)
        if value is not None and value not in allowed:
            raise ConfigError(f"{option}={value}: expected {_format_alternatives(allowed)}")
    for option, (holds, expected) in OPTION_RANGES.items():
        value = OmegaConf.select(cfg, option)
        if value is not None and not holds(value):
            raise ConfigError(f"{option}={value}: expected {expected}")
    data = (f"data.{name}" for name in ("root", "manifest", "blind", "ood_root"))
    for option in ("out", "ckpt", "against", "input", "runs", "init_from", "resume", *data):
        if OmegaConf.select(cfg, option) == "":
            raise ConfigError(f"{option}= is empty: expected a path, or {option}=null for none")
    for option in ("ckpt", "init_from", "resume", "model.weights"):
        refuse_address(str(OmegaConf.select(cfg, option)), option)


def _check_data(cfg: DictConfig) -> None:
    data = cfg.data
    for kind, option, place in (("folder", "root", "DIR"), ("manifest", "manifest", "FILE")):
        given = data[option] is not None
        if data.kind == kind and not given:
            raise ConfigError(f"data={kind} needs data.{option}={place}")
        if given and data.kind != kind:
            raise ConfigError(f"data.{option} goes with data={kind}, but data.kind is {data.kind}")
    sizes = data.batch_size.values() if isinstance(data.batch_size, DictConfig) else [data.batch_size]
    for name in data.ood:
        if name in RESERVED_SET_NAMES or make_folder_name(name) != name:
            raise ConfigError(
                f"data.ood.{name}: expected a name of letters and digits that no other set has",
                f"names of the run's own sets: {', '.join(RESERVED_SET_NAMES)}",
            )
    if not all(_is_count(size) for size in sizes):
        raise ConfigError(
            f"data.batch_size={data.batch_size}: expected a whole number of at least 1, or {{cpu: N, cuda: N}}"
        )


def _check_allow(command: str, allow: Sequence[str]) -> None:
    for guard in allow:
        if guard not in GUARDS[command]:
            raise ConfigError(
                f"allow={guard}: {command} has no such guard; expected {_format_alternatives(GUARDS[command])}"
            )


def _check_held_out(option: str, split: DictConfig) -> None:
    if split.held_out and split.by not in ("source", "generator"):
        raise ConfigError(
            f"{option}.held_out={split.held_out}: it needs {option}.by=source or generator",
            f"for example: {option}.by=source '{option}.held_out=[tabler]'",
        )


def _check_split(command: str, data: DictConfig) -> None:
    _check_held_out("data.split", data.split)
    if data.kind == "run":
        raise ConfigError(f"data=run is for evaluate; {command} takes data=demo, data=folder or data=manifest")
    if data.fold >= data.split.folds:
        raise ConfigError(f"data.fold={data.fold}: expected less than data.split.folds={data.split.folds}")


def _check_augment(augment: DictConfig) -> None:
    if len(augment.jitter) != 4 or min(augment.jitter) < 0:
        raise ConfigError(f"data.augment.jitter={augment.jitter}: expected four numbers, 0 or more")


def _check_model(model: DictConfig) -> None:
    _check_weights(str(model.weights))
    if fault := find_option_fault(OmegaConf.to_container(model.options)):  # type: ignore[arg-type]
        raise ConfigError(f"model.options: {fault}", f"known: {' '.join(sorted(NETWORK_OPTIONS))}")


def _check_stages(cfg: DictConfig) -> None:
    stages = cfg.mode.stages
    if not stages:
        raise ConfigError("mode.stages is empty: expected at least one stage")
    if cfg.stage is not None and cfg.stage > len(stages):
        number = f"{len(stages)} stage" + "s" * (len(stages) > 1)
        raise ConfigError(f"stage={cfg.stage}: mode '{cfg.mode.name}' has {number}")
    for index, stage in enumerate(stages):
        option = f"mode.stages[{index}]"
        if stage.unfreeze not in ("classifier", "all") and not _is_count(stage.unfreeze):
            expected = "classifier, all, or a number of layer groups counted from the head"
            raise ConfigError(f"{option}.unfreeze={stage.unfreeze}: expected {expected}")
        for name, (holds, expected) in (("epochs", _COUNT), ("lr", _POSITIVE)):
            if not holds(stage[name]):
                raise ConfigError(f"{option}.{name}={stage[name]}: expected {expected}")
    _check_warmup(cfg.optimizer.schedule, [cfg.epochs or stage.epochs for stage in stages[: cfg.stage]])


def _check_devices(trainer: DictConfig) -> None:
    if trainer.accelerator not in ("auto", "cpu") or trainer.devices != 1:  # only then: it loads torch
        from avatar_bench.training.stage_trainer import refuse_missing_devices

        refuse_missing_devices(trainer.accelerator, trainer.devices, trainer.strategy)


def _check_warmup(schedule: DictConfig, epochs: Sequence[int]) -> None:
    """Raise ConfigError where a rate would rise that nothing lets fall, or never fall again."""
    warmup = schedule.warmup_epochs
    if warmup and schedule.name != "cosine":
        raise ConfigError(
            f"optimizer.schedule.warmup_epochs={warmup} goes with optimizer.schedule.name=cosine, not {schedule.name}"
        )
    if warmup and warmup >= min(epochs):
        trained = format_count(min(epochs), "epoch")
        raise ConfigError(f"optimizer.schedule.warmup_epochs={warmup}: expected fewer than the {trained} of training")


def _check_optimizer(optimizer: DictConfig) -> None:
    for option in SAM_OPTIONS:
        value = optimizer[option]
        if optimizer.name != "sam" and value is not None:
            raise ConfigError(
                f"optimizer.{option}={value} goes with optimizer=sam, but optimizer.name is {optimizer.name}"
            )
        if optimizer.name == "sam" and value is None:
            raise ConfigError(f"optimizer.name=sam needs optimizer.{option}; optimizer=sam sets all that it needs")


def _check_weights(weights: str) -> None:
    if weights not in WEIGHTS_CHOICES and not Path(weights).is_file():
        nearest = suggest_names(weights, WEIGHTS_CHOICES)
        raise ConfigError(
            f"model.weights={weights}: there is no such file" + (f"; {nearest}" if nearest else ""),
            f"expected {_format_alternatives(WEIGHTS_CHOICES)}, or a .safetensors or .pth file",
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _format_alternatives(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]

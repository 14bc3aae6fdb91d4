"""Option schemas of all commands and the checks that go beyond types."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import MISSING, DictConfig, OmegaConf

from avatar_bench.config import config_loader
from avatar_bench.config.catalogue import WEIGHTS_CHOICES, find_choices, list_blocks
from avatar_bench.config.entries import find_entries, find_entry, find_user_folders
from avatar_bench.config.options import iterate_options, option
from avatar_bench.config.overrides import quote
from avatar_bench.console.terminal import format_count, print_line
from avatar_bench.errors import ConfigError, suggest_names
from avatar_bench.files.checkpoint_container import refuse_address
from avatar_bench.files.paths import make_folder_name
from avatar_bench.models.card_schema import NETWORK_OPTIONS, find_option_fault
from avatar_bench.runs.record import RESERVED_SET_NAMES
from avatar_bench.training.builders import load_builder, load_callbacks, load_optimization
from avatar_bench.training.optimizers.sam import SAM
from avatar_bench.training.optimizers.sgd import SGD
from avatar_bench.training.schedules.cosine import Cosine
from avatar_bench.training.schedules.plateau import Plateau


def _choose(*names: str) -> dict[str, Any]:
    return {"choices": names, "expected": _format_alternatives(names)}


def _format_alternatives(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


# what option() is told of values that several options accept
_COUNT: dict[str, Any] = {"check": lambda value: value >= 1, "expected": "at least 1"}
_NATURAL: dict[str, Any] = {"check": lambda value: value >= 0, "expected": "0 or more"}
_POSITIVE: dict[str, Any] = {"check": lambda value: 0 < value < math.inf, "expected": "more than 0"}
_FRACTION: dict[str, Any] = {"check": lambda value: 0 < value <= 1, "expected": "more than 0 and at most 1"}
_PROBABILITY: dict[str, Any] = {"check": lambda value: 0 <= value <= 1, "expected": "from 0 to 1"}
_INSIDE: dict[str, Any] = {"check": lambda value: 0 < value < 1, "expected": "between 0 and 1"}
_SEED: dict[str, Any] = {"check": lambda value: 0 <= value < 2**32, "expected": "from 0 to 4294967295"}
_WORKERS: dict[str, Any] = {"check": lambda value: 0 <= value <= 256, "expected": "from 0 to 256 processes"}
_THREADS: dict[str, Any] = {"check": lambda value: 1 <= value <= 1024, "expected": "from 1 to 1024 threads"}
_SIDE: dict[str, Any] = {"check": lambda value: 1 <= value <= 4096, "expected": "from 1 to 4096 pixels"}
_FOLDS: dict[str, Any] = {"check": lambda value: value >= 3, "expected": "at least 3: test, val and train"}
_ANGLE: dict[str, Any] = {"check": lambda value: 0 <= value <= 180, "expected": "from 0 to 180 degrees"}
_SMOOTHING: dict[str, Any] = {"check": lambda value: 0 <= value < 1, "expected": "0 or more and less than 1"}
_JITTER: dict[str, Any] = {
    "check": lambda values: len(values) == 4 and min(values) >= 0,
    "expected": "four numbers, 0 or more",
}
_MULTIPLE: dict[str, Any] = {"check": lambda value: value >= 32 and value % 32 == 0, "expected": "a multiple of 32"}
_LANGUAGE, _SPLIT_BY, _EQUALISE = _choose("en", "ru"), _choose("group", "source", "generator"), _choose("jpeg")
_ACCELERATOR = _choose("auto", "cpu", "gpu")


@dataclass
class StageConfig:
    """One training stage; `unfreeze` is "classifier", "all", or a number of layer groups counted from the head."""

    unfreeze: Any = "all"
    epochs: int = MISSING
    lr: float = MISSING


@dataclass
class ModeConfig:
    name: str = MISSING
    stages: list[StageConfig] = MISSING
    shots: int | None = option(None, help="images per class of the training split; null: all", **_COUNT)
    val_shots: int | None = option(None, help="images per class of val; null: all", **_COUNT)
    balance: str = option(
        "sampler", help="how classes of unequal size are balanced", **_choose("sampler", "loss", "none")
    )


@dataclass
class ModelConfig:
    backbone: str = option(MISSING, help="a name of timm, or of your own backbone/")
    weights: str = option("hub", help="hub | none | package | PATH")
    package: dict[str, str] | None = option(None, help="pip distribution, file (glob), layout")
    options: dict[str, Any] = option({}, help="of the network, e.g. drop_path_rate")


@dataclass
class SplitConfig:
    seed: int = option(0, help="of the folds and of the draws", **_SEED)
    folds: int = option(10, help="one fold is test, the next one val, the others train", **_FOLDS)
    by: str | None = option(None, help="null: as the data set states, or group", **_SPLIT_BY)
    held_out: list[str] = option([], help="test units for by=source|generator; none: drawn at random")
    at_least: int = option(20, help="minimum images of a held-out unit in a sweep, after data.limit", **_COUNT)


@dataclass
class AugmentConfig:
    flip: float = option(0.5, help="probability", **_PROBABILITY)
    jitter: list[float] = option([0.2, 0.2, 0.2, 0.05], help="brightness, contrast, saturation, hue", **_JITTER)
    rotation: float = option(10.0, help="degrees, in both directions; 0: off", **_ANGLE)
    noise: float = option(0.02, help="maximum standard deviation, as a fraction of 255; 0: off", **_PROBABILITY)
    mixup: float = option(0.0, help="alpha of the Beta distribution; 0: off", **_NATURAL)
    others: dict[str, Any] = option({}, help="augmentations of your own: {NAME: {OPTION: VALUE}}")


@dataclass
class ImagesConfig:
    kind: str = option(MISSING, help="kind of the data set", **_choose("folder", "manifest", "demo", "run"))
    name: str | None = option(None, help="name of the data set; null: the folder's name or the file's stem")
    root: str | None = option(None, help="for data=folder")
    manifest: str | None = option(None, help="for data=manifest: a CSV with columns path,label")
    image_size: int | None = option(None, help="pixels per side; null in evaluate: the checkpoint's", **_SIDE)
    resize: str | None = option(None, help="null in evaluate: the checkpoint's", **_choose("squash", "crop", "pad"))
    equalise: str | None = option(
        None, help="re-encode all images first; null in evaluate: the checkpoint's", **_EQUALISE
    )
    batch_size: Any = option(32, help="a number; in train also {cpu: N, cuda: N}")
    workers: int = option(2, help="image-loading processes", **_WORKERS)
    sources: dict[str, Any] = option({}, help="for data=demo: its sources, see conf/source")
    blind_sources: list[str] = option([], help="for data=demo: sources of its blind set")
    ood_sources: dict[str, list[str]] = option({}, help="for data=demo: its out-of-domain sets")
    prepare: dict[str, Any] = option({}, help="for data=demo: build options, see prepare --help")
    cache_gb: float = option(4.0, help="size limit of the shared cache of resized images; 0: off", **_NATURAL)
    blind: str | None = option(None, help="external test set, of sources never used in training: folder or manifest")
    ood: dict[str, str] = option({}, help="further test sets: {name: folder or manifest}")
    ood_root: str | None = option(None, help="a folder of further sets: each subfolder is one, named after it")


@dataclass
class SplitDataConfig(ImagesConfig):
    split: SplitConfig = field(default_factory=SplitConfig)
    fold: int = option(0, help="index of the test fold", **_NATURAL)
    fraction: float = option(1.0, help="of the training split", **_FRACTION)
    val_fraction: float = option(1.0, help="of the val split", **_FRACTION)
    limit: int | None = option(None, help="images drawn from the whole set before it is split", **_COUNT)


@dataclass
class DataConfig(SplitDataConfig):
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    augmented_copies: int | None = option(
        None, help="fixed copies per image; null: new augmentation each epoch", **_COUNT
    )


@dataclass
class ScheduleConfig:
    name: str = option("none", help="learning rate schedule", choices=lambda: find_entries("schedule"))
    options: dict[str, Any] = option({}, help="of a schedule of your own")
    warmup_epochs: float = option(Cosine.warmup_epochs, help="of cosine; may be fractional")
    factor: float = option(Plateau.factor, help="of plateau")
    patience: int = option(Plateau.patience, help="of plateau")


@dataclass
class OptimizerConfig:
    name: str = MISSING
    options: dict[str, Any] = option({}, help="of an optimizer of your own, or of the base of sam")
    weight_decay: float = option(0.01, help="0: off", **_NATURAL)
    momentum: float = option(SGD.momentum, help="of sgd")
    rho: float | None = option(None, help="of sam: radius of the weight perturbation")
    adaptive: bool | None = option(None, help="of sam: scale the perturbation by each weight's size")
    base: str | None = option(None, help="of sam: base optimizer, any of the others")
    layer_decay: float | None = option(
        None, help="learning rate factor per layer away from the head; null: none", **_FRACTION
    )
    decay_norms: bool = option(True, help="also decay norms, biases, tokens and position embeddings")
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


@dataclass
class TrainerConfig:
    accelerator: str = option("auto", help="device", **_choose("auto", "cpu", "gpu", "cuda", "mps"))
    devices: Any = 1
    strategy: str = "auto"
    precision: str = option(
        "32", help="auto: chosen by autotune", **_choose("32", "auto", "amp", "16-mixed", "bf16-mixed")
    )
    max_epochs: int | None = option(None, help="limit for each stage", **_COUNT)
    limit_batches: int | None = option(None, help="limit for each epoch", **_COUNT)
    threads: int | None = option(None, help="CPU threads; null: torch's default", **_THREADS)
    channels_last: bool = True
    compile: bool = False
    gradient_clip: float | None = option(None, help="maximum norm of the gradient", **_POSITIVE)
    accumulate: int = option(1, help="batches per optimizer step", **_COUNT)


@dataclass
class CallbacksConfig:
    early_stopping: int | None = option(None, help="epochs without improvement of val macro-F1", **_COUNT)
    ema: float | None = option(None, help="decay of the averaged weights", **_INSIDE)
    swa: int | None = option(None, help="average the epoch weights from this epoch of a stage on", **_NATURAL)
    others: dict[str, Any] = option({}, help="callbacks of your own: {name: {option: value}}")
    save_minutes: float = option(5.0, help="minutes between checkpoints in an epoch; 0: after every step", **_NATURAL)
    progress: bool = True


@dataclass
class LoggerConfig:
    name: str = MISSING
    options: dict[str, Any] = option({}, help="of a logger of your own")
    project: str = "avatar_bench"
    offline: bool = True


@dataclass
class TrainConfig:
    seed: int = option(42, help="training seed; the split has data.split.seed", **_SEED)
    stage: int | None = option(None, help="last stage of the mode to train; null: all", **_COUNT)
    epochs: int | None = option(None, help="of every stage; null: the mode's value", **_COUNT)
    lr: float | None = option(None, help="of every stage; null: the mode's value", **_POSITIVE)
    label_smoothing: float = option(0.0, help="part of each target that goes to all classes", **_SMOOTHING)
    lang: str = option("en", help="language of the curves", **_LANGUAGE)
    out: str | None = option(None, help="run folder; in a sweep, the folder of its jobs")
    init_from: str | None = option(None, help="a run whose weights to start from")
    resume: str | None = option(None, help="an interrupted run to continue")
    allow: list[str] = option([], help="names of guards to switch off")
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    mode: ModeConfig = field(default_factory=ModeConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: CallbacksConfig = field(default_factory=CallbacksConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


@dataclass
class MethodConfig:
    name: str = option(MISSING, help="objective of the pretraining", **_choose("simclr", "dino", "mae"))
    lr: float = option(MISSING, help="used unless lr= is set", **_POSITIVE)
    temperature: float | None = option(None, help="of simclr: of the loss; of dino: of the teacher", **_POSITIVE)
    projection: int | None = option(None, help="of simclr and dino: output dimension of the projection head", **_COUNT)
    momentum: float | None = option(
        None, help="of dino: initial momentum of the teacher, which rises to 1", **_PROBABILITY
    )
    local_views: int | None = option(None, help="of dino: small crops per image beside the two large ones", **_NATURAL)
    mask_ratio: float | None = option(None, help="of mae: fraction of patches that are masked", **_INSIDE)
    decoder_depth: int | None = option(None, help="of mae: blocks", **_COUNT)
    decoder_width: int | None = option(None, help="of mae", **_MULTIPLE)
    crop_scale: float = option(
        0.2, help="minimum area of a crop, as a fraction; for local views the maximum", **_FRACTION
    )
    flip: float = option(0.5, help="probability", **_PROBABILITY)
    jitter: float = option(0.5, help="strength of colour jitter", **_PROBABILITY)
    grey: float = option(0.2, help="probability of a greyscale view", **_PROBABILITY)
    blur: float = option(0.5, help="probability", **_PROBABILITY)


@dataclass
class ProbeConfig:
    every: int = option(10, help="epochs between probes; the first is before training, the last after it", **_COUNT)
    k: int = option(20, help="neighbours that vote", **_COUNT)


@dataclass
class ProgressConfig:
    others: dict[str, Any] = option({}, help="callbacks of your own: {name: {option: value}}")
    save_minutes: float = option(5.0, help="minutes between checkpoints in an epoch; 0: after every step", **_NATURAL)
    progress: bool = True


@dataclass
class PretrainConfig:
    seed: int = option(42, help="training seed; the split has data.split.seed", **_SEED)
    epochs: int = option(100, help="passes over the images", **_COUNT)
    lr: float | None = option(None, help="null: the method's value", **_POSITIVE)
    use_val: bool = option(False, help="also train on val, which train uses to choose its checkpoint")
    lang: str = option("en", help="language of the curves", **_LANGUAGE)
    out: str | None = option(None, help="output folder; null: below pretrained/")
    resume: str | None = option(None, help="an interrupted pretraining to continue")
    allow: list[str] = option([], help="names of guards to switch off")
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
    """A slice of a data set, by the slice names in slices.csv of error_bias."""

    source: str | None = option(None, help="evaluate only images of this source, as the manifest names it")
    generator: str | None = option(None, help="of this generator")
    size: str | None = option(None, help='of this range of the shorter side, such as "128-255 px"')
    format: str | None = option(None, help="of this file format, such as JPEG")
    jpeg_quality: str | None = option(None, help="of this range of JPEG quality, such as 75-84")


@dataclass
class EvaluateConfig:
    ckpt: Any = option(None, help="a run folder, a .ckpt file, a folder of runs, a list, or null: the newest run")
    split: str = option("test", help="of data=run: test, val, calibration, blind, or the name of one of its data.ood")
    against: str | None = option(None, help="earlier result or run to compare with; exit code 7 if significantly worse")
    alpha: float = option(0.05, help="significance level of against", **_INSIDE)
    out: str | None = option(None, help="null: the run's folder")
    allow: list[str] = option([], help="names of guards to switch off")
    accelerator: str = option("auto", help="device", **_ACCELERATOR)
    threads: int | None = option(None, help="CPU threads; null: torch's default", **_THREADS)
    lang: str = option("en", help="language of figures, warnings and reasons", **_LANGUAGE)
    where: WhereConfig = field(default_factory=WhereConfig)  # evaluate only a slice of the images
    again: bool = option(False, help="evaluate again even if results are up to date")
    skip_unusable: bool = option(False, help="skip blocks that cannot run on this run or data set, and list them")
    data: ImagesConfig = field(default_factory=ImagesConfig)
    block: dict[str, Any] = field(default_factory=dict)


@dataclass
class PredictConfig:
    ckpt: str | None = option(None, help="a run folder, a .ckpt file, an ensemble's folder, or null: the newest run")
    input: str = option(MISSING, help="a file, folder, glob, @list.txt, or - for paths on standard input")
    output: str = option(MISSING, help="a .csv, .jsonl or .parquet file, or - for standard output")
    calibrated: bool = option(True, help="scale by the run's temperature")
    runtime: str = option("torch", help="the last two on the CPU", **_choose("torch", "onnx", "openvino"))
    precision: str = option("auto", help="auto: chosen by autotune", **_choose("auto", "32", "bf16", "16", "int8"))
    update: bool = option(False, help="continue an incomplete output")
    batch_size: int = option(64, help="images per batch", **_COUNT)
    workers: int | None = option(None, help="image-loading processes; null: one per core, at most 8", **_WORKERS)
    accelerator: str = option("auto", help="device", **_ACCELERATOR)
    threads: int | None = option(None, help="CPU threads; null: chosen by autotune", **_THREADS)


@dataclass
class PrepareSplitConfig:
    by: str = option("group", help="units that are never split up", **_SPLIT_BY)
    seed: int = option(0, help="of the folds and of the draws", **_SEED)
    folds: int | None = option(None, help="one is test, the next val, others train; null: from data, else 10", **_FOLDS)
    held_out: list[str] = option([], help="test units for by=source|generator; none: drawn at random")


@dataclass
class CapConfig:
    per_class: int | None = option(None, help="maximum images per class; null: all", **_COUNT)
    per_source: int | None = option(None, help="maximum images per source; null: all", **_COUNT)


@dataclass
class PrepareConfig:
    out: str | None = option(None, help="data set folder; null with data=demo: the cache folder")
    update: bool = option(False, help="add what has changed; no image changes its split")
    lang: str = option("en", help="language of the data card and the audit's figures", **_LANGUAGE)
    equalise: str | None = option(None, help="re-encode all images alike; null: keep the files", **_EQUALISE)
    blind: list[str] = option([], help="sources of the external test set, blind.csv")
    against: dict[str, str] = option({}, help="{name: folder or manifest} of images to exclude")
    split: PrepareSplitConfig = field(default_factory=PrepareSplitConfig)
    cap: CapConfig = field(default_factory=CapConfig)
    allow: list[str] = option([], help="names of guards to switch off")
    data: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    block: dict[str, Any] = option({}, help="options of data_audit")


@dataclass
class ReportConfig:
    runs: str = option("runs", help="a folder of runs, or one run")
    out: str | None = option(None, help="the page, an .html file; null: report.html in that folder")
    lang: str = option("en", help="language of the report; figures keep the language they were drawn in", **_LANGUAGE)


@dataclass
class ExportConfig:
    ckpt: str | None = option(None, help="a run folder, a .ckpt file, a soup's folder, or null: the newest run")
    out: str = option(MISSING, help="a .safetensors, .onnx or .xml (OpenVINO) file; its card becomes a .json beside it")


SCHEMAS = {
    "train": TrainConfig,
    "pretrain": PretrainConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "prepare": PrepareConfig,
    "report": ReportConfig,
    "export": ExportConfig,
}

ENTRY_OPTIONS = {  # options whose values are the names of entries, and their kinds
    "optimizer.name": "optimizer",
    "optimizer.base": "optimizer",
    "optimizer.schedule.name": "schedule",
    "logger.name": "logger",
}
OPTION_OWNERS: dict[str, tuple[type, ...]] = {  # built-in entries whose options stand beside their name
    "optimizer": (SGD, SAM),
    "optimizer.schedule": (Cosine, Plateau),
}
METHOD_OPTIONS = {  # options of conf/method that only one method reads
    "simclr": ("temperature", "projection"),
    "dino": ("temperature", "projection", "momentum", "local_views"),
    "mae": ("mask_ratio", "decoder_depth", "decoder_width"),
}
GUARDS = {  # allowed values of `allow`
    "train": ("near_duplicates", "label_conflict", "shortcut", "pretraining"),
    "pretrain": ("pretraining", "near_duplicates", "test_images"),
    "evaluate": ("overlap", "near_duplicates", "permutation", "shortcut"),
    "prepare": ("shortcut",),
}
LAUNCHERS: dict[str, dict[str, Any]] = {  # our defaults where they differ from the plugins'
    "joblib": {"n_jobs": 2},
    "submitit_local": {"name": "avatar_bench", "timeout_min": 1440, "stderr_to_stdout": True},
    "submitit_slurm": {
        "name": "avatar_bench",
        "timeout_min": 1440,
        "stderr_to_stdout": True,
        "cpus_per_task": 2,
        "setup": ["export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK"],  # else each job uses all cores of its machine
    },
}
PREDICTION_SUFFIXES = (".csv", ".jsonl", ".parquet")
REPORT_SUFFIXES = (".html", ".htm")
EXPORT_SUFFIXES = (".safetensors", ".onnx", ".xml")
RUNTIME_PRECISIONS = {"torch": ("32", "bf16", "16"), "onnx": ("32",), "openvino": ("32", "bf16", "int8")}
SAM_OPTIONS = ("rho", "adaptive", "base")  # options of optimizer that only sam reads
DEFAULT_BLOCKS = {"evaluate": {"blind_test"}, "prepare": {"data_audit"}}  # in the defaults of conf/COMMAND.yaml


class UserFolderSearchPath(SearchPathPlugin):  # type: ignore[misc, unused-ignore]
    """Search path plugin that adds AVATAR_BENCH_CONF and installed packages after the project's own yaml."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append each user folder."""
        for folder in find_user_folders():
            search_path.append("avatar_bench", f"file://{folder}")


def register(command: str = "", overrides: Sequence[str] = ()) -> None:
    """Register the schemas for `defaults: [schema/<command>@_here_]`, the user folders, the blocks and the resolvers.

    Only the blocks that `overrides` name, else those of the command, are imported. `${units:source}` expands to the
    sources of the configured data set, one for each job of a sweep.
    """
    config_loader.install()
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(group="schema", name=name, node=schema)
    for name in _find_named_blocks(command, overrides):
        node = find_entry("block", name).load_class()
        ConfigStore.instance().store(group="block", name=name, node=node, package=f"block.{name}")
    every: Any = {"defaults": [*list_blocks(), "_self_"], "skip_unusable": True}
    ConfigStore.instance().store(group="block", name="all", node=every, package="_global_")
    Plugins.instance().register(UserFolderSearchPath)
    OmegaConf.register_new_resolver("units", _list_units_to_hold_out, replace=True)
    _set_launchers()


def _find_named_blocks(command: str, overrides: Sequence[str]) -> list[str]:
    """Return the blocks that block=... names, block=all all of them, else those in the defaults of a command."""
    given = [word for word in overrides if re.match(r"\+{0,2}block=", word)]
    names = {name for word in given for name in re.findall(r"\w+", word)} or DEFAULT_BLOCKS.get(command, set())
    return [name for name in find_choices("block") if name in names or ("all" in names and name in list_blocks())]


def _set_launchers() -> None:
    store = ConfigStore.instance()
    installed = store.list("hydra/launcher")
    for name, options in LAUNCHERS.items():
        if f"{name}.yaml" in installed:
            plain = store.load(f"hydra/launcher/{name}.yaml")
            node = OmegaConf.merge(plain.node, options)
            store.store(group="hydra/launcher", name=name, node=node, provider=plain.provider)


def _list_units_to_hold_out(by: str, *, _root_: DictConfig) -> str:
    """Return the values of data.split.held_out for a sweep over units, [a],[b], after data.limit is applied."""
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
        skipped = ", ".join(f"{name} ({why})" for name, why in reasons.items())
        print_line(f"not held out{drawn}: {skipped}", file=sys.stderr)
    return ",".join(f"[{quote(name)}]" for name in kept)


def check_config(command: str, cfg: DictConfig) -> None:
    """Raise ConfigError if an option is missing, unknown or has an invalid value."""
    check_required(command, cfg)
    OmegaConf.to_container(cfg, resolve=True)  # fail early on interpolations that cannot be resolved
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
    """Raise ConfigError with an example if options have no value."""
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        examples = {"input": "photos/", "output": "predictions.csv", "out": "net.onnx", "model.backbone": "resnet34"}
        values = " ".join(f"{option}={examples.get(option, 'VALUE')}" for option in missing)
        raise ConfigError(
            f"{command} needs a value for {', '.join(missing)}",
            f"for example: avatar-bench {command} {values}",
        )


def check_train(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of train is invalid."""
    _check_training("train", cfg)
    for name in cfg.data.augment.others:
        find_entry("augmentation", str(name), f"data.augment.others={{{name}: ...}}")
    _check_stages(cfg)
    if cfg.init_from is not None and cfg.resume is not None:
        raise ConfigError(
            "init_from and resume exclude each other",
            "resume=RUN continues an interrupted run; init_from=RUN starts a new one from its weights",
        )
    if cfg.callbacks.ema is not None and cfg.callbacks.swa is not None:
        raise ConfigError("callbacks.ema and callbacks.swa exclude each other: both average weights; set one to null")
    longest = max(cfg.epochs or stage.epochs for stage in cfg.mode.stages[: cfg.stage])
    if cfg.callbacks.swa is not None and cfg.callbacks.swa >= longest:
        raise ConfigError(
            f"callbacks.swa={cfg.callbacks.swa}: the longest stage has {longest} epochs, so none would be averaged",
            "expected a smaller number, or more epochs",
        )


def check_pretrain(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of pretrain is invalid."""
    if cfg.optimizer.name == "sam":
        raise ConfigError("optimizer=sam: pretrain supports every other optimizer")
    for name in SAM_OPTIONS:
        if cfg.optimizer[name] is not None:
            raise ConfigError(
                f"optimizer.{name}={cfg.optimizer[name]}: an option of sam, which pretrain does not support"
            )
    _check_training("pretrain", cfg)
    name = cfg.method.name
    for each in dict.fromkeys(each for options in METHOD_OPTIONS.values() for each in options):
        given, read = cfg.method[each] is not None, each in METHOD_OPTIONS[name]
        if given and not read:
            raise ConfigError(f"method.{each}={cfg.method[each]}: method={name} does not use this option")
        if read and not given:
            raise ConfigError(f"method.{each}=null: method={name} requires a value")
    if name == "simclr" and cfg.data.batch_size == 1:
        raise ConfigError("data.batch_size=1: method=simclr contrasts each image with the others in its batch")
    _check_warmup(cfg.optimizer.schedule, [cfg.epochs])
    if cfg.optimizer.schedule.name == "plateau":
        raise ConfigError(
            "optimizer.schedule.name=plateau needs a loss on val, which pretrain does not compute",
            "expected cosine or none",
        )
    if cfg.trainer.devices != 1 or cfg.trainer.strategy != "auto":
        raise ConfigError("trainer.devices, trainer.strategy: pretrain runs on one device")


def check_evaluate(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of evaluate is invalid."""
    _check_values(cfg)
    _check_data(cfg)
    if isinstance(cfg.data.batch_size, DictConfig):
        raise ConfigError(f"data.batch_size={cfg.data.batch_size}: evaluate expects a whole number of at least 1")
    if cfg.split == "train":
        raise ConfigError(
            "split=train: metrics on training images do not estimate performance on new ones",
            "expected test, val, calibration, blind, or the name of one of the run's data.ood",
        )
    if cfg.data.kind != "run" and cfg.split != "test":
        raise ConfigError(
            f"split={cfg.split} requires data=run, the run's own data; data={cfg.data.kind} is evaluated as one set"
        )
    if str(cfg.data.name).casefold() in RESERVED_SET_NAMES:
        raise ConfigError(
            f"data.name={cfg.data.name}: the name is reserved for a set of the run",
            f"names of the run's own sets: {', '.join(RESERVED_SET_NAMES)}",
        )
    if not cfg.block:
        raise ConfigError("block: no block is selected", "for example: avatar-bench evaluate block=blind_test")
    _check_allow("evaluate", cfg.allow)


def check_predict(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of predict is invalid."""
    _check_values(cfg)
    output = str(cfg.output)
    if output != "-" and Path(output).suffix.lower() not in PREDICTION_SUFFIXES:
        raise ConfigError(
            f"output={output}: expected a file ending in {_format_alternatives(PREDICTION_SUFFIXES)}, or - for stdout"
        )
    if cfg.precision not in ("auto", *RUNTIME_PRECISIONS[cfg.runtime]):
        known = _format_alternatives(RUNTIME_PRECISIONS[cfg.runtime])
        raise ConfigError(f"precision={cfg.precision}: runtime={cfg.runtime} supports {known}")
    if cfg.runtime != "torch" and cfg.accelerator == "gpu":
        raise ConfigError(f"accelerator=gpu: runtime={cfg.runtime} runs on the CPU; use runtime=torch for a GPU")


def check_prepare(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of prepare is invalid."""
    _check_values(cfg)
    _check_allow("prepare", cfg.allow)
    _check_held_out("split", cfg.split)
    if set(cfg.block) != {"data_audit"}:
        raise ConfigError(f"block={','.join(cfg.block) or 'null'}: prepare always runs data_audit and no other block")
    kind = cfg.data.get("kind")
    if not cfg.source and kind != "demo":
        raise ConfigError(
            f"data={kind}: prepare builds from sources",
            "for example: avatar-bench prepare source=folder source.folder.root=DIR out=NEW_DIR",
        )
    if cfg.source and cfg.out is None:
        raise ConfigError("out: expected a folder", "for example: avatar-bench prepare source=tabler out=DIR")


def check_report(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of report is invalid."""
    _check_values(cfg)
    if cfg.out is not None and Path(str(cfg.out)).suffix.lower() not in REPORT_SUFFIXES:
        raise ConfigError(f"out={cfg.out}: expected a file that ends in {_format_alternatives(REPORT_SUFFIXES)}")


def check_export(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of export is invalid."""
    _check_values(cfg)
    if Path(str(cfg.out)).suffix not in EXPORT_SUFFIXES:
        raise ConfigError(f"out={cfg.out}: expected a file that ends in {_format_alternatives(EXPORT_SUFFIXES)}")


def _check_options(cfg: DictConfig, around: str = "") -> None:
    """Raise ConfigError for an option that is not in the schema, as Hydra accepts any by +, or an invalid value."""
    schema: Any = OmegaConf.get_type(cfg)
    known = [each.name for each in fields(schema)]
    for name in map(str, cfg):
        option = f"{around}{name}"
        if name not in known:
            nearest = suggest_names(name, known)
            raise ConfigError(f"{option}: no such option" + (f"; {nearest}" if nearest else ""))
        inner = cfg._get_node(name)
        if isinstance(inner, DictConfig) and is_dataclass(OmegaConf.get_type(inner)):
            _check_options(inner, f"{option}.")
    for each, stated in iterate_options(schema):
        value = OmegaConf.select(cfg, each.name)
        if value is not None and (expected := stated.find_fault(value)) is not None:
            raise ConfigError(f"{around}{each.name}={value}: expected {expected}")


def _check_values(cfg: DictConfig) -> None:
    for name, kind in ENTRY_OPTIONS.items():
        if (value := OmegaConf.select(cfg, name)) is not None:
            find_entry(kind, value, f"{name}={value}")
    _check_options(cfg)
    for place, owners in OPTION_OWNERS.items():
        for each, known in (pair for owner in owners for pair in iterate_options(owner)):
            value = OmegaConf.select(cfg, f"{place}.{each.name}")
            if value is not None and (expected := known.find_fault(value)) is not None:
                raise ConfigError(f"{place}.{each.name}={value}: expected {expected}")
    data = (f"data.{name}" for name in ("root", "manifest", "blind", "ood_root"))
    for name in ("out", "ckpt", "against", "input", "runs", "init_from", "resume", *data):
        if OmegaConf.select(cfg, name) == "":
            raise ConfigError(f"{name}= is empty: expected a path, or {name}=null for none")
    for name in ("ckpt", "init_from", "resume", "model.weights"):
        refuse_address(str(OmegaConf.select(cfg, name)), name)


def _check_data(cfg: DictConfig) -> None:
    data = cfg.data
    for kind, name, place in (("folder", "root", "DIR"), ("manifest", "manifest", "FILE")):
        given = data[name] is not None
        if data.kind == kind and not given:
            raise ConfigError(f"data={kind} needs data.{name}={place}")
        if given and data.kind != kind:
            raise ConfigError(f"data.{name} requires data={kind}, but data.kind is {data.kind}")
    sizes = data.batch_size.values() if isinstance(data.batch_size, DictConfig) else [data.batch_size]
    for name in data.ood:
        if name in RESERVED_SET_NAMES or make_folder_name(name) != name:
            raise ConfigError(
                f"data.ood.{name}: expected a name of letters and digits that is not used by another set",
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
            f"{option}.held_out={split.held_out}: requires {option}.by=source or generator",
            f"for example: {option}.by=source '{option}.held_out=[tabler]'",
        )


def _check_training(command: str, cfg: DictConfig) -> None:
    """Raise ConfigError if an option that train and pretrain share is invalid."""
    _check_values(cfg)
    _check_data(cfg)
    data, trainer = cfg.data, cfg.trainer
    _check_held_out("data.split", data.split)
    if data.kind == "run":
        raise ConfigError(f"data=run is for evaluate; {command} accepts data=demo, data=folder or data=manifest")
    if data.fold >= data.split.folds:
        raise ConfigError(f"data.fold={data.fold}: expected less than data.split.folds={data.split.folds}")
    _check_optimizer(cfg.optimizer)
    _check_model(cfg.model)
    _check_allow(command, cfg.allow)
    if trainer.accelerator not in ("auto", "cpu") or trainer.devices != 1:  # imported only here, since it loads torch
        from avatar_bench.training.environment import refuse_missing_devices

        refuse_missing_devices(trainer.accelerator, trainer.devices, trainer.strategy)
    load_optimization(OmegaConf.to_container(cfg.optimizer, resolve=True))  # type: ignore[arg-type]
    list(load_callbacks({"others": OmegaConf.to_container(cfg.callbacks.others, resolve=True)}))
    load_builder("logger", OmegaConf.to_container(cfg.logger, resolve=True))  # type: ignore[arg-type]


def _check_model(model: DictConfig) -> None:
    _check_weights(str(model.weights))
    known = () if model.backbone in find_entries("backbone") else NETWORK_OPTIONS
    if fault := find_option_fault(OmegaConf.to_container(model.options), known):  # type: ignore[arg-type]
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
        for name, rule in (("epochs", _COUNT), ("lr", _POSITIVE)):
            if not rule["check"](stage[name]):
                raise ConfigError(f"{option}.{name}={stage[name]}: expected {rule['expected']}")
    _check_warmup(cfg.optimizer.schedule, [cfg.epochs or stage.epochs for stage in stages[: cfg.stage]])


def _check_warmup(schedule: DictConfig, epochs: Sequence[int]) -> None:
    """Raise ConfigError if the schedule would never lower the learning rate after its warm-up."""
    warmup = schedule.warmup_epochs
    if warmup and schedule.name != "cosine":
        raise ConfigError(
            f"optimizer.schedule.warmup_epochs={warmup} requires optimizer.schedule.name=cosine, not {schedule.name}"
        )
    if warmup and warmup >= min(epochs):
        trained = format_count(min(epochs), "epoch")
        raise ConfigError(f"optimizer.schedule.warmup_epochs={warmup}: expected fewer than the {trained} of training")


def _check_optimizer(optimizer: DictConfig) -> None:
    for name in SAM_OPTIONS:
        value = optimizer[name]
        if optimizer.name != "sam" and value is not None:
            raise ConfigError(
                f"optimizer.{name}={value} requires optimizer=sam, but optimizer.name is {optimizer.name}"
            )
        if optimizer.name == "sam" and value is None:
            raise ConfigError(f"optimizer.name=sam requires optimizer.{name}; optimizer=sam sets all of them")
    if optimizer.base == "sam":
        raise ConfigError("optimizer.base=sam: expected another optimizer")


def _check_weights(weights: str) -> None:
    if weights not in WEIGHTS_CHOICES and not Path(weights).is_file():
        nearest = suggest_names(weights, WEIGHTS_CHOICES)
        raise ConfigError(
            f"model.weights={weights}: no such file" + (f"; {nearest}" if nearest else ""),
            f"expected {_format_alternatives(WEIGHTS_CHOICES)}, or a .safetensors or .pth file",
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1

"""Options of all commands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING as REQUIRED
from dataclasses import Field, dataclass, field, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from omegaconf import MISSING

from avatar_bench.config.catalogue import WEIGHTS_CHOICES
from avatar_bench.config.entries import explain_missing, find_entries, find_entry
from avatar_bench.config.options import (
    Option,
    copy_option,
    find_option,
    get_default,
    iterate_options,
    option,
    path_option,
)
from avatar_bench.i18n import LANGUAGES
from avatar_bench.inference.prediction_columns import PredictionColumns
from avatar_bench.models.card_schema import MAX_LIST_ITEMS
from avatar_bench.runs.record import PROBE


def format_alternatives(names: Sequence[str]) -> str:
    """Return names as "a, b or c"."""
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


# what option() is told of the values that an option accepts
def _accept(expected: str, check: Callable[[Any], bool], **known: Any) -> dict[str, Any]:
    return {"expected": expected, "check": check, **known}


def _choose(*names: str) -> dict[str, Any]:
    return {"choices": names, "expected": format_alternatives(names)}


def _end_in(*suffixes: str, other: str = "") -> dict[str, Any]:
    expected = f"a file that ends in {format_alternatives(suffixes)}" + (f", or {other}" if other else "")
    return _accept(expected, lambda file: file == other or Path(file).suffix.lower() in suffixes)


def _allow(*guards: str) -> Any:
    return option([], help="names of guards to switch off", **_choose(*guards))


def _is_export(file: str) -> bool:
    name = Path(file).suffix[1:].lower()
    return name in find_entries("export_format") or explain_missing("export_format", name) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


COUNT = _accept("at least 1", lambda value: value >= 1)
_NATURAL = _accept("0 or more", lambda value: value >= 0)
POSITIVE = _accept("more than 0", lambda value: 0 < value < math.inf)
FRACTION = _accept("more than 0 and at most 1", lambda value: 0 < value <= 1)
PROBABILITY = _accept("from 0 to 1", lambda value: 0 <= value <= 1)
INSIDE = _accept("between 0 and 1", lambda value: 0 < value < 1)
_TARGET_ERROR = "decide, or abstain so often that at most this fraction of the answers is incorrect; null: no decisions"
_PAGE_TARGET_ERROR = "as in predict, for a page; null: .05 if the run's calibration has enough images for it"
_PER_CLASS = "target_error holds for the answers of each class, not for all together"
_SEED = _accept("from 0 to 4294967295", lambda value: 0 <= value < 2**32)
_WORKERS = _accept("from 0 to 256 processes", lambda value: 0 <= value <= 256)
_THREADS = _accept("from 1 to 1024 threads", lambda value: 1 <= value <= 1024)
_SIDE = _accept("from 1 to 4096 pixels", lambda value: 1 <= value <= 4096)
_FOLDS = _accept("at least 3: test, val and train", lambda value: value >= 3)
_ANGLE = _accept("from 0 to 180 degrees", lambda value: 0 <= value <= 180)
_SMOOTHING = _accept("0 or more and less than 1", lambda value: 0 <= value < 1)
_JITTER = _accept("four numbers, 0 or more", lambda values: len(values) == 4 and min(values) >= 0)
_BATCH = _accept(
    "a whole number of at least 1, or {cpu: N, cuda: N}",
    lambda value: all(map(_is_count, value.values() if isinstance(value, Mapping) else [value])),
)
_UNFREEZE = _accept(
    "classifier, all, or a number of layer groups counted from the head",
    lambda value: value in ("classifier", "all") or _is_count(value),
)
_STRENGTHS = _accept(
    "one or more numbers above 0", lambda values: bool(values) and all(0 < value < math.inf for value in values)
)
_LAYERS = _accept(
    f"up to {MAX_LIST_ITEMS} different numbers of -1 or more",
    lambda values: bool(values) and min(values) >= -1 and len(set(values)) == len(values) <= MAX_LIST_ITEMS,
)
_SOURCES_OF = _accept(
    "every source in one unit only",
    lambda units: len(each := [name for names in units.values() for name in names]) == len(set(each)),
    is_open=True,
)
# of runs, behind other ways to name one: ", hf:OWNER/NAME"
_ADDRESSES = "".join(f", {entry.summary.partition(': ')[0]}" for entry in find_entries("run_address").values())
_LANGUAGE, _SPLIT_BY, _EQUALISE = _choose(*LANGUAGES), _choose("group", "source", "generator"), _choose("jpeg")
_TABLES = _choose("auto", "csv", "parquet") | {"help": "files of tables of images; auto: Parquet above a million rows"}
_ACCELERATOR, _AT = _choose("auto", "cpu", "gpu"), _choose("input", "native")
_WEIGHTS = {"choices": WEIGHTS_CHOICES, "is_path": True}
_RUNTIME: dict[str, Any] = {"choices": lambda: ["auto", "torch", *find_entries("runtime")]}
_DETECTOR: dict[str, Any] = {"choices": lambda: find_entries("detector"), "entries": "detector"}


@dataclass
class StageConfig:
    """One training stage."""

    unfreeze: Any = option("all", help="layers to train", **_UNFREEZE)
    epochs: int = option(MISSING, help="passes over the images", **COUNT)
    lr: float = option(MISSING, help="learning rate of the head", **POSITIVE)


@dataclass
class ModeConfig:
    name: str = option(MISSING, help="name of the mode")
    stages: list[StageConfig] = option(MISSING, help="stages of the training: {unfreeze, epochs, lr} of each")
    shots: int | None = option(None, help="images per class of the training split; null: all", **COUNT)
    val_shots: int | None = option(
        None, help="images per class of val, which are not counted in shots; null: as many as shots", **COUNT
    )
    balance: str = option(
        "sampler", help="how unequal classes and sources are balanced", **_choose("sampler", "source", "loss", "none")
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
class UnitsConfig:
    seed: int = option(0, help="of the folds and of the draws", **_SEED)
    held_out: list[str] = option([], help="test units for by=source|generator; none: drawn at random")


@dataclass
class SplitConfig(UnitsConfig):
    folds: int = option(10, help="one fold is test, the next one val, the others train", **_FOLDS)
    by: str | None = option(None, help="null: as the data set states, or group", **_SPLIT_BY)
    at_least: int = option(20, help="minimum images of a held-out unit in a sweep, after data.limit", **COUNT)
    units: dict[str, list[str]] = option({}, help="sources held out together: {UNIT: [SOURCE, ...]}", **_SOURCES_OF)
    val_by: str | None = option(None, help="what val and train do not share; null: group", **_choose("group", "source"))
    train_sources: int | None = option(None, help="sources per class in train, drawn by seed; null: all", **COUNT)


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
    mixup: float = option(0.0, help="alpha of the Beta distribution; 0: off", **_NATURAL)
    cutmix: float = option(0.0, help="alpha of the Beta distribution; 0: off; beside mixup, half each", **_NATURAL)
    others: dict[str, Any] = option({}, help="augmentations of your own: {NAME: {OPTION: VALUE}}", is_open=True)


@dataclass
class ImageSetConfig:
    kind: str = option(MISSING, help="kind of the data set", **_choose("folder", "manifest", "shards", "demo", "run"))
    name: str | None = path_option("name of the data set; null: the folder's name or the file's stem")
    root: str | None = path_option("folder of images", only_for=("folder",))
    manifest: str | None = path_option("a CSV with columns path,label", only_for=("manifest",))
    shards: str | None = path_option("folder or address of shards written by prepare", only_for=("shards",))
    shards_gb: float = option(50.0, help="GB of remote shards kept on this machine", only_for=("shards",), **POSITIVE)
    sources: dict[str, Any] = option({}, help="for data=demo: its sources, see conf/source")
    blind_sources: list[str] = option([], help="for data=demo: sources of its blind set")
    ood_sources: dict[str, list[str]] = option({}, help="for data=demo: its out-of-domain sets")
    prepare: dict[str, Any] = option({}, help="for data=demo: build options, see prepare --help")


@dataclass
class ImagesConfig(ImageSetConfig):
    image_size: int | None = option(None, help="pixels per side; null in evaluate: the checkpoint's", **_SIDE)
    resize: str | None = option(None, help="null in evaluate: the checkpoint's", **_choose("squash", "crop", "pad"))
    equalise: str | None = option(None, help="re-encode all images; null in evaluate: the checkpoint's", **_EQUALISE)
    batch_size: Any = option(32, help="images per batch; by device only in train", **_BATCH)
    workers: int = option(2, help="image-loading processes", **_WORKERS)
    cache_gb: float = option(4.0, help="size limit of the shared cache of resized images; 0: off", **_NATURAL)
    blind: str | None = path_option("external test set of other sources: folder or manifest")
    ood: dict[str, str] = path_option("further test sets: {name: folder or manifest}", {}, is_open=True)
    ood_root: str | None = path_option("a folder of further sets: each subfolder is one, named after it")


@dataclass
class SplitDataConfig(ImagesConfig):
    split: SplitConfig = field(default_factory=SplitConfig)
    fold: int = option(0, help="index of the test fold", **_NATURAL)
    fraction: float = option(1.0, help="of the training split", **FRACTION)
    val_fraction: float = option(1.0, help="of the val split", **FRACTION)
    limit: int | None = option(None, help="images drawn from the whole set before it is split", **COUNT)


@dataclass
class DataConfig(SplitDataConfig):
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    shuffle_shards: int = option(64, help="shards whose images are shuffled together", only_for=("shards",), **COUNT)
    augmented_copies: int | None = option(None, help="fixed copies per image; null: anew each epoch", **COUNT)


# groups that take any name, and the option that gets what is set beside the others: arguments, and nodes by name
OPEN_GROUPS = {"optimizer": "options", "callbacks": "others"}


@dataclass
class OptimizerConfig:
    name: str | None = option(None, help="a name of timm.optim.list_optimizers(); unused with _target_")
    _target_: str | None = option(None, help="class of an optimizer, such as torch.optim.NAdam; null: by name")
    options: dict[str, Any] = option({}, help="its arguments, as optimizer.momentum=.8 sets them", is_open=True)
    weight_decay: float = option(0.01, help="0: off", **_NATURAL)
    layer_decay: float | None = option(None, help="factor of the rate per layer away from the head", **FRACTION)
    decay_norms: bool = option(True, help="also decay norms, biases, tokens and position embeddings")
    rho: float | None = option(
        None, help="radius of sharpness-aware minimisation, ten times as large if adaptive; null: off", **POSITIVE
    )
    adaptive: bool = option(False, help="with rho: scale the perturbation by each weight's size")


@dataclass
class TrainerConfig:
    accelerator: str = option("auto", help="device", **_choose("auto", "cpu", "gpu", "cuda", "mps"))
    devices: Any = option(1, help="number of devices, as in Lightning")
    strategy: str = option(
        "auto", help="how devices share a step; auto: ddp if there are several", **_choose("auto", "ddp")
    )
    precision: str = option(
        "32", help="auto: chosen by autotune", **_choose("32", "auto", "amp", "16-mixed", "bf16-mixed")
    )
    max_epochs: int | None = option(None, help="limit for each stage", **COUNT)
    limit_batches: int | None = option(None, help="limit for each epoch", **COUNT)
    threads: int | None = option(None, help="CPU threads; null: torch's default", **_THREADS)
    channels_last: bool = option(True, help="memory format that is faster for convolutions")
    compile: bool = option(False, help="compile the network before training")
    gradient_clip: float | None = option(None, help="maximum norm of the gradient", **POSITIVE)
    accumulate: int = option(1, help="batches per optimizer step", **COUNT)
    plugins: dict[str, Any] = option({}, help="of Lightning, by name: {NAME: {_target_: CLASS}}", is_open=True)


@dataclass
class CallbacksConfig:
    others: dict[str, Any] = option({}, help="by name, as callbacks.NAME._target_=CLASS sets them", is_open=True)
    save_minutes: float = option(5.0, help="minutes between checkpoints in an epoch; 0: after every step", **_NATURAL)
    progress: bool = option(True, help="progress bar on a terminal")


@dataclass
class TrainConfig:
    seed: int = option(42, help="training seed; the split has data.split.seed", **_SEED)
    stage: int | None = option(None, help="last stage of the mode to train; null: all", **COUNT)
    epochs: int | None = option(None, help="of every stage; null: the mode's value", **COUNT)
    lr: float | None = option(None, help="of every stage; null: the mode's value", **POSITIVE)
    label_smoothing: float = option(0.0, help="part of each target that goes to all classes", **_SMOOTHING)
    lang: str = option("en", help="language of the curves", **_LANGUAGE)
    tables: str = option("auto", **_TABLES)
    out: str | None = path_option("run folder; in a sweep, the folder of its jobs")
    init_from: str | None = path_option("a run whose weights to start from")
    teacher: str | None = path_option("a run or an ensemble whose answers replace the labels of the training images")
    resume: str | None = path_option("an interrupted run to continue")
    allow: list[str] = _allow("near_duplicates", "label_conflict", "shortcut", "pretraining")
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    mode: ModeConfig = field(default_factory=ModeConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: CallbacksConfig = field(default_factory=CallbacksConfig)
    schedule: dict[str, Any] = option({}, help="{_target_: CLASS} of a learning-rate schedule", is_open=True)
    logger: dict[str, Any] = option({}, help="loggers of Lightning by name: {NAME: {_target_: CLASS}}", is_open=True)


@dataclass
class WhereConfig:
    """A slice of a data set, by the slice names in slices.csv of error_bias."""

    source: str | None = option(None, help="evaluate only images of this source, as the manifest names it")
    generator: str | None = option(None, help="of this generator")
    size: str | None = option(None, help='of this range of the shorter side, such as "128-255 px"')
    format: str | None = option(None, help="of this file format, such as JPEG")
    jpeg_quality: str | None = option(None, help="of this range of JPEG quality, such as 75-84")


@dataclass
class ViewConfig:
    """A view of the classes; without a name, the finest one that every run can answer."""

    name: str | None = option(None, help="name of the view; null: the finest that every run can answer")
    classes: dict[str, Any] = option({}, help="of a view of your own: {NEW: [CLASS, CLASS]}", is_open=True)


@dataclass
class EvaluateConfig:
    ckpt: Any = path_option(
        f"a run folder, a .ckpt file, a folder of runs{_ADDRESSES}, a list, or null: the newest run", is_main=True
    )
    split: str = option("test", help="of data=run: test, val, calibration, blind, or the name of one of its data.ood")
    against: str | None = path_option("earlier result or run to compare with; exit code 7 if significantly worse")
    alpha: float = option(0.05, help="significance level of against", **INSIDE)
    out: str | None = path_option("folder of the results; null: the run's folder")
    allow: list[str] = _allow(
        "overlap", "near_duplicates", "permutation", "shortcut", "missing_rows", "upload", "detector_changed"
    )
    accelerator: str = option("auto", help="device", **_ACCELERATOR)
    threads: int | None = option(None, help="CPU threads; null: torch's default", **_THREADS)
    lang: str = option("en", help="language of figures, warnings and reasons", **_LANGUAGE)
    tables: str = option("auto", **_TABLES)
    where: WhereConfig = field(default_factory=WhereConfig)  # evaluate only a slice of the images
    view: ViewConfig = field(default_factory=ViewConfig)
    again: bool = option(False, help="evaluate again even if results are up to date")
    skip_unusable: bool = option(False, help="skip blocks that cannot run on this run or data set, and list them")
    data: ImagesConfig = field(default_factory=ImagesConfig)
    block: dict[str, Any] = option({}, help="options of the blocks")


@dataclass
class EngineConfig:
    """Where predictions are computed; `find_schema` adds the options of the entries."""

    name: str = option(MISSING, help="where predictions are computed")


@dataclass
class PredictConfig:
    ckpt: str | None = path_option(
        f"a run folder, a .ckpt file, an ensemble's folder{_ADDRESSES}, or null: the newest run"
    )
    input: Any = path_option(
        "a file, folder, glob, @list.txt, manifest, or - for paths on standard input; or a list of them",
        MISSING,
        is_main=True,
        example="photos/",
    )
    output: str = path_option(
        "file of the predictions (.html: a page for review; engine=ray: a folder), or - for standard output",
        "-",
    )
    calibrated: bool = option(True, help="scale by the run's temperature")
    target_error: float | None = option(None, help=_TARGET_ERROR, **INSIDE)
    per_class: bool = option(False, help=_PER_CLASS)
    costs: str | None = path_option("yaml with the cost of each answer: decide by least expected cost; null: none")
    alpha: float = option(0.1, help="fraction of images whose prediction_set misses the true class", **INSIDE)
    runtime: str = option("auto", help="all but torch on the CPU; auto: the fastest that agrees with torch", **_RUNTIME)
    precision: str = option("auto", help="auto: chosen by autotune", **_choose("auto", "32", "bf16", "16", "int8"))
    update: bool = option(False, help="continue an incomplete output")
    explain: str | None = path_option("folder for the Grad-CAM of each image, which a page shows too; null: none")
    neighbours: bool = option(False, help="a page shows the nearest training images of each image")
    lang: str = option("en", help="language of a page for review", **_LANGUAGE)
    batch_size: int = option(64, help="images per batch", **COUNT)
    workers: int | None = option(None, help="image-loading processes; null: one per core, at most 8", **_WORKERS)
    accelerator: str = option("auto", help="device", **_ACCELERATOR)
    threads: int | None = option(None, help="CPU threads; null: chosen by autotune", **_THREADS)
    view: ViewConfig = field(default_factory=ViewConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    allow: list[str] = _allow("upload", "detector_changed")
    columns_enabled: ClassVar[bool] = False  # of the entries of prediction_column, unless they are turned on

    def find_columns(self) -> dict[str, PredictionColumns]:
        """Return the entries of prediction_column that are turned on, by name."""
        found = {name: each for name, each in vars(self).items() if isinstance(each, PredictionColumns)}
        return {name: each for name, each in found.items() if each.enabled}


@dataclass
class PrepareSplitConfig(UnitsConfig):
    by: str = option("group", help="units that are never split up", **_SPLIT_BY)
    folds: int | None = option(None, help="one is test, the next val, others train; null: from data, else 10", **_FOLDS)


@dataclass
class CapConfig:
    per_class: int | None = option(None, help="maximum images per class; null: all", **COUNT)
    per_source: int | None = option(None, help="maximum images per source; null: all", **COUNT)


@dataclass
class PrepareConfig:
    out: str | None = path_option("data set folder; null with data=demo: the cache folder")
    update: bool = option(False, help="add what has changed; no image changes its split")
    lang: str = option("en", help="language of the data card and the audit's figures", **_LANGUAGE)
    tables: str = option("auto", **_TABLES)
    equalise: str | None = option(None, help="re-encode all images alike; null: keep the files", **_EQUALISE)
    out_format: str = option("files", help="shards: also write OUT/shards, tar files", **_choose("files", "shards"))
    shard_mb: float = option(100.0, help="MB of a shard of out_format=shards", **POSITIVE)
    blind: list[str] = option([], help="sources of the external test set, blind.csv")
    against: dict[str, str] = path_option("{name: folder or manifest} of images to exclude", {}, is_open=True)
    split: PrepareSplitConfig = field(default_factory=PrepareSplitConfig)
    cap: CapConfig = field(default_factory=CapConfig)
    allow: list[str] = _allow("shortcut", "removed")
    data: dict[str, Any] = option({}, help="the data set to build, instead of sources")
    source: dict[str, Any] = option({}, help="options of the sources")
    block: dict[str, Any] = option({}, help="options of data_audit")


@dataclass
class VaryConfig:
    out: str = path_option("folder of the images and their manifest", MISSING, example="varied")
    ckpt: str | None = path_option(f"a run{_ADDRESSES}: for its input size and its data; null: size= and data=")
    size: int | None = option(None, help="pixels per side of the input, without ckpt", **_SIDE)
    resize: str = option("squash", help="how images are brought to that size", **_choose("squash", "crop", "pad"))
    at: str = option("input", help="where corruptions are applied: to images of the input size, or of their own", **_AT)
    split: str = option("test", help="of data=run: test, val, calibration, blind, or the name of one of its data.ood")
    data: ImageSetConfig = field(default_factory=ImageSetConfig)
    block: dict[str, Any] = option({}, help="options of robustness")


@dataclass
class CalibrateConfig:
    ckpt: str | None = path_option(
        f"a run folder, an ensemble's folder{_ADDRESSES}, or null: the newest run", is_main=True
    )
    split: str = option("calibration", help="of data=run: calibration, val, blind, or the name of one of its data.ood")
    data: ImageSetConfig = field(default_factory=ImageSetConfig)
    target_error: float | None = option(None, help="end with 3 if the images are too few for it; null: any", **INSIDE)
    per_class: bool = option(False, help=_PER_CLASS)
    view: ViewConfig = field(default_factory=ViewConfig)
    allow: list[str] = _allow("overlap", "near_duplicates", "missing_rows", "upload", "detector_changed", "selected")
    batch_size: int = option(32, help="images per batch", **COUNT)
    workers: int = option(2, help="image-loading processes", **_WORKERS)
    accelerator: str = option("auto", help="device", **_ACCELERATOR)
    threads: int | None = option(None, help="CPU threads; null: torch's default", **_THREADS)


@dataclass
class ReportConfig:
    runs: str = path_option(f"a folder of runs, or one run{_ADDRESSES}", "runs", is_main=True)
    out: str | None = path_option("the page; null: report.html in that folder", **_end_in(".html", ".htm"))
    lang: str = option("en", help="language of the report and its figures", **_LANGUAGE)
    view: ViewConfig = field(default_factory=ViewConfig)


@dataclass
class ExportConfig:
    ckpt: str | None = path_option(
        f"a run folder, a .ckpt file, a soup's folder{_ADDRESSES}, or null: the newest run", is_main=True
    )
    out: str | None = path_option(
        "file of the network (.xml: OpenVINO), its card a .json beside it; .html: a page that classifies; "
        "null: network.onnx in the run folder",
        check=_is_export,
        expected="a file that ends in .safetensors, .onnx, .xml or .html",
    )
    lang: str = option("en", help="language of a page", **_LANGUAGE)
    target_error: float | None = copy_option(PredictConfig, "target_error", help=_PAGE_TARGET_ERROR)
    per_class: bool = copy_option(PredictConfig, "per_class")
    costs: str | None = copy_option(PredictConfig, "costs")
    alpha: float = copy_option(PredictConfig, "alpha")
    web_runtime: str | None = path_option("folder of npm's onnxruntime-web, for a page; null: by npm, then the cache")
    allow: list[str] = _allow("large_page")


@dataclass
class ImportConfig:
    """Options of a detector of any kind; `find_schema` adds those of each kind."""

    kind: str = option(MISSING, help="kind of the detector", example="predictions file=scores.csv", **_DETECTOR)
    out: str = path_option("run folder", MISSING, example="runs/detector")
    classes: dict[str, Any] = option({}, help="{its class: class of the data sets}; none: same names", is_open=True)
    trained_on: str | None = path_option("its training images: a manifest, or a list of SHA-256; null: unknown")
    licence: str | None = option(None, help="licence of the detector; null: unknown")
    origin: str | None = option(None, help="where the detector comes from; null: unknown")
    options: dict[str, Any] = option({}, help="of a detector of your own", is_open=True)
    allow: list[str] = _allow("missing_rows", "upload")


@dataclass
class DoctorConfig:
    hub: bool = option(False, help="connect to the Hugging Face hub, to see whether it can be reached")
    format: str = option("text", help="of the output", **_choose("text", "json"))


SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "prepare": PrepareConfig,
    "vary": VaryConfig,
    "calibrate": CalibrateConfig,
    "report": ReportConfig,
    "export": ExportConfig,
    "import": ImportConfig,
    "doctor": DoctorConfig,
}
CORE = dict(SCHEMAS)

SWITCH = "enabled"  # the option that turns a group of options on, which is set by GROUP=true


def find_schema(command: str) -> type:
    """Return the dataclass of a command's options, which is in SCHEMAS from then on.

    Those of the core are stated here, since layers below the commands read them. Raise ConfigError if there is no such
    command, or its module cannot be used.
    """
    schema: Any = CORE[command] if command in CORE else find_entry("command", command).load_class()
    if schema is ImportConfig:
        schema = _add_options(schema, _load_classes("detector"))
    elif hasattr(schema, "columns_enabled"):
        suffixes = tuple(f".{name}" for name in find_entries("prediction_output"))
        schema = _add_columns(schema, _load_classes("prediction_column"), _load_classes("engine"), suffixes)
    SCHEMAS[command] = schema
    return schema  # type: ignore[no-any-return]


def _load_classes(kind: str) -> tuple[tuple[str, Any], ...]:
    """Return the classes of entries by name; of detectors, those of users have their options elsewhere."""
    entries = (entry for entry in find_entries(kind).values() if entry.is_builtin or kind != "detector")
    return tuple((entry.name, entry.load_class()) for entry in entries)


@cache
def _add_columns(
    schema: Any, columns: Sequence[tuple[str, Any]], engines: Sequence[tuple[str, Any]], suffixes: Sequence[str]
) -> Any:
    """Return a schema with the options of the entries of columns, and with the engines and outputs of predict."""
    made: dict[str, tuple[Any, Any]] = {}
    if schema is PredictConfig:
        engine = _add_options(EngineConfig, engines)
        made["output"] = str, copy_option(schema, "output", **_end_in(*suffixes, other="-"))
        made["engine"] = engine, field(default_factory=engine)
    for name, owner in columns:
        if schema.columns_enabled:
            owner = _derive(owner, {SWITCH: (bool, copy_option(owner, SWITCH, default=True))})
        made[name] = owner, field(default_factory=owner)
    return _derive(schema, made)


@cache
def _add_options(schema: Any, owners: Sequence[tuple[str, Any]]) -> Any:
    """Return a schema with the options of entries, none of them required, the first of those with one name."""
    made: dict[str, tuple[Any, Any]] = {}
    if schema is EngineConfig:
        made["name"] = str, copy_option(schema, "name", **_choose(*dict(owners)))
    for _, owner in owners:
        hints = get_type_hints(owner)
        for each, _ in iterate_options(owner):
            changed: dict[str, Any] = {"default": None} if get_default(each) is REQUIRED else {}
            kind = hints[each.name] | None if changed else hints[each.name]
            if schema is EngineConfig:
                changed["only_for"] = tuple(name for name, other in owners if find_option(other, each.name))
            made.setdefault(each.name, (kind, copy_option(owner, each.name, **changed)))
    return _derive(schema, made)


def _derive(owner: Any, options: Mapping[str, tuple[Any, Any]]) -> Any:
    """Return a dataclass with these options, by name with type and field, beside those of another."""
    stated = [(name, kind, each) for name, (kind, each) in options.items()]
    return make_dataclass(owner.__name__, stated, bases=(owner,), namespace={"__module__": owner.__module__})


def find_options(key: str) -> Iterator[tuple[Field[Any], Option]]:
    """Yield the option that a key names, once for each command in SCHEMAS that has it."""
    yield from filter(None, (find_option(schema, key) for schema in SCHEMAS.values()))

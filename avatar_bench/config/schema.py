"""Options that several commands share, and the options of a command with those that entries add."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING as REQUIRED
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import MISSING

from avatar_bench.config.entries import find_entries, find_entry
from avatar_bench.config.options import (
    copy_option,
    find_option,
    get_default,
    get_nested,
    iterate_options,
    option,
    path_option,
)
from avatar_bench.data.dates import DATE_FORM, is_date
from avatar_bench.files.paths import make_folder_name
from avatar_bench.i18n import LANGUAGES
from avatar_bench.runs.record import RESERVED_SET_NAMES


def format_alternatives(names: Sequence[str]) -> str:
    """Return names as "a, b or c"."""
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


# what option() is told of the values that an option accepts
def accept(expected: str, check: Callable[[Any], bool], **known: Any) -> dict[str, Any]:
    return {"expected": expected, "check": check, **known}


def choose(*names: str) -> dict[str, Any]:
    return {"choices": names, "expected": format_alternatives(names)}


def end_in(*suffixes: str, other: str = "") -> dict[str, Any]:
    expected = f"a file that ends in {format_alternatives(suffixes)}" + (f", or {other}" if other else "")
    return accept(expected, lambda file: file == other or Path(file).suffix.lower() in suffixes)


PROFILE = {
    "help": "file for a trace of torch, viewable in Perfetto, and print the largest costs; null: none",
    **end_in(".json"),
}


def guard_option(*guards: str) -> Any:
    return option([], help="names of guards to switch off", **choose(*guards))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


COUNT = accept("at least 1", lambda value: value >= 1)
NATURAL = accept("0 or more", lambda value: value >= 0)
POSITIVE = accept("more than 0", lambda value: 0 < value < math.inf)
FRACTION = accept("more than 0 and at most 1", lambda value: 0 < value <= 1)
UP_TO_HALF = accept("more than 0 and at most 0.5", lambda value: 0 < value <= 0.5)
PROBABILITY = accept("from 0 to 1", lambda value: 0 <= value <= 1)
INSIDE = accept("between 0 and 1", lambda value: 0 < value < 1)
# of commands that decide
TARGET_ERROR = INSIDE | {
    "help": "decide, or abstain so often that at most this fraction of the answers is incorrect; null: no decisions"
}
FALSE_ALARM_RATE = INSIDE | {
    "help": "call at most this fraction of the images of other classes target; null: no decisions by it"
}
DECISION_UNIT: dict[str, Any] = {
    "help": "what is promised holds for new images of known sources, or for new sources, see calibrate",
    "choices": ("image", "source"),
}
PER_CLASS = {"help": "target_error holds for the answers of each class, not for all together"}
STABILITY = {"help": "see which answers stay when an image is re-encoded, reduced and mirrored; decide on no others"}
MISS_RATE = INSIDE | {"help": "fraction of images whose prediction_set misses the true class"}
COSTS = "yaml with the cost of each answer: decide by least expected cost; null: none"
SEED = accept("from 0 to 4294967295", lambda value: 0 <= value < 2**32)
WORKERS = accept("from 0 to 256 processes", lambda value: 0 <= value <= 256)
THREAD_COUNT = accept("from 1 to 1024 threads", lambda value: 1 <= value <= 1024)
SIDE = accept("from 1 to 4096 pixels", lambda value: 1 <= value <= 4096)
FOLDS = accept("at least 3: test, val and train", lambda value: value >= 3)
_BATCH = accept(
    "a whole number of at least 1, or {cpu: N, cuda: N}",
    lambda value: all(map(_is_count, value.values() if isinstance(value, Mapping) else [value])),
)
_UNFREEZE = accept(
    "classifier, all, or a number of layer groups counted from the head",
    lambda value: value in ("classifier", "all") or _is_count(value),
)
_SOURCES_OF = accept(
    "every source in one unit only",
    lambda units: len(sources := [name for names in units.values() for name in names]) == len(set(sources)),
    is_open=True,
)
_SET_NAMES = accept(
    f"names of letters and digits other than those of the run's own sets: {', '.join(RESERVED_SET_NAMES)}",
    lambda named: all(name not in RESERVED_SET_NAMES and make_folder_name(name) == name for name in named),
    is_open=True,
)
# of runs, behind other ways to name one: ", hf:OWNER/NAME"
ADDRESSES = "".join(f", {entry.summary.partition(': ')[0]}" for entry in find_entries("run_address").values())
LANGUAGE, SPLIT_BY, EQUALISE = choose(*LANGUAGES), choose("group", "source", "generator"), choose("jpeg")
SPLIT_BY_DATE, DATE = choose(*SPLIT_BY["choices"], "date"), accept(DATE_FORM, is_date)
TABLES = choose("auto", "csv", "parquet") | {"help": "files of tables of images; auto: Parquet above a million rows"}
ACCELERATOR, RESIZE = choose("auto", "cpu", "gpu"), choose("squash", "crop", "pad")


@dataclass
class UnitsConfig:
    seed: int = option(0, help="of the folds and of the draws", **SEED)
    held_out: list[str] = option([], help="test units for by=source|generator; none: drawn at random")


@dataclass
class StageConfig:
    """One training stage."""

    unfreeze: Any = option("all", help="layers to train", **_UNFREEZE)
    epochs: int = option(MISSING, help="passes over the images", **COUNT)
    lr: float = option(MISSING, help="learning rate of the head", **POSITIVE)


@dataclass
class SplitConfig(UnitsConfig):
    folds: int = option(10, help="one fold is test, the next one val, the others train", **FOLDS)
    by: str | None = option(None, help="null: as the data set states, or group", **SPLIT_BY_DATE)
    until: str | None = option(None, help="by=date: train on images of this date or before, test on later ones", **DATE)
    at_least: int = option(20, help="minimum images of a held-out unit in a sweep, after data.limit", **COUNT)
    units: dict[str, list[str]] = option({}, help="sources held out together: {UNIT: [SOURCE, ...]}", **_SOURCES_OF)
    val_by: str | None = option(None, help="what val and train do not share; null: group", **choose("group", "source"))
    train_sources: int | None = option(None, help="sources per class in train, drawn by seed; null: all", **COUNT)


@dataclass
class MaskConfig:
    """Grey boxes on the images of every class, to hide marks."""

    corners: float | None = option(None, help="paint squares of this fraction of the shorter side", **UP_TO_HALF)
    patches: str | None = path_option("patches.csv of the block data_audit: paint boxes on every image")


@dataclass
class ImageSetConfig:
    kind: str = option(MISSING, help="kind of the data set", **choose("folder", "manifest", "shards", "demo", "run"))
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
class RenamedConfig:
    """How labels of a data set, which may be words of another language, are called by the run."""

    classes: dict[str, str] = option(
        {}, help="{label in data=: class of the run}", is_open=True, only_for=("folder", "manifest", "shards")
    )


@dataclass
class ImagesConfig(ImageSetConfig):
    image_size: int | None = option(None, help="pixels per side; null in evaluate: the checkpoint's", **SIDE)
    resize: str | None = option(None, help="null in evaluate: the checkpoint's", **RESIZE)
    equalise: str | None = option(None, help="re-encode all images; null in evaluate: the checkpoint's", **EQUALISE)
    mask: MaskConfig = field(default_factory=MaskConfig)
    batch_size: Any = option(32, help="images per batch; by device only in train", **_BATCH)
    workers: int = option(2, help="image-loading processes", **WORKERS)
    cache_gb: float = option(4.0, help="size limit of the shared cache of resized images; 0: off", **NATURAL)
    blind: str | None = path_option("external test set of other sources: folder or manifest")
    ood: dict[str, str] = path_option("further test sets: {name: folder or manifest}", {}, **_SET_NAMES)
    ood_root: str | None = path_option("a folder of further sets: each subfolder is one, named after it")


@dataclass
class SplitDataConfig(ImagesConfig):
    split: SplitConfig = field(default_factory=SplitConfig)
    fold: int = option(0, help="index of the test fold", **NATURAL)
    fraction: float = option(1.0, help="of the training split", **FRACTION)
    val_fraction: float = option(1.0, help="of the val split", **FRACTION)
    limit: int | None = option(None, help="images drawn from the whole set before it is split", **COUNT)


@dataclass
class ViewConfig:
    """A view of the classes; without a name, the finest one that every run can answer."""

    name: str | None = option(None, help="name of the view; null: the finest that every run can answer")
    classes: dict[str, Any] = option({}, help="of a view of your own: {NEW: [CLASS, CLASS]}", is_open=True)


SWITCH = "enabled"  # the option that turns a group of options on, which is set by GROUP=true


def find_schema(command: str) -> type:
    """Return the dataclass of a command's options, with those that entries add.

    Raise ConfigError if there is no such command, or its module cannot be used.
    """
    schema: Any = find_entry("command", command).load_class()
    if kind := getattr(schema, "options_of", None):
        return _add_options(schema, _load_classes(kind))  # type: ignore[no-any-return]
    if not hasattr(schema, "columns_enabled"):
        return schema  # type: ignore[no-any-return]
    suffixes = tuple(f".{name}" for name in find_entries("prediction_output"))
    columns, engines = _load_classes("prediction_column"), _load_classes("engine")
    return _add_columns(schema, columns, engines, suffixes)  # type: ignore[no-any-return]


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
    chosen = next((member for member in fields(schema) if member.name == "engine"), None)
    if chosen is not None:  # of predict
        engine = _add_options(get_nested(chosen), engines)
        made["output"] = str, copy_option(schema, "output", **end_in(*suffixes, other="-"))
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
    is_chosen_by_name = find_option(schema, "name") is not None
    if is_chosen_by_name:
        made["name"] = str, copy_option(schema, "name", **choose(*dict(owners)))
    for _, owner in owners:
        hints = get_type_hints(owner)
        for member, _ in iterate_options(owner):
            changed: dict[str, Any] = {"default": None} if get_default(member) is REQUIRED else {}
            kind = hints[member.name] | None if changed else hints[member.name]
            if is_chosen_by_name:
                changed["only_for"] = tuple(name for name, other in owners if find_option(other, member.name))
            made.setdefault(member.name, (kind, copy_option(owner, member.name, **changed)))
    return _derive(schema, made)


def _derive(owner: Any, options: Mapping[str, tuple[Any, Any]]) -> Any:
    """Return a dataclass with these options, by name with type and field, beside those of another."""
    stated = [(name, kind, member) for name, (kind, member) in options.items()]
    return make_dataclass(owner.__name__, stated, bases=(owner,), namespace={"__module__": owner.__module__})

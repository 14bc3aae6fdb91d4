"""evaluate: run blocks on runs and data sets, and compare runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from avatar_bench.config.options import option, path_option
from avatar_bench.config.schema import (
    ACCELERATOR,
    ADDRESSES,
    INSIDE,
    LANGUAGE,
    PROFILE,
    TABLES,
    THREAD_COUNT,
    ImagesConfig,
    RenamedConfig,
    ViewConfig,
    guard_option,
)
from avatar_bench.errors import ConfigError
from avatar_bench.runs.record import RESERVED_SET_NAMES


@dataclass
class WhereConfig:
    """A slice of a data set, by the slice names in slices.csv of error_bias."""

    source: str | None = option(None, help="evaluate only images of this source, as the manifest names it")
    generator: str | None = option(None, help="of this generator")
    size: str | None = option(None, help='of this range of the shorter side, such as "128-255 px"')
    format: str | None = option(None, help="of this file format, such as JPEG")
    jpeg_quality: str | None = option(None, help="of this range of JPEG quality, such as 75-84")


@dataclass
class EvaluatedImages(RenamedConfig, ImagesConfig):
    """The images that data= specifies, and further sets of the runs."""


@dataclass
class EvaluateConfig:
    ckpt: Any = path_option(
        f"a run folder, a .ckpt file, a folder of runs{ADDRESSES}, a list, or null: the newest run", is_main=True
    )
    split: str = option("test", help="of data=run: test, val, calibration, blind, or the name of one of its data.ood")
    against: str | None = path_option("earlier result or run to compare with; exit code 7 if significantly worse")
    alpha: float = option(0.05, help="significance level of against", **INSIDE)
    out: str | None = path_option("folder of the results; null: the run's folder")
    allow: list[str] = guard_option(
        "overlap",
        "near_duplicates",
        "permutation",
        "shortcut",
        "missing_files",
        "missing_rows",
        "upload",
        "detector_changed",
    )
    accelerator: str = option("auto", help="device", **ACCELERATOR)
    threads: int | None = option(None, help="CPU threads; null: torch's default", **THREAD_COUNT)
    lang: str = option("en", help="language of figures, warnings and reasons", **LANGUAGE)
    tables: str = option("auto", **TABLES)
    profile: str | None = path_option(**PROFILE)
    where: WhereConfig = field(default_factory=WhereConfig)  # evaluate only a slice of the images
    view: ViewConfig = field(default_factory=ViewConfig)
    update: bool = option(False, help="evaluate labels and images as they are now, if they have changed, and count it")
    again: bool = option(False, help="evaluate again even if results are up to date")
    skip_unusable: bool = option(False, help="skip blocks that cannot run on this run or data set, and list them")
    data: EvaluatedImages = field(default_factory=EvaluatedImages)
    block: dict[str, Any] = option({}, help="options of the blocks")


def check(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of evaluate is invalid."""
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
    if str(cfg.data.name).casefold() in (reserved := [name for name in RESERVED_SET_NAMES if name != "blind"]):
        raise ConfigError(  # blind may be given as data
            f"data.name={cfg.data.name}: the name is reserved for a set of the run",
            f"names of the run's own sets: {', '.join(reserved)}",
        )
    if cfg.ckpt is None and (cfg.data.mask.corners or cfg.data.mask.patches):
        raise ConfigError("data.mask: without ckpt=RUN, images are read as they are", "remove the option")
    if not cfg.block:
        raise ConfigError("block: no block is selected", "for example: avatar-bench evaluate block=blind_test")


def execute(settings: EvaluateConfig) -> list[Path]:
    """Evaluate as the options ask, and return the folders of the Results; see `evaluation.evaluate.evaluate`."""
    from avatar_bench.evaluation.evaluate import evaluate

    return evaluate(settings)

"""predict: predict the class of image files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING, DictConfig, OmegaConf

from avatar_bench.config.entries import find_entries
from avatar_bench.config.options import get_default, iterate_options, option, path_option
from avatar_bench.config.rules import check_decisions
from avatar_bench.config.schema import (
    ACCELERATOR,
    ADDRESSES,
    COSTS,
    COUNT,
    DECISION_UNIT,
    FALSE_ALARM_RATE,
    LANGUAGE,
    MISS_RATE,
    PER_CLASS,
    PROFILE,
    STABILITY,
    SWITCH,
    TARGET_ERROR,
    THREAD_COUNT,
    WORKERS,
    ViewConfig,
    choose,
    format_alternatives,
    guard_option,
)
from avatar_bench.console.terminal import format_count
from avatar_bench.errors import ConfigError, UnreadableFilesError
from avatar_bench.files.output_folder import lock_output, prepare_output, refuse_among_images
from avatar_bench.files.remote import is_remote
from avatar_bench.inference.prediction_columns import PredictionColumns
from avatar_bench.reporting.prediction_outputs import find_writer
from avatar_bench.results.display import list_cautions
from avatar_bench.runs.engines import PredictionJob, make_engine
from avatar_bench.runs.record import RECORD, choose_run, is_imported

if TYPE_CHECKING:
    import pandas as pd

    from avatar_bench.runs.run import Run


_FIXED_BY_DECISIONS = (  # options of predict, the values that decisions allow, and why
    ("calibrated", (True,), "decides by calibrated probabilities"),
    ("runtime", ("auto", "torch"), "needs embeddings, which exported networks do not compute"),
    ("precision", ("auto", "32"), "decides by probabilities as those of the calibration"),
)
_RUNTIME: dict[str, Any] = {"choices": lambda: ["auto", "torch", *find_entries("runtime")]}


@dataclass
class EngineConfig:
    """Where predictions are computed; `find_schema` adds the options of the entries."""

    name: str = option(MISSING, help="where predictions are computed")


@dataclass
class PredictConfig:
    ckpt: str | None = path_option(
        f"a run folder, a .ckpt file, an ensemble's folder{ADDRESSES}, or null: the newest run"
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
    target_error: float | None = option(None, **TARGET_ERROR)
    per_class: bool = option(False, **PER_CLASS)
    false_alarms: float | None = option(None, **FALSE_ALARM_RATE)
    target: str | None = option(None, help="class of false_alarms", example="generated")
    unit: str = option("image", **DECISION_UNIT)
    stability: bool = option(False, **STABILITY)
    costs: str | None = path_option(COSTS)
    alpha: float = option(0.1, **MISS_RATE)
    runtime: str = option("auto", help="all but torch on the CPU; auto: the fastest that agrees with torch", **_RUNTIME)
    precision: str = option("auto", help="auto: chosen by autotune", **choose("auto", "32", "bf16", "16", "int8"))
    update: bool = option(False, help="continue an incomplete output")
    explain: str | None = path_option("folder for the Grad-CAM of each image, which a page shows too; null: none")
    neighbours: bool = option(False, help="a page shows the nearest training images of each image")
    lang: str = option("en", help="language of a page for review", **LANGUAGE)
    batch_size: int = option(64, help="images per batch", **COUNT)
    workers: int | None = option(None, help="image-loading processes; null: one per core, at most 8", **WORKERS)
    accelerator: str = option("auto", help="device", **ACCELERATOR)
    threads: int | None = option(None, help="CPU threads; null: chosen by autotune", **THREAD_COUNT)
    view: ViewConfig = field(default_factory=ViewConfig)
    profile: str | None = path_option(**PROFILE)
    engine: EngineConfig = field(default_factory=EngineConfig)
    allow: list[str] = guard_option("upload", "detector_changed")
    columns_enabled: ClassVar[bool] = False  # of the entries of prediction_column, unless they are turned on

    @property
    def decides(self) -> bool:
        """Return whether decisions are asked for."""
        return any(value is not None for value in (self.target_error, self.false_alarms, self.costs))

    def find_columns(self) -> dict[str, PredictionColumns]:
        """Return the entries of prediction_column that are turned on, by name."""
        columns = {name: value for name, value in vars(self).items() if isinstance(value, PredictionColumns)}
        return {name: column for name, column in columns.items() if column.enabled}


def check(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of predict is invalid."""
    check_predictions(cfg)
    is_page = find_writer(cfg.output).is_page
    if is_page and cfg["update"]:
        raise ConfigError("update=true: a page is written as a whole", "remove update=true, or write a table: FILE.csv")
    if cfg.neighbours and (not is_page or cfg.runtime not in ("auto", "torch") or cfg.precision not in ("auto", "32")):
        raise ConfigError(
            "neighbours=true: for output=FILE.html, with embeddings as torch computes them in 32 bits",
            "remove neighbours=true, or runtime and precision",
        )
    settings: Any = OmegaConf.to_object(cfg)
    make_engine(settings.engine).check(settings)


def execute(settings: PredictConfig) -> None:
    """Write one row per file to `output`; raise UnreadableFilesError after the last row if any file failed."""
    from avatar_bench.inference.input_files import find_input_files
    from avatar_bench.inference.prediction_writer import MAX_PAGE_IMAGES

    for source in settings.input if isinstance(settings.input, list) else [settings.input]:
        if os.path.isfile(os.path.join(source, RECORD)):
            raise ConfigError(f"input={source} is a run, not a folder of images.", f"To predict with it: ckpt={source}")
        if os.path.isfile(source) and os.path.exists(settings.output) and os.path.samefile(source, settings.output):
            raise ConfigError(f"output={settings.output} is the input.", "Choose another name: output=FILE")
    path = choose_run(settings.ckpt)
    imported = is_imported(path)
    if imported and (settings.runtime not in ("auto", "torch") or settings.precision not in ("auto", "32")):
        raise ConfigError(
            f"{path} is an imported detector, which has a runtime of its own.", "Remove runtime= and precision=."
        )
    engine, writer = make_engine(settings.engine), find_writer(settings.output)
    columns = settings.find_columns().values()
    for column in columns:
        column.open()
    has_folder = not is_remote(settings.output)
    if has_folder:
        prepare_output(settings.output, is_folder=engine.writes_folder)
        if not settings.update:  # which checks the columns
            writer.refuse_foreign_file(settings.output)
    if settings.explain is not None:
        for source in settings.input if isinstance(settings.input, list) else [settings.input]:
            refuse_among_images(settings.explain, os.path.isdir(source) and source, "explain")
        prepare_output(os.path.join(settings.explain, "overlay"), "explain")
    files = find_input_files(settings.input)
    if writer.is_page and len(files) > MAX_PAGE_IMAGES:
        raise ConfigError(
            f"input={settings.input}: {len(files):,} files, but a page for review has at most {MAX_PAGE_IMAGES:,}.",
            "Choose some of them (input=@list.txt, with one path per line), or write a table: output=FILE.csv",
        )
    with lock_output(settings.output) if has_folder else nullcontext():
        job = PredictionJob(path, files, settings, writer.open, _open_overlays(settings.explain))
        ok, errors, kept, bad, outdated = engine.write_rows(job)
    counts = format_count(ok, "prediction"), format_count(errors, "file")
    summary = f"{settings.output}: {counts[0]}, {counts[1]} that could not be read"
    summary += f", {kept} rows kept from before" if kept else ""
    summary += f", {format_count(outdated, 'row')} of changed files replaced" if outdated else ""
    print(summary, file=sys.stderr if settings.output == "-" else sys.stdout)
    names = () if imported else ("runtime", "precision", "threads", *engine.reported)
    how = " ".join(f"{name}={getattr(settings, name)}" for name in names) or "the imported detector"
    first, second, *further = list_cautions(columns)
    further += [note for column in columns for note in column.list_notes()]
    print(
        f"Computed with {how}.", *_list_worth(path, settings), f"{first} {second}", *further, sep="\n", file=sys.stderr
    )
    if errors + bad:
        raise UnreadableFilesError(
            f"{errors + bad} of {len(files)} files could not be read: see status and reason in the output."
        )


def _list_worth(path: Path, settings: PredictConfig) -> list[str]:
    from avatar_bench.reporting.prediction_words import list_worth  # its statistics are slow to import
    from avatar_bench.runs.ensembles import open_run
    from avatar_bench.runs.run_images import set_view

    run = open_run(path)
    set_view([run], settings.view.name, settings.view.classes)
    return list_worth(run)


def _open_overlays(folder: str | None) -> Callable[[Run], Callable[[pd.DataFrame], None]] | None:
    """Return what opens the writer of overlays of a run; None without a folder for them."""
    if folder is None:
        return None
    from avatar_bench.reporting.grad_cam_overlays import OverlayWriter  # draws by matplotlib, which is slow to import

    return lambda run: OverlayWriter(run, Path(folder)).write


def check_predictions(cfg: DictConfig) -> None:
    """Raise ConfigError if an option that predict and app have is invalid."""
    supported = {"torch": ["32", "bf16", "16"]}
    supported |= {name: entry.about.get("precisions", ["32"]) for name, entry in find_entries("runtime").items()}
    known = supported.get(cfg.runtime) or sorted({kind for kinds in supported.values() for kind in kinds})
    if cfg.precision not in ("auto", *known):
        raise ConfigError(f"precision={cfg.precision}: runtime={cfg.runtime} supports {format_alternatives(known)}")
    if cfg.accelerator == "gpu" and (cfg.runtime not in ("auto", "torch") or cfg.precision == "int8"):
        raise ConfigError(f"accelerator=gpu: runtime={cfg.runtime} runs on the CPU; use runtime=torch for a GPU")
    for name in find_entries("prediction_column"):
        for member, _ in iterate_options(OmegaConf.get_type(cfg[name])):  # type: ignore[arg-type]
            if not cfg[name].enabled and cfg[name][member.name] != get_default(member) and member.name != SWITCH:
                raise ConfigError(f"{name}.{member.name} requires {name}=true")
    if decides := check_decisions(cfg):
        for name, usual, why in _FIXED_BY_DECISIONS:
            if cfg[name] not in usual:
                raise ConfigError(f"{name}={cfg[name]}: {decides[0]} {why}", f"remove {name}, or set {usual[-1]}")
    elif cfg.alpha != PredictConfig().alpha:
        raise ConfigError(f"alpha={cfg.alpha}: requires target_error, false_alarms or costs")
    if cfg.unit != PredictConfig().unit and cfg.target_error is None and cfg.false_alarms is None:
        raise ConfigError(
            f"unit={cfg.unit}: requires target_error or false_alarms", "for example: target_error=.1 unit=source"
        )

"""calibrate: fit the temperature of a run, the threshold of a score and decisions, on labelled images."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig

from avatar_bench.config.options import option, path_option
from avatar_bench.config.rules import check_decisions
from avatar_bench.config.schema import (
    ACCELERATOR,
    ADDRESSES,
    COUNT,
    DECISION_UNIT,
    FALSE_ALARM_RATE,
    INSIDE,
    PER_CLASS,
    THREAD_COUNT,
    WORKERS,
    ImageSetConfig,
    RenamedConfig,
    ViewConfig,
    guard_option,
)
from avatar_bench.console.terminal import format_count, print_line, print_note
from avatar_bench.errors import CheckpointError, ConfigError, OutputError
from avatar_bench.metrics.units import SOURCE
from avatar_bench.results.reasons import format_reason
from avatar_bench.runs.record import choose_run, find_runs

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.metrics.selective import AnsweringThreshold
    from avatar_bench.runs.decisions import AlarmThreshold, DecisionOptions, DecisionRule
    from avatar_bench.runs.run import Run
    from avatar_bench.runs.saved_calibration import SavedCalibration


_OF_SOURCES = ("beta", "folds")  # options of unit=source


@dataclass
class FittingImages(RenamedConfig, ImageSetConfig):
    """The images that data= specifies."""


@dataclass
class CalibrateConfig:
    ckpt: str | None = path_option(
        f"a run folder, an ensemble's folder{ADDRESSES}, or null: the newest run", is_main=True
    )
    split: str = option("calibration", help="of data=run: calibration, val, blind, or the name of one of its data.ood")
    data: FittingImages = field(default_factory=FittingImages)
    target_error: float | None = option(None, help="end with 3 if the images are too few for it; null: any", **INSIDE)
    per_class: bool = option(False, **PER_CLASS)
    false_alarms: float | None = option(None, **FALSE_ALARM_RATE)
    target: str | None = option(None, help="class of false_alarms", example="generated")
    unit: str = option(
        "image", **DECISION_UNIT | {"help": "fit decisions for new images of known sources, or for new sources"}
    )
    stability: bool = option(False, help="see which answers stay under slight changes, for predict stability=true")
    beta: float = option(0.1, help="of unit=source: fraction of new sources that may exceed target_error", **INSIDE)
    folds: str | None = path_option(
        "of unit=source: a sweep=leave_one_source_out, whose networks predict the sources that they lack; null: data="
    )
    view: ViewConfig = field(default_factory=ViewConfig)
    allow: list[str] = guard_option(
        "overlap", "near_duplicates", "missing_files", "missing_rows", "upload", "detector_changed", "selected"
    )
    batch_size: int = option(32, help="images per batch", **COUNT)
    workers: int = option(2, help="image-loading processes", **WORKERS)
    accelerator: str = option("auto", help="device", **ACCELERATOR)
    threads: int | None = option(None, help="CPU threads; null: torch's default", **THREAD_COUNT)


def check(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of calibrate is invalid."""
    check_decisions(cfg)
    if cfg.split == "train":
        raise ConfigError("split=train: a network is more certain of the images that it was trained on than of others")
    if cfg.unit != SOURCE and any(cfg[name] != getattr(CalibrateConfig(), name) for name in _OF_SOURCES):
        raise ConfigError("beta and folds require unit=source", "for example: unit=source beta=.2 data=...")
    if cfg.folds is not None and cfg.data.kind != "run":
        raise ConfigError(f"folds={cfg.folds}: its networks have images of their own", f"remove data={cfg.data.kind}")
    if cfg.data.kind != "run" and cfg.split != CalibrateConfig().split:
        raise ConfigError(
            f"split={cfg.split} requires data=run, the run's own data; data={cfg.data.kind} is used as one set"
        )


def execute(settings: CalibrateConfig) -> None:
    """Write a calibration into the run folder, and print temperature and threshold; an earlier one is replaced.

    Raise DataError if the images are too few, GuardError if the run was trained on some of them, CheckpointError if the
    checkpoint is not the one of a run folder, OutputError if the file cannot be written.
    """
    path = choose_run(settings.ckpt)
    from avatar_bench.inference.autotune import set_threads
    from avatar_bench.runs.calibration_fit import fit_calibration
    from avatar_bench.runs.decisions import make_rule
    from avatar_bench.runs.ensembles import open_run
    from avatar_bench.runs.run_images import refuse_fixed_answers, set_view

    set_threads(settings.threads)
    run = open_run(path, allow=frozenset(settings.allow), **_select_run_options(settings))
    if run.folder is None or run.is_other_checkpoint:
        raise CheckpointError(
            f"ckpt={path} is not the best checkpoint of a run folder, where the calibration would be saved.",
            "Expected a run folder, that of an imported detector, or an ensemble's.",
        )
    set_view([run], settings.view.name, settings.view.classes)
    if settings.stability:
        refuse_fixed_answers(run)
    if settings.unit == SOURCE:
        calibration = run.source_calibration = _calibrate_by_source(run, settings)
    else:
        run.saved_calibration = None  # the earlier one, perhaps fitted on the same images
        images = _select_images(run, settings)
        calibration = run.decision_calibration = fit_calibration(run, images, settings.stability)
    rule = make_rule(run, _select_decision_options(settings), settings.stability)
    file = run.folder / calibration.file_name
    try:
        calibration.write(run.folder)
    except OSError as error:
        raise OutputError(f"{file} cannot be written: {error.strerror or error}.") from error
    print_line(f"{file}: {_describe(run, calibration)}; view={calibration.view}")
    if calibration.fit is not None and not calibration.fit.is_applied:
        print_note(f"warning: temperature {calibration.fit}")
    for note in calibration.notes:
        print_note(f"warning: {note}")
    if rule is not None:
        _print_rule(rule, run.folder, settings)


def _select_run_options(settings: CalibrateConfig) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in ("accelerator", "workers", "batch_size")}


def _select_decision_options(settings: CalibrateConfig) -> DecisionOptions:
    # what is printed of a rule does not depend on costs and sets
    names = ("target_error", "per_class", "false_alarms", "target", "unit")
    return cast(
        "DecisionOptions", SimpleNamespace(**{name: getattr(settings, name) for name in names}, costs=None, alpha=0.1)
    )


def _select_images(run: Run, settings: CalibrateConfig) -> Dataset:
    """Return the images to calibrate on, in the view of the run."""
    from avatar_bench.runs.calibration_fit import select_random
    from avatar_bench.runs.run_images import select_answered
    from avatar_bench.sources.dataset_kinds import open_labelled

    data = settings.data
    is_own = data.kind == "run"
    whole = run.dataset(settings.split).whole if is_own else open_labelled(data, data.classes, settings.allow)
    for change in whole.changes:
        print_note(f"warning: {format_reason(change)}")
    drawn = select_random(whole, run.allow)
    if len(drawn) < len(whole):
        left = format_count(len(whole) - len(drawn), "image")
        print_note(f"{left} of {whole.name} selected for review left out: no fair sample")
    return select_answered(run, drawn).apply_view(run.view)


def _calibrate_by_source(run: Run, settings: CalibrateConfig) -> SavedCalibration:
    from avatar_bench.runs.ensembles import open_run
    from avatar_bench.runs.saved_calibration import SourceTerms
    from avatar_bench.runs.source_calibration import calibrate_by_folds, calibrate_by_source

    terms = SourceTerms(settings.beta)
    if settings.folds is None:
        return calibrate_by_source(run, _select_images(run, settings), terms, settings.stability)
    folders = find_runs(Path(settings.folds))
    if not folders:
        raise ConfigError(f"folds={settings.folds}: there is no run in it.", "Expected the folder of a sweep.")
    options = _select_run_options(settings)
    networks = [open_run(folder, allow=run.allow, **options) for folder in folders]
    return calibrate_by_folds(run, networks, terms, settings.stability)


def _describe(run: Run, calibration: SavedCalibration) -> str:
    """Return what was fitted, and on how many images."""
    n = sum(calibration.n.values())
    if calibration.terms is not None:
        count = format_count(calibration.images.frame["source"].nunique(), "source")
        return f"{count}, {n} images of {calibration.images.name}, beta {calibration.terms.beta:g}"
    line = f"temperature {calibration.temperature:.3g} (before: {run.card.temperature:.3g})"
    if calibration.threshold is not None:
        own_threshold = "none" if calibration.threshold.own is None else f"{calibration.threshold.own:.6g}"
        line += f", threshold {calibration.threshold.value:.6g} (its own: {own_threshold})"
    fitted = f"{n}" if calibration.decisions is None else f"{int(calibration.decisions.is_reference.sum())} of {n}"
    return f"{line}, fitted on {fitted} images of {calibration.images.name}"


def _print_rule(rule: DecisionRule, folder: Path, settings: CalibrateConfig) -> None:
    """Print what the thresholds answer, what they promise, and what to do where they answer nothing."""
    if rule.alarm is not None:
        _print_alarm(rule.alarm, rule.describe_guarantee(), settings)
    target = f"target_error={settings.target_error}"
    if (fit := rule.by_source) is not None and math.isfinite(fit.value):
        larger = f"{fit.broken} of {fit.counted} sources of ten answers or more have a larger error"
        print_line(f"{target}: {fit.coverage:.1%} of the images of a source answered; {larger}")
    for name, threshold in rule.thresholds.items():
        of = f" of answers {name}" if name else ""
        seen = f"{threshold.answered} of {threshold.n} images for thresholds answered, {threshold.errors} incorrectly"
        print_line(f"{target}{of}: {seen}")
    for note in rule.notes:
        print_note(note)
    if unmet := [threshold for threshold in rule.thresholds.values() if math.isinf(threshold.value)]:
        print_note(_advise(unmet, folder, settings.per_class))


def _print_alarm(alarm: AlarmThreshold, guarantee: str, settings: CalibrateConfig) -> None:
    words = f"false_alarms={settings.false_alarms:g} target={alarm.target}"
    n, alarms = alarm.rates.sum()
    shares = alarm.rates["alarms"] / alarm.rates["n"]
    worst = alarm.rates.iloc[int(shares.to_numpy().argmax())]
    print_line(f"{words}: {guarantee}")
    by_source = f"by source {shares.mean():.1%} on average, at most {worst['alarms']} of {worst['n']}: {worst.name}"
    print_line(
        f"on the images of the fit, {alarms} of {n} of other classes are called {alarm.target} ({by_source}), and "
        f"{alarm.n_found} of {alarm.n_target} of {alarm.target} are found"
    )
    unit = f" unit={settings.unit}" * (settings.unit == SOURCE)
    print_line(f"next: avatar-bench predict {words}{unit} input=FOLDER output=predictions.csv")


def _advise(unmet: Sequence[AnsweringThreshold], folder: Path, per_class: bool) -> str:
    """Return what to do where no threshold meets the target error."""
    from avatar_bench.metrics.selective import upper_bound

    bound = math.ceil(100 * max(upper_bound(threshold.n_errors, threshold.n) for threshold in unmet)) / 100
    more = f"label more images (avatar-bench predict {shlex.quote(f'ckpt={folder}')} input=FOLDER output=review.html), "
    steps = more if all(threshold.n_missing for threshold in unmet) else "train on images of more sources, "
    whole = f"or set target_error={bound:g}, which allows every image to be answered" if bound < 1 else ""
    return f"next: {steps}{whole or 'or set a larger target_error'}{', or per_class=false' * per_class}"

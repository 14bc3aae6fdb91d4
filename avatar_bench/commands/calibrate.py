"""calibrate: fit the temperature of a run, the threshold of a score and decisions, on labelled images."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from avatar_bench.config.options import option, path_option
from avatar_bench.config.rules import check_decisions
from avatar_bench.config.schema import (
    ACCELERATOR,
    ADDRESSES,
    COUNT,
    INSIDE,
    PER_CLASS,
    THREAD_COUNT,
    WORKERS,
    ImageSetConfig,
    ViewConfig,
    guard_option,
)
from avatar_bench.console.terminal import format_count, print_line, print_note
from avatar_bench.errors import CheckpointError, ConfigError, OutputError
from avatar_bench.runs.record import choose_run

if TYPE_CHECKING:
    from avatar_bench.metrics.selective import AnsweringThreshold


@dataclass
class CalibrateConfig:
    ckpt: str | None = path_option(
        f"a run folder, an ensemble's folder{ADDRESSES}, or null: the newest run", is_main=True
    )
    split: str = option("calibration", help="of data=run: calibration, val, blind, or the name of one of its data.ood")
    data: ImageSetConfig = field(default_factory=ImageSetConfig)
    target_error: float | None = option(None, help="end with 3 if the images are too few for it; null: any", **INSIDE)
    per_class: bool = option(False, **PER_CLASS)
    view: ViewConfig = field(default_factory=ViewConfig)
    allow: list[str] = guard_option(
        "overlap", "near_duplicates", "missing_rows", "upload", "detector_changed", "selected"
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
    if cfg.data.kind != "run" and cfg.split != CalibrateConfig().split:
        raise ConfigError(
            f"split={cfg.split} requires data=run, the run's own data; data={cfg.data.kind} is used as one set"
        )


def execute(settings: CalibrateConfig) -> None:
    """Write calibration.json into the run folder, and print temperature and threshold; an earlier one is replaced.

    Raise DataError if the images are too few, GuardError if the run was trained on some of them, CheckpointError if the
    checkpoint is not the one of a run folder, OutputError if the file cannot be written.
    """
    path = choose_run(settings.ckpt)
    from avatar_bench.inference.autotune import set_threads
    from avatar_bench.runs.calibration_fit import fit_calibration, select_random
    from avatar_bench.runs.decisions import make_decision_rule
    from avatar_bench.runs.ensembles import open_run
    from avatar_bench.runs.run_images import select_answered, set_view
    from avatar_bench.runs.saved_calibration import CALIBRATION
    from avatar_bench.sources.dataset_kinds import open_dataset

    set_threads(settings.threads)
    options = {name: getattr(settings, name) for name in ("accelerator", "workers", "batch_size")}
    run = open_run(path, allow=frozenset(settings.allow), **options)
    if run.folder is None or run.is_other_checkpoint:
        raise CheckpointError(
            f"ckpt={path} is not the best checkpoint of a run folder, where the calibration would be saved.",
            "Expected a run folder, that of an imported detector, or an ensemble's.",
        )
    run.saved_calibration = None  # the earlier one, perhaps fitted on the same images
    set_view([run], settings.view.name, settings.view.classes)
    whole = run.dataset(settings.split).whole if settings.data.kind == "run" else open_dataset(settings.data)
    drawn = select_random(whole, run.allow)
    if len(drawn) < len(whole):
        left = format_count(len(whole) - len(drawn), "image")
        print_note(f"{left} of {whole.name} selected for review left out: no fair sample")
    calibration = fit_calibration(run, select_answered(run, drawn).apply_view(run.view))
    run.decision_calibration, rule = calibration, None
    if settings.target_error is not None:
        rule = make_decision_rule(run, settings.target_error, per_class=settings.per_class)
    try:
        calibration.write(run.folder)
    except OSError as error:
        raise OutputError(f"{run.folder / CALIBRATION} cannot be written: {error.strerror or error}.") from error
    line = f"{run.folder / CALIBRATION}: temperature {calibration.temperature:.3g} (before: {run.card.temperature:.3g})"
    if calibration.threshold is not None:
        own_threshold = "none" if calibration.threshold.own is None else f"{calibration.threshold.own:.6g}"
        line += f", threshold {calibration.threshold.value:.6g} (its own: {own_threshold})"
    n = sum(calibration.n.values())
    fitted = f"{n}" if calibration.decisions is None else f"{int(calibration.decisions.is_reference.sum())} of {n}"
    print_line(f"{line}, fitted on {fitted} images of {calibration.images.name}; view={calibration.view}")
    if calibration.fit is not None and not calibration.fit.is_applied:
        print_note(f"warning: temperature {calibration.fit}")
    for note in calibration.notes:
        print_note(f"warning: {note}")
    for name, threshold in rule.thresholds.items() if rule else ():
        of = f" of answers {name}" if name else ""
        seen = f"{threshold.answered} of {threshold.n} images for thresholds answered, {threshold.errors} incorrectly"
        print_line(f"target_error={settings.target_error:g}{of}: {seen}")
    for note in rule.notes if rule else ():
        print_note(note)
    if rule and (unmet := [threshold for threshold in rule.thresholds.values() if math.isinf(threshold.value)]):
        print_note(_advise(unmet, run.folder, settings.per_class))


def _advise(unmet: Sequence[AnsweringThreshold], folder: Path, per_class: bool) -> str:
    """Return what to do where no threshold meets the target error."""
    from avatar_bench.metrics.selective import upper_bound

    bound = math.ceil(100 * max(upper_bound(threshold.n_errors, threshold.n) for threshold in unmet)) / 100
    more = f"label more images (avatar-bench predict {shlex.quote(f'ckpt={folder}')} input=FOLDER output=review.html), "
    steps = more if all(threshold.n_missing for threshold in unmet) else "train on images of more sources, "
    whole = f"or set target_error={bound:g}, which allows every image to be answered" if bound < 1 else ""
    return f"next: {steps}{whole or 'or set a larger target_error'}{', or per_class=false' * per_class}"

"""calibrate: fit the temperature of a run, the threshold of a score and decisions, on labelled images."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from avatar_bench.config.schema import CalibrateConfig
from avatar_bench.console.terminal import format_count, print_line, print_note
from avatar_bench.errors import CheckpointError, OutputError
from avatar_bench.runs.record import choose_run
from avatar_bench.sources.dataset_kinds import open_dataset

if TYPE_CHECKING:
    from avatar_bench.metrics.selective import AnsweringThreshold


def execute(settings: CalibrateConfig) -> None:
    """Write calibration.json into the run folder, and print temperature and threshold; an earlier one is replaced.

    Raise DataError if the images are too few, GuardError if the run was trained on some of them, CheckpointError if the
    checkpoint is not the one of a run folder, OutputError if the file cannot be written.
    """
    path = choose_run(settings.ckpt)
    from avatar_bench.runs.calibration_fit import fit_calibration, select_random
    from avatar_bench.runs.decisions import make_decision_rule
    from avatar_bench.runs.ensembles import open_run
    from avatar_bench.runs.run import set_threads, set_view
    from avatar_bench.runs.saved_calibration import CALIBRATION

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
    found = fit_calibration(run, run.select_answered(drawn).apply_view(run.view))
    run.decision_calibration, rule = found, None
    if settings.target_error is not None:
        rule = make_decision_rule(run, settings.target_error, per_class=settings.per_class)
    try:
        found.write(run.folder)
    except OSError as error:
        raise OutputError(f"{run.folder / CALIBRATION} cannot be written: {error.strerror or error}.") from error
    before = f" (before: {run.card.temperature:.3g})"
    line = f"{run.folder / CALIBRATION}: temperature {found.temperature:.3g}{before}"
    if found.threshold is not None:
        own = "none" if found.threshold.own is None else f"{found.threshold.own:.6g}"
        line += f", threshold {found.threshold.value:.6g} (its own: {own})"
    n = sum(found.n.values())
    fitted = f"{n}" if found.decisions is None else f"{int(found.decisions.is_reference.sum())} of {n}"
    print_line(f"{line}, fitted on {fitted} images of {found.images.name}; view={found.view}")
    if found.fit is not None and not found.fit.is_applied:
        print_note(f"warning: temperature {found.fit}")
    for note in found.notes:
        print_note(f"warning: {note}")
    for name, one in rule.thresholds.items() if rule else ():
        of = f" of answers {name}" if name else ""
        seen = f"{one.answered} of {one.n} images for thresholds answered, {one.errors} incorrectly"
        print_line(f"target_error={settings.target_error:g}{of}: {seen}")
    for note in rule.notes if rule else ():
        print_note(note)
    if rule and (unmet := [one for one in rule.thresholds.values() if math.isinf(one.value)]):
        print_note(_advise(unmet, run.folder, settings.per_class))


def _advise(unmet: Sequence[AnsweringThreshold], folder: Path, per_class: bool) -> str:
    """Return what to do where no threshold meets the target error."""
    from avatar_bench.metrics.selective import upper_bound

    bound = math.ceil(100 * max(upper_bound(one.n_errors, one.n) for one in unmet)) / 100
    more = f"label more images (avatar-bench predict {shlex.quote(f'ckpt={folder}')} input=FOLDER output=review.html), "
    steps = more if all(one.n_missing for one in unmet) else "train on images of more sources, "
    whole = f"or set target_error={bound:g}, which allows every image to be answered" if bound < 1 else ""
    return f"next: {steps}{whole or 'or set a larger target_error'}{', or per_class=false' * per_class}"

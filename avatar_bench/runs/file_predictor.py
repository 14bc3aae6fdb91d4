"""Predictions on image files with decisions and further columns, as `predict` writes and `app` serves them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from avatar_bench.console.machine import retain_freed_memory
from avatar_bench.errors import ConfigError
from avatar_bench.files.table_io import unescape_formulas
from avatar_bench.inference.autotune import (
    MAX_LOG_DIFFERENCE,
    choose_runtime,
    count_workers,
    set_threads,
    tune_inference,
)
from avatar_bench.inference.prediction_table import DECISION_COLUMNS, STABILITY_COLUMNS, list_prediction_columns
from avatar_bench.runs.ensembles import open_run
from avatar_bench.runs.run import Run
from avatar_bench.runs.run_images import refuse_fixed_answers, set_view

if TYPE_CHECKING:
    from avatar_bench.commands.predict import PredictConfig
    from avatar_bench.runs.decisions import DecisionRule

NO_THRESHOLD = (
    "The score has no threshold, so that prediction and confidence are empty. "
    "Fit one on labelled images: avatar-bench calibrate"
)
NOT_CALIBRATED = (
    "Probabilities are not calibrated: no fitted temperature is applied. "
    "Fit one on labelled images: avatar-bench calibrate"
)
NOT_APPLIED = "Probabilities are as the network gives them: the interval of the fitted temperature contains 1."


@dataclass
class ComputeOptions:
    """The options of predict that its speed depends on; "auto" and None are replaced by what is chosen."""

    accelerator: str = "auto"
    runtime: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    workers: int | None = None
    batch_size: int = 64
    allow: Sequence[str] = ()


@dataclass(frozen=True)
class FilePredictor:
    """Predictor of image files by a run and the options of predict; without a `rule`, there are no decisions."""

    run: Run
    settings: PredictConfig
    rule: DecisionRule | None

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns of a table."""
        further = (name for column in self.settings.find_columns().values() for name in column.names)
        stability = STABILITY_COLUMNS if self.settings.stability else ()
        decisions = DECISION_COLUMNS if self.rule else ()
        return [*list_prediction_columns(self.run.classes), *stability, *decisions, *further]

    @property
    def guarantees(self) -> list[str]:
        """Return what decisions promise, or why they answer nothing, in the current language; [] for neither."""
        return [*self.rule.list_unmet(), *filter(None, [self.rule.describe_guarantee()])] if self.rule else []

    def predict(self, files: Sequence[str]) -> Generator[pd.DataFrame, None, None]:
        """Yield the table of predictions batch by batch, in order, see `Run.predict_files`."""
        settings = self.settings
        options = (settings.calibrated, settings.precision, self.rule, settings.neighbours, settings.stability)
        with closing(self.run.predict_files(files, *options)) as tables:
            for table in tables:
                for columns in settings.find_columns().values():
                    table = columns.add_to(table, self.run)
                yield table

    def refuse_other_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raise ConfigError if earlier rows, some of whose files are predicted again, are not of this run and options.

        Missing and unreadable files are ignored, and a few changed files are tolerated.
        """
        good = [row for row in rows if row["status"] == "ok"]
        self._refuse_other_predictions(good)
        for name, columns in self.settings.find_columns().items():
            earlier = pd.DataFrame(good, columns=["path", "status", *columns.names])
            again = columns.add_to(earlier[["path", "status"]], self.run)[[*columns.names]]
            is_there = again.notna().any(axis=1)
            # what a spreadsheet would run as a formula is preceded by a sign in CSV
            before = unescape_formulas(earlier[[*columns.names]][is_there].astype(object))
            if not before.equals(unescape_formulas(again[is_there].astype(object))):
                options = [f"{name}.{member.name}" for member in fields(columns) if member.name != "enabled"]
                raise ConfigError(
                    f"update=true: the {name} in the existing rows is another: "
                    f"{', '.join(['a file', *options])} or view has changed.",
                    "Choose another output, or remove update=true to predict all files again.",
                )

    def _refuse_other_predictions(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raise ConfigError if most of the rows differ, or any decision."""
        settings = self.settings
        options = settings.calibrated, settings.precision, self.rule, False, settings.stability
        again = self.run.predict_files([row["path"] for row in rows], *options) if rows else ()
        table = pd.concat(list(again) or [pd.DataFrame({"status": []})], ignore_index=True)
        compared = np.flatnonzero(table["status"] == "ok").tolist()
        if not compared:
            return
        names = [f"prob_{name}" for name in self.run.classes]
        before = _to_logarithms([[row[name] for name in names] for row in (rows[k] for k in compared)])
        after = _to_logarithms(table.loc[compared, names].to_numpy())
        differs = np.abs(before - after).max(axis=1) > MAX_LOG_DIFFERENCE[self.settings.precision]
        if differs.mean() > 0.5:
            raise ConfigError(
                "update=true: the existing rows are of another checkpoint, or of another calibrated, precision or "
                "runtime.",
                "Choose another output, or remove update=true to predict all files again.",
            )
        decided = [name for name in ("decision", "decision_reason", "prediction_set") if name in table]
        kept = [k for k, differs_much in zip(compared, differs, strict=True) if not differs_much]
        if any(rows[k][name] != table.at[k, name] for k in kept for name in decided):
            raise ConfigError(
                "update=true: the existing decisions were made with other options or another calibration.",
                "Choose another output, or remove update=true to decide on all files again.",
            )

    @property
    def is_calibrated(self) -> bool:
        """Return whether the probabilities are calibrated."""
        return self.settings.calibrated and self.run.predictor.is_calibrated

    def load(self) -> list[str]:
        """Load the network and return notices to print; raise CheckpointError if it cannot be loaded."""
        notes = list(self.run.predictor.load(self.settings.precision))
        if not self.is_calibrated:
            notes.append(NOT_APPLIED if self.run.saved_calibration else NOT_CALIBRATED)
        return notes if "decisions" in self.run.provides else [*notes, NO_THRESHOLD]


def open_file_predictor(path: Path, settings: PredictConfig, n_files: int) -> tuple[FilePredictor, list[str]]:
    """Return the predictor of a run, and what a user must know of its decisions.

    The choices of autotune for `n_files` are stored in the settings.
    """
    # what the calibration was computed with, and the embeddings of training images
    if settings.decides or settings.neighbours:
        settings.runtime, settings.precision = "torch", "32"
    run = open_tuned_run(path, settings, n_files)
    set_view([run], settings.view.name, settings.view.classes)
    if settings.stability:
        refuse_fixed_answers(run)
    rule = None
    if settings.decides:
        # not for every prediction: their statistics take as long to import as a third of all else
        from avatar_bench.runs.decisions import make_rule

        rule = make_rule(run, settings, settings.stability)
    return FilePredictor(run, settings, rule), rule.notes if rule else []


def open_tuned_run(path: Path, options: ComputeOptions | PredictConfig, n_files: int, keeps_trial: bool = True) -> Run:
    """Open a run to predict `n_files` files; what autotune chooses is stored in the options.

    Without `keeps_trial`, a trial of the runtimes that is made for it chooses for no other command.
    """

    def open_with(runtime: str) -> Run:
        fields = {"accelerator": options.accelerator, "runtime": runtime, "batch_size": options.batch_size}
        return open_run(path, allow=frozenset(options.allow), **fields)

    retain_freed_memory()
    set_threads(options.threads)
    run = open_with("torch" if options.runtime == "auto" else options.runtime)
    if options.runtime == "auto":
        options.runtime, options.precision = choose_runtime(run, open_with, options.precision, n_files, keeps_trial)
        run = run if options.runtime == "torch" else open_with(options.runtime)
    options.precision = run.predictor.resolve_precision(options.precision)
    if options.threads is None and options.runtime == "torch":  # an exported network uses all threads itself
        set_threads(tune_inference(run.predictor.device).threads)
    run.predictor.workers = count_workers() if options.workers is None else options.workers
    options.threads, options.workers = torch.get_num_threads(), run.predictor.workers
    return run


def _to_logarithms(probabilities: Iterable[Any]) -> NDArray[np.float64]:
    return np.log(np.maximum(np.array(probabilities, dtype=np.float64), 1e-12))

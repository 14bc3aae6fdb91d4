"""Study: runs, ensembles and comparisons below a folder, and the problems found in them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from urllib.parse import quote

from avatar_bench.audit.assessment import AUDIT_BLOCK
from avatar_bench.config.entries import find_renamed
from avatar_bench.errors import AvatarBenchError, CheckpointError, DataError
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.reporting.saved_result import Problem, SavedResult, read_evaluation
from avatar_bench.reporting.tables import RunStyles
from avatar_bench.results.declaration import Declaration, declare_block
from avatar_bench.results.display import format_number
from avatar_bench.results.reasons import format_reason
from avatar_bench.results.result import AGAINST_FOLDER
from avatar_bench.results.view import ALL, SEPARATOR
from avatar_bench.runs import record as run_record
from avatar_bench.runs.labels import LabelledRun, label_runs
from avatar_bench.runs.record import ENSEMBLE, RECORD, MemberRecord, RunRecord, read_config, read_ensemble
from avatar_bench.runs.saved_calibration import BY_TRAIN, SavedCalibration, read_calibration

_SET_ORDER = ("blind", "test", "val", "calibration")  # order of sets: the most informative about new images first

ResultKey = tuple[str, str]  # set, block


@dataclass(frozen=True)
class ReportedModel(LabelledRun):
    """Evaluated run or ensemble with its results by set and block."""

    kind: str = "run"  # or ensemble, soup
    results: dict[ResultKey, SavedResult] = field(default_factory=dict)
    calibration: SavedCalibration | None = None  # on a user's images
    members: Sequence[MemberRecord] = ()  # of an ensemble

    @property
    def is_imported(self) -> bool:
        """Return whether it was made elsewhere."""
        return self.record.status == run_record.IMPORTED

    @property
    def teacher(self) -> str:
        """Return the run whose answers it was trained on, as text; "" without one."""
        stated = self.record.init.get("teacher") or {}
        name = "/".join(Path(str(stated.get("run", ""))).parts[-2:])
        return _("teacher: {name}", name=name) if name else ""

    def describe_origin(self) -> tuple[str, str, str]:
        """Return the kind and the licence of the model, and whether the images that it was trained on are known."""
        if not self.is_imported:
            return ", ".join(filter(None, [_("trained here"), self.teacher])), "", _("known")
        licence, known = str(self.record.licence or ""), self.record.trained_on
        return f"{_('imported')}: {self.record.kind}", licence, _("known") if known else _("unknown")

    def describe_briefly(self) -> str:
        """Return what tells the model from a run that was trained here on labels alone: its kind, origin or teacher."""
        if self.kind != "run":
            return _("weight soup") if self.kind == "soup" else _("ensemble")
        if not self.is_imported:
            return self.teacher
        kind, licence, training = self.describe_origin()
        size = self.record.detector.get("parameters")
        parameters = _("{number} M parameters", number=format_number(size / 1e6)) if size else ""
        return ", ".join(filter(None, [kind, licence, parameters, f"{_('training data')}: {training}"]))

    @property
    def checkpoint(self) -> str:
        """Return the SHA-256 of the evaluated checkpoint, "" where it is not known."""
        return str(self.record.checkpoint_sha256 or "")

    @property
    def weights(self) -> tuple[str, str | None]:
        """Return the SHA-256 of the checkpoint and of the calibration, None without one."""
        return self.checkpoint, self.calibration.sha256 if self.calibration else None


@dataclass(frozen=True)
class Study:
    """Models, comparisons and problems found in a folder, in one `view`; paths in `problems` are relative to it.

    `audits` are the results of data_audit in any view, since it does not depend on the classes that a view merges.
    `page_folder` is the folder of the page, which links to the files.
    """

    root: Path
    models: list[ReportedModel]
    comparisons: dict[ResultKey, SavedResult]
    problems: list[Problem]
    view: str = ALL
    audits: tuple[SavedResult, ...] = ()
    page_folder: Path = Path()

    @property
    def runs(self) -> list[ReportedModel]:
        """Return the models that are runs."""
        return [model for model in self.models if model.kind == "run"]

    @property
    def sets(self) -> list[str]:
        """Return the names of the evaluated sets, `blind` first."""
        names = {saved.result.set for __, saved in self.saved}
        return sorted(names, key=lambda name: (*(name.partition(SEPARATOR)[0] != head for head in _SET_ORDER), name))

    @property
    def saved(self) -> Iterator[tuple[ReportedModel | None, SavedResult]]:
        """Yield every result with its model, None for comparisons."""
        yield from ((None, saved) for saved in self.comparisons.values())
        yield from ((model, saved) for model in self.models for saved in model.results.values())

    def list_blocks(self, compares: bool = False) -> list[Declaration]:
        """Return the blocks that evaluate one run, or that compare runs, in the order of the report."""
        names = {saved.result.block for model, saved in self.saved if (model is None) is compares}
        return sorted(map(declare_block, names), key=lambda block: (block.order, block.name))

    @cached_property
    def styles(self) -> RunStyles:
        """Return the colour and marker of each model's recipe, in all figures and tables."""
        recipes = list(dict.fromkeys(model.recipe for model in self.models))
        looks = [{"color": plots.get_colour(k), "marker": plots.get_marker(k)} for k in range(len(recipes))]
        return {model.label: looks[recipes.index(model.recipe)] for model in self.models}

    def of_block(self, name: str, block: str) -> dict[str, SavedResult]:
        """Return the results of a block on a set by model label."""
        return {model.label: model.results[name, block] for model in self.models if (name, block) in model.results}

    def group_by_images(self, name: str, block: str) -> list[dict[str, SavedResult]]:
        """Return the results of a block on a set by model label, apart for different images under one name."""
        groups: dict[str, dict[str, SavedResult]] = {}
        for label, saved in self.of_block(name, block).items():
            groups.setdefault(saved.fingerprint, {})[label] = saved
        return list(groups.values())

    def split_warnings(self, saved: SavedResult) -> tuple[list[str], list[str]]:
        """Return the warnings of a result in the current language, and the blocks that were not evaluated.

        A block that other models have a result of is followed by the runs that lack it: "gradcam (soup)". Charts lack
        what these blocks have not evaluated, so they are not named.
        """
        texts, missing = [], []
        for warning in saved.result.warnings:
            if warning.code == "not_evaluated":
                runs = ", ".join(warning.values["runs"])
                missing += [
                    f"{block} ({runs})" if self.of_block(saved.result.set, block) else block
                    for block in warning.values["blocks"]
                ]
            elif warning.code != "charts_left_out":
                texts.append(format_reason(warning, saved.result.block))
        return texts, missing

    def link(self, path: Path) -> str:
        """Return the link from the page to a file or folder, which is not copied."""
        return quote(Path(os.path.relpath(path.resolve(), self.page_folder.resolve())).as_posix())

    def link_files(self, saved: SavedResult) -> dict[str, str]:
        """Return the link to each existing file of a result by file name, to a table by its stem."""
        folder = self.link(saved.folder)
        return {
            name.removesuffix(".csv").removesuffix(".parquet"): f"{folder}/{quote(name)}"
            for name in saved.files
            if name not in saved.missing_files
        }


def read_study(root: Path, view: str | None = None, classes: Mapping[str, Sequence[str]] | None = None) -> Study:
    """Read all runs and their results in a view, by default the finest in which every evaluated run has results.

    With `classes`, those of the view, results of another view of the same name are left out and count as problems.
    Raise DataError where the folder contains no run evaluated in that view.
    """
    if not root.is_dir():
        raise DataError(f"runs={root}: there is no such folder.", "Expected a folder of runs, as written by train.")
    reader = _StudyReader(root, view, classes)
    problems = reader.problems
    models = reader.read_runs()
    models += reader.read_ensembles(models)
    saved = [] if _is_model(root) else read_evaluation(root, True)  # the evaluation of a run contains no comparisons
    without_run = [result for result in saved if _find_run(result) is None]
    comparisons = reader.select_usable(without_run, partial(_explain_foreign_comparison, models))
    if not models:
        raise DataError(
            f"runs={root} contains no run to report" + (f": {problems[0].why}" if problems else "."),
            f"Expected a folder of run folders, each with its {RECORD}, as written by train.",
            f"See: avatar-bench list runs {root}",
        )
    everything = [*comparisons.values(), *(saved for model in models for saved in model.results.values())]
    if not everything:
        raise DataError(
            f"runs={root}: no result can be read: {problems[0].why}"
            if problems
            else f"runs={root}: no run has been evaluated yet, so there is nothing to report.",
            f"Run: avatar-bench evaluate {shlex.quote(f'ckpt={root}')} block=all",
        )
    by_view = {saved.view: saved.result.classes for saved in everything}
    views = sorted(by_view, key=lambda name: (name != ALL, -len(by_view[name]), name))  # the finest first
    if not view:  # the first in which every model with results has some
        known = [{saved.view for saved in model.results.values()} for model in models if model.results]
        view = next((name for name in views if all(name in result for result in known)), views[0])
    if view not in by_view:
        raise DataError(
            f"runs={root}: no run has been evaluated in view={view}.",
            f"There are results in {', '.join(f'view={name}' for name in views)}.",
            f"Run: avatar-bench evaluate ckpt={root} view={view}",
        )
    audits = tuple(saved for saved in everything if saved.result.block == AUDIT_BLOCK)
    models = [replace(model, results=_select_view(model.results, view)) for model in models]
    reader.note_missing_results(models)
    return Study(root, models, _select_view(comparisons, view), problems, view, audits)


def read_run(folder: Path) -> tuple[ReportedModel | None, list[Problem]]:
    """Return the run in a folder with its usable results in every view, None if it is unfinished, and the problems."""
    reader = _StudyReader(folder)
    return next((model for model in reader.read_runs() if model.folder == folder), None), reader.problems


class _StudyReader:
    """Reader of the models and results below a folder, which notes the `problems` in them."""

    def __init__(self, root: Path, view: str | None = None, classes: Mapping[str, Sequence[str]] | None = None) -> None:
        self.root, self.view = root, view
        self.classes = {name: list(names) for name, names in (classes or {}).items()}
        self.problems: list[Problem] = []

    def note(self, kind: str, folder: Path, why: str, model: str = "") -> None:
        """Add a problem."""
        self.problems.append(Problem(kind, folder, why, model))

    def read_runs(self) -> list[ReportedModel]:
        """Return the finished runs, the oldest first: comparisons label and colour them in that order.

        Runs elsewhere are included where `evaluate out=DIR` wrote their results below the folder.
        """
        folders, finished = _find_folders(self.root, RECORD), []
        elsewhere = self._find_results_elsewhere(folders)
        for folder in dict.fromkeys([*folders, *elsewhere]):
            try:
                record = run_record.read_record(folder)
            except AvatarBenchError as error:
                self.note("damaged", folder, error.lines[0])
                continue
            if record.status in run_record.USABLE_STATUSES:
                finished.append((record.started or "", str(folder), folder))
            else:
                self.note("unfinished", folder, _("its status is {status}", status=record.status or "unknown"))
        models = []
        for label in label_runs([folder for *__, folder in sorted(finished)]):
            model = ReportedModel(**vars(label))
            results = [
                *elsewhere.get(label.folder, ()),
                *(read_evaluation(label.folder) if label.folder in folders else ()),
            ]
            models.append(self._add_results(model, results))
        return models

    def read_ensembles(self, runs: Sequence[ReportedModel]) -> list[ReportedModel]:
        """Return the ensembles whose members are among the runs as they are now."""
        models = []
        for folder in _find_folders(self.root, ENSEMBLE):
            try:
                stated = read_ensemble(folder)
            except CheckpointError as error:
                self.note("damaged", folder, str(error))
                continue
            reasons = list(_find_changed_members(folder, stated.members, runs))
            for why in reasons:
                self.note("foreign", folder, why, folder.name)
            if not reasons:
                record = RunRecord(temperature=stated.temperature, temperature_fit=stated.temperature_fit or {})
                name, config = folder.name, read_config(folder)
                model = ReportedModel(folder, name, name, record, config, stated.kind, members=stated.members)
                models.append(self._add_results(model, read_evaluation(folder)))
        return models

    def select_usable(
        self, items: Iterable[SavedResult | Problem], explain_foreign: Callable[[SavedResult], str], label: str = ""
    ) -> dict[ResultKey, SavedResult]:
        """Return the results that can be read, and for which `explain_foreign` returns ""; note the others."""
        results = {}
        for item in items:
            if isinstance(item, Problem):
                self.problems.append(replace(item, model=label))
            elif why := explain_foreign(item):
                self.note("foreign", item.folder, why, label)
            elif self.classes and item.view == self.view and item.merged_classes != self.classes:
                self.note("foreign", item.folder, _("its view merges other classes: evaluate it again"), label)
            else:
                results[item.result.set, item.result.block] = item
                if item.missing_files:
                    why = _("missing files: {names}", names=", ".join(item.missing_files))
                    self.note("missing", item.folder, why, label)
        return results

    def note_missing_results(self, models: Sequence[ReportedModel]) -> None:
        """Note the results of other runs that a run lacks."""
        runs = [model for model in models if model.kind == "run"]
        left_out = {AGAINST_FOLDER, *find_renamed("block")}  # a result under a former name is shown, but not expected
        expected = sorted({(name, block) for run in runs for name, block in run.results if block not in left_out})
        for model in runs:
            lacking = [key for key in expected if key not in model.results]
            for name, keys in groupby(lacking, key=itemgetter(0)):
                why = _(
                    "not evaluated on {name} by: {blocks}", name=name, blocks=", ".join(block for __, block in keys)
                )
                self.note("missing", model.folder, why, model.label)

    def _find_results_elsewhere(self, run_folders: Sequence[Path]) -> dict[Path, list[SavedResult]]:
        """Return the results that are not in a run folder, by the run in their provenance."""
        known = {folder.resolve(): folder for folder in run_folders}
        by_run: dict[Path, list[SavedResult]] = {}
        for parent in sorted(folder.parent for folder in self.root.rglob("evaluation")):
            for result in () if _is_model(parent) else read_evaluation(parent):
                if isinstance(result, SavedResult) and (run := _find_run(result)) is not None:
                    by_run.setdefault(known.get(run.resolve(), run), []).append(result)
                elif isinstance(result, Problem) and parent != self.root:  # those of `root` come with its comparisons
                    self.problems.append(result)
        return by_run

    def _add_results(self, model: ReportedModel, items: Iterable[SavedResult | Problem]) -> ReportedModel:
        """Return a model with its calibration on a user's images and its usable results."""
        try:
            calibration = read_calibration(model.folder)
            if calibration is not None and calibration.by != BY_TRAIN:
                model = replace(model, calibration=calibration)
        except AvatarBenchError as error:
            self.note("damaged", model.folder, error.lines[0], model.label)
        results = self.select_usable(items, partial(_explain_foreign_result, model), model.label)
        return replace(model, results=results)


def _select_view(results: Mapping[ResultKey, SavedResult], view: str) -> dict[ResultKey, SavedResult]:
    return {key: saved for key, saved in results.items() if saved.view == view}


def _find_folders(root: Path, file: str) -> list[Path]:
    return sorted({path.parent for path in root.rglob(file)})


def _find_run(result: SavedResult | Problem) -> Path | None:
    """Return the run folder in the provenance of a result; None for a comparison or a data set."""
    run = result.result.provenance.get("run") if isinstance(result, SavedResult) else None
    return Path(run) if isinstance(run, str) else None


def _is_model(folder: Path) -> bool:
    return (folder / RECORD).is_file() or (folder / ENSEMBLE).is_file()


def _find_changed_members(
    folder: Path, members: Sequence[MemberRecord], runs: Sequence[ReportedModel]
) -> Iterator[str]:
    """Yield a reason for each member of an ensemble that was retrained since or is missing."""
    known = {run.checkpoint: run for run in runs}
    places = {run.folder.resolve(): run for run in runs}
    for member in members:
        theirs, file = member.checkpoint_sha256, (folder / member.run).resolve()
        if theirs in known:
            continue
        run = next((places[path] for path in (file, *file.parents) if path in places), None)
        if run is None:
            yield _("its member {member} is missing", member=member.run)
        else:
            text = _("its member {member} had the checkpoint {theirs}, that run now has {own}")
            yield text.format(member=run.label, theirs=theirs[:12], own=run.checkpoint[:12])


def _explain_foreign_result(model: ReportedModel, saved: SavedResult) -> str:
    """Return why a result is of another checkpoint or calibration than the model's, "" if it is the model's."""
    theirs, checkpoint = saved.result.provenance.get("checkpoint_sha256"), model.checkpoint
    if theirs and checkpoint and theirs != checkpoint:
        return _("its checkpoint is {theirs}, that of the run is {own}", theirs=theirs[:12], own=checkpoint[:12])
    if theirs and saved.result.provenance.get("calibration_sha256") != model.weights[1]:
        return _("it was computed with another calibration: evaluate it again")
    return ""


def _explain_foreign_comparison(models: Sequence[ReportedModel], saved: SavedResult) -> str:
    """Return why a comparison is of unknown checkpoints or other calibrations, "" if it is of these models."""
    weights = {model.weights for model in models}
    results = (item.result for model in models for item in model.results.values() if model.kind != "run")
    known = {model.checkpoint for model in models} | {item.provenance.get("checkpoint_sha256") for item in results}
    runs = [run for run in saved.result.provenance.get("compared") or () if isinstance(run, dict)]
    if unknown := {str(run.get("checkpoint_sha256") or "") for run in runs} - known - {""}:
        return _("it compares checkpoints that are missing here: {names}", names=", ".join(sorted(unknown)))
    compared = {(run.get("checkpoint_sha256"), run.get("calibration_sha256")) for run in runs}
    if any(checkpoint in dict(weights) for checkpoint, __ in compared - weights):
        return _("it was computed with another calibration: evaluate it again")
    return ""

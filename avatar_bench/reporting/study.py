"""Study: runs, ensembles and comparisons below a folder, and the problems found in them."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from avatar_bench.audit.assessment import AUDIT_BLOCK
from avatar_bench.errors import AvatarBenchError, DataError
from avatar_bench.i18n import _
from avatar_bench.reporting.saved_result import Problem, SavedResult, read_evaluation
from avatar_bench.results.result import AGAINST_FOLDER
from avatar_bench.results.view import ALL, SEPARATOR
from avatar_bench.runs.labels import label_runs
from avatar_bench.runs.record import ENSEMBLE, IMPORTED, RECORD, USABLE_STATUSES, read_config, read_record
from avatar_bench.runs.saved_calibration import BY_TRAIN, SavedCalibration, read_calibration

SET_ORDER = ("blind", "test", "val", "calibration")  # order of sets: the most informative about new images first

ResultKey = tuple[str, str]  # set, block


@dataclass(frozen=True)
class ReportedModel:
    """Evaluated run or ensemble with its results by set and block."""

    label: str
    recipe: str
    kind: str  # run, ensemble or soup
    folder: Path
    record: dict[str, Any]
    config: dict[str, Any]
    results: dict[ResultKey, SavedResult] = field(default_factory=dict)
    calibration: SavedCalibration | None = None  # on a user's images

    @property
    def is_imported(self) -> bool:
        """Return whether it was made elsewhere."""
        return self.record.get("status") == IMPORTED

    def describe_origin(self) -> tuple[str, str, str]:
        """Return the kind and the licence of the model, and whether the images that it was trained on are known."""
        if not self.is_imported:
            learned = ", " + _("teacher: {name}", name=self.teacher) if self.teacher else ""
            return _("trained here") + learned, "", _("known")
        licence, known = str(self.record.get("licence") or ""), self.record.get("trained_on")
        return f"{_('imported')}: {self.record.get('kind')}", licence, _("known") if known else _("unknown")

    @property
    def teacher(self) -> str:
        """Return the name of the run whose answers it was trained on, "" without one."""
        stated = (self.record.get("init") or {}).get("teacher") or {}
        return "/".join(Path(str(stated.get("run", ""))).parts[-2:])

    @property
    def checkpoint(self) -> str:
        """Return the SHA-256 of the evaluated checkpoint, "" where it is not known."""
        return str(self.record.get("checkpoint_sha256") or "")

    @property
    def weights(self) -> tuple[str, str | None]:
        """Return the SHA-256 of the checkpoint and of the calibration, None without one."""
        return self.checkpoint, self.calibration.sha256 if self.calibration else None


@dataclass(frozen=True)
class Study:
    """Models, comparisons and problems found in a folder, in one `view`; paths in `problems` are relative to it.

    `audits` are the results of data_audit in any view, since it does not depend on the classes that a view merges.
    """

    root: Path
    models: list[ReportedModel]
    comparisons: dict[ResultKey, SavedResult]
    problems: list[Problem]
    view: str = ALL
    audits: tuple[SavedResult, ...] = ()

    @property
    def runs(self) -> list[ReportedModel]:
        """Return the models that are runs."""
        return [model for model in self.models if model.kind == "run"]

    @property
    def sets(self) -> list[str]:
        """Return the names of the evaluated sets, `blind` first."""
        names = {saved.result.set for __, saved in self.saved}
        plain = {name: name.partition(SEPARATOR)[0] for name in names}
        places = {name: place for place, name in enumerate(SET_ORDER)}
        return sorted(names, key=lambda name: (places.get(plain[name], len(SET_ORDER)), name))

    @property
    def saved(self) -> Iterator[tuple[ReportedModel | None, SavedResult]]:
        """Yield every result with its model, None for comparisons."""
        yield from ((None, saved) for saved in self.comparisons.values())
        yield from ((model, saved) for model in self.models for saved in model.results.values())

    def of_block(self, name: str, block: str) -> dict[str, SavedResult]:
        """Return the results of a block on a set by model label."""
        found = {model.label: model.results.get((name, block)) for model in self.models}
        return {label: saved for label, saved in found.items() if saved is not None}


def read_study(root: Path, view: str | None = None, classes: Mapping[str, Sequence[str]] | None = None) -> Study:
    """Read all runs and their results in a view, by default the finest in which every evaluated run has results.

    With `classes`, those of the view, results of another view of the same name are left out and count as problems.
    Raise DataError where the folder contains no run evaluated in that view.
    """
    if not root.is_dir():
        raise DataError(f"runs={root}: there is no such folder.", "Expected a folder of runs, as written by train.")
    problems: list[Problem] = []
    runs = list(_read_runs(root, problems))
    models = [*runs, *_read_ensembles(root, runs, problems)]
    saved = [] if _is_model(root) else read_evaluation(root, True)  # the evaluation of a run contains no comparisons
    without_run = (one for one in saved if _find_run(one) is None)
    comparisons = _collect_usable(root, _check_comparisons(without_run, models), problems)
    if not models:
        raise DataError(
            f"runs={root} contains no run to report" + (f": {problems[0].why}" if problems else "."),
            f"Expected a folder of run folders, each with its {RECORD}, as written by train.",
            f"See: avatar-bench list runs {root}",
        )
    if not comparisons and not any(model.results for model in models):
        raise DataError(
            f"runs={root}: no result can be read: {problems[0].why}"
            if problems
            else f"runs={root}: no run has been evaluated yet, so there is nothing to report.",
            f"Run: avatar-bench evaluate {shlex.quote(f'ckpt={root}')} block=all",
        )
    if classes:
        stated = {name: list(merged) for name, merged in classes.items()}
        comparisons = _drop_other_views(root, comparisons, view, stated, problems)
        models = [
            replace(model, results=_drop_other_views(root, model.results, view, stated, problems, model.label))
            for model in models
        ]
    everything = [*comparisons.values(), *(saved for model in models for saved in model.results.values())]
    by_view = {saved.view: saved.result.classes for saved in everything}
    views = sorted(by_view, key=lambda name: (name != ALL, -len(by_view[name]), name))  # the finest first
    if not view:  # the first in which every model with results has some
        known = [{saved.view for saved in model.results.values()} for model in models if model.results]
        view = next((name for name in views if all(name in one for one in known)), views[0])
    if view not in by_view:
        raise DataError(
            f"runs={root}: no run has been evaluated in view={view}.",
            f"There are results in {', '.join(f'view={name}' for name in views)}.",
            f"Run: avatar-bench evaluate ckpt={root} view={view}",
        )
    audits = tuple(saved for saved in everything if saved.result.block == AUDIT_BLOCK)
    models = [replace(model, results=_select_view(model.results, view)) for model in models]
    problems += _find_missing(root, models)
    return Study(root, models, _select_view(comparisons, view), problems, view, audits)


def read_run(folder: Path) -> tuple[ReportedModel | None, list[Problem]]:
    """Return the run in a folder with its usable results in every view, None if it is unfinished, and the problems."""
    problems: list[Problem] = []
    return next((model for model in _read_runs(folder, problems) if model.folder == folder), None), problems


def _drop_other_views(
    root: Path,
    results: Mapping[ResultKey, SavedResult],
    view: str | None,
    classes: Mapping[str, list[str]],
    problems: list[Problem],
    label: str = "",
) -> dict[ResultKey, SavedResult]:
    """Return the results without those of a view of this name that merges other classes."""
    other = {key for key, one in results.items() if one.view == view and one.merged_classes != classes}
    why = _("its view merges other classes: evaluate it again")
    problems += [Problem("foreign", _make_relative(results[key].folder, root), why, label) for key in sorted(other)]
    return {key: one for key, one in results.items() if key not in other}


def _select_view(results: Mapping[ResultKey, SavedResult], view: str) -> dict[ResultKey, SavedResult]:
    return {key: saved for key, saved in results.items() if saved.view == view}


def _read_runs(root: Path, problems: list[Problem]) -> Iterator[ReportedModel]:
    """Yield the finished runs below a folder, the oldest first: comparisons label and colour them in that order.

    Runs elsewhere are included where `evaluate out=DIR` wrote their results below the folder.
    """
    own, finished = _find_folders(root, RECORD), []
    elsewhere = _find_results_elsewhere(root, own, problems)
    for folder in [*own, *(place for place in elsewhere if place not in own)]:
        try:
            record = read_record(folder)
        except AvatarBenchError as error:
            problems.append(Problem("damaged", _make_relative(folder, root), error.lines[0]))
            continue
        if record.get("status") in USABLE_STATUSES:
            finished.append((str(record.get("started", "")), str(folder), folder))
        else:
            why = _("its status is {status}", status=record.get("status", "unknown"))
            problems.append(Problem("unfinished", _make_relative(folder, root), why))
    for one in label_runs([folder for *__, folder in sorted(finished)]):
        model = ReportedModel(one.label, one.recipe, "run", one.folder, one.record, one.config)
        model = replace(model, calibration=_read_calibration(model, root, problems))
        found = [*elsewhere.get(one.folder, ()), *(read_evaluation(one.folder) if one.folder in own else ())]
        model.results.update(_collect_usable(root, _check_checkpoint(found, model), problems, one.label))
        yield model


def _find_results_elsewhere(root: Path, own: Sequence[Path], problems: list[Problem]) -> dict[Path, list[SavedResult]]:
    """Return the results below a folder that are not in a run folder, by the run in their provenance."""
    known = {folder.resolve(): folder for folder in own}
    found: dict[Path, list[SavedResult]] = {}
    for place in sorted(folder.parent for folder in root.rglob("evaluation")):
        for one in () if _is_model(place) else read_evaluation(place):
            if isinstance(one, SavedResult) and (run := _find_run(one)) is not None:
                found.setdefault(known.get(run.resolve(), run), []).append(one)
            elif isinstance(one, Problem) and place != root:  # those of `root` are reported with its comparisons
                problems.append(Problem(one.kind, _make_relative(Path(one.where), root), one.why))
    return found


def _find_run(one: SavedResult | Problem) -> Path | None:
    """Return the run folder in the provenance of a result; None for a comparison or a data set."""
    run = one.result.provenance.get("run") if isinstance(one, SavedResult) else None
    return Path(run) if isinstance(run, str) else None


def _is_model(folder: Path) -> bool:
    return (folder / RECORD).is_file() or (folder / ENSEMBLE).is_file()


def _read_ensembles(root: Path, runs: Sequence[ReportedModel], problems: list[Problem]) -> Iterator[ReportedModel]:
    for folder in _find_folders(root, ENSEMBLE):
        try:
            record = json.loads((folder / ENSEMBLE).read_text(encoding="utf-8"))
            kind, members = str(record["kind"]), [dict(member) for member in record["members"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(Problem("damaged", _make_relative(folder, root), str(error)))
            continue
        reasons = list(_find_changed_members(folder, members, runs))
        problems += [Problem("foreign", _make_relative(folder, root), why, folder.name) for why in reasons]
        if not reasons:
            model = ReportedModel(folder.name, folder.name, kind, folder, record, read_config(folder))
            model = replace(model, calibration=_read_calibration(model, root, problems))
            found = _check_checkpoint(read_evaluation(folder), model)
            model.results.update(_collect_usable(root, found, problems, model.label))
            yield model


def _read_calibration(model: ReportedModel, root: Path, problems: list[Problem]) -> SavedCalibration | None:
    try:
        found = read_calibration(model.folder)
        return None if found is None or found.by == BY_TRAIN else found
    except AvatarBenchError as error:
        problems.append(Problem("damaged", _make_relative(model.folder, root), error.lines[0], model.label))
        return None


def _find_changed_members(
    folder: Path, members: Sequence[dict[str, Any]], runs: Sequence[ReportedModel]
) -> Iterator[str]:
    """Yield a reason for each member of an ensemble that was retrained since or is missing."""
    known = {run.checkpoint: run for run in runs}
    places = {run.folder.resolve(): run for run in runs}
    for member in members:
        theirs, file = str(member.get("checkpoint_sha256", "")), (folder / str(member.get("run", ""))).resolve()
        if theirs in known:
            continue
        run = next((places[place] for place in (file, *file.parents) if place in places), None)
        if run is None:
            yield _("its member {member} is missing", member=member.get("run"))
        else:
            own = run.checkpoint[:12]
            yield _(
                "its member {member} had the checkpoint {theirs}, that run now has {own}",
                member=run.label,
                theirs=theirs[:12],
                own=own,
            )


def _find_folders(root: Path, file: str) -> list[Path]:
    return sorted({found.parent for found in root.rglob(file)})


def _check_checkpoint(found: Iterable[SavedResult | Problem], model: ReportedModel) -> Iterator[SavedResult | Problem]:
    """Yield results, with a Problem instead of those of another checkpoint or calibration than the model's."""
    for one in found:
        about = one.result.provenance if isinstance(one, SavedResult) else {}
        theirs, (own, calibration) = about.get("checkpoint_sha256"), model.weights
        if isinstance(one, SavedResult) and theirs and own and theirs != own:
            why = _("its checkpoint is {theirs}, that of the run is {own}", theirs=theirs[:12], own=own[:12])
            yield Problem("foreign", str(one.folder), why)
        elif isinstance(one, SavedResult) and theirs and about.get("calibration_sha256") != calibration:
            yield Problem("foreign", str(one.folder), _("it was computed with another calibration: evaluate it again"))
        else:
            yield one


def _check_comparisons(
    found: Iterable[SavedResult | Problem], models: Sequence[ReportedModel]
) -> Iterator[SavedResult | Problem]:
    """Yield comparisons, with a Problem instead of those with unknown checkpoints or other calibrations.

    Ensembles count by their results.
    """
    weights = {model.weights for model in models}
    results = (saved.result for model in models for saved in model.results.values() if model.kind != "run")
    known = {model.checkpoint for model in models} | {one.provenance.get("checkpoint_sha256") for one in results}
    for one in found:
        runs = one.result.provenance.get("compared") or () if isinstance(one, SavedResult) else ()
        unknown = {str(run.get("checkpoint_sha256") or "") for run in runs if isinstance(run, dict)} - known - {""}
        if isinstance(one, SavedResult) and unknown:
            why = _("it compares checkpoints that are missing here: {names}", names=", ".join(sorted(unknown)))
            yield Problem("foreign", str(one.folder), why)
        elif isinstance(one, SavedResult) and any(
            (run.get("checkpoint_sha256"), run.get("calibration_sha256")) not in weights
            for run in runs
            if isinstance(run, dict) and run.get("checkpoint_sha256") in {checkpoint for checkpoint, _sha256 in weights}
        ):
            yield Problem("foreign", str(one.folder), _("it was computed with another calibration: evaluate it again"))
        else:
            yield one


def _collect_usable(
    root: Path, found: Iterable[SavedResult | Problem], problems: list[Problem], label: str = ""
) -> dict[ResultKey, SavedResult]:
    """Return the readable results; add the unreadable ones and missing files to `problems`."""
    results = {}
    for one in found:
        if isinstance(one, Problem):
            problems.append(Problem(one.kind, _make_relative(Path(one.where), root), one.why, label))
            continue
        results[one.result.set, one.result.block] = one
        if one.missing_files:
            why = _("missing files: {names}", names=", ".join(one.missing_files))
            problems.append(Problem("missing", _make_relative(one.folder, root), why, label))
    return results


def _find_missing(root: Path, models: Sequence[ReportedModel]) -> Iterator[Problem]:
    """Yield a Problem for the results of other runs that a run lacks."""
    runs = [model for model in models if model.kind == "run"]
    expected = sorted({(name, block) for model in runs for name, block in model.results if block != AGAINST_FOLDER})
    for model in runs:
        for name in sorted({name for name, __ in expected}):
            blocks = [block for there, block in expected if there == name and (name, block) not in model.results]
            if blocks:
                why = _("not evaluated on {name} by: {blocks}", name=name, blocks=", ".join(blocks))
                yield Problem("missing", _make_relative(model.folder, root), why, model.label)


def _make_relative(folder: Path, root: Path) -> str:
    return Path(os.path.relpath(folder, root)).as_posix()

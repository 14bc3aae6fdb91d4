"""Caveats and warnings of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from avatar_bench.i18n import _
from avatar_bench.reporting.data_section import find_assessment
from avatar_bench.reporting.leaderboard import Leaderboard
from avatar_bench.reporting.number_format import format_metric, format_names
from avatar_bench.reporting.saved_result import SavedResult
from avatar_bench.reporting.study import Study
from avatar_bench.reporting.tables import Table, TableRow, make_column
from avatar_bench.results.reasons import format_reason
from avatar_bench.results.view import SEPARATOR


def find_alerts(study: Study, boards: Sequence[Leaderboard]) -> list[str]:
    """Return the caveats of the first screen, one or two sentences each."""
    alerts = [*_check_view(study), *_check_data(study), *_check_guards(study)]
    if unknown := [model.label for model in study.models if model.is_imported and not model.record.get("trained_on")]:
        named = format_names(unknown)
        alerts.append(_("Training data unknown: {models} may have been trained on the evaluated images.", models=named))
    alerts += [*_check_sets(study, boards), *_check_versions(study)]
    if len(study.problems) == 1:
        alerts.append(_("One item is unfinished, missing, damaged or foreign: see the table below."))
    elif study.problems:
        alerts.append(
            _("{n} items are unfinished, missing, damaged or foreign: see the table below.", n=len(study.problems))
        )
    return alerts


def build_problem_table(study: Study) -> Table:
    """Return a table of unfinished, missing, damaged and foreign items."""
    kinds = {"unfinished": _("unfinished"), "missing": _("missing"), "damaged": _("damaged"), "foreign": _("foreign")}
    columns = [make_column(_("what")), make_column(_("where")), make_column(_("model")), make_column(_("why"))]
    rows = [TableRow([kinds[one.kind], one.where, one.model, one.why]) for one in study.problems]
    return Table("problems", _("Unfinished, missing, damaged or foreign items"), columns, rows)


def build_warning_table(study: Study) -> Table:
    """Return a table of the warnings of the blocks, each text once per block and set."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for model, saved in study.saved:
        for text in split_warnings(study, saved)[0]:
            key = (saved.result.block, saved.result.set, text)
            found.setdefault(key, []).append(model.label if model else _("all"))
    columns = [make_column(_("warning")), make_column(_("block")), make_column(_("set")), make_column(_("models"))]
    rows = [TableRow([words, block, name, ", ".join(models)]) for (block, name, words), models in sorted(found.items())]
    return Table("warnings", _("Warnings of the blocks"), columns, rows)


def split_warnings(study: Study, saved: SavedResult) -> tuple[list[str], list[str]]:
    """Return the warnings of a result in the current language, and the blocks that were not evaluated.

    A block that other models have a result of is followed by the runs that lack it: "gradcam (soup)". Charts lack what
    these blocks have not evaluated, so they are not named.
    """
    texts, missing = [], []
    for warning in saved.result.warnings:
        if warning.code == "not_evaluated":
            runs = ", ".join(warning.values["runs"])
            missing += [
                f"{block} ({runs})" if study.of_block(saved.result.set, block) else block
                for block in warning.values["blocks"]
            ]
        elif warning.code != "charts_left_out":
            texts.append(format_reason(warning, saved.result.block))
    return texts, missing


def _check_view(study: Study) -> Iterator[str]:
    stated = (saved.result.provenance.get("view_classes") for __, saved in study.saved)
    if classes := next((one for one in stated if isinstance(one, dict)), None):
        merged = "; ".join(f"{name}: {' + '.join(map(str, old))}" for name, old in classes.items())
        yield _("All results are in the view {view}, which merges classes: {merged}.", view=study.view, merged=merged)


def _check_data(study: Study) -> Iterator[str]:
    found = find_assessment(study)
    if found is None:
        yield _(
            "The data were not audited: files or sources may reveal the class. Run: avatar-bench evaluate "
            "block=data_audit"
        )
    elif found[0] not in ("yes", _("yes")):
        reasons = "; ".join(found[1])
        yield _("Data audit, suitable data: {answer}. {reasons}", answer=found[0], reasons=reasons)


def _check_guards(study: Study) -> Iterator[str]:
    passed: dict[str, list[str]] = {}
    for model in study.models:
        allowed = set(model.record.get("allow") or ())
        allowed |= {guard for saved in model.results.values() for guard in saved.result.provenance.get("allow") or ()}
        for guard in sorted(map(str, allowed)):
            passed.setdefault(guard, []).append(model.label)
    for guard, models in passed.items():
        yield _("Guard {guard} was overridden for {models}.", guard=guard, models=format_names(models))


def _check_sets(study: Study, boards: Sequence[Leaderboard]) -> Iterator[str]:
    names = [board.name for board in boards]
    if "blind" not in {name.partition(SEPARATOR)[0] for name in names}:
        yield _(
            "No run was evaluated by blind_test on an external test set (blind: sources never used in training): "
            "accuracy on new sources is not known."
        )
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield _(
            "Runs were evaluated on different images under the name {set}: they are in separate tables, and their "
            "metrics are not comparable.",
            set=name,
        )
    for board in boards:
        if board.detectable is not None and board.detectable.value is not None:
            yield _(
                "{set}: with {n} images, a difference below {difference} between two models is unlikely to be "
                "detected.",
                set=board.name,
                n=board.n,
                difference=format_metric(board.detectable, "significance"),
            )
    if any(len(board.names) > 1 for board in boards):
        yield _("The accuracy of the best of several models is optimistic: the model was chosen on the same images.")


def _check_versions(study: Study) -> Iterator[str]:
    results = [saved.result for __, saved in study.saved]
    versions = sorted({str(result.provenance.get("version", _("not known"))) for result in results})
    if len(versions) > 1:
        yield _("Results come from different versions: {versions}.", versions=format_names(versions))
    own: dict[str, set[str]] = {}
    for result in results:
        made = [str(result.provenance.get(name)) for name in ("block_version", "code")]
        own.setdefault(result.block, set()).add(" ".join(made))
    if mixed := sorted(block for block, found in own.items() if len(found) > 1):
        yield _("The version of these blocks differs between models: {blocks}.", blocks=format_names(mixed))

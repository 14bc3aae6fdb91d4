"""Alerts: what must be known before a figure is believed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from avatar_bench.i18n import _, translate
from avatar_bench.reporting.data_section import find_assessment
from avatar_bench.reporting.leaderboard import Leaderboard
from avatar_bench.reporting.number_format import format_metric, format_names
from avatar_bench.reporting.study import Study
from avatar_bench.reporting.tables import Table, TableRow, make_column


def find_alerts(study: Study, boards: Sequence[Leaderboard]) -> list[str]:
    """Give what is to be said on the first screen, one sentence or two each."""
    found = [*_check_data(study), *_check_guards(study), *_check_sets(study, boards), *_check_versions(study)]
    if len(study.problems) == 1:
        found.append(_("One thing is unfinished, missing, damaged or foreign; it is listed below."))
    elif study.problems:
        found.append(
            _("{n} things are unfinished, missing, damaged or foreign; they are listed below.", n=len(study.problems))
        )
    return found


def build_problem_table(study: Study) -> Table:
    """List what is unfinished, missing, damaged or foreign."""
    kinds = {
        "unfinished": _("unfinished"),
        "missing": _("missing"),
        "damaged": _("damaged"),
        "foreign": _("foreign"),
    }
    columns = [make_column(_("what")), make_column(_("where")), make_column(_("model")), make_column(_("why"))]
    rows = [TableRow([kinds[one.kind], one.where, one.model, one.why]) for one in study.problems]
    return Table("problems", _("What is unfinished, missing, damaged or foreign"), columns, rows)


def build_warning_table(study: Study) -> Table:
    """List what the blocks themselves warn of, the same words once."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for model, saved in study.saved:
        for warning in saved.result.warnings:
            key = (saved.result.block, saved.result.set, translate(str(warning)))
            found.setdefault(key, []).append(model.label if model else _("all"))
    columns = [make_column(_("warning")), make_column(_("block")), make_column(_("set")), make_column(_("models"))]
    rows = [TableRow([words, block, name, ", ".join(models)]) for (block, name, words), models in sorted(found.items())]
    return Table("warnings", _("What the blocks warn of"), columns, rows)


def _check_data(study: Study) -> Iterator[str]:
    found = find_assessment(study)
    if found is None:
        yield _(
            "The data were not audited: whether files or sources tell the classes apart is not known. "
            "First: avatar-bench evaluate block=data_audit"
        )
    elif found[0] not in ("yes", _("yes")):
        reasons = "; ".join(found[1])
        yield _("The audit of the data says: {answer}. {reasons}", answer=found[0], reasons=reasons)


def _check_guards(study: Study) -> Iterator[str]:
    passed: dict[str, list[str]] = {}
    for model in study.models:
        allowed = set(model.record.get("allow") or ())
        allowed |= {guard for saved in model.results.values() for guard in saved.result.provenance.get("allow") or ()}
        for guard in sorted(map(str, allowed)):
            passed.setdefault(guard, []).append(model.label)
    for guard, models in passed.items():
        yield _("The guard {guard} was passed on purpose for {models}.", guard=guard, models=format_names(models))


def _check_sets(study: Study, boards: Sequence[Leaderboard]) -> Iterator[str]:
    names = [board.name for board in boards]
    if "blind" not in names:
        yield _(
            "No run was judged by blind_test on a blind set, of sources that training never saw: how it does there is "
            "not known."
        )
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield _(
            "Under the name {set} the runs were judged on different images: they stand in tables of their own, and "
            "figures of different tables do not compare.",
            set=name,
        )
    for board in boards:
        if board.detectable is not None and board.detectable.value is not None:
            yield _(
                "{set}: with {n} images a difference below {difference} between two models is likely to go unseen.",
                set=board.name,
                n=board.n,
                difference=format_metric(board.detectable),
            )
    if any(len(board.names) > 1 for board in boards):
        yield _("The best of several on a set looks better there than it is: it was chosen by the same images.")


def _check_versions(study: Study) -> Iterator[str]:
    results = [saved.result for __, saved in study.saved]
    versions = sorted({str(result.provenance.get("version", _("not known"))) for result in results})
    if len(versions) > 1:
        yield _("The figures were made by different versions: {versions}.", versions=format_names(versions))
    codes: dict[str, set[str]] = {}
    for result in results:
        codes.setdefault(result.block, set()).add(str(result.provenance.get("code", "")))
    if mixed := sorted(block for block, found in codes.items() if len(found) > 1):
        yield _("The code of these blocks changed between the models: {blocks}.", blocks=format_names(mixed))

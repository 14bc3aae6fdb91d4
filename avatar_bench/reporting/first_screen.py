"""First screen of the report: the headline of a leaderboard, and the caveats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from avatar_bench.i18n import _
from avatar_bench.reporting.leaderboard import Leaderboard
from avatar_bench.reporting.study import Study
from avatar_bench.reporting.tables import format_metric_with_units, format_names
from avatar_bench.results.declaration import find_heading
from avatar_bench.results.display import format_number
from avatar_bench.results.view import SEPARATOR


def format_headline(board: Leaderboard) -> str:
    """Return up to three sentences: the best model on a set, its ties, and the models no better than guessing."""
    able = [name for name in board.names if name not in board.guessing]
    sentences = [f"{_describe_best(board, able) if able else _describe_guessing(board)}."]
    if able and board.guessing:
        sentences.append(_("Not significantly better than guessing: {names}.", names=format_names(board.guessing)))
    if unread := [entry for entry in board.ranking if entry not in board.names]:
        sentences.append(_("Left out, without a usable accuracy: {names}.", names=format_names(unread)))
    return " ".join(sentences)


def _describe_guessing(board: Leaderboard) -> str:
    """Return that no model is better than guessing, with the highest balanced accuracy and the level of guessing."""
    best = max(board.names, key=lambda name: _find_value(board, name, "balanced_accuracy"))
    metric = board.find_row(best).metrics["balanced_accuracy"]
    if len(board.names) == 1:
        text = _(
            "{name} on {set} is not significantly better than guessing: its balanced accuracy is {figure}, guessing "
            "has {level}"
        )
    else:
        text = _(
            "None of {n} models on {set} is significantly better than guessing: the highest balanced accuracy is "
            "{figure} ({name}), guessing has {level}"
        )
    return text.format(
        n=len(board.names),
        set=board.name,
        name=best,
        figure=_format_value(board, best, "balanced_accuracy"),
        level=format_number(metric.floor) if metric is not None and metric.floor is not None else _("not known"),
    )


def _describe_best(board: Leaderboard, able: Sequence[str]) -> str:
    """Return the best of the models that are better than guessing, and its ties."""
    values = {name: _find_value(board, name, board.ranked_by) for name in able}
    level = [name for name in able if values[name] == values[able[0]]]
    best = {row.name for row in board.rows if row.is_best}
    ties = [name for name in able if name in best and name not in level]
    if len(board.names) == 1:
        text = _("{name} on {set}: {metric} {figure}")
    elif len(level) > 1:
        text = _("{name} share the highest {metric} of {n} models on {set}: {figure}")
    elif board.is_tested and not ties:
        text = _("{name} is the best of {n} models on {set}: {metric} {figure}")
    else:
        text = _("{name} has the highest {metric} of {n} models on {set}: {figure}")
    first = text.format(
        name=format_names(level),
        n=len(board.names),
        set=board.name,
        metric=find_heading(board.ranked_by, "blind_test"),
        figure=_format_value(board, level[0], board.ranked_by),
    )
    if len(level) == len(able) or (len(level) > 1 and not ties):
        return first
    if len(level) > 1:
        tested, untested = (
            _("statistically tied with them: {others}"),
            _("their intervals overlap with that of {others}"),
        )
    elif ties:
        tested, untested = _("it is statistically tied with {others}"), _("its interval overlaps with that of {others}")
    else:
        tested, untested = _("it is significantly better than {others}"), _("its interval is above that of {others}")
    others = format_names(ties or [name for name in able if name not in level])
    if not ties and not board.guessing:
        others = _("all others")
    text = (tested if board.is_tested else untested).format(others=others)
    # a paired test compares accuracy only
    is_untested = not board.is_tested and board.ranked_by == "accuracy"
    return f"{first}; {text}" + (", " + _("but no paired test was run") if is_untested else "")


def _format_value(board: Leaderboard, name: str, metric: str) -> str:
    metric_of_row = board.find_row(name).metrics[metric]
    return _("not known") if metric_of_row is None else format_metric_with_units(metric_of_row, board.blocks[metric])


def _find_value(board: Leaderboard, name: str, metric: str) -> float:
    ranked = board.ranking.get(name, {})
    return float(ranked[metric]) if metric in ranked else board.find_row(name).find_value(metric)


def find_alerts(study: Study, boards: Sequence[Leaderboard], audit: tuple[str, list[str]] | None) -> Iterator[str]:
    """Yield the caveats of the first screen, one or two sentences each; `audit` is the formatted assessment."""
    if classes := next((saved.merged_classes for __, saved in study.saved if saved.merged_classes), None):
        merged = "; ".join(f"{name}: {' + '.join(map(str, old))}" for name, old in classes.items())
        yield _("All results are in the view {view}, which merges classes: {merged}.", view=study.view, merged=merged)
    if audit is None:
        yield _(
            "The data were not audited: files or sources may reveal the class. Run: avatar-bench evaluate "
            "block=data_audit"
        )
    elif audit[0] not in ("yes", _("yes")):
        yield _("Data audit, suitable data: {answer}. {reasons}", answer=audit[0], reasons="; ".join(audit[1]))
    yield from _check_models(study)
    yield from _check_sets(study, boards)
    yield from _check_versions(study)
    if len(study.problems) == 1:
        yield _("One item is unfinished, missing, damaged or foreign: see the table below.")
    elif study.problems:
        yield _("{n} items are unfinished, missing, damaged or foreign: see the table below.", n=len(study.problems))


def _check_models(study: Study) -> Iterator[str]:
    passed: dict[str, list[str]] = {}
    for model in study.models:
        made = [vars(model.record), *(saved.result.provenance for saved in model.results.values())]
        for guard in sorted({str(guard) for record in made for guard in record.get("allow") or ()}):
            passed.setdefault(guard, []).append(model.label)
    for guard, models in passed.items():
        yield _("Guard {guard} was overridden for {models}.", guard=guard, models=format_names(models))
    if unknown := [model.label for model in study.models if model.is_imported and not model.record.trained_on]:
        named = format_names(unknown)
        yield _("Training data unknown: {models} may have been trained on the evaluated images.", models=named)


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
                difference=format_metric_with_units(board.detectable, "significance"),
            )
    if any(len(board.names) > 1 for board in boards):
        yield _("The accuracy of the best of several models is optimistic: the model was chosen on the same images.")


def _check_versions(study: Study) -> Iterator[str]:
    results = [saved.result for __, saved in study.saved]
    versions = sorted({str(result.provenance.get("version", _("not known"))) for result in results})
    if len(versions) > 1:
        yield _("Results come from different versions: {versions}.", versions=format_names(versions))
    by_block: dict[str, set[str]] = {}
    for result in results:
        made = [str(result.provenance.get(name)) for name in ("block_version", "code")]
        by_block.setdefault(result.block, set()).add(" ".join(made))
    if mixed := sorted(block for block, of_block in by_block.items() if len(of_block) > 1):
        yield _("The version of these blocks differs between models: {blocks}.", blocks=format_names(mixed))

"""decision: what a run can be used for, as a detector of one class and as one that may abstain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.options import option
from avatar_bench.data import image_slices
from avatar_bench.data.corruptions import SLIGHT_CHANGES
from avatar_bench.errors import BlockError, ConfigError, GuardError
from avatar_bench.evaluation.block import check_class_order, read_labelled, read_ood_sets
from avatar_bench.evaluation.blocks.decision import decision_tables as tables
from avatar_bench.evaluation.intervals import IntervalOptions, bootstrap_metrics
from avatar_bench.metrics import selective, stats
from avatar_bench.metrics.units import IMAGE, SOURCE
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result
from avatar_bench.runs.decisions import DecisionRule, make_decision_rule, make_source_rule

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

FurtherSets = dict[str, tuple["Dataset", "Predictions"]]
_COVERAGES = np.arange(1, 21) / 20
_COSTS = 21  # points of the cost curve


@dataclass(kw_only=True)
class Decision(IntervalOptions):
    """Operating points of a run by class, and its errors where it may abstain, on the set and on further ones."""

    version: ClassVar[int] = 4
    needs: ClassVar[tuple[str, ...]] = ("predictions", "decisions")

    targets: list[float] = option(
        [0.05, 0.1],
        help="target errors among answered images, at each of which the run answers or abstains",
        check=lambda targets: bool(targets) and all(0 < target < 1 for target in targets),
        expected="one number or more, above 0 and below 1",
    )
    false_alarms: list[float] = option(
        [0.01, 0.001],
        help="rates of false alarms at which the recall of each class is stated",
        check=lambda rates: all(0 < rate < 1 for rate in rates),
        expected="numbers above 0 and below 1",
    )
    unit: str = option(
        "image",
        help="source: also count the sources whose error exceeds each target, where a run is calibrated by source",
        choices=("image", "source"),
    )
    stability: bool = option(
        False, help="also compare what re-encoding, reducing and mirroring images tell of errors with confidence alone"
    )
    slices: list[str] = option([], help="further columns of the manifest to slice answers by, such as [age,skin_tone]")
    minimum: int = option(20, help="images per slice that counts in a gap between slices", range=(1, None))
    abstain_cost: float = option(
        0.1, help="of an abstention, where an error costs 1, for the metric `cost`", range=(0, 1)
    )

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute operating points of the set, and decisions, risk and cost of the set and of each further one."""
        labelled_rows, predictions, unlabelled = read_labelled(run, dataset)
        result = Result("decision", dataset.name, len(predictions), predictions.classes)
        result.warnings = unlabelled
        further = self._read_further_sets(run, dataset, result)
        for __, answers in further.values():
            check_class_order(answers, run.allow)
        sets = {dataset.name: (dataset, predictions), **further}
        labelled = {
            name: known for name, (__, answers) in sets.items() if len(known := answers.take(answers.targets >= 0))
        }
        rules = self._make_rules(run, [other for other, __ in sets.values()], result)
        recalls, points = tables.compute_operating_points(self, predictions, self.false_alarms)
        result.tables |= points
        columns = {}
        for name, (images, _found) in sets.items():  # further sets may lack some
            names = [
                column for column in self.slices if images is dataset or column in image_slices.list_columns(images)
            ]
            columns[name] = image_slices.assign_columns(images, names, "block.decision.slices")
        columns[dataset.name] = columns[dataset.name].iloc[labelled_rows]
        self._decide(result, sets, columns, rules)
        if self.unit == SOURCE:
            if run.source_calibration is not None:
                for compared, _predictions in sets.values():
                    run.leakage.refuse_overlap_with_fit(compared, run.source_calibration.images)
            self._find_broken_sources(run, result, labelled, rules)
        if self.stability:
            self._compare_stability(run, result, sets, labelled_rows)
        result.metrics |= self._compute_costs(labelled) | recalls
        result.tables["risk_coverage"] = self._tabulate_risk(labelled)
        result.tables["cost_curve"] = self._tabulate_costs(labelled)
        result.tables["operating_curve"] = tables.tabulate_operating_curve(self, labelled)
        return result

    def _read_further_sets(self, run: Run, dataset: Dataset, result: Result) -> FurtherSets:
        """Return the external test set and the out-of-domain sets with their predictions, all images, by name."""
        blind = run.blind
        sets = {} if blind is None else {blind.name: (blind, run.predictions(blind))}
        try:
            sets |= read_ood_sets(run)
        except BlockError as error:
            result.warnings.append(Reason("ood_set_unreadable", why=error.lines[0]))
        return {name: pair for name, pair in sets.items() if name != dataset.name}

    def _make_rules(self, run: Run, datasets: Iterable[Dataset], result: Result) -> dict[float, DecisionRule]:
        """Return the rule of each target; add a metric without a value, and a warning, where there is none."""
        rules: dict[float, DecisionRule] = {}
        calibration = run.decision_calibration
        for target in self.targets:
            try:
                rules[target] = make_decision_rule(run, target)
            except (ConfigError, GuardError) as error:
                why = Reason("no_calibration") if calibration is None else Reason("no_rule", why=error.lines[0])
                better = {"coverage": True, "error": False, "bound": False}
                result.metrics |= {
                    f"{kind}/{target:g}": Metric(None, 0, higher_is_better=is_better, reason=why)
                    for kind, is_better in better.items()
                }
                result.warnings += [] if why in result.warnings else [why]
        if rules and calibration is not None:
            for dataset in datasets:
                run.leakage.refuse_overlap_with_fit(dataset, calibration.images)
        return rules

    def _decide(
        self,
        result: Result,
        sets: FurtherSets,
        columns: Mapping[str, pd.DataFrame],
        rules: Mapping[float, DecisionRule],
    ) -> None:
        """Add thresholds, coverage and error of each set at each target, and what these do not keep, to the result."""
        rows_by_kind: dict[str, list[pd.DataFrame]] = {"sets": [], "slices": [], "gaps": []}
        for target, rule in rules.items():
            for name, (__, answers) in sets.items():
                parts = tables.list_parts(answers, columns[name])
                decided, metrics = tables.decide(self, name, answers, rule, target, parts)
                end = "" if name == result.set else f"/{name}"
                result.metrics |= {f"{key}{end}": metric for key, metric in metrics.items()}
                result.warnings += tables.warn_of_set(decided["sets"], is_further=bool(end))
                for kind, rows in decided.items():
                    rows_by_kind[kind] += [rows] if len(rows) else []
            _state_promise(result, rule)
        if rules:
            result.tables["thresholds"], bounds = tables.describe_thresholds(rules)
            result.metrics |= bounds
        result.tables |= {kind: pd.concat(rows, ignore_index=True) for kind, rows in rows_by_kind.items() if rows}

    def _find_broken_sources(
        self, run: Run, result: Result, sets: Mapping[str, Predictions], rules: Mapping[float, DecisionRule]
    ) -> None:
        """Add the sources that exceed each target to the result, by the rule for new sources and by that for images."""
        counts: list[dict[str, object]] = []
        sources, traces = [], []
        is_calibrated = run.source_calibration is not None
        if not is_calibrated:
            result.warnings.append(Reason("no_source_calibration"))
        for target in self.targets:
            by_source = {SOURCE: make_source_rule(run, target)} if is_calibrated else {}
            by_image = {IMAGE: rules[target]} if target in rules else {}
            for rule in by_source.values():
                _state_promise(result, rule)
            for name, predictions in sets.items():
                about: dict[str, Any] = {"target_error": target, "set": name}
                traces.append(tables.trace_sources(self, predictions, target).assign(**about))
                for unit, rule in (by_source | by_image).items():
                    row, metric, rows = tables.find_broken_sources(self, predictions, rule, target)
                    counts.append({**about, "rule": unit, **row})
                    sources.append(rows.assign(**about, rule=unit))
                    end = "" if name == result.set else f"/{name}"
                    result.metrics |= {f"broken/{target:g}{end}": metric} if unit == SOURCE else {}
        result.tables["new_sources"] = pd.DataFrame(counts)
        for name, parts in {"sources": sources, "risk_by_source": traces}.items():
            if parts:
                result.tables[name] = pd.concat(parts, ignore_index=True)

    def _compare_stability(self, run: Run, result: Result, sets: FurtherSets, labelled_rows: NDArray[np.intp]) -> None:
        """Add to the result what the stability of answers, and their mean over changed images, tell of errors."""
        if "pixels" not in run.provides:
            raise BlockError(f"{run.name} is a table of predictions, which has none of images that are changed.")
        rows = []
        for name, (images, answers) in sets.items():
            versions = run.variations(images, SLIGHT_CHANGES)
            if name == result.set:
                versions = [version.take(labelled_rows) for version in versions]
            table, metrics = tables.compare_stability(self, answers, versions)
            rows.append(table.assign(set=name))
            end = "" if name == result.set else f"/{name}"
            result.metrics |= {f"{key}{end}": metric for key, metric in metrics.items()}
        result.tables["stability"] = pd.concat(rows, ignore_index=True)

    def _compute_costs(self, sets: Mapping[str, Predictions]) -> dict[str, Metric]:
        """Compute the mean cost on each set; its floor is that of the better of answering all or none."""
        metrics: dict[str, Metric] = {}
        for index, (name, predictions) in enumerate(sets.items()):
            losses = selective.abstention_losses(predictions.confidence, predictions.correct, [self.abstain_cost])
            key = f"cost/{name}" if index else "cost"
            floor = {key: min(self.abstain_cost, float(1 - predictions.correct.mean()))}
            metrics |= bootstrap_metrics(
                self, [key], stats.build_mean_statistic(losses), predictions.units, False, floor
            )
        return metrics

    def _tabulate_risk(self, sets: Mapping[str, Predictions]) -> pd.DataFrame:
        """Tabulate the error rate among answered images of each set, the most confident first, by coverage."""
        rows: list[tuple[object, ...]] = []
        for name, predictions in sets.items():
            least = selective.thresholds(_COVERAGES, predictions.confidence)
            errors = np.where(predictions.confidence[:, None] >= least, ~predictions.correct[:, None], np.nan)
            ends = stats.proportion_intervals(errors, predictions.group_codes, self.resamples, self.level, self.seed)
            answered, shares = (~np.isnan(errors)).sum(axis=0), np.nanmean(errors, axis=0)
            rows += [
                (name, *row, interval_end.low, interval_end.high)
                for *row, interval_end in zip(_COVERAGES, least, answered, shares, ends, strict=True)
            ]
        return pd.DataFrame(rows, columns=["set", "coverage", "confidence", "answered", "error", "low", "high"])

    def _tabulate_costs(self, sets: Mapping[str, Predictions]) -> pd.DataFrame:
        """Tabulate the mean cost of each set over the cost of abstaining, up to that of guessing."""
        parts = []
        for name, part in sets.items():
            costs = np.linspace(0, 1 - 1 / len(part.classes), _COSTS)
            losses = selective.abstention_losses(part.confidence, part.correct, costs)
            statistic = stats.build_mean_statistic(losses)
            about = part.group_codes, self.resamples, self.level, self.seed
            low, high = stats.bootstrap_interval(statistic, *about, bounds=(0, 1))
            columns = {
                "set": name,
                "abstain_cost": costs,
                "cost": losses.mean(axis=0),
                "low": low,
                "high": high,
                "coverage": (1 - part.confidence[:, None] <= costs).mean(axis=0),
                "answer_all": float(1 - part.correct.mean()),
                "best": selective.best_abstention_costs(part.confidence, part.correct, costs),
            }
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)


def _state_promise(result: Result, rule: DecisionRule) -> None:
    """Add what a rule promises to the result, or why it answers nothing."""
    if unmet := rule.explain_unmet():
        result.warnings += unmet.values()
    elif rule.guarantee is not None:
        result.notes.append(rule.guarantee)

"""Block blind_test: accuracy and other classification metrics with intervals, by class and by source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.options import option
from avatar_bench.evaluation import intervals
from avatar_bench.evaluation.block import check_class_order, labelled_rows, tabulate_predictions, warn_unlabelled
from avatar_bench.metrics import classification, detection, paired_tests, plots, stats
from avatar_bench.metrics.accuracy_tests import beats_guessing, guessing_level
from avatar_bench.metrics.units import NEW_SOURCES
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

_ROUNDING = 1e-9
_FEW_IMAGES = 30  # with fewer images of a class, its metrics are unreliable


@dataclass(kw_only=True)
class BlindTest(intervals.IntervalOptions):
    """Evaluation of a run on images whose true class is known."""

    version: ClassVar[int] = 3

    discordance: float | None = option(
        None,
        help="fraction of images that exactly one of two networks classifies correctly; null: 2 a (1 - a), a: accuracy",
        check=lambda value: value is None or 0 < value <= 1,
        expected="null, or above 0 and up to 1",
    )
    gallery: int = option(12, help="errors shown, most confident first; 0: none", range=(0, None))

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute metrics and tables on the labelled images; of a run without decisions, those of ranking."""
        all_predictions = run.predictions(dataset)
        rows = labelled_rows(all_predictions, dataset)
        predictions = all_predictions.take(rows)
        result = Result("blind_test", dataset.name, len(rows), predictions.classes)
        result.metrics = self._compute_metrics(predictions)
        table = tabulate_predictions(predictions, with_probabilities=True)
        table = table.assign(sha256=dataset.frame["sha256"].to_numpy()[rows])
        result.warnings = _collect_warnings(predictions, len(all_predictions))
        if "decisions" not in run.provides:
            unknown = Reason("without_threshold")
            for name, score in result.metrics.items():
                if not name.startswith(("chance", "majority_share", "auroc")):  # it needs decisions
                    result.metrics[name] = Metric(None, 0, higher_is_better=score.higher_is_better, reason=unknown)
            result.metrics |= self._compute_average_precision(predictions)
            result.tables = {"predictions": table.drop(columns=["prediction", "confidence", "correct"])}
            return result
        check_class_order(predictions, run.allow)
        result.tables = {
            "predictions": table,
            "confusion": _tabulate_confusion(predictions),
            "per_source": self._tabulate_sources(predictions),
        }
        if self.gallery and not predictions.correct.all():
            incorrect = np.flatnonzero(~predictions.correct)
            worst = incorrect[np.argsort(-predictions.confidence[incorrect], kind="stable")][: self.gallery]
            shown = plots.make_thumbnails(dataset.image(int(rows[i])) for i in worst)
            result.arrays["gallery"] = {"rows": worst, **shown}  # rows of the table of predictions
        score = result.metrics["balanced_accuracy"]
        units = score.units or score.n
        if score.value is not None and beats_guessing(score.value, score.low, units, score.floor, self.level) is False:
            result.warnings.append(Reason("guessing", value=score.value, level=score.floor))
        return result

    def _compute_metrics(self, predictions: Predictions) -> dict[str, Metric]:
        n, classes = len(predictions), len(predictions.classes)
        metrics = {
            "accuracy": intervals.compute_proportion(self, predictions.correct, predictions.units, floor=1 / classes),
            "chance": Metric(1 / classes, n, higher_is_better=None),
            "majority_share": Metric(float(np.bincount(predictions.targets).max() / n), n, higher_is_better=None),
        }
        metrics |= self._bootstrap_metrics(predictions)
        for index, name in enumerate(predictions.classes):
            target, predicted = predictions.targets == index, predictions.predicted == index
            absent = Reason("no_images_of_class")
            metrics[f"recall/{name}"] = self._compute_proportion(target, predictions, absent)
            reason = Reason("never_predicted") if target.any() else absent
            metrics[f"precision/{name}"] = self._compute_proportion(predicted & target.any(), predictions, reason)
        metrics["detectable_difference"] = self._find_detectable_difference(predictions, metrics["accuracy"])
        return metrics

    def _compute_proportion(self, images: NDArray[np.bool_], predictions: Predictions, reason: Reason) -> Metric:
        if not images.any():
            return Metric(None, 0, reason=reason)
        return intervals.compute_proportion(self, predictions.correct, predictions.units, among=images)

    def _bootstrap_metrics(self, predictions: Predictions) -> dict[str, Metric]:
        classes = predictions.classes
        names = [*classification.MACRO_METRICS, *(f"{kind}/{name}" for kind in ("f1", "auroc") for name in classes)]
        floors = {"mcc": 0.0, **{f"auroc/{name}": 0.5 for name in classes}}
        guessing = guessing_level(predictions.targets)
        floors |= {} if guessing is None else {"balanced_accuracy": guessing}
        scores = np.asarray(predictions.probabilities, np.float64)
        about = predictions.targets, predictions.predicted, scores
        functions = (*classification.MACRO_METRICS.values(), classification.f1)
        statistic = classification.build_metrics_statistic(*about, functions)
        bounds = np.where(np.array(names) == "mcc", -1.0, 0.0), 1.0
        metrics = intervals.bootstrap_metrics(self, names, statistic, predictions.units, floors=floors, bounds=bounds)
        balanced = intervals.balance_interval(
            self, metrics["balanced_accuracy"], predictions.correct, predictions.units
        )
        return metrics | {"balanced_accuracy": balanced}

    def _compute_average_precision(self, predictions: Predictions) -> dict[str, Metric]:
        targets, scores = predictions.targets, predictions.probabilities.T
        names = [f"average_precision/{name}" for name in predictions.classes]
        shares = np.bincount(targets, minlength=len(names)) / len(targets)
        parts = [detection.build_roc_statistic(score, targets == n, [detection.aupr]) for n, score in enumerate(scores)]
        floors = dict(zip(names, shares.tolist(), strict=True))
        joined = stats.JoinedStatistic(parts)
        return intervals.bootstrap_metrics(
            self, names, joined, predictions.units, floors=floors, bounds=intervals.PROPORTION
        )

    def _find_detectable_difference(self, predictions: Predictions, accuracy: Metric) -> Metric:
        """Return the difference that as many independent images show as those with the spread of the units' errors."""
        share, n = accuracy.value or 0.0, len(predictions)
        discordance = 2 * share * (1 - share) if self.discordance is None else self.discordance
        units = predictions.units if accuracy.population == NEW_SOURCES else predictions.units.these
        spread = paired_tests.design_effect(predictions.correct - share, units.codes)
        effective = int(n / spread + _ROUNDING)
        difference = None
        if paired_tests.find_least_p(units.count) <= paired_tests.ALPHA:
            difference = paired_tests.detectable_difference(effective, discordance)
        reason = Reason("no_detectable_difference", n=n, units=units.count, discordance=discordance)
        metric = Metric(difference, n, higher_is_better=False, reason=reason if difference is None else None)
        return intervals.state_units(metric, units)

    def _tabulate_sources(self, predictions: Predictions) -> pd.DataFrame:
        names, rows = predictions.classes, []
        keys = pd.DataFrame({"source": predictions.sources, "target": predictions.targets})
        for images in keys.groupby(["source", "target"]).indices.values():
            of_source = predictions.take(np.asarray(images))
            share = intervals.compute_proportion(self, of_source.correct, of_source.units.these)
            incorrect = of_source.predicted[~of_source.correct]
            error = names[np.bincount(incorrect).argmax()] if len(incorrect) else ""
            kind = (str(of_source.sources[0]), names[of_source.targets[0]])
            rows.append((*kind, len(of_source), share.units, share.value, share.low, share.high, error))
        columns = ["source", "target", "n", "groups", "accuracy", "low", "high", "most_common_error"]
        return pd.DataFrame(rows, columns=columns)


def _tabulate_confusion(predictions: Predictions) -> pd.DataFrame:
    names = list(predictions.classes)
    counts = classification.confusion_matrix(predictions.targets, predictions.predicted, len(names))
    table = pd.DataFrame(counts.astype(int), columns=names)
    table.insert(0, "target", names, allow_duplicates=True)
    return table


def _collect_warnings(predictions: Predictions, total: int) -> list[Reason]:
    reasons = warn_unlabelled(total - len(predictions), total)
    counts = np.bincount(predictions.targets, minlength=len(predictions.classes))
    for name, n in zip(predictions.classes, counts.tolist(), strict=True):
        if n < _FEW_IMAGES:
            reasons.append(Reason("few_images", name=name, n=n) if n else Reason("no_images", name=name))
    unknown = int((predictions.sources == "").sum())
    return reasons + ([Reason("unknown_sources", n=unknown)] if unknown else [])

"""Block blind_test: accuracy and other classification metrics with intervals, by class and by source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation.block import (
    IntervalBlock,
    check_class_order,
    labelled_rows,
    tabulate_predictions,
    warn_unlabelled,
)
from avatar_bench.i18n import _
from avatar_bench.metrics import classification, paired_tests, plots, stats
from avatar_bench.metrics.guessing import beats_guessing, guessing_level
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

_FEW_IMAGES = 30  # with fewer images of a class, its metrics are unreliable
_OVERALL_METRICS = {
    "balanced_accuracy": classification.balanced_accuracy,
    "macro_precision": classification.macro_precision,
    "macro_f1": classification.macro_f1,
    "mcc": classification.mcc,
}


@dataclass(kw_only=True)
class BlindTest(IntervalBlock):
    """Evaluation of a run on images whose true class is known.

    `discordance` is the proportion of images that exactly one of two networks classifies correctly, for the detectable
    difference (None: as if two networks of this accuracy erred independently, 2 a (1 - a)); `gallery` is the number of
    most confident errors shown.
    """

    discordance: float | None = None
    gallery: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        valid = self.discordance is None or 0 < self.discordance <= 1
        self.require("discordance", valid, "null, or above 0 and up to 1")
        self.require("gallery", self.gallery >= 0, "0 or more")

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute metrics, tables and figures on the images whose class is known.

        Raise BlockError if no image's class is known, GuardError if the class names are in the wrong order.
        """
        asked = run.predictions(dataset)
        rows = labelled_rows(asked, dataset)
        predictions = asked.take(rows)
        check_class_order(predictions, run.allow)
        result = Result("blind_test", dataset.name, len(rows), predictions.classes)
        confusion = _count_confusion(predictions)
        result.metrics = self._compute_metrics(predictions)
        result.tables = {
            "predictions": _tabulate_predictions(predictions, dataset.frame["sha256"].iloc[rows]),
            "confusion": _tabulate_confusion(predictions.classes, confusion),
            "per_source": self._tabulate_sources(predictions),
        }
        result.figures = {
            "confusion": plots.draw_confusion_matrix(confusion, predictions.classes),
            "per_source": _draw_per_source(result.tables["per_source"], len(predictions.classes)),
        }
        if self.gallery and not predictions.correct.all():
            result.figures["gallery_of_errors"] = self._draw_gallery(predictions, dataset, rows)
        result.warnings = _collect_warnings(predictions, len(asked)) + _warn_of_guessing(result.metrics, self.level)
        return result

    def _compute_metrics(self, predictions: Predictions) -> dict[str, Metric]:
        n, classes = len(predictions), len(predictions.classes)
        found = {
            "accuracy": self.share(predictions.correct, predictions.groups, floor=1 / classes),
            "accuracy_by_source": self._compute_accuracy_by_source(predictions),
            "chance": Metric(1 / classes, n, higher_is_better=None),
            "majority_share": Metric(float(np.bincount(predictions.targets).max() / n), n, higher_is_better=None),
        }
        found |= self._bootstrap_metrics(predictions)
        for index, name in enumerate(predictions.classes):
            target, predicted = predictions.targets == index, predictions.predicted == index
            absent = _("no image of this class in the set")
            found[f"recall/{name}"] = self._compute_proportion(target, predictions, absent)
            reason = _("the class is never predicted") if target.any() else absent
            found[f"precision/{name}"] = self._compute_proportion(predicted & target.any(), predictions, reason)
        found["detectable_difference"] = self._find_detectable_difference(found["accuracy"].value or 0.0, n)
        return found

    def _compute_proportion(self, images: NDArray[np.bool_], predictions: Predictions, reason: str) -> Metric:
        if not images.any():
            return Metric(None, 0, reason=reason)
        return self.share(predictions.correct[images], predictions.groups[images])

    def _compute_accuracy_by_source(self, predictions: Predictions) -> Metric:
        known = predictions.sources != ""
        sources = predictions.sources[known]
        if len(np.unique(sources)) < 2:
            return Metric(None, len(np.unique(sources)), reason=_("fewer than two sources are known"))
        return self.share(predictions.correct[known], sources, "source")

    def _bootstrap_metrics(self, predictions: Predictions) -> dict[str, Metric]:
        classes = predictions.classes
        names = [*_OVERALL_METRICS, *(f"{kind}/{name}" for kind in ("f1", "auroc") for name in classes)]
        floors = {"mcc": 0.0, **{f"auroc/{name}": 0.5 for name in classes}}
        guessing = guessing_level(predictions.targets)
        floors |= {} if guessing is None else {"balanced_accuracy": guessing}
        return self.bootstrap(names, _build_statistic(predictions), predictions.groups, floors=floors)

    def _find_detectable_difference(self, accuracy: float, n: int) -> Metric:
        discordance = 2 * accuracy * (1 - accuracy) if self.discordance is None else self.discordance
        difference = paired_tests.detectable_difference(n, discordance)
        reason = _(
            "no difference is detectable with {n} images and a discordance of {share}", n=n, share=f"{discordance:.3g}"
        )
        return Metric(difference, n, higher_is_better=False, reason=reason if difference is None else None)

    def _tabulate_sources(self, predictions: Predictions) -> pd.DataFrame:
        names, rows = predictions.classes, []
        for source, target, images in _group_by_source(predictions):
            correct = predictions.correct[images]
            share = self.share(correct, predictions.groups[images])
            incorrect = predictions.predicted[images][~correct]
            error = names[np.bincount(incorrect).argmax()] if len(incorrect) else ""
            rows.append((source, names[target], len(images), share.n, share.value, share.low, share.high, error))
        columns = ["source", "target", "n", "groups", "accuracy", "low", "high", "most_common_error"]
        return pd.DataFrame(rows, columns=columns)

    def _draw_gallery(self, predictions: Predictions, dataset: Dataset, rows: NDArray[np.intp]) -> Figure:
        incorrect = np.flatnonzero(~predictions.correct)
        worst = incorrect[np.argsort(-predictions.confidence[incorrect], kind="stable")][: self.gallery]
        names = predictions.classes
        titles = [
            _("true: {name}", name=names[predictions.targets[i]])
            + "\n"
            + _("predicted: {name}", name=names[predictions.predicted[i]])
            + f", {predictions.confidence[i]:.1%}\n"
            + (str(predictions.sources[i]) or _("source not known"))
            for i in worst
        ]
        return plots.draw_gallery([dataset.image(int(rows[i])) for i in worst], titles)


def _count_confusion(predictions: Predictions) -> NDArray[np.float64]:
    return classification.confusion_matrix(predictions.targets, predictions.predicted, len(predictions.classes))


def _group_by_source(predictions: Predictions) -> Iterator[tuple[str, int, NDArray[np.intp]]]:
    keys = pd.DataFrame({"source": predictions.sources, "target": predictions.targets})
    for images in keys.groupby(["source", "target"]).indices.values():
        yield str(predictions.sources[images[0]]), int(predictions.targets[images[0]]), np.asarray(images)


def _build_statistic(predictions: Predictions) -> stats.Statistic:
    targets, predicted, scores = predictions.targets, predictions.predicted, predictions.probabilities

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        confusion = classification.confusion_matrix(targets, predicted, len(predictions.classes), weights)
        overall = [function(confusion) for function in _OVERALL_METRICS.values()]
        aurocs = [classification.auroc(column, targets == index, weights) for index, column in enumerate(scores.T)]
        return np.column_stack([*overall, classification.f1(confusion), *aurocs])

    return statistic


def _tabulate_predictions(predictions: Predictions, digests: pd.Series) -> pd.DataFrame:
    columns = [f"prob_{name}" for name in predictions.classes]
    table = tabulate_predictions(predictions).join(pd.DataFrame(predictions.probabilities, columns=columns))
    return table.assign(sha256=digests.to_numpy())


def _tabulate_confusion(classes: tuple[str, ...], confusion: NDArray[np.float64]) -> pd.DataFrame:
    table = pd.DataFrame(confusion.astype(int), columns=list(classes))
    table.insert(0, "target", list(classes), allow_duplicates=True)
    return table


def _draw_per_source(table: pd.DataFrame, classes: int) -> Figure:
    shown = table.nlargest(plots.MAX_BARS, "n").sort_values(["target", "accuracy"])
    return plots.draw_interval_bars(
        [source or _("(not known)") for source in shown["source"]],
        shown["accuracy"],
        shown["low"],
        shown["high"],
        shown["n"],
        label=_("accuracy on the source's images (%)"),
        kinds=list(shown["target"]),
        chance=1 / classes,
    )


def _warn_of_guessing(metrics: Mapping[str, Metric], level: float) -> list[str]:
    found = metrics["balanced_accuracy"]
    if found.value is None or beats_guessing(found.value, found.low, found.n, found.floor, level) is not False:
        return []
    return [
        _(
            "The run is no better than guessing: its balanced accuracy is {value}, and guessing gives {level}.",
            value=f"{found.value:.3f}",
            level=f"{found.floor:.3f}",
        )
    ]


def _collect_warnings(predictions: Predictions, asked: int) -> list[str]:
    messages = warn_unlabelled(asked - len(predictions), asked)
    for name, n in zip(
        predictions.classes, np.bincount(predictions.targets, minlength=len(predictions.classes)), strict=True
    ):
        if n == 0:
            message = _(
                "The set has no image of class '{name}': its metrics are null and excluded from means.", name=name
            )
            messages.append(message)
        elif n < _FEW_IMAGES:
            message = _(
                "The set has only {n} images of class '{name}': see the width of the intervals.", n=n, name=name
            )
            messages.append(message)
    unknown = int((predictions.sources == "").sum())
    if unknown:
        messages.append(_("The source of {n} images is unknown; accuracy_by_source excludes them.", n=unknown))
    return messages

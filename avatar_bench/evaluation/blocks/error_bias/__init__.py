"""error_bias: where a run errs, into which class, and how sure it is of its errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.data import image_slices
from avatar_bench.errors import BlockError
from avatar_bench.evaluation import ood_sets as reading
from avatar_bench.evaluation.block import IntervalBlock, check_class_order, labelled_rows, warn_unlabelled
from avatar_bench.evaluation.blocks.error_bias import figures
from avatar_bench.evaluation.blocks.error_bias.bias_tables import (
    Slice,
    build_confusion_table,
    build_images_table,
    build_ood_table,
    compute_rest_accuracy,
    cut_slices,
)
from avatar_bench.i18n import _
from avatar_bench.metrics import error_bias as chance
from avatar_bench.metrics import stats
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

CONFIDENCE_METRICS: dict[str, bool | None] = {  # higher is better
    "mean_confidence": None,
    "std_confidence": None,
    "mean_confidence_correct": True,
    "mean_confidence_incorrect": False,
}


@dataclass(kw_only=True)
class ErrorBias(IntervalBlock):
    """Judge where a run's errors lie: accuracy by source, generator, size, format and JPEG quality.

    A slice of fewer than `minimum` images, or one that holds all of its class, is listed, but neither tested nor
    called the weakest.
    """

    minimum: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("minimum", self.minimum >= 1, "1 or more")

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Give the bias and confidence of the answers, and the accuracy of each slice, of images of known class.

        Raise BlockError where no image's class is known, GuardError where the class names are in the wrong order.
        """
        asked = run.predictions(dataset)
        rows = labelled_rows(asked, dataset)
        predictions = asked.take(rows)
        check_class_order(predictions, run.allow)
        beside, why = _read_ood_predictions(run)
        kinds = image_slices.assign_slices(dataset).iloc[rows].reset_index(drop=True)
        parts = list(cut_slices(predictions, kinds))
        table, floor = self._slices(predictions, parts)
        result = Result("error_bias", dataset.name, len(rows), predictions.classes)
        result.metrics = {
            "worst_slice": self._worst(table, floor),
            "unbias": self._unbias(beside, len(predictions.classes), why),
            **self._confidence(predictions),
        }
        result.tables = {
            "slices": table,
            "confusion_by_slice": build_confusion_table(predictions, parts),
            "images": build_images_table(predictions, kinds),
            "ood_predictions": build_ood_table(beside),
        }
        result.figures = {
            "bias_map": figures.draw_bias_map(result.tables["confusion_by_slice"], predictions.classes),
            "confidence": figures.draw_confidence(
                predictions.confidence, predictions.correct, len(predictions.classes)
            ),
        }
        if table["p"].notna().any():
            tested = table[table["p"].notna()]
            result.figures["weakest_slices"] = figures.draw_weakest_slices(tested, predictions.classes, 1 - self.level)
        result.warnings = self._warnings(result, len(asked))
        return result

    def _unbias(self, beside: Mapping[str, Predictions], classes: int, why: str) -> Metric:
        if not beside:
            return Metric(None, 0, reason=why)
        predicted = np.concatenate([predictions.predicted for predictions in beside.values()])
        groups = np.concatenate([predictions.groups for predictions in beside.values()])
        chosen = np.eye(classes)[predicted]

        def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            shares = weights @ chosen / weights.sum(axis=1, keepdims=True)
            return np.asarray(1 - shares.max(axis=1, keepdims=True))

        return self.bootstrap(["unbias"], statistic, groups, floors={"unbias": 1 - 1 / classes})["unbias"]

    def _confidence(self, predictions: Predictions) -> dict[str, Metric]:
        sure, right = predictions.confidence, predictions.correct
        parts = np.column_stack([np.ones(len(sure)), right, ~right])

        def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            mean, spread = stats.weighted_moments(weights, sure, parts)
            return np.column_stack([mean[:, :1], spread[:, :1], mean[:, 1:]])

        floors = dict.fromkeys(("mean_confidence_correct", "mean_confidence_incorrect"), float(sure.mean()))
        reason = _("the set has no such answer")
        return self.bootstrap(
            list(CONFIDENCE_METRICS), statistic, predictions.groups, CONFIDENCE_METRICS, floors, reason
        )

    def _slices(self, predictions: Predictions, parts: list[Slice]) -> tuple[pd.DataFrame, float]:
        """Give the table of slices, the weakest first, and the accuracy that the weakest would have by chance."""
        table = pd.DataFrame([self._row(predictions, each) for each in parts], columns=_COLUMNS)
        tested = np.flatnonzero((table["n"] >= self.minimum) & table["rest"].notna())
        floor = np.nan
        if len(tested):
            level = 1 - (1 - self.level) / len(tested)
            about = predictions.correct, predictions.targets, predictions.groups
            members = np.stack([parts[row].images for row in tested], axis=1)
            seen, dealt = chance.slice_accuracies(*about, members, self.resamples, self.seed)
            table.loc[tested, ["p", "p_adjusted"]] = np.column_stack(chance.max_t_p_values(seen, dealt))
            table.loc[tested, ["low_joint", "high_joint"]] = [
                stats.proportion_interval(own.correct, own.groups, self.resamples, level, self.seed)[:2]
                for own in (predictions.take(parts[row].images) for row in tested)
            ]
            floor = float(dealt.min(axis=1).mean())
        return table.sort_values("accuracy", kind="stable", ignore_index=True), floor

    def _row(self, predictions: Predictions, each: Slice) -> dict[str, object]:
        own = predictions.take(each.images)
        share = self.share(own.correct, own.groups)
        wrong = own.predicted[~own.correct]
        return {
            **dict(zip(_COLUMNS, (*each[:3], len(own), share.n, share.value, share.low, share.high), strict=False)),
            **dict.fromkeys(("low_joint", "high_joint", "p", "p_adjusted"), np.nan),
            "rest": compute_rest_accuracy(predictions, each),
            "mean_confidence": own.confidence.mean(),
            "most_common_error": own.classes[np.bincount(wrong).argmax()] if len(wrong) else "",
        }

    def _worst(self, table: pd.DataFrame, floor: float) -> Metric:
        tested = table[table["p"].notna()]
        if tested.empty:
            reason = _("no slice of {n} images has others of its class beside it", n=self.minimum)
            return Metric(None, 0, reason=reason)
        # with all intervals right at once, the lowest accuracy lies between the lowest of their ends
        value, low, high = tested[["accuracy", "low_joint", "high_joint"]].min().tolist()
        groups = tested["groups"].tolist()[0]
        return Metric(value, groups, low, high, f"Bonferroni over {len(tested)} slices by group", floor=floor)

    def _warnings(self, result: Result, asked: int) -> list[str]:
        said = warn_unlabelled(asked - result.n, asked)
        unbias, worst = result.metrics["unbias"], result.metrics["worst_slice"]
        if unbias.value is not None:
            told = _(
                "unbias is {value}: a network that guesses gets {chance}, so that a high one is no merit of itself.",
                value=f"{unbias.value:.3f}",
                chance=f"{unbias.floor:.3f}",
            )
            said.append(told)
        if worst.value is not None:
            said += self._told(worst, result.tables["slices"])
        return said

    def _told(self, worst: Metric, table: pd.DataFrame) -> list[str]:
        """Name the weakest slice where slices differ at all; where none does, it is no finding."""
        tested = table[table["p"].notna()]
        found = int((tested["p_adjusted"] < 1 - self.level).sum())
        if not found:
            return []
        weakest = _(
            "The weakest of {n} slices is {name}: {accuracy}; by chance the weakest would have {floor}.",
            n=len(tested),
            name=figures.label(tested.iloc[0]),
            accuracy=f"{worst.value:.1%}",
            floor=f"{worst.floor:.1%}",
        )
        differing = _(
            "{found} of {n} slices differ from the other images of their class by more than chance.",
            found=found,
            n=len(tested),
        )
        return [weakest, differing]


_COLUMNS = [
    *("by", "slice", "target", "n", "groups", "accuracy", "low", "high", "low_joint", "high_joint"),
    *("rest", "p", "p_adjusted", "mean_confidence", "most_common_error"),
]


def _read_ood_predictions(run: Run) -> tuple[dict[str, Predictions], str]:
    """Give the Predictions of the out-of-domain sets, or none and why."""
    try:
        found = reading.read_ood_sets(run)
    except BlockError as error:
        return {}, _("a set cannot be read: {why}", why=error.lines[0])
    return {name: predictions for name, (__, predictions) in found.items()}, _("the run has no out-of-domain set")

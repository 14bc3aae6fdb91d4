"""Block calibration: reliability of a run's confidence, on the set and under distribution shift."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.data.corruptions import SEVERITIES, Corruption, list_corruptions
from avatar_bench.errors import BlockError
from avatar_bench.evaluation.block import IntervalBlock, check_class_order, labelled_rows, warn_unlabelled
from avatar_bench.evaluation.blocks.calibration import figures
from avatar_bench.evaluation.blocks.calibration.conformal_sets import ConformalSets, draw_uniforms
from avatar_bench.evaluation.blocks.calibration.error_tables import (
    compute_errors,
    compute_temperatures,
    tabulate_floors,
    tabulate_reliability,
)
from avatar_bench.i18n import _, get_title
from avatar_bench.metrics import calibration, selective
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

Floats = NDArray[np.float64]
_COVERAGES = np.arange(1, 21) / 20
_ECE_15_INDEX = calibration.ECE_KINDS.index("ece_15")
_TOLERANCE = 0.02  # log ratio of temperatures; rounding on another machine changes it less


@dataclass(kw_only=True)
class Calibration(IntervalBlock):
    """Evaluation of a Run's confidence at its temperature, and of prediction sets with a stated coverage.

    `alpha` is the proportion of images whose set may miss the true class; `severity` (1 to 5) is that of the
    corruptions under which the same temperature and sets are evaluated again, 0: none.
    """

    alpha: float = 0.1
    severity: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("alpha", 0 < self.alpha < 1, "above 0 and below 1")
        self.require("severity", self.severity in (0, *SEVERITIES), "0 to 5")

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute calibration errors before and after scaling, selective prediction, conformal sets, and shift.

        Raise BlockError if no image's class is known, GuardError if the class names are in the wrong order or if the
        set contains images that the sets are fitted on.
        """
        asked = run.predictions(dataset)
        rows = labelled_rows(asked, dataset)
        predictions = asked.take(rows)
        check_class_order(predictions, run.allow)
        held_out = _read_held_out(run, dataset)
        sets = ConformalSets.fit(held_out, self.alpha, self.seed) if held_out else None
        shifted = {dataset.name: predictions, **dict(self._predict_shifted(run, dataset, rows))}
        result = Result("calibration", dataset.name, len(rows), predictions.classes)
        self._evaluate_confidence(result, predictions)
        result.metrics |= compute_temperatures(self, run.temperature, held_out)
        self._evaluate_ranking(result, predictions)
        self._evaluate_sets(result, predictions, sets)
        self._evaluate_shift(result, shifted, sets)
        result.arrays = _collect_arrays(shifted, held_out, self.seed)
        result.warnings[:0] = _collect_warnings(len(asked), len(rows), run.temperature, held_out)
        return result

    def _evaluate_confidence(self, result: Result, predictions: Predictions) -> None:
        """Add the errors, their floors, the reliability tables and both figures of confidence to the result."""
        floors, both = [], (replace(predictions, temperature=1.0), predictions)
        for prefix, evaluated in zip(("", "scaled/"), both, strict=True):
            floors.append(tabulate_floors(self, evaluated, prefix))
            result.metrics |= compute_errors(self, evaluated, prefix, floors[-1])
            result.tables["reliability_scaled" if prefix else "reliability"] = tabulate_reliability(self, evaluated)
        result.tables["floors"] = pd.concat(floors, ignore_index=True)
        tables = (result.tables["reliability"], result.tables["reliability_scaled"])
        drawn = 1 if predictions.temperature == 1 else 2  # without a fitted temperature there is nothing to compare
        result.figures["reliability"] = figures.draw_reliability(tables[:drawn], result.metrics, self.level)
        result.figures["confidence"] = figures.draw_confidence(both[:drawn])

    def _evaluate_ranking(self, result: Result, predictions: Predictions) -> None:
        """Add the risk-coverage curve and the area under it to the result."""
        confidence, correct = predictions.confidence, predictions.correct
        floors = {"aurc": float(1 - correct.mean())}

        def area(weights: Floats) -> Floats:
            return selective.aurc(confidence, correct, weights)[:, None]

        result.metrics |= self.bootstrap(["aurc"], area, predictions.groups, higher_is_better=False, floors=floors)
        rows = []
        for coverage, least in zip(_COVERAGES, selective.thresholds(_COVERAGES, confidence), strict=True):
            answered = confidence >= least
            share = self.share(correct[answered], predictions.groups[answered])
            rows.append((coverage, least, answered.sum(), share.value, share.low, share.high))
        columns = ["coverage", "confidence", "answered", "accuracy", "low", "high"]
        table = result.tables["risk_coverage"] = pd.DataFrame(rows, columns=columns)
        result.figures["risk_coverage"] = figures.draw_risk_coverage(predictions, table, result.metrics["aurc"])

    def _evaluate_sets(self, result: Result, predictions: Predictions, sets: ConformalSets | None) -> None:
        """Add coverage and size of the conformal sets to the result, overall and by class."""
        if sets is None:
            nothing = Metric(None, 0, higher_is_better=None, reason=_("the calibration images are not known"))
            names = [f"{name}/{method}" for name in ("coverage", "set_size") for method in ("lac", "aps")]
            result.metrics |= dict.fromkeys(names, nothing)
            return
        result.metrics |= sets.metrics(self, predictions)
        result.tables["coverage"] = sets.by_class(self, predictions)
        result.figures["coverage"] = figures.draw_coverage(result.tables["coverage"], 1 - self.alpha)
        if any(np.isinf(list(sets.thresholds.values()))):
            message = _(
                "{n} calibration images are too few for this coverage: every set contains all classes.", n=sets.n
            )
            result.warnings.append(message)

    def _evaluate_shift(self, result: Result, shifted: dict[str, Predictions], sets: ConformalSets | None) -> None:
        """Add the table and the figure of the same temperature and sets on shifted images to the result."""
        rows = [self._build_shift_row(name, predictions, sets) for name, predictions in shifted.items()]
        table = result.tables["shift"] = pd.DataFrame(rows)
        if len(table) > 1:
            result.figures["shift"] = figures.draw_shift(table, 1 - self.alpha)
        for row in rows if sets else []:
            if max(row["coverage_lac_high"], row["coverage_aps_high"]) < 1 - self.alpha:
                message = _(
                    "{name}: only {lac} (LAC) and {aps} (APS) of the sets contain the true class; nominal "
                    "coverage is {share}.",
                    name=get_title("corruption", row["set"]),
                    lac=f"{row['coverage_lac']:.1%}",
                    aps=f"{row['coverage_aps']:.1%}",
                    share=f"{1 - self.alpha:.0%}",
                )
                result.warnings.append(message)

    def _build_shift_row(self, name: str, evaluated: Predictions, sets: ConformalSets | None) -> dict[str, Any]:
        found = calibration.calibration_errors(evaluated.probabilities, evaluated.targets)
        floor = tabulate_floors(self, evaluated).iloc[_ECE_15_INDEX]
        row = {
            "set": name,
            "n": len(evaluated),
            "accuracy": float(evaluated.correct.mean()),
            "nll": calibration.nll(evaluated.logits, evaluated.targets, evaluated.temperature),
            "ece_15": float(found[_ECE_15_INDEX]),
            "ece_floor": float(floor["floor"]),
            "ece_floor_p95": float(floor["floor_p95"]),
        }
        return row | (sets.row(self, evaluated) if sets else {})

    def _predict_shifted(self, run: Run, dataset: Dataset, rows: NDArray[np.intp]) -> Iterator[tuple[str, Predictions]]:
        kinds = list_corruptions() if self.severity else []
        variations = [Corruption(kind, self.severity) for kind in kinds]
        for kind, varied in zip(kinds, run.variations(dataset, variations), strict=True):
            yield kind, varied.take(rows)
        blind = run.blind
        if blind is not None and blind.name != dataset.name:
            _read_held_out(run, blind)  # raises GuardError if these contain images that the sets are fitted on
            evaluated = run.predictions(blind)
            if (evaluated.targets >= 0).any():
                yield blind.name, evaluated.take(evaluated.targets >= 0)


def _read_held_out(run: Run, dataset: Dataset) -> Predictions | None:
    """Return the calibration images for a set; None if the run does not know them."""
    try:
        found = run.calibration(dataset)
    except BlockError:
        return None
    labelled = found.take(found.targets >= 0)
    return labelled if len(labelled) else None


def _collect_arrays(
    shifted: dict[str, Predictions], held_out: Predictions | None, seed: int
) -> dict[str, dict[str, NDArray[np.generic]]]:
    evaluated = {"predictions": next(iter(shifted.values())), **({"calibration": held_out} if held_out else {})}
    found: dict[str, dict[str, NDArray[np.generic]]] = {
        name: {
            "logits": part.logits,
            "targets": part.targets,
            "groups": part.groups,
            "uniforms": draw_uniforms(len(part), seed, name == "calibration"),
        }
        for name, part in evaluated.items()
    }
    others = list(shifted.items())[1:]
    if others:
        kinds = ("logits", "targets", "groups")
        found["shift"] = {f"{kind}_{name}": getattr(part, kind) for name, part in others for kind in kinds}
    return found


def _collect_warnings(asked: int, n: int, temperature: float, held_out: Predictions | None) -> list[str]:
    messages = warn_unlabelled(asked - n, asked)
    if temperature == 1:
        messages.append(
            _("The run's temperature is 1 because it could not be fitted: scaled and raw metrics are equal.")
        )
    elif held_out is not None:
        refit = calibration.fit_temperature(held_out.logits, held_out.targets)
        if abs(np.log(refit / temperature)) > _TOLERANCE:
            message = _(
                "A refit on the calibration images gives a temperature of {refit}, the run's is {fixed}.",
                refit=f"{refit:.3f}",
                fixed=f"{temperature:.3f}",
            )
            messages.append(message)
    if held_out is None:
        messages.append(_("The calibration images are not known, so there are no conformal sets."))
    return messages

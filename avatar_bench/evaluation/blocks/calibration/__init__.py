"""Block calibration: reliability of a run's confidence, on the set and under distribution shift."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.options import option
from avatar_bench.data.corruptions import SEVERITIES, Corruption, list_corruptions
from avatar_bench.errors import BlockError, ConfigError, GuardError
from avatar_bench.evaluation.block import read_labelled
from avatar_bench.evaluation.blocks.calibration import calibration_tables as tables
from avatar_bench.evaluation.blocks.calibration.calibration_tables import ConformalSets
from avatar_bench.evaluation.intervals import OPEN_FRACTION, PROPORTION, IntervalOptions, bootstrap_metrics
from avatar_bench.metrics import calibration, selective, stats
from avatar_bench.results.predictions import Predictions
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result
from avatar_bench.runs.decisions import score_images
from avatar_bench.runs.saved_calibration import BY_CALIBRATE

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run

_ECE_15_INDEX = calibration.ECE_KINDS.index("ece_15")
_HEADLINE = "scaled/ece_15"  # of the probabilities that a user gets; the raw ones stand beside
_TOLERANCE = 1.02  # ratio of temperatures; rounding on another machine changes it less


@dataclass(kw_only=True)
class Calibration(IntervalOptions):
    """Evaluation of a Run's confidence at its temperature, and of prediction sets with a stated coverage."""

    version: ClassVar[int] = 5
    needs: ClassVar[tuple[str, ...]] = ("predictions", "decisions")

    resamples: int = option(2000, help="of the bootstrap and the noise floor", range=(100, None))
    seed: int = option(0, help="of the bootstrap, the noise floor, and the randomisation of APS", range=(0, None))
    alpha: float = option(
        0.1, help="error rate of conformal sets: fraction that may miss the true class", **OPEN_FRACTION
    )
    severity: int = option(
        0,
        help="of corruptions under which temperature and sets are evaluated too, 1 to 5; 0: none",
        range=(0, SEVERITIES[-1]),
    )
    corruptions: list[str] | None = option(
        None, help="some of those that `avatar-bench list corruptions` names; null: all", choices=list_corruptions
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.corruptions not in (None, [], list_corruptions()) and not self.severity:
            raise ConfigError("block.calibration.corruptions needs a severity.", "Add block.calibration.severity=3")
        self.corruptions = list_corruptions() if self.corruptions is None else self.corruptions

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute calibration errors before and after scaling, ranking by confidence, conformal sets, and shift."""
        rows, predictions, unlabelled = read_labelled(run, dataset)
        held_out = _read_held_out(run, dataset)
        fit = _read_fit(run, dataset) or held_out
        sets = ConformalSets.fit(fit, self.alpha, self.seed) if fit else None
        shifted = {dataset.name: predictions, **dict(self._predict_shifted(run, dataset, rows))}
        result = Result("calibration", dataset.name, len(rows), predictions.classes)
        floors = []
        for prefix, evaluated in {"scaled/": predictions, "": predictions.uncalibrated}.items():
            floors.append(tables.tabulate_floors(self, evaluated, prefix))
            result.metrics |= tables.compute_errors(self, evaluated, prefix, floors[-1])
            name = "reliability_scaled" if prefix else "reliability"
            result.tables[name] = tables.tabulate_reliability(self, evaluated)
        result.tables["floors"] = pd.concat(floors, ignore_index=True)
        result.metrics = {_HEADLINE: result.metrics[_HEADLINE]} | result.metrics
        if result.metrics[_HEADLINE].reason == Reason("calibrated"):
            seen, p95 = (result.metrics[name].value for name in (_HEADLINE, "scaled/ece_floor_p95"))
            result.notes.append(Reason("calibrated_up_to", value=seen, p95=p95))
        result.metrics |= tables.compute_temperatures(self, run.temperature, held_out)
        area = stats.JoinedStatistic([selective.build_aurc_statistic(predictions.confidence, predictions.correct)])
        error = {"aurc": float(1 - predictions.correct.mean())}
        result.metrics |= bootstrap_metrics(self, ["aurc"], area, predictions.units, False, error, bounds=PROPORTION)
        self._evaluate_sets(result, predictions, sets)
        self._evaluate_shift(result, shifted, sets)
        result.arrays = _collect_arrays(shifted, held_out, fit, self.seed)
        result.provenance = {"level": self.level, "nominal_coverage": 1 - self.alpha}
        result.warnings[:0] = unlabelled + _warn_of_temperature(run, held_out)
        if self.severity and self.corruptions and "pixels" not in run.provides:
            result.warnings.append(Reason("no_corruptions", run=run.short_name))
        return result

    def _evaluate_sets(self, result: Result, predictions: Predictions, sets: ConformalSets | None) -> None:
        """Add coverage and size of the conformal sets to the result, overall and by class."""
        if sets is None:
            nothing = Metric(None, 0, higher_is_better=None, reason=Reason("calibration_unknown"))
            names = [f"{name}/{method}" for name in ("coverage", "set_size") for method in ("lac", "aps")]
            result.metrics |= dict.fromkeys(names, nothing)
            result.warnings.append(Reason("no_conformal_sets"))
            return
        result.metrics |= sets.metrics(self, predictions)
        result.tables["coverage"] = sets.by_class(self, predictions)
        if any(np.isinf(list(sets.thresholds.values()))):
            result.warnings.append(Reason("few_calibration_images", n=sets.n))

    def _evaluate_shift(self, result: Result, shifted: dict[str, Predictions], sets: ConformalSets | None) -> None:
        """Add the table of the same temperature and sets on shifted images to the result."""
        rows = [self._build_shift_row(name, predictions, sets) for name, predictions in shifted.items()]
        result.tables["shift"] = pd.DataFrame(rows)
        for row in rows if sets else []:
            if tables.has_lost_coverage(row, self.level):
                name, lac, aps = row["set"], row["coverage_lac"], row["coverage_aps"]
                of = Reason(name) if name in (self.corruptions or []) else name  # a Reason is shown by its title
                result.warnings.append(Reason("lost_coverage", name=of, lac=lac, aps=aps, share=1 - self.alpha))

    def _build_shift_row(self, name: str, evaluated: Predictions, sets: ConformalSets | None) -> dict[str, Any]:
        weights = evaluated.units.usable.weights
        errors = calibration.calibration_errors(evaluated.probabilities, evaluated.targets, weights)
        losses = calibration.image_losses(evaluated.logits, evaluated.targets, evaluated.temperature)
        floor = tables.tabulate_floors(self, evaluated).iloc[_ECE_15_INDEX]
        row = {
            "set": name,
            "n": len(evaluated),
            "accuracy": float(np.average(evaluated.correct, weights=weights)),
            "nll": float(np.average(losses, weights=weights)),
            "ece_15": float(errors[_ECE_15_INDEX]),
            "ece_floor": float(floor["floor"]),
            "ece_floor_p95": float(floor["floor_p95"]),
        }
        return row | (sets.row(self, evaluated) if sets else {})

    def _predict_shifted(self, run: Run, dataset: Dataset, rows: NDArray[np.intp]) -> Iterator[tuple[str, Predictions]]:
        kinds = self.corruptions if self.severity and self.corruptions and "pixels" in run.provides else []
        variations = [Corruption(kind, self.severity) for kind in kinds]
        for kind, varied in zip(kinds, run.variations(dataset, variations) if kinds else (), strict=True):
            yield kind, varied.take(rows)
        blind = run.blind
        if blind is not None and blind.name != dataset.name:
            _read_held_out(run, blind)  # raises GuardError if these contain images that the sets are fitted on
            _read_fit(run, blind)  # so does this
            evaluated = run.predictions(blind)
            if (evaluated.targets >= 0).any():
                yield blind.name, evaluated.take(evaluated.targets >= 0)


def _read_held_out(run: Run, dataset: Dataset) -> Predictions | None:
    """Return the calibration images for a set; None if the run does not know them."""
    try:
        predictions = run.calibration(dataset)
    except BlockError:
        return None
    labelled = predictions.take(predictions.targets >= 0)
    return labelled if len(labelled) else None


def _read_fit(run: Run, dataset: Dataset) -> Predictions | None:
    """Return the images that decisions' sets are fitted on after `calibrate`; None without them or in another view."""
    saved = run.decision_calibration
    if saved is None or saved.by != BY_CALIBRATE or saved.decisions is None:
        return None
    try:
        scored = score_images(run, saved)
    except (ConfigError, GuardError):
        return None
    run.leakage.refuse_overlap_with_fit(dataset, saved.images)
    fit, none = scored.is_fit, np.zeros(int(scored.is_fit.sum()), dtype=str)
    logits = run.temperature * np.log(np.maximum(scored.probabilities[fit], np.finfo(np.float64).tiny))
    of_fit = scored.targets[fit], none, scored.groups[fit], none
    return Predictions(scored.classes, logits, logits[:, :0], *of_fit, temperature=run.temperature)


def _collect_arrays(
    shifted: dict[str, Predictions], held_out: Predictions | None, fit: Predictions | None, seed: int
) -> dict[str, dict[str, NDArray[np.generic]]]:
    """Return the arrays of each set; those of `fit` where the sets are fitted on other images than the temperature."""
    evaluated = {"predictions": next(iter(shifted.values())), **({"calibration": held_out} if held_out else {})}
    evaluated |= {"conformal": fit} if fit and fit is not held_out else {}
    arrays: dict[str, dict[str, NDArray[np.generic]]] = {
        name: {
            "logits": part.logits,
            "targets": part.targets,
            "groups": part.groups,
            "uniforms": tables.draw_uniforms(len(part), seed, name != "predictions"),
        }
        for name, part in evaluated.items()
    }
    others = list(shifted.items())[1:]
    if others:
        kinds = ("logits", "targets", "groups")
        arrays["shift"] = {f"{kind}_{name}": getattr(part, kind) for name, part in others for kind in kinds}
    return arrays


def _warn_of_temperature(run: Run, held_out: Predictions | None) -> list[Reason]:
    temperature, fit = run.temperature, run.temperature_fit
    if fit is not None and not fit.is_applied:
        return [Reason("temperature_near_1", fitted=fit.fitted, low=fit.low, high=fit.high, n=fit.n)]
    if temperature == 1:
        return [Reason("no_temperature")]
    if held_out is not None:
        refit = calibration.fit_temperature(held_out.logits, held_out.targets)
        low, high = (fit.low, fit.high) if fit else (temperature, temperature)  # fitted on other images by calibrate
        if not low / _TOLERANCE <= refit <= high * _TOLERANCE:
            return [Reason("other_temperature", refit=refit, fixed=temperature)]
    return []

"""Tables of the block ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation import recipe_pairs
from avatar_bench.evaluation.block import tabulate_predictions
from avatar_bench.evaluation.blocks.ensemble.weight_fitting import HeldOutPredictions
from avatar_bench.metrics import calibration, paired_tests
from avatar_bench.metrics.averaging import AveragingWeights
from avatar_bench.results.predictions import Predictions
from avatar_bench.results.result import Metric

_ENDS = {"": "value", "_low": "low", "_high": "high"}


def build_tables(
    metrics: Mapping[str, Metric],
    entries: Mapping[str, Predictions],
    mixes: Mapping[str, AveragingWeights],
    fits: Mapping[str, calibration.TemperatureFit],
    labels: Sequence[str],
    held: HeldOutPredictions,
    single: int,
    alpha: float,
) -> dict[str, pd.DataFrame]:
    """Build the tables by name; `entries` are the predictions of the single run, first, and of each strategy.

    `mixes` are the weights of each strategy, `fits` the fits of its common temperature. `alpha` is the significance
    level of the gains, after Holm's correction for all strategies.
    """
    weights = [
        (name, label, weight, temperature)
        for name, mix in mixes.items()
        for label, weight, temperature in zip(labels, mix.weights, mix.temperatures, strict=True)
    ]
    predictions = {name: tabulate_predictions(one, with_probabilities=True) for name, one in entries.items()}
    for name, table in predictions.items():
        table.insert(1, "strategy", name)
    return {
        "strategies": _tabulate_strategies(metrics, entries, mixes, fits, alpha),
        "weights": pd.DataFrame(weights, columns=["strategy", "run", "weight", "temperature"]),
        "members": _tabulate_members(metrics, labels, held, mixes["scaled_vote"].temperatures, single),
        "predictions": pd.concat(predictions.values(), ignore_index=True),
    }


def compute_ece(predictions: Predictions) -> float:
    """Compute the calibration error in 15 bins at the temperature of the predictions."""
    return float(calibration.ece(predictions.confidence, predictions.correct))


def _tabulate_strategies(
    metrics: Mapping[str, Metric],
    entries: Mapping[str, Predictions],
    mixes: Mapping[str, AveragingWeights],
    fits: Mapping[str, calibration.TemperatureFit],
    alpha: float,
) -> pd.DataFrame:
    first, *others = entries.values()
    rows, single = [], first.correct
    for name, one in entries.items():
        size = int((mixes[name].weights > 0).sum()) if name in mixes else 1
        row: dict[str, object] = {"strategy": name, "members": size, "n": len(one)}
        for kind in ("accuracy", "macro_f1", "gain", "gain_macro_f1", "nll"):
            metric = metrics.get(f"{kind}/{name}")
            row |= {f"{kind}{end}": getattr(metric, part, None) for end, part in _ENDS.items()}
        only = {"only_strategy_correct": one.correct & ~single, "only_single_correct": single & ~one.correct}
        row |= {key: int(images.sum()) for key, images in only.items()}
        row |= {"ece": compute_ece(one), "temperature": one.temperature}
        rows.append(
            row | {f"temperature_{end}": getattr(fits.get(name), end, None) for end in ("fitted", "low", "high")}
        )
    table = pd.DataFrame(rows)
    units = first.units.usable
    gains = [one.correct.astype(int) - single for one in others]
    found = pd.DataFrame([recipe_pairs.test_gains(gain, units) for gain in gains])
    tests = np.column_stack([found["p"], paired_tests.holm(found["p"]), found["p_these_sources"]])
    table[["p", "p_holm", "p_these_sources"]] = np.vstack([np.full(3, np.nan), tests])
    beyond = (table["gain_low"].astype(float) > 0) | (table["gain_high"].astype(float) < 0)
    for column, value in units.inference.items():
        table[column] = value
    return table.assign(significant=(table["p_holm"] < alpha) & beyond)


def _tabulate_members(
    metrics: Mapping[str, Metric],
    labels: Sequence[str],
    held: HeldOutPredictions,
    temperatures: NDArray[np.float64],
    single: int,
) -> pd.DataFrame:
    rows = []
    for place, (label, member) in enumerate(zip(labels, held.predictions, strict=True)):
        raw = member.uncalibrated
        errors = [compute_ece(replace(raw, temperature=temperature)) for temperature in (temperatures[place], 1.0)]
        fitted = (len(raw), float(raw.correct.mean()), *errors, calibration.nll(raw.logits, raw.targets))
        found = metrics[f"contribution/{label}"]
        rows.append((label, place == single, *fitted, *(getattr(found, part) for part in _ENDS.values())))
    columns = ["run", "chosen", *(f"calibration_{name}" for name in ("n", "accuracy", "ece", "raw_ece", "raw_nll"))]
    return pd.DataFrame(rows, columns=[*columns, *(f"contribution{end}" for end in _ENDS)])

"""Measurement of a population: the shares of classes, those of groups, and how carefully to read them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

import avatar_bench
from avatar_bench.errors import ConfigError
from avatar_bench.plugins.measure import estimators, shares
from avatar_bench.plugins.measure.population import Population, PredictionReader
from avatar_bench.plugins.measure.review import Labels
from avatar_bench.plugins.measure.shares import CalibrationImages, Review
from avatar_bench.results.reasons import Reason

SCHEMA = 1  # of the JSON file
MEASUREMENT = "measure.json"  # beside the page, after its name, as are the tables
TABLE_FILES = ("shares.csv", "groups.csv", "strata.csv")


@dataclass
class Measurement:
    """Numbers without a language: `shares` by class and estimator, `groups` by column, `strata` of the target."""

    target: str
    classes: tuple[str, ...]
    n: int
    errors: int
    reviewed: int
    shares: pd.DataFrame
    strata: pd.DataFrame
    groups: pd.DataFrame
    columns: list[dict[str, Any]]
    provenance: dict[str, Any]
    cautions: list[Reason] = field(default_factory=list)

    def format_json(self) -> str:
        """Return all of it as strict JSON."""
        tables = {name: getattr(self, name) for name in ("shares", "strata", "groups")}
        rows = {
            name: json.loads(table.to_json(orient="records", double_precision=15)) for name, table in tables.items()
        }
        stated = vars(self) | rows | {"cautions": [caution.plain for caution in self.cautions]}
        return json.dumps({"schema": SCHEMA, **stated}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def make_measurement(
    reader: PredictionReader,
    population: Population,
    target: str,
    calibration: CalibrationImages | None,
    labels: Labels | None,
) -> Measurement:
    """Return the measurement of a population; raise DataError for labels of other images."""
    review = labels.join(population, target) if labels is not None else None
    measured = [shares.measure_groups(population, name, target, calibration, review) for name in reader.by]
    measurement = Measurement(
        target,
        population.classes,
        population.n,
        population.errors,
        len(review.rows) if review else 0,
        shares.measure_classes(population, calibration, review),
        _tabulate_strata(population, review, target) if review else pd.DataFrame(),
        pd.concat([groups for groups, _about in measured], ignore_index=True) if measured else pd.DataFrame(),
        [about for _groups, about in measured],
        {"predictions": reader.name, "labels": labels and labels.file, "version": avatar_bench.__version__},
    )
    measurement.cautions += _list_cautions(population, calibration, labels, measurement)
    return measurement


def _tabulate_strata(population: Population, review: Review, target: str) -> pd.DataFrame:
    design, rows = review.design, review.rows
    stratum = design.find_stratum(population.cells["bin"].to_numpy())
    size = np.bincount(stratum, population.cells["n"], len(design.rates))
    n, hits = (
        np.bincount(rows["stratum"], weights, len(size)) for weights in (np.ones(len(rows)), rows["label"] == target)
    )
    share, low, high = estimators.stratified_exact(size, n, hits)
    edges = design.edges
    columns = {"score_low": edges[:-1], "score_high": edges[1:], "n": size, "reviewed": n, "positives": hits}
    return pd.DataFrame(columns | {"value": share, "low": low, "high": high}).astype(
        dict.fromkeys(("n", "reviewed", "positives"), int)
    )


def _list_cautions(
    population: Population, calibration: CalibrationImages | None, labels: Labels | None, measurement: Measurement
) -> Iterator[Reason]:
    counts = {"errors": population.errors}
    if labels is not None:
        counts |= {"selected": labels.selected, "unlabelled": labels.unlabelled}
    yield from (Reason(code, n=n) for code, n in counts.items() if n)
    for name, n in zip(population.classes, population.predicted, strict=True):
        if not n:
            yield Reason("not_predicted", class_=name)
    if calibration is None and labels is None:
        yield Reason("no_calibration")
    elif calibration is not None and shares.ADJUSTED not in set(measurement.shares["estimator"]):
        yield Reason("class_without_calibration")
    if measurement.shares["is_clipped"].any():
        yield Reason("clipped")
    for about in measurement.columns:
        table = population.groups[about["by"]]
        counts = {
            "left_out": len(about["left_out"]),
            "not_in_manifest": int(table.loc[table["value"] == "", "n"].sum()),
            "groups_counted": table["value"].nunique() if about["estimator"] == shares.COUNTING else 0,
        }
        yield from (Reason(code, by=about["by"], n=n) for code, n in counts.items() if n)


def read_calibration_images(ckpt: str, reader: PredictionReader) -> CalibrationImages:
    """Return what the calibration images of a run say of its errors; raise ConfigError for a run of other classes."""
    from avatar_bench.evaluation.blocks.prior_shift import PriorShift
    from avatar_bench.runs.ensembles import open_run
    from avatar_bench.runs.record import locate_run

    run = open_run(locate_run(os.fspath(ckpt)))
    if set(run.classes) != set(reader.classes):
        raise ConfigError(
            f"ckpt={ckpt} has the classes {', '.join(run.classes)}, the predictions {', '.join(reader.classes)}.",
            "Give the run that has made them.",
        )
    saved = run.decision_calibration
    if saved is not None and saved.decisions is not None:
        targets = saved.images.frame["label"].to_numpy()
        predicted = np.array(saved.decisions.classes)[saved.decisions.probabilities.argmax(axis=1)]
    else:
        predictions = run.predictions(run.dataset("calibration"))
        names = np.array(run.classes)
        targets, predicted = names[predictions.targets], names[predictions.predicted]
    order = [run.classes.index(name) for name in reader.classes]
    confusion = [
        [int(((targets == true) & (predicted == name)).sum()) for name in reader.classes] for true in reader.classes
    ]
    return CalibrationImages(np.array(confusion), PriorShift().read_training_shares(run)[0][order])

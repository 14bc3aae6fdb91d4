"""over_time: what a run gets right and wrong by the period that images are from, against the end of its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.options import option
from avatar_bench.data.dataset import DATE_COLUMNS
from avatar_bench.data.dates import (
    AFTER,
    BEFORE,
    DATE_FORM,
    PERIODS,
    find_days,
    is_date,
    locate_end,
    locate_period,
    map_texts,
    name_period,
    place_by_date,
)
from avatar_bench.errors import BlockError
from avatar_bench.evaluation import intervals
from avatar_bench.evaluation.block import make_columns, read_labelled, tabulate_predictions
from avatar_bench.evaluation.starting_weights import PUBLISHED, find_newest_images, read_starting_weights
from avatar_bench.metrics.selective import upper_bound
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

UNTIL_CUT, AFTER_CUT = "until_cut", "after_cut"
_MEASURES = {"accuracy": True, "recall": True, "false_alarms": False}  # higher is better


@dataclass(kw_only=True)
class OverTime(intervals.IntervalOptions):
    """Accuracy, recall and false alarms of a run by the period that its images are from."""

    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("predictions", "decisions")
    needs_any_column: ClassVar[tuple[str, ...]] = tuple(DATE_COLUMNS)

    period: str = option("year", help="length of a period", choices=tuple(PERIODS))
    target: str = option("generated", help="class whose recall is drawn and whose false alarms are counted")
    older_than: str = option(
        "2021", help="false alarms are also counted among images made before this", check=is_date, expected=DATE_FORM
    )
    cut: str | None = option(
        None,
        help="date of the last training images; null: as the run states",
        check=lambda value: value is None or is_date(value),
        expected=f"null, or {DATE_FORM}",
    )

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute the metrics of each period; where an image has no date, that of its generator stands in for it."""
        rows, predictions, warnings = read_labelled(run, dataset)
        dates, released = (dataset.frame[name].iloc[rows].reset_index(drop=True) for name in DATE_COLUMNS)
        stated = dates.where(dates != "", released)
        periods = map_texts(stated, lambda text: name_period(text, self.period))
        if not (periods != "").any():
            what = f"no image has a date that says its {self.period}" if (stated != "").any() else "no image has a date"
            raise BlockError(
                f"{dataset.name}: {what}, so nothing can be computed over time.",
                f"Expected the column date ({DATE_FORM}) in its manifest, or released, the date of its generator.",
            )
        cut = self.cut or find_training_cut(run)
        parts = {str(name): (periods == name).to_numpy() for name in sorted(set(periods) - {""})}
        sides: dict[str, NDArray[np.bool_]] = {}
        if cut:
            places = place_by_date(dates, released, cut).to_numpy()
            sides = {AFTER_CUT: places == AFTER, UNTIL_CUT: places == BEFORE}
        parts |= {name: side for name, side in sides.items() if side.any()}
        metrics = self._compute_metrics(predictions, parts)
        first = sorted(metrics, key=lambda name: name.split("/")[1] not in sides)
        result = Result("over_time", dataset.name, len(rows), predictions.classes)
        old = f"false_alarms/before_{self.older_than}"
        result.metrics = {name: metrics[name] for name in first} | {old: self._count_old_alarms(predictions, dates)}
        images = pd.DataFrame({"date": dates, "released": released, "period": periods})
        result.tables = {
            "periods": self._tabulate_periods(parts, metrics, predictions, dates, cut),
            "known": _tabulate_known(images, predictions),
            "images": tabulate_predictions(predictions).join(images),
        }
        result.provenance |= {"training_cut": cut or None, "target": self.target}
        result.warnings = warnings + _describe_dates(images) + _describe_weights(run, stated)
        result.warnings += [] if cut else [Reason("cut_unknown")]
        return result

    def _compute_metrics(self, predictions: Predictions, parts: Mapping[str, NDArray[np.bool_]]) -> dict[str, Metric]:
        """Compute accuracy/<part>, recall/<part>/<class> and false_alarms/<part> of parts of the images, (N,) each."""
        correct, targets = predictions.correct, predictions.targets
        columns = {("accuracy", ""): (correct, np.ones(len(targets), dtype=bool))}
        columns |= {("recall", f"/{name}"): (correct, targets == k) for k, name in enumerate(predictions.classes)}
        if self.target in predictions.classes:
            index = predictions.classes.index(self.target)
            columns["false_alarms", ""] = predictions.predicted == index, targets != index
        metrics: dict[str, Metric] = {}
        for (measure, suffix), (hits, among) in columns.items():
            inside = {name: part & among for name, part in parts.items() if (part & among).any()}
            # of the sources of the part alone: one says nothing about new ones, however many other parts have
            metrics |= {
                f"{measure}/{name}{suffix}": self._compute_proportion(hits, images, predictions, _MEASURES[measure])
                for name, images in inside.items()
            }
        return metrics

    def _compute_proportion(
        self, hits: NDArray[np.bool_], images: NDArray[np.bool_], predictions: Predictions, better: bool
    ) -> Metric:
        return intervals.compute_proportion(self, hits[images], predictions.units.take(images), better)

    def _count_old_alarms(self, predictions: Predictions, dates: pd.Series) -> Metric:
        """Compute the proportion that is taken for the target among images of other classes made before a date.

        For these sources it has the exact interval of Clopper and Pearson where images are independent.
        """
        if self.target not in predictions.classes:
            return Metric(None, 0, higher_is_better=False, reason=Reason("no_class", name=self.target))
        index, limit = predictions.classes.index(self.target), find_days(self.older_than)
        assert limit is not None
        is_older = np.array([_is_before(text, limit.first) for text in dates]) & (predictions.targets != index)
        if not is_older.any():
            return Metric(None, 0, higher_is_better=False, reason=Reason("none_older", date=self.older_than))
        metric = self._compute_proportion(predictions.predicted == index, is_older, predictions, False)
        if metric.interval not in ("wilson", "wilson by group") or metric.units is None:
            return metric
        n = metric.units
        alarms = round(n * float(metric.value or 0))
        tail = (1 - self.level) / 2
        low = 1 - upper_bound(n - alarms, n, 1 - tail) if alarms else 0.0
        by = metric.interval.replace("wilson", "exact")
        return replace(metric, low=low, high=upper_bound(alarms, n, 1 - tail), interval=by)

    def _tabulate_periods(
        self,
        parts: Mapping[str, NDArray[np.bool_]],
        metrics: Mapping[str, Metric],
        predictions: Predictions,
        dates: pd.Series,
        cut: str,
    ) -> pd.DataFrame:
        """Return a row for each part, with its position from 0 if it is a period, and its relation to the cut."""
        rows = []
        for position, (name, inside) in enumerate(parts.items()):
            is_period = name not in (UNTIL_CUT, AFTER_CUT)
            row: dict[str, Any] = {"period": name, "position": float(position) if is_period else np.nan}
            row["side"] = _find_side(name, cut) if is_period and cut else ""
            row |= {"n": int(inside.sum()), "sources": len(set(predictions.sources[inside]) - {""})}
            row["by_release"] = int((inside & (dates == "")).sum())
            for measure in _MEASURES:
                suffix = f"/{self.target}" if measure == "recall" else ""
                metric = metrics.get(f"{measure}/{name}{suffix}", Metric(None, 0, reason=Reason("no_images")))
                row |= make_columns(measure, metric, f"{measure}_")
            rows.append(row)
        return pd.DataFrame(rows)


def find_training_cut(run: Run) -> str:
    """Return the date of the last images that a run or the members of an ensemble learned from, "" if it is unknown.

    It is that of its split by date, or else the last one of its images, if all of them have a date.
    """
    if members := getattr(run, "members", ()):
        cuts = [find_training_cut(member) for member in members]
        return max(cuts, key=locate_end) if all(cuts) else ""
    if run.card.trained_until or run.images is None:
        return run.card.trained_until
    dates = run.images.frame["date"][run.images.frame["split"] != "test"]
    return max(dates, key=locate_end) if len(dates) and (dates != "").all() else ""


def locate_cut(periods: pd.DataFrame, cut: str) -> float:
    """Return the position of a cut among those of periods, of which it may divide one."""
    for position, name in zip(periods["position"], periods["period"], strict=True):
        (begin, end), here = locate_period(str(name)), locate_end(cut)
        if here < end:
            return float(position - 0.5 + max(0.0, here - begin) / (end - begin))
    return float(periods["position"].max() + 0.5)


def _find_side(period: str, cut: str) -> str:
    begin, end = locate_period(period)
    return BEFORE if end <= locate_end(cut) + 1e-9 else AFTER if begin >= locate_end(cut) - 1e-9 else "both"


def _is_before(text: str, day: date) -> bool:
    days = find_days(text)
    return days is not None and days.last < day


def _tabulate_known(images: pd.DataFrame, predictions: Predictions) -> pd.DataFrame:
    """Count images and their sources by what is known of their time."""
    is_placed, has_date = images["period"] != "", images["date"] != ""
    is_blank = ~has_date & (images["released"] == "")
    kinds = {"date": has_date & is_placed, "released": ~has_date & is_placed}
    kinds |= {"too_coarse": ~is_placed & ~is_blank, "undated": is_blank}
    counted = {name: predictions.sources[kind.to_numpy()] for name, kind in kinds.items()}
    rows = [(name, len(sources), len(set(sources) - {""})) for name, sources in counted.items()]
    return pd.DataFrame(rows, columns=["known", "n", "sources"])


def _describe_dates(images: pd.DataFrame) -> list[Reason]:
    """Return what qualifies the dates: images without any, with too coarse ones, and those dated by their generator."""
    is_blank = (images["date"] == "") & (images["released"] == "")
    counts = {
        "undated": is_blank,
        "too_coarse": ~is_blank & (images["period"] == ""),
        "by_release": (images["date"] == "") & (images["period"] != ""),
    }
    return [Reason(code, n=rows.sum(), all=len(images)) for code, rows in counts.items() if rows.any()]


def _describe_weights(run: Run, stated: pd.Series) -> list[Reason]:
    """Return a warning for published weights whose pretraining may have seen some of the images."""
    warnings: dict[Reason, None] = {}
    for member in getattr(run, "members", ()) or [run]:
        weights = read_starting_weights(member)
        newest, tag = find_newest_images(weights.trained), weights.detail.partition(" ")[0]
        if member.record.kind:
            warnings[Reason("pretraining_unknown")] = None
        elif weights.kind == PUBLISHED and newest is None:
            warnings[Reason("weights_of_unknown_age", weights=tag)] = None
        elif weights.kind == PUBLISHED and newest is not None:
            older = sum(_is_before(text[:4], date(newest + 1, 1, 1)) for text in stated)
            if older:
                about = {"weights": tag, "year": str(newest), "all": int((stated != "").sum())}
                warnings[Reason("may_have_been_seen", n=older, **about)] = None
    return list(warnings)

"""Formatting of numbers and metrics, as text and as table cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from avatar_bench.i18n import _, ngettext
from avatar_bench.metrics.calibration import TemperatureFit
from avatar_bench.metrics.rounding import count_digits, format_number, format_value
from avatar_bench.metrics.units import SOURCE, THESE_SOURCES
from avatar_bench.results.headings import find_word
from avatar_bench.results.reasons import format_reason
from avatar_bench.results.result import Metric

Cell = dict[str, Any]


def format_temperature(value: float, fit: TemperatureFit | None) -> str:
    """Format the temperature of a run, and the fitted one with its interval where it is not applied."""
    if fit is None or fit.is_applied:
        return format_number(value)
    fitted = format_value(fit.fitted, fit.low, fit.high)
    return _("{value} (not applied: {fitted})", value=format_number(value), fitted=fitted)


def format_metric(metric: Metric, block: str) -> str:
    """Format a metric of a block with its interval, or the reason why it has no value."""
    if metric.value is None:
        return _("none: {why}", why=format_reason(metric.reason, block) if metric.reason else "")
    return format_value(metric.value, metric.low, metric.high)


def format_metric_with_units(metric: Metric, block: str) -> str:
    """Format a metric with its interval, and say for which population it speaks and what is resampled."""
    return " ".join(filter(None, [format_metric(metric, block), format_units(metric)]))


def format_units(metric: Metric) -> str:
    """Return the population, units and, beside new sources, the interval for these, in parentheses.

    "" without an interval, and where nobody expects another population than these sources.
    """
    stated, beside = metric.inference, metric.these_sources
    is_expected = metric.population == THESE_SOURCES and metric.reason is None
    if metric.low is None or metric.value is None or metric.population is None or is_expected:
        return ""
    counted = ngettext("{n} source", "{n} sources", n=stated["units"]) if stated["unit"] == SOURCE else ""
    stands = ", ".join(filter(None, [_("for {population}", population=find_word(metric.population)), counted]))
    if beside is not None:
        digits = count_digits(metric.value, metric.low, metric.high)
        low, high = (format_number(float(beside[end]), digits) for end in ("low", "high"))
        stands += "; " + _("for these sources [{low}, {high}]", low=low, high=high)
    return f"({stands})"


def make_interval_cell(value: float, low: float | None = None, high: float | None = None) -> Cell:
    """Return a value as a cell with the ends of its interval, if any; integers without decimals."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return {"value": value, "text": format_number(value)}
    places = count_digits(value, low, high)
    text = format_number(value, places)
    return {"value": value, "text": text, "low": float(low), "high": float(high), "digits": places}


def make_metric_cell(metric: Metric | None, block: str) -> Cell | None:
    """Return a metric of a block as a cell that sorts by its value, with its interval; None without a metric."""
    if metric is None:
        return None
    if metric.value is None:
        return {"value": None, "text": None, "reason": format_reason(metric.reason, block) if metric.reason else ""}
    floor = {} if metric.floor is None else {"floor": metric.floor}
    return make_interval_cell(metric.value, metric.low, metric.high) | floor


def make_value_cell(value: Any, whole: bool = True) -> Any:
    """Return a value of a saved table as a cell: a rounded number, None for a missing value.

    An integer has no decimals only in a column of integers (`whole`), so that 1.000 aligns with 0.687.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return {"text": _("yes") if value else _("no"), "value": int(value)}
    if isinstance(value, float):
        return {"text": f"{value:.0f}" if whole and value.is_integer() else format_number(value), "value": value}
    return value if isinstance(value, int) else str(value)


def format_cell(cell: Any) -> str:
    """Format a cell as plain text, for Markdown and CSV."""
    if cell is None:
        return "–"
    if not isinstance(cell, dict):
        return str(cell)
    if cell.get("reason") and cell.get("value") is None:
        return _("none: {why}", why=cell["reason"])
    if "first" in cell:
        ranks = {cell["first"], cell["last"]}
        return " ".join(["–".join(map(str, sorted(ranks))), *([cell["letters"]] if cell.get("letters") else [])])
    text = str(cell.get("text") if cell.get("text") is not None else cell.get("value", ""))
    if cell.get("soft"):
        return f"{text} ({cell['soft']})"
    if "low" not in cell:
        return text
    low, high = (format_number(cell[end], cell.get("digits")) for end in ("low", "high"))
    return f"{text} [{low}, {high}]"


def format_names(names: Sequence[str]) -> str:
    """Format names as a list in a sentence."""
    if len(names) < 2:
        return "".join(names)
    return _("{most} and {last}", most=", ".join(names[:-1]), last=names[-1])

"""Numbers: how figures are written, as text and as cells of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from avatar_bench.messages import say
from avatar_bench.results import Metric

Cell = dict[str, Any]


def digits(value: float) -> int:
    """Give how many digits behind the point say something of a number of this size."""
    size = abs(value)
    return 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0


def number(value: float) -> str:
    """Write a number with as many digits as say something: 0.687, 4.23, 53.4, 1103."""
    text = f"{value:.{digits(value)}f}" if not 0 < abs(value) < 0.0005 else f"{value:.0e}"
    return text.replace("-", "−")  # a minus, not a hyphen


def written(metric: Metric) -> str:
    """Write a figure with its interval, or why there is none."""
    if metric.value is None:
        return say("none: {why}", why=metric.reason)
    return figure(metric.value, metric.low, metric.high)


def figure(value: float, low: float | None = None, high: float | None = None) -> str:
    """Write a value and the ends of its interval, where it has one."""
    known = low is not None and high is not None and not (math.isnan(low) or math.isnan(high))
    return number(value) + (
        f" [{number(low)}, {number(high)}]" if known and low is not None and high is not None else ""
    )


def metric_cell(metric: Metric | None) -> Cell | None:
    """Give a figure as a cell: sorted by its value, with its interval; None where the block never gave it."""
    if metric is None:
        return None
    cell: Cell = {"value": metric.value, "text": None if metric.value is None else number(metric.value)}
    if metric.value is None:
        return cell | {"reason": metric.reason}
    if metric.low is not None and metric.high is not None:
        cell |= {"low": float(metric.low), "high": float(metric.high), "digits": digits(metric.value)}
    return cell | ({} if metric.floor is None else {"floor": metric.floor})


def value_cell(value: Any) -> Any:
    """Give a value of a saved table as a cell: a number written short, nothing for what is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return {"text": say("yes") if value else say("no"), "value": int(value)}
    if isinstance(value, float):
        return {"text": number(value) if not value.is_integer() else f"{value:.0f}", "value": value}
    return value if isinstance(value, int) else str(value)


def cell_text(cell: Any) -> str:
    """Give a cell as plain text, for Markdown and CSV."""
    if cell is None:
        return "–"
    if not isinstance(cell, dict):
        return str(cell)
    if cell.get("reason") and cell.get("value") is None:
        return say("none: {why}", why=cell["reason"])
    if "first" in cell:
        ranks = {cell["first"], cell["last"]}
        return " ".join(["–".join(map(str, sorted(ranks))), *([cell["letters"]] if cell.get("letters") else [])])
    text = str(cell.get("text") if cell.get("text") is not None else cell.get("value", ""))
    if cell.get("soft"):
        return f"{text} ({cell['soft']})"
    return f"{text} [{number(cell['low'])}, {number(cell['high'])}]" if "low" in cell else text


def listed(names: Sequence[str]) -> str:
    """Write names as a list in a sentence."""
    if len(names) < 2:
        return "".join(names)
    return say("{most} and {last}", most=", ".join(names[:-1]), last=names[-1])

"""What a metric cannot be: an interval beside its value, out of its range, or a missing value without a reason."""

import math
import re

DIFFERENCE = re.compile(
    r"gain|drop|shift|effect|^bias|fragility|cost|contribution|difference|kappa|q_statistic|correlation|silhouette|mcc|moved|excess|probe_gap"
)
LOSS = re.compile(
    r"nll|brier|temperature|separation|davies|calinski|ratio|params|macs|second|latency|input_size|depth|n_required|odds|relative|set_size"
)
EDGE = 1e-9


def find_faults(name, metric):
    """Return what is impossible of a metric, of new sources and of these, which may be None."""
    least, most = (-1.0, 1.0) if DIFFERENCE.search(name) else (0.0, math.inf) if LOSS.search(name) else (0.0, 1.0)
    these = metric.these_sources or {}
    for about, value, low, high in (
        ("", metric.value, metric.low, metric.high),
        (" these sources", these.get("value"), these.get("low"), these.get("high")),
    ):
        numbers = [number for number in (low, value, high) if number is not None]
        is_applied = "temperature" in name  # the interval is of the fitted one
        if not all(map(math.isfinite, numbers)) or (numbers != sorted(numbers) and not is_applied):
            yield f"{name}{about}: {value} [{low}, {high}]"
        if low is not None and not least - EDGE <= low <= high <= most + EDGE:
            yield f"{name}{about}: [{low}, {high}] is not within {least} to {most}"
    if metric.value is None and metric.reason is None:
        yield f"{name}: null without a reason"
    if metric.value is not None and metric.low is None and metric.interval is not None:
        yield f"{name}: an interval without ends"

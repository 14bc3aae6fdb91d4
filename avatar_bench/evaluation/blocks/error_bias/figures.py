"""Figure of error_bias: the confidence of its predictions."""

from __future__ import annotations

from matplotlib.figure import Figure

from avatar_bench.evaluation.charts import draw_confidence
from avatar_bench.results.result import Result


def draw(result: Result) -> dict[str, Figure]:
    """Draw the confidence of correct and incorrect predictions."""
    images = result.tables["images"]
    confidence, correct = images["confidence"].to_numpy(), images["correct"].to_numpy()
    return {"confidence": draw_confidence({"": confidence}, correct, len(result.classes))}

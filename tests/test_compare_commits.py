"""scripts/compare_commits names each value of results and predictions that differs between two folders."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "compare_commits"


def write(folder: Path, accuracy: float, name: str = "accuracy", probability: str = "0.25") -> Path:
    result = folder / "runs/demo/a/evaluation/blind/blind_test"
    result.mkdir(parents=True)
    metrics = {name: {"value": accuracy, "low": float("nan")}, "images_per_second": {"value": accuracy}}
    (result / "metrics.json").write_text(json.dumps({"n": 9, "metrics": metrics, "warnings": []}))
    (folder / "predictions.csv").write_text(f"path,prob_real\na.png,{probability}\n")
    return folder


def test_each_value_that_differs_is_named_and_timings_are_not(tmp_path: Path) -> None:
    script = runpy.run_path(str(SCRIPT))
    before = script["read_values"](write(tmp_path / "before", 0.5))
    file = "runs/demo/a/evaluation/blind/blind_test/metrics.json"

    assert script["compare"](before, dict(before), {}) == ([], 5)  # n, value, low and two cells

    after = script["read_values"](write(tmp_path / "after", 0.75, probability="0.2500001"))
    assert script["compare"](before, after, {})[0] == [
        "predictions.csv: row 1 prob_real: 0.25 -> 0.2500001",
        f"{file}: metrics.accuracy.value: 0.5 -> 0.75",
    ]

    other = script["read_values"](write(tmp_path / "other", 0.5, name="rate"))
    assert len(script["compare"](before, other, {})[0]) == 4
    assert script["compare"](before, other, {".accuracy.": ".rate."})[0] == []

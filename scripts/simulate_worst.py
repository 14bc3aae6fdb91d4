"""Simulate held-out sources: the mean of a constant answer, and how often the interval of the worst source holds."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation.blocks.leave_one_source_out import LeaveOneSourceOut
from avatar_bench.metrics import stats
from avatar_bench.results.predictions import Predictions
from avatar_bench.runs.record import RunRecord

CLASSES = ("drawing", "generated", "real")
SOURCES = {"drawing": 14, "generated": 19, "real": 14}  # of a collection of avatars, those of 20 images or more
IMAGES = 60  # of each source
TRUE_RECALLS = {
    "16 equal sources": np.full(16, 0.7),
    "47 equal sources": np.full(47, 0.7),
    "47 spread sources": np.linspace(0.6, 0.8, 47),
}


def simulate_worst(draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Return a row for each quantity, with its value by the earlier definition and by that of today."""
    recalls = [np.full(count, float(target == "generated")) for target, count in SOURCES.items()]
    targets = np.repeat(CLASSES, list(SOURCES.values()))
    hits = np.repeat(np.concatenate(recalls)[:, None], IMAGES, axis=1) == 1
    mean = evaluate(hits, targets, resamples=100).metrics["mean"]
    rows = [("mean of a constant answer", hits.mean(), mean.value, mean.floor)]
    generator = np.random.default_rng(seed)
    for name, truth in TRUE_RECALLS.items():
        held = np.mean([cover_worst(generator.binomial(IMAGES, truth), truth) for _ in range(draws)], axis=0)
        rows.append((f"coverage of worst, {name}", *held.tolist(), 0.95))
    return pd.DataFrame(rows, columns=["quantity", "before", "after", "wanted"])


def cover_worst(counts: NDArray[np.int64], truth: NDArray[np.float64], level: float = 0.95) -> tuple[bool, bool]:
    """Return whether the truly lowest recall is inside the interval of the source that looks worst, and of `worst`."""
    wilson = stats.wilson(int(counts.min()), IMAGES, level)
    strict = 1 - (1 - level) / len(counts)
    joint = np.array([stats.wilson(int(count), IMAGES, strict) for count in counts]).min(axis=0)
    return wilson[0] <= truth.min() <= wilson[1], bool(joint[0] <= truth.min() <= joint[1])


def evaluate(hits: NDArray[np.bool_], targets: Sequence[str] | NDArray[np.str_], resamples: int) -> Any:
    """Return the result of the block for sources (S, N) of which these images are predicted correctly."""
    pairs = [make_run(f"source{index}", CLASSES.index(target), hits[index]) for index, target in enumerate(targets)]
    return LeaveOneSourceOut(resamples=resamples, targets=[]).compare(*zip(*pairs, strict=True))  # type: ignore[arg-type]


def make_run(source: str, target: int, hits: NDArray[np.bool_]) -> tuple[SimpleNamespace, SimpleNamespace]:
    """Return a run that held out a source, and the images of this source."""
    paths = np.array([f"{source}/{row:03}.png" for row in range(len(hits))])
    predictions = Predictions(
        classes=CLASSES,
        paths=paths,
        groups=paths,
        sources=np.full(len(hits), source),
        targets=np.full(len(hits), target),
        logits=9.0 * np.eye(len(CLASSES))[np.where(hits, target, (target + 1) % len(CLASSES))],
        embeddings=np.zeros((len(hits), 1), np.float32),
    )
    run = SimpleNamespace(
        classes=CLASSES,
        label=source,
        recipe=source,
        seed=0,
        record=RunRecord(name="probe", mode="probe"),
        config={"data": {"split": {"by": "source", "held_out": [source]}}},
        predictions=lambda dataset: predictions,
    )
    frame = pd.DataFrame({"source": predictions.sources, "label": CLASSES[target]})
    return run, SimpleNamespace(name="test", frame=frame)

"""Intervals of every block on small sets: around their value, within the range of the metric, with a reason if none."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from avatar_bench.config.catalogue import list_blocks
from avatar_bench.errors import AvatarBenchError
from avatar_bench.results.predictions import to_string_array
from tests.evaluation.test_versions import NOT_OF_PREDICTIONS, evaluate

SETS = ((2, 1), (12, 6), (30, 12), (60, 3), (60, 0))  # images, and sources: 0 for none known
DIFFERENCE = re.compile(
    r"gain|drop|shift|effect|^bias|fragility|cost|contribution|difference|kappa|q_statistic|correlation|silhouette|mcc|moved|excess|probe_gap"
)
LOSS = re.compile(
    r"nll|brier|temperature|separation|davies|calinski|ratio|params|macs|seconds|latency|input_size|depth|n_required|odds|relative|set_size"
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


@pytest.mark.parametrize("name", sorted(set(list_blocks()) - NOT_OF_PREDICTIONS))
def test_no_block_states_what_cannot_be(name, oracle, fake_run, dataset_of):
    faults, computed = [], 0
    for n, sources in SETS:
        for kind in ("noisy", "perfect"):

            def draw(_, n_drawn=240, seed=0, n=n, kind=kind, sources=sources, **options):
                drawn = oracle(kind, n=min(n, options.pop("n", n_drawn)), seed=seed, **options)
                number = np.arange(len(drawn))
                groups = to_string_array(f"g{k // 9 * 3 + k % 3}" for k in number)  # of three images each
                if not sources:
                    return replace(drawn, groups=groups)
                source = number % sources
                names = to_string_array(f"s{k}" for k in source)
                return replace(drawn, groups=groups, sources=names, origins=source)

            def list_images(predictions, name="test", **columns):
                short = {
                    key: value[: len(predictions)] if isinstance(value, list) else value
                    for key, value in columns.items()
                }
                return dataset_of(predictions, name, **short)

            try:
                result = evaluate(name, draw, fake_run, list_images)
            except AvatarBenchError:  # a set that the block refuses
                continue
            computed += 1
            faults += [
                f"{n} images, {sources} sources, {kind}: {fault}"
                for key, metric in result.metrics.items()
                for fault in find_faults(key, metric)
            ]
    assert computed >= 4  # of ten: only leave_one_source_out refuses any
    assert faults == []

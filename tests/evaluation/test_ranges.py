"""Intervals of every block on small sets: around their value, within the range of the metric, with a reason if none.

Those of the blocks that need more of a network than its predictions: test_all_blocks.py, test_data_audit.py.
"""

import os
from dataclasses import replace

import numpy as np
import pytest

from avatar_bench.config.catalogue import list_blocks
from avatar_bench.errors import AvatarBenchError
from avatar_bench.results.predictions import to_string_array
from tests.builders.ranges import find_faults
from tests.evaluation.test_versions import NOT_OF_PREDICTIONS, evaluate

DRAWN = int(os.environ.get("SETS", "4"))  # more by hand, after a change of intervals
SETS = [(0, 2, 1), (0, 60, 0), *((seed, None, None) for seed in range(1, DRAWN + 1))]  # seed, images, sources


def draw_sources(rng, n, sources):
    """Return for each of `n` images, whose classes go in turn, the number of a source that has one class, if it can."""
    sizes, kinds = rng.lognormal(0, 1.1, sources), min(3, sources)
    likely = (np.arange(sources) % kinds == np.arange(n)[:, None] % kinds) * sizes
    return np.array([rng.choice(sources, p=row / row.sum()) for row in likely])


@pytest.mark.parametrize("name", sorted(set(list_blocks()) - NOT_OF_PREDICTIONS))
def test_no_block_states_what_cannot_be(name, oracle, fake_run, dataset_of):
    faults, computed = [], 0
    for drawn, images, sources in SETS:
        rng = np.random.default_rng([drawn, *name.encode()])
        n = images or int(rng.integers(2, 61))
        count = int(rng.integers(1, 13)) if sources is None else sources
        source = draw_sources(rng, n, count) if count else None
        for kind in ("noisy", "perfect"):

            def draw(_, n=240, most=n, kind=kind, source=source, **options):
                made = oracle(kind, n=min(n, most), **options)
                groups = to_string_array(f"g{k // 9 * 3 + k % 3}" for k in range(len(made)))  # of three images each
                if source is None:
                    return replace(made, groups=groups)
                known = source[: len(made)]
                names = to_string_array(f"s{k % 3}{k // 3}" for k in known)
                return replace(made, groups=groups, sources=names, origins=known)

            def list_images(predictions, name="test", **columns):
                short = {
                    key: value[: len(predictions)] if isinstance(value, list) else value
                    for key, value in columns.items()
                }
                return dataset_of(predictions, name, **short)

            try:
                result = evaluate(name, draw, fake_run, list_images)
            except AvatarBenchError:
                continue
            computed += 1
            faults += [
                f"set {drawn}, {n} images, {count} sources, {kind}: {fault}"
                for key, metric in result.metrics.items()
                for fault in find_faults(key, metric)
            ]
    assert computed >= 4  # of twelve: only leave_one_source_out refuses any
    assert faults == []

"""Versions of blocks: the numbers of a block may change only with its version.

numbers.json has the version and a digest of the numbers of each block, to 6 digits, on predictions made here from a
seed. Write it anew, after raising the version of each block that changed: python tests/evaluation/test_versions.py
"""

import hashlib
import json
import math
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from avatar_bench.config.catalogue import list_blocks
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.evaluation.block import build_block
from avatar_bench.models.model_card import Card
from avatar_bench.results.result import Result

NUMBERS = Path(__file__).with_name("numbers.json")
# of these blocks, the numbers come from networks or from files, not from predictions; their own tests cover them
NOT_OF_PREDICTIONS = {"architecture", "data_audit", "efficiency", "gradcam"}
STORED = {"width": "200", "height": "300", "format": "PNG"}
DATES = [f"{2019 + row % 6}" for row in range(120)]
OPTIONS: dict[str, dict[str, Any]] = {
    "calibration": {"severity": 3},
    "clusters": {"permutations": 2, "method": "pca"},  # t-SNE and UMAP differ between machines
    "error_bias": {"minimum": 5},
    "integrated_score": {"weightings": 100},
    "leave_one_source_out": {"minimum": 5},
}
DIGITS = 6


def read_pins():
    """Return the versions in constraints.txt of the packages that compute the numbers."""
    text = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)", text, re.MULTILINE))
    return {name: pins[name] for name in ("numpy", "scipy", "scikit-learn", "pandas") if name in pins}


def evaluate(name, oracle, fake_run, dataset_of):
    """Compute the result of a block on predictions of three runs, two of them seeds of one recipe."""
    predictions = [oracle("noisy", n=120, seed=seed) for seed in (1, 2, 3)]
    datasets = [dataset_of(prediction, date=DATES, **STORED) for prediction in predictions]
    other, held_out = oracle("uniform", n=40, seed=4), ("s00", "s11", "s22")
    runs, blind_test = [], build_block("blind_test", {"resamples": 100}).evaluate
    for k, prediction in enumerate(predictions):
        held = oracle("noisy", n=90, seed=10 + k)
        keys = [f"{row + 10_000:064x}" for row in range(len(held))]
        split = {"by": "source", "held_out": [held_out[k]], "seed": 0}
        images = Dataset("run", Path(), dataset_of(held, split="calibration").frame.assign(sha256=keys))
        names = {"label": f"run{k}", "recipe": "abb"[k], "seed": k, "card": Card(prediction.classes, f"net{k}", {})}
        files = {"checkpoint": Path(f"run{k}/checkpoints/best.ckpt"), "checkpoint_sha256": f"{k:064x}"}
        run = fake_run(
            prediction,
            calibration=held,
            training=oracle("noisy", n=90, seed=20 + k),
            variations=lambda variation, k=k: oracle("noisy", n=120, seed=30 + k + len(variation.key)),
            ood={"noise": (dataset_of(other, "noise"), other)},
            preprocessing=Preprocessing(16, "squash", (0.5,) * 3, (0.5,) * 3),
            record={"name": "x", "mode": "frozen", "metrics": {"val/accuracy": 0.9}, "train_seconds": 10.0 + k},
            config={"seed": k, "model": {"backbone": "x"}, "data": {"split": split}, "mode": {"shots": 5 + 15 * k}},
            **names | files | {"images": images},
        )
        run.saved = lambda block, _, k=k: blind_test(runs[k], datasets[k]) if block == "blind_test" else None
        runs.append(run)
    block = build_block(name, OPTIONS.get(name, {}) | ({"resamples": 100} if name in RESAMPLED else {}))
    return block.compare(runs, datasets) if hasattr(block, "compare") else block.evaluate(runs[0], datasets[0])


RESAMPLED = {name for name in list_blocks() if "resamples" in vars(build_block(name))}


def digest(result):
    """Return 16 hex digits of the metrics and tables of a result, their numbers to 6 digits."""
    return hashlib.sha256("\n".join(list_numbers(result)).encode()).hexdigest()[:16]


def list_numbers(result):
    for name, metric in result.metrics.items():
        values = (metric.value, metric.low, metric.high, metric.floor, metric.n, metric.higher_is_better)
        yield f"{name} {[show(value) for value in values]} {metric.interval} {metric.reason}"
    for name, table in result.tables.items():
        yield f"{name} {list(table.columns)}"
        yield from (str([show(value) for value in row]) for row in table.astype(object).to_numpy().tolist())


def show(value):
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    is_number = isinstance(value, float | np.floating) and not isinstance(value, bool)
    return f"{round(float(value), 12) + 0.0:.{DIGITS}g}" if is_number else str(value)


@pytest.mark.parametrize("name", sorted(set(list_blocks()) - NOT_OF_PREDICTIONS))
def test_numbers_change_with_the_version_alone(name, oracle, fake_run, dataset_of):
    other = {package: pin for package, pin in read_pins().items() if metadata.version(package) != pin}
    if other:
        pytest.skip(f"the digests are those of constraints.txt, not of these versions: {other}")
    known = json.loads(NUMBERS.read_text(encoding="utf-8"))[name]
    computed = digest(evaluate(name, oracle, fake_run, dataset_of))
    version = build_block(name).version
    assert version == known["version"], "write numbers.json anew, see the top of this file"
    assert computed == known["digest"], (
        f"the numbers of {name} have changed: raise its version, then write numbers.json"
    )


def test_every_block_has_its_digest_which_changes_with_a_number_and_not_with_rounding():
    assert set(json.loads(NUMBERS.read_text(encoding="utf-8"))) == set(list_blocks()) - NOT_OF_PREDICTIONS

    def make(value):
        return digest(Result("x", "test", 1, ("a",), tables={"t": pd.DataFrame({"v": [value]})}))

    assert make(0.1234567) == make(0.12345671)
    assert make(0.1234567) != make(0.1234667)


def write():
    """Write numbers.json anew."""
    import conftest as fixtures  # beside this file

    made = [getattr(fixtures, name).__wrapped__() for name in ("oracle", "fake_run", "dataset_of")]
    collected = {
        name: {"version": build_block(name).version, "digest": digest(evaluate(name, *made))}
        for name in sorted(set(list_blocks()) - NOT_OF_PREDICTIONS)
    }
    NUMBERS.write_text(json.dumps(collected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()

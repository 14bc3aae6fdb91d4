"""What comparison blocks share: Predictions of several runs, brought into one order of images and classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avatar_bench.errors import BlockError, ConfigError, GuardError
from avatar_bench.evaluation.block import align_predictions, build_block, group_by_recipe
from avatar_bench.results.result import draw_figures

Build = Callable[..., Any]
RUN_BLOCKS = (
    *("blind_test", "calibration", "clusters", "decision"),
    *("error_bias", "gradcam", "out_of_domain", "prior_shift", "robustness"),
)


def test_images_and_classes_are_brought_into_the_first_runs_order(
    oracle: Build, fake_run: Build, dataset_of: Build
) -> None:
    first = oracle("noisy", n=30)
    shuffled = np.random.default_rng(3).permutation(30)
    other = first.take(shuffled).reorder(("real", "drawing", "generated"))
    frame = dataset_of(first).frame["sha256"].to_numpy()
    datasets = [dataset_of(first), dataset_of(other, sha256=frame[shuffled])]
    found = align_predictions([fake_run(first), fake_run(other)], datasets)
    for name in ("logits", "targets", "paths", "groups", "embeddings"):
        np.testing.assert_array_equal(getattr(found[1], name), getattr(first, name))
    assert found[1].classes == first.classes


def test_images_of_no_known_class_are_left_out_of_all(oracle: Build, fake_run: Build, dataset_of: Build) -> None:
    plain = oracle("noisy", n=30)
    targets = plain.targets.copy()
    targets[:5] = -1
    some = type(plain)(**{**vars(plain), "targets": targets})
    found = align_predictions([fake_run(some)] * 2, [dataset_of(some)] * 2)
    assert [len(one) for one in found] == [25, 25]


def test_runs_on_different_images_are_not_compared(oracle: Build, fake_run: Build, dataset_of: Build) -> None:
    predictions = oracle("noisy", n=30)
    sets = [dataset_of(predictions), dataset_of(predictions, "other")]
    with pytest.raises(BlockError, match="b and a are evaluated on different images"):
        align_predictions([fake_run(predictions, label="a"), fake_run(predictions, label="b")], sets)


def test_runs_of_different_classes_are_not_compared(oracle: Build, fake_run: Build, dataset_of: Build) -> None:
    three, four = oracle("noisy", n=60), oracle("noisy", n=60, classes=4)
    with pytest.raises(BlockError, match="has the classes"):
        align_predictions([fake_run(three), fake_run(four)], [dataset_of(three)] * 2)


def test_one_run_is_not_compared_with_nothing(oracle: Build, fake_run: Build, dataset_of: Build) -> None:
    predictions = oracle("noisy", n=30)
    with pytest.raises(BlockError, match="at least 2 runs"):
        align_predictions([fake_run(predictions)], [dataset_of(predictions)])


@pytest.mark.parametrize("order", list(permutations(range(3)))[1:])
def test_each_wrong_class_order_of_any_run_raises_the_alarm(
    order: tuple[int, ...], oracle: Build, fake_run: Build, dataset_of: Build
) -> None:
    right, wrong = oracle("noisy"), oracle(("permuted", order))
    with pytest.raises(GuardError, match="wrong order"):
        align_predictions([fake_run(right), fake_run(wrong)], [dataset_of(right), dataset_of(wrong)])


@pytest.mark.parametrize("name", RUN_BLOCKS)
def test_every_block_of_one_run_refuses_a_wrong_class_order(
    name: str, oracle: Build, fake_run: Build, dataset_of: Build
) -> None:
    wrong = oracle(("permuted", (1, 2, 0)))
    sets = {"other": (dataset_of(wrong, "other"), wrong)}
    run = fake_run(wrong, calibration=oracle("noisy"), ood=sets)
    with pytest.raises(GuardError, match="wrong order"):
        build_block(name).evaluate(run, dataset_of(wrong))


@pytest.mark.parametrize("name", ["significance", "ensemble", "shots"])
def test_every_block_of_several_runs_refuses_a_wrong_class_order(
    name: str, oracle: Build, fake_run: Build, dataset_of: Build
) -> None:
    collected = [oracle("noisy"), oracle(("permuted", (1, 2, 0)))]
    runs = [
        fake_run(one, label=f"{shots}", images=None, config={"seed": 0, "mode": {"name": "few_shot", "shots": shots}})
        for shots, one in enumerate(collected, 5)
    ]
    with pytest.raises(GuardError, match="wrong order"):
        build_block(name).compare(runs, [dataset_of(one) for one in collected])


@pytest.mark.parametrize(
    ("block", "options", "words"),
    [
        ("integrated_score", {"weights": {"accuracy": -1.0}}, "weights"),
        ("integrated_score", {"weights": {"beauty": 1.0}}, "weights"),
        ("integrated_score", {"ranges": {"beauty": [0.0, 1.0]}}, "no block declares the quality 'beauty'"),
        ("integrated_score", {"ranges": {"ood": [0.5, 0.5]}}, "ranges.ood"),
        ("calibration", {"corruptions": ["fog"]}, "some of noise"),
        ("clusters", {"method": "mds"}, "method"),
        ("data_audit", {"duplicate": True}, "did you mean duplicates?"),
        ("efficiency", {"runtimes": ["onnx"]}, "torch first"),
        ("efficiency", {"batches": [1, 0]}, "numbers of 1 or more"),
        ("gradcam", {"images": 0}, "1 or more"),
        ("out_of_domain", {"scores": ["odin"]}, "scores"),
        ("prior_shift", {"mixes": {"a": {"x": 0.5}}}, "mixes"),
        ("robustness", {"severities": [1, 2]}, "with 3 among them"),
        ("significance", {"power": 1}, "power"),
    ],
)
def test_options_that_make_no_sense_are_refused(block: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"block\.{block}") as caught:
        build_block(block, options)
    assert words in str(caught.value)
    assert len(caught.value.lines) <= 3


def test_recipes_gather_their_seeds(oracle: Build, fake_run: Build) -> None:
    predictions = oracle("noisy", n=6)
    runs = [fake_run(predictions, recipe=name) for name in ("b", "a", "b")]
    assert group_by_recipe(runs) == {"b": [0, 2], "a": [1]}


@pytest.mark.parametrize("edge", ["one image", "one class", "no class", "no error", "two images"])
@pytest.mark.parametrize("name", ["blind_test", "calibration", "clusters", "decision", "out_of_domain", "prior_shift"])
def test_every_block_of_predictions_has_metrics_or_a_reason_at_the_edges(
    name: str, edge: str, oracle: Build, fake_run: Build, dataset_of: Build, tmp_path: Path
) -> None:
    whole = oracle("perfect" if edge == "no error" else "noisy", n=60)
    rows = {"one image": [0], "two images": [0, 1], "one class": np.flatnonzero(whole.targets == 0)}
    predictions = whole.take(np.asarray(rows.get(edge, np.arange(60))))
    if edge == "no class":
        predictions = replace(predictions, targets=np.full(60, -1))
    other = oracle("noisy", n=40, seed=2)
    sets = {"other": (dataset_of(other, "other"), replace(other, targets=np.full(40, -1)))}
    run = fake_run(predictions, calibration=oracle("noisy", n=80, seed=1), training=whole, ood=sets)
    block = build_block(name, {"resamples": 100})
    try:
        result = block.evaluate(run, dataset_of(predictions))
    except BlockError:  # a block says why it cannot be used
        return
    for key, metric in result.metrics.items():
        assert metric.reason if metric.value is None else np.isfinite(metric.value)
        if None not in (metric.value, metric.low) and key != "temperature":  # whose interval says that it stays 1
            assert metric.low - 1e-9 <= metric.value <= metric.high + 1e-9
    result.save(tmp_path / name, draw_figures)

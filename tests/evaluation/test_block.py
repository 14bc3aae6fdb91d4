"""What comparison blocks share: Predictions of several runs, brought into one order of images and classes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from avatar_bench.errors import BlockError, GuardError
from avatar_bench.evaluation.block import align_predictions, group_by_recipe

Build = Callable[..., Any]


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


@pytest.mark.parametrize("order", [order for order in permutations(range(3)) if order != (0, 1, 2)])
def test_each_wrong_class_order_of_any_run_raises_the_alarm(
    order: tuple[int, ...], oracle: Build, fake_run: Build, dataset_of: Build
) -> None:
    right, wrong = oracle("noisy"), oracle(("permuted", order))
    with pytest.raises(GuardError, match="wrong order"):
        align_predictions([fake_run(right), fake_run(wrong)], [dataset_of(right), dataset_of(wrong)])


def test_recipes_gather_their_seeds(oracle: Build, fake_run: Build) -> None:
    predictions = oracle("noisy", n=6)
    runs = [fake_run(predictions, recipe=name) for name in ("b", "a", "b")]
    assert group_by_recipe(runs) == {"b": [0, 2], "a": [1]}

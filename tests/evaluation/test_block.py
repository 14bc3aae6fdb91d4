"""What blocks share: predictions in one order of images and classes, refusals, options, and the edges of a set."""

from dataclasses import replace

import numpy as np
import pytest

from avatar_bench.errors import BlockError, ConfigError, GuardError
from avatar_bench.evaluation.block import align_predictions, build_block, group_by_recipe

PREDICTION_BLOCKS = ("blind_test", "calibration", "clusters", "decision", "out_of_domain", "prior_shift")
QUALITIES = ("accuracy", "robustness", "calibration", "ood", "separation", "speed", "size")
RUN_BLOCKS = (*PREDICTION_BLOCKS, "error_bias", "gradcam", "robustness")


def test_images_and_classes_are_brought_into_the_first_runs_order(oracle, fake_run, dataset_of):
    first = oracle("noisy", n=30)
    shuffled = np.random.default_rng(3).permutation(30)
    other = first.take(shuffled).reorder(("real", "drawing", "generated"))
    frame = dataset_of(first).frame["sha256"].to_numpy()
    datasets = [dataset_of(first), dataset_of(other, sha256=frame[shuffled])]
    aligned = align_predictions([fake_run(first), fake_run(other)], datasets)[1]
    for name in ("logits", "targets", "paths", "groups", "embeddings"):
        np.testing.assert_array_equal(getattr(aligned, name), getattr(first, name))
    assert aligned.classes == first.classes
    some = replace(first, targets=np.where(np.arange(30) < 5, -1, first.targets))  # no known class: left out of all
    aligned = align_predictions([fake_run(some)] * 2, [dataset_of(some)] * 2)
    assert [len(predictions) for predictions in aligned] == [25, 25]
    runs = [fake_run(first, recipe=name) for name in ("b", "a", "b")]
    assert group_by_recipe(runs) == {"b": [0, 2], "a": [1]}


def test_what_cannot_be_compared_is_refused(oracle, fake_run, dataset_of):
    three, four = oracle("noisy", n=60), oracle("noisy", n=60, classes=4)
    run, same, other = fake_run(three, label="a"), dataset_of(three), dataset_of(three, "other")
    for runs, sets, message in (
        ([run, fake_run(three, label="b")], [same, other], "b and a are evaluated on different images"),
        ([run, fake_run(four)], [same, same], "has the classes"),
        ([run], [same], "at least 2 runs"),
    ):
        with pytest.raises(BlockError, match=message):
            align_predictions(runs, sets)


@pytest.mark.parametrize("name", ["significance", "ensemble", "shots"])
def test_every_block_of_several_runs_refuses_a_wrong_class_order(name, oracle, fake_run, dataset_of):
    both = [oracle("noisy"), oracle(("permuted", (1, 2, 0)))]
    configs = [{"seed": 0, "mode": {"name": "few_shot", "shots": shots}} for shots in (5, 6)]
    runs = [fake_run(of, images=None, config=config) for of, config in zip(both, configs, strict=True)]
    with pytest.raises(GuardError, match="wrong order"):
        build_block(name).compare(runs, [dataset_of(predictions) for predictions in both])


@pytest.mark.parametrize("name", RUN_BLOCKS)
def test_every_block_of_one_run_refuses_a_wrong_class_order_and_unknown_classes(name, oracle, fake_run, dataset_of):
    wrong, plain = oracle(("permuted", (1, 2, 0))), oracle("noisy")
    unlabelled = replace(plain, targets=np.full(240, -1))
    for predictions, error, message in ((wrong, GuardError, "wrong order"), (unlabelled, BlockError, "known class")):
        sets = {"other": (dataset_of(plain, "other"), plain)}
        run = fake_run(predictions, calibration=plain, ood=sets)
        if error is GuardError or name not in ("clusters", "out_of_domain"):  # these need no class of the images
            with pytest.raises(error, match=message):
                build_block(name).evaluate(run, dataset_of(predictions))


@pytest.mark.parametrize(
    ("block", "options", "words"),
    [
        ("blind_test", {"resample": 10}, "block.blind_test.resample|did you mean resamples?|seed"),
        ("blind_test", {"discordance": 0}, "discordance=0|up to 1"),
        ("calibration", {"alpha": 0}, "alpha=0|above 0 and below 1"),
        ("calibration", {"severity": 6}, "severity=6|0 to 5"),
        ("calibration", {"corruptions": ["fog"]}, "corruptions=['fog']|some of noise"),
        ("clusters", {"method": "mds"}, "method"),
        ("data_audit", {"duplicate": True}, "did you mean duplicates?"),
        ("efficiency", {"runtimes": ["onnx"]}, "torch first"),
        ("efficiency", {"batches": [1, 0]}, "numbers of 1 or more"),
        ("gradcam", {"images": 0}, "1 or more"),
        ("integrated_score", {"weights": {"accuracy": -1.0}}, "weights"),
        ("integrated_score", {"weights": {"accuracy": float("nan")}}, "weights"),
        ("integrated_score", {"weights": {"beauty": 1.0}}, "weights"),
        ("integrated_score", {"weights": dict.fromkeys(QUALITIES, 0.0)}, "weights"),
        ("integrated_score", {"ranges": {"beauty": [0.0, 1.0]}}, "no block declares the quality 'beauty'"),
        ("integrated_score", {"ranges": {"speed": [0.0, 100.0]}}, "speed=[0.0, 100.0]: expected two numbers"),
        ("integrated_score", {"ranges": {"ood": [None, 1.0]}}, "ranges.ood"),
        ("integrated_score", {"ranges": {"ood": [0.5, 0.5]}}, "ranges.ood"),
        ("integrated_score", {"ranges": {"ood": [0.5]}}, "ranges.ood"),
        ("integrated_score", {"scale": "z"}, "one of fixed, min_max"),
        ("integrated_score", {"ood_score": "magic"}, "ood_score"),
        ("integrated_score", {"weightings": 10}, "weightings"),
        ("leave_one_source_out", {"minimum": 0}, "minimum=0"),
        ("out_of_domain", {"scores": ["odin"]}, "scores"),
        ("prior_shift", {"shares": [1.2]}, "shares="),
        ("prior_shift", {"mixes": {"a": {"x": 0.5}}}, "mixes="),
        ("prior_shift", {"training": {"a": 1.0, "b": 0.0}}, "training="),
        ("significance", {"level": 95}, "level=95|below 1"),
        ("significance", {"power": 1}, "power"),
    ],
)
def test_options_that_make_no_sense_are_refused(block, options, words):
    with pytest.raises(ConfigError, match=rf"block[.=]{block}") as caught:
        build_block(block, options)
    assert [word for word in words.split("|") if word not in str(caught.value)] == []
    assert len(caught.value.lines) <= 3


@pytest.mark.parametrize("edge", ["one image", "one class", "no class", "no error", "two images"])
@pytest.mark.parametrize("name", PREDICTION_BLOCKS)
def test_every_block_has_metrics_or_a_reason_at_the_edges(name, edge, oracle, fake_run, dataset_of, draw_saved):
    whole = oracle("perfect" if edge == "no error" else "noisy", n=60)
    rows = {"one image": [0], "two images": [0, 1], "one class": np.flatnonzero(whole.targets == 0)}
    predictions = whole.take(np.asarray(rows.get(edge, np.arange(60))))
    if edge == "no class":
        predictions = replace(predictions, targets=np.full(60, -1))
    other = oracle("noisy", n=40, seed=2)
    sets = {"other": (dataset_of(other, "other"), replace(other, targets=np.full(40, -1)))}
    run = fake_run(predictions, calibration=oracle("noisy", n=80, seed=1), training=whole, ood=sets)
    try:
        result = build_block(name, {"resamples": 100}).evaluate(run, dataset_of(predictions))
    except BlockError:  # a block says why it cannot be used
        return
    for key, metric in result.metrics.items():
        assert metric.reason if metric.value is None else np.isfinite(metric.value)
        if None not in (metric.value, metric.low) and key != "temperature":  # whose interval says that it stays 1
            assert metric.low - 1e-9 <= metric.value <= metric.high + 1e-9
    for figure in draw_saved(result).values() if edge != "two images" else ():  # drawn of one are as many charts
        figure.draw_without_rendering()

"""Tests of integrated_score: directions, ranges, completeness, ranks, and their intervals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm, rankdata

from avatar_bench.data.transforms import Preprocessing
from avatar_bench.errors import BlockError, ConfigError
from avatar_bench.evaluation.block import build_block
from avatar_bench.evaluation.blocks.blind_test import BlindTest
from avatar_bench.evaluation.blocks.calibration import Calibration
from avatar_bench.evaluation.blocks.clusters import Clusters
from avatar_bench.evaluation.blocks.integrated_score import IntegratedScore
from avatar_bench.evaluation.blocks.out_of_domain import OutOfDomain
from avatar_bench.evaluation.blocks.robustness import Robustness
from avatar_bench.i18n import use_language
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Metric, Result

CLASSES = ("drawing", "generated", "real")
QUALITIES = ("accuracy", "robustness", "calibration", "ood", "separation", "speed", "size")
N = 120
PREPROCESSING = Preprocessing(8, "squash", (0.5,) * 3, (0.2,) * 3)


def results(seed=0, right=0.8, speed=100.0, size=5.0, shift=0.8, **changes):
    """Return results of a run with a given accuracy, whose intervals are wider below the value than above."""
    rng = np.random.default_rng(seed)

    def metric(value, higher_is_better=True):
        ends = (value - 0.06, value + 0.03) if higher_is_better else (value - 0.03, value + 0.06)
        return Metric(value, N, *ends, "bootstrap by group", higher_is_better, units=60)

    accuracy, lost, error, separation = np.array([right, 0, 0.1, 0.2]) + rng.uniform(-0.03, 0.03, 4)
    metrics = {
        "blind_test": {"accuracy": metric(accuracy)},
        "robustness": {"robustness": metric(accuracy - 0.1 + lost)},
        "calibration": {"scaled/ece_15": metric(error, higher_is_better=False)},
        "out_of_domain": {f"auroc/{name}/energy": metric(shift + rng.uniform(-0.1, 0.1)) for name in ("cats", "mugs")},
        "clusters": {"silhouette_cosine": metric(separation)},
        "efficiency": {
            "images_per_second/b1": Metric(speed, 6, speed - 1, speed + 1, "bootstrap by round"),
            "params_m": Metric(size, 1, higher_is_better=False),
        },
    }
    about = {"data_fingerprint": "f1", "options": {"seed": 0}, "sets": {"cats": "c", "mugs": "m"}, "machine": "one"}
    made = {
        name: Result(name, "test", N, CLASSES, collected, provenance=dict(about)) for name, collected in metrics.items()
    }
    return made | changes


def run_of(saved, label="a", recipe=None, seed=1, classes=CLASSES):
    return SimpleNamespace(
        label=label, recipe=recipe or label, seed=seed, classes=classes, saved=lambda block, name: saved.get(block)
    )


def compare(*runs, **options):
    dataset = type("Dataset", (), {"name": "test", "__len__": lambda self: N})()
    return IntegratedScore(**{"resamples": 200, "weightings": 200, **options}).compare(runs, [dataset] * len(runs))


def with_metric(saved, block, name, **fields):
    """Return results in which one Metric is replaced."""
    result = saved[block]
    return saved | {block: replace(result, metrics=result.metrics | {name: replace(result.metrics[name], **fields)})}


def normalised_of(result):
    """Return the qualities of each model from 0 to 1, by the name of the quality."""
    return result.tables["scores"].set_index("run").filter(like="normalised/").rename(columns=lambda c: c[11:])


def three():
    return [
        run_of(results(0, 0.9, 50, 20), "good"),
        run_of(results(1, 0.8, 100, 10), "middling"),
        run_of(results(2, 0.6, 200, 2), "fast"),
    ]


def test_a_score_equals_a_hand_count():
    run = three()[0]
    values = {
        "accuracy": run.saved("blind_test", "").metrics["accuracy"].value,
        "robustness": run.saved("robustness", "").metrics["robustness"].value,
        "ece": run.saved("calibration", "").metrics["scaled/ece_15"].value,
        "ood": np.mean([metric.value for metric in run.saved("out_of_domain", "").metrics.values()]),
        "separation": run.saved("clusters", "").metrics["silhouette_cosine"].value,
    }
    expected = {
        "accuracy": (values["accuracy"] - 1 / 3) / (2 / 3),
        "robustness": (values["robustness"] - 1 / 3) / (2 / 3),
        "calibration": 1 - values["ece"] / (2 / 3),
        "ood": (values["ood"] - 0.5) / 0.5,
        "separation": values["separation"],
        "speed": np.log10(50) / 3,
        "size": 1 - np.log10(20) / 3,
    }
    weights = {"accuracy": 3.0, "robustness": 1.0, "calibration": 2.0, "ood": 1.0, "separation": 0.5, "speed": 1.0}
    result = compare(*three(), weights={**weights, "size": 0.25})
    row = result.tables["scores"].set_index("run").loc["good"]
    for name, value in expected.items():
        assert row[f"normalised/{name}"] == pytest.approx(value, abs=1e-12)
    total = sum(weights[name] * expected[name] for name in weights) + 0.25 * expected["size"]
    assert result.metrics["score/good"].value == pytest.approx(total / 8.75, abs=1e-12)
    assert row["score"] == result.metrics["score/good"].value


def test_a_higher_calibration_error_lowers_the_score():
    saved, error = results(), 0.3
    worse = with_metric(saved, "calibration", "scaled/ece_15", value=error)
    assert error > saved["calibration"].metrics["scaled/ece_15"].value
    result = compare(run_of(saved, "calm"), run_of(worse, "cocksure"))
    found = result.tables["scores"].set_index("run")
    assert found.loc["cocksure", "score"] < found.loc["calm", "score"]
    assert found.loc["calm", "rank"] == 1
    gap = error - saved["calibration"].metrics["scaled/ece_15"].value
    lost = found.loc["calm", "normalised/calibration"] - found.loc["cocksure", "normalised/calibration"]
    assert lost == pytest.approx(gap / (2 / 3))


@pytest.mark.parametrize("scale", ["fixed", "min_max"])
def test_turning_the_direction_of_ece_turns_its_contribution_round(scale):
    runs = three()
    low = compare(*runs, scale=scale)
    # the same figures, said to be better when higher
    turned = [
        run_of(with_metric(results(i, *args), "calibration", "scaled/ece_15", higher_is_better=True), label)
        for i, (args, label) in enumerate(
            [((0.9, 50, 20), "good"), ((0.8, 100, 10), "middling"), ((0.6, 200, 2), "fast")]
        )
    ]
    ranges = {**IntegratedScore().ranges, "calibration": [0.0, 2 / 3]}
    high = compare(*turned, scale=scale, ranges=ranges)
    before, after = (normalised_of(one)["calibration"].sort_index() for one in (low, high))
    assert after.to_numpy() == pytest.approx(1 - before.to_numpy())


@pytest.mark.parametrize(
    ("saved", "options"),
    [
        (with_metric(results(), "calibration", "scaled/ece_15", higher_is_better=True), {}),
        (with_metric(results(), "calibration", "scaled/ece_15", higher_is_better=None), {}),
        (results(), {"ranges": {**IntegratedScore().ranges, "calibration": [0.0, 0.5]}}),
        (results(), {"ranges": {**IntegratedScore().ranges, "speed": [1000.0, 1.0]}, "scale": "min_max"}),
    ],
)
def test_a_range_against_the_direction_of_its_figure_is_refused(saved, options):
    with pytest.raises(ConfigError, match="values as better") as caught:
        compare(run_of(saved, "a"), run_of(results(1), "b"), **options)
    assert len(caught.value.lines) <= 3


def test_a_direction_of_a_quality_without_weight_does_not_matter():
    saved = with_metric(results(), "calibration", "scaled/ece_15", higher_is_better=True)
    weights = {**dict.fromkeys(QUALITIES, 1.0), "calibration": 0.0}
    result = compare(run_of(saved, "a"), run_of(results(1), "b"), weights=weights)
    assert "normalised/calibration" not in result.tables["scores"]


def test_another_model_moves_nobody_on_the_fixed_range():
    few, many = compare(*three()), compare(*three(), run_of(results(7, 0.95, 900, 1.1, 0.85), "wonder"))
    for name in ("good", "middling", "fast"):
        metric, other = few.metrics[f"score/{name}"], many.metrics[f"score/{name}"]
        assert metric == other
    assert many.tables["scores"]["run"].iloc[0] == "wonder"


def test_min_max_is_between_the_worst_and_the_best_of_the_complete():
    runs = [*three(), run_of(results(3, 0.99, 5000, 0.1, clusters=None), "incomplete")]
    table = normalised_of(compare(*runs, scale="min_max"))
    assert table.loc["fast", ["speed", "size"]].tolist() == [1, 1]
    assert table.loc["good", ["speed", "size"]].tolist() == [0, 0]
    assert table.loc["middling", "speed"] == pytest.approx((100 - 50) / (200 - 50))  # linear, as in the study


def test_a_model_without_out_of_domain_results_is_listed_and_not_ranked():
    runs = [*three(), run_of(results(3, out_of_domain=None), "blind to others")]
    result = compare(*runs)
    row = result.tables["scores"].set_index("run").loc["blind to others"]
    assert not row["complete"]
    assert row[["score", "rank", "rank_low", "share_first"]].isna().all()
    why = Reason.parse_cell(row["missing"])
    assert format_reason(why, "integrated_score") == "ood: no usable Result of out_of_domain"
    assert not row["pareto"]
    assert row["normalised/accuracy"] > 0  # what is known is shown
    assert result.metrics["score/blind to others"].value is None
    assert result.metrics["score/blind to others"].reason == why
    assert result.tables["scores"]["run"].iloc[-1] == "blind to others"
    assert result.tables["scores"]["rank"].dropna().tolist() == [1, 2, 3]
    assert result.warnings == [Reason("not_ranked", n=1, all=4, names=["blind to others"])]
    assert set(result.tables["ranks"]["run"]) == {"good", "middling", "fast"}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda s: with_metric(s, "robustness", "robustness", value=None, reason=Reason("too_few_classes")),
            Reason("of_block", block="robustness", reason=Reason("too_few_classes")),
        ),
        (lambda s: s | {"robustness": replace(s["robustness"], metrics={})}, Reason("no_metric", metric="robustness")),
    ],
)
def test_figures_that_cannot_be_trusted_are_missing_and_never_guessed(spoil, told):
    result = compare(*three(), run_of(spoil(results(5)), "odd"))
    row = result.tables["scores"].set_index("run").loc["odd"]
    (lacking,) = Reason.parse_cell(row["missing"]).values["qualities"]
    assert (lacking.values["quality"], lacking.values["reason"]) == ("robustness", told)
    assert not row["complete"]
    assert np.isnan(row["normalised/robustness"])
    assert np.isnan(result.tables["raw"].set_index("run").loc["odd", "robustness"])


def test_without_any_complete_model_nobody_is_ranked(draw_saved):
    for scale in ("fixed", "min_max"):
        result = compare(run_of(results(clusters=None), "a"), run_of({}, "b"), scale=scale)
        assert result.tables["scores"]["rank"].isna().all()
        assert draw_saved(result) == {}
        assert all(metric.value is None for metric in result.metrics.values())


def test_a_single_model_is_first_whatever_the_weights():
    row = compare(three()[0]).tables["scores"].iloc[0]
    assert row[["rank", "rank_low", "rank_high", "share_first", "share_first_resampled"]].tolist() == [1] * 5


def test_the_same_model_twice_shares_first_place():
    result = compare(run_of(results(), "a"), run_of(results(), "b"))
    table = result.tables["scores"]
    assert table["rank"].tolist() == [1, 1]
    assert table["share_first"].tolist() == [0.5, 0.5]
    assert table[["rank_low", "rank_high"]].to_numpy().tolist() == [[1, 2], [1, 2]]  # models err independently
    assert table["pareto"].all()


def test_a_dominated_model_is_never_on_the_front():
    saved = results()
    slow = with_metric(saved, "efficiency", "images_per_second/b1", value=60.0)
    large = with_metric(saved, "efficiency", "params_m", value=50.0)
    table = compare(run_of(saved, "a"), run_of(slow, "slow"), run_of(large, "large")).tables["scores"]
    assert table.set_index("run")["pareto"].to_dict() == {"a": True, "slow": False, "large": False}
    lean = with_metric(slow, "efficiency", "params_m", value=1.5)
    table = compare(run_of(saved, "a"), run_of(lean, "lean")).tables["scores"]
    assert table["pareto"].all()


def test_random_weightings_agree_with_a_loop():
    result = compare(*three(), seed=4)
    normalised = normalised_of(result)
    weights = np.random.default_rng(4).dirichlet(np.ones(7), 200)
    rank = np.array([rankdata(-(normalised[list(QUALITIES)].to_numpy() @ w), method="min") for w in weights])
    table = result.tables["scores"].set_index("run")
    assert table["share_first"].to_numpy() == pytest.approx((rank == 1).mean(axis=0))
    for name, share in (("low", 0.025), ("median", 0.5), ("high", 0.975)):
        expected = np.quantile(rank, share, axis=0, method="inverted_cdf")
        assert table[f"weighted_rank_{name}"].tolist() == expected.tolist()


def test_all_metrics_can_be_recomputed_from_what_is_saved(tmp_path: Path):
    result = compare(*three(), weights={**dict.fromkeys(QUALITIES, 1.0), "accuracy": 3.0})
    folder = result.save(tmp_path / "integrated_score")
    saved = Result.load(folder)
    weights = saved.tables["qualities"].set_index("quality")["weight"]
    normalised = normalised_of(saved)
    resamples = np.load(folder / "resamples.npz")
    for name, metric in result.metrics.items():
        label = name.removeprefix("score/")
        again = (normalised.loc[label] * weights).sum() / weights.sum()
        assert again == pytest.approx(metric.value, abs=1e-9)
        column = resamples["scores"][:, list(resamples["models"]).index(label)]
        assert np.quantile(column, [0.025, 0.975]) == pytest.approx([metric.low, metric.high], abs=1e-9)
    settings, raw = (
        saved.tables["qualities"].set_index("quality"),
        saved.tables["raw"].set_index("run").loc[normalised.index],
    )
    for key in QUALITIES:
        about, change = settings.loc[key], np.log if settings.loc[key, "log"] else np.asarray
        again = (change(raw[key]) - change(about["worst"])) / (change(about["best"]) - change(about["worst"]))
        assert np.asarray(again) == pytest.approx(normalised[key].to_numpy(), abs=1e-9)


def test_one_ranked_model_has_no_figures(draw_saved):
    result = compare(run_of(results(), "a"), run_of(results(out_of_domain=None), "b"))
    assert result.tables["scores"]["rank"].notna().sum() == 1
    assert draw_saved(result) == {}


@pytest.mark.parametrize("language", ["en", "ru"])
def test_figures_are_drawn_from_what_is_saved(language, draw_saved, inside):
    incomplete = run_of(results(3, out_of_domain=None), "another")
    with use_language(language):
        drawn = draw_saved(compare(*three(), incomplete))
    assert set(drawn) == {"profile", "ranks", "pareto"}
    assert [name for name, figure in drawn.items() if not inside(figure)] == []
    labels = [tick.get_text() for tick in drawn["profile"].axes[0].get_yticklabels()]
    assert labels[0].startswith("1. ")
    assert labels[-1] == "another"


def weights_of(*keys):
    return {key: float(key in keys) for key in QUALITIES}


def test_intervals_of_the_qualities_are_those_saved():
    saved = results()
    row = compare(run_of(saved), resamples=5000).tables["models"].iloc[0]
    of_sets = saved["out_of_domain"].metrics.values()
    for key, metrics in {
        "accuracy": [saved["blind_test"].metrics["accuracy"]],
        "calibration": [saved["calibration"].metrics["scaled/ece_15"]],
        "ood": list(of_sets),
    }.items():
        expected = [np.mean([metric.low for metric in metrics]), np.mean([metric.high for metric in metrics])]
        assert row[[f"{key}_low", f"{key}_high"]].tolist() == pytest.approx(expected, abs=1e-3)
    assert row["speed_low"] == row["speed"] == row["speed_high"]
    assert row["size_low"] == row["size"] == row["size_high"]


def test_intervals_of_another_level_are_converted():
    saved = results()
    accuracy = saved["blind_test"].metrics["accuracy"]
    saved["blind_test"].provenance["options"] = {"level": 0.5}
    row = compare(run_of(saved), resamples=5000, level=0.9).tables["models"].iloc[0]
    below, above = (accuracy.value - accuracy.low, accuracy.high - accuracy.value)
    widths = np.array([below, above]) * norm.ppf(0.95) / norm.ppf(0.75)
    expected = accuracy.value + widths * [-1, 1]
    assert row[["accuracy_low", "accuracy_high"]].tolist() == pytest.approx(expected.tolist(), rel=1e-3)


def test_the_interval_for_these_sources_is_read():
    beside = {"low": 0.7, "high": 0.85, "unit": "group", "units": 30}
    saved = with_metric(results(), "blind_test", "accuracy", value=0.8, low=0.5, high=0.95, these_sources=beside)
    result = compare(run_of(saved))
    row = result.tables["models"].iloc[0]
    assert row[["accuracy_low", "accuracy_high"]].tolist() == pytest.approx([0.7, 0.85], abs=0.01)
    metric = result.metrics["score/a"]
    assert (metric.n, metric.unit, metric.units, metric.population) == (N, "group", 30, "these sources")


def test_qualities_of_the_same_images_err_together():
    """The ends of a score are then the scores of the ends, whatever the direction of a quality."""
    saved = results()
    keys = ("accuracy", "robustness", "calibration", "separation")
    metric = compare(run_of(saved), resamples=5000, weights=weights_of(*keys)).metrics["score/a"]
    accuracy, robustness, error, separation = (
        saved[block].metrics[name]
        for block, name in (
            ("blind_test", "accuracy"),
            ("robustness", "robustness"),
            ("calibration", "scaled/ece_15"),
            ("clusters", "silhouette_cosine"),
        )
    )
    for end, other in (("low", "high"), ("high", "low")):
        parts = [(getattr(one, end) - 1 / 3) / (2 / 3) for one in (accuracy, robustness)]
        parts += [1 - getattr(error, other) / (2 / 3), getattr(separation, end)]
        assert getattr(metric, end) == pytest.approx(np.mean(parts), abs=1e-3)


def test_qualities_of_other_images_err_independently():
    """Symmetric half-widths are then added in quadrature."""
    saved = with_metric(results(), "blind_test", "accuracy", value=0.7, low=0.68, high=0.72)
    for name in ("cats", "mugs"):
        saved = with_metric(saved, "out_of_domain", f"auroc/{name}/energy", value=0.8, low=0.77, high=0.83)
    metric = compare(run_of(saved), resamples=20_000, weights=weights_of("accuracy", "ood")).metrics["score/a"]
    half = np.hypot(0.02 / (2 / 3), 0.03 / 0.5) / 2
    assert [metric.value - metric.low, metric.high - metric.value] == pytest.approx([half, half], rel=0.03)


def test_a_quality_without_interval_or_of_equal_ends_is_held_fixed():
    saved = with_metric(results(), "blind_test", "accuracy", low=None, high=None, interval=None)
    value = saved["robustness"].metrics["robustness"].value
    saved = with_metric(saved, "robustness", "robustness", low=value, high=value)
    result = compare(run_of(saved), run_of(results(1), "b"), weights=weights_of("accuracy", "robustness"))
    assert result.metrics["score/a"].low is None
    assert result.metrics["score/a"].reason == Reason("no_spread")
    assert result.metrics["score/b"].low < result.metrics["score/b"].high
    assert (result.arrays["resamples"]["scores"][:, 0] == result.arrays["resamples"]["scores"][0, 0]).all()


def test_draws_stay_inside_the_range():
    saved = with_metric(results(), "blind_test", "accuracy", value=0.99, low=0.9, high=1.0)
    drawn = compare(run_of(saved), weights=weights_of("accuracy")).arrays["resamples"]["scores"]
    assert drawn.max() == 1.0
    assert drawn.min() > 0


def test_seeds_of_a_recipe_are_averaged_and_drawn():
    pair = [run_of(results(i, right), f"two · seed {i}", "two", i) for i, right in ((1, 0.9), (2, 0.6))]
    result = compare(*pair, three()[0])
    table = result.tables["scores"].set_index("run")
    assert set(table.index) == {"two", "good"}
    assert table.loc["two", "seeds"] == 2
    accuracy = np.mean([one.saved("blind_test", "").metrics["accuracy"].value for one in pair])
    assert result.tables["models"].set_index("run").loc["two", "accuracy"] == pytest.approx(accuracy)
    assert result.metrics["score/two"].interval == "drawn from intervals by seed and group"
    assert len(result.tables["raw"]) == 3
    one = compare(pair[0]).metrics["score/two · seed 1"]
    both = result.metrics["score/two"]
    assert both.high - both.low > one.high - one.low  # seeds that differ widen it


def test_a_recipe_lacks_what_one_of_its_seeds_lacks():
    pair = [run_of(results(1), "two · seed 1", "two", 1), run_of(results(2, clusters=None), "two · seed 2", "two", 2)]
    table = compare(*pair, three()[0]).tables["scores"].set_index("run")
    assert not table.loc["two", "complete"]
    missing = format_reason(Reason.parse_cell(table.loc["two", "missing"]), "integrated_score")
    assert missing.endswith("(two · seed 2)")


def test_figures_that_do_not_rest_on_the_same_are_named():
    other = results(1)
    for name in ("blind_test", "out_of_domain"):
        other[name].provenance["data_fingerprint"] = "f2"
    other["efficiency"].provenance["machine"] = "another"
    other["robustness"].provenance["options"] = {"at": "native"}
    result = compare(run_of(results(0), "a"), run_of(other, "b"), run_of(results(2), "c"))
    assert result.warnings == [
        Reason("other_machines" if key == "speed" else "other_basis", quality=key, groups="a, c | b")
        for key in ("accuracy", "robustness", "ood", "speed")
    ]
    assert result.tables["scores"].set_index("run")["data_fingerprint"].to_dict() == {
        "a": "f1",
        "b": "f1|f2",
        "c": "f1",
    }


def test_other_sets_out_of_the_domain_are_named():
    other = results(1)
    other["out_of_domain"].provenance["sets"] = {"cats": "changed", "mugs": "m"}
    warnings = compare(run_of(results(), "a"), run_of(other, "b")).warnings
    assert warnings == [Reason("other_basis", quality="ood", groups="a | b")]


def test_options_that_only_move_intervals_are_not_told():
    other = results(1)
    other["blind_test"].provenance["options"] = {"seed": 5, "resamples": 100, "gallery": 3}
    assert compare(run_of(results(), "a"), run_of(other, "b")).warnings == []


def test_a_value_outside_its_range_is_told():
    saved = with_metric(results(), "efficiency", "images_per_second/b1", value=5000.0)
    said = compare(run_of(saved, "a"), run_of(results(1), "b")).warnings
    assert said == [Reason("clipped", quality="speed", names=["a"])]


def test_runs_of_other_classes_are_not_compared():
    with pytest.raises(BlockError, match="has the classes"):
        compare(run_of(results(), "a"), run_of(results(), "b", classes=("cat", "dog")))
    assert compare(run_of(results(), "a"), run_of(results(), "b", classes=CLASSES[::-1])).metrics


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"weights": {"accuracy": -1.0}}, "weights"),
        ({"weights": {"accuracy": float("nan")}}, "weights"),
        ({"weights": {"beauty": 1.0}}, "weights"),
        ({"weights": dict.fromkeys(QUALITIES, 0.0)}, "weights"),
        ({"ranges": {"beauty": [0.0, 1.0]}}, "no block declares the quality 'beauty'"),
        (
            {"ranges": {**IntegratedScore().ranges, "speed": [0.0, 100.0]}},
            "speed=[0.0, 100.0]: expected two numbers, worst and best, above 0",
        ),
        ({"ranges": {**IntegratedScore().ranges, "ood": [None, 1.0]}}, "ranges.ood"),
        ({"ranges": {**IntegratedScore().ranges, "ood": [0.5, 0.5]}}, "ranges.ood"),
        ({"ranges": {**IntegratedScore().ranges, "ood": [0.5]}}, "ranges.ood"),
        ({"scale": "z"}, "one of fixed, min_max"),
        ({"ood_score": "magic"}, "ood_score"),
        ({"weightings": 10}, "weightings"),
        ({"resamples": 10}, "resamples"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, told):
    with pytest.raises(ConfigError, match=r"block\.integrated_score") as caught:
        IntegratedScore(**options)
    assert told in str(caught.value)


def test_weights_of_the_command_line_are_put_into_the_rest():
    block = build_block("integrated_score", {"weights": {"speed": 0}, "ranges": {"size": [100, 1]}})
    assert block.qualities == tuple(key for key in QUALITIES if key != "speed")
    assert block.ranges["size"] == [100, 1]
    assert block.reads_results


def test_a_block_of_a_user_declares_a_quality(tmp_path: Path, monkeypatch):
    folder = tmp_path / "block" / "crops"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    stated = "{metric: accuracy_on_crops, worst: 0.0, best: 1.0}"
    (folder / "about.yaml").write_text(f"title: Crops\nqualities:\n  crops: {stated}\n", encoding="utf-8")
    monkeypatch.setenv("AVATAR_BENCH_CONF", str(tmp_path))
    metric = Metric(0.75, 40, 0.6, 0.85, "bootstrap by group")
    crops = Result("crops", "test", 40, CLASSES, {"accuracy_on_crops": metric}, provenance={"data_fingerprint": "f1"})
    runs = [run_of(results(0, crops=crops), "a"), run_of(results(1), "b")]
    result = compare(*runs)
    assert result.tables["qualities"]["quality"].tolist() == [*QUALITIES, "crops"]
    assert normalised_of(result).loc["a", "crops"] == 0.75
    assert result.tables["models"].set_index("run").loc["a", "crops_low"] == pytest.approx(0.6, abs=0.01)
    assert result.warnings == [Reason("not_ranked", n=1, all=2, names=["b"])]
    assert compare(*runs, weights={"crops": 0.0}).warnings == []
    (folder / "about.yaml").write_text("qualities: {crops: {metric: x}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"about\.yaml: qualities: .*best"):
        compare(*runs)
    (folder / "about.yaml").write_text("qualities: {speed: {metric: x, best: 1}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="efficiency and crops both declare a quality 'speed'"):
        compare(*runs)


def test_it_reads_what_the_blocks_themselves_save(oracle, fake_run, dataset_of, tmp_path: Path):
    """No quality from the real blocks is missing, and those of images have an interval."""
    inside, outside = oracle("noisy", 90), oracle("uniform", 60, seed=3)
    outside = replace(outside, targets=np.full(60, -1), groups=np.char.add("o", outside.groups))
    training = oracle("noisy", 90, seed=8)
    sets = {"mugs": (dataset_of(outside, "mugs"), outside)}
    run = fake_run(
        inside, calibration=oracle("noisy", 60, seed=5), training=training, ood=sets, preprocessing=PREPROCESSING
    )
    made = {"efficiency": results()["efficiency"]}
    for block in (BlindTest, Robustness, Calibration, OutOfDomain, Clusters):
        extra = {"delivery": ["web"], "severities": [1, 3]} if block is Robustness else {}
        found = block(resamples=100, **extra).evaluate(run, dataset_of(inside))
        made[found.block] = Result.load(found.save(tmp_path / found.block))
    result = compare(run_of(made, "true"), run_of(results(1), "other"))
    row = result.tables["scores"].set_index("run").loc["true"]
    assert row["complete"], row["missing"]
    assert result.tables["qualities"].set_index("quality")["resampled"].to_dict() == {
        **dict.fromkeys(QUALITIES, True),
        "speed": False,
        "size": False,
    }

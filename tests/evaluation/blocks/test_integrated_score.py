"""Tests of integrated_score: directions, ranges, completeness, ranks, and their intervals."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm, rankdata

from avatar_bench.data.transforms import Preprocessing
from avatar_bench.errors import BlockError, ConfigError
from avatar_bench.evaluation.block import build_block
from avatar_bench.evaluation.blocks.integrated_score import IntegratedScore
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Metric, Result
from tests.evaluation.conftest import CLASSES

N = 120
METRICS = {
    "accuracy": ("blind_test", "accuracy"),
    "robustness": ("robustness", "robustness"),
    "calibration": ("calibration", "scaled/ece_15"),
    "ood": ("out_of_domain", "auroc/cats/energy"),
    "separation": ("clusters", "silhouette_cosine"),
    "speed": ("efficiency", "images_per_second/b1"),
    "size": ("efficiency", "params_m"),
}
QUALITIES = tuple(METRICS)
RANGES = IntegratedScore().ranges


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
    made = {name: Result(name, "test", N, CLASSES, of, provenance=dict(about)) for name, of in metrics.items()}
    return made | changes


def run_of(saved, label="a", recipe=None, seed=1, classes=CLASSES):
    return SimpleNamespace(
        label=label, recipe=recipe or label, seed=seed, classes=classes, saved=lambda block, name: saved.get(block)
    )


def compare(*runs, **options):
    dataset = type("Dataset", (), {"name": "test", "__len__": lambda self: N})()
    return IntegratedScore(**{"resamples": 200, "weightings": 200, **options}).compare(runs, [dataset] * len(runs))


def get_metric(saved, quality):
    block, name = METRICS[quality]
    return saved[block].metrics[name]


def change(saved, quality, **fields):
    """Return results in which the Metric of a quality is replaced."""
    block, name = METRICS[quality]
    metrics = saved[block].metrics | {name: replace(saved[block].metrics[name], **fields)}
    return saved | {block: replace(saved[block], metrics=metrics)}


def list_scores(result):
    return result.tables["scores"].set_index("run")


def normalised_of(result):
    """Return the qualities of each model from 0 to 1, by the name of the quality."""
    return list_scores(result).filter(like="normalised/").rename(columns=lambda column: column[11:])


def weights_of(*keys):
    return {key: float(key in keys) for key in QUALITIES}


def three(**fields):
    """Return three runs, with the Metric of calibration replaced."""
    arguments = {"good": (0, 0.9, 50, 20), "middling": (1, 0.8, 100, 10), "fast": (2, 0.6, 200, 2)}
    return [run_of(change(results(*args), "calibration", **fields), label) for label, args in arguments.items()]


def test_a_score_equals_a_hand_count_also_on_the_scale_of_the_complete_and_moves_nobody_else():
    saved = results(0, 0.9, 50, 20)
    values = {quality: get_metric(saved, quality).value for quality in QUALITIES}
    aurocs = [metric.value for metric in saved["out_of_domain"].metrics.values()]
    expected = {
        "accuracy": (values["accuracy"] - 1 / 3) / (2 / 3),
        "robustness": (values["robustness"] - 1 / 3) / (2 / 3),
        "calibration": 1 - values["calibration"] / (2 / 3),
        "ood": (np.mean(aurocs) - 0.5) / 0.5,
        "separation": values["separation"],
        "speed": np.log10(50) / 3,
        "size": 1 - np.log10(20) / 3,
    }
    weights = dict(zip(QUALITIES, (3.0, 1.0, 2.0, 1.0, 0.5, 1.0, 0.25), strict=True))
    result = compare(*three(), weights=weights)
    assert normalised_of(result).loc["good"].to_dict() == pytest.approx(expected, abs=1e-12)
    score = sum(weights[name] * expected[name] for name in QUALITIES) / 8.75
    assert result.metrics["score/good"].value == pytest.approx(score, abs=1e-12)
    assert list_scores(result).loc["good", "score"] == result.metrics["score/good"].value
    many = compare(*three(), run_of(results(7, 0.95, 900, 1.1, 0.85), "wonder"), weights=weights)
    assert result.metrics == {name: metric for name, metric in many.metrics.items() if name != "score/wonder"}
    assert many.tables["scores"]["run"].iloc[0] == "wonder"
    runs = [*three(), run_of(results(3, 0.99, 5000, 0.1, clusters=None), "incomplete")]
    table = normalised_of(compare(*runs, scale="min_max"))[["speed", "size"]]
    assert table.loc[["fast", "good"]].to_numpy().tolist() == [[1, 1], [0, 0]]
    assert table.loc["middling", "speed"] == pytest.approx((100 - 50) / (200 - 50))  # linear, as in the study


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"higher_is_better": True}, {}),
        ({"higher_is_better": None}, {}),
        ({}, {"ranges": {**RANGES, "calibration": [0.0, 0.5]}}),
        ({}, {"ranges": {**RANGES, "speed": [1000.0, 1.0]}, "scale": "min_max"}),
    ],
)
def test_a_range_against_the_direction_of_its_metric_is_refused_unless_it_has_no_weight(fields, options):
    runs = [run_of(change(results(), "calibration", **fields), "a"), run_of(results(1), "b")]
    with pytest.raises(ConfigError, match="values as better") as caught:
        compare(*runs, **options)
    assert len(caught.value.lines) <= 3
    weights = dict.fromkeys(QUALITIES, 1.0) | {"calibration": 0.0, "speed": 0.0}
    assert "normalised/calibration" not in list_scores(compare(*runs, **options, weights=weights))


def test_a_model_without_out_of_domain_results_is_listed_and_not_ranked_and_no_metric_is_guessed():
    result = compare(*three(), run_of(results(3, out_of_domain=None), "blind to others"))
    row = list_scores(result).loc["blind to others"]
    assert not row[["complete", "pareto"]].any()
    assert row[["score", "rank", "rank_low", "share_first"]].isna().all()
    assert row["normalised/accuracy"] > 0  # what is known is shown
    missing = Reason.parse_cell(row["missing"])
    assert format_reason(missing, "integrated_score") == "ood: no usable Result of out_of_domain"
    metric = result.metrics["score/blind to others"]
    assert (metric.value, metric.reason) == (None, missing)
    assert result.tables["scores"]["run"].iloc[-1] == "blind to others"
    assert result.tables["scores"]["rank"].dropna().tolist() == [1, 2, 3]
    assert result.warnings == [Reason("not_ranked", n=1, all=4, names=["blind to others"])]
    assert set(result.tables["ranks"]["run"]) == {"good", "middling", "fast"}
    few, saved = Reason("too_few_classes"), results(5)
    for metrics, reason in (
        ({"robustness": Metric(None, 0, reason=few)}, Reason("of_block", block="robustness", reason=few)),
        ({}, Reason("no_metric", metric="robustness")),
    ):
        saved["robustness"].metrics = metrics
        result = compare(*three(), run_of(saved, "odd"))
        row = list_scores(result).loc["odd"]
        (lacking,) = Reason.parse_cell(row["missing"]).values["qualities"]
        assert (lacking.values["quality"], lacking.values["reason"]) == ("robustness", reason)
        assert not row["complete"]
        assert np.isnan(row["normalised/robustness"])
        assert np.isnan(result.tables["raw"].set_index("run").loc["odd", "robustness"])


@pytest.mark.parametrize("scale", ["fixed", "min_max"])
def test_without_two_complete_models_there_are_no_figures_and_without_one_nobody_is_ranked(scale, draw_saved):
    none = compare(run_of(results(clusters=None), "a"), run_of({}, "b"), scale=scale)
    assert none.tables["scores"]["rank"].isna().all()
    assert all(metric.value is None for metric in none.metrics.values())
    single = compare(run_of(results(), "a"), run_of(results(out_of_domain=None), "b"), scale=scale)
    assert single.tables["scores"]["rank"].notna().sum() == 1
    assert draw_saved(none) == draw_saved(single) == {}


def test_ranks_of_a_single_of_equal_and_of_dominated_models_and_of_random_weightings():
    row = compare(three()[0]).tables["scores"].iloc[0]
    assert row[["rank", "rank_low", "rank_high", "share_first", "share_first_resampled"]].tolist() == [1] * 5
    equal = compare(run_of(results(), "a"), run_of(results(), "b")).tables["scores"]
    assert equal["rank"].tolist() == [1, 1]
    assert equal["share_first"].tolist() == [0.5, 0.5]
    assert equal[["rank_low", "rank_high"]].to_numpy().tolist() == [[1, 2], [1, 2]]  # models err independently
    assert equal["pareto"].all()
    saved = results()
    slow, large = change(saved, "speed", value=60.0), change(saved, "size", value=50.0)
    table = list_scores(compare(run_of(saved, "a"), run_of(slow, "slow"), run_of(large, "large")))
    assert table["pareto"].to_dict() == {"a": True, "slow": False, "large": False}
    lean = change(slow, "size", value=1.5)
    assert list_scores(compare(run_of(saved, "a"), run_of(lean, "lean")))["pareto"].all()
    result = compare(*three(), seed=4)
    normalised, table = normalised_of(result)[list(QUALITIES)].to_numpy(), list_scores(result)
    weights = np.random.default_rng(4).dirichlet(np.ones(7), 200)
    rank = np.array([rankdata(-(normalised @ weight), method="min") for weight in weights])
    assert table["share_first"].to_numpy() == pytest.approx((rank == 1).mean(axis=0))
    for name, level in (("low", 0.025), ("median", 0.5), ("high", 0.975)):
        expected = np.quantile(rank, level, axis=0, method="inverted_cdf")
        assert table[f"weighted_rank_{name}"].tolist() == expected.tolist()


def test_metrics_and_intervals_can_be_recomputed_from_what_is_saved(tmp_path):
    result = compare(*three(), weights={**dict.fromkeys(QUALITIES, 1.0), "accuracy": 3.0})
    saved = Result.load(result.save(tmp_path / "integrated_score"), arrays=True)
    settings, normalised = saved.tables["qualities"].set_index("quality"), normalised_of(saved)
    weights, resamples = settings["weight"], saved.arrays["resamples"]
    for name, metric in result.metrics.items():
        label = name.removeprefix("score/")
        assert metric.value == pytest.approx((normalised.loc[label] * weights).sum() / weights.sum(), abs=1e-9)
        column = resamples["scores"][:, list(resamples["models"]).index(label)]
        assert np.quantile(column, [0.025, 0.975]) == pytest.approx([metric.low, metric.high], abs=1e-9)
    raw = saved.tables["raw"].set_index("run").loc[normalised.index]
    for key in QUALITIES:
        transform = np.log if settings.loc[key, "log"] else np.asarray
        worst, best = (transform(settings.loc[key, end]) for end in ("worst", "best"))
        np.testing.assert_allclose((transform(raw[key]) - worst) / (best - worst), normalised[key], atol=1e-9)
    saved = results()
    beside = {"low": 0.7, "high": 0.85, "unit": "group", "units": 30}
    result = compare(run_of(change(saved, "accuracy", value=0.8, low=0.5, high=0.95, these_sources=beside)))
    row, metric = result.tables["models"].iloc[0], result.metrics["score/a"]
    assert row[["accuracy_low", "accuracy_high"]].tolist() == pytest.approx([0.7, 0.85], abs=0.01)
    for key in ("speed", "size"):
        assert row[f"{key}_low"] == row[key] == row[f"{key}_high"]
    ood = np.array([[metric.low, metric.high] for metric in saved["out_of_domain"].metrics.values()]).mean(axis=0)
    assert row[["ood_low", "ood_high"]].tolist() == pytest.approx(ood.tolist(), abs=0.01)
    assert (metric.n, metric.unit, metric.units, metric.population) == (N, "group", 30, "these sources")
    accuracy = get_metric(saved, "accuracy")
    saved["blind_test"].provenance["options"] = {"level": 0.5}
    row = compare(run_of(saved), resamples=5000, level=0.9).tables["models"].iloc[0]
    widths = np.array([accuracy.low - accuracy.value, accuracy.high - accuracy.value])
    expected = accuracy.value + widths * norm.ppf(0.95) / norm.ppf(0.75)
    assert row[["accuracy_low", "accuracy_high"]].tolist() == pytest.approx(expected.tolist(), rel=1e-3)


def test_figures_rank_the_complete_models_and_end_with_the_others(drawn_whole, tmp_path):
    result = compare(*three(), run_of(results(3, out_of_domain=None), "another"))
    profile, *_ = drawn_whole(result.save(tmp_path / "integrated_score"), {"profile", "ranks", "pareto"})
    labels = [tick.get_text() for tick in profile.axes[0].get_yticklabels()]
    assert labels[0].startswith("1. ")
    assert labels[-1] == "another"


def test_qualities_err_together_or_independently_and_without_an_interval_are_held_fixed():
    saved, keys = results(), ("accuracy", "robustness", "calibration", "separation")
    metric = compare(run_of(saved), resamples=5000, weights=weights_of(*keys)).metrics["score/a"]
    accuracy, robustness, error, separation = (get_metric(saved, key) for key in keys)
    for end, other in (("low", "high"), ("high", "low")):  # the ends of a score are the scores of the ends
        parts = [(getattr(proportion, end) - 1 / 3) / (2 / 3) for proportion in (accuracy, robustness)]
        parts += [1 - getattr(error, other) / (2 / 3), getattr(separation, end)]
        assert getattr(metric, end) == pytest.approx(np.mean(parts), abs=1e-3)
    saved = change(results(), "accuracy", value=0.7, low=0.68, high=0.72)
    aurocs = saved["out_of_domain"].metrics
    aurocs |= {name: replace(metric, value=0.8, low=0.77, high=0.83) for name, metric in aurocs.items()}
    metric = compare(run_of(saved), resamples=20_000, weights=weights_of("accuracy", "ood")).metrics["score/a"]
    half = np.hypot(0.02 / (2 / 3), 0.03 / 0.5) / 2  # symmetric half-widths are added in quadrature
    assert [metric.value - metric.low, metric.high - metric.value] == pytest.approx([half, half], rel=0.03)
    saved = change(results(), "accuracy", low=None, high=None, interval=None)
    value = get_metric(saved, "robustness").value
    saved = change(saved, "robustness", low=value, high=value)
    result = compare(run_of(saved), run_of(results(1), "b"), weights=weights_of("accuracy", "robustness"))
    assert (result.metrics["score/a"].low, result.metrics["score/a"].reason) == (None, Reason("no_spread"))
    assert result.metrics["score/b"].low < result.metrics["score/b"].high
    assert np.ptp(result.arrays["resamples"]["scores"][:, 0]) == 0
    high = change(results(), "accuracy", value=0.99, low=0.9, high=1.0)
    drawn = compare(run_of(high), weights=weights_of("accuracy")).arrays["resamples"]["scores"]
    assert drawn.max() == 1.0
    assert drawn.min() > 0


def test_seeds_of_a_recipe_are_averaged_and_drawn_and_it_lacks_what_one_of_them_lacks():
    saved = {seed: results(seed, right) for seed, right in ((1, 0.9), (2, 0.6))}
    pair = [run_of(of_seed, f"two · seed {seed}", "two", seed) for seed, of_seed in saved.items()]
    result = compare(*pair, three()[0])
    assert list_scores(result)["seeds"].to_dict() == {"two": 2, "good": 1}
    accuracy = np.mean([get_metric(of_seed, "accuracy").value for of_seed in saved.values()])
    assert result.tables["models"].set_index("run").loc["two", "accuracy"] == pytest.approx(accuracy)
    assert len(result.tables["raw"]) == 3
    both, single = result.metrics["score/two"], compare(pair[0]).metrics["score/two · seed 1"]
    assert both.interval == "drawn from intervals by seed and group"
    assert both.high - both.low > single.high - single.low  # seeds that differ widen it
    pair[1] = run_of(results(2, clusters=None), "two · seed 2", "two", 2)
    row = list_scores(compare(*pair, three()[0])).loc["two"]
    assert not row["complete"]
    assert format_reason(Reason.parse_cell(row["missing"]), "integrated_score").endswith("(two · seed 2)")


def test_runs_of_other_classes_are_not_compared_and_metrics_that_do_not_rest_on_the_same_are_named():
    other = results(1)
    for name in ("blind_test", "out_of_domain"):
        other[name].provenance["data_fingerprint"] = "f2"
    other["efficiency"].provenance["machine"] = "another"
    other["robustness"].provenance["options"] = {"at": "native"}
    result = compare(run_of(results(0), "a"), run_of(other, "b"), run_of(results(2), "c"))
    bases = {"accuracy": "other_basis", "robustness": "other_basis", "ood": "other_basis", "speed": "other_machines"}
    assert result.warnings == [Reason(code, quality=key, groups="a, c | b") for key, code in bases.items()]
    assert list_scores(result)["data_fingerprint"].to_dict() == {"a": "f1", "b": "f1|f2", "c": "f1"}
    block = build_block("integrated_score", {"weights": {"speed": 0}, "ranges": {"size": [100, 1]}})
    assert block.qualities == tuple(key for key in QUALITIES if key != "speed")
    assert block.ranges == RANGES | {"size": [100, 1]}
    assert block.reads_results
    with pytest.raises(BlockError, match="has the classes"):
        compare(run_of(results(), "a"), run_of(results(), "b", classes=("cat", "dog")))
    assert compare(run_of(results(), "a"), run_of(results(), "b", classes=CLASSES[::-1])).metrics


@pytest.mark.parametrize(
    ("block", "provenance", "warnings"),
    [
        ("out_of_domain", {"sets": {"cats": "x", "mugs": "m"}}, [Reason("other_basis", quality="ood", groups="a | b")]),
        ("blind_test", {"options": {"seed": 5, "resamples": 100, "gallery": 3}}, []),  # these move intervals alone
    ],
)
def test_other_sets_and_values_outside_a_range_are_named_and_other_intervals_are_not(block, provenance, warnings):
    other = results(1)
    other[block].provenance |= provenance
    assert compare(run_of(results(), "a"), run_of(other, "b")).warnings == warnings
    fast = change(other, "speed", value=5000.0)  # outside its range
    clipped = Reason("clipped", quality="speed", names=["b"])
    assert compare(run_of(results(), "a"), run_of(fast, "b")).warnings == [*warnings, clipped]


def test_a_block_of_a_user_declares_a_quality(tmp_path, monkeypatch):
    folder = tmp_path / "block" / "crops"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    about = folder / "about.yaml"
    about.write_text("title: Crops\nqualities: {crops: {metric: accuracy_on_crops, worst: 0.0, best: 1.0}}\n")
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
    for declared, message in (
        ("{crops: {metric: x}}", r"about\.yaml: qualities.crops.best is missing"),
        ("{speed: {metric: x, best: 1}}", "efficiency and crops both declare a quality 'speed'"),
    ):
        about.write_text(f"qualities: {declared}\n")
        with pytest.raises(ConfigError, match=message):
            compare(*runs)


def test_it_reads_what_the_blocks_themselves_save(oracle, fake_run, dataset_of, tmp_path):
    """No quality from the real blocks is missing, and those of images have an interval."""
    inside, outside = oracle("noisy", 90), oracle("uniform", 60, seed=3)
    outside = replace(outside, targets=np.full(60, -1), groups=np.char.add("o", outside.groups))
    others = {"calibration": oracle("noisy", 60, seed=5), "training": oracle("noisy", 90, seed=8)}
    others |= {"ood": {"mugs": (dataset_of(outside, "mugs"), outside)}}
    run = fake_run(inside, preprocessing=Preprocessing(8, "squash", (0.5,) * 3, (0.2,) * 3), **others)
    saved = {"efficiency": results()["efficiency"]}
    for block in ("blind_test", "robustness", "calibration", "out_of_domain", "clusters"):
        options = {"delivery": ["web"], "severities": [1, 3]} if block == "robustness" else {}
        result = build_block(block, {"resamples": 100} | options).evaluate(run, dataset_of(inside))
        saved[block] = Result.load(result.save(tmp_path / block))
    result = compare(run_of(saved, "true"), run_of(results(1), "other"))
    row = list_scores(result).loc["true"]
    assert row["complete"], row["missing"]
    resampled = result.tables["qualities"].set_index("quality")["resampled"].to_dict()
    assert resampled == dict.fromkeys(QUALITIES, True) | {"speed": False, "size": False}

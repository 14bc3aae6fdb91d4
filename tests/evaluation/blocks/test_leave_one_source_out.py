"""Tests of leave_one_source_out: recall by source, its mean and worst, and the runs that are compared."""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from avatar_bench.errors import BlockError
from avatar_bench.evaluation.blocks.leave_one_source_out import LeaveOneSourceOut
from avatar_bench.evaluation.blocks.leave_one_source_out.figures import draw_heatmap
from avatar_bench.i18n import use_language
from avatar_bench.metrics import stats
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Result
from avatar_bench.runs.decisions import make_decision_rule
from tests.evaluation.conftest import CLASSES


@pytest.fixture(scope="module")
def left_out(make_predictions, fake_run, dataset_of):
    """Build a run that held out one source of one class, and the dataset that it is evaluated on.

    `right` (N,) marks the correct predictions, or (correct, N) counts them; the others are the next class.
    """

    def build(source, target, right, recipe="net", seed=0, by="source", groups=None, column=None, split=None, **fields):
        if isinstance(right, tuple):
            right = np.arange(right[1]) < right[0]
        n, targets = len(right), np.full(len(right), CLASSES.index(target))
        logits = 5.0 * np.eye(3)[np.where(right, targets, (targets + 1) % 3)]
        about = {"sources": [source] * n, "paths": [f"{source}/{i:03}.png" for i in range(n)]}
        about["groups"] = [f"{source}{group}" for group in (range(n) if groups is None else groups)]
        predictions = make_predictions(targets, logits, **about)
        split = {"by": by, "held_out": [source], "seed": 0} | (split or {})
        config = {"seed": seed, "model": {"backbone": recipe}, "data": {"split": split}}
        record = {"name": recipe, "mode": "frozen", "metrics": {"val/accuracy": 0.9}} | fields
        names = dict.fromkeys(("label", "recipe"), f"{recipe} without {source}")
        run = fake_run(predictions, seed=seed, config=config, record=record, **names)
        dataset = dataset_of(predictions, **{by: column or [source] * n})
        run.dataset = lambda name: dataset
        return run, dataset

    return build


def compare(*pairs, **options):
    runs, datasets = zip(*pairs, strict=True)
    return LeaveOneSourceOut(**{"resamples": 300, **options}).compare(runs, datasets)


def test_recall_of_each_source_its_mean_and_its_worst_equal_a_hand_count(left_out, draw_saved):
    rows = (("studio", "real", (40, 50)), ("2019", "drawing", (27, 30)), ("gan", "generated", (10, 40)))
    result = compare(*(left_out(*row) for row in rows))
    matrix = result.tables["matrix"].set_index("source")
    assert dict(matrix["recall"]) == pytest.approx({"studio": 0.8, "2019": 0.9, "gan": 0.25})
    assert (matrix.loc["gan", "low"], matrix.loc["gan", "high"]) == stats.wilson(10, 40)
    assert matrix.loc["gan", "predicted_as_real"] == 0.75
    assert matrix.loc["studio", "predicted_as_drawing"] == pytest.approx(0.2)
    assert set(matrix["target"]) == set(CLASSES)
    mean, worst = result.metrics["mean"], result.metrics["worst"]
    assert mean.value == pytest.approx((0.8 + 0.9 + 0.25) / 3)
    assert (mean.n, mean.interval, mean.floor) == (120, "bootstrap by group", 1 / 3)
    assert 0.55 < mean.low < mean.value < mean.high < 0.75
    assert Reason("class_of_one_source", names=list(CLASSES)) in result.warnings
    assert (worst.value, worst.low, worst.high) == (0.25, *stats.wilson(10, 40, 1 - 0.05 / 3))
    assert (worst.n, worst.interval) == (40, "Bonferroni by group")
    summary = result.tables["summary"].iloc[0]
    assert (summary["worst_source"], summary["worst_target"], summary["in_domain"]) == ("gan", "generated", 0.9)
    assert result.metrics["sources"].value == 3
    figures = draw_saved(result)
    for name in ("predicted_as", "recall"):  # name a source whose name is a number
        rows = {tick.get_text() for tick in figures[name].axes[0].get_yticklabels()}
        assert rows == {"2019, drawing (n = 30)", "studio, real (n = 50)", "gan, generated (n = 40)"}
    # the interval of the worst holds whichever source is truly the worst
    worst = compare(left_out("small", "real", (10, 20)), left_out("large", "real", (208, 400))).metrics["worst"]
    assert (worst.value, worst.low) == (0.5, stats.wilson(10, 20, 0.975)[0])
    assert worst.high == stats.wilson(208, 400, 0.975)[1] < stats.wilson(10, 20, 0.975)[1]


def test_intervals_of_the_mean_draw_sources_within_each_class_and_those_held_out_together(left_out):
    counts = {"real": (10, 10, 10, 10), "drawing": (40, 40), "generated": (12, 25, 38)}
    rng = np.random.default_rng(0)
    pairs = [
        left_out(f"{target}{k}", target, rng.permutation(np.arange(40) < right))
        for target, rights in counts.items()
        for k, right in enumerate(rights)
    ]
    mean = compare(*pairs, resamples=1000).metrics["mean"]
    assert (mean.n, mean.interval) == (9, "bootstrap by source and group")
    assert mean.value == pytest.approx((0.25 + 1 + 25 / 40) / 3)
    # classes differ, which no draw of sources changes: the variance is that within classes, of sources and of images
    images = [np.mean([r * (40 - r) / 40**3 for r in rights]) / len(rights) for rights in counts.values()]
    spread = np.sqrt(np.sum(images) + np.var(counts["generated"]) / 40**2 / 3) / 3
    half = scipy.stats.t.ppf(0.975, 6) * np.sqrt(9 / 6) * spread
    assert (mean.low, mean.high) == pytest.approx((mean.value - half, mean.value + half), abs=0.02)

    def evaluate(units):
        right = [(40 * (k < 6), 40) for k in range(12)]
        pairs = [left_out(f"s{k}", CLASSES[k % 3], right[k], split={"units": units}) for k in range(12)]
        return compare(*pairs, resamples=1000)

    alone = evaluate({}).metrics["mean"]
    together = evaluate({"a": [f"s{k}" for k in range(6)], "b": [f"s{k}" for k in range(6, 12)]})
    assert set(together.tables["matrix"]["unit"]) == {"a", "b"}
    assert together.metrics["mean"].value == alone.value == 0.5
    assert (together.metrics["mean"].low, together.metrics["mean"].high) == (0, 1)
    assert alone.low > 0.1


def test_a_source_below_the_minimum_is_listed_and_has_no_part_in_mean_and_worst(left_out, draw_saved):
    large, small = left_out("studio", "real", (40, 50)), left_out("street", "real", (0, 19))
    result = compare(large, small)
    assert result.tables["matrix"].set_index("source")["counted"].to_dict() == {"studio": True, "street": False}
    assert result.metrics["mean"].value == result.metrics["worst"].value == 0.8
    assert result.warnings[0] == Reason("small_sources", n=20, names=["street"])
    assert compare(large, small, minimum=19).metrics["worst"].value == 0
    alone = compare(small)
    for name in ("mean", "worst"):
        assert (alone.metrics[name].value, alone.metrics[name].reason) == (None, Reason("no_large_source", n=20))
    assert set(draw_saved(alone)) == {"recall", "predicted_as"}


def test_rows_are_of_recipes_on_held_out_sources_with_intervals_of_seeds_and_groups(left_out):
    right = (np.random.default_rng(0).random(12) < 0.7).repeat(5)
    row = compare(left_out("studio", "real", right, groups=np.arange(60) // 5)).tables["matrix"].iloc[0]
    assert (row["n"], row["groups"], row["interval"]) == (60, 12, "bootstrap by group")
    low, high = stats.wilson(int(right.sum()), 60)
    assert row["high"] - row["low"] > 1.5 * (high - low)
    runs = (("a", 1, 20), ("a", 2, 40), ("b", 1, 30))
    pairs = [left_out("ink", "drawing", (right, 40), recipe, seed) for recipe, seed, right in runs]
    matrix = compare(*pairs).tables["matrix"].set_index("recipe")
    assert matrix.loc["a frozen", ["recall", "interval"]].tolist() == [0.75, "bootstrap by seed and group"]
    assert list(matrix["seeds"]) == [2, 1]
    first, (run, dataset) = left_out("studio", "real", (40, 50)), left_out("ink", "drawing", (30, 50))
    turned = run.predictions(dataset).reorder(CLASSES[::-1])
    run.classes, run.predictions = turned.classes, lambda dataset: turned
    matrix = compare(first, (run, dataset)).tables["matrix"].set_index("source")
    assert (matrix.loc["ink", "recall"], matrix.loc["ink", "predicted_as_generated"]) == pytest.approx((0.6, 0.4))
    column = ["gan"] * 30 + [""] * 10  # where a generator is held out, test may hold images without one
    row = compare(left_out("gan", "generated", (20, 40), by="generator", column=column)).tables["matrix"].iloc[0]
    assert (row["n"], row["recall"]) == (30, pytest.approx(2 / 3))
    assert compare(left_out("studio", "real", (40, 50), split={"held_out": []})).metrics["recall/studio"].value == 0.8


def test_oracles_recognise_all_a_third_and_nothing(left_out):
    perfect = compare(left_out("studio", "real", (100, 100)), left_out("ink", "drawing", (25, 25))).metrics
    assert perfect["mean"].value == 1
    assert perfect["worst"].low == pytest.approx(stats.wilson(25, 25, 0.975)[0])
    rng = np.random.default_rng(0)
    uniform = compare(*(left_out(f"s{i}", CLASSES[i % 3], rng.random(60) < 1 / 3) for i in range(9))).metrics["mean"]
    assert uniform.low < 1 / 3 < uniform.high
    nothing = compare(left_out("studio", "real", (0, 100)))  # a result, and no alarm of a wrong class order
    assert nothing.metrics["worst"].value == 0
    assert nothing.tables["matrix"].loc[0, "predicted_as_drawing"] == 1
    counts = {"real": 5, "drawing": 2, "generated": 3}
    pairs = [
        left_out(f"{target}{k}", target, ((20 + k) * (target == "real"), 20 + k))
        for target, count in counts.items()
        for k in range(count)
    ]
    mean = compare(*pairs).metrics["mean"]
    assert (mean.value, mean.floor) == (pytest.approx(1 / 3), 1 / 3)  # one prediction for every image
    assert compare(*pairs[:7]).metrics["mean"].value == 1 / 2  # of the classes of which a source was held out


def test_other_runs_are_left_out_and_what_cannot_be_compared_is_refused(left_out, fake_run, dataset_of, oracle):
    plain = fake_run(oracle("noisy")), dataset_of(oracle("noisy"))
    result = compare(left_out("studio", "real", (40, 50)), plain, plain)
    assert result.warnings[0] == Reason("runs_without_held_out", n=2, all=3)
    assert result.n == 50
    pairs = [left_out("ink", "drawing", (30, 40), recipe=recipe) for recipe in "ab"]
    result = compare(*pairs, left_out("gan", "generated", (30, 40), recipe="b"))
    text = "Recipe a frozen has no run that held out gan, unlike other recipes."
    assert text in [format_reason(warning, "leave_one_source_out") for warning in result.warnings]
    with pytest.raises(BlockError, match="sweep=leave_one_source_out"):
        compare(plain)
    with pytest.raises(BlockError, match="split=test"):
        compare(left_out("studio", "real", (40, 50), column=["another"] * 50))
    with pytest.raises(BlockError, match="different images of ink"):
        compare(left_out("ink", "drawing", (3, 40), seed=1), left_out("ink", "drawing", (3, 41), seed=2))
    recipes = recipes_by_source(left_out)
    with pytest.raises(BlockError, match=r"base=b froze: no such recipe.*b frozen"):
        compare(*recipes, base="b froze")
    with pytest.raises(BlockError, match="base=frozen: several recipes end like this"):
        compare(*recipes, base="frozen")


def test_every_metric_can_be_recomputed_from_the_saved_images(left_out, tmp_path):
    rng = np.random.default_rng(0)
    cases = product((("studio", "real", 50), ("ink", "drawing", 30), ("gan", "generated", 15)), "ab", (1, 2))
    pairs = [left_out(source, of, rng.random(n) < 0.7, recipe, seed) for (source, of, n), recipe, seed in cases]
    loaded = Result.load(compare(*pairs).save(tmp_path / "leave_one_source_out"))
    table = loaded.tables["images"]
    recall = (table["prediction"] == table["target"]).groupby([table["recipe"], table["source"]]).mean()
    sizes = table.groupby("source")["path"].nunique()
    matrix = loaded.tables["matrix"].set_index(["recipe", "source"])["recall"]
    assert matrix.to_dict() == pytest.approx(recall.to_dict())
    for recipe in ("a frozen", "b frozen"):
        counted = recall[recipe][sizes >= 20]
        expected = {f"recall/{source}/{recipe}": recall[recipe, source] for source in sizes.index}
        expected |= {f"mean/{recipe}": counted.mean(), f"worst/{recipe}": counted.min()}
        assert {name: loaded.metrics[name].value for name in expected} == pytest.approx(expected, abs=1e-6)


def recipes_by_source(left_out):
    """Return runs of two recipes, each with two seeds, on twelve sources; the second recipe is better on most."""
    rng = np.random.default_rng(0)
    return [
        left_out(f"s{k}", CLASSES[k % 3], rng.random(30 + k) < min(1, base + 0.2 * (recipe == "b")), recipe, seed)
        for k, base in enumerate(np.linspace(0.1, 0.9, 12))
        for recipe in "ab"
        for seed in (1, 2)
    ]


def test_gains_over_the_base_are_over_common_sources_with_seeds_averaged_and_cost_accuracy_and_seconds(left_out):
    result = compare(*recipes_by_source(left_out), resamples=1000)
    table, gain = result.tables["images"], result.metrics["gain/b frozen"]
    recall = table.groupby(["recipe", "source", "seed"])["correct"].mean().groupby(["recipe", "source"]).mean()
    assert gain.value == pytest.approx((recall["b frozen"] - recall["a frozen"]).mean())
    assert (gain.n, gain.interval) == (12, "stratified t by source")
    assert "gain/a frozen" not in result.metrics
    # of classes of four sources, by hand, after Satterthwaite
    gains = (recall["b frozen"] - recall["a frozen"]).to_numpy()
    by_class = [gains[[int(name[1:]) % 3 == k for name in recall["a frozen"].index]] for k in range(3)]
    variances = np.array([of_class.var(ddof=1) / 4 / 9 for of_class in by_class])
    half = scipy.stats.t.ppf(0.975, variances.sum() ** 2 / (variances**2 / 3).sum()) * variances.sum() ** 0.5
    assert (gain.low, gain.high) == pytest.approx((gain.value - half, gain.value + half))
    other = compare(*recipes_by_source(left_out), resamples=1000, base="b frozen").metrics["gain/a frozen"]
    assert (other.value, other.low, other.high) == pytest.approx((-gain.value, -gain.high, -gain.low))
    common = [left_out("s1", "real", (right, 40), recipe) for recipe, right in (("a", 10), ("b", 30))]
    apart = [left_out("s2", "real", (0, 40), "a"), left_out("s3", "real", (40, 40), "b")]
    other = [left_out("s4", "real", (n, n), recipe) for recipe, n in (("a", 40), ("b", 50))]
    result = compare(*common, *apart, *other)
    assert result.metrics["gain/b frozen"].value == pytest.approx(0.5)
    assert result.tables["summary"].set_index("recipe").loc["b frozen", "gain_sources"] == 1
    gain = compare(*apart).metrics["gain/b frozen"]
    assert (gain.value, gain.reason) == (None, Reason("no_common_source"))
    records = {"a": {"metrics": {"val/accuracy": 0.9}, "train_seconds": 10}, "b": {"metrics": {"val/accuracy": 0.85}}}
    result = compare(*(left_out("s", "real", (20, 40), recipe, **record) for recipe, record in records.items()))
    assert result.tables["summary"].set_index("recipe").loc["b frozen", "in_domain_gain"] == pytest.approx(-0.05)
    assert result.metrics["in_domain/a frozen"].value == 0.9
    assert result.metrics["train_seconds/a frozen"].value == 10
    assert result.metrics["train_seconds/b frozen"].reason == Reason("not_recorded")


def test_promises_and_each_networks_own_rule_on_held_out_sources_are_counted_by_hand(left_out, calibrated, oracle):
    right = {f"s{index}": (index > 0) * 12 for index in range(12)}
    runs = [left_out(source, CLASSES[index % 3], (n, 12)) for index, (source, n) in enumerate(right.items())]
    table = compare(*runs, targets=[0.1], betas=[0.1, 0.2], minimum=1).tables["promises"]
    by_source = table[table["rule"] == "source"].set_index(["calibrated_on", "beta"])
    columns = ["units", "fits", "coverage", "counted", "broken", "fraction"]
    only = by_source.loc[("others", 0.2), columns]  # the one fit without s0 answers s0 alone, all of it wrongly
    assert only.tolist() == pytest.approx([12, 1 / 12, 1 / 12, 1, 1, 1.0])
    for case in (("others", 0.1), ("half", 0.1), ("half", 0.2)):  # too few sources for any test
        assert by_source.loc[case, columns].tolist()[:5] == [12, 0, 0, 0, 0]
    assert table["fits"].between(0, 1).all()
    joined = [left_out(source, "real", (12, 12), split={"units": {"pair": ["s0", "s1"]}}) for source in right]
    table = compare(*joined, targets=[0.1], betas=[0.2], minimum=1).tables["promises"]
    assert (table["units"] == 11).all()
    assert set(table["rule"]) == {"source"}  # these runs have no rule of their own
    assert table.set_index("calibrated_on").loc["others", columns[:5]].tolist() == [11, 0, 0, 0, 0]
    assert compare(left_out("s0", "real", (12, 12))).tables["promises"].empty
    pairs = [left_out(f"s{index}", "real", (20 - 8 * index, 20)) for index in range(3)]
    for run, __ in pairs:
        vars(run).update(calibrated(oracle("noisy", n=400, seed=5)))
        decisions = replace(run.decision_calibration.decisions, reference=None, ood_percentile=None)
        run.decision_calibration = replace(run.decision_calibration, decisions=decisions)
    (row,) = compare(*pairs, targets=[0.3], betas=[]).tables["promises"].to_dict("records")
    value = make_decision_rule(pairs[0][0], 0.3).thresholds[""].value
    confidence = np.exp(5) / (np.exp(5) + 2)  # of all images
    assert value < confidence
    assert (row["coverage"], row["counted"], row["broken"]) == (1, 3, 2)  # errors of 0, .4 and .8
    assert (row["calibrated_on"], row["rule"], row["fits"]) == ("its own", "image", 1)


def test_curves_and_heatmaps_of_many_recipes_are_drawn_from_means_over_sources(left_out, draw_saved, inside):
    rng = np.random.default_rng(0)
    pairs = []
    for k, number, seed in product(range(6), (1, 2, 8), (1, 2)):
        right = rng.random(40) < 0.2 + 0.02 * k + 0.1 * np.log2(number)
        pairs.append(left_out(f"s{k}", "real", right, seed=seed, split={"train_sources": number}))
    result = compare(*pairs)
    images = result.tables["images"]
    number = images["recipe"].str.extract(r"train_sources=(\d)")[0].astype(int)
    recall = images.groupby([number, "source"])["correct"].mean().groupby(level=0).mean()
    assert result.tables["curve"].set_index("train_sources")["mean"].to_dict() == pytest.approx(recall.to_dict())
    slope = scipy.stats.linregress(np.log2(recall.index.to_numpy(float)), recall.to_numpy()).slope
    gain = result.metrics["gain_per_doubling"]
    assert gain.value == pytest.approx(slope)
    assert 0 < gain.low < slope < gain.high
    with use_language("ru"):
        figures = draw_saved(result)
        assert inside(figures["curve"])
        assert inside(figures["gain"])
    pairs = [left_out("studio", "real", (2 * n, 20), f"backbone{n}") for n in range(5)]
    assert set(draw_saved(compare(*pairs, resamples=100))) == {"predicted_as", "by_recipe", "gain"}
    rng = np.random.default_rng(0)
    recipes = [f"efficientnet_lite0 probe augmentation=delivery, mode.C={n}" for n in range(5)]
    keys = [(recipe, f"source-{k:02}", CLASSES[k % 3], 12 + k) for recipe in recipes for k in range(45)]
    matrix = pd.DataFrame(keys, columns=["recipe", "source", "target", "n"])
    matrix = matrix.assign(recall=rng.random(len(matrix)), counted=matrix["n"] >= 20)
    summary = pd.DataFrame({"recipe": recipes, "mean": 0.5, "worst": 0.0})
    tables = {"matrix": matrix, "summary": summary}
    figure = draw_heatmap(Result("leave_one_source_out", "test", 99, CLASSES, tables=tables))
    assert inside(figure)
    assert len(figure.axes[0].texts) == 47 * 5
    ticks = figure.axes[0].get_yticklabels()
    rows = [tick.get_window_extent() for tick in ticks]
    assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(rows))
    assert sum(tick.get_text().startswith("[") for tick in ticks) == 8

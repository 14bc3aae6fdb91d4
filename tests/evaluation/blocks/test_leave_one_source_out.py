"""Tests of leave_one_source_out: recall by source, its mean and worst, and the runs that are compared."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from avatar_bench.errors import BlockError, ConfigError
from avatar_bench.evaluation.blocks.leave_one_source_out import LeaveOneSourceOut
from avatar_bench.evaluation.blocks.leave_one_source_out.figures import draw_heatmap
from avatar_bench.i18n import use_language
from avatar_bench.metrics import stats
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Result

CLASSES = ("drawing", "generated", "real")


@pytest.fixture
def left_out(make_predictions, fake_run, dataset_of):
    """Build a run that held out one source of one class, and the dataset that it is evaluated on.

    `right` (N,) marks the correct predictions; the others are the next class.
    """

    def build(source, target, right, recipe="net", seed=0, by="source", groups=None, column=None, **fields):
        right = np.asarray(right, dtype=bool)
        targets = np.full(len(right), CLASSES.index(target))
        logits = 5.0 * np.eye(3)[np.where(right, targets, (targets + 1) % 3)]
        texts = [f"{source}{g}" for g in (range(len(right)) if groups is None else groups)]
        predictions = make_predictions(
            targets,
            logits,
            groups=texts,
            sources=[source] * len(right),
            paths=[f"{source}/{i:03}.png" for i in range(len(right))],
        )
        split = {"by": by, "held_out": [source], "seed": 0}
        run = fake_run(
            predictions,
            label=f"{recipe} without {source}",
            recipe=f"{recipe} without {source}",
            seed=seed,
            config={"seed": seed, "model": {"backbone": recipe}, "data": {"split": split}},
            record={"name": recipe, "mode": "frozen", "metrics": {"val/accuracy": 0.9}} | fields,
        )
        return run, dataset_of(predictions, **({by: column} if column else {by: [source] * len(right)}))

    return build


@pytest.fixture
def compare():
    def run(*pairs, **options):
        runs, datasets = zip(*pairs, strict=True)
        return LeaveOneSourceOut(**{"resamples": 300, **options}).compare(runs, datasets)

    return run


def share(n, right):
    return np.arange(n) < right


def test_recall_of_each_source_its_mean_and_its_worst_equal_a_hand_count(compare, left_out):
    result = compare(
        left_out("studio", "real", share(50, 40)),
        left_out("ink", "drawing", share(30, 27)),
        left_out("gan", "generated", share(40, 10)),
    )
    matrix = result.tables["matrix"].set_index("source")
    assert dict(matrix["recall"]) == pytest.approx({"studio": 0.8, "ink": 0.9, "gan": 0.25})
    assert (matrix.loc["gan", "low"], matrix.loc["gan", "high"]) == stats.wilson(10, 40)
    assert matrix.loc["gan", "predicted_as_real"] == 0.75
    assert matrix.loc["studio", "predicted_as_drawing"] == pytest.approx(0.2)
    assert set(matrix["target"]) == set(CLASSES)
    mean, worst = result.metrics["mean"], result.metrics["worst"]
    assert mean.value == pytest.approx((0.8 + 0.9 + 0.25) / 3)
    assert (mean.n, mean.interval, mean.floor) == (120, "bootstrap by group", 1 / 3)
    assert 0.55 < mean.low < mean.value < mean.high < 0.75
    assert Reason("class_of_one_source", names=list(CLASSES)) in result.warnings
    joint = 1 - 0.05 / 3
    assert (worst.value, worst.low, worst.high) == (0.25, *stats.wilson(10, 40, joint))
    assert (worst.n, worst.interval) == (40, "Bonferroni by group")
    summary = result.tables["summary"].iloc[0]
    assert (summary["worst_source"], summary["worst_target"], summary["in_domain"]) == ("gan", "generated", 0.9)
    assert result.metrics["sources"].value == 3


def test_the_same_answer_to_every_image_has_one_over_the_number_of_classes(compare, left_out):
    counts = {"real": 5, "drawing": 2, "generated": 3}
    pairs = [
        left_out(f"{target}{k}", target, share(20 + k, (20 + k) * (target == "real")))
        for target, count in counts.items()
        for k in range(count)
    ]
    mean = compare(*pairs).metrics["mean"]
    assert (mean.value, mean.floor) == (pytest.approx(1 / 3), 1 / 3)
    assert compare(*pairs[:7]).metrics["mean"].value == 1 / 2  # of the classes of which a source was held out


def test_the_interval_of_the_mean_draws_sources_within_each_class(compare, left_out):
    counts = {"real": (10, 10, 10, 10), "drawing": (40, 40), "generated": (12, 25, 38)}
    rng = np.random.default_rng(0)
    pairs = [
        left_out(f"{target}{k}", target, rng.permutation(share(40, right)))
        for target, rights in counts.items()
        for k, right in enumerate(rights)
    ]
    mean = compare(*pairs, resamples=2000).metrics["mean"]
    assert (mean.n, mean.interval) == (9, "bootstrap by source and group")
    assert mean.value == pytest.approx((0.25 + 1 + 25 / 40) / 3)
    # classes differ, which no draw of sources changes: the variance is that within classes, of sources and of images
    images = [np.mean([r * (40 - r) / 40**3 for r in rights]) / len(rights) for rights in counts.values()]
    spread = np.sqrt(np.sum(images) + np.var(counts["generated"]) / 40**2 / 3) / 3
    half = scipy.stats.t.ppf(0.975, 6) * np.sqrt(9 / 6) * spread
    assert (mean.low, mean.high) == pytest.approx((mean.value - half, mean.value + half), abs=0.02)


def test_the_interval_of_the_worst_holds_whichever_source_is_truly_the_worst(compare, left_out):
    small, large = share(20, 10), share(400, 208)
    worst = compare(left_out("small", "real", small), left_out("large", "real", large)).metrics["worst"]
    assert worst.value == 0.5
    assert worst.low == stats.wilson(10, 20, 0.975)[0]
    assert worst.high == stats.wilson(208, 400, 0.975)[1] < stats.wilson(10, 20, 0.975)[1]


def test_a_source_below_the_minimum_is_listed_and_has_no_part_in_mean_and_worst(compare, left_out):
    given = [left_out("studio", "real", share(50, 40)), left_out("street", "real", share(19, 0))]
    result = compare(*given)
    assert dict(zip(result.tables["matrix"]["source"], result.tables["matrix"]["counted"], strict=True)) == {
        "studio": True,
        "street": False,
    }
    assert result.metrics["mean"].value == result.metrics["worst"].value == 0.8
    assert result.warnings[0] == Reason("small_sources", n=20, names=["street"])
    assert compare(*given, minimum=19).metrics["worst"].value == 0


def test_without_a_source_of_the_minimum_mean_and_worst_are_null(compare, left_out, draw_saved):
    result = compare(left_out("street", "real", share(5, 4)))
    for name in ("mean", "worst"):
        assert result.metrics[name].value is None
        assert result.metrics[name].reason == Reason("no_large_source", n=20)
    assert set(draw_saved(result)) == {"recall", "predicted_as"}


def test_intervals_count_groups_where_they_repeat(compare, left_out):
    rng = np.random.default_rng(0)
    right = (rng.random(12) < 0.7).repeat(5)
    row = compare(left_out("studio", "real", right, groups=np.arange(60) // 5)).tables["matrix"].iloc[0]
    assert (row["n"], row["groups"], row["interval"]) == (60, 12, "bootstrap by group")
    low, high = stats.wilson(int(right.sum()), 60)
    assert row["high"] - row["low"] > 1.5 * (high - low)


def test_seeds_of_a_recipe_are_one_row_and_recipes_are_apart(compare, left_out):
    pairs = [
        left_out("ink", "drawing", share(40, n), recipe=recipe, seed=seed)
        for recipe, seed, n in (("a", 1, 20), ("a", 2, 40), ("b", 1, 30))
    ]
    matrix = compare(*pairs).tables["matrix"].set_index("recipe")
    assert matrix.loc["a frozen", "recall"] == 0.75
    assert list(matrix["seeds"]) == [2, 1]
    assert matrix.loc["a frozen", "interval"] == "bootstrap by seed and group"


def test_only_images_of_held_out_sources_are_evaluated(compare, left_out):
    """Where a generator is held out, test may hold images of a class that has no generators."""
    column = ["gan"] * 30 + [""] * 10
    result = compare(left_out("gan", "generated", share(40, 20), by="generator", column=column))
    row = result.tables["matrix"].iloc[0]
    assert (row["n"], row["recall"]) == (30, pytest.approx(2 / 3))


def test_a_source_that_no_run_recognises_is_a_finding_and_not_an_alarm(compare, left_out):
    result = compare(left_out("studio", "real", share(100, 0)))
    assert result.metrics["worst"].value == 0
    assert result.tables["matrix"].loc[0, "predicted_as_drawing"] == 1


def test_a_perfect_run_recognises_all(compare, left_out):
    result = compare(left_out("studio", "real", share(100, 100)), left_out("ink", "drawing", share(25, 25)))
    assert result.metrics["mean"].value == 1
    assert result.metrics["worst"].low == pytest.approx(stats.wilson(25, 25, 0.975)[0])


def test_a_uniform_run_recognises_a_third(compare, left_out):
    rng = np.random.default_rng(0)
    pairs = [left_out(f"s{i}", CLASSES[i % 3], rng.random(60) < 1 / 3) for i in range(9)]
    mean = compare(*pairs).metrics["mean"]
    assert mean.low < 1 / 3 < mean.high


def test_the_classes_of_runs_are_matched_by_name(compare, left_out):
    first, (run, dataset) = left_out("studio", "real", share(50, 40)), left_out("ink", "drawing", share(50, 30))
    turned = run.predictions(dataset).reorder(CLASSES[::-1])
    run.classes, run.predictions = turned.classes, lambda dataset: turned
    matrix = compare(first, (run, dataset)).tables["matrix"].set_index("source")
    assert (matrix.loc["ink", "recall"], matrix.loc["ink", "predicted_as_generated"]) == pytest.approx((0.6, 0.4))


def test_other_runs_are_left_out_and_counted(compare, left_out, fake_run, dataset_of, oracle):
    plain = (fake_run(oracle("noisy")), dataset_of(oracle("noisy")))
    result = compare(left_out("studio", "real", share(50, 40)), plain, plain)
    assert result.warnings[0] == Reason("runs_without_held_out", n=2, all=3)
    assert result.n == 50


def test_without_a_run_that_left_a_source_out_there_is_nothing_to_compare(compare, fake_run, dataset_of, oracle):
    with pytest.raises(BlockError, match="sweep=leave_one_source_out"):
        compare((fake_run(oracle("noisy")), dataset_of(oracle("noisy"))))


def test_a_set_without_what_was_held_out_is_refused(compare, left_out):
    run, dataset = left_out("studio", "real", share(50, 40))
    dataset.frame["source"] = "another"
    with pytest.raises(BlockError, match="split=test"):
        compare((run, dataset))


def test_seeds_on_other_images_are_refused(compare, left_out):
    with pytest.raises(BlockError, match="different images of ink"):
        compare(left_out("ink", "drawing", share(40, 3), seed=1), left_out("ink", "drawing", share(41, 3), seed=2))


def test_a_recipe_that_lacks_a_source_is_named(compare, left_out):
    pairs = [left_out("ink", "drawing", share(40, 30), recipe=recipe) for recipe in "ab"]
    result = compare(*pairs, left_out("gan", "generated", share(40, 30), recipe="b"))
    text = "Recipe a frozen has no run that held out gan, unlike other recipes."
    assert text in [format_reason(warning, "leave_one_source_out") for warning in result.warnings]


def test_figures_of_sources_named_by_numbers_name_them(compare, left_out, draw_saved):
    pairs = [left_out("2019", "real", share(50, 40)), left_out("2020", "drawing", share(30, 27))]
    figures = draw_saved(compare(*pairs))
    names = ("predicted_as", "recall")
    rows = [[tick.get_text() for tick in figures[name].axes[0].get_yticklabels()] for name in names]
    assert rows == [["2020, drawing (n = 30)", "2019, real (n = 50)"]] * 2


def test_every_figure_can_be_recomputed_from_the_saved_images(compare, left_out, tmp_path):
    rng = np.random.default_rng(0)
    pairs = [
        left_out(source, target, rng.random(n) < 0.7, recipe=recipe, seed=seed)
        for source, target, n in (("studio", "real", 50), ("ink", "drawing", 30), ("gan", "generated", 15))
        for recipe in "ab"
        for seed in (1, 2)
    ]
    loaded = Result.load(compare(*pairs).save(tmp_path / "leave_one_source_out"))
    table = loaded.tables["images"]
    recall = (table["prediction"] == table["target"]).groupby([table["recipe"], table["source"]]).mean()
    sizes = table.groupby("source")["path"].nunique()
    for row in loaded.tables["matrix"].itertuples():
        assert row.recall == pytest.approx(recall[row.recipe, row.source], abs=1e-6)
    for recipe in ("a frozen", "b frozen"):
        for source in sizes.index:
            metric = loaded.metrics[f"recall/{source}/{recipe}"]
            assert metric.value == pytest.approx(recall[recipe, source], abs=1e-6)
        counted = recall[recipe][sizes >= 20]
        assert loaded.metrics[f"mean/{recipe}"].value == pytest.approx(counted.mean(), abs=1e-6)
        assert loaded.metrics[f"worst/{recipe}"].value == pytest.approx(counted.min(), abs=1e-6)


def recipes_by_source(left_out, rng):
    """Return runs of two recipes, each with two seeds, on twelve sources; the second recipe is better on most."""
    return [
        left_out(f"s{k}", CLASSES[k % 3], rng.random(30 + k) < min(1, base + 0.2 * (recipe == "b")), recipe, seed)
        for k, base in enumerate(np.linspace(0.1, 0.9, 12))
        for recipe in "ab"
        for seed in (1, 2)
    ]


def test_the_gain_over_the_base_is_that_of_the_mean_over_sources_with_seeds_averaged(compare, left_out):
    result = compare(*recipes_by_source(left_out, np.random.default_rng(0)), resamples=2000)
    table = result.tables["images"]
    recall = table.groupby(["recipe", "source", "seed"])["correct"].mean().groupby(["recipe", "source"]).mean()
    gains = recall["b frozen"] - recall["a frozen"]
    gain = result.metrics["gain/b frozen"]
    assert gain.value == pytest.approx(gains.mean())
    assert (gain.n, gain.interval) == (12, "bootstrap by source and group")
    assert "gain/a frozen" not in result.metrics
    # a plain bootstrap of sources within each class, of seeds, and of each source's images, all shared by both recipes
    rng, right = (
        np.random.default_rng(0),
        [
            np.stack([own.pivot(index="seed", columns="path", values="correct") for __, own in rows.groupby("recipe")])
            for __, rows in table.groupby("source")
        ],
    )
    drawn = []
    for __ in range(2000):
        seeds = rng.integers(0, 2, 2)
        each = [one[:, seeds][:, :, rng.integers(0, one.shape[2], one.shape[2])].mean(axis=(1, 2)) for one in right]
        drawn.append(np.mean([np.diff(each[k]) for c in range(3) for k in rng.choice(np.arange(c, 12, 3), 4)]))
    wider = scipy.stats.t.ppf(0.975, 9) / scipy.stats.norm.ppf(0.975) * np.sqrt(12 / 9)
    ends = gain.value + wider * (np.quantile(drawn, (0.025, 0.975)) - gain.value)
    assert (gain.low, gain.high) == pytest.approx(ends, abs=0.02)
    turned = compare(*recipes_by_source(left_out, np.random.default_rng(0)), resamples=2000, base="b frozen")
    other = turned.metrics["gain/a frozen"]
    assert (other.value, other.low, other.high) == pytest.approx((-gain.value, -gain.high, -gain.low))


def test_sources_held_out_together_are_drawn_together(compare, left_out):
    def pairs(**units):
        found = [left_out(f"s{k}", CLASSES[k % 3], share(40, 40 * (k < 6))) for k in range(12)]
        for run, __ in found:
            run.config["data"]["split"]["units"] = units
        return found

    alone = compare(*pairs(), resamples=2000).metrics["mean"]
    together = compare(*pairs(a=[f"s{k}" for k in range(6)], b=[f"s{k}" for k in range(6, 12)]), resamples=2000)
    assert set(together.tables["matrix"]["unit"]) == {"a", "b"}
    assert together.metrics["mean"].value == alone.value == 0.5
    assert (together.metrics["mean"].low, together.metrics["mean"].high) == (0, 1)
    assert alone.low > 0.1


def test_gains_are_over_common_sources_with_the_same_images(compare, left_out):
    common = [left_out("s1", "real", share(40, n), recipe) for recipe, n in (("a", 10), ("b", 30))]
    apart = [left_out("s2", "real", share(40, 0), "a"), left_out("s3", "real", share(40, 40), "b")]
    other = [left_out("s4", "real", share(n, n), recipe) for recipe, n in (("a", 40), ("b", 50))]
    result = compare(*common, *apart, *other)
    assert result.metrics["gain/b frozen"].value == pytest.approx(0.5)
    assert result.tables["summary"].set_index("recipe").loc["b frozen", "gain_sources"] == 1
    found = compare(*apart).metrics["gain/b frozen"]
    assert (found.value, found.reason) == (None, Reason("no_common_source"))


def test_the_cost_is_that_on_known_sources_and_in_seconds(compare, left_out):
    fields = {"a": {"metrics": {"val/accuracy": 0.9}, "train_seconds": 10}, "b": {"metrics": {"val/accuracy": 0.85}}}
    result = compare(*(left_out("s", "real", share(40, 20), recipe, **own) for recipe, own in fields.items()))
    summary = result.tables["summary"].set_index("recipe")
    assert summary.loc["b frozen", "in_domain_gain"] == pytest.approx(-0.05)
    assert result.metrics["in_domain/a frozen"].value == 0.9
    assert result.metrics["train_seconds/a frozen"].value == 10
    assert result.metrics["train_seconds/b frozen"].reason == Reason("not_recorded")


def test_an_unknown_base_recipe_is_refused_with_those_that_there_are(compare, left_out):
    with pytest.raises(BlockError, match=r"base=b froze: no such recipe.*b frozen"):
        compare(*recipes_by_source(left_out, np.random.default_rng(0)), base="b froze")
    with pytest.raises(BlockError, match="base=frozen: several recipes end like this"):
        compare(*recipes_by_source(left_out, np.random.default_rng(0)), base="frozen")


def test_sources_that_were_drawn_for_test_are_evaluated_too(compare, left_out):
    run, dataset = left_out("studio", "real", share(50, 40))
    run.config["data"]["split"]["held_out"] = []
    run.dataset = lambda name: dataset
    assert compare((run, dataset)).metrics["recall/studio"].value == 0.8


def test_the_curve_is_the_mean_over_sources_by_number_of_training_sources(compare, left_out, draw_saved, inside):
    def build(source, number, right, seed=0):
        run, dataset = left_out(source, "real", right, seed=seed)
        run.config["data"]["split"]["train_sources"] = number
        return run, dataset

    rng = np.random.default_rng(0)
    pairs = [
        build(f"s{k}", number, rng.random(40) < 0.2 + 0.02 * k + 0.1 * np.log2(number), seed)
        for k in range(10)
        for number in (1, 2, 8)
        for seed in (1, 2)
    ]
    result = compare(*pairs)
    curve = result.tables["curve"].set_index("train_sources")
    images = result.tables["images"]
    number = images["recipe"].str.extract(r"train_sources=(\d)")[0].astype(int)
    recall = images.groupby([number, "source"])["correct"].mean().groupby(level=0).mean()
    assert curve["mean"].to_dict() == pytest.approx(recall.to_dict())
    slope = scipy.stats.linregress(np.log2(recall.index.to_numpy(float)), recall.to_numpy()).slope
    gain = result.metrics["gain_per_doubling"]
    assert gain.value == pytest.approx(slope)
    assert 0 < gain.low < slope < gain.high
    with use_language("ru"):
        figures = draw_saved(result)
        assert inside(figures["curve"])
        assert inside(figures["gain"])


def test_many_recipes_have_a_heatmap_in_place_of_dots(compare, left_out, draw_saved):
    pairs = [left_out("studio", "real", share(20, 2 * n), f"backbone{n}") for n in range(5)]
    assert set(draw_saved(compare(*pairs, resamples=100))) == {"predicted_as", "by_recipe", "gain"}


def test_the_heatmap_is_readable_with_45_sources_and_many_recipes(inside):
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
    rows = [tick.get_window_extent() for tick in figure.axes[0].get_yticklabels()]
    assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(rows))
    assert sum(tick.get_text().startswith("[") for tick in figure.axes[0].get_yticklabels()) == 8


def test_an_option_out_of_range_is_named():
    with pytest.raises(ConfigError, match=r"block.leave_one_source_out.minimum=0"):
        LeaveOneSourceOut(minimum=0)


@pytest.mark.slow
def test_trained_runs_are_evaluated_on_their_held_out_sources(train, tmp_path):
    from avatar_bench.cli.app import main

    for source in ("gan", "street"):
        train(tmp_path / "runs" / source, "data.split.by=source", f"data.split.held_out=[{source}]")
    assert main(["evaluate", f"ckpt={tmp_path / 'runs'}", "block=leave_one_source_out"]) == 0
    found = Result.load(tmp_path / "runs" / "evaluation" / "test" / "leave_one_source_out")
    matrix = found.tables["matrix"]
    assert list(matrix["source"]) == ["gan", "street"]
    assert set(matrix["n"]) == {32}
    assert set(matrix["groups"]) == {16}
    assert len(found.tables["summary"]) == 1
    assert 0 < found.tables["summary"].loc[0, "in_domain"] <= 1

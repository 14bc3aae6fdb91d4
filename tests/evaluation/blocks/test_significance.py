"""Tests of significance: oracles, saved tables, ties, seeds and groups."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import balanced_accuracy_score
from statsmodels.stats.multitest import multipletests

from avatar_bench.evaluation import recipe_pairs
from avatar_bench.evaluation.blocks.significance import Significance
from avatar_bench.evaluation.seeds import Recipes
from avatar_bench.metrics import plots, stats
from avatar_bench.metrics.units import Units
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Result, draw_figures


@pytest.fixture
def compare(fake_run, dataset_of):
    """Compare {label: Predictions}, each a recipe; or {(recipe, seed): Predictions}."""

    def run(predictions, **options):
        runs = []
        for key, of_run in predictions.items():
            recipe, seed = key if isinstance(key, tuple) else (key, 0)
            runs.append(fake_run(of_run, label=f"{recipe} {seed}", recipe=recipe, seed=seed))
        datasets = [dataset_of(of_run) for of_run in predictions.values()]
        return Significance(**{"resamples": 200, **options}).compare(runs, datasets)

    return run


@pytest.fixture
def answers(make_predictions):
    """Return predictions that are correct where `right` (N,) is true."""

    def build(right, groups=None):
        right = np.asarray(right, dtype=bool)
        targets = np.arange(len(right)) % 3
        logits = 5.0 * np.eye(3)[np.where(right, targets, (targets + 1) % 3)]
        fields = {} if groups is None else {"groups": [f"g{group}" for group in groups]}
        return make_predictions(targets, logits, **fields)

    return build


def draw_right(proportions, n=240):
    """Draw which of `n` images each model gets right, by its proportion."""
    rng = np.random.default_rng(0)
    return {name: rng.random(n) < proportion for name, proportion in proportions.items()}


def test_copies_of_one_model_are_tied_and_a_perfect_oracle_is_ranked_before_a_uniform_one(compare, oracle):
    result = compare({"a": oracle("noisy"), "b": oracle("noisy")})
    pair, ranking = result.tables["pairs"].iloc[0], result.tables["ranking"]
    assert (pair["p"], pair["p_holm"], pair["difference"], pair["only_a_correct"]) == (1, 1, 0, 0)
    assert not pair["significant"]
    assert np.isnan(pair["n_required"])
    assert list(ranking["rank"]) == list(ranking["rank_low"]) == [1, 1]
    assert list(ranking["rank_high"]) == [2, 2]  # which is better is not known
    assert list(ranking["letters"]) == ["a", "a"]
    assert ranking["tied_with_best"].all()
    assert result.metrics["significant_pairs"].value == 0
    n_required = result.metrics["n_required"]
    assert (n_required.value, n_required.reason) == (None, Reason("equally_often_correct"))
    result = compare({"guess": oracle("uniform"), "good": oracle("perfect")})
    pair, ranking = result.tables["pairs"].iloc[0], result.tables["ranking"].set_index("recipe")
    assert (pair["a"], pair["b"]) == ("good", "guess")
    assert pair["significant"]
    assert pair["low"] < pair["difference"] < pair["high"]
    assert ranking.loc["good", "accuracy"] == 1.0
    assert ranking.loc["guess", "low"] < 1 / 3 < ranking.loc["guess", "high"]
    assert list(ranking["letters"]) == ["a", "b"]
    assert list(ranking["rank_high"]) == [1, 2]
    colours = [line.get_color() for line in draw_figures(result)["ranking"].axes[0].lines if line.get_marker() == "o"]
    assert colours == [plots.get_colour(1), plots.get_colour(0)]  # by run, not by rank
    assert result.metrics["best_accuracy"].low == pytest.approx(stats.wilson(240, 240)[0])


def test_p_values_are_corrected_for_all_pairs_and_groups_and_seeds_count_once(compare, answers):
    right = draw_right({"a": 0.95, "b": 0.85, "c": 0.8, "d": 0.5})
    table = compare({name: answers(correct) for name, correct in right.items()}).tables["pairs"]
    assert len(table) == 6
    wins = zip(table["only_a_correct"], table["only_b_correct"], strict=True)
    assert list(table["p"]) == pytest.approx([binomtest(int(a), int(a + b)).pvalue for a, b in wins])
    np.testing.assert_allclose(table["p_holm"], multipletests(table["p"], method="holm")[1])
    assert set(table["test"]) == {"exact McNemar"}
    right = draw_right({"a": 0.95, "b": 0.7}, 40)
    single = compare({name: answers(correct) for name, correct in right.items()}).tables["pairs"].iloc[0]
    groups = np.repeat(np.arange(40), 6)
    result = compare({name: answers(np.repeat(correct, 6), groups) for name, correct in right.items()})
    pair = result.tables["pairs"].iloc[0]
    assert pair["test"] == "cluster permutation"
    assert (pair["n"], pair["unit"], pair["units"], pair["population"]) == (240, "group", 40, "these sources")
    assert (pair["p"], pair["low"]) == pytest.approx((single["p"], single["low"]))
    assert pair["n_required"] == pytest.approx(single["n_required"], abs=1)  # in groups, and in images
    expected = (norm.isf(0.025) + norm.isf(0.2)) * (pair["discordance"] / 40) ** 0.5 + 1 / 40
    assert result.metrics["detectable_difference"].value == pytest.approx(expected, rel=0.05)
    right = draw_right({(name, seed): p for name, p in (("a", 0.9), ("b", 0.7)) for seed in (1, 2, 3)})
    result = compare({key: answers(correct) for key, correct in right.items()})
    pair, ranking = result.tables["pairs"].iloc[0], result.tables["ranking"]
    assert (pair["seeds_a"], pair["seeds_b"], pair["test"]) == (3, 3, "cluster permutation")
    a, b = (np.stack([right[name, seed] for seed in (1, 2, 3)]) for name in "ab")
    assert pair["only_a_correct"] == pytest.approx((a[:, None] & ~b).sum(axis=2).mean())
    assert pair["difference"] == pytest.approx(a.mean() - b.mean())
    assert pair["significant"]
    assert list(ranking["seeds"]) == [3, 3]
    assert set(ranking["interval"]) == {"bootstrap by seed and group"}
    assert result.warnings == []


@pytest.mark.slow
def test_equal_recipes_rarely_differ_significantly_and_a_lucky_seed_is_not_taken_for_a_better_recipe(compare, answers):
    rng, significant = np.random.default_rng(0), 0
    for _ in range(12):
        hard = rng.beta(3, 1, 90)
        result = compare({name: answers(rng.random(90) < hard) for name in "abc"}, resamples=100)
        significant += result.metrics["significant_pairs"].value > 0
    assert significant <= 2  # of 12: .6 is expected at most
    # Recipes of one kind whose seeds differ by more than images explain: the p-value knows images alone.
    rng = np.random.default_rng(0)
    significant, small_p = [], []
    for _ in range(12):
        means = np.clip(0.8 + 0.06 * rng.normal(size=(2, 5)), 0, 1)
        predictions = {(r, s): answers(rng.random(200) < means[i, s]) for i, r in enumerate("ab") for s in range(5)}
        pair = compare(predictions, resamples=100).tables["pairs"].iloc[0]
        significant.append(pair["significant"])
        small_p.append(pair["p"] < 0.05)
    assert np.mean(significant) < 0.1 < 0.2 < np.mean(small_p)


def compare_often(gain, number):
    """Compare two recipes of five seeds often, one better by `gain`, each image being its own group."""
    rng, pairs = np.random.default_rng(1), []
    for _ in range(number):
        hard = rng.beta(2, 1, 300)
        right = [rng.random(300) < np.clip(hard + more, 0, 1) for more in (gain, 0.0) for _seed in range(5)]
        members = {"a": list(range(5)), "b": list(range(5, 10))}
        recipes = Recipes(members, np.stack(right), Units(np.arange(300)), (*range(5), *range(5)))
        pairs.append((recipes, recipe_pairs.compare_pair(recipes, np.zeros((2, 2)), 0, 1, 0.95, 0.8, 0.05)))
    return pairs


@pytest.mark.slow
def test_the_test_finds_what_is_called_detectable_as_often_as_power_says():
    equal = compare_often(0, 12)
    least = np.mean([recipe_pairs.find_detectable_difference(recipes, 0, 1, 0.8, 0.05) for recipes, __ in equal])
    pairs = pd.DataFrame([row for __, row in compare_often(1.1 * least, 60)])  # what is capped at 1 gains less
    assert pairs["difference"].mean() == pytest.approx(least, rel=0.08)
    assert 0.7 < (pairs["p"] < 0.05).mean() <= 0.92  # p knows images alone, the planned difference seeds too
    n = pairs["n_required"].median() * (0.05 / least) ** 2  # that of the least difference
    assert 200 < n < 380  # of 300 images; other seeds are not counted


def test_every_metric_can_be_recomputed_from_what_is_saved(compare, answers, tmp_path):
    rng = np.random.default_rng(5)
    kinds = [("a", 0.9, 1), ("a", 0.9, 2), ("b", 0.8, 1), ("b", 0.8, 2)]
    predictions = {(r, s): answers(rng.random(150) < p, np.arange(150) // 2) for r, p, s in kinds}
    loaded = Result.load(compare(predictions).save(tmp_path / "significance"), arrays=True)
    tables, stored = loaded.tables, loaded.arrays["answers"]
    a, b = (stored["right"][stored["recipe"] == name].mean(axis=0) for name in "ab")
    pair, gains = tables["pairs"].iloc[0], (a - b)[a != b]
    variance = ((a - b).reshape(75, 2).sum(axis=1) ** 2).sum() / 150**2
    by_seed = [np.var(stored["right"][stored["recipe"] == name].mean(axis=1), ddof=1) / 2 for name in "ab"]
    expected = {
        "accuracy/a": a.mean(),
        "best_accuracy": a.mean(),
        "accuracy/b": b.mean(),
        "gain_over_second": a.mean() - b.mean(),
        "significant_pairs": tables["pairs"]["significant"].sum(),
        "tied_with_best": tables["ranking"]["tied_with_best"].sum(),
    }
    assert {name: loaded.metrics[name].value for name in expected} == pytest.approx(expected, abs=1e-6)
    expected = {"only_a_correct": (a * (1 - b)).sum(), "discordance": len(gains) / 150}
    assert pair[list(expected)].to_dict() == pytest.approx(expected, abs=1e-6)
    for name, apart in recipe_pairs.PLANNED_DIFFERENCES.items():
        needed = 75 * variance * ((norm.isf(0.025) + norm.isf(0.2)) / apart) ** 2
        assert needed < pair[name] < 1.3 * needed  # and the steps of the test
    assert loaded.metrics["detectable_difference"].value > 2.8 * (variance + sum(by_seed)) ** 0.5
    assert pair["n_required"] == loaded.metrics["n_required"].value


def test_guessing_is_corrected_for_the_number_of_recipes_and_constant_is_guessing(compare, make_predictions):
    rng, targets = np.random.default_rng(0), np.repeat(np.arange(3), 100)
    lucky = make_predictions(targets, 5 * np.eye(3)[np.where(rng.random(300) < 0.1, targets, rng.integers(0, 3, 300))])
    constant = make_predictions(targets, np.tile([5.0, 0.0, 0.0], (300, 1)))
    results = (compare({"lucky": lucky} | {f"net{k}": constant for k in range(n)}) for n in (1, 9))
    of_two, of_ten = (result.tables["ranking"].set_index("recipe").loc["lucky"] for result in results)
    assert of_two["balanced_accuracy_low"] == of_ten["balanced_accuracy_low"] > 1 / 3
    assert (of_two["better_than_guessing"], of_ten["better_than_guessing"]) == (True, False)
    rng, targets = np.random.default_rng(0), np.repeat(np.arange(3), [200, 20, 20])
    seen = np.where(rng.random(240) < 0.75, targets, rng.integers(0, 3, 240))
    predicted = {"constant": np.zeros(240, int), "seen": seen}
    result = compare({name: make_predictions(targets, 5.0 * np.eye(3)[classes]) for name, classes in predicted.items()})
    ranking = result.tables["ranking"].set_index("recipe")
    assert ranking.loc["constant", "balanced_accuracy"] == pytest.approx(1 / 3)
    assert np.isnan(ranking.loc["constant", "balanced_accuracy_low"])  # every resample gives one third
    assert dict(ranking["better_than_guessing"]) == {"constant": False, "seen": True}
    for name, classes in predicted.items():
        expected = balanced_accuracy_score(targets, classes)
        assert ranking.loc[name, "balanced_accuracy"] == pytest.approx(expected)


@pytest.fixture
def answers_of_sources(answers):
    """Return predictions that are correct where `right` is, of images whose new sources are given."""

    def build(right, sources):
        return replace(answers(right), origins=np.asarray(sources))

    return build


def test_for_new_sources_difference_interval_and_p_are_of_one_t_test_of_the_means_of_sources(
    compare, answers_of_sources
):
    rng, sizes = np.random.default_rng(0), np.tile([3, 12, 6, 21, 9, 3, 6, 30], 1)
    sources = np.repeat(np.arange(8), sizes)
    classes = np.arange(len(sources)) % 3  # each source has images of each class
    right = {name: rng.random(len(sources)) < p for name, p in (("a", 0.9), ("b", 0.5))}
    result = compare({name: answers_of_sources(of_run, sources) for name, of_run in right.items()})
    pair = result.tables["pairs"].iloc[0]
    gains = right["a"].astype(float) - right["b"]
    means = np.array([[gains[(sources == s) & (classes == c)].mean() for s in range(8)] for c in range(3)])
    assert (pair["unit"], pair["units"], pair["population"]) == ("source", 24, "new sources")
    assert pair["difference"] == pytest.approx(means.mean())
    assert pair["low"] < pair["difference"] < pair["high"]
    for alpha in (0.01, 0.05, 0.2, 2 * pair["p"], pair["p"] / 2):  # the interval excludes 0 exactly where p is below
        other = compare({n: answers_of_sources(r, sources) for n, r in right.items()}, level=1 - alpha).tables["pairs"]
        assert (other["low"].iloc[0] > 0) == (pair["p"] < alpha)
    gain = result.metrics["gain_over_second"]
    assert (gain.value, gain.low, gain.interval) == (pair["difference"], pair["low"], "stratified t by source")


def test_where_a_class_has_one_source_nothing_is_significant_and_more_sources_never_find_less(
    compare, answers_of_sources
):
    sources = np.repeat(np.arange(6), 30)
    good, bad = np.ones(180, bool), np.random.default_rng(0).random(180) < 0.5
    for origins, is_found in ((np.where(np.arange(180) % 3 == 0, 0, sources), False), (sources, True)):
        result = compare({"good": answers_of_sources(good, origins), "bad": answers_of_sources(bad, origins)})
        pair, ranking = result.tables["pairs"].iloc[0], result.tables["ranking"]
        assert pair["significant"] == is_found
        assert (Reason("one_source_untested") in result.warnings) != is_found
        assert list(ranking["rank_high"]) == ([1, 2] if is_found else [2, 2])
        assert np.isnan(pair["p"]) != is_found
        assert result.metrics["n_required"].reason == (None if is_found else Reason("one_source_untested"))


def test_seeds_widen_the_test_of_new_sources(compare, answers_of_sources):
    rng, sources = np.random.default_rng(0), np.repeat(np.arange(10), 18)
    steady, shaky = (
        {
            (name, seed): answers_of_sources(rng.random(180) < accuracy, sources)
            for name, accuracies in (("a", (0.9 + jump, 0.9 - jump)), ("b", (0.7 - jump, 0.7 + jump)))
            for seed, accuracy in enumerate(accuracies)
        }
        for jump in (0, 0.1)
    )
    pairs = [compare(predictions).tables["pairs"].iloc[0] for predictions in (steady, shaky)]
    assert pairs[0]["p"] < pairs[1]["p"]
    assert pairs[0]["high"] - pairs[0]["low"] < pairs[1]["high"] - pairs[1]["low"]


def test_means_over_seeds_and_their_difference_weigh_new_sources_alike(compare, answers_of_sources):
    sources = np.repeat(np.arange(6), [3, 30, 60, 3, 60, 30])
    rng = np.random.default_rng(0)
    right = {(name, seed): rng.random(186) < 0.4 + 0.1 * sources for name in "ab" for seed in (1, 2)}
    result = compare({key: answers_of_sources(of_run, sources) for key, of_run in right.items()})
    classes = np.arange(186) % 3

    def weigh(hits):
        means = [np.mean([hits[(sources == s) & (classes == c)].mean() for s in range(6)]) for c in range(3)]
        return float(np.mean(means))

    values = {name: np.mean([weigh(right[name, seed]) for seed in (1, 2)]) for name in "ab"}
    for name, value in values.items():
        assert result.metrics[f"accuracy/{name}"].value == pytest.approx(value)
    ranking, pair = result.tables["ranking"].set_index("recipe"), result.tables["pairs"].iloc[0]
    assert pair["difference"] == pytest.approx(max(values.values()) - min(values.values()))
    assert ranking["balanced_accuracy"].to_dict() == pytest.approx(values)  # of classes of equal size

"""Tests of ensemble: strategies fitted on held-out images alone, and pairs of runs, all equal to sums by hand."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn import metrics as sk
from statsmodels.stats.multitest import multipletests

from avatar_bench.data.dataset import Dataset
from avatar_bench.errors import BlockError
from avatar_bench.evaluation.blocks.ensemble import EnsembleBlock, weight_fitting
from avatar_bench.i18n import use_language
from avatar_bench.metrics.agreement import MEASURES, compute_measures
from avatar_bench.metrics.averaging import STRATEGIES
from avatar_bench.metrics.calibration import calibration_errors, fit_temperature, fit_temperature_of_logits
from avatar_bench.models.model_card import Card
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Result
from avatar_bench.runs.ensembles import open_run, save_ensemble
from avatar_bench.runs.labels import label_runs

SIGNALS = (1.6, 1.2, 0.9)
STRATEGY_FIGURES = {"gain", "weights", "contribution"}
PAIR_FIGURES = {"kappa", "error_correlation", "double_fault", "kappa_error"}
PAIRS = np.array([f"g{i // 2}" for i in range(240)])  # groups of two images


def compare(runs, datasets, resamples=200):
    return EnsembleBlock(resamples=resamples).compare(runs, datasets)


@pytest.fixture(scope="module")
def voters(make_predictions, fake_run, dataset_of):
    """Build stand-ins of runs of different strength, each with its set, from one seed."""

    def build(count=3, n=240, held=120, groups=None, change=lambda predictions: predictions, **fields):
        rng = np.random.default_rng(0)
        runs, datasets = [], []
        for number in range(count):
            parts = []
            for name, size in (("test", n), ("calibration", held)):
                targets = np.arange(size) % 3
                logits = (1 + number) * (rng.normal(size=(size, 3)) + SIGNALS[number % 3] * np.eye(3)[targets])
                paths = [f"{name}/{i}.png" for i in range(size)]
                parts.append(make_predictions(targets, logits, paths=paths, temperature=1.0 + number))
            test = change(parts[0] if groups is None else replace(parts[0], groups=groups))
            keys = [f"{i + 10_000:064x}" for i in range(held)]
            images = Dataset("run", Path(), dataset_of(parts[1], split="calibration").frame.assign(sha256=keys))
            run = fake_run(test, calibration=parts[1], images=images, label=f"run {number}", recipe=f"run {number}")
            run.checkpoint, run.checkpoint_sha256 = Path(f"run{number}/checkpoints/best.ckpt"), f"{number:064x}"
            run.card = Card(test.classes, f"net{number}", {}, weights="hub")
            vars(run).update(fields)
            runs.append(run)
            datasets.append(dataset_of(test))
        return runs, datasets

    return build


@pytest.fixture(scope="module")
def saved(voters, tmp_path_factory):
    """A Result of three runs, groups of two images, read back from its files."""
    result = compare(*voters(groups=PAIRS), resamples=2000)
    return Result.load(result.save(tmp_path_factory.mktemp("compared") / "ensemble"), arrays=True)


def test_no_strategy_moves_with_the_labels_and_outputs_of_the_evaluated_set(voters):
    def poison(predictions):
        """Deal targets at random: what a strategy that looks at the set would be led by."""
        dealt = np.random.default_rng(9).permutation(predictions.targets)
        return replace(predictions, targets=dealt, logits=predictions.logits[::-1])

    allow = frozenset({"permutation"})
    clean, poisoned = (compare(*runs) for runs in (voters(allow=allow), voters(allow=allow, change=poison)))
    assert clean.metrics["accuracy/soft_vote"].value > 0.7 > poisoned.metrics["accuracy/soft_vote"].value
    assert clean.tables["weights"].equals(poisoned.tables["weights"])
    fitted = [
        {name: (about["temperature"], about["members"]) for name, about in result.provenance["ensembles"].items()}
        for result in (clean, poisoned)
    ]
    assert fitted[0] == fitted[1]
    assert clean.provenance["single"] == poisoned.provenance["single"]


def mix(rows, logits):
    """Return the mean (N, C) of the members' probabilities by the weights and temperatures of a strategy."""
    parts = zip(rows["weight"], rows["temperature"], logits.astype(float), strict=True)
    return sum(weight * softmax(member / temperature, axis=1) for weight, temperature, member in parts)


def test_every_metric_is_recomputed_from_the_saved_files(saved):
    table, members, held = saved.tables["predictions"], saved.arrays["members"], saved.arrays["calibration"]
    targets, expected = members["targets"], {}
    best = np.argmax([sk.accuracy_score(held["targets"], logits.argmax(axis=1)) for logits in held["logits"]])
    single = members["logits"][best].argmax(axis=1)
    for name, rows in saved.tables["weights"].groupby("strategy"):
        t = saved.provenance["ensembles"][name]["temperature"]
        scaled = mix(rows, members["logits"]) ** (1 / t)
        probabilities = scaled / scaled.sum(axis=1, keepdims=True)
        columns = [f"prob_{label}" for label in saved.classes]
        np.testing.assert_allclose(table[table["strategy"] == name][columns], probabilities, atol=1e-6)
        predicted = probabilities.argmax(axis=1)
        expected[f"accuracy/{name}"] = sk.accuracy_score(targets, predicted)
        expected[f"macro_f1/{name}"] = sk.f1_score(targets, predicted, average="macro")
        expected[f"gain/{name}"] = (predicted == targets).mean() - (single == targets).mean()
        alone = sk.f1_score(targets, single, average="macro")
        expected[f"gain_macro_f1/{name}"] = expected[f"macro_f1/{name}"] - alone
        expected[f"nll/{name}"] = sk.log_loss(targets, probabilities)
        expected[f"ece/{name}"] = calibration_errors(probabilities, targets)[1]
    everyone = softmax(members["logits"].astype(float), axis=2)
    both = everyone.mean(axis=0).argmax(axis=1) == targets
    for run in range(3):
        without = np.delete(everyone, run, axis=0).mean(axis=0).argmax(axis=1) == targets
        expected[f"contribution/run {run}"] = both.mean() - without.mean()
    assert {name: saved.metrics[name].value for name in expected} == pytest.approx(expected, abs=1e-6)
    assert len(expected) == 6 * 4 + 3


def test_weights_and_temperatures_are_recomputed_from_the_saved_held_out_images(saved):
    held, table = saved.arrays["calibration"], saved.tables["members"]
    targets = held["targets"]

    def refit(logits):
        return fit_temperature_of_logits(logits, targets, held["groups"]).value

    strategies = dict(list(saved.tables["weights"].groupby("strategy")))
    scaled = strategies["scaled_vote"]["temperature"].to_numpy()
    np.testing.assert_allclose(scaled, [refit(logits) for logits in held["logits"]], rtol=1e-6)
    for column, divisors in (("calibration_ece", scaled), ("calibration_raw_ece", np.ones(3))):
        members = softmax(held["logits"] / divisors[:, None, None], axis=2)
        errors = [calibration_errors(member, targets)[1] for member in members]
        np.testing.assert_allclose(table[column], errors, atol=1e-9)
    scores = table["calibration_accuracy"] * (1 - table["calibration_ece"])
    np.testing.assert_allclose(strategies["accuracy_ece"]["weight"], scores / sum(scores), atol=1e-9)
    np.testing.assert_allclose(strategies["soft_vote"]["weight"], 1 / 3)
    for name in STRATEGIES:
        fitted = refit(np.log(mix(strategies[name], held["logits"])))
        assert saved.provenance["ensembles"][name]["temperature"] == pytest.approx(fitted, rel=1e-5)


def test_the_interval_of_a_gain_is_a_paired_bootstrap_of_groups_and_its_p_value_corrected_for_all(saved, voters):
    table, row = saved.tables["predictions"], saved.tables["strategies"].set_index("strategy").loc["soft_vote"]
    correct = {name: rows["correct"].to_numpy(float) for name, rows in table.groupby("strategy")}
    pairs = (correct["soft_vote"] - correct["single"]).reshape(-1, 2).sum(axis=1)
    drawn = np.random.default_rng(5).choice(pairs, (4000, len(pairs))).sum(axis=1) / 240
    gain = saved.metrics["gain/soft_vote"]
    assert (gain.low, gain.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.012)
    assert (gain.n, gain.units, gain.interval) == (240, 120, "bootstrap by group")
    assert (row["only_strategy_correct"] - row["only_single_correct"]) / 240 == pytest.approx(gain.value)
    for kind in ("macro_f1", "gain_macro_f1"):
        metric = saved.metrics[f"{kind}/soft_vote"]
        ends = [row[f"{kind}{end}"] for end in ("", "_low", "_high")]
        assert ends == pytest.approx([metric.value, metric.low, metric.high])
    strategies = compare(*voters()).tables["strategies"]  # groups of one image
    assert list(strategies["strategy"]) == ["single", *STRATEGIES]
    assert strategies.loc[0, ["p", "p_holm"]].isna().all()
    rows = strategies[1:].sort_values("p")
    counts = zip(rows["only_strategy_correct"], rows["only_single_correct"], strict=True)
    p = [binomtest(wins, wins + losses).pvalue if wins + losses else 1.0 for wins, losses in counts]
    assert list(rows["p"]) == pytest.approx(p)
    assert list(rows["p_holm"]) == pytest.approx(multipletests(p, method="holm")[1])


@pytest.mark.parametrize(("kind", "score"), [("perfect", 1.0), ("uniform", 1 / 3)])
def test_oracles_score_one_and_chance_and_perfect_pairs_have_no_q(kind, score, oracle, voters):
    runs, datasets = voters(2)
    for seed, run in enumerate(runs):
        run.predictions = lambda dataset, seed=seed: oracle(kind, 240, seed=seed)
    metrics = compare(runs, datasets).metrics
    for name in STRATEGIES:
        metric = metrics[f"accuracy/{name}"]
        assert metric.low - 1e-9 <= score <= metric.high + 1e-9
    if kind == "perfect":
        assert metrics["accuracy/soft_vote"].value == 1
        assert metrics["ece/soft_vote"].value == pytest.approx(0, abs=1e-6)
        values = {"agreement": 1, "kappa": 1, "disagreement": 0, "double_fault": 0}
        values |= dict.fromkeys(("q_statistic", "error_correlation", "probability_correlation"))
        assert {name: metrics[name].value for name in values} == values
        assert metrics["q_statistic"].reason == Reason("undefined_for_all_pairs")
        assert metrics["probability_correlation"].reason == Reason("constant_probabilities")


def test_the_single_run_is_that_of_the_held_out_images(voters):
    runs, datasets = voters()
    runs[0].predictions, runs[2].predictions = runs[2].predictions, runs[0].predictions
    result = compare(runs, datasets[::-1])
    assert result.provenance["single"] == "run 0"  # not the best of the set
    assert result.tables["members"].set_index("run")["chosen"].tolist() == [True, False, False]


def test_weights_are_fitted_on_what_all_hold_out_and_none_has_learned_or_left_out_of_too_few(voters):
    runs, datasets = voters(2)
    turned = runs[1].images.frame.iloc[::-1].reset_index(drop=True)
    turned.loc[:9, "split"] = "val"  # the last ten of the first run
    held = runs[1].calibration(None).take(np.arange(120)[::-1][10:])
    runs[1].images, runs[1].calibration = replace(runs[1].images, frame=turned), lambda dataset: held
    held_out = weight_fitting.read_held_out(runs, datasets)
    assert len(held_out.dataset) == 110
    for predictions in held_out.predictions:
        np.testing.assert_array_equal(predictions.targets, np.arange(110) % 3)
    np.testing.assert_array_equal(held_out.logits[1], held.logits[::-1])
    few = voters(2, held=19)
    with pytest.raises(BlockError, match="too few calibration images") as caught:
        weight_fitting.read_held_out(*few)
    assert len(caught.value.lines) == 3
    result = compare(*few)
    assert result.warnings[0] == Reason("not_fitted", why=" ".join(caught.value.lines))
    assert set(result.tables) == {"pairs", "answers"}
    assert "ensembles" not in result.provenance


def test_figures_are_drawn_in_russian_and_of_results_of_one_version_ago(voters, draw_saved):
    """Those of ensemble have no pairs, those of ensemble_diversity no strategies."""
    result = compare(*voters())
    with use_language("ru"):
        drawn = draw_saved(result)
    assert set(drawn) == STRATEGY_FIGURES | PAIR_FIGURES
    assert "мягкое голосование" in [tick.get_text() for tick in drawn["gain"].axes[0].get_yticklabels()]
    of_pairs = {name: result.tables[name] for name in ("pairs", "answers")}
    before = replace(result, tables={name: table for name, table in result.tables.items() if name not in of_pairs})
    before.arrays = {name: array for name, array in result.arrays.items() if name != "runs"}
    assert set(draw_saved(before)) == STRATEGY_FIGURES
    arrays = {"runs": result.arrays["runs"]}
    assert set(draw_saved(replace(result, block="ensemble_diversity", tables=of_pairs, arrays=arrays))) == PAIR_FIGURES


def test_saved_ensembles_predict_what_is_reported_and_a_soup_is_as_good_as_its_best_run(run_pair, tmp_path):
    opened = [open_run(of.folder, label=of.label, recipe=of.recipe, workers=0) for of in label_runs(run_pair)]
    pair = opened, [run.dataset("test") for run in opened]
    result = compare(*pair)
    table, columns = result.tables["predictions"], [f"prob_{name}" for name in result.classes]
    assert set(result.provenance["ensembles"]) == {*STRATEGIES, "soup"}
    for name, description in result.provenance["ensembles"].items():
        run = open_run(save_ensemble(tmp_path / "ensembles" / name, json.loads(json.dumps(description))))
        predictions = run.predictions(run.dataset("test"))
        expected = table[table["strategy"] == name][columns].to_numpy()
        np.testing.assert_allclose(predictions.probabilities, expected, atol=1e-5)
        assert predictions.correct.mean() == pytest.approx(result.metrics[f"accuracy/{name}"].value)
    held = weight_fitting.read_held_out(*pair)
    soup = weight_fitting.average_weights(pair[0], held)
    accuracies = [predictions.correct.mean() for predictions in held.predictions]
    assert soup.candidates == [0, 1]
    assert soup.averaged[0] == int(np.argmax(accuracies))
    predictions = soup.run.predictions(held.dataset)
    assert predictions.correct.mean() >= max(accuracies)
    assert soup.run.temperature != 1
    assert soup.run.temperature == pytest.approx(fit_temperature(predictions.logits, predictions.targets))


def test_every_pair_is_recomputed_from_the_saved_answers_and_the_metrics_are_their_means(saved):
    table = saved.tables["pairs"].set_index(["a", "b"])
    runs = dict(list(saved.tables["answers"].groupby("run")))
    assert list(table.index) == list(combinations(runs, 2))
    codes = {name: index for index, name in enumerate(saved.classes)}
    for a, b in table.index:
        answers = [runs[a]["target"], runs[a]["prediction"], runs[b]["prediction"]]
        target, first, second = (names.map(codes).to_numpy() for names in answers)
        right, other = first == target, second == target
        expected = dict(zip(MEASURES, compute_measures((first, second), target, 3), strict=True)) | {
            "probability_correlation": np.corrcoef(runs[a]["prob_target"], runs[b]["prob_target"])[0, 1],
            "only_b_correct": sum(~right & other),
            "only_a_correct": sum(right & ~other),
            "both_incorrect": sum(~right & ~other),
            "both_correct": sum(right & other),
            "n": 240,
        }
        assert table.loc[(a, b), list(expected)].to_dict() == pytest.approx(expected, abs=1e-6)
    for name in (*MEASURES, "probability_correlation"):
        assert saved.metrics[name].value == pytest.approx(table[name].mean(), abs=1e-6)
    for name in MEASURES:
        metric = saved.metrics[name]
        assert metric.low < metric.value < metric.high
        assert (metric.n, metric.units, metric.interval) == (240, 120, "bootstrap by group")

"""Tests of the block ensemble: fitted on held-out images alone, equal to sums by hand, and saved whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn import metrics as sk

from avatar_bench.data.dataset import Dataset
from avatar_bench.errors import BlockError
from avatar_bench.evaluation.blocks.ensemble import EnsembleBlock, weight_fitting
from avatar_bench.i18n import use_language
from avatar_bench.metrics.averaging import STRATEGIES
from avatar_bench.metrics.calibration import fit_temperature
from avatar_bench.results.reasons import Reason
from avatar_bench.runs.ensembles import open_run, save_ensemble
from avatar_bench.runs.labels import label_runs

FAST = {"resamples": 200}
SIGNALS = (1.6, 1.2, 0.9)
STRATEGY_FIGURES = {"gain", "weights", "contribution"}
PAIR_FIGURES = {"kappa", "error_correlation", "double_fault", "kappa_error"}


@pytest.fixture(scope="module")
def voters(make_predictions, fake_run, dataset_of):
    """Build stand-ins of runs of different strength, each with its set, from one seed."""

    def build(count=3, n=240, held=120, seed=0, groups=None, change=lambda predictions: predictions, **fields):
        rng = np.random.default_rng(seed)
        runs, datasets = [], []
        for number in range(count):
            parts = []
            for name, size in (("test", n), ("calibration", held)):
                targets = np.arange(size) % 3
                logits = (1 + number) * (rng.normal(size=(size, 3)) + SIGNALS[number % 3] * np.eye(3)[targets])
                paths = [f"{name}/{i}.png" for i in range(size)]
                parts.append(make_predictions(targets, logits, paths=paths, temperature=1.0 + number))
            if groups is not None:
                parts[0] = replace(parts[0], groups=groups)
            test = change(parts[0])
            plain = dataset_of(parts[1], split="calibration")
            keys = [f"{i + 10_000:064x}" for i in range(held)]
            images = Dataset("run", Path(), plain.frame.assign(sha256=keys))
            own = {
                "images": images,
                "label": f"run {number}",
                "recipe": f"run {number}",
                "checkpoint": Path(f"run{number}/checkpoints/best.ckpt"),
                "checkpoint_sha256": f"{number:064x}",
                "card": SimpleNamespace(
                    backbone=f"net{number}", options={}, preprocessing={}, classes=test.classes, weights="hub", seed=0
                ),
            }
            runs.append(fake_run(test, calibration=parts[1], **own | fields))
            datasets.append(dataset_of(test))
        return runs, datasets

    return build


def poison(predictions):
    """Return predictions whose targets are dealt at random: what a strategy that looks at the set would be led by."""
    dealt = np.random.default_rng(9).permutation(predictions.targets)
    return replace(predictions, targets=dealt, logits=predictions.logits[::-1])


def test_no_strategy_moves_with_the_labels_and_outputs_of_the_evaluated_set(voters):
    allow = {"allow": frozenset({"permutation"})}
    clean, poisoned = (EnsembleBlock(**FAST).compare(*voters(change=how, **allow)) for how in (lambda one: one, poison))
    assert clean.metrics["accuracy/soft_vote"].value > 0.7 > poisoned.metrics["accuracy/soft_vote"].value
    for one, other in zip(*(result.provenance["ensembles"].values() for result in (clean, poisoned)), strict=True):
        assert (one["temperature"], one["members"]) == (other["temperature"], other["members"])
    assert clean.tables["weights"].equals(poisoned.tables["weights"])
    assert clean.provenance["single"] == poisoned.provenance["single"]


def test_p_values_of_the_gains_are_corrected_for_the_number_of_strategies(voters):
    table = EnsembleBlock(**FAST).compare(*voters()).tables["strategies"]
    assert table.loc[0, ["p", "p_holm"]].isna().all()
    rows, tests = table[1:].sort_values("p"), len(STRATEGIES)
    counts = zip(rows["only_strategy_correct"], rows["only_single_correct"], strict=True)
    p = [binomtest(wins, wins + losses).pvalue if wins + losses else 1.0 for wins, losses in counts]
    assert list(rows["p"]) == pytest.approx(p)
    stepwise = np.maximum.accumulate([p[k] * (tests - k) for k in range(tests)])
    assert list(rows["p_holm"]) == pytest.approx(np.minimum(1, stepwise))


@pytest.fixture(scope="module")
def saved(voters, tmp_path_factory):
    """A saved Result of three runs, groups of two images, read back as files."""
    groups = np.array([f"g{i // 2}" for i in range(240)])
    result = EnsembleBlock(resamples=2000).compare(*voters(groups=groups))
    folder = tmp_path_factory.mktemp("compared") / "ensemble"
    result.save(folder)
    return folder, json.loads((folder / "metrics.json").read_text())


def test_every_figure_is_recomputed_from_the_saved_files(saved):
    folder, printed = saved
    table, weights = pd.read_csv(folder / "predictions.csv"), pd.read_csv(folder / "weights.csv")
    members, held = np.load(folder / "members.npz"), np.load(folder / "calibration.npz")
    classes, expected = printed["classes"], {}
    chosen = np.argmax([sk.accuracy_score(held["targets"], logit.argmax(axis=1)) for logit in held["logits"]])
    single = members["logits"][chosen].argmax(axis=1) == members["targets"]
    for name, mix in weights.groupby("strategy"):
        parts = zip(mix["weight"], mix["temperature"], members["logits"].astype(float), strict=True)
        mean = sum(weight * softmax(logits / own, axis=1) for weight, own, logits in parts)
        t = printed["provenance"]["ensembles"][name]["temperature"]
        shares = mean ** (1 / t) / (mean ** (1 / t)).sum(axis=1, keepdims=True)
        own = table[table["strategy"] == name]
        np.testing.assert_allclose(own[[f"prob_{logit}" for logit in classes]], shares, atol=1e-6)
        guess = shares.argmax(axis=1)
        expected[f"accuracy/{name}"] = sk.accuracy_score(members["targets"], guess)
        expected[f"macro_f1/{name}"] = sk.f1_score(members["targets"], guess, average="macro")
        expected[f"gain/{name}"] = (guess == members["targets"]).mean() - single.mean()
        alone = sk.f1_score(members["targets"], members["logits"][chosen].argmax(axis=1), average="macro")
        expected[f"gain_macro_f1/{name}"] = expected[f"macro_f1/{name}"] - alone
        expected[f"nll/{name}"] = sk.log_loss(members["targets"], shares)
        expected[f"ece/{name}"] = ece(shares, members["targets"])
    everyone = softmax(members["logits"].astype(float), axis=2)
    for run in range(3):
        without = np.delete(everyone, run, axis=0).mean(axis=0).argmax(axis=1) == members["targets"]
        both = everyone.mean(axis=0).argmax(axis=1) == members["targets"]
        expected[f"contribution/run {run}"] = both.mean() - without.mean()
    values = {name: printed["metrics"][name]["value"] for name in expected}
    assert values == pytest.approx(expected, abs=1e-6)
    assert len(expected) == 6 * 4 + 3


def ece(shares, targets):
    """Compute the calibration error in 15 bins with a plain loop."""
    sure, right = shares.max(axis=1), shares.argmax(axis=1) == targets
    total = 0.0
    for number in range(15):
        inside = (sure > number / 15) & (sure <= (number + 1) / 15)
        total += abs(right[inside].sum() - sure[inside].sum()) / len(sure)
    return total


def test_weights_and_temperatures_are_recomputed_from_the_saved_held_out_images(saved):
    folder, printed = saved
    weights, held = pd.read_csv(folder / "weights.csv"), np.load(folder / "calibration.npz")
    scaled = weights[weights["strategy"] == "scaled_vote"]["temperature"].to_numpy()
    np.testing.assert_allclose(scaled, [applied(share, held) for share in held["logits"]], rtol=1e-6)
    shares = softmax(held["logits"] / scaled[:, None, None], axis=2)
    scores = [
        sk.accuracy_score(held["targets"], share.argmax(1)) * (1 - ece(share, held["targets"])) for share in shares
    ]
    own = {name: rows["weight"].to_numpy() for name, rows in weights.groupby("strategy")}
    np.testing.assert_allclose(own["accuracy_ece"], np.array(scores) / sum(scores), atol=1e-9)
    np.testing.assert_allclose(own["soft_vote"], 1 / 3)
    table = pd.read_csv(folder / "members.csv")
    np.testing.assert_allclose(scores, table["calibration_accuracy"] * (1 - table["calibration_ece"]), atol=1e-9)
    raw = [ece(share, held["targets"]) for share in softmax(held["logits"], axis=2)]
    np.testing.assert_allclose(raw, table["calibration_raw_ece"], atol=1e-9)
    for name in STRATEGIES:
        rows = weights[weights["strategy"] == name]
        parts = zip(rows["weight"], rows["temperature"], held["logits"], strict=True)
        mean = sum(weight * softmax(logits / t, axis=1) for weight, t, logits in parts)
        fitted = applied(np.log(mean), held)
        assert printed["provenance"]["ensembles"][name]["temperature"] == pytest.approx(fitted, rel=1e-5)


def applied(logits, held):
    """Return the temperature fitted on held-out images, 1 where the interval of refits contains 1."""
    targets, groups = held["targets"], [np.flatnonzero(held["groups"] == name) for name in np.unique(held["groups"])]
    rng, found = np.random.default_rng(1), []
    for _ in range(100):
        rows = np.concatenate([groups[k] for k in rng.integers(0, len(groups), len(groups))])
        found.append(fit_temperature(logits[rows], targets[rows]))
    low, high = np.quantile(found, [0.025, 0.975])
    return 1.0 if low <= 1 <= high else fit_temperature(logits, targets)


def test_the_gains_interval_is_a_paired_bootstrap_of_groups(saved):
    folder, printed = saved
    table = pd.read_csv(folder / "predictions.csv")
    right = {name: rows["correct"].to_numpy(float) for name, rows in table.groupby("strategy")}
    pairs = (right["soft_vote"] - right["single"]).reshape(-1, 2).sum(axis=1)
    drawn = np.random.default_rng(5).choice(pairs, (4000, len(pairs))).sum(axis=1) / 240
    low, high = np.quantile(drawn, [0.025, 0.975])
    found = printed["metrics"]["gain/soft_vote"]
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.012)
    assert (found["n"], found["units"], found["interval"]) == (240, 120, "bootstrap by group")
    strategies = pd.read_csv(folder / "strategies.csv").set_index("strategy")
    row = strategies.loc["soft_vote"]
    assert (row["only_strategy_correct"] - row["only_single_correct"]) / 240 == pytest.approx(found["value"])
    assert list(strategies.index) == ["single", *STRATEGIES]
    for kind in ("macro_f1", "gain_macro_f1"):
        metric = printed["metrics"][f"{kind}/soft_vote"]
        ends = [row[f"{kind}{end}"] for end in ("", "_low", "_high")]
        assert ends == pytest.approx([metric[end] for end in ("value", "low", "high")])


def test_the_single_run_is_the_one_of_the_held_out_images_and_not_of_the_set(voters):
    runs, datasets = voters()
    runs[0].predictions, runs[2].predictions = runs[2].predictions, runs[0].predictions
    datasets[0], datasets[2] = datasets[2], datasets[0]
    result = EnsembleBlock(**FAST).compare(runs, datasets)
    assert result.provenance["single"] == "run 0"
    assert result.tables["members"].set_index("run")["chosen"].tolist() == [True, False, False]


def test_two_copies_of_one_run_gain_nothing(voters):
    runs, datasets = voters(1)
    twin = SimpleNamespace(**vars(runs[0]) | {"label": "twin"})
    result = EnsembleBlock(**FAST).compare([runs[0], twin], datasets * 2)
    alone = result.metrics["accuracy/single"].value
    assert all(result.metrics[f"accuracy/{name}"].value == alone for name in STRATEGIES)
    assert all(result.metrics[f"gain/{name}"].value == 0 for name in STRATEGIES)
    assert result.metrics["contribution/run 0"].value == 0


@pytest.mark.parametrize(("kind", "score"), [("perfect", 1.0), ("uniform", 1 / 3)])
def test_oracles_score_one_and_chance(kind, score, oracle, voters):
    runs, datasets = voters(2)
    for seed, run in enumerate(runs):
        known = oracle(kind, 240, seed=seed)
        run.predictions = lambda dataset, known=known: known
    result = EnsembleBlock(**FAST).compare(runs, datasets)
    for name in STRATEGIES:
        metric = result.metrics[f"accuracy/{name}"]
        assert metric.low - 1e-9 <= score <= metric.high + 1e-9
    if kind == "perfect":
        assert result.metrics["accuracy/soft_vote"].value == 1
        assert result.metrics["ece/soft_vote"].value == pytest.approx(0, abs=1e-6)


def test_weights_are_fitted_on_what_all_hold_out_and_none_has_learned(voters):
    runs, datasets = voters(2)
    turned = runs[1].images.frame.iloc[::-1].reset_index(drop=True)
    turned.loc[:9, "split"] = "val"  # the last ten of the first run
    held = runs[1].calibration(None).take(np.arange(120)[::-1][10:])
    runs[1].images, runs[1].calibration = replace(runs[1].images, frame=turned), lambda dataset: held
    found = weight_fitting.read_held_out(runs, datasets)
    assert len(found.dataset) == 110
    for prediction in found.predictions:
        np.testing.assert_array_equal(prediction.targets, np.arange(110) % 3)
    np.testing.assert_array_equal(found.logits[1], held.logits[::-1])


def test_of_too_few_common_images_pairs_are_left_and_a_way_out(voters):
    runs, datasets = voters(2, held=19)
    with pytest.raises(BlockError, match="too few calibration images") as caught:
        weight_fitting.read_held_out(runs, datasets)
    assert len(caught.value.lines) == 3
    result = EnsembleBlock(**FAST).compare(runs, datasets)
    assert result.warnings[0] == Reason("not_fitted", why=" ".join(caught.value.lines))
    assert set(result.tables) == {"pairs", "answers"}
    assert "ensembles" not in result.provenance


def test_figures_are_drawn_in_russian_too(voters, draw_saved):
    result = EnsembleBlock(**FAST).compare(*voters())
    with use_language("ru"):
        drawn = draw_saved(result)
    assert set(drawn) == STRATEGY_FIGURES | PAIR_FIGURES
    assert "мягкое голосование" in [tick.get_text() for tick in drawn["gain"].axes[0].get_yticklabels()]


def test_results_of_one_version_ago_are_drawn(voters, draw_saved):
    """Those of ensemble have no pairs, those of ensemble_diversity no strategies."""
    result = EnsembleBlock(**FAST).compare(*voters())
    of_pairs = ("pairs", "answers")
    before = replace(result, tables={name: array for name, array in result.tables.items() if name not in of_pairs})
    before.arrays = {name: array for name, array in result.arrays.items() if name != "runs"}
    assert set(draw_saved(before)) == STRATEGY_FIGURES
    tables = {name: result.tables[name] for name in of_pairs}
    other = replace(result, block="ensemble_diversity", tables=tables, arrays={"runs": result.arrays["runs"]})
    assert set(draw_saved(other)) == PAIR_FIGURES


@pytest.fixture
def pair(run_pair):
    """Two runs of one network and origin, opened anew for each test, with their sets."""
    runs = [open_run(one.folder, label=one.label, recipe=one.recipe, workers=0) for one in label_runs(run_pair)]
    return runs, [run.dataset("test") for run in runs]


def test_what_is_saved_of_real_runs_predicts_what_the_block_says(pair, tmp_path):
    result = EnsembleBlock(**FAST).compare(*pair)
    table = result.tables["predictions"]
    columns = [f"prob_{name}" for name in result.classes]
    assert set(result.provenance["ensembles"]) == {*STRATEGIES, "soup"}
    for name, description in result.provenance["ensembles"].items():
        run = open_run(save_ensemble(tmp_path / "ensembles" / name, json.loads(json.dumps(description))))
        predictions = run.predictions(run.dataset("test"))
        expected = table[table["strategy"] == name][columns].to_numpy()
        np.testing.assert_allclose(predictions.probabilities, expected, atol=1e-5)
        assert predictions.correct.mean() == pytest.approx(result.metrics[f"accuracy/{name}"].value)


def test_a_soup_keeps_a_run_only_where_the_held_out_accuracy_does_not_fall(pair):
    runs, datasets = pair
    held = weight_fitting.read_held_out(runs, datasets)
    soup = weight_fitting.average_weights(runs, held)
    own = [prediction.correct.mean() for prediction in held.predictions]
    assert soup.candidates == [0, 1]
    assert soup.averaged[0] == int(np.argmax(own))
    assert soup.run.predictions(held.dataset).correct.mean() >= max(own)
    assert soup.run.temperature != 1
    predictions = soup.run.predictions(held.dataset)
    assert soup.run.temperature == pytest.approx(fit_temperature(predictions.logits, predictions.targets))

"""Tests of out_of_domain: every metric recomputed from the saved tables, and refused inputs."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from sklearn import metrics as sk

from avatar_bench.config.entries import use_folders
from avatar_bench.data.dataset import Dataset
from avatar_bench.errors import BlockError, ConfigError, GuardError
from avatar_bench.evaluation.block import build_block
from avatar_bench.evaluation.blocks.out_of_domain import DETECTION_METRICS, OutOfDomain
from avatar_bench.inference.network_predictor import combine_predictions
from avatar_bench.metrics import stats
from avatar_bench.metrics.averaging import AveragingWeights
from avatar_bench.metrics.selective import AnsweringThreshold
from avatar_bench.results.reasons import Reason
from avatar_bench.runs.decisions import DecisionRule
from avatar_bench.runs.saved_calibration import DecisionImages, OodReference, SavedCalibration

SCORES = ("decision", "msp", "max_logit", "energy", "mahalanobis", "knn")


@pytest.fixture(scope="module")
def outside(make_predictions):
    """Build Predictions of images of no known class, groups of two, whose embeddings lie apart by `distance`."""

    def build(name, n=60, distance=3.0, seed=5):
        rng = np.random.default_rng(seed)
        return make_predictions(
            np.full(n, -1),
            rng.normal(size=(n, 3)),
            embeddings=rng.normal(distance, 1, (n, 8)).astype(np.float32),
            groups=[f"{name}{i // 2}" for i in range(n)],
            sources=["elsewhere"] * n,
        )

    return build


@pytest.fixture(scope="module")
def world(oracle, outside, dataset_of, fake_run):
    """Build a run with near, far and shifted sets around the Predictions of an oracle."""

    def build(kind="noisy", training=True, **fields):
        inside = oracle(kind)
        sets = {
            "animal_faces": outside("near", distance=1.0),
            "things": outside("far", n=40, seed=6),
            "simpsons": outside("toon", n=44, seed=7),
        }
        ood = {name: (dataset_of(given, name), given) for name, given in sets.items()}
        known = oracle("noisy", n=300, seed=9) if training else None
        return fake_run(inside, training=known, ood=ood, **fields), dataset_of(inside)

    return build


@pytest.fixture(scope="module")
def calibrated(oracle, dataset_of):
    """Build the fields of a run whose decisions have the even images of an oracle as reference."""

    def build(held=None, **columns):
        held = oracle("noisy", n=200, seed=21) if held is None else held
        is_reference = np.arange(len(held)) % 2 == 0
        known = held.embeddings[is_reference]
        unit = known / np.linalg.norm(known, axis=1, keepdims=True)
        gaps = np.linalg.norm(unit[:, None] - unit[None], axis=2)
        own = np.sort(gaps + 9 * np.eye(len(known)), axis=1)[:, 4]  # of each to its fifth nearest among the others
        decisions = DecisionImages(
            held.classes, held.probabilities, is_reference, np.full(len(held), 50.0), OodReference(known, own)
        )
        other = {"sha256": [f"{i + 10**6:064x}" for i in range(len(held))], "group": [f"held{i}" for i in range(200)]}
        images = Dataset("held", Path(), dataset_of(held).frame.assign(**other | columns))
        return {"decision_calibration": SavedCalibration("", "all", 1.0, None, {}, images, "", decisions=decisions)}

    return build


@pytest.fixture(scope="module")
def saved(world, calibrated, tmp_path_factory):
    """A saved Result, read back as files."""
    run, dataset = world(**calibrated())
    folder = tmp_path_factory.mktemp("saved") / "out_of_domain"
    OutOfDomain(resamples=200).evaluate(run, dataset).save(folder)
    return folder, json.loads((folder / "metrics.json").read_text())


def sides(table, name):
    """Return the rows of the domain and of a set, and which of them are outside."""
    both = table[(table["kind"] == "in_domain") | (table["set"] == name)]
    return both, (both["kind"] != "in_domain").to_numpy()


def test_every_detection_figure_can_be_recomputed_from_the_saved_scores(saved):
    folder, said = saved
    table = pd.read_csv(folder / "scores.csv")
    for name in ("animal_faces", "things"):
        both, beside = sides(table, name)
        for score in SCORES:
            alarm, caught, _ = sk.roc_curve(beside, both[score], drop_intermediate=False)
            expected = {
                "auroc": sk.roc_auc_score(beside, both[score]),
                "aupr": sk.average_precision_score(beside, both[score]),
                "fpr95": alarm[caught >= 0.95].min(),
            }
            metrics = {figure: said["metrics"][f"{figure}/{name}/{score}"] for figure in DETECTION_METRICS}
            assert {figure: metric["value"] for figure, metric in metrics.items()} == pytest.approx(expected, abs=1e-6)
            assert metrics["auroc"]["floor"] == 0.5
            assert metrics["aupr"]["floor"] == pytest.approx(beside.mean())
            assert metrics["fpr95"]["floor"] == 0.95
            assert [metrics[figure]["higher_is_better"] for figure in DETECTION_METRICS] == [True, True, False]


def test_what_decisions_flag_is_measured_by_their_own_rule_and_comes_first(saved, world, calibrated):
    """By hand: flagged is an image whose fifth nearest reference image is farther than that of 99 % of these."""
    folder, said = saved
    fields = calibrated()
    run, dataset = world(**fields)
    reference = fields["decision_calibration"].decisions.reference
    unit = reference.embeddings / np.linalg.norm(reference.embeddings, axis=1, keepdims=True)
    rule = DecisionRule(run.classes, 1.0, reference, 0.1, {"": AnsweringThreshold(0.0, 0, 0, 0, 0)})
    scores = pd.read_csv(folder / "scores.csv")
    for name, other in {"animal_faces": None, "things": None, "simpsons": None, "test": dataset}.items():
        predictions = run.predictions(other or run.ood[name])
        asked = predictions.embeddings / np.linalg.norm(predictions.embeddings, axis=1, keepdims=True)
        fifth = np.sort(np.linalg.norm(asked[:, None] - unit[None], axis=2), axis=1)[:, 4]
        flagged = np.array([(reference.distances <= one).mean() > 0.99 for one in fifth])
        metric = said["metrics"][f"flagged/{name}"]
        assert metric["value"] == pytest.approx(flagged.mean())
        reasons = rule.decide(predictions.probabilities, predictions.embeddings)["decision_reason"]
        assert metric["value"] == pytest.approx((reasons == "unlike_training_data").mean())
        assert metric["low"] <= metric["value"] <= metric["high"]
        assert metric["higher_is_better"] is (name in ("animal_faces", "things"))
        score = scores[(scores["set"] == name) & ((scores["kind"] == "in_domain") == (name == "test"))]
        np.testing.assert_allclose(score["decision"], fifth, atol=1e-6)
        assert ((score["ood_percentile"] > 99) == flagged).all()
    metrics = said["metrics"]
    assert list(metrics)[:4] == [f"flagged/{name}" for name in ("animal_faces", "things", "simpsons", "test")]
    assert metrics["flagged/things"]["floor"] == metrics["flagged/test"]["value"] < 0.1


def test_a_set_with_images_of_the_reference_is_refused(world, calibrated):
    with pytest.raises(GuardError, match="test are also in"):
        OutOfDomain(resamples=100).evaluate(*world(**calibrated(sha256=[f"{i:064x}" for i in range(200)])))


def test_every_share_and_accuracy_can_be_recomputed_from_the_saved_tables(saved):
    folder, said = saved
    table, sets = pd.read_csv(folder / "scores.csv"), pd.read_csv(folder / "sets.csv").set_index("set")
    for name in ("animal_faces", "things", "simpsons"):
        own = table[table["set"] == name]
        for label in said["classes"]:
            share = said["metrics"][f"share/{name}/{label}"]
            assert share["value"] == pytest.approx((own["prediction"] == label).mean(), abs=1e-9)
            assert share["value"] == pytest.approx(sets.loc[name, f"share_{label}"], abs=1e-9)
            assert share["low"] <= share["value"] <= share["high"]
            assert share["units"] == own["group"].nunique()
    toons = table[table["set"] == "simpsons"]
    accuracy = said["metrics"]["accuracy/simpsons"]
    assert accuracy["value"] == pytest.approx(sk.accuracy_score(toons["target"], toons["prediction"]))
    assert accuracy["floor"] == pytest.approx(1 / 3)


def test_confidence_can_be_recomputed_from_the_saved_scores_by_set_and_predicted_class(saved):
    folder, said = saved
    scores, table = pd.read_csv(folder / "scores.csv"), pd.read_csv(folder / "confidence.csv", keep_default_na=False)
    assert table["set"].unique().tolist() == ["test", "animal_faces", "things", "simpsons"]
    assert table["class"].tolist() == 4 * ["", *said["classes"]]
    for row in table.to_dict("records"):
        beside = scores["kind"] == row["kind"] if row["kind"] == "in_domain" else scores["set"] == row["set"]
        confidence = scores[beside & ((scores["prediction"] == row["class"]) | (row["class"] == ""))]["confidence"]
        assert (row["n"], row["share"]) == (len(confidence), pytest.approx(len(confidence) / beside.sum()))
        assert float(row["mean_confidence"]) == pytest.approx(confidence.mean(), abs=1e-9)
        assert float(row["std_confidence"]) == pytest.approx(confidence.std(ddof=0), abs=1e-9)
        for figure in ("mean_confidence", "std_confidence"):
            assert float(row[f"{figure}_low"]) < float(row[figure]) < float(row[f"{figure}_high"])
            if row["class"] == "":
                metric = said["metrics"][f"{figure}/{row['set']}"]
                assert [metric[end] for end in ("value", "low", "high")] == pytest.approx(
                    [float(row[f"{figure}{end}"]) for end in ("", "_low", "_high")], abs=1e-12
                )
    better = {name: said["metrics"][f"mean_confidence/{name}"]["higher_is_better"] for name in table["set"].unique()}
    assert better == {"test": None, "animal_faces": False, "things": False, "simpsons": None}


def test_two_members_whose_energies_are_known_have_their_weighted_mean(make_predictions, dataset_of, fake_run):
    # log-sum-exp of (0, 0, 0), (ln 2, ln 3, ln 5), (2, 2, 2): ln 3, ln 10, 2 + ln 3
    flat, tall, high = np.zeros(3), np.log([2, 3, 5]), np.full(3, 2.0)
    first = make_predictions([0, 1, 2, 0], [flat, tall, high, flat])
    second = make_predictions([0, 1, 2, 0], [tall, tall, flat, high])
    expected = -(0.25 * np.log([3, 10, 3 * np.e**2, 3]) + 0.75 * np.log([10, 10, 3, 3 * np.e**2]))
    inside = combine_predictions(
        [first, second], AveragingWeights(np.array([0.25, 0.75]), np.array([1.0, 4.0])), temperature=1.7
    )
    beside = replace(inside, targets=np.full(4, -1), logits=inside.logits + np.float32(-1))
    run = fake_run(inside, ood={"new": (dataset_of(beside, "new"), beside)}, allow=frozenset({"permutation"}))
    result = OutOfDomain(resamples=100).evaluate(run, dataset_of(inside))
    table = result.tables["scores"].set_index("kind")
    np.testing.assert_allclose(table.loc["in_domain", "energy"], expected, atol=1e-6)
    np.testing.assert_allclose(table.loc["far", "energy"], expected + 1, atol=1e-6)
    plain = -np.log(np.max(0.25 * softmax(first.logits, axis=1) + 0.75 * softmax(second.logits / 4, axis=1), axis=1))
    np.testing.assert_allclose(table.loc["in_domain", "max_logit"], expected + plain, atol=1e-6)
    auroc = sk.roc_auc_score(np.arange(8) >= 4, np.concatenate([expected, expected + 1]))
    assert result.metrics["auroc/new/energy"].value == auroc


def test_a_predictor_of_probabilities_alone_gets_no_score_of_logits_and_it_is_said(world):
    run, dataset = world()
    predictions = run.predictions
    run.predictions = lambda other: replace(predictions(other), has_logits=False)
    result = OutOfDomain(resamples=100).evaluate(run, dataset)
    for figure, score in product(DETECTION_METRICS, ("energy", "max_logit")):
        assert result.metrics[f"{figure}/things/{score}"].value is None
        assert result.metrics[f"{figure}/things/{score}"].reason == Reason("needs_logits")
    assert all(result.metrics[f"auroc/things/{score}"].value for score in ("msp", "mahalanobis", "knn"))


def test_aurocs_equal_those_of_pytorch_ood(world):
    detector = pytest.importorskip("pytorch_ood.detector")
    run, dataset = world()
    metrics = OutOfDomain(resamples=100).evaluate(run, dataset).metrics
    training, parts = run.training(), [run.predictions(dataset), run.predictions(run.ood["animal_faces"])]
    logits, embeddings = (
        torch.tensor(np.concatenate([getattr(part, kind) for part in parts])) for kind in ("logits", "embeddings")
    )
    fitted = torch.tensor(training.embeddings), torch.tensor(training.targets)
    theirs = {
        "energy": detector.EnergyBased.score(logits),
        "max_logit": detector.MaxLogit.score(logits),
        "mahalanobis": detector.Mahalanobis(None).fit_features(*fitted).predict_features(embeddings),
        "knn": detector.KNN(None, k=50).fit_features(*fitted).predict_features(embeddings),
    }
    beside = np.arange(len(logits)) >= len(parts[0])
    for score, values in theirs.items():
        metric = metrics[f"auroc/animal_faces/{score}"]
        assert metric.value == pytest.approx(sk.roc_auc_score(beside, values), abs=1e-3)
        assert metric.low < metric.value < metric.high


def test_intervals_draw_whole_groups_and_keep_the_share_of_the_set(world):
    run, dataset = world()
    metric = OutOfDomain(resamples=400).evaluate(run, dataset).metrics["aupr/things/msp"]
    assert (metric.n, metric.units, metric.interval) == (280, 240 + 20, "bootstrap by group")
    domain, beside = run.predictions(dataset), run.predictions(run.ood["things"])
    groups = np.concatenate([domain.groups, beside.groups])
    scores = -softmax(np.concatenate([domain.logits, beside.logits]), axis=1).max(axis=1)
    positive = np.arange(280) >= 240

    def sampled(weights):
        scale = 40 / weights[:, positive].sum(axis=1), 240 / weights[:, ~positive].sum(axis=1)
        even = np.where(positive, weights * scale[0][:, None], weights * scale[1][:, None])
        return np.array([sk.average_precision_score(positive, scores, sample_weight=row) for row in even])

    assert (metric.low, metric.high) == pytest.approx(stats.bootstrap_interval(sampled, groups, 400))


def test_a_perfect_oracle_tells_everything_apart(world):
    run, dataset = world("perfect")
    metrics = OutOfDomain(resamples=100).evaluate(run, dataset).metrics
    for score in ("msp", "max_logit", "energy"):
        assert metrics[f"auroc/things/{score}"].value == metrics[f"aupr/things/{score}"].value == 1
        assert metrics[f"fpr95/things/{score}"].value == 0


def test_a_uniform_oracle_and_a_set_like_the_domain_give_chance(oracle, dataset_of, fake_run, calibrated):
    inside, same = oracle("uniform", n=300), oracle("uniform", n=300, seed=4)
    same = replace(same, targets=np.full(300, -1))
    known, sets = oracle("uniform", n=300, seed=8), {"same": (dataset_of(same, "same"), same)}
    run = fake_run(inside, training=known, ood=sets, **calibrated(oracle("uniform", n=200, seed=21)))
    metrics = OutOfDomain(resamples=200).evaluate(run, dataset_of(inside)).metrics
    for score in SCORES:
        assert metrics[f"auroc/same/{score}"].value == pytest.approx(0.5, abs=0.08)
        assert metrics[f"aupr/same/{score}"].value == pytest.approx(metrics[f"aupr/same/{score}"].floor, abs=0.08)
        assert metrics[f"fpr95/same/{score}"].value == pytest.approx(0.95, abs=0.08)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": {"thing": "real"}}, ["labels", "'thing'", "animal_faces, things, simpsons"]),
        ({"labels": {"things": "photo"}}, ["labels.things=photo", "drawing, generated, real"]),
    ],
)
def test_a_wrong_name_of_a_set_or_class_is_said(options, words, world):
    run, dataset = world()
    with pytest.raises(ConfigError) as caught:
        OutOfDomain(**options).evaluate(run, dataset)
    assert all(word in str(caught.value) for word in words)


def test_a_run_without_such_sets_and_a_set_of_its_own_are_refused(oracle, world, dataset_of, fake_run):
    alone = oracle("noisy")
    with pytest.raises(BlockError, match="no out-of-domain set"):
        OutOfDomain().evaluate(fake_run(alone), dataset_of(alone))
    run, _ = world()
    with pytest.raises(BlockError, match="things is an out-of-domain set itself"):
        OutOfDomain().evaluate(run, run.ood["things"])


def test_block_all_goes_on_where_a_set_is_broken_or_missing(run_copy, tmp_path, capsys):
    from avatar_bench.cli.app import main

    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a.png").write_bytes(b"")
    chosen = ["evaluate", f"ckpt={run_copy}", "block=[out_of_domain,error_bias]", "skip_unusable=true"]
    for folder, printed in (("odd", "a.png: empty file"), ("gone", "gone")):
        out = tmp_path / f"out_{folder}"
        assert main([*chosen, f"out={out}", f"data.ood={{odd: {tmp_path / folder}}}"]) == 0
        said = capsys.readouterr().err
        assert "skipped: " in said
        assert printed in said
        metrics = json.loads((out / "evaluation" / "test" / "error_bias" / "metrics.json").read_text())["metrics"]
        assert printed in str(metrics["unbias"]["reason"])


def test_a_score_of_a_user_is_computed_with_its_options_and_shown_by_its_title(world, draw_saved, tmp_path) -> None:
    (tmp_path / "ood_score").mkdir()
    (tmp_path / "ood_score" / "spread.py").write_text(
        """
from dataclasses import dataclass
from avatar_bench.config.options import option
from avatar_bench.metrics.ood_scores import OodScore

@dataclass(kw_only=True)
class Spread(OodScore):
    factor: float = option(1.0, help="of the score", range=(0, None))

    def score(self, outputs):
        return -self.factor * outputs.logits.std(axis=1)
"""
    )
    (tmp_path / "ood_score" / "spread.yaml").write_text("title: spread of logits\n")
    run, dataset = world()
    with use_folders([tmp_path]):
        given = {"scores": ["energy", "spread"], "options": {"spread": {"factor": 2}}, "resamples": 100}
        result = build_block("out_of_domain", given).evaluate(run, dataset)
        assert "auroc/things/spread" in result.metrics
        expected = -2 * run.predictions(dataset).logits.std(axis=1)
        scores = result.tables["scores"]
        assert scores.loc[scores["kind"] == "in_domain", "spread"].to_numpy() == pytest.approx(expected)
        labels = [text.get_text() for text in draw_saved(result)["auroc"].axes[0].get_yticklabels()]
        assert labels == ["energy", "spread of logits"]
        with pytest.raises(ConfigError, match=r"ood_score\.spread\.factor=-1: expected 0 or more"):
            OutOfDomain(scores=["spread"], options={"spread": {"factor": -1}})
    with pytest.raises(ConfigError, match="expected one of decision, energy"):
        build_block("overview", {"ood_score": "spread"})


def test_its_figures_are_drawn_whole_in_both_languages(drawn_whole, saved):
    drawn_whole(saved[0], {"shares", "confidence", "auroc", "scores", "gallery"})

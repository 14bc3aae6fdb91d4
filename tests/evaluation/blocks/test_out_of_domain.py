"""Tests of out_of_domain: every metric recomputed from the saved tables, and refused inputs."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logsumexp, softmax
from sklearn import metrics as sk

from avatar_bench.config.entries import use_folders
from avatar_bench.data.dataset import Dataset
from avatar_bench.errors import BlockError, ConfigError, DataError, GuardError
from avatar_bench.evaluation import registry
from avatar_bench.evaluation.blocks.out_of_domain import DETECTION_METRICS, OutOfDomain
from avatar_bench.i18n import use_language
from avatar_bench.metrics import stats
from avatar_bench.metrics.averaging import AveragingWeights
from avatar_bench.metrics.selective import AnsweringThreshold
from avatar_bench.results.declaration import declare_block
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import draw_figures
from avatar_bench.runs.decisions import DecisionRule
from avatar_bench.runs.ensemble_predictor import combine_predictions
from avatar_bench.runs.saved_calibration import DecisionImages, OodReference, SavedCalibration

SCORES = ("decision", "msp", "max_logit", "energy", "mahalanobis", "knn")


@pytest.fixture
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


@pytest.fixture
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


@pytest.fixture
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


@pytest.fixture
def saved(world, calibrated, tmp_path):
    """A saved Result, read back as files."""
    run, dataset = world(**calibrated())
    OutOfDomain(resamples=200).evaluate(run, dataset).save(tmp_path / "out_of_domain", draw_figures)
    folder = tmp_path / "out_of_domain"
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
            found = {figure: said["metrics"][f"{figure}/{name}/{score}"] for figure in DETECTION_METRICS}
            assert {figure: metric["value"] for figure, metric in found.items()} == pytest.approx(expected, abs=1e-6)
            assert found["auroc"]["floor"] == 0.5
            assert found["aupr"]["floor"] == pytest.approx(beside.mean())
            assert found["fpr95"]["floor"] == 0.95
            assert [found[figure]["higher_is_better"] for figure in DETECTION_METRICS] == [True, True, False]


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
        own = scores[(scores["set"] == name) & ((scores["kind"] == "in_domain") == (name == "test"))]
        np.testing.assert_allclose(own["decision"], fifth, atol=1e-6)
        assert ((own["ood_percentile"] > 99) == flagged).all()
    metrics = said["metrics"]
    assert list(metrics)[:4] == [f"flagged/{name}" for name in ("animal_faces", "things", "simpsons", "test")]
    assert metrics["flagged/things"]["floor"] == metrics["flagged/test"]["value"] < 0.1


def test_images_in_another_direction_than_the_reference_are_flagged(outside, calibrated, oracle, fake_run, dataset_of):
    far, inside = outside("far", n=40, distance=-9.0), oracle("noisy")
    run = fake_run(inside, ood={"far": (dataset_of(far, "far"), far)}, **calibrated())
    found = OutOfDomain(resamples=100).evaluate(run, dataset_of(inside)).metrics
    assert found["flagged/far"].value == found["auroc/far/decision"].value == 1


def test_report_card_and_overview_name_the_score_of_decisions():
    declared = declare_block("out_of_domain")
    assert declared.metrics[:2] == ("flagged/*", "auroc/*/decision")
    assert declared.overview[0] == "flagged/*"
    assert registry.build_block("overview").ood_score == "decision"


def test_without_a_reference_nothing_is_flagged_and_it_is_said(world, draw_saved):
    run, dataset = world()
    result = OutOfDomain(resamples=100).evaluate(run, dataset)
    why = Reason("needs_reference")
    for name in ("flagged/things", "flagged/test", "auroc/things/decision"):
        assert (result.metrics[name].value, result.metrics[name].reason) == (None, why)
    assert Reason("not_computed", scores=["decision"], why=why) in result.warnings
    assert result.metrics["auroc/things/energy"].value is not None
    assert "auroc" in draw_saved(result)


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
        own = scores[beside & ((scores["prediction"] == row["class"]) | (row["class"] == ""))]["confidence"]
        assert (row["n"], row["share"]) == (len(own), pytest.approx(len(own) / beside.sum()))
        assert float(row["mean_confidence"]) == pytest.approx(own.mean(), abs=1e-9)
        assert float(row["std_confidence"]) == pytest.approx(own.std(ddof=0), abs=1e-9)
        for figure in ("mean_confidence", "std_confidence"):
            assert float(row[f"{figure}_low"]) < float(row[figure]) < float(row[f"{figure}_high"])
            if row["class"] == "":
                metric = said["metrics"][f"{figure}/{row['set']}"]
                assert [metric[end] for end in ("value", "low", "high")] == pytest.approx(
                    [float(row[f"{figure}{end}"]) for end in ("", "_low", "_high")], abs=1e-12
                )
    better = {name: said["metrics"][f"mean_confidence/{name}"]["higher_is_better"] for name in table["set"].unique()}
    assert better == {"test": None, "animal_faces": False, "things": False, "simpsons": None}


def test_the_interval_of_confidence_is_a_bootstrap_of_groups(world):
    run, dataset = world()
    found = OutOfDomain(resamples=400).evaluate(run, dataset).metrics["std_confidence/things"]
    things = run.predictions(run.ood["things"])

    def spread(weights):
        return np.array([np.repeat(things.confidence, row.astype(int)).std() for row in weights])

    assert (found.low, found.high) == pytest.approx(stats.bootstrap_interval(spread, things.groups, 400))
    assert (found.n, found.units, found.interval) == (40, 20, "bootstrap by group")


def test_a_class_that_one_image_or_none_is_taken_for_has_no_spread(oracle, outside, dataset_of, fake_run):
    inside, few = oracle("noisy"), outside("few", n=2)
    few = replace(few, logits=np.array([[5, 0, 0], [0, 5, 0]], np.float32))
    result = OutOfDomain(resamples=100).evaluate(
        fake_run(inside, ood={"few": (dataset_of(few, "few"), few)}), dataset_of(inside)
    )
    table = result.tables["confidence"].set_index(["set", "class"]).loc["few"]
    assert table["n"].tolist() == [2, 1, 1, 0]
    assert table["mean_confidence"].isna().tolist() == [False, False, False, True]
    assert table["std_confidence"].isna().tolist() == [False, True, True, True]


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


def test_a_predictor_of_probabilities_alone_gets_no_score_of_logits_and_it_is_said(world, draw_saved):
    run, dataset = world()
    given = run.predictions
    run.predictions = lambda other: replace(given(other), has_logits=False)
    result = OutOfDomain(resamples=100).evaluate(run, dataset)
    for figure, score in product(DETECTION_METRICS, ("energy", "max_logit")):
        assert result.metrics[f"{figure}/things/{score}"].value is None
        assert result.metrics[f"{figure}/things/{score}"].reason == Reason("needs_logits")
    assert all(result.metrics[f"auroc/things/{score}"].value for score in ("msp", "mahalanobis", "knn"))
    assert not {"energy", "max_logit"} & set(result.tables["scores"])
    lines = [format_reason(warning, "out_of_domain") for warning in result.warnings]
    assert any("max_logit, energy; this score needs logits" in line for line in lines)
    nothing = OutOfDomain(resamples=100, scores=["energy"]).evaluate(run, dataset)
    assert nothing.metrics["auroc/things/energy"].value is None
    assert set(draw_saved(nothing)) == {"shares", "confidence", "gallery"}


def test_saved_scores_are_those_of_the_logits_and_embeddings(world):
    run, dataset = world()
    table = OutOfDomain(resamples=100).evaluate(run, dataset).tables["scores"]
    things = run.predictions(run.ood["things"])
    own = table[table["set"] == "things"]
    np.testing.assert_allclose(own["energy"], -logsumexp(things.logits, axis=1), atol=1e-6)
    np.testing.assert_allclose(own["max_logit"], -things.logits.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(own["msp"], -softmax(things.logits, axis=1).max(axis=1), atol=1e-6)


@pytest.mark.parametrize("score", ["energy", "max_logit", "mahalanobis", "knn"])
def test_the_auroc_equals_that_of_pytorch_ood(score, world):
    detector = pytest.importorskip("pytorch_ood.detector")
    run, dataset = world()
    found = OutOfDomain(resamples=100).evaluate(run, dataset).metrics[f"auroc/animal_faces/{score}"]
    training, parts = run.training(), [run.predictions(dataset), run.predictions(run.ood["animal_faces"])]
    logits, embeddings = (
        torch.tensor(np.concatenate([getattr(part, kind) for part in parts])) for kind in ("logits", "embeddings")
    )
    fitted = torch.tensor(training.embeddings), torch.tensor(training.targets)
    theirs = {
        "energy": lambda: detector.EnergyBased.score(logits),
        "max_logit": lambda: detector.MaxLogit.score(logits),
        "mahalanobis": lambda: detector.Mahalanobis(None).fit_features(*fitted).predict_features(embeddings),
        "knn": lambda: detector.KNN(None, k=50).fit_features(*fitted).predict_features(embeddings),
    }[score]()
    beside = np.arange(len(logits)) >= len(parts[0])
    assert found.value == pytest.approx(sk.roc_auc_score(beside, theirs), abs=1e-3)
    assert found.low < found.value < found.high


def test_sets_are_near_far_or_shifted(saved):
    folder, said = saved
    sets = pd.read_csv(folder / "sets.csv", keep_default_na=False)
    assert sets["set"].tolist() == ["test", "animal_faces", "things", "simpsons"]
    assert sets["kind"].tolist() == ["in_domain", "near", "far", "shifted"]
    assert sets["label"].tolist() == ["drawing|generated|real", "", "", "drawing"]
    assert not any("auroc/simpsons" in name or "accuracy/things" in name for name in said["metrics"])
    assert {file.stem for file in folder.glob("*.png")} == {"shares", "confidence", "auroc", "scores", "gallery"}


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


@pytest.mark.parametrize("order", [order for order in permutations(range(3)) if order != (0, 1, 2)])
def test_each_wrong_order_of_three_classes_is_refused(order, world):
    run, dataset = world(("permuted", order))
    with pytest.raises(GuardError, match="wrong order"):
        OutOfDomain(resamples=100).evaluate(run, dataset)
    run.allow = frozenset({"permutation"})
    assert OutOfDomain(resamples=100).evaluate(run, dataset).metrics


def test_without_training_images_the_fitted_scores_are_null_and_said(world):
    run, dataset = world(training=False)
    result = OutOfDomain(resamples=100).evaluate(run, dataset)
    for figure in DETECTION_METRICS:
        assert result.metrics[f"{figure}/things/knn"].value is None
        assert result.metrics[f"{figure}/things/mahalanobis"].reason == Reason("needs_training")
        assert result.metrics[f"{figure}/things/energy"].value is not None
    why = Reason("needs_training")
    assert Reason("not_computed", scores=["mahalanobis", "knn"], why=why) in result.warnings
    assert "knn" not in result.tables["scores"]


def test_scores_are_those_asked_for(world):
    run, dataset = world()
    result = OutOfDomain(resamples=100, scores=["knn"], k=3, gallery=0).evaluate(run, dataset)
    assert {name.split("/")[2] for name in result.metrics if name.startswith("auroc")} == {"knn"}
    assert "gallery" not in result.arrays
    one = OutOfDomain(resamples=100, scores=["knn"], k=9999).evaluate(run, dataset).tables["scores"]["knn"]
    assert (one >= result.tables["scores"]["knn"] - 1e-9).all()


def test_a_set_of_known_labels_gets_an_accuracy_and_the_rest_is_said(oracle, dataset_of, fake_run, draw_saved):
    inside, other = oracle("noisy"), oracle("noisy", n=60, seed=2)
    other.targets[:6] = -1
    run = fake_run(inside, ood={"new": (dataset_of(other, "new"), other)})
    result = OutOfDomain(resamples=100).evaluate(run, dataset_of(inside))
    assert result.metrics["accuracy/new"].value == other.correct[6:].mean()
    assert Reason("partly_labelled", name="new", n=6, all=60) in result.warnings
    assert set(draw_saved(result)) == {"shares", "confidence", "gallery"}
    assert not any(name.startswith("auroc") for name in result.metrics)


def test_labels_name_the_class_of_a_set(world):
    run, dataset = world()
    result = OutOfDomain(resamples=100, labels={"things": "real"}, near=["simpsons"]).evaluate(run, dataset)
    assert result.tables["sets"]["kind"].tolist() == ["in_domain", "far", "shifted", "near"]
    assert result.metrics["accuracy/things"].value == (run.predictions(run.ood["things"]).predicted == 2).mean()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": {"thing": "real"}}, ["labels", "'thing'", "animal_faces, things, simpsons"]),
        ({"labels": {"things": "photo"}}, ["labels.things=photo", "drawing, generated, real"]),
        ({"near": ["animals"]}, ["near", "'animals'"]),
    ],
)
def test_a_wrong_name_of_a_set_or_class_is_said(options, words, world):
    run, dataset = world()
    with pytest.raises(ConfigError) as caught:
        OutOfDomain(**options).evaluate(run, dataset)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("options", [{"scores": []}, {"scores": ["odin"]}, {"k": 0}, {"gallery": -1}, {"level": 95}])
def test_a_wrong_option_is_said(options):
    with pytest.raises(ConfigError, match=r"block\.out_of_domain\."):
        registry.build_block("out_of_domain", options)


def test_default_names_are_for_runs_that_know_them(oracle, outside, dataset_of, fake_run):
    two, toons = oracle("noisy", classes=2), outside("toon")
    toons = replace(toons, classes=two.classes, logits=toons.logits[:, :2])
    run = fake_run(two, ood={"simpsons": (dataset_of(toons, "simpsons"), toons)})
    result = OutOfDomain(resamples=100).evaluate(run, dataset_of(two))
    assert result.tables["sets"]["kind"].tolist() == ["in_domain", "far"]


def test_a_run_without_such_sets_and_a_set_of_its_own_are_refused(oracle, world, dataset_of, fake_run):
    alone = oracle("noisy")
    with pytest.raises(BlockError, match="no out-of-domain set"):
        OutOfDomain().evaluate(fake_run(alone), dataset_of(alone))
    run, _ = world()
    with pytest.raises(BlockError, match="things is an out-of-domain set itself"):
        OutOfDomain().evaluate(run, run.ood["things"])


def test_a_set_that_cannot_be_read_is_a_reason_to_leave_the_block_out(world):
    run, dataset = world()
    given = run.predictions

    def predictions(other):
        if other.name == "things":
            raise DataError("things/3.png: empty file.")
        return given(other)

    run.predictions = predictions
    with pytest.raises(
        BlockError, match=r"The out-of-domain set things cannot be used: things/3\.png: empty file"
    ) as told:
        OutOfDomain(resamples=100).evaluate(run, dataset)
    assert len(told.value.lines) == 2
    assert "data.ood={things: FOLDER}" in told.value.lines[1]


def test_a_covariance_that_had_to_be_shrunk_is_said(world):
    run, dataset = world()

    def is_said(**options):
        warnings = OutOfDomain(resamples=100, **options).evaluate(run, dataset).warnings
        return "shrunk" in {warning.code for warning in warnings}

    assert not is_said()
    training = run.training()
    training.embeddings[:, -1] = 1e-6 * training.embeddings[:, -1]
    assert is_said()
    assert not is_said(scores=["knn"])


def test_chance_is_named_above_each_panel_and_wide_scores_have_a_logarithmic_axis(world, calibrated, draw_saved):
    run, dataset = world(**calibrated())
    training = run.training()
    training.embeddings[:, -1] = 1e-3 * training.embeddings[:, -1]
    drawn = draw_saved(OutOfDomain(resamples=100).evaluate(run, dataset))
    for axes in drawn["auroc"].axes:
        (level,) = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert (level.get_xdata()[0], [text.get_text() for text in axes.texts]) == (0.5, ["chance"])
        assert len(axes.get_yticks()) == len(SCORES)
    scales = {axes.get_ylabel(): axes.get_xscale() for axes in drawn["scores"].axes if axes.get_ylabel()}
    assert scales == dict.fromkeys(scales, "linear") | {"Mahalanobis": "log"}
    assert len(scales) == len(SCORES)


def test_block_all_goes_on_where_a_set_is_broken_or_missing(run_copy, tmp_path, capsys):
    from avatar_bench.cli.app import main

    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a.png").write_bytes(b"")
    chosen = ["evaluate", f"ckpt={run_copy}", "block=[out_of_domain,error_bias]", "skip_unusable=true"]
    for folder, told in (("odd", "a.png: empty file"), ("gone", "gone")):
        out = tmp_path / f"out_{folder}"
        assert main([*chosen, f"out={out}", f"data.ood={{odd: {tmp_path / folder}}}"]) == 0
        said = capsys.readouterr().err
        assert "skipped: " in said
        assert told in said
        metrics = json.loads((out / "evaluation" / "test" / "error_bias" / "metrics.json").read_text())["metrics"]
        assert told in str(metrics["unbias"]["reason"])


def test_sources_that_training_saw_and_small_sets_are_said(oracle, outside, dataset_of, fake_run):
    inside, few = oracle("noisy"), replace(outside("few", n=4), sources=np.array(["ink", "ink", "", "oil"]))
    training = replace(oracle("noisy", seed=3), sources=np.array(["ink", ""] * 120))
    run = fake_run(inside, training=training, ood={"few": (dataset_of(few, "few"), few)})
    warnings = OutOfDomain(resamples=100).evaluate(run, dataset_of(inside)).warnings
    assert Reason("few_images", name="few", n=4) in warnings
    assert Reason("shared_sources", name="few", sources=["ink"]) in warnings


def test_one_image_beside_the_domain_is_enough(oracle, outside, dataset_of, fake_run, draw_saved):
    inside, one = oracle("noisy"), outside("one", n=1)
    run = fake_run(inside, training=oracle("noisy", seed=3), ood={"one": (dataset_of(one, "one"), one)})
    result = OutOfDomain(resamples=100).evaluate(run, dataset_of(inside))
    assert 0 <= result.metrics["auroc/one/knn"].value <= 1
    assert "scores" in draw_saved(result)


def test_the_gallery_shows_the_most_confident_of_each_set(world, draw_saved):
    run, dataset = world()
    shown = {name: [] for name in run.ood}
    for name, other in run.ood.items():
        type(other).image = lambda self, row, name=name: shown[name].append(row) or np.zeros((8, 6, 3), np.uint8)
    result = OutOfDomain(resamples=100, gallery=5).evaluate(run, dataset)
    assert [len(rows) for rows in shown.values()] == [3, 2, 0]
    confidence = run.predictions(run.ood["things"]).confidence
    assert shown["things"] == np.argsort(-confidence)[:2].tolist()
    with use_language("ru"):
        titles = [axes.get_title().split("\n") for axes in draw_saved(result)["gallery"].axes[:5]]
    assert [title[0] for title in titles] == [*["animal_faces"] * 3, *["things"] * 2]
    assert [title[3] for title in titles[3:]] == [f"{each:.1%}" for each in sorted(confidence)[:-3:-1]]
    assert {title[1] for title in titles} == {"предсказано:"}


def test_the_command_evaluates_a_trained_run(tiny_run, images, tmp_path):
    from avatar_bench.cli.app import main

    sets = f"data.ood={{noise: {images / 'blind' / 'real' / 'new-real'}}}"
    assert main(["evaluate", f"ckpt={tiny_run}", "block=out_of_domain", sets, f"out={tmp_path}"]) == 0
    said = json.loads((tmp_path / "evaluation" / "test" / "out_of_domain" / "metrics.json").read_text())["metrics"]
    assert 0 <= said["auroc/noise/knn"]["value"] <= 1


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
        block = registry.build_block(
            "out_of_domain", {"scores": ["energy", "spread"], "options": {"spread": {"factor": 2}}, "resamples": 100}
        )
        result = block.evaluate(run, dataset)
        assert "auroc/things/spread" in result.metrics
        expected = -2 * run.predictions(dataset).logits.std(axis=1)
        scores = result.tables["scores"]
        assert scores.loc[scores["kind"] == "in_domain", "spread"].to_numpy() == pytest.approx(expected)
        labels = [text.get_text() for text in draw_saved(result)["auroc"].axes[0].get_yticklabels()]
        assert labels == ["energy", "spread of logits"]
        assert registry.build_block("overview", {"ood_score": "spread"}).ood_score == "spread"
        with pytest.raises(ConfigError, match=r"ood_score\.spread\.factor=-1: expected 0 or more"):
            OutOfDomain(scores=["spread"], options={"spread": {"factor": -1}})
        (tmp_path / "ood_score" / "spread.py").write_text(
            (tmp_path / "ood_score" / "spread.py").read_text().replace(".std(axis=1)", "")
        )
        with pytest.raises(ConfigError, match="score must return a finite number for each"):
            OutOfDomain(scores=["spread"], resamples=100).evaluate(run, dataset)
    with pytest.raises(ConfigError, match="expected one of decision, energy"):
        registry.build_block("overview", {"ood_score": "spread"})

"""Tests of out_of_domain: every metric recomputed from the saved tables, and refused inputs."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk
from sklearn.preprocessing import normalize

from avatar_bench.config.entries import use_folders
from avatar_bench.errors import BlockError, ConfigError, GuardError
from avatar_bench.evaluation.block import build_block
from avatar_bench.evaluation.blocks.out_of_domain import DETECTION_METRICS, OutOfDomain
from avatar_bench.metrics import stats
from avatar_bench.metrics.selective import AnsweringThreshold
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Result
from avatar_bench.runs.decisions import DecisionRule
from tests.builders.commands import run_undrawn

SCORES = ("decision", "msp", "max_logit", "energy", "mahalanobis", "knn")
SETS = {"animal_faces": "near", "things": "far", "simpsons": "shifted"}


@pytest.fixture(scope="module")
def world(oracle, make_predictions, dataset_of, fake_run):
    """Build a run with near, far and shifted sets around the Predictions of an oracle."""

    def draw(name, n=60, distance=3.0, seed=5):
        """Return Predictions of images of no known class, groups of two, whose embeddings lie apart by `distance`."""
        rng = np.random.default_rng(seed)
        logits, embeddings = rng.normal(size=(n, 3)), rng.normal(distance, 1, (n, 8)).astype(np.float32)
        names = {"groups": [f"{name}{i // 2}" for i in range(n)], "sources": ["elsewhere"] * n}
        return make_predictions(np.full(n, -1), logits, embeddings=embeddings, **names)

    def build(kind="noisy", **fields):
        inside = oracle(kind)
        sets = {"animal_faces": draw("near", distance=1.0), "things": draw("far", n=40, seed=6)}
        sets |= {"simpsons": draw("toon", n=44, seed=7)}
        ood = {name: (dataset_of(predictions, name), predictions) for name, predictions in sets.items()}
        return fake_run(inside, training=oracle("noisy", n=300, seed=9), ood=ood, **fields), dataset_of(inside)

    return build


@pytest.fixture(scope="module")
def reference(calibrated, oracle):
    """The field of a run that was calibrated."""
    return calibrated(oracle("noisy", n=200, seed=21))


@pytest.fixture(scope="module")
def saved(world, reference, tmp_path_factory):
    """A Result, read back from its files."""
    run, dataset = world(**reference)
    result = OutOfDomain(resamples=200).evaluate(run, dataset)
    return Result.load(result.save(tmp_path_factory.mktemp("saved") / "out_of_domain"))


def test_metrics_proportions_and_confidence_can_be_recomputed_from_the_saved_tables(saved, drawn_whole):
    scores = saved.tables["scores"]
    for name, score in product(("animal_faces", "things"), SCORES):
        both = scores[(scores["kind"] == "in_domain") | (scores["set"] == name)]
        outside = (both["kind"] != "in_domain").to_numpy()
        alarm, caught, _ = sk.roc_curve(outside, both[score], drop_intermediate=False)
        expected = {
            "auroc": sk.roc_auc_score(outside, both[score]),
            "aupr": sk.average_precision_score(outside, both[score]),
            "fpr95": alarm[caught >= 0.95].min(),
        }
        metrics = {kind: saved.metrics[f"{kind}/{name}/{score}"] for kind in DETECTION_METRICS}
        assert name == "things" or metrics["auroc"].low < metrics["auroc"].value < metrics["auroc"].high
        assert {kind: metric.value for kind, metric in metrics.items()} == pytest.approx(expected, abs=1e-6)
        floors = {kind: metric.floor for kind, metric in metrics.items()}
        assert floors == pytest.approx({"auroc": 0.5, "aupr": outside.mean(), "fpr95": 0.95})
        assert [metric.higher_is_better for metric in metrics.values()] == [True, True, False]
    sets = saved.tables["sets"].set_index("set")
    for name, label in product(SETS, saved.classes):
        rows, metric = scores[scores["set"] == name], saved.metrics[f"share/{name}/{label}"]
        assert metric.value == pytest.approx((rows["prediction"] == label).mean(), abs=1e-9)
        assert metric.value == pytest.approx(sets.loc[name, f"share_{label}"], abs=1e-9)
        assert metric.low <= metric.value <= metric.high
        assert metric.units == rows["group"].nunique()
    toons, accuracy = scores[scores["set"] == "simpsons"], saved.metrics["accuracy/simpsons"]
    assert accuracy.value == pytest.approx(sk.accuracy_score(toons["target"], toons["prediction"]))
    assert accuracy.floor == pytest.approx(1 / 3)
    drawn_whole(saved.folder, {"shares", "confidence", "auroc", "scores", "gallery"})
    table = saved.tables["confidence"].fillna({"class": ""})
    assert table["set"].unique().tolist() == ["test", *SETS]
    assert table["class"].tolist() == 4 * ["", *saved.classes]
    for row in table.to_dict("records"):
        of_set = scores["kind"] == row["kind"] if row["kind"] == "in_domain" else scores["set"] == row["set"]
        confidence = scores[of_set & ((scores["prediction"] == row["class"]) | (row["class"] == ""))]["confidence"]
        assert (row["n"], row["share"]) == (len(confidence), pytest.approx(len(confidence) / of_set.sum()))
        for name, value in (("mean_confidence", confidence.mean()), ("std_confidence", confidence.std(ddof=0))):
            ends = [row[f"{name}{end}"] for end in ("_low", "", "_high")]
            assert ends[0] < ends[1] < ends[2]
            assert ends[1] == pytest.approx(value, abs=1e-9)
            if row["class"] == "":
                metric = saved.metrics[f"{name}/{row['set']}"]
                assert ends == pytest.approx([metric.low, metric.value, metric.high], abs=1e-12)
    better = {name: saved.metrics[f"mean_confidence/{name}"].higher_is_better for name in ("test", *SETS)}
    assert better == {"test": None, "animal_faces": False, "things": False, "simpsons": None}


def test_what_decisions_flag_is_measured_by_their_own_rule_and_comes_first(saved, world, reference):
    """By hand: flagged is an image whose fifth nearest reference image is farther than that of 99 % of these."""
    run, dataset = world(**reference)
    reference = run.decision_calibration.decisions.reference
    rule = DecisionRule(run.classes, 1.0, reference, 0.1, {"": AnsweringThreshold(0.0, 0, 0, 0, 0)})
    scores, metrics = saved.tables["scores"], saved.metrics
    for name in (*SETS, "test"):
        predictions = run.predictions(dataset if name == "test" else run.ood[name])
        scaled, unit = (normalize(of.embeddings) for of in (predictions, reference))
        fifth = np.sort(np.linalg.norm(scaled[:, None] - unit[None], axis=2), axis=1)[:, 4]
        flagged = np.array([(reference.distances <= distance).mean() > 0.99 for distance in fifth])
        metric = metrics[f"flagged/{name}"]
        assert metric.value == pytest.approx(flagged.mean())
        reasons = rule.decide(predictions.probabilities, predictions.embeddings)["decision_reason"]
        assert metric.value == pytest.approx((reasons == "unlike_training_data").mean())
        assert metric.low <= metric.value <= metric.high
        assert metric.higher_is_better is (name in ("animal_faces", "things"))
        rows = scores[(scores["set"] == name) & ((scores["kind"] == "in_domain") == (name == "test"))]
        np.testing.assert_allclose(rows["decision"], fifth, atol=1e-6)
        assert ((rows["ood_percentile"] > 99) == flagged).all()
    assert list(metrics)[:4] == [f"flagged/{name}" for name in (*SETS, "test")]
    assert metrics["flagged/things"].floor == metrics["flagged/test"].value < 0.1


def test_scores_of_logits_have_a_reason_where_there_are_none(world):
    run, dataset = world()
    predictions = run.predictions
    run.predictions = lambda dataset: replace(predictions(dataset), has_logits=False)
    metrics = OutOfDomain(resamples=100).evaluate(run, dataset).metrics
    for kind, score in product(DETECTION_METRICS, ("energy", "max_logit")):
        metric = metrics[f"{kind}/things/{score}"]
        assert (metric.value, metric.reason) == (None, Reason("needs_logits"))
    assert all(metrics[f"auroc/things/{score}"].value for score in ("msp", "mahalanobis", "knn"))


def test_intervals_draw_whole_groups_and_keep_the_proportion_of_the_set(world):
    run, dataset = world()
    metric = OutOfDomain(resamples=400).evaluate(run, dataset).metrics["aupr/things/msp"]
    assert (metric.n, metric.units, metric.interval) == (280, 240 + 20, "bootstrap by group")
    parts = [run.predictions(of) for of in (dataset, run.ood["things"])]
    groups, logits = (np.concatenate([getattr(part, name) for part in parts]) for name in ("groups", "logits"))
    scores, positive = -softmax(logits, axis=1).max(axis=1), np.arange(280) >= 240

    def sampled(weights):
        scale = 40 / weights[:, positive].sum(axis=1), 240 / weights[:, ~positive].sum(axis=1)
        even = np.where(positive, weights * scale[0][:, None], weights * scale[1][:, None])
        return np.array([sk.average_precision_score(positive, scores, sample_weight=row) for row in even])

    assert (metric.low, metric.high) == pytest.approx(stats.bootstrap_interval(sampled, groups, 400))


def test_unknown_sets_and_classes_and_images_of_the_fit_are_refused(oracle, world, dataset_of, fake_run, calibrated):
    run, dataset = world()
    for labels, words in (
        ({"thing": "real"}, ["labels", "'thing'", "animal_faces, things, simpsons"]),
        ({"things": "photo"}, ["labels.things=photo", "drawing, generated, real"]),
    ):
        with pytest.raises(ConfigError) as caught:
            OutOfDomain(labels=labels).evaluate(run, dataset)
        assert all(word in str(caught.value) for word in words)
    with pytest.raises(BlockError, match="no out-of-domain set"):
        OutOfDomain().evaluate(fake_run(oracle("noisy")), dataset_of(oracle("noisy")))
    with pytest.raises(BlockError, match="things is an out-of-domain set itself"):
        OutOfDomain().evaluate(run, run.ood["things"])
    same_images = calibrated(oracle("noisy", n=200, seed=21), sha256=[f"{i:064x}" for i in range(200)])
    with pytest.raises(GuardError, match="test are also in"):
        OutOfDomain(resamples=100).evaluate(*world(**same_images))


def test_skip_unusable_goes_on_where_a_set_is_broken(run_copy, tmp_path, capsys):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a.png").write_bytes(b"")
    words = ["evaluate", f"ckpt={run_copy}", "block=[out_of_domain,error_bias]", "skip_unusable=true", "data.workers=0"]
    assert run_undrawn([*words, f"data.ood={{odd: {tmp_path / 'odd'}}}"]) == 0
    err = capsys.readouterr().err
    assert "skipped: " in err
    assert "a.png: empty file" in err
    unbias = Result.load(run_copy / "evaluation" / "test" / "error_bias").metrics["unbias"]
    assert "a.png: empty file" in str(unbias.reason)


def test_a_score_of_a_user_is_computed_with_its_options_and_shown_by_its_title(world, draw_saved, tmp_path):
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
        options = {"scores": ["energy", "spread"], "options": {"spread": {"factor": 2}}, "resamples": 100}
        result = build_block("out_of_domain", options).evaluate(run, dataset)
        assert "auroc/things/spread" in result.metrics
        scores = result.tables["scores"].query("kind == 'in_domain'")["spread"]
        assert scores.to_numpy() == pytest.approx(-2 * run.predictions(dataset).logits.std(axis=1))
        labels = [text.get_text() for text in draw_saved(result)["auroc"].axes[0].get_yticklabels()]
        assert labels == ["energy", "spread of logits"]
        with pytest.raises(ConfigError, match=r"ood_score\.spread\.factor=-1: expected 0 or more"):
            OutOfDomain(scores=["spread"], options={"spread": {"factor": -1}})
    with pytest.raises(ConfigError, match="expected one of decision, energy"):
        build_block("overview", {"ood_score": "spread"})

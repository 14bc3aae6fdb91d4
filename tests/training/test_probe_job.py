"""Probes as a user trains them: the head, the cache of features, and what the mode refuses."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from avatar_bench.cli.app import main
from avatar_bench.data.dataset import read_split
from avatar_bench.inference import runtimes
from avatar_bench.models.classifier import Classifier
from avatar_bench.runs.run import Run
from avatar_bench.training.probe_job import choose_strength
from tests.builders.commands import read_record
from tests.commands.test_all_blocks import QUICK

PROBE = ("mode=probe", "epochs=null", "lr=null")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of its own, where features are kept."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("AVATAR_BENCH_CACHE", str(folder))
        yield folder


@pytest.fixture
def passed(monkeypatch):
    """Numbers of images in the forward passes of classifiers, but for the one that tries folded batch norms."""
    sizes, embed = [], Classifier.embed

    def count(self, images):
        sizes.extend([len(images)] if len(images) > 1 else [])
        return embed(self, images)

    monkeypatch.setattr(Classifier, "embed", count)
    return sizes


@pytest.fixture(scope="module")
def probe(train, cache, tmp_path_factory):
    return train(tmp_path_factory.mktemp("probes") / "one", *PROBE)


def test_predict_gives_the_probabilities_of_scikit_learn(probe, tmp_path):
    record, output = read_record(probe), tmp_path / "out.csv"
    run = Run.open(probe)
    dataset = read_split(probe / "split.csv", Path(record["data"]["root"]))
    sides = (dataset.select_split(split) for split in ("train", "test"))
    train, test = (run.predictor.predict_variations(side, [None])[0] for side in sides)
    chosen = LogisticRegression(C=record["probe"]["C"], class_weight="balanced", tol=1e-10, max_iter=10_000)
    model = make_pipeline(StandardScaler(), chosen).fit(train.embeddings.astype(float), train.targets)
    files = tmp_path / "files.txt"
    files.write_text("\n".join(str(dataset.root / path) for path in test.paths))
    words = [f"ckpt={probe}", f"input=@{files}", f"output={output}", "calibrated=false", "precision=32", "workers=0"]
    assert main(["predict", *words, "runtime=torch"]) == 0
    probabilities = pd.read_csv(output)[[f"prob_{name}" for name in run.classes]].to_numpy()
    assert probabilities == pytest.approx(model.predict_proba(test.embeddings.astype(float)), abs=1e-6)


def test_evaluation_takes_the_embeddings_that_training_has_cached(probe, passed, cache, monkeypatch):
    predictor = Run.open(probe).predictor
    dataset = read_split(probe / "split.csv", Path(read_record(probe)["data"]["root"])).select_split("train")
    cached = predictor.predict_variations(dataset, [None])[0]
    assert passed == []
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(cache / "none"))
    computed = Run.open(probe).predictor.predict_variations(dataset, [None])[0]
    assert sum(passed) == len(dataset)
    assert np.allclose(cached.logits, computed.logits, atol=1e-5)
    assert np.allclose(cached.embeddings, computed.embeddings, atol=1e-5)


def test_metrics_csv_has_a_row_for_each_value_of_c(probe):
    record, table = read_record(probe), pd.read_csv(probe / "metrics.csv")
    assert list(table) == [
        "C",
        "cv/loss",
        "cv/loss_se",
        "cv/balanced_accuracy",
        "val/loss",
        "val/accuracy",
        "val/macro_f1",
    ]
    assert table["C"].tolist() == [1e-4, 1e-3, 0.01, 0.1]
    row = table.loc[table["val/loss"].notna()].squeeze()
    assert row["C"] == record["probe"]["C"] == choose_strength(table)
    assert record["metrics"] == {name: row[name] for name in ("val/loss", "val/accuracy", "val/macro_f1")}
    stated = (record["status"], record["mode"], record["balance"], record["probe"]["folds_by"])
    assert stated == ("finished", "probe", "loss", "source")
    assert row["val/accuracy"] > 0.8
    assert record["temperature"] == (record["temperature_fit"]["fitted"] if record["temperature_fit"]["applied"] else 1)


@pytest.mark.slow
def test_another_split_seed_and_c_of_the_same_network_pass_no_image(tiny_run, train, passed, tmp_path):
    state = tmp_path / "net.safetensors"
    assert main(["export", f"ckpt={tiny_run}", f"out={state}"]) == 0
    begun = (*PROBE, f"model.weights={state}", "allow=[pretraining]")
    first = train(tmp_path / "first", *begun)
    counts = read_record(first)["split"]["counts"]
    assert read_record(first)["probe"]["computed"] == sum(passed) == sum(counts.values()) - counts["test"]
    computed = sum(passed)
    second = train(tmp_path / "second", *begun, "data.split.seed=1", "seed=7", "mode.C=[0.01]")
    tables = [pd.read_csv(run / "split.csv") for run in (first, second)]
    first_test, second_test = (set(table.loc[table["split"] == "test", "sha256"]) for table in tables)
    rest = first_test - second_test  # all that the first probe has not seen
    assert sum(passed) - computed == read_record(second)["probe"]["computed"] == len(rest)
    passed.clear()
    train(tmp_path / "third", *begun, "mode.balance=none")
    assert passed == []


def test_damaged_features_are_computed_again(probe, train, cache, tmp_path):
    kept = [file for file in (cache / "features").rglob("*") if file.is_file()]
    kept[0].write_bytes(kept[0].read_bytes()[:-1])
    kept[1].unlink()
    again = train(tmp_path / "again", *PROBE)
    before, after = (pd.read_csv(run / "metrics.csv").dropna() for run in (probe, again))  # the row of the chosen C
    assert before["C"].tolist() == after["C"].tolist()
    assert np.allclose(*(pd.read_csv(run / "metrics.csv")["cv/loss"] for run in (probe, again)), rtol=1e-4)
    assert after["val/loss"].tolist() == pytest.approx(before["val/loss"].tolist(), abs=1e-6)
    assert read_record(again)["probe"]["computed"] <= 2


@pytest.fixture(scope="module")
def pooled(train, cache, tmp_path_factory):
    return train(tmp_path_factory.mktemp("probes") / "pooled", *PROBE, "mode.layers=[-1,2,3]", "mode.C=[0.01]")


def test_layers_are_pooled_into_an_ordinary_run(pooled, train, tmp_path):
    record, run = read_record(pooled), Run.open(pooled)
    assert record["probe"]["layers"] == run.card.options["pooled_layers"] == [2, 3, -1]
    assert record["probe"]["features"] == 2 * (48 + 192) + 96
    assert record["metrics"]["val/accuracy"] > 0.8
    tuned = train(tmp_path / "tuned", "mode=full", f"init_from={pooled}")  # takes over the layers
    assert Run.open(tuned).card.options == run.card.options


@pytest.mark.slow
@pytest.mark.skipif(bool(runtimes.find_missing_package("onnx")), reason="the extra export is not installed")
def test_every_command_takes_a_probe_of_several_layers(pooled, tmp_path):
    file = tmp_path / "net.onnx"
    assert main(["export", f"ckpt={pooled}", f"out={file}"]) == 0  # it compares with torch to 1e-4
    assert main(["export", f"ckpt={pooled}", f"out={tmp_path / 'net.safetensors'}"]) == 0
    blocks = ("blind_test", "gradcam", "architecture")
    words = ["data.workers=0", *(word for word in QUICK if word.split(".")[1] in blocks)]
    assert main(["evaluate", f"ckpt={pooled}", f"block=[{','.join(blocks)}]", "skip_unusable=true", *words]) == 0
    for block in blocks:
        assert (pooled / "evaluation" / "test" / block / "metrics.json").is_file()
    image = f"input={pooled / 'curves.png'}"
    assert main(["predict", f"ckpt={tmp_path / 'net.safetensors'}", image, f"output={tmp_path}/o.csv"]) == 0


def test_what_a_probe_would_ignore_is_refused_with_the_reason(small, tmp_path, capsys):
    for word, reason in (
        ("epochs=3", "without epochs"),
        ("schedule=cosine", "solver of its own"),
        ("data.augment.mixup=0.2", "single classes"),
        ("mode.balance=sampler", "draws training batches"),
        ("mode.C=[0.1,-1]", "numbers above 0"),
    ):
        kept = [option for option in small if not option.startswith(("epochs", "lr"))]
        assert main(["train", *kept, "mode=probe", f"out={tmp_path / 'run'}", word]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) <= 3
        assert word.partition("=")[0].partition(".weight")[0] in said[0]
        assert reason in " ".join(said)
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_interrupted_probe_runs_again_by_resume(train, monkeypatch, tmp_path, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))  # without features of other tests
    with monkeypatch.context() as patch:
        patch.setattr("avatar_bench.training.probe_job.LogisticProblem", interrupt)
        run = train(tmp_path / "run", *PROBE, code=130)
    assert read_record(run)["status"] == "interrupted"
    assert read_record(run)["probe"]["computed"] == 96  # of the training images
    assert f"interrupted; to go on: avatar-bench train resume={run}" in capsys.readouterr().err
    assert not (run / "checkpoints" / "best.ckpt").exists()
    assert main(["train", f"resume={run}"]) == 0
    assert read_record(run)["status"] == "finished"
    assert read_record(run)["probe"]["computed"] == 96 + 24 + 24  # and of val and calibration alone

"""Ensembles and soups: saving, opening, refusal of changed members, and equality with sums by hand."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logsumexp, softmax

from avatar_bench.cli.app import main
from avatar_bench.data import loaders
from avatar_bench.data.corruptions import Corruption
from avatar_bench.data.decoding import try_decode
from avatar_bench.errors import BlockError, CheckpointError, GuardError
from avatar_bench.inference.network_predictor import EnsemblePredictor
from avatar_bench.metrics.averaging import AveragingWeights
from avatar_bench.models.checkpoint import read_checkpoint
from avatar_bench.runs.ensembles import EnsembleRun, WeightSoup, describe_ensemble, open_run, save_ensemble
from avatar_bench.runs.run import Run
from tests.builders.run_files import write_file


def write(folder, runs, weights=None, temperatures=None, kind="ensemble", t=1.3):
    """Save an ensemble of runs, by default with equal weights and temperatures of 1."""
    opened = [open_run(run) for run in runs]
    weights = np.array(weights or [1 / len(runs)] * len(runs))
    mix = AveragingWeights(weights, np.array(temperatures or [1.0] * len(runs)))
    return save_ensemble(folder, describe_ensemble(kind, opened, mix, t, opened[0].classes))


def describe(member, **other):
    """Return the description of an ensemble of one member, as plain values."""
    member = {"run": member, "checkpoint_sha256": "0", "weight": 1, "temperature": 1}
    return json.dumps({"kind": "ensemble", "members": [member], "temperature": 1, "classes": ["a", "b"], **other})


def test_probabilities_and_energies_are_weighted_means_of_the_members_and_kept(run_pair, tmp_path, monkeypatch):
    ensemble = open_run(write(tmp_path / "ensembles" / "a", run_pair, [0.3, 0.7], [2.0, 0.5], t=1.0))
    dataset = ensemble.dataset("test")
    members = [Run.open(run).predictions(dataset) for run in run_pair]
    first, second = (softmax(of.logits.astype(float) / t, axis=1) for of, t in zip(members, (2.0, 0.5), strict=True))
    predictions = ensemble.predictions(dataset)
    np.testing.assert_allclose(predictions.probabilities, 0.3 * first + 0.7 * second, atol=1e-6)
    assert (predictions.predicted == (0.3 * first + 0.7 * second).argmax(axis=1)).all()
    assert (ensemble.short_name, type(ensemble)) == ("ensembles/a", EnsembleRun)
    energies = [logsumexp(of.logits, axis=1) for of in members]  # before temperatures
    scaled = open_run(write(tmp_path / "scaled", run_pair, [0.3, 0.7], [2.0, 0.5], t=1.7)).predictions(dataset)
    for of in (predictions, scaled):
        np.testing.assert_allclose(logsumexp(of.logits, axis=1), 0.3 * energies[0] + 0.7 * energies[1], atol=1e-5)
    assert scaled.has_logits
    unit = [of.embeddings / np.linalg.norm(of.embeddings, axis=1, keepdims=True) for of in members]
    np.testing.assert_allclose(predictions.embeddings, np.hstack(unit), atol=1e-6)
    assert len(list((ensemble.folder / "predictions").glob("*.npz"))) == 1
    monkeypatch.setattr(EnsemblePredictor, "predict_variations", None)  # they are kept
    np.testing.assert_array_equal(open_run(ensemble.folder).predictions(dataset).logits, predictions.logits)


def test_the_temperature_divides_the_logarithm_of_the_mean_and_variations_are_averaged_like_images(run_pair, tmp_path):
    plain, scaled = (open_run(write(tmp_path / str(t), run_pair, t=t)) for t in (1.0, 2.0))
    first, second = (run.predictions(run.dataset("test")) for run in (plain, scaled))
    np.testing.assert_array_equal(first.logits, second.logits)
    root = np.sqrt(first.probabilities)
    np.testing.assert_allclose(second.probabilities, root / root.sum(axis=1, keepdims=True), atol=1e-6)
    assert scaled.temperature == 2
    assert plain.checkpoint_sha256 != scaled.checkpoint_sha256
    ensemble = open_run(write(tmp_path / "a", run_pair, t=1.0))
    dataset, noise = ensemble.dataset("test"), [Corruption("noise", 3), Corruption("blur", 5)]
    made = [Run.open(run).variations(dataset, noise) for run in run_pair]
    for index, variation in enumerate(ensemble.variations(dataset, noise)):
        expected = np.mean([softmax(of_run[index].logits, axis=1) for of_run in made], axis=0)
        np.testing.assert_allclose(variation.probabilities, expected, atol=1e-5)


def test_files_are_predicted_as_in_the_data_set_and_decoded_once(run_pair, tmp_path, monkeypatch):
    ensemble = open_run(write(tmp_path / "a", run_pair, [0.2, 0.8], t=0.7), workers=0)
    dataset, opened = ensemble.dataset("test"), []
    (tmp_path / "broken.png").write_bytes(b"none")
    files = [dataset.file(row) for row in range(5)]
    table = ensemble.predict([*files, tmp_path / "broken.png"], precision="32")
    assert table["status"].tolist() == ["ok"] * 5 + ["error"]
    shares = table[[f"prob_{name}" for name in ensemble.classes]].to_numpy(float)[:5]
    np.testing.assert_allclose(shares, ensemble.predictions(dataset).probabilities[:5], atol=1e-5)
    out = tmp_path / "predictions.csv"
    words = [f"ckpt={ensemble.folder}", f"input={files[0].parent}", f"output={out}"]
    assert main(["predict", *words]) == 0  # takes an ensemble like a run
    expected = ensemble.predict(pd.read_csv(out)["path"].tolist())
    assert pd.read_csv(out)["prediction"].tolist() == expected["prediction"].tolist()
    monkeypatch.setattr(loaders, "try_decode", lambda path: opened.append(Path(path)) or try_decode(path))
    plain = ensemble.predict(files, calibrated=False)
    assert opened == files
    assert (plain["prediction"] == table["prediction"][:5]).all()
    assert not np.allclose(plain["confidence"], table["confidence"][:5].astype(float))


def test_an_ensemble_has_what_its_members_share_and_trained_on_what_any_did(run_pair, tmp_path, train):
    ensemble, first = open_run(write(tmp_path / "a", run_pair)), Run.open(run_pair[0])
    for name in ("train", "val", "calibration", "test", "blind"):
        assert ensemble.dataset(name).fingerprint == first.dataset(name).fingerprint
    test = ensemble.dataset("test")
    assert len(ensemble.calibration(test)) == len(first.calibration(test))
    assert len(ensemble.training()) == len(first.training())
    assert ensemble.blind is not None
    assert ensemble.record.split == first.record.split
    assert ensemble.card.preprocessing == first.card.preprocessing
    assert ensemble.preprocessing.size == 32
    with pytest.raises(BlockError, match="no single network"):
        ensemble.predictor.module  # noqa: B018
    other = train(tmp_path / "other", "data.split.seed=3", "trainer.limit_batches=1")
    ensemble = open_run(write(tmp_path / "a", [run_pair[0], other]))
    sides = [pd.read_csv(run / "split.csv").set_index("sha256")["split"] for run in (run_pair[0], other)]
    assert ensemble.images is not None
    for key, split in zip(ensemble.images.frame["sha256"], ensemble.images.frame["split"], strict=True):
        both = {side[key] for side in sides}
        expected = next((name for name in ("train", "val") if name in both), None)
        assert split == (expected or (both.pop() if len(both) == 1 else ""))
    with pytest.raises(GuardError, match="training data"):
        ensemble.predictions(Run.open(run_pair[0]).dataset("test"))
    allowed = open_run(ensemble.folder, allow=frozenset({"overlap", "near_duplicates"}), label="vote")
    assert (allowed.label, [member.label for member in allowed.members]) == ("vote", ["", ""])
    assert len(allowed.predictions(Run.open(run_pair[0]).dataset("test")))  # the options have reached every member


def test_a_soup_is_the_network_of_mean_weights_and_copies_of_one_run_change_nothing(run_pair, tmp_path, tiny_run):
    soup = open_run(write(tmp_path / "a", run_pair, kind="soup", t=1.1))
    states = [read_checkpoint(run / "checkpoints" / "best.ckpt")["state_dict"] for run in run_pair]
    state_dict = soup.predictor.module.state_dict()
    for name, tensor in states[0].items():
        expected = (tensor + states[1][name]) / 2 if tensor.is_floating_point() else tensor
        torch.testing.assert_close(state_dict[name], expected, rtol=1e-5, atol=1e-6)
    predictions = soup.predictions(soup.dataset("test"))
    assert predictions.temperature == soup.temperature == 1.1
    assert type(soup) is WeightSoup
    assert predictions.embeddings.shape == Run.open(run_pair[0]).predictions(soup.dataset("test")).embeddings.shape
    run = Run.open(tiny_run)
    dataset = run.dataset("test")
    alone = run.predictions(dataset)
    for kind in ("ensemble", "soup"):
        twice = open_run(write(tmp_path / kind, [tiny_run, tiny_run], kind=kind, t=run.temperature))
        predictions = twice.predictions(dataset)
        np.testing.assert_allclose(predictions.probabilities, alone.probabilities, atol=1e-6)
        np.testing.assert_array_equal(predictions.predicted, alone.predicted)
    np.testing.assert_allclose(WeightSoup.of([run]).predictions(dataset).logits, alone.logits, atol=1e-5)


def test_members_have_relative_paths_so_that_all_may_be_moved(run_pair, run_copy, tmp_path):
    folder = write(tmp_path / "ensembles" / "soft_vote", [run_copy, run_copy])
    stated = json.loads((folder / "ensemble.json").read_text())
    assert stated["members"][0]["run"] == "../../copy/checkpoints/best.ckpt"
    moved = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name} moved")
    shutil.rmtree(run_copy)
    ensemble = open_run(moved / "ensembles" / "soft_vote" / "ensemble.json")
    assert len(ensemble.predictions(ensemble.dataset("test")))
    with pytest.raises(CheckpointError, match="is missing"):
        open_run(folder)


def test_members_that_have_changed_or_have_other_classes_are_refused(run_copy, run_pair, tiny_run, tmp_path, reseal):
    folder = write(tmp_path / "a", [run_copy, run_pair[0]])
    description = json.loads((folder / "ensemble.json").read_text())
    write_file(tmp_path / "other" / "ensemble.json", json.dumps({**description, "classes": ["a", "b", "c"]}))
    with pytest.raises(CheckpointError, match="differ from its members"):
        open_run(tmp_path / "other").card  # noqa: B018
    file = run_copy / "checkpoints" / "best.ckpt"
    shutil.copy(run_pair[1] / "checkpoints" / "best.ckpt", file)
    reseal(file)
    with pytest.raises(CheckpointError, match="has changed since") as caught:
        open_run(folder)
    assert len(caught.value.lines) <= 3
    assert type(open_run(tiny_run, label="a")) is Run  # anything else is opened as a run
    assert open_run(tiny_run / "checkpoints" / "last.ckpt", label="a").label == "a"
    with pytest.raises(CheckpointError):
        open_run(tmp_path)


def test_an_ensemble_that_is_its_own_member_or_has_a_damaged_description_is_refused(tmp_path):
    for way in (".", "ensemble.json", "../other"):
        for name, member in (("own", way), ("other", "../own")):
            write_file(tmp_path / name / "ensemble.json", describe(member))
        with pytest.raises(CheckpointError, match="ensembles of ensembles"):
            open_run(tmp_path / "own")
    damaged = [{"members": [], "classes": []}, {"classes": "ab"}, {"classes": ["a"]}, {"members": 3}]
    descriptions = [describe("x", **other) for other in (*damaged, {"temperature": 10**400})]
    for text in ("", "[]", "{}", *descriptions):
        write_file(tmp_path / "ensemble.json", text)
        with pytest.raises(CheckpointError, match=r"ensemble\.json"):
            open_run(tmp_path)

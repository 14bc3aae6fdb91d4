"""Ensembles and soups: saving, opening, refusal of changed members, and equality with sums by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from avatar_bench.data.corruptions import Corruption
from avatar_bench.errors import CheckpointError, GuardError
from avatar_bench.metrics.averaging import AveragingWeights
from avatar_bench.models.checkpoint import read_checkpoint
from avatar_bench.runs.ensembles import EnsembleRun, WeightSoup, describe_ensemble, open_run, save_ensemble
from avatar_bench.runs.run import Run


def write(
    folder: Path, runs: list[Path], weights: Any = None, own: Any = None, kind: str = "ensemble", t: float = 1.3
) -> Path:
    """Save an ensemble of runs, by default with equal weights and temperatures of 1."""
    size = len(runs)
    mix = AveragingWeights(
        *(np.full(size, 1 / size) if x is None else np.array(x) for x in (weights, own or [1.0] * size))
    )
    opened = [open_run(run) for run in runs]
    return save_ensemble(folder, describe_ensemble(kind, opened, mix, t, opened[0].classes))


def test_the_probabilities_are_the_weighted_mean_of_the_members_scaled(run_pair: list[Path], tmp_path: Path) -> None:
    ensemble = open_run(write(tmp_path / "ensembles" / "a", run_pair, [0.3, 0.7], [2.0, 0.5], t=1.0))
    dataset = ensemble.dataset("test")
    parts = []
    for run, weight, temperature in zip(run_pair, (0.3, 0.7), (2.0, 0.5), strict=True):
        logits = Run.open(run).predictions(dataset).logits.astype(float) / temperature
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        parts.append(weight * shares / shares.sum(axis=1, keepdims=True))
    found = ensemble.predictions(dataset)
    np.testing.assert_allclose(found.probabilities, sum(parts), atol=1e-6)
    assert (found.predicted == sum(parts).argmax(axis=1)).all()
    assert ensemble.name == "ensembles/a"
    assert type(ensemble) is EnsembleRun


def test_variations_are_averaged_like_the_images_themselves(run_pair: list[Path], tmp_path: Path) -> None:
    ensemble = open_run(write(tmp_path / "a", run_pair, t=1.0))
    dataset, noise = ensemble.dataset("test"), [Corruption("noise", 3), Corruption("blur", 5)]
    made = [Run.open(run).variations(dataset, noise) for run in run_pair]
    for index, found in enumerate(ensemble.variations(dataset, noise)):
        shares = [np.exp(one[index].logits - one[index].logits.max(axis=1, keepdims=True)) for one in made]
        expected = np.mean([one / one.sum(axis=1, keepdims=True) for one in shares], axis=0)
        np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


def test_predictions_on_files_equal_those_on_the_data_set(run_pair: list[Path], images: Path, tmp_path: Path) -> None:
    ensemble = open_run(write(tmp_path / "a", run_pair, [0.2, 0.8], t=0.7))
    dataset = ensemble.dataset("test")
    (tmp_path / "broken.png").write_bytes(b"none")
    files = [dataset.file(row) for row in range(5)]
    table = ensemble.predict([*files, tmp_path / "broken.png"], precision="32")
    assert table["status"].tolist() == ["ok"] * 5 + ["error"]
    shares = table[[f"prob_{name}" for name in ensemble.classes]].to_numpy(float)[:5]
    np.testing.assert_allclose(shares, ensemble.predictions(dataset).probabilities[:5], atol=1e-5)
    plain = ensemble.predict(files, calibrated=False)
    assert (plain["prediction"] == table["prediction"][:5]).all()
    assert not np.allclose(plain["confidence"], table["confidence"][:5].astype(float))


def test_an_image_is_of_train_for_all_where_any_member_trained_on_it(
    train: Callable[..., Path], run_pair: list[Path], tmp_path: Path
) -> None:
    other = train(tmp_path / "other", "data.split.seed=3")
    ensemble = open_run(write(tmp_path / "a", [run_pair[0], other]))
    sides = [pd.read_csv(run / "split.csv").set_index("sha256")["split"] for run in (run_pair[0], other)]
    assert ensemble.images is not None
    for key, split in zip(ensemble.images.frame["sha256"], ensemble.images.frame["split"], strict=True):
        both = {side[key] for side in sides}
        expected = next((name for name in ("train", "val") if name in both), None)
        assert split == (expected or (both.pop() if len(both) == 1 else ""))
    with pytest.raises(GuardError, match="training data"):
        ensemble.predictions(Run.open(run_pair[0]).dataset("test"))


def test_a_soup_is_the_network_of_mean_weights(run_pair: list[Path], tmp_path: Path) -> None:
    soup = open_run(write(tmp_path / "a", run_pair, kind="soup", t=1.1))
    states = [read_checkpoint(run / "checkpoints" / "best.ckpt")["state_dict"] for run in run_pair]
    found = soup.predictor.module.state_dict()
    for name, tensor in states[0].items():
        expected = (tensor + states[1][name]) / 2 if tensor.is_floating_point() else tensor
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)
    predictions = soup.predictions(soup.dataset("test"))
    assert predictions.temperature == soup.temperature == 1.1
    assert type(soup) is WeightSoup
    assert predictions.embeddings.shape == Run.open(run_pair[0]).predictions(soup.dataset("test")).embeddings.shape


def test_members_have_relative_paths_so_that_all_may_be_moved(
    run_pair: list[Path], run_copy: Path, tmp_path: Path
) -> None:
    folder = write(tmp_path / "ensembles" / "soft_vote", [run_copy, run_copy])
    stated = json.loads((folder / "ensemble.json").read_text())
    assert stated["members"][0]["run"] == "../../copy/checkpoints/best.ckpt"
    moved = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name} moved")
    shutil.rmtree(run_copy)
    ensemble = open_run(moved / "ensembles" / "soft_vote" / "ensemble.json")
    assert len(ensemble.predictions(ensemble.dataset("test")))
    with pytest.raises(CheckpointError, match="is missing"):
        open_run(folder)


def test_a_member_that_has_changed_is_refused(
    run_copy: Path, run_pair: list[Path], tmp_path: Path, reseal: Callable[[Path], None]
) -> None:
    folder = write(tmp_path / "a", [run_copy, run_pair[0]])
    file = run_copy / "checkpoints" / "best.ckpt"
    shutil.copy(run_pair[1] / "checkpoints" / "best.ckpt", file)
    reseal(file)
    with pytest.raises(CheckpointError, match="has changed since") as caught:
        open_run(folder)
    assert len(caught.value.lines) <= 3


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"kind": "ensemble", "members": [], "temperature": 1, "classes": []}']
)
def test_a_damaged_description_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "ensemble.json").write_text(text)
    with pytest.raises(CheckpointError):
        open_run(tmp_path)


@pytest.mark.parametrize("way", [".", "ensemble.json", "../other"])
def test_an_ensemble_that_is_its_own_member_is_refused(way: str, tmp_path: Path) -> None:
    for name, member in (("one", way), ("other", "../one")):
        (tmp_path / name).mkdir()
        stated = {"run": member, "checkpoint_sha256": "0", "weight": 1, "temperature": 1}
        said = {"kind": "ensemble", "members": [stated], "temperature": 1, "classes": ["a", "b"]}
        (tmp_path / name / "ensemble.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match="ensembles of ensembles"):
        open_run(tmp_path / "one")

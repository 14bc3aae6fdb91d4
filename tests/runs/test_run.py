"""Runs: opening from folders and files, refusal of damaged ones, and reproducible predictions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import avatar_bench
from avatar_bench.cli.app import main
from avatar_bench.data.dataset import read_manifest
from avatar_bench.errors import CheckpointError, DivergedError, GuardError
from avatar_bench.inference.network_predictor import NetworkPredictor
from avatar_bench.models.model_card import Card
from avatar_bench.runs.run import Run


def best(run: Path) -> Path:
    return run / "checkpoints" / "best.ckpt"


def files(images: Path) -> list[Path]:
    return sorted((images / "blind").rglob("*.*"))[::5]


def test_a_checkpoint_moved_elsewhere_predicts_the_same(tiny_run: Path, images: Path, tmp_path: Path) -> None:
    bare = shutil.copy(best(tiny_run), tmp_path / "фото (1), x=2.ckpt")
    moved = avatar_bench.load(bare).predict(files(images))
    pd.testing.assert_frame_equal(moved, avatar_bench.load(tiny_run).predict(files(images)))


def test_predictions_are_in_the_datasets_order_and_kept(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.open(run_copy, batch_size=7)
    dataset = run.dataset("test")
    made = run.predictions(dataset)
    assert made.paths.tolist() == dataset.frame["path"].tolist()
    assert [run.classes[target] for target in made.targets] == dataset.frame["label"].tolist()
    assert made.temperature == run.temperature
    assert made.correct.mean() > 0.9
    assert len(list((run_copy / "predictions").glob("*.npz"))) == 1
    monkeypatch.setattr(NetworkPredictor, "compute_outputs", None)
    kept = Run.open(run_copy).predictions(dataset)
    np.testing.assert_array_equal(kept.logits, made.logits)
    np.testing.assert_array_equal(kept.embeddings, made.embeddings)


def test_kept_predictions_are_not_used_for_other_labels_or_rows(run_copy: Path) -> None:
    run = Run.open(run_copy)
    dataset = run.dataset("test")
    run.predictions(dataset)
    turned = dataset.take(np.arange(len(dataset))[::-1])
    assert run.predictions(turned).paths.tolist() == turned.frame["path"].tolist()
    other = dataset.take(np.arange(len(dataset)))
    other.frame["label"] = "real"
    assert (run.predictions(other).targets == run.classes.index("real")).all()


def test_logits_are_those_of_the_network_itself(tiny_run: Path) -> None:
    run = Run.open(tiny_run)
    made = run.predictions(run.dataset("test"))
    image = torch.from_numpy(run.preprocessing(run.dataset("test").image(0)).transpose(2, 0, 1).copy())[None]
    net = run.predictor.module.net
    mean, std = (torch.tensor(getattr(run.preprocessing, name)).view(3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        logits = net((image / 255 - mean) / std)
    np.testing.assert_allclose(made.logits[:1], logits, atol=1e-4)
    np.testing.assert_allclose(net.get_classifier()(torch.from_numpy(made.embeddings)).detach(), made.logits, atol=1e-4)


def test_labels_and_overlaps_are_guarded(tiny_run: Path, images: Path) -> None:
    run = Run.open(tiny_run)
    with pytest.raises(GuardError, match="training data by image"):
        run.predictions(read_manifest(images / "all.csv"))
    blind = read_manifest(images / "blind.csv")
    blind.frame.loc[0, "label"] = "photo"
    with pytest.raises(GuardError, match="'photo'"):
        run.predictions(blind)


def test_near_duplicates_of_training_images_are_guarded(tiny_run: Path, tmp_path: Path) -> None:
    run = Run.open(tiny_run)
    assert run.images is not None
    seen = run.images.select_split("train")
    (tmp_path / "others").mkdir()
    Image.fromarray(seen.image(0)[:, ::-1]).save(tmp_path / "others" / "mirrored.png")
    (tmp_path / "others.csv").write_text("path,label\nothers/mirrored.png,real\n")
    others = read_manifest(tmp_path / "others.csv")
    with pytest.raises(GuardError, match="1 of 1 images of others are near-duplicates of training") as caught:
        run.predictions(others)
    assert f"others/mirrored.png of {seen.frame['path'].iat[0]}" in caught.value.lines[0]
    assert len(Run.open(tiny_run, allow=frozenset({"near_duplicates"})).predictions(others)) == 1
    with pytest.raises(GuardError):
        Run.open(tiny_run, allow=frozenset({"overlap"})).predictions(others)


def test_a_group_that_was_joined_to_another_is_still_known_by_its_own_name(run_copy: Path, images: Path) -> None:
    split = pd.read_csv(run_copy / "split.csv")
    blind = read_manifest(images / "blind.csv")
    split.loc[split["split"] == "train", "stated_group"] = blind.frame["group"].iat[0]
    split.to_csv(run_copy / "split.csv", index=False)
    with pytest.raises(GuardError, match="by group"):
        Run.open(run_copy).predictions(blind)


def test_a_network_that_gives_no_finite_logit_is_refused(
    run_copy: Path, reseal: Callable[[Path], None], images: Path
) -> None:
    checkpoint = torch.load(best(run_copy), weights_only=True)
    checkpoint["state_dict"]["net.fc.weight"][:] = 3e38  # finite, but their sums overflow
    torch.save(checkpoint, best(run_copy))
    reseal(best(run_copy))
    with pytest.raises(DivergedError):
        Run.open(run_copy).predictions(read_manifest(images / "blind.csv"))
    assert set(avatar_bench.load(run_copy).predict(files(images))["status"]) == {"error"}


def _truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("spoil", "sealed"), [(_truncate, False), (_flip, True), (lambda data: b"not a checkpoint", False)]
)
def test_a_damaged_checkpoint_ends_with_4_and_three_lines_at_most(
    spoil: Callable[[bytes], bytes], sealed: bool, run_copy: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    best(run_copy).write_bytes(spoil(best(run_copy).read_bytes()))
    if not sealed:
        best(run_copy).with_name("best.ckpt.sha256").unlink()
    words = [f"input={images / 'blind'}", f"output={tmp_path / 'out.csv'}"]
    assert main(["predict", f"ckpt={run_copy}", *words]) == 4
    err = capsys.readouterr().err.splitlines()
    assert 1 <= len(err) <= 3
    assert "best.ckpt" in err[0]
    assert main(["evaluate", f"ckpt={run_copy}"]) == 4


def said(**other: Any) -> dict[str, Any]:
    """Return a checkpoint with a changed card and without weights."""
    preprocessing = {"size": 32, "resize": "squash", "mean": [0, 0, 0], "std": [1, 1, 1]}
    card = Card(classes=("a", "b"), backbone="test_resnet", preprocessing=preprocessing).plain()
    return {"avatar_bench": {**card, **other}}


class Foreign:
    """Object that loading a checkpoint must never create."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("was_here"),))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"state_dict": {}}, "classes or preprocessing are missing"),
        ([1, 2], "is not a checkpoint"),
        (said(schema=99), "schema 99"),
        (said(classes="ab"), "list of strings"),
        (said(preprocessing={}), "preprocessing has no 'mean'"),
        (said(backbone="no_such_net"), "no_such_net"),
        ({**said(), "state_dict": {}}, "do not fit"),
        (Foreign(), "cannot be read"),
    ],
)
def test_a_foreign_file_is_refused_in_three_lines_at_most(
    content: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, images: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "foreign.ckpt")
    assert main(["predict", "ckpt=foreign.ckpt", f"input={images / 'blind'}", "output=out.csv"]) == 4
    err = capsys.readouterr().err
    assert told in err
    assert len(err.splitlines()) <= 3
    assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_record_ends_with_4(text: str, run_copy: Path) -> None:
    (run_copy / "run.json").write_text(text, encoding="utf-8")
    assert main(["evaluate", f"ckpt={run_copy}"]) == 4


@dataclass(frozen=True)
class Darker:
    """Variation that depends on a seed."""

    by: int
    at: str = "input"

    @property
    def key(self) -> str:
        return f"darker-{self.by}-{self.at}"

    def __call__(self, image: Any, seed: int) -> Any:
        return np.clip(image.astype(int) - self.by - seed % 7, 0, 255).astype(np.uint8)


def test_variations_are_those_of_single_images_and_are_kept(run_copy: Path, tmp_path: Path) -> None:
    run = Run.open(run_copy, workers=0)
    dataset = run.dataset("test")
    wanted = [Darker(40), Darker(0, "native"), Darker(90)]
    made = run.variations(dataset, wanted)
    assert len({predictions.logits.tobytes() for predictions in made}) == 3
    row = 3
    seed = int(dataset.frame["sha256"].iat[row][:8], 16)
    for variation, predictions in zip(wanted, made, strict=True):
        image = dataset.image(row)
        if variation.at == "native":
            square = run.preprocessing(variation(image, seed))
        else:
            square = variation(run.preprocessing(image), seed)
        with torch.inference_mode():
            logits, _ = run.predictor.module(torch.from_numpy(square.transpose(2, 0, 1)[None].copy()))
        np.testing.assert_allclose(predictions.logits[row], logits[0], atol=1e-4)
        assert predictions.embeddings.shape == (len(dataset), 0)
        assert (predictions.targets == run.predictions(dataset).targets).all()
    kept = sorted((run_copy / "predictions").iterdir())
    again = Run.open(run_copy)
    again.predictor.module = None  # type: ignore[misc]  # cached predictions need no network
    for first, second in zip(made[::-1], again.variations(dataset, wanted[::-1]), strict=True):
        np.testing.assert_array_equal(first.logits, second.logits)
    assert sorted((run_copy / "predictions").iterdir()) == kept


def test_variations_do_not_depend_on_workers_or_what_else_is_asked(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NetworkPredictor, "count_workers", lambda predictor, n: predictor.workers)
    some = [Darker(by) for by in range(0, 110, 10)]  # more than in one pass
    alone = Run.open(run_copy, workers=0)
    alone.folder = None
    expected = [alone.variations(Run.open(run_copy).dataset("test"), [one])[0] for one in some]
    run = Run.open(run_copy, workers=2)
    for one, other in zip(expected, run.variations(run.dataset("test"), some), strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)


def test_nothing_is_fitted_and_evaluated_on_the_same_images(tiny_run: Path) -> None:
    run = Run.open(tiny_run)
    fitted = run.calibration(run.dataset("test"))
    own = run.images.select_split("calibration").frame
    assert list(fitted.paths) == list(own["path"])
    with pytest.raises(GuardError, match="fitted on"):
        run.calibration(run.dataset("calibration"))
    test = run.dataset("test")
    groups = test.frame["group"].where(np.arange(len(test)) > 0, own["group"].iat[0])
    with pytest.raises(GuardError, match="1 of"):
        run.calibration(replace(test, frame=test.frame.assign(group=groups)))


def test_a_split_that_was_changed_or_cut_is_refused(run_copy: Path) -> None:
    file = run_copy / "split.csv"
    text = file.read_text()
    swapped = text.replace(",test,", ",?,").replace(",train,", ",test,").replace(",?,", ",train,")
    for spoilt in (swapped, "".join(text.splitlines(keepends=True)[:40])):
        file.write_text(spoilt)
        with pytest.raises(CheckpointError, match="not the split that the run was trained with"):
            Run.open(run_copy).dataset("test")

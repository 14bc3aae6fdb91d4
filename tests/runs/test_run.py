"""Runs: opening from folders and files, refusal of damaged ones, and reproducible predictions."""

import shutil
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import avatar_bench
from avatar_bench.cli.app import main
from avatar_bench.data.dataset import read_manifest
from avatar_bench.data.leakage import find_shared_images
from avatar_bench.errors import BlockError, CheckpointError, ConfigError, DataError, DivergedError, GuardError
from avatar_bench.inference.network_predictor import NetworkPredictor
from avatar_bench.models.model_card import Card
from avatar_bench.runs.record import RunRecord, choose_newest_run, find_runs
from avatar_bench.runs.run import Run
from tests.builders.commands import change_record, read_record


def best(run):
    return run / "checkpoints" / "best.ckpt"


def files(images):
    return sorted((images / "blind").rglob("*.*"))[::5]


@pytest.fixture
def blind(images):
    return read_manifest(images / "blind.csv")


@pytest.fixture
def bare(tiny_run, tmp_path):
    """The checkpoint of the tiny run without its folder."""
    return shutil.copy(best(tiny_run), tmp_path / "фото (1), x=2.ckpt")


def test_a_run_opened_by_its_folder_or_a_checkpoint_knows_how_it_predicts(tiny_run, tmp_path):
    run, record = Run.open(tiny_run), read_record(tiny_run)
    assert run.classes == tuple(record["classes"])
    assert run.temperature == record["temperature"]
    assert run.seed == 42
    assert (run.preprocessing.size, run.preprocessing.resize) == (32, "squash")
    assert run.checkpoint_sha256 == record["checkpoint_sha256"]
    assert run.card.split_fingerprint == record["split"]["fingerprint"]
    last = tiny_run / "checkpoints" / "last.ckpt"
    assert [Run.open(checkpoint).folder for checkpoint in (best(tiny_run), last)] == [tiny_run] * 2
    assert Run.open(last).checkpoint == last
    card = Card(
        classes=("b", "а б", "c,d"), backbone="resnet18", options={"drop_rate": 0.1},
        preprocessing={"size": 32, "resize": "crop", "mean": [0, 0, 0], "std": [1, 1, 1]},
        temperature=1.5, stage=2, versions={"torch": "2"},
    )  # fmt: skip
    torch.save({"avatar_bench": card.plain()}, tmp_path / "x.ckpt")
    assert Card.from_checkpoint(torch.load(tmp_path / "x.ckpt", weights_only=True), tmp_path / "x.ckpt") == card


def test_the_sets_of_a_run_are_those_of_its_split_and_others_are_refused(tiny_run, bare):
    run, split = Run.open(tiny_run), pd.read_csv(tiny_run / "split.csv")
    for name in ("train", "val", "calibration", "test"):
        dataset = run.dataset(name)
        assert dataset.name == name
        assert dataset.frame["path"].tolist() == split.loc[split["split"] == name, "path"].tolist()
        assert dataset.file(0).is_file()
    assert len(run.dataset("blind")) == 42
    with pytest.raises(ConfigError, match="blind"):
        run.dataset("ood")
    for name in ("test", "blind"):
        with pytest.raises(ConfigError, match="has no folder of its training"):
            Run.open(bare).dataset(name)


def test_predictions_are_those_of_the_network_and_kept_for_what_they_were_made_of(run_copy, reseal, monkeypatch):
    run = Run.open(run_copy, batch_size=7)
    dataset = run.dataset("test")
    made = run.predictions(dataset)
    assert made.paths.tolist() == dataset.frame["path"].tolist()
    assert [run.classes[target] for target in made.targets] == dataset.frame["label"].tolist()
    assert made.temperature == run.temperature
    assert made.correct.mean() > 0.9
    assert len(list((run_copy / "predictions").glob("*.npz"))) == 1
    image = torch.from_numpy(run.preprocessing(dataset.image(0)).transpose(2, 0, 1).copy())[None]
    net = run.predictor.module.net  # the outputs are those of the network itself
    mean, std = (torch.tensor(getattr(run.preprocessing, name)).view(3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        np.testing.assert_allclose(made.logits[:1], net((image / 255 - mean) / std), atol=1e-4)
        logits = net.get_classifier()(torch.from_numpy(made.embeddings))
    np.testing.assert_allclose(logits, made.logits, atol=1e-4)
    with monkeypatch.context() as patch:
        patch.setattr(NetworkPredictor, "compute_outputs", None)
        kept = Run.open(run_copy).predictions(dataset)
    np.testing.assert_array_equal(kept.logits, made.logits)
    np.testing.assert_array_equal(kept.embeddings, made.embeddings)
    run = Run.open(run_copy)
    turned = dataset.take(np.arange(len(dataset))[::-1])
    assert run.predictions(turned).paths.tolist() == turned.frame["path"].tolist()
    other = dataset.take(np.arange(len(dataset)))
    other.frame["label"] = "real"
    assert (run.predictions(other).targets == run.classes.index("real")).all()
    for kept in (run_copy / "predictions").iterdir():
        made.take(np.arange(len(made))[::-1]).save(kept)
    np.testing.assert_array_equal(Run.open(run_copy, batch_size=7).predictions(dataset).logits, made.logits)
    for kept in (run_copy / "predictions").iterdir():
        kept.write_bytes(kept.read_bytes()[:200])
    np.testing.assert_array_equal(Run.open(run_copy, batch_size=7).predictions(dataset).logits, made.logits)
    checkpoint = torch.load(best(run_copy), weights_only=True)
    checkpoint["state_dict"]["net.fc.bias"] += 1
    torch.save(checkpoint, best(run_copy))
    reseal(best(run_copy))
    np.testing.assert_allclose(Run.open(run_copy).predictions(dataset).logits, made.logits + 1, atol=1e-4)


def test_labels_overlaps_and_near_duplicates_are_guarded(run_copy, images, blind, tiny_run, tmp_path):
    run = Run.open(run_copy)
    with pytest.raises(GuardError, match="training data by image"):
        run.predictions(read_manifest(images / "all.csv"))
    split = pd.read_csv(run_copy / "split.csv")  # a group that was joined to another is still known by its own name
    split.loc[split["split"] == "train", "stated_group"] = blind.frame["group"].iat[0]
    split.to_csv(run_copy / "split.csv", index=False)
    with pytest.raises(GuardError, match="by group"):
        Run.open(run_copy).predictions(blind)
    blind.frame.loc[0, "label"] = "photo"
    with pytest.raises(GuardError, match="'photo'"):
        run.predictions(blind)
    blind.frame["label"] = ""  # images without a label are predicted and have no target
    made = run.predictions(blind)
    assert (made.targets == -1).all()
    assert not made.correct.any()
    run = Run.open(tiny_run)
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


def test_sets_are_compared_with_training_once_and_none_is_fitted_and_evaluated_on(tiny_run, blind, monkeypatch):
    run, compared = Run.open(tiny_run), []

    def compare(train, dataset):
        compared.append(len(dataset))
        return find_shared_images(train, dataset)

    monkeypatch.setattr("avatar_bench.data.leakage.find_shared_images", compare)
    for _ in range(3):
        run.predictions(replace(blind))
    assert compared == [len(blind)]
    sets = [run.dataset(name) for name in ("val", "calibration", "test", "blind")]
    for known in (run.leakage.own, ()):
        run.leakage.own = known
        assert [run.leakage.is_held_out(dataset) for dataset in sets] == [True, True, False, False]
    run = Run.open(tiny_run)
    fitted = run.calibration(run.dataset("test"))
    frame = run.images.select_split("calibration").frame
    assert list(fitted.paths) == list(frame["path"])
    with pytest.raises(GuardError, match="fitted on"):
        run.calibration(run.dataset("calibration"))
    test = run.dataset("test")
    groups = test.frame["group"].where(np.arange(len(test)) > 0, frame["group"].iat[0])
    with pytest.raises(GuardError, match="1 of"):
        run.calibration(replace(test, frame=test.frame.assign(group=groups)))


def test_a_network_that_gives_no_finite_logit_is_refused(run_copy, reseal, images, blind):
    checkpoint = torch.load(best(run_copy), weights_only=True)
    checkpoint["state_dict"]["net.fc.weight"][:] = 3e38  # finite, but their sums overflow
    torch.save(checkpoint, best(run_copy))
    reseal(best(run_copy))
    with pytest.raises(DivergedError):
        Run.open(run_copy).predictions(blind)
    assert set(avatar_bench.load(run_copy).predict(files(images))["status"]) == {"error"}


def test_a_damaged_checkpoint_ends_with_4_and_three_lines_at_most(run_copy, images, tmp_path, capsys):
    whole = best(run_copy).read_bytes()
    middle, predict = len(whole) // 2, ["predict", f"input={images / 'blind'}", f"output={tmp_path / 'out.csv'}"]
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]  # no other than by the checksum
    for content, is_sealed in ((flipped, True), (whole[:middle], False)):
        best(run_copy).write_bytes(content)
        if not is_sealed:
            best(run_copy).with_name("best.ckpt.sha256").unlink()
        for words in (predict, ["evaluate"]):
            assert main([*words, f"ckpt={run_copy}"]) == 4
            err = capsys.readouterr().err.splitlines()
            assert 1 <= len(err) <= 3
            assert "best.ckpt" in err[0]


PREPROCESSING = {"size": 32, "resize": "squash", "mean": [0, 0, 0], "std": [1, 1, 1]}


def make_checkpoint(**other):
    """Return a checkpoint with a changed card and without weights."""
    card = Card(classes=("a", "b"), backbone="test_resnet", preprocessing=PREPROCESSING).plain()
    return {"avatar_bench": {**card, **other}}


BARE_CARD = {"classes": ["a"], "backbone": "x", "preprocessing": {}, "schema": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, "it has no classes, or no schema"),
        ([1, 2], "is not a checkpoint"),
        ({"avatar_bench": BARE_CARD | {"schema": 99}}, "schema is 99; expected 2: train again"),
        ({"avatar_bench": BARE_CARD | {"classes": "ab"}}, "classes is 'ab'; expected a valid array"),
        (make_checkpoint(more=1), "more is not known"),
        (make_checkpoint(preprocessing={}), "preprocessing.size is missing"),
        (make_checkpoint(backbone="no_such_net"), "no_such_net"),
        ({**make_checkpoint(), "state_dict": {}}, "do not fit"),
        ({**make_checkpoint(), "state_dict": [1]}, "do not fit"),
        (make_checkpoint(), "do not fit"),
    ],
)
def test_a_foreign_file_is_refused_in_three_lines_at_most(content, message, tmp_path):
    torch.save(content, tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match=message) as caught:
        Run.open(tmp_path / "foreign.ckpt").predictor.module  # noqa: B018
    assert len(caught.value.lines) <= 3


def test_images_that_are_gone_a_damaged_record_and_a_run_without_a_checkpoint_are_named(run_copy, tmp_path):
    change_record(run_copy, data=read_record(run_copy)["data"] | {"root": str(tmp_path / "gone")})
    run = Run.open(run_copy)
    with pytest.raises(DataError, match="gone"):
        run.predictions(run.dataset("test"))
    shutil.move(run_copy / "checkpoints", run_copy.parent)
    with pytest.raises(CheckpointError, match="finished"):
        Run.open(run_copy)
    shutil.move(run_copy.parent / "checkpoints", run_copy)
    (run_copy / "run.json").write_text("{", encoding="utf-8")  # test_record.py has others
    assert main(["evaluate", f"ckpt={run_copy}"]) == 4


def test_runs_are_found_at_any_depth_the_newest_last(tmp_path, tiny_run, capsys):
    for name, started in (("a/b/new", "2026-02"), ("c/old", "2026-01"), ("bare", "2026-03")):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        RunRecord(started=started).write(tmp_path / name)
        if name != "bare":
            shutil.copy(best(tiny_run), best(tmp_path / name))
    assert [run.relative_to(tmp_path).as_posix() for run in find_runs(tmp_path)] == ["c/old", "a/b/new", "bare"]
    assert choose_newest_run(tmp_path).name == "new"
    assert find_runs(tmp_path / "nowhere") == []
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text('{"status": "fin')
    assert choose_newest_run(tmp_path).name == "new"
    assert f"skipped: {tmp_path / 'damaged' / 'run.json'} cannot be read" in capsys.readouterr().err
    with pytest.raises(CheckpointError):
        choose_newest_run(tmp_path / "bare")


@dataclass(frozen=True)
class Darker:
    """Variation that depends on a seed."""

    by: int
    at: str = "input"

    @property
    def key(self):
        return f"darker-{self.by}-{self.at}"

    def __call__(self, image, seed):
        return np.clip(image.astype(int) - self.by - seed % 7, 0, 255).astype(np.uint8)


def test_variations_are_those_of_single_images_by_any_workers_and_are_kept(run_copy, monkeypatch):
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
    again.predictor.module = None  # cached predictions need no network
    for first, second in zip(made[::-1], again.variations(dataset, wanted[::-1]), strict=True):
        np.testing.assert_array_equal(first.logits, second.logits)
    assert sorted((run_copy / "predictions").iterdir()) == kept
    monkeypatch.setattr(NetworkPredictor, "count_workers", lambda predictor, n: predictor.workers)
    darker = [Darker(by) for by in range(0, 110, 10)]  # more than in one pass
    alone = Run.open(run_copy, workers=0)
    alone.folder = None
    expected = [alone.variations(dataset, [variation])[0] for variation in darker]
    run = Run.open(run_copy, workers=4)
    for predictions, other in zip(expected, run.variations(run.dataset("test"), darker), strict=True):
        np.testing.assert_array_equal(predictions.logits, other.logits)


def test_a_run_out_of_its_folder_predicts_the_same_once_and_has_no_results(tiny_run, bare, blind, images):
    moved, there = (avatar_bench.load(checkpoint).predict(files(images)) for checkpoint in (bare, tiny_run))
    pd.testing.assert_frame_equal(moved, there)
    assert main(["evaluate", f"ckpt={tiny_run}", "block.blind_test.resamples=100"]) == 0
    assert Run.open(tiny_run).results("blind_test").metrics["accuracy"].value > 0.8
    with pytest.raises(DataError, match="no result of calibration on blind"):
        Run.open(tiny_run).results("calibration", "blind")
    with pytest.raises(CheckpointError):
        Run.open(bare).results("blind_test")
    run = Run.open(bare, workers=0)
    assert run.predictions(blind).logits is run.predictions(blind).logits
    with pytest.raises(BlockError, match="knows no calibration images"):
        run.calibration(blind)
    with pytest.raises(BlockError, match="knows no train images"):
        run.training()
    assert run.blind is None
    assert run.ood == {}


def test_other_sets_are_read_by_name_with_the_labels_that_the_run_knows(tiny_run, images, tmp_path):
    for number, folder in enumerate(("flat", "flat", "named/real", "named/cat")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / folder / f"{number}.png")
    others = {"flat": str(tmp_path / "flat"), "named": str(tmp_path / "named"), "blind": str(images / "blind.csv")}
    run = Run.open(tiny_run, others=others)
    labels = {name: sorted(dataset.frame["label"]) for name, dataset in run.ood.items()}
    assert labels == {"flat": ["", ""], "named": ["", "real"]}
    assert run.blind is not None
    assert run.used.keys() == {"flat", "named", "blind"}
    assert (run.predictions(run.dataset("flat")).targets == -1).all()
    with pytest.raises(DataError, match="gone"):
        Run.open(tiny_run, others={"gone": str(tmp_path / "gone")}).dataset("gone")


def test_a_split_that_was_changed_or_cut_is_refused(run_copy):
    file = run_copy / "split.csv"
    text = file.read_text()
    swapped = text.replace(",test,", ",?,").replace(",train,", ",test,").replace(",?,", ",train,")
    for spoilt in (swapped, "".join(text.splitlines(keepends=True)[:40])):
        file.write_text(spoilt)
        with pytest.raises(CheckpointError, match="not the split that the run was trained with"):
            Run.open(run_copy).dataset("test")

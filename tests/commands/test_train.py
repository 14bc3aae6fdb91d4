"""Training as a user types it: run folders, stages, seeds, interruptions and refusals."""

import hashlib
import re

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from avatar_bench.cli.app import main
from avatar_bench.config.catalogue import find_choices
from avatar_bench.data.dataset import DATE_COLUMNS, ENCODING_COLUMNS, RUN_COLUMNS
from avatar_bench.files.hashes import sign_text
from avatar_bench.models.classifier import Classifier
from avatar_bench.runs.run import Run
from avatar_bench.training.module import Learner
from tests.builders.commands import change_record, copy_run, interrupt, read_record, write_manifest

BACKBONE = "test_resnet.r160_in1k"
TWO_STAGES = "mode.stages=[{unfreeze: 1, epochs: 1, lr: 3e-3}, {unfreeze: 2, epochs: 2, lr: 1e-3}]"
STAGED = ("mode=progressive", TWO_STAGES, "epochs=null", "lr=null", "data.limit=96")


def history(run):
    return pd.read_csv(run / "metrics.csv")


def checkpoint(run, name="best"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def weights(run, name="best"):
    return checkpoint(run, name)["state_dict"]


@pytest.fixture(scope="module")
def stage1(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("stages") / "one", *STAGED, "stage=1")


@pytest.fixture(scope="module")
def stage2(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("stages") / "two", *STAGED, "stage=2")


def test_a_run_folder_holds_the_files_of_the_contract_alone(tiny_run):
    files = {file.relative_to(tiny_run).as_posix() for file in tiny_run.rglob("*") if file.is_file()}
    files = {file for file in files if not file.startswith(("predictions/", "evaluation/"))}
    checkpoints = {f"checkpoints/{name}.ckpt{end}" for name in ("best", "last", "before") for end in ("", ".sha256")}
    assert files == {"config.yaml", "run.json", "metrics.csv", "curves.png", "split.csv", *checkpoints}
    metrics = [f"{split}/{name}" for split in ("train", "val") for name in ("loss", "accuracy", "macro_f1")]
    assert list(history(tiny_run)) == ["epoch", "stage", *metrics, "lr"]
    columns = ["path", "label", "source", "group", "split", "generator", "origin", "sha256", "phash"]
    assert list(pd.read_csv(tiny_run / "split.csv")) == [*columns, *RUN_COLUMNS, *ENCODING_COLUMNS, *DATE_COLUMNS]
    digests = {}
    for name in ("best.ckpt", "last.ckpt"):
        file = tiny_run / "checkpoints" / name
        digests[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        assert file.with_name(f"{name}.sha256").read_text() == f"{digests[name]}  {name}\n"
    assert read_record(tiny_run)["checkpoint_sha256"] == digests["best.ckpt"]


def test_the_record_states_the_run_its_best_epoch_and_its_temperature(tiny_run):
    record, rows, best = read_record(tiny_run), history(tiny_run), checkpoint(tiny_run)
    assert (record["status"], record["seed"], record["mode"]) == ("finished", 42, "full")
    assert record["classes"] == ["drawing", "generated", "real"]
    assert {"python", "torch", "timm", "avatar_bench"} <= record["versions"].keys()
    row = rows.loc[rows["val/macro_f1"].idxmax()]
    assert record["best_epoch"] == row["epoch"] == best["epoch"] + 1
    assert checkpoint(tiny_run, "last")["epoch"] + 1 == len(rows) == 6
    assert record["metrics"] == {name: row[name] for name in ("val/loss", "val/accuracy", "val/macro_f1")}
    assert record["metrics"]["val/accuracy"] > 0.8  # beats chance by far
    assert 0 < record["train_seconds"] < record["seconds"]
    fit = record["temperature_fit"]
    assert 0.049 < fit["low"] <= fit["high"] < 20.1
    assert 0.05 <= fit["fitted"] <= 20
    temperature = fit["fitted"] if fit["applied"] else 1
    assert best["avatar_bench"]["temperature"] == record["temperature"] == temperature
    assert fit["applied"] is (fit["why_not"] == "")


def test_a_checkpoint_holds_plain_types_and_no_state_of_the_optimizer(tiny_run):
    def is_plain(value):
        if isinstance(value, dict):
            return all(is_plain(key) and is_plain(item) for key, item in value.items())
        if isinstance(value, (list, tuple)):
            return all(map(is_plain, value))
        return value is None or type(value) in (str, int, float, bool, torch.Tensor)

    best = checkpoint(tiny_run)
    assert set(best) == {"state_dict", "epoch", "global_step", "pytorch-lightning_version", "avatar_bench"}
    assert is_plain({**best, "state_dict": dict(best["state_dict"])})
    assert "trained_until" not in best["avatar_bench"]  # as earlier versions wrote it


@pytest.fixture(scope="module")
def few_in_val(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("few") / "runs" / "1", "data.split.folds=12", "epochs=3")


def test_a_large_val_chooses_the_epoch_and_a_small_one_keeps_the_last(tiny_run, few_in_val):
    record = read_record(tiny_run)
    assert record["chosen_by"] == {"by": "val/macro_f1", "n": record["split"]["counts"]["val"]}
    record, epochs = read_record(few_in_val), history(few_in_val)
    n = record["split"]["counts"]["val"]
    assert n < 20
    assert "calibration" not in record["split"]["counts"]
    assert "temperature_fit" not in record
    assert record["chosen_by"] == {"by": "last epoch", "n": n}
    assert record["best_epoch"] == len(epochs) == checkpoint(few_in_val)["epoch"] + 1
    assert epochs["val/macro_f1"].idxmax() < len(epochs) - 1


def test_what_few_images_allow_is_said_with_advice_by_train_and_ensemble(few_in_val, train, tmp_path, command, capsys):
    run = train(tmp_path / "runs" / "2", "trainer=debug", "data.split.folds=12", "seed=2")
    printed, counts = capsys.readouterr(), read_record(run)["split"]["counts"]
    assert f"(last epoch kept: val has {counts['val']} images, too few to choose)" in printed.out
    assert f"(half of {counts['val']} val images is fewer than 20); it stays 1" in printed.err
    assert "no calibration image of" not in printed.err
    advice = re.search(r"To fit one, train with (data.split.by=\S+) (data.split.folds=\d+)", printed.err)
    copy_run(few_in_val, tmp_path / "runs" / "1")
    words = ["block=ensemble", "block.ensemble.resamples=100", "data.workers=0"]
    combined = command("evaluate", f"ckpt={tmp_path / 'runs'}", *words).err
    assert f"For more, train with {advice[1]} {advice[2]}, with the same split for all runs." in combined


def test_stages_follow_one_another_at_once_or_by_init_from(stage1, stage2, train, tmp_path):
    stages = read_record(stage2)["stages"]
    assert [(stage["stage"], stage["unfreeze"], stage["epochs"]) for stage in stages] == [(1, 1, 1), (2, 2, 2)]
    assert stages[0]["trained_parameters"] < stages[1]["trained_parameters"]
    assert history(stage2)[["epoch", "stage"]].to_numpy().tolist() == [[1, 1], [2, 2], [3, 2]]
    later = train(tmp_path / "later", *STAGED, "stage=2", f"init_from={stage1}", "model.weights=hub")
    assert history(later)["stage"].tolist() == [2, 2]
    assert [stage["stage"] for stage in read_record(later)["stages"]] == [2]
    assert (later / "split.csv").read_bytes() == (stage1 / "split.csv").read_bytes()
    first, at_once, in_turn = (read_record(run)["weights_sha256"] for run in (stage1, stage2, later))
    assert in_turn == at_once != first


def test_init_from_prepares_images_as_the_earlier_run_did_and_says_what_is_other(
    run_copy, reseal, train, tmp_path, capsys
):
    best = checkpoint(run_copy)
    statistics = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    best["avatar_bench"]["preprocessing"] |= statistics
    torch.save(best, run_copy / "checkpoints" / "best.ckpt")
    reseal(run_copy / "checkpoints" / "best.ckpt")
    words = ("trainer=debug", "data.image_size=48", "data.equalise=jpeg")
    run = train(tmp_path / "larger", f"init_from={run_copy}", *words)
    message = "used other preprocessing: data.image_size=48 instead of 32, data.equalise=jpeg instead of None"
    assert message in capsys.readouterr().err
    assert statistics.items() <= checkpoint(run)["avatar_bench"]["preprocessing"].items()
    assert Run.open(run).preprocessing.equalise == "jpeg"
    assert main(["evaluate", f"ckpt={run}", "allow=[permutation]", "block.blind_test.resamples=100"]) == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["mode=progressive", TWO_STAGES, "stage=1"], 2, "stage=2 or more"),
        (["model.backbone=test_vit"], 2, "not test_vit"),
        (["data.split.seed=9"], 2, "reuses that run's split, where seed is 0, not 9"),
        (["data=folder", "data.root=IMAGES/blind", "data.manifest=null"], 3, "images other than those of"),
    ],
)
def test_init_from_refuses_what_does_not_continue_the_run(
    words, code, message, stage1, train, images, tmp_path, capsys
):
    words = [word.replace("IMAGES", str(images)) for word in words]
    train(tmp_path / "x", f"init_from={stage1}", "data.limit=96", *words, code=code)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("unfreeze", ["classifier", "2"])
def test_frozen_weights_and_statistics_do_not_move(unfreeze, tiny_run, train, tmp_path, capsys):
    stages = f"mode.stages=[{{unfreeze: {unfreeze}, epochs: 1, lr: 0.01}}]"
    words = (f"init_from={tiny_run}", stages, "epochs=null", "lr=null", "trainer=debug")
    after = weights(train(tmp_path / "run", *words))
    assert "used other preprocessing" not in capsys.readouterr().err
    assert history(tmp_path / "run")["stage"].tolist() == [1]
    moved = {name for name, value in weights(tiny_run).items() if not torch.equal(value, after[name])}
    if unfreeze == "classifier":
        assert moved == {"net.fc.weight", "net.fc.bias"}
    else:
        assert {name.split(".")[1] for name in moved} == {"layer4", "fc"}
        assert any(name.endswith("running_mean") for name in moved)


def test_a_classifier_alone_sees_each_view_of_an_image_once_and_learns_the_same(train, tmp_path, monkeypatch):
    passes: list[int] = []
    embed = Classifier.embed

    def count(self, images):
        passes.extend([len(images)] if len(images) > 1 else [])  # a single one tries folded batch norms
        return embed(self, images)

    monkeypatch.setattr(Classifier, "embed", count)
    words = ("mode=frozen", "epochs=2", "mode.balance=sampler")
    words += ("data.augment.flip=.5", "data.augment.noise=.1", "data.augmented_copies=2")
    once = train(tmp_path / "once", *words)
    counts = pd.read_csv(once / "split.csv")["split"].value_counts()
    assert sum(passes) == 2 * counts["train"] + counts["val"] + counts["calibration"]  # this for the temperature
    assert read_record(once)["stages"][0]["cached_views"] == 2
    monkeypatch.setattr(Learner, "is_trained_on_embeddings", property(lambda self: False))
    anew = train(tmp_path / "anew", *words)
    pd.testing.assert_frame_equal(history(once), history(anew), rtol=1e-4)
    torch.testing.assert_close(dict(weights(once)), dict(weights(anew)), rtol=1e-4, atol=1e-5)


def test_an_augmentation_that_is_drawn_anew_is_not_left_out_of_frozen_training(train, tmp_path, monkeypatch):
    monkeypatch.setattr("avatar_bench.training.features.embed", lambda *_: pytest.fail("images were seen once"))
    train(tmp_path / "run", "mode=frozen", "data.augment.flip=.5", "trainer=debug")


def test_the_same_seed_gives_the_same_run_for_any_number_of_workers(train, tmp_path):
    options = ("epochs=2", "data.limit=60", "augmentation=strong", "data.augment.delivery=.7", "data.augment.mixup=0.2")
    runs = [train(tmp_path / f"w{n}", f"data.workers={n}", *options) for n in (0, 2)]
    for name in ("metrics.csv", "split.csv"):
        assert len({(run / name).read_bytes() for run in runs}) == 1
    assert len({read_record(run)["weights_sha256"] for run in runs}) == 1


def test_another_seed_gives_other_weights_on_the_same_split(tiny_run, train, tmp_path):
    other = train(tmp_path / "other", "seed=7", "trainer=debug")
    assert read_record(other)["weights_sha256"] != read_record(tiny_run)["weights_sha256"]
    assert (other / "split.csv").read_bytes() == (tiny_run / "split.csv").read_bytes()


def test_a_run_records_what_its_augmentation_and_that_of_its_beginning_resemble(train, tmp_path):
    words = ("trainer=debug", "data.limit=96")
    run = train(tmp_path / "delivery", *words, "augmentation=delivery", "data.augment.rotation=10")
    record = read_record(run)
    assert record["augmentation"] == "delivery"
    assert {"blur", "jpeg", "rotation", "delivery/web"} < set(record["resembles"])
    after = read_record(train(tmp_path / "after", *words, "augmentation=none", f"init_from={run}"))
    assert after["augmentation"] == "none"
    assert after["resembles"] == record["resembles"]


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_go_on_and_both_attempts_are_recorded(
    train, tmp_path, monkeypatch, command, capsys
):
    with monkeypatch.context() as patch:
        interrupt(patch, 2, KeyboardInterrupt())
        cut = train(tmp_path / "cut", "epochs=2", "data.limit=60", code=130)
    assert f"interrupted; to go on: avatar-bench train resume={cut}" in capsys.readouterr().err
    before = read_record(cut)
    assert before["status"] == "interrupted"
    assert history(cut)["epoch"].tolist() == [1]
    command("train", f"resume={cut}")
    after = read_record(cut)
    assert after["train_seconds"] > before["train_seconds"] > 0
    assert after["seconds"] > before["seconds"] > before["train_seconds"]
    assert after["status"] == "finished"
    assert history(cut)["epoch"].tolist() == [1, 2]
    time = (cut / "checkpoints" / "best.ckpt").stat().st_mtime_ns
    assert "already finished" in command("train", f"resume={cut}").err
    assert (cut / "checkpoints" / "best.ckpt").stat().st_mtime_ns == time


@pytest.mark.parametrize(
    "words",
    [["data.limit=96"], ["trainer.limit_batches=1", "data.limit=60"]],  # in training; in validation alone
)
def test_a_loss_that_is_not_finite_ends_with_6_and_spoils_no_checkpoint(words, train, tmp_path, capsys):
    run = train(tmp_path / "run", "lr=1e30", "optimizer=sgd", *words, code=6)
    err = capsys.readouterr().err.splitlines()[-3:]
    assert "not a finite number" in err[0]
    assert "at step 1 (epoch 1)" in err[0] or len(words) > 1
    assert err[1].startswith("Images of that batch: all/")
    assert read_record(run)["status"] == "diverged"
    assert list(run.rglob("*.ckpt*")) == []


def test_a_later_divergence_keeps_the_checkpoints_before_it(train, tmp_path):
    stages = "mode.stages=[{unfreeze: all, epochs: 1, lr: 3e-3}, {unfreeze: all, epochs: 2, lr: 1e30}]"
    run = train(tmp_path / "run", stages, "epochs=null", "lr=null", "optimizer=sgd", code=6)
    for name in ("best", "last"):
        assert all(torch.isfinite(value).all() for value in weights(run, name).values())


def test_a_folder_that_holds_a_run_is_not_written_over_unless_it_never_trained(tiny_run, train, tmp_path, capsys):
    before = (tiny_run / "run.json").read_bytes()
    train(tiny_run, code=2)
    assert f"resume={tiny_run}" in capsys.readouterr().err
    assert (tiny_run / "run.json").read_bytes() == before
    out = tmp_path / "run"
    train(out, "model.weights=package", code=2)  # no package carries weights of the tiny network
    assert main(["train", f"resume={out}"]) == 2  # the same error, not another
    assert read_record(out)["status"] == "failed"
    train(out, "trainer=debug")
    assert read_record(out)["status"] == "finished"


def test_without_out_a_run_lies_under_its_model_mode_and_time_in_a_folder_of_any_name(
    small, images, tmp_path, monkeypatch, command
):
    folder = tmp_path / "it's фото (1), x=1 [c] ~"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "data").symlink_to(images / "all", target_is_directory=True)
    words = ["data=folder", f"data.root={folder / 'data'}", "data.limit=40", "trainer=debug", "mode=frozen"]
    command("train", *[word for word in small if not word.startswith(("data=", "data.manifest="))], *words)
    (run,) = (folder / "runs").glob("*/*")
    assert run.parent.name == "test_resnet.r160_in1k-frozen"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", run.name)
    assert sorted(child.name for child in folder.iterdir()) == ["data", "runs"]
    command("evaluate", f"ckpt={run}", "allow=[permutation]", "block.blind_test.resamples=100")


@pytest.mark.slow
def test_every_recipe_of_nine_models_runs(small, tmp_path):
    words = [word for word in small if not word.startswith(("model=", "epochs", "lr"))]
    command = ["train", "sweep=nine_models", *words, "trainer=debug", "data.limit=40", f"out={tmp_path / 'nine'}"]
    assert main(command) == 0
    records = {file.parent.name: read_record(file.parent) for file in (tmp_path / "nine").glob("*/run.json")}
    assert records.keys() == set(find_choices("experiment"))
    assert {record["status"] for record in records.values()} == {"finished"}
    stages = {name: len(record["stages"]) for name, record in records.items() if name.startswith("convnext")}
    assert stages == {"convnext_tiny_stage1": 1, "convnext_tiny_stage2": 2}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_tiny_stage2", "mobilenetv3_few_shot_4ep"])
def test_a_recipe_runs_with_its_own_network(name, images, tmp_path):
    words = [f"experiment={name}", "model.weights=none", "data=folder", f"data.root={images / 'all'}"]
    words += ["data.limit=60", "data.image_size=64", "data.workers=0", "trainer=debug"]
    assert main(["train", *words, f"out={tmp_path / 'run'}"]) == 0
    assert read_record(tmp_path / "run")["status"] == "finished"


def test_hashes_in_capitals_are_those_of_the_files_and_a_misspelt_label_is_named(images, train, tmp_path, capsys):
    rows = pd.read_csv(images / "all.csv")
    hashes = [hashlib.sha256((images / path).read_bytes()).hexdigest() for path in rows["path"]]
    wrong = np.flatnonzero(rows["label"] == "real")[[3, 8, 14, 20]]
    labels = rows["label"].where(~rows.index.isin(wrong), "reall")
    table = rows.assign(sha256=[digest.upper() for digest in hashes], label=labels)
    manifest = write_manifest(tmp_path / "mine.csv", table, images)
    run = train(tmp_path / "run", f"data.manifest={manifest}", "trainer=debug")
    assert set(pd.read_csv(run / "split.csv")["sha256"]) <= set(hashes)
    numbers = ", ".join(str(row + 1) for row in wrong)
    line = f"warning: {manifest}, rows {numbers}: label 'reall' (4 images) is a separate class; did you"
    err = capsys.readouterr().err
    assert err.count(f"{line} mean 'real'") == 1
    assert "mode=probe" not in err  # which needs pretrained weights
    assert "reall" in read_record(run)["classes"]


@pytest.mark.parametrize(("option", "value", "message"), [("epochs", "foo", "epochs"), ("lang", "xx", "en or ru")])
def test_the_configuration_of_a_run_follows_the_rules_of_the_command_line(option, value, message, run_copy, command):
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    text = yaml.safe_dump({**config, option: value})
    (run_copy / "config.yaml").write_text(text)
    change_record(run_copy, status="interrupted", signature=sign_text(text))
    err = command("train", f"resume={run_copy}", code=2).err
    assert message in err
    assert "config.yaml" in err
    assert len(err.splitlines()) <= 3
    assert read_record(run_copy)["status"] == "interrupted"

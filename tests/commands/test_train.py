"""Training as a user types it: run folders, stages, sweeps, seeds, interruptions and refusals."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from PIL import Image

from avatar_bench.cli.app import main
from avatar_bench.config.catalogue import find_choices
from avatar_bench.data.corruptions import UNTRAINED_TIER
from avatar_bench.data.dataset import ENCODING_COLUMNS, RUN_COLUMNS, read_manifest
from avatar_bench.models.classifier import Classifier
from avatar_bench.runs.run import Run
from avatar_bench.training.module import Learner
from avatar_bench.training.trainer import MetricsHistory
from tests.data.near_copies import paint, save_near_copies

BACKBONE = "test_resnet.r160_in1k"
TWO_STAGES = "mode.stages=[{unfreeze: 1, epochs: 1, lr: 3e-3}, {unfreeze: 2, epochs: 2, lr: 1e-3}]"
STAGED = ("mode=progressive", TWO_STAGES, "epochs=null", "lr=null")


def record(run):
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def history(run):
    return pd.read_csv(run / "metrics.csv")


def weights(run, name="best"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def interrupt(monkeypatch, epoch, error):
    """Interrupt training at the end of an epoch, before its checkpoint is written."""
    whole = MetricsHistory.on_train_epoch_end

    def cut(self, trainer, pl_module):
        if self.first_epoch + trainer.current_epoch == epoch:
            raise error
        whole(self, trainer, pl_module)

    monkeypatch.setattr(MetricsHistory, "on_train_epoch_end", cut)


@pytest.fixture(scope="module")
def stage1(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("stages") / "one", *STAGED, "stage=1")


@pytest.fixture(scope="module")
def stage2(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("stages") / "two", *STAGED, "stage=2")


def test_a_run_folder_holds_the_files_of_the_contract_alone(tiny_run):
    files = {file.relative_to(tiny_run).as_posix() for file in tiny_run.rglob("*") if file.is_file()}
    kept = {file for file in files if not file.startswith(("predictions/", "evaluation/"))}
    checkpoints = {f"checkpoints/{name}.ckpt{end}" for name in ("best", "last", "before") for end in ("", ".sha256")}
    assert kept == {"config.yaml", "run.json", "metrics.csv", "curves.png", "split.csv", *checkpoints}
    assert list(history(tiny_run)) == [
        *("epoch", "stage", "train/loss", "train/accuracy", "train/macro_f1"),
        *("val/loss", "val/accuracy", "val/macro_f1", "lr"),
    ]
    columns = [
        "path",
        "label",
        "source",
        "group",
        "split",
        "generator",
        "origin",
        "sha256",
        "phash",
        *RUN_COLUMNS,
        *ENCODING_COLUMNS,
    ]
    assert list(pd.read_csv(tiny_run / "split.csv")) == columns


def test_checksums_beside_the_checkpoints_are_theirs(tiny_run):
    for name in ("best.ckpt", "last.ckpt"):
        file = tiny_run / "checkpoints" / name
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert file.with_name(f"{name}.sha256").read_text() == f"{digest}  {name}\n"
    assert (
        record(tiny_run)["checkpoint_sha256"]
        == hashlib.sha256((tiny_run / "checkpoints" / "best.ckpt").read_bytes()).hexdigest()
    )


def test_the_record_says_what_the_run_is(tiny_run):
    said, rows = record(tiny_run), history(tiny_run)
    assert (said["status"], said["seed"], said["mode"]) == ("finished", 42, "full")
    assert said["classes"] == ["drawing", "generated", "real"]
    assert {"python", "torch", "timm", "avatar_bench"} <= said["versions"].keys()
    best = rows.loc[rows["val/macro_f1"].idxmax()]
    assert said["best_epoch"] == best["epoch"]
    assert said["metrics"] == {name: best[name] for name in ("val/loss", "val/accuracy", "val/macro_f1")}
    assert said["metrics"]["val/accuracy"] > 0.8  # beats chance by far
    assert 0 < said["train_seconds"] < said["seconds"]


def test_best_is_the_epoch_of_the_best_macro_f1_and_last_the_last(tiny_run):
    read = {name: torch.load(tiny_run / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last")}
    assert read["best"]["epoch"] + 1 == record(tiny_run)["best_epoch"]
    assert read["last"]["epoch"] + 1 == len(history(tiny_run)) == 6


def test_a_large_val_chooses_the_epoch_and_a_small_one_keeps_the_last(tiny_run, train, tmp_path, capsys):
    assert record(tiny_run)["chosen_by"] == {"by": "val/macro_f1", "n": record(tiny_run)["split"]["counts"]["val"]}
    run = train(tmp_path / "run", "data.split.folds=12", "epochs=5")  # soon without an error on val
    printed = capsys.readouterr()
    counts, epochs = record(run)["split"]["counts"], len(history(run))
    assert counts["val"] < 20
    assert "calibration" not in counts
    assert record(run)["chosen_by"] == {"by": "last epoch", "n": counts["val"]}
    assert record(run)["best_epoch"] == epochs
    assert torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] + 1 == epochs
    assert f"(last epoch kept: val has {counts['val']} images, too few to choose)" in printed.out
    assert f"(half of {counts['val']} val images is fewer than 20); it stays 1" in printed.err
    assert "no calibration image of" not in printed.err


def test_a_probe_is_recommended_where_images_are_few_and_weights_are_pretrained(train, tmp_path, capsys):
    torch.save(timm.create_model(BACKBONE).state_dict(), tmp_path / "weights.pth")
    for weights, is_told in {tmp_path / "weights.pth": True, "none": False}.items():
        run = train(tmp_path / str(is_told), f"model.weights={weights}", "trainer=debug")
        advice = (
            f"note: on {record(run)['split']['counts']['train']} training images mode=probe is mostly more accurate"
        )
        assert (advice in capsys.readouterr().err) == is_told


def test_the_temperature_of_the_checkpoint_is_that_of_the_record(tiny_run):
    card = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)["avatar_bench"]
    assert card["temperature"] == record(tiny_run)["temperature"]
    fit = record(tiny_run)["temperature_fit"]
    assert 0.049 < fit["low"] <= fit["high"] < 20.1
    assert 0.05 <= fit["fitted"] <= 20
    assert card["temperature"] == (fit["fitted"] if fit["applied"] else 1)
    assert fit["applied"] is (fit["why_not"] == "")


def test_stage_two_trains_through_both_stages(stage2):
    stages = record(stage2)["stages"]
    assert [(stage["stage"], stage["unfreeze"], stage["epochs"]) for stage in stages] == [(1, 1, 1), (2, 2, 2)]
    assert stages[0]["trained_parameters"] < stages[1]["trained_parameters"]
    assert history(stage2)[["epoch", "stage"]].to_numpy().tolist() == [[1, 1], [2, 2], [3, 2]]


def test_init_from_stage_one_gives_what_stage_two_gives_at_once(stage1, stage2, train, tmp_path):
    later = train(tmp_path / "later", *STAGED, "stage=2", f"init_from={stage1}", "model.weights=hub")
    assert history(later)["stage"].tolist() == [2, 2]
    assert [stage["stage"] for stage in record(later)["stages"]] == [2]
    assert (later / "split.csv").read_bytes() == (stage1 / "split.csv").read_bytes()
    assert record(later)["weights_sha256"] == record(stage2)["weights_sha256"] != record(stage1)["weights_sha256"]


def test_init_from_without_stage_trains_every_stage_from_those_weights(tiny_run, train, tmp_path):
    again = train(tmp_path / "again", f"init_from={tiny_run}", "mode=frozen", "lr=1e-30")
    assert history(again)["stage"].tolist() == [1]
    ours, theirs = weights(again), weights(tiny_run)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_init_from_prepares_images_as_the_earlier_run_did_or_says_so(run_copy, reseal, train, tmp_path, capsys):
    file = run_copy / "checkpoints" / "best.ckpt"
    best = torch.load(file, weights_only=True)
    best["avatar_bench"]["preprocessing"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    torch.save(best, file)
    reseal(file)
    same = train(tmp_path / "same", f"init_from={run_copy}")
    assert "otherwise" not in capsys.readouterr().err
    larger = train(tmp_path / "larger", f"init_from={run_copy}", "data.image_size=48", "data.equalise=jpeg")
    printed = "used other preprocessing: data.image_size=48 instead of 32, data.equalise=jpeg instead of None"
    assert printed in capsys.readouterr().err
    for run in (same, larger):
        kept = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["avatar_bench"]["preprocessing"]
        assert (kept["mean"], kept["std"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["mode=progressive", TWO_STAGES, "stage=1"], 2, "stage=2 or more"),
        (["model.backbone=test_vit"], 2, "not test_vit"),
        (["data.split.seed=9"], 2, "reuses that run's split, where seed is 0, not 9"),
        (["data=folder", "data.root=IMAGES/blind", "data.manifest=null"], 3, "images other than those of"),
    ],
)
def test_init_from_refuses_what_does_not_go_on_with_the_run(words, code, told, stage1, train, images, tmp_path, capsys):
    train(tmp_path / "x", f"init_from={stage1}", *(word.replace("IMAGES", str(images)) for word in words), code=code)
    err = capsys.readouterr().err.splitlines()
    assert any(told in line for line in err)


@pytest.mark.parametrize("unfreeze", ["classifier", "2"])
def test_frozen_weights_and_statistics_do_not_move(unfreeze, tiny_run, train, tmp_path):
    stages = f"mode.stages=[{{unfreeze: {unfreeze}, epochs: 1, lr: 0.01}}]"
    after = weights(train(tmp_path / "run", f"init_from={tiny_run}", stages, "epochs=null", "lr=null"))
    moved = {name for name, value in weights(tiny_run).items() if not torch.equal(value, after[name])}
    if unfreeze == "classifier":
        assert moved == {"net.fc.weight", "net.fc.bias"}
    else:
        assert {name.split(".")[1] for name in moved} == {"layer4", "fc"}
        assert any(name.endswith("running_mean") for name in moved)


def test_a_classifier_that_learns_alone_sees_each_view_of_an_image_once_and_learns_the_same(
    train, tmp_path, monkeypatch
):
    passes: list[int] = []
    forward = Classifier.forward

    def counted(self, images):
        passes.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Classifier, "forward", counted)
    varied = ("data.augment.flip=.5", "data.augment.noise=.1", "data.augmented_copies=2")
    words = ("mode=frozen", "epochs=3", "mode.balance=sampler", *varied)
    once = train(tmp_path / "once", *words)
    counts = pd.read_csv(once / "split.csv")["split"].value_counts()
    assert sum(passes) == 2 * counts["train"] + counts["val"] + counts["calibration"]  # this for the temperature
    assert record(once)["stages"][0]["cached_views"] == 2
    monkeypatch.setattr(Learner, "is_trained_on_embeddings", property(lambda self: False))
    anew = train(tmp_path / "anew", *words)
    pd.testing.assert_frame_equal(history(once), history(anew), rtol=1e-4)
    for name, tensor in weights(once).items():
        torch.testing.assert_close(tensor, weights(anew)[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("word", ["data.augment.flip=.5", "model.options={drop_rate: .1}"])
def test_what_acts_on_each_image_anew_is_not_left_out_of_frozen_training(word, train, tmp_path, monkeypatch):
    monkeypatch.setattr("avatar_bench.training.features.embed", lambda *_: pytest.fail("images were seen once"))
    train(tmp_path / "run", "mode=frozen", word)


def test_the_same_seed_gives_the_same_run_for_any_number_of_workers(train, tmp_path):
    options = ("epochs=2", "augmentation=strong", "data.augment.delivery=.7", "data.augment.mixup=0.2")
    runs = [train(tmp_path / f"w{n}", f"data.workers={n}", *options) for n in (0, 2)]
    for name in ("metrics.csv", "split.csv"):
        assert len({(run / name).read_bytes() for run in runs}) == 1
    assert len({record(run)["weights_sha256"] for run in runs}) == 1


def test_a_run_records_its_augmentation_and_what_that_resembles(train, tmp_path):
    printed = {}
    for name, words in {"study": [], "delivery": [], "none": ["mode=frozen"]}.items():
        chosen = [] if name == "none" else [f"augmentation={name}", "data.augment.rotation=10"]
        printed[name] = record(train(tmp_path / name, "trainer=debug", *chosen, *words))
        assert printed[name]["augmentation"] == name
    assert printed["study"]["resembles"] == ["brightness", "noise", "rotation"]
    assert {"blur", "jpeg", "rotation", "delivery/web"} < set(printed["delivery"]["resembles"])
    assert f"delivery/{UNTRAINED_TIER}" not in printed["delivery"]["resembles"]
    assert printed["none"]["resembles"] == []
    after = record(
        train(tmp_path / "after", "trainer=debug", "augmentation=none", f"init_from={tmp_path / 'delivery'}")
    )
    assert after["resembles"] == printed["delivery"]["resembles"]


def test_another_seed_gives_other_weights_on_the_same_split(tiny_run, train, tmp_path):
    other = train(tmp_path / "other", "seed=7")
    assert record(other)["weights_sha256"] != record(tiny_run)["weights_sha256"]
    assert (other / "split.csv").read_bytes() == (tiny_run / "split.csv").read_bytes()
    other = train(tmp_path / "split", "data.split.seed=7", "trainer=debug")
    assert record(other)["split"]["fingerprint"] != record(tiny_run)["split"]["fingerprint"]


def test_few_shot_runs_of_several_seeds_share_their_test_set(train, tmp_path):
    words = ["mode=few_shot", "mode.shots=5", "mode.val_shots=3", "trainer=debug"]
    splits = [pd.read_csv(train(tmp_path / f"s{seed}", f"seed={seed}", *words) / "split.csv") for seed in (1, 2)]
    drawn = [set(split.loc[split["split"] == "train", "path"]) for split in splits]
    evaluated = [set(split.loc[split["split"] == "test", "path"]) for split in splits]
    assert evaluated[0] == evaluated[1]
    assert drawn[0] != drawn[1]
    for split in splits:
        assert split.loc[split["split"] == "train", "label"].value_counts().tolist() == [5, 5, 5]
        assert split.loc[split["split"] == "val", "label"].value_counts().tolist() == [3, 3, 3]


def test_too_few_images_for_the_shots_are_a_warning(train, tmp_path, capsys):
    run = train(tmp_path / "run", "mode=few_shot", "mode.shots=50", "data.limit=60", "trainer=debug")
    assert "shots per class instead of 50" in capsys.readouterr().err
    assert sum(record(run)["split"]["counts"].values()) == 60


def test_a_checkpoint_holds_plain_types_and_no_state_of_the_optimizer(tiny_run):
    def plain(value):
        if isinstance(value, dict):
            return all(plain(key) and plain(item) for key, item in value.items())
        if isinstance(value, (list, tuple)):
            return all(map(plain, value))
        return value is None or type(value) in (str, int, float, bool, torch.Tensor)

    best = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)
    assert set(best) == {"state_dict", "epoch", "global_step", "pytorch-lightning_version", "avatar_bench"}
    assert plain({**best, "state_dict": dict(best["state_dict"])})


def test_an_interrupted_run_goes_on_to_what_it_would_have_been(train, tmp_path, monkeypatch, capsys):
    whole = train(tmp_path / "whole", "epochs=4")
    with monkeypatch.context() as patch:
        interrupt(patch, 3, KeyboardInterrupt())
        cut = train(tmp_path / "cut", "epochs=4", code=130)
    assert record(cut)["status"] == "interrupted"
    assert f"interrupted; to go on: avatar-bench train resume={cut}" in capsys.readouterr().err
    assert history(cut)["epoch"].tolist() == [1, 2]
    spent, whole_time = record(cut)["train_seconds"], record(cut)["seconds"]
    assert main(["train", f"resume={cut}"]) == 0
    assert record(cut)["train_seconds"] > spent > 0  # both attempts are counted
    assert record(cut)["seconds"] > whole_time > spent
    assert record(cut)["status"] == "finished"
    assert (cut / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert record(cut)["weights_sha256"] == record(whole)["weights_sha256"]
    before = (cut / "checkpoints" / "best.ckpt").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["train", f"resume={cut}"]) == 0
    assert "already finished" in capsys.readouterr().err
    assert (cut / "checkpoints" / "best.ckpt").stat().st_mtime_ns == before


def test_a_run_cut_in_its_second_stage_goes_on_there(stage2, train, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 3, RuntimeError("the plug was pulled"))
        cut = train(tmp_path / "cut", *STAGED, "stage=2", code=1)
    assert record(cut)["status"] == "failed"
    assert "the plug was pulled" in record(cut)["error"]
    assert main(["train", f"resume={cut}"]) == 0
    assert history(cut)[["epoch", "stage"]].to_numpy().tolist() == [[1, 1], [2, 2], [3, 2]]
    assert record(cut)["weights_sha256"] == record(stage2)["weights_sha256"]


def test_resume_refuses_other_options_and_other_folders(tiny_run, tmp_path, capsys):
    assert main(["train", f"resume={tiny_run}", "epochs=9"]) == 2
    assert "epochs=9" in capsys.readouterr().err
    assert main(["train", f"resume={tmp_path}"]) == 4


@pytest.mark.parametrize(
    "words",
    [["epochs=3"], ["epochs=1", "trainer.limit_batches=1", "data.limit=60"]],  # in training; in validation alone
)
def test_a_loss_that_is_not_finite_ends_with_6_and_spoils_no_checkpoint(words, train, tmp_path, capsys):
    run = train(tmp_path / "run", "lr=1e30", "optimizer=sgd", *words, code=6)
    err = capsys.readouterr().err.splitlines()[-3:]
    assert "not a finite number" in err[0]
    assert "at step 1 (epoch 1)" in err[0] or len(words) > 1
    assert err[1].startswith("Images of that batch: all/")
    assert record(run)["status"] == "diverged"
    assert list(run.rglob("*.ckpt*")) == []


def test_a_later_divergence_keeps_the_checkpoints_before_it(train, tmp_path, monkeypatch):
    stages = "mode.stages=[{unfreeze: all, epochs: 1, lr: 3e-3}, {unfreeze: all, epochs: 2, lr: 1e30}]"
    run = train(tmp_path / "run", stages, "epochs=null", "lr=null", "optimizer=sgd", code=6)
    for name in ("best", "last"):
        assert all(torch.isfinite(value).all() for value in weights(run, name).values())


def test_a_folder_that_holds_a_run_is_not_written_over(tiny_run, train, capsys):
    before = (tiny_run / "run.json").read_bytes()
    train(tiny_run, code=2)
    assert f"resume={tiny_run}" in capsys.readouterr().err
    assert (tiny_run / "run.json").read_bytes() == before


def test_without_out_the_run_lies_under_its_model_mode_and_time(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *small, "trainer=debug", "mode=frozen"]) == 0
    (run,) = (tmp_path / "runs").glob("*/*")
    assert run.parent.name == "test_resnet.r160_in1k-frozen"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", run.name)
    assert [child.name for child in tmp_path.iterdir()] == ["runs"]


def test_data_and_runs_may_lie_in_folders_of_any_name(train, images, tmp_path):
    name = "it's фото (1), x=1 [c] ~"
    data = tmp_path / name / "data"
    data.parent.mkdir()
    data.symlink_to(images / "all", target_is_directory=True)
    words = ["data=folder", f"data.root={data}", "trainer=debug", "data.limit=40"]
    run = train(tmp_path / name / "run", *words, "data.manifest=null")
    assert record(run)["status"] == "finished"
    assert main(["evaluate", f"ckpt={run}", "allow=[permutation]", "block.blind_test.resamples=100"]) == 0


def test_a_grid_makes_a_readable_folder_a_job_and_trains_none_twice(small, tmp_path, capsys):
    words = [word for word in small if not word.startswith("model=")]
    grid = ["-m", "model=mobilenetv3_small,resnet18", "mode=frozen,few_shot", f"out={tmp_path / 'grid'}"]
    command = ["train", *words, *grid, "model.weights=none", "trainer=debug", "data.limit=40"]
    assert main(command) == 0
    names = {file.parent.name for file in (tmp_path / "grid").glob("*/run.json")}
    assert names == {
        f"{model}-{mode}" for model in ("mobilenetv3_small", "resnet18") for mode in ("frozen", "few_shot")
    }
    assert {child.name for child in (tmp_path / "grid").iterdir()} - {"multirun.yaml", "jobs.csv"} == names
    lost = tmp_path / "grid" / "resnet18-frozen"
    (lost / "run.json").write_text(json.dumps(record(lost) | {"status": "interrupted"}), encoding="utf-8")
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "grid").glob("*/checkpoints/best.ckpt")}
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().err.count("already finished, left unchanged") == 3
    changed = {file.parents[1].name for file, time in times.items() if file.stat().st_mtime_ns != time}
    assert changed == {lost.name}


@pytest.mark.slow
def test_every_recipe_of_nine_models_runs(small, tmp_path):
    words = [word for word in small if not word.startswith(("model=", "epochs", "lr"))]
    command = ["train", "sweep=nine_models", *words, "trainer=debug", "data.limit=40", f"out={tmp_path / 'nine'}"]
    assert main(command) == 0
    records = {file.parent.name: record(file.parent) for file in (tmp_path / "nine").glob("*/run.json")}
    assert records.keys() == set(find_choices("experiment"))
    assert {one["status"] for one in records.values()} == {"finished"}
    assert {name: len(one["stages"]) for name, one in records.items() if name.startswith("convnext")} == {
        "convnext_tiny_stage1": 1,
        "convnext_tiny_stage2": 2,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_tiny_stage2", "mobilenetv3_few_shot_4ep"])
def test_a_recipe_runs_with_its_own_network(name, images, tmp_path):
    words = [f"experiment={name}", "model.weights=none", "data=folder", f"data.root={images / 'all'}"]
    words += ["data.limit=60", "data.image_size=64", "data.workers=0", "trainer=debug"]
    assert main(["train", *words, f"out={tmp_path / 'run'}"]) == 0
    assert record(tmp_path / "run")["status"] == "finished"


def test_a_held_out_source_is_never_trained_on(train, tmp_path, capsys):
    words = ["data.split.by=source", "data.split.held_out=[ink]", "trainer=debug"]
    run = train(tmp_path / "run", *words)
    split = pd.read_csv(run / "split.csv")
    assert set(split["source"][split["split"] == "test"]) == {"ink"}
    assert "ink" not in set(split["source"][split["split"] != "test"])
    assert "warning: test lacks class generated" in capsys.readouterr().err
    again = train(tmp_path / "again", *words, f"init_from={run}")
    assert (again / "split.csv").read_bytes() == (run / "split.csv").read_bytes()
    train(tmp_path / "other", *words[1:], f"init_from={run}", "data.split.by=generator", code=2)
    assert "by is source, not generator" in capsys.readouterr().err


def test_equalisation_is_kept_in_the_checkpoint_and_used_in_evaluation(train, tmp_path, capsys):
    run = train(tmp_path / "run", "data.equalise=jpeg", "trainer=debug")
    assert Run.open(run).preprocessing.equalise == "jpeg"
    words = [f"ckpt={run}", "allow=[permutation]", "block.blind_test.resamples=100"]
    assert main(["evaluate", *words]) == 0
    other = train(tmp_path / "other", "trainer=debug")
    assert main(["evaluate", f"ckpt={other}", "data.equalise=jpeg"]) == 3
    assert "`data.equalise=jpeg` conflicts with the checkpoint (trained with `None`)" in capsys.readouterr().err


def test_copies_across_a_stated_split_are_refused_unless_that_is_allowed_by_name(train, images, tmp_path, capsys):
    table = pd.read_csv(images / "all.csv").groupby("label").head(12).reset_index(drop=True)
    table["split"] = ["train", "train", "train", "train", "val", "test"] * 6
    table["group"] = table["path"]
    table["path"] = [str(images / path) for path in table["path"]]
    with Image.open(table["path"][0]) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")
    table.loc[5, "path"] = "mirrored.png"
    table.to_csv(tmp_path / "stated.csv", index=False)
    words = [f"data.manifest={tmp_path / 'stated.csv'}", "data.split.folds=10", "trainer=debug"]
    train(tmp_path / "run", *words, code=3)
    said = capsys.readouterr().err
    assert "mirrored.png (test) are near-duplicates" in said
    assert not (tmp_path / "run").exists()
    run = train(tmp_path / "run", *words, "allow=[near_duplicates]")
    assert record(run)["allow"] == ["near_duplicates"]
    assert main(["evaluate", f"ckpt={run}"]) == 3
    assert "near-duplicates of training images" in capsys.readouterr().err


def test_no_guard_refuses_a_run_for_images_that_its_split_kept_together(train, tmp_path):
    for seed in range(60):
        file = tmp_path / "set" / "ab"[seed % 2] / f"{seed:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        paint(seed).save(file)
    save_near_copies(tmp_path / "set")
    words = ["data=folder", f"data.root={tmp_path / 'set'}", "data.manifest=null", "data.split.folds=3"]
    run = train(tmp_path / "run", *words, "data.split.seed=6", "trainer=debug")
    assert main(["evaluate", f"ckpt={run}", "allow=[permutation]"]) == 0


def test_an_audit_that_says_no_is_in_the_way_until_it_is_allowed_by_name(train, images, tmp_path, capsys):
    shutil.copytree(images, tmp_path / "data")
    (tmp_path / "data" / "audit").mkdir()
    assessments = {
        "assessment": {"suitable": "no", "reasons": [{"code": "source"}]},
        "equalised/assessment": {"suitable": "yes"},
    }
    (tmp_path / "data" / "audit" / "metrics.json").write_text(json.dumps({"provenance": assessments}))
    words = [f"data.manifest={tmp_path / 'data' / 'all.csv'}", "trainer=debug"]
    train(tmp_path / "run", *words, code=3)
    assert "not suitable for training: the source reveals the class" in capsys.readouterr().err
    train(tmp_path / "equalised", *words, "data.equalise=jpeg")
    assert record(train(tmp_path / "run", *words, "allow=[shortcut]"))["allow"] == ["shortcut"]


def test_a_folder_with_fixed_splits_is_taken_as_it_is(train, images, tmp_path):
    for split, numbers in {"train": range(8), "val": range(8, 14), "test": range(14, 18)}.items():
        for label in ("drawing", "real"):
            files = sorted((images / "all" / label).rglob("*.*"))
            for number in numbers:
                place = tmp_path / "data" / split / label / f"{number}{files[number].suffix}"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(files[number].read_bytes())
    root = f"data.root={tmp_path / 'data'}"
    words = ["data=folder", root, "data.manifest=null", "data.split.folds=10", "trainer=debug"]
    run = train(tmp_path / "run", *words)
    assert record(run)["split"]["counts"] == {"train": 16, "val": 12, "test": 8}
    assert record(run)["classes"] == ["drawing", "real"]
    split = pd.read_csv(run / "split.csv")
    assert (split["path"].str.split("/").str[0] == split["split"]).all()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["data=folder", "data.root=empty"], 3, "empty contains no images in class folders"),
        (["data=folder", "data.root=nowhere"], 3, "nowhere is not a folder"),
        (["data=folder", "data.root=some.csv"], 3, "a table of images is data=manifest"),
        (["data=folder", "data.root=IMAGES/all", "data.blind=nowhere"], 3, "data.blind: nowhere does not exist"),
        (["data=manifest", "data.manifest=empty"], 3, "empty is a folder"),
        (["data=folder", "data.root=one"], 3, "one has only one class, 'real'"),
        (["data=manifest", "data.manifest=nowhere.csv"], 3, "nowhere.csv does not exist"),
        (["data=manifest", "data.manifest=some.csv"], 3, "has no label (1 such image of"),
        (["data=folder", "data.root=few"], 3, "has no image in train"),
        (["data=folder", "data.root=few", "data.blind=IMAGES/blind"], 3, "data.blind has class 'generated'"),
        (["data=folder", "data.root=IMAGES/all", "mode=frozen", "stage=2"], 2, "mode 'frozen' has 1 stage"),
        (["data=folder", "data.root=IMAGES/all", "model.weights=nowhere.pth"], 2, "nowhere.pth"),
        (["data=folder", "data.root=IMAGES/all", "model.backbone=resnet18x"], 2, "'resnet18x'"),
        (["data=folder", "data.root=IMAGES/all", "init_from=nowhere"], 4, "nowhere"),
        (["data=folder", "data.root=IMAGES/all", "mode.stages=[{unfreeze: 99, epochs: 1, lr: 1}]"], 2, "unfreeze=99"),
    ],
)
def test_a_mistake_is_told_in_three_lines_at_most(words, code, told, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    shutil.copytree(images / "blind" / "real", tmp_path / "one" / "real")
    for label in ("drawing", "real"):
        (tmp_path / "few" / "test" / label).mkdir(parents=True)
        shutil.copy(next((images / "blind" / label).rglob("*.png")), tmp_path / "few" / "test" / label)
    table = pd.read_csv(images / "all.csv", keep_default_na=False)
    table["path"] = [str(images / path) for path in table["path"]]
    table.loc[3, "label"] = ""
    table.to_csv(tmp_path / "some.csv", index=False)
    small = ["model=timm", "model.backbone=test_resnet", "model.weights=none", "out=run", "logger=none"]
    parts = {word.partition("=")[0] for word in words}
    kept = [word for word in small if word.partition("=")[0] not in parts]
    assert main(["train", *kept, *(word.replace("IMAGES", str(images)) for word in words)]) == code
    err = capsys.readouterr().err.splitlines()
    said = [line for line in err if "images of" not in line and not line.startswith("  ")]
    assert told in "\n".join(said)
    assert len(said) <= 3


def test_a_run_that_failed_before_it_trained_leaves_its_folder_free(train, tmp_path):
    out = tmp_path / "run"
    train(out, "model.weights=package", code=2)  # no package carries weights of the tiny network
    assert record(out)["status"] == "failed"
    assert main(["train", f"resume={out}"]) == 2  # the same error, not another
    assert record(out)["status"] == "failed"
    train(out)
    assert record(out)["status"] == "finished"


def manifest(images):
    """Return the rows of all.csv with paths that hold from any folder."""
    table = pd.read_csv(images / "all.csv")
    return table.assign(path=[str(images / path) for path in table["path"]])


@pytest.mark.parametrize(
    ("spelling", "told"),
    [("R\u00c9EL", "differ only in case"), ("re\u0301el", "invisible characters or the normal form of Unicode")],
)
def test_classes_that_differ_in_case_or_in_what_is_not_seen_are_refused(
    spelling, told, train, images, tmp_path, capsys
):
    table = manifest(images).replace({"label": {"real": "r\u00e9el"}})
    table.loc[(table["label"] == "r\u00e9el") & (table.index % 2 == 0), "label"] = spelling
    table.to_csv(tmp_path / "all.csv", index=False)
    train(tmp_path / "run", f"data.manifest={tmp_path / 'all.csv'}", code=3)
    err = capsys.readouterr().err
    assert told in err
    assert "case" in told or ascii(spelling) in err
    assert not (tmp_path / "run").exists()


def test_minus_one_in_a_column_of_integers_is_no_class(train, images, tmp_path, capsys):
    table = manifest(images)
    labels = table["label"].map({"drawing": 0, "generated": 1, "real": -1}).astype("Int64")
    labels[0] = None  # pandas reads the others as 0.0 and 1.0 then
    table.assign(label=labels).to_parquet(tmp_path / "all.parquet")
    train(tmp_path / "run", f"data.manifest={tmp_path / 'all.parquet'}", code=3)
    assert f"has no label (65 such images of {len(table)})" in capsys.readouterr().err
    assert read_manifest(tmp_path / "all.parquet").classes == ("0", "1")


def test_hashes_in_capitals_are_those_of_the_files(train, images, tmp_path):
    table = manifest(images)
    hashes = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in table["path"]]
    table.assign(sha256=[digest.upper() for digest in hashes]).to_csv(tmp_path / "all.csv", index=False)
    run = train(tmp_path / "run", f"data.manifest={tmp_path / 'all.csv'}", "trainer=debug")
    assert set(pd.read_csv(run / "split.csv")["sha256"]) <= set(hashes)


def test_a_label_that_looks_misspelt_is_named_with_its_rows(train, images, tmp_path, capsys):
    table = pd.read_csv(images / "all.csv")
    table["path"] = [str(images / path) for path in table["path"]]
    wrong = np.flatnonzero(table["label"] == "real")[[3, 8, 14, 20]]
    table.loc[wrong, "label"] = "reall"
    table.to_csv(tmp_path / "mine.csv", index=False)
    run = train(tmp_path / "run", f"data.manifest={tmp_path / 'mine.csv'}", "trainer=debug")
    rows = ", ".join(str(row + 1) for row in wrong)
    where = f"warning: {tmp_path / 'mine.csv'}, rows {rows}"
    text = f"{where}: label 'reall' (4 images) is a separate class; did you mean 'real'"
    assert capsys.readouterr().err.count(text) == 1
    assert "reall" in record(run)["classes"]


@pytest.mark.parametrize(
    ("path", "label", "told"),
    [(None, "real", "An image has one true class"), ("text.jpg", "real", "text.jpg: not a known image format")],
)
def test_an_image_with_two_labels_and_a_text_among_the_images_are_found_before_training(
    path, label, told, train, images, tmp_path, capsys
):
    table = manifest(images)
    (tmp_path / "text.jpg").write_text("no image")
    where = table["path"][0] if path is None else str(tmp_path / path)
    pd.concat([table, table.head(1).assign(path=where, label=label)]).to_csv(tmp_path / "all.csv", index=False)
    train(tmp_path / "run", f"data.manifest={tmp_path / 'all.csv'}", code=3)
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("option", "value", "told"), [("epochs", "foo", "epochs"), ("lang", "../../x", "en or ru")])
def test_the_configuration_of_a_run_is_held_to_the_rules_of_the_command_line(option, value, told, run_copy, capsys):
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    (run_copy / "config.yaml").write_text(yaml.safe_dump({**config, option: value}))
    (run_copy / "run.json").write_text(json.dumps(record(run_copy) | {"status": "interrupted"}))
    assert main(["train", f"resume={run_copy}"]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "config.yaml" in said
    assert len(said.splitlines()) <= 3
    assert record(run_copy)["status"] == "interrupted"


@pytest.mark.parametrize(("command", "word"), [("train", "trainer=gpu"), ("pretrain", "trainer.accelerator=cuda")])
def test_a_gpu_that_is_not_there_is_a_mistake_in_the_options(command, word, small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    kept = [other for other in small if other.startswith(("model", "data=", "data.manifest="))]
    assert main([command, *kept, f"out={tmp_path / 'run'}", word]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "torch finds no GPU here" in lines[0]
    assert len(lines) <= 3
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("data.workers=100000", "from 0 to 256 processes"),
        ("seed=99999999999999999999999", "from 0 to 4294967295"),
        ("trainer.accelerator=os", "auto, cpu, gpu"),
        ("+trainer.plugins.mine=x", "trainer.plugins.mine=x: expected {_target_"),
        ("+nothing=x", "nothing: no such option"),
    ],
)
def test_a_value_that_no_machine_could_follow_is_refused_before_the_work(word, told, small, tmp_path, capsys):
    kept = [other for other in small if other.partition("=")[0] != word.partition("=")[0]]
    assert main(["train", *kept, f"out={tmp_path / 'run'}", word]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_is_advised_where_calibration_is_too_small_helps(train, tmp_path, capsys):
    def ensemble(name, *words):
        """Return what is said by training two runs, and by their ensemble."""
        runs = [train(tmp_path / name / str(seed), *words, f"seed={seed}") for seed in (1, 2)]
        assert ["temperature_fit" in record(run) for run in runs] == [name == "more"] * 2
        trained = capsys.readouterr().err
        asked = ["block=ensemble", "block.ensemble.resamples=100", "data.workers=0"]
        assert main(["evaluate", f"ckpt={tmp_path / name}", *asked]) == 0
        return trained, capsys.readouterr().err

    trained, combined = ensemble("few", "data.split.folds=10")
    assert "too few images to fit a temperature" in trained
    advice = re.search(r"To fit one, train with (data.split.by=\S+) (data.split.folds=\d+)", trained)
    assert advice is not None
    text = f"For more, train with {advice[1]} {advice[2]}, with the same split for all runs."
    assert text in combined
    trained, combined = ensemble("more", advice[1], advice[2])
    assert "too few images to fit a temperature" not in trained
    assert text not in combined


@pytest.mark.parametrize(
    ("option", "code", "told"),
    [
        ("mode.balance=source", 2, "mode.balance=source: no image names its source."),
        ("data.split.val_by=source", 3, "data.split.val_by=source: outside test, class 'drawing' has too few sources"),
    ],
)
def test_options_that_need_sources_say_so_and_train_nothing(option, code, told, train, images, tmp_path, capsys):
    table = pd.read_csv(images / "all.csv").drop(columns="source")
    table["path"] = [str(images / path) for path in table["path"]]
    table.to_csv(tmp_path / "mine.csv", index=False)
    train(tmp_path / "run", f"data.manifest={tmp_path / 'mine.csv'}", "data.limit=90", option, code=code)
    lines = [line for line in capsys.readouterr().err.splitlines() if told in line]
    assert len(lines) == 1
    assert not list(tmp_path.rglob("*.ckpt"))

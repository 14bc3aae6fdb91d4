"""Tests of sweeps: jobs, folders, restarts, interruptions and the final summary."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from omegaconf import OmegaConf

from avatar_bench.cli import slurm_launcher
from avatar_bench.cli.app import main
from avatar_bench.cli.sweep import Sweep
from avatar_bench.cli.task import JobError
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Result
from avatar_bench.training.trainer import MetricsHistory

BACKBONE = "test_resnet.r160_in1k"
WAIT = 500  # seconds, for a machine that has much else to do


def record(run):
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def jobs(folder):
    """Return the status and the reason of each job by jobs.csv."""
    table = pd.read_csv(folder / "jobs.csv", keep_default_na=False)
    assert list(table) == ["job", "status", "val macro-F1", "n", "seconds", "reason"]
    return dict(zip(table["job"], zip(table["status"], table["reason"], strict=True), strict=True))


@pytest.fixture
def sweep(small, tmp_path):
    """Run a sweep of small trainings into tmp_path/sweep, and give its exit code."""

    def run(*words):
        parts = {word.partition("=")[0] for word in words}
        kept = [word for word in small if word.partition("=")[0] not in parts]
        probes = {"sweep=leave_one_source_out", "sweep=leave_one_generator_out", "sweep=sources"} & set(words)
        kept += ["mode=frozen"] * bool(probes and "mode" not in parts)  # `small` trains by epochs
        return main(["train", *kept, "data.limit=96", f"out={tmp_path / 'sweep'}", *words])

    return run


@pytest.fixture
def calls(monkeypatch):
    """Put a function in the place of train that keeps the options of each job."""
    collected: list[dict[str, Any]] = []

    def execute(given):
        options: Any = OmegaConf.to_container(OmegaConf.structured(given))
        collected.append(options)
        return 0.5

    monkeypatch.setattr("avatar_bench.commands.train.execute", execute)
    return collected


def cut(monkeypatch, seed, epoch, error):
    """Interrupt the job of one seed at the end of an epoch, before its checkpoint is written."""
    whole = MetricsHistory.on_train_epoch_end

    def stop(self, trainer, pl_module):
        if pl_module.card.seed == seed and self.first_epoch + trainer.current_epoch == epoch:
            raise error
        whole(self, trainer, pl_module)

    monkeypatch.setattr(MetricsHistory, "on_train_epoch_end", stop)


def test_all_jobs_stand_in_the_table_also_those_that_left_no_folder(sweep, tmp_path, capsys):
    grid = ["-m", f"model.backbone={BACKBONE},no_such_net", "stage=1,2"]
    assert sweep(*grid) == 3
    told = jobs(tmp_path / "sweep")
    assert {name: status for name, (status, _) in told.items()} == {
        f"{BACKBONE}-stage1": "finished",
        f"{BACKBONE}-stage2": "failed",
        "no_such_net-stage1": "failed",
        "no_such_net-stage2": "failed",
    }
    assert told["no_such_net-stage1"][1].startswith("model.backbone: neither timm nor your own folders")
    assert told["no_such_net-stage2"][1] == "stage=2: mode 'full' has 1 stage"
    assert not (tmp_path / "sweep" / "no_such_net-stage2").exists()
    numbers = pd.read_csv(tmp_path / "sweep" / "jobs.csv", index_col="job", keep_default_na=False)["n"]
    val = record(tmp_path / "sweep" / f"{BACKBONE}-stage1")["split"]["counts"]["val"]
    assert numbers.to_dict() == dict.fromkeys(told, "-") | {f"{BACKBONE}-stage1": str(val)}
    printed = capsys.readouterr()
    assert re.search(r"^no_such_net-stage2 +failed +- +- +- +stage=2", printed.err, re.MULTILINE)
    assert printed.out.splitlines()[-1] == f"1 of 4 jobs are finished: {tmp_path / 'sweep' / 'jobs.csv'}"
    trained = (tmp_path / "sweep" / f"{BACKBONE}-stage1" / "run.json").stat().st_mtime_ns
    assert sweep(*grid) == 3
    assert jobs(tmp_path / "sweep")[f"{BACKBONE}-stage1"] == ("finished", "already finished")
    assert (tmp_path / "sweep" / f"{BACKBONE}-stage1" / "run.json").stat().st_mtime_ns == trained


def test_a_sweep_cut_off_is_finished_by_the_same_command(sweep, train, tmp_path, monkeypatch):
    grid = ["-m", "seed=1,2,3", "epochs=3"]
    with monkeypatch.context() as patch:
        cut(patch, 2, 3, KeyboardInterrupt())
        assert sweep(*grid) == 130
    assert {name: status for name, (status, _) in jobs(tmp_path / "sweep").items()} == {
        "seed1": "finished",
        "seed2": "interrupted",
        "seed3": "not started",
    }
    assert sweep(*grid) == 0
    assert jobs(tmp_path / "sweep") == {
        "seed1": ("finished", "already finished"),
        "seed2": ("finished", ""),
        "seed3": ("finished", ""),
    }
    assert pd.read_csv(tmp_path / "sweep" / "seed2" / "metrics.csv")["epoch"].tolist() == [1, 2, 3]
    whole = train(tmp_path / "whole", "data.limit=96", "seed=2", "epochs=3")
    gone_on = tmp_path / "sweep" / "seed2"
    assert (
        record(gone_on)["weights_sha256"] == record(whole)["weights_sha256"]
    )  # it went on from its last checkpoint to what it would have been


def test_a_job_that_failed_begins_anew(sweep, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        cut(patch, 1, 2, RuntimeError("gone"))
        assert sweep("-m", "seed=1,2", "epochs=2") == 3
    assert jobs(tmp_path / "sweep")["seed1"][0] == "failed"
    started = record(tmp_path / "sweep" / "seed1")["started"]
    (tmp_path / "sweep" / "seed1" / "checkpoints" / "last.ckpt").write_bytes(b"spoiled")
    assert sweep("-m", "seed=1,2", "epochs=2") == 0
    assert pd.read_csv(tmp_path / "sweep" / "seed1" / "metrics.csv")["epoch"].tolist() == [1, 2]
    assert record(tmp_path / "sweep" / "seed1")["started"] >= started


def test_a_job_that_diverges_leaves_the_others_alone(sweep, tmp_path):
    assert sweep("-m", "lr=1e30,3e-3") == 3
    (status, reason), other = jobs(tmp_path / "sweep").values()
    assert status == "diverged"
    assert "finite" in reason
    assert other == ("finished", "")
    assert sweep("-m", "lr=1e30,3e-3") == 3
    assert list(jobs(tmp_path / "sweep").values())[1] == ("finished", "already finished")


def test_a_job_without_memory_says_what_to_do_and_leaves_the_others_alone(sweep, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        cut(patch, 1, 1, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
        assert sweep("-m", "seed=1,2") == 3
    assert jobs(tmp_path / "sweep") == {
        "seed1": ("failed", "Out of memory. Use smaller batches: data.batch_size=N (predict: batch_size=N)."),
        "seed2": ("finished", ""),
    }


def test_a_killed_job_whose_last_checkpoint_is_spoiled_begins_anew(sweep, tmp_path):
    assert sweep("-m", "seed=1,2") == 0
    run = tmp_path / "sweep" / "seed1"
    (run / "run.json").write_text(json.dumps(record(run) | {"status": "running"}), encoding="utf-8")
    (run / "checkpoints" / "last.ckpt").write_bytes(b"cut off")
    assert sweep("-m", "seed=1,2") == 0
    assert jobs(tmp_path / "sweep") == {"seed1": ("finished", ""), "seed2": ("finished", "already finished")}


def test_another_configuration_in_a_jobs_folder_is_refused_and_the_difference_named(sweep, tmp_path):
    assert sweep("-m", "seed=1,2") == 0
    before = (tmp_path / "sweep" / "seed1" / "run.json").read_bytes()
    assert sweep("-m", "seed=1,3", "epochs=2", "label_smoothing=0.1") == 3
    printed = jobs(tmp_path / "sweep")
    assert printed["seed3"] == ("finished", "")
    assert printed["seed1"][0] == "refused"
    assert "epochs is 1 there, 2 here; label_smoothing is 0.0 there, 0.1 here" in printed["seed1"][1]
    assert (tmp_path / "sweep" / "seed1" / "run.json").read_bytes() == before
    assert sweep("-m", "seed=1,2", "data.workers=1", "lang=ru") == 0  # they change no weight
    (tmp_path / "sweep" / "seed1" / "config.yaml").write_text("epochs: [1")
    assert sweep("-m", "seed=1,2") == 3
    assert "config.yaml cannot be read" in jobs(tmp_path / "sweep")["seed1"][1]


def test_a_finished_job_whose_images_have_changed_is_refused(sweep, images, tmp_path):
    table = pd.read_csv(images / "all.csv")
    table["path"] = [str(images / path) for path in table["path"]]
    manifest = tmp_path / "mine.csv"
    table.to_csv(manifest, index=False)
    assert sweep("-m", "seed=1,2", f"data.manifest={manifest}") == 0
    table.iloc[1:].to_csv(manifest, index=False)
    assert sweep("-m", "seed=1,2", f"data.manifest={manifest}") == 3
    status, reason = jobs(tmp_path / "sweep")["seed1"]
    assert status == "refused"
    assert "on other images than data=manifest now contains" in reason
    assert record(tmp_path / "sweep" / "seed1")["status"] == "finished"


def test_a_folder_in_which_another_process_trains_is_left_alone(sweep, tmp_path):
    (tmp_path / "sweep" / "seed1").mkdir(parents=True)
    with FileLock(tmp_path / "sweep" / "seed1" / "run.lock"):
        assert sweep("-m", "seed=1,2") == 3
        assert (tmp_path / "sweep" / "seed1" / "run.lock").exists()
    printed = jobs(tmp_path / "sweep")
    assert printed["seed2"][0] == "finished"
    assert "another process is training there" in printed["seed1"][1]
    assert not (tmp_path / "sweep" / "seed1" / "run.json").exists()
    assert not (tmp_path / "sweep" / "seed2" / "run.lock").exists()


def test_every_source_is_held_out_once(calls, sweep, tmp_path):
    assert sweep("sweep=leave_one_source_out", "data.limit=null") == 0
    held = ["crayon", "diffusion", "gan", "ink", "street", "studio", "vector"]
    assert sorted(jobs(tmp_path / "sweep")) == held
    assert sorted(call["data"]["split"]["held_out"] for call in calls) == [[name] for name in held]
    assert {call["mode"]["name"] for call in calls} == {"frozen"}


def test_sources_that_cannot_be_held_out_are_named(calls, sweep, images, tmp_path, capsys):
    table = pd.read_csv(images / "all.csv")
    table["path"] = [str(images / path) for path in table["path"]]
    table = table[table["source"] != "street"]
    table.loc[table["source"] == "ink", "source"] = "ink, 'old' [1]"
    table.to_csv(tmp_path / "mine.csv", index=False)
    words = ["sweep=leave_one_source_out", f"data.manifest={tmp_path / 'mine.csv'}", "data.split.at_least=21"]
    assert sweep(*words, "data.limit=null") == 0
    assert [call["data"]["split"]["held_out"] for call in calls] == [
        ["crayon"],
        ["diffusion"],
        ["gan"],
        ["ink, 'old' [1]"],
    ]
    printed = "not held out: vector (20 images), studio (all of class real)"
    assert capsys.readouterr().err.count(printed) == 1
    assert len(jobs(tmp_path / "sweep")) == 4


def test_sources_too_small_within_the_limit_stay_in_training(sweep, tmp_path, capsys):
    words = ["sweep=leave_one_source_out", "data.limit=96", "data.split.at_least=14", "trainer=debug"]
    assert sweep(*words) == 0
    err = capsys.readouterr().err
    [named] = [line for line in err.splitlines() if line.startswith("not held out (of 96 images drawn, data.limit): ")]
    small = dict(re.findall(r"(\w+) \((\d+) images\)", named))
    splits = {name: pd.read_csv(tmp_path / "sweep" / name / "split.csv") for name in jobs(tmp_path / "sweep")}
    assert splits
    for name, split in splits.items():
        counts = split["source"].value_counts()
        assert counts[name] == (split["split"] == "test").sum() >= 14
        assert counts.drop(list(splits)).to_dict() == {source: int(n) for source, n in small.items()}
        assert max(map(int, small.values())) < 14


def test_recipes_and_seeds_are_compared_over_held_out_sources(sweep, tmp_path):
    words = ["sweep=leave_one_source_out", "data.split.held_out=[ink],[vector]", "data.limit=null"]
    words += ["mode.balance=none,source", "seed=1,2", "data.split.val_by=source", "trainer.limit_batches=2"]
    assert sweep(*words) == 0
    names = {f"{unit}-{recipe}-seed{n}" for unit in ("ink", "vector") for recipe in ("none", "source") for n in (1, 2)}
    assert jobs(tmp_path / "sweep").keys() == names
    for name in names:
        split = pd.read_csv(tmp_path / "sweep" / name / "split.csv")
        side = split["split"].replace("calibration", "val")
        assert (side.groupby(split["source"]).nunique() == 1).all()
    option = "block.leave_one_source_out.base='mode.balance=source'"
    assert main(["evaluate", f"ckpt={tmp_path / 'sweep'}", "block=leave_one_source_out", option]) == 0
    found = Result.load(tmp_path / "sweep" / "evaluation" / "test" / "leave_one_source_out")
    images = found.tables["images"]
    recall = images.groupby(["recipe", "source", "seed"])["correct"].mean().groupby(["recipe", "source"]).mean()
    base, other = (f"{BACKBONE} frozen mode.balance={balance}" for balance in ("source", "none"))
    for recipe in (base, other):
        assert found.metrics[f"recall/ink/{recipe}"].value == pytest.approx(recall[recipe, "ink"])
        assert found.metrics[f"mean/{recipe}"].value == pytest.approx(recall[recipe].mean())
    gain = found.metrics[f"gain/{other}"].value
    assert gain == pytest.approx(recall[other].mean() - recall[base].mean())
    assert found.metrics[f"in_domain/{base}"].reason == Reason("no_val_of_known_sources")
    summary = found.tables["summary"].set_index("recipe")
    seconds = [record(tmp_path / "sweep" / name)["train_seconds"] for name in names if "none" in name]
    assert summary.loc[other, "train_seconds"] == pytest.approx(np.mean(seconds))


def test_sources_of_one_repository_are_held_out_in_one_job(calls, sweep, tmp_path):
    units = "data.split.units={lab: [ink, gan, studio]}"
    assert sweep("sweep=leave_one_source_out", units, "data.limit=null") == 0
    names = {"crayon", "diffusion", "lab", "street", "vector"}
    assert jobs(tmp_path / "sweep").keys() == names
    assert {tuple(call["data"]["split"]["held_out"]) for call in calls} == {(name,) for name in names}


def test_a_sweep_over_sources_holds_each_out_once_for_each_number_and_draw(calls, sweep, tmp_path):
    assert sweep("sweep=sources", "data.limit=null", "seed=1") == 0
    assert len(calls) == len(jobs(tmp_path / "sweep")) == 3 * 4
    parts = {tuple(call["data"]["split"]["held_out"]) for call in calls}
    assert sorted(name for names in parts for name in names) == sorted(
        ["ink", "crayon", "vector", "gan", "diffusion", "studio", "street"]
    )
    assert {call["data"]["split"]["train_sources"] for call in calls} == {1, 2, 4, 8}


@pytest.mark.slow
def test_the_curve_over_sources_is_drawn_from_its_sweep(sweep, tmp_path):
    words = [
        "data.split.held_out=[ink,gan,street],[vector]",
        "data.split.train_sources=1,2",
        "seed=1",
        "data.limit=null",
    ]
    assert sweep("sweep=sources", *words, "trainer.limit_batches=2") == 0
    for name in jobs(tmp_path / "sweep"):
        split = pd.read_csv(tmp_path / "sweep" / name / "split.csv")
        counts = split[split["split"] == "train"].groupby("label")["source"].nunique()
        assert counts.max() <= int(re.search(r"train_sources(\d)", name)[1])
    assert main(["evaluate", f"ckpt={tmp_path / 'sweep'}", "block=leave_one_source_out", "data.workers=0"]) == 0
    found = Result.load(tmp_path / "sweep" / "evaluation" / "test" / "leave_one_source_out")
    assert found.tables["curve"]["train_sources"].tolist() == [1, 2]
    assert found.tables["curve"]["sources"].tolist() == [4, 4]
    low, high = found.tables["curve"]["mean"]
    assert found.metrics["gain_per_doubling"].value == pytest.approx(high - low)
    assert (tmp_path / "sweep" / "evaluation" / "test" / "leave_one_source_out" / "curve.png").is_file()


def test_data_without_generators_are_refused_in_two_lines(sweep, capsys):
    assert sweep("sweep=leave_one_generator_out") == 3
    assert capsys.readouterr().err.splitlines()[0] == "No generator can be held out: no image names its generator."


def test_shots_are_drawn_by_three_seeds(calls, sweep):
    assert sweep("sweep=shots") == 0
    drawn = {(call["mode"]["shots"], call["seed"], call["mode"]["name"]) for call in calls}
    assert drawn == {(shots, seed, "few_shot") for shots in (5, 10, 20, 50, 100) for seed in (1, 2, 3)}


def test_a_launcher_that_is_not_installed_names_its_extra(calls, sweep, monkeypatch, capsys):
    from hydra.core.config_store import ConfigStore

    monkeypatch.setitem(ConfigStore.instance().repo["hydra"], "launcher", {})
    assert sweep("-m", "seed=1,2", "hydra/launcher=joblib") == 2
    printed = 'hydra/launcher=joblib: its package is not installed\ninstall it: pip install "avatar-bench[sweeps]"\n'
    assert capsys.readouterr().err == printed


def test_slurm_is_refused_where_there_is_none(calls, sweep, monkeypatch, capsys):
    pytest.importorskip("submitit")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert sweep("-m", "seed=1,2", "hydra/launcher=submitit_slurm") == 2
    assert "sbatch is not installed" in capsys.readouterr().err


def test_a_running_record_of_a_job_that_was_killed_is_marked(tmp_path):
    sweep = Sweep(tmp_path, records=True)
    sweep.add_jobs(["seed1", "seed2"])
    for name, status in (("seed1", "running"), ("seed2", "finished")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"status": status}), encoding="utf-8")
    assert sweep.finish() == 3  # the launcher died before it told of any
    assert jobs(tmp_path) == {"seed1": ("interrupted", "its process was killed"), "seed2": ("finished", "")}
    ended = {"status": "interrupted", "error": "its process was killed"}
    assert ended.items() <= record(tmp_path / "seed1").items()


@pytest.mark.parametrize(
    ("code", "out", "err", "state"),
    [
        (0, "RUNNING\n", "", "RUNNING"),
        (0, "CANCELLED\n", "", "CANCELLED"),
        (0, "", "", "COMPLETED"),
        (1, "", "slurm_load_jobs error: Invalid job id specified", "COMPLETED"),
        (1, "", "Unable to contact slurm controller", "UNKNOWN"),
    ],
)
def test_the_state_of_a_slurm_job_needs_no_accounting(code, out, err, state, monkeypatch):
    answer = SimpleNamespace(returncode=code, stdout=out, stderr=err)
    monkeypatch.setattr(slurm_launcher.subprocess, "run", lambda *words, **options: answer)
    assert slurm_launcher._query_state(type("SlurmJob", (), {"job_id": "7_1"})()) == state


def test_a_job_that_is_over_without_a_result_is_told_as_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm_launcher, "CLUSTER_GRACE_SECONDS", 0.0)
    paths = SimpleNamespace(result_pickle=tmp_path / "result.pkl", stdout=tmp_path / "log.out")
    [told] = slurm_launcher._WaitingJob(SimpleNamespace(paths=paths, state="INTERRUPTED")).results()
    assert isinstance(told.return_value, JobError)
    assert "was killed or died" in told.return_value.lines[0]


# what follows runs real launchers, in processes of their own


def command(small, out, *words):
    parts = {word.partition("=")[0] for word in words}
    kept = [word for word in small if word.partition("=")[0] not in parts]
    return [sys.executable, "-m", "avatar_bench", "train", *kept, "data.limit=96", f"out={out}", *words]


def begin(words):
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(words, **pipes, start_new_session=True, preexec_fn=_hear_ctrl_c)


def _hear_ctrl_c():
    """Let SIGINT end a process again, where the tests themselves run in the background of a shell, which ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def end(process, code):
    out, _ = process.communicate(timeout=WAIT)
    assert process.returncode == code, out
    return out


def until(holds, process):
    """Wait until something holds, while the process lives."""
    for _ in range(WAIT * 5):
        if found := holds():
            return found
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    raise AssertionError("waited in vain")


def trains(run):
    """Return whether a job has finished an epoch, but not all of them."""
    return (run / "checkpoints" / "last.ckpt.sha256").is_file() and record(run)["status"] == "running"


def worker_of(process):
    """Return one of the processes that joblib has made."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"popen_loky" in (folder / "cmdline").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    return 0


@pytest.mark.slow
def test_a_basic_sweep_that_is_killed_is_finished_by_the_same_command(small, tmp_path):
    words = command(small, tmp_path, "-m", "seed=1,2,3", "epochs=15")
    process = begin(words)
    until(lambda: trains(tmp_path / "seed2"), process)
    process.kill()
    end(process, -signal.SIGKILL)
    end(begin(words), 0)
    assert jobs(tmp_path)["seed1"] == ("finished", "already finished")
    assert {status for status, _ in jobs(tmp_path).values()} == {"finished"}
    assert pd.read_csv(tmp_path / "seed2" / "metrics.csv")["epoch"].tolist() == [*range(1, 16)]


@pytest.mark.slow
def test_a_killed_joblib_sweep_is_finished_by_the_same_command(small, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = command(small, tmp_path, "-m", "seed=1,2,3", "epochs=15", "hydra/launcher=joblib")
    process = begin(words)
    until(lambda: trains(tmp_path / "seed2"), process)
    os.kill(until(lambda: worker_of(process), process), signal.SIGKILL)
    out = end(process, 3)
    assert "A process of this sweep was killed from outside" in out
    assert "Traceback" not in out
    assert {"interrupted", "not started"} <= {status for status, _ in jobs(tmp_path).values()}
    assert "running" not in {record(file.parent)["status"] for file in tmp_path.glob("*/run.json")}
    end(begin(words), 0)
    assert {status for status, _ in jobs(tmp_path).values()} == {"finished"}
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
def test_a_real_lack_of_memory_costs_its_job_alone(small, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    grid = ["-m", "data.image_size=4096,32", "hydra/launcher=joblib"]
    limited = ["prlimit", f"--as={5 * 2**30}"]
    if not shutil.which("prlimit"):
        pytest.skip("needs prlimit")
    out = end(begin([*limited, *command(small, tmp_path, *grid)]), 3)
    assert "Traceback" not in out
    printed = list(jobs(tmp_path).values())
    assert [status for status, _ in printed] == ["failed", "finished"]
    assert printed[0][1].startswith("Out of memory. Use smaller batches: data.batch_size=N")


@pytest.mark.slow
def test_submitit_runs_jobs_on_this_machine_and_a_killed_one_costs_itself_alone(small, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    grid = ["-m", f"model.backbone={BACKBONE},no_such_net", "seed=1,2", "epochs=20"]
    words = command(small, tmp_path, *grid, "hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=2")
    process = begin(words)
    until(lambda: trains(tmp_path / f"{BACKBONE}-seed2"), process)
    [os.kill(pid, signal.SIGKILL) for pid in _job_processes(tmp_path, f"{BACKBONE}-seed2")]
    end(process, 3)
    printed = jobs(tmp_path)
    assert [status for status, _ in printed.values()] == ["finished", "interrupted", "failed", "failed"]
    assert printed[f"{BACKBONE}-seed2"][1].startswith("Its process was killed or died (FAILED); log: ")
    assert {file.name for file in tmp_path.iterdir()} == {".submitit", "multirun.yaml", "jobs.csv", *printed}


def _job_processes(folder, name):
    """Return the processes of the submitit job that holds the lock of a run folder."""
    number = (folder / name / "run.lock").stat().st_ino
    held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return [int(line[4]) for line in held if line[5].endswith(f":{number}")]


@pytest.fixture(scope="module")
def slurm():
    """Start the one-node SLURM of ../shared, or use the one that runs."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    scripts = Path(__file__).parents[3] / "shared" / "slurm"
    if not shutil.which("slurmctld") or not scripts.is_dir():
        pytest.skip("needs slurmctld, slurmd, slurm-client and munge, and ../shared/slurm")
    ran = subprocess.run(["sinfo"], capture_output=True, check=False).returncode == 0
    here = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # nproc obeys it
    up = ["bash", str(scripts / "up.sh")]
    done = subprocess.run(up, capture_output=True, text=True, check=False, timeout=WAIT, env=here)
    if done.returncode:
        pytest.skip(f"SLURM did not start: {done.stderr[-200:]}")
    yield
    end = time.monotonic() + WAIT
    while subprocess.run(["squeue", "--noheader"], capture_output=True, check=False).stdout and time.monotonic() < end:
        time.sleep(0.5)  # a job that is cut off here would hold its cores when SLURM starts again
    if not ran:
        subprocess.run(["bash", str(scripts / "down.sh")], capture_output=True, check=False, timeout=WAIT)


@pytest.mark.slow
def test_a_slurm_job_of_one_task_trains_on_two_devices(slurm, small, tmp_path):
    words = command(small, tmp_path, "-m", "seed=1,2", "trainer=ddp", "trainer.devices=2", "data.batch_size=4")
    end(begin([*words, "hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=2"]), 0)
    assert [status for status, _ in jobs(tmp_path).values()] == ["finished"] * 2
    assert record(tmp_path / "seed1")["device"]["devices"] == 2


@pytest.mark.slow
def test_jobs_that_slurm_refuses_are_told_with_its_reason(slurm, small, tmp_path):
    words = command(small, tmp_path, "-m", "seed=1,2", "hydra/launcher=submitit_slurm")
    out = end(begin([*words, "hydra.launcher.cpus_per_task=999"]), 2)
    assert "hydra/launcher=submitit_slurm: SLURM refused the jobs: " in out
    assert "Change what is asked for: hydra.launcher.cpus_per_task" in out


@pytest.mark.slow
def test_a_job_killed_on_slurm_costs_itself_alone(slurm, small, tmp_path):
    words = command(small, tmp_path, "-m", "seed=1,2", "epochs=20", "hydra/launcher=submitit_slurm")
    words.append("hydra.launcher.cpus_per_task=1")
    process = begin(words)
    until(lambda: trains(tmp_path / "seed1"), process)
    [first] = (tmp_path / ".submitit").glob("*_0")
    subprocess.run(["scancel", first.name], check=True)
    end(process, 3)
    assert [status for status, _ in jobs(tmp_path).values()] == ["interrupted", "finished"]
    assert jobs(tmp_path)["seed1"][1].startswith("Its process was killed or died (CANCELLED)")
    assert record(tmp_path / "seed1")["status"] == "interrupted"
    end(begin(words), 0)
    assert {status for status, _ in jobs(tmp_path).values()} == {"finished"}


@pytest.mark.slow
def test_optuna_tries_what_it_tried_before_and_trains_nothing_twice(small, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = [word for word in small if not word.startswith("lr=")]
    words = command(words, tmp_path, "sweep=search", "hydra.sweeper.n_trials=2")
    out = end(begin(words), 0)
    table = pd.read_csv(tmp_path / "jobs.csv")
    assert len(table) == 2
    best = table["job"][table["val macro-F1"].idxmax()]
    assert f"best of 2 by val macro-F1, {table['val macro-F1'].max():.4f}: {tmp_path / best}" in out
    found = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert found.best_value == pytest.approx(table["val macro-F1"].max(), abs=1e-4)
    assert len(found.best_params) == 5
    end(begin(words), 0)
    assert {reason for _, reason in jobs(tmp_path).values()} == {"already finished"}


def test_a_search_whose_trials_all_fail_ends_with_3(sweep, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    assert sweep("sweep=search", "hydra.sweeper.n_trials=2", "model.backbone=no_such_net") == 3
    assert [status for status, _ in jobs(tmp_path / "sweep").values()] == ["failed"] * 2

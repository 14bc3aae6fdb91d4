"""Sweeps: jobs, folders, restarts, interruptions and the final summary."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import product
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
from tests.builders.commands import change_record, interrupt, merge_words, read_record, write_manifest
from tests.builders.sweeps import list_values, run_first_job

BACKBONE = "test_resnet.r160_in1k"
WAIT = 500  # seconds, for a machine that has much else to do
BY_SOURCE = "sweep=leave_one_source_out"
PROBES = {BY_SOURCE, "sweep=leave_one_generator_out", "sweep=sources"}
SOURCES = ["crayon", "diffusion", "gan", "ink", "street", "studio", "vector"]
DONE = ("finished", "already finished")


def jobs(folder):
    """Return the status and the reason of each job by jobs.csv."""
    table = pd.read_csv(folder / "jobs.csv", keep_default_na=False)
    assert list(table) == ["job", "status", "val macro-F1", "n", "seconds", "reason"]
    return dict(zip(table["job"], zip(table["status"], table["reason"], strict=True), strict=True))


@pytest.fixture
def sweep_words(small, tmp_path):
    """Return a function that returns the words of a sweep of small trainings into tmp_path/sweep."""

    def merge(*words):
        frozen = ["mode=frozen"] * bool(PROBES & set(words))  # `small` trains by epochs
        return ["train", *merge_words(small, "data.limit=96", f"out={tmp_path / 'sweep'}", *frozen, *words)]

    return merge


@pytest.fixture
def sweep(sweep_words, tmp_path):
    """Return a function that runs a sweep, expects its exit code, and returns its jobs."""

    def run(*words, code=0):
        assert main(sweep_words(*words)) == code
        return jobs(tmp_path / "sweep") if (tmp_path / "sweep" / "jobs.csv").exists() else {}

    return run


@pytest.fixture
def launched(monkeypatch):
    """Run the first job of each sweep alone; return the words of all jobs."""
    return run_first_job(monkeypatch)


@pytest.fixture
def call(launched, monkeypatch):
    """Put a function in the place of train that keeps the options of the last job."""
    kept: dict[str, Any] = {}

    def execute(options):
        kept.update(OmegaConf.to_container(OmegaConf.structured(options)))
        return 0.5

    monkeypatch.setattr("avatar_bench.commands.train.execute", execute)
    return kept


@pytest.mark.slow
def test_each_job_ends_alone_is_in_the_table_and_a_finished_one_is_kept_or_refused(sweep, images, tmp_path, capsys):
    table, manifest, folder = pd.read_csv(images / "all.csv"), tmp_path / "mine.csv", tmp_path / "sweep"
    words = [f"data.manifest={write_manifest(manifest, table, images)}", "-m"]
    ended, run = sweep(*words, "lr=-1,1e30,3e-3", code=3), folder / "lr0.003"
    statuses = {name: status for name, (status, _) in ended.items()}
    assert statuses == {"lr-1": "failed", "lr1e+30": "diverged", "lr0.003": "finished"}
    assert re.search("not a finite number.*[.] Images of that batch: ", ended["lr1e+30"][1])
    assert ended["lr0.003"][1] == ""
    printed = capsys.readouterr()
    assert re.search(r"^lr-1 +failed +- +- +- +lr=-1.0: expected more than 0", printed.err, re.MULTILINE)
    assert printed.out.splitlines()[-1] == (
        f"1 of 3 jobs are finished: {folder / 'jobs.csv'}; the same command runs the others"
    )
    assert {path.name for path in folder.iterdir()} == {"multirun.yaml", "jobs.csv", "lr1e+30", "lr0.003"}
    counts = pd.read_csv(folder / "jobs.csv", index_col="job", keep_default_na=False)["n"].to_dict()
    assert counts == {"lr-1": "-", "lr1e+30": "-", "lr0.003": str(read_record(run)["split"]["counts"]["val"])}

    grid, before = [*words, "lr=3e-3,-1"], (run / "run.json").read_bytes()
    assert sweep(*grid, "data.workers=1", "lang=ru", code=3)["lr0.003"] == DONE  # they change no weight
    assert capsys.readouterr().err.count("already finished, left unchanged") == 1
    status, reason = sweep(*grid, "epochs=2", "label_smoothing=0.1", code=3)["lr0.003"]
    assert status == "refused"
    assert "epochs is 1 there, 2 here; label_smoothing is 0.0 there, 0.1 here" in reason
    write_manifest(manifest, table.iloc[1:], images)
    status, reason = sweep(*grid, code=3)["lr0.003"]
    assert status == "refused"
    assert "on other images than data=manifest now contains" in reason
    (run / "config.yaml").write_text("epochs: [1")
    assert "config.yaml cannot be read" in sweep(*grid, code=3)["lr0.003"][1]
    assert (run / "run.json").read_bytes() == before
    assert not list(folder.rglob("*.lock"))


@pytest.mark.slow
def test_the_same_command_begins_failed_and_spoiled_jobs_anew_and_continues_others(
    sweep, tmp_path, monkeypatch, capsys
):
    grid, run = ["-m", "seed=1,2,3", "epochs=2"], tmp_path / "sweep" / "seed1"
    with monkeypatch.context() as patch:
        interrupt(patch, 2, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), seed=1)
        interrupt(patch, 2, KeyboardInterrupt(), seed=2)
        ended = sweep(*grid, code=130)
    assert ended["seed1"][1].startswith("Out of memory. Use smaller batches")
    assert {name: status for name, (status, _) in ended.items()} == {
        "seed1": "failed",
        "seed2": "interrupted",
        "seed3": "not started",
    }
    finished = ("finished", "")
    capsys.readouterr()
    assert sweep(*grid) == dict.fromkeys(ended, finished)
    resumed = [line for line in capsys.readouterr().err.splitlines() if "resuming from its last checkpoint" in line]
    assert resumed == [f"{tmp_path / 'sweep' / 'seed2'}: resuming from its last checkpoint."]
    change_record(run, status="running")  # of one that was killed
    for file in (run / "checkpoints").glob("*.ckpt"):
        file.write_bytes(b"spoiled")
    assert sweep(*grid) == {"seed1": finished, "seed2": DONE, "seed3": DONE}
    for name in ended:
        assert pd.read_csv(tmp_path / "sweep" / name / "metrics.csv")["epoch"].tolist() == [1, 2]
        assert read_record(tmp_path / "sweep" / name)["status"] == "finished"


def test_a_folder_in_which_another_process_trains_is_left_alone(sweep, tmp_path):
    run = tmp_path / "sweep" / "lr0.003"
    run.mkdir(parents=True)
    with FileLock(run / "run.lock"):
        assert "another process is training there" in sweep("-m", "lr=3e-3,-1", code=3)["lr0.003"][1]
        assert (run / "run.lock").exists()
    assert not (run / "run.json").exists()


def test_every_source_or_unit_of_sources_is_held_out_once(call, launched, sweep):
    sweep(BY_SOURCE, "data.limit=null")
    assert sorted(list_values(launched, "data.split.held_out")) == [[name] for name in SOURCES]
    assert (call["mode"]["name"], call["data"]["split"]["held_out"]) == ("frozen", SOURCES[:1])
    launched.clear()
    sweep(BY_SOURCE, "data.split.units={lab: [ink, gan, studio]}", "data.limit=null")
    names = ["crayon", "diffusion", "lab", "street", "vector"]
    assert sorted(list_values(launched, "data.split.held_out")) == [[name] for name in names]


def test_sources_that_cannot_be_held_out_are_named(call, launched, sweep, images, tmp_path, capsys):
    odd = "a 'new' [1], b"
    table = pd.read_csv(images / "all.csv").query("source != 'street'").replace({"source": {"crayon": odd}})
    manifest = write_manifest(tmp_path / "mine.csv", table, images)
    words = [BY_SOURCE, f"data.manifest={manifest}", "data.split.at_least=21", "data.limit=null"]
    sweep(*words)
    assert list_values(launched, "data.split.held_out") == [[odd], ["diffusion"], ["gan"], ["ink"]]
    assert call["data"]["split"]["held_out"] == [odd]
    line = "not held out: vector (20 images), studio (all of class real)"
    assert capsys.readouterr().err.count(line) == 1
    sweep("sweep=leave_one_generator_out", code=3)
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "No generator can be held out: no image names its generator."


def test_sources_too_small_within_the_limit_stay_in_training(launched, sweep, tmp_path, capsys):
    sweep(BY_SOURCE, "data.limit=96", "data.split.at_least=14", "trainer=debug")
    err = capsys.readouterr().err
    [line] = [line for line in err.splitlines() if line.startswith("not held out (of 96 images drawn, data.limit): ")]
    few = {name: int(n) for name, n in re.findall(r"(\w+) \((\d+) images\)", line)}
    names = [name for [name] in list_values(launched, "data.split.held_out")]
    assert len(names) > 0
    assert max(few.values()) < 14
    split = pd.read_csv(tmp_path / "sweep" / names[0] / "split.csv")
    counts = split["source"].value_counts()
    assert counts[names[0]] == (split["split"] == "test").sum()
    assert counts[names].min() >= 14
    assert counts.drop(names).to_dict() == few


@pytest.mark.slow
def test_recipes_are_compared_over_held_out_sources(sweep, tmp_path, capsys):
    words = [BY_SOURCE, "data.split.held_out=[ink],[vector]", "data.limit=null"]
    words += ["mode.balance=none,source", "data.split.val_by=source", "trainer.limit_batches=2"]
    names = {f"{unit}-{recipe}" for unit in ("ink", "vector") for recipe in ("none", "source")}
    assert sweep(*words).keys() == names
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert warned.count("warning: no test image of generated, real: add some, or hold out some") == 4
    assert not any("test lacks" in line or "instead of" in line for line in warned)  # no proportions are planned
    for name in names:
        split = pd.read_csv(tmp_path / "sweep" / name / "split.csv")
        side = split["split"].replace("calibration", "val")
        assert (side.groupby(split["source"]).nunique() == 1).all()
    option = "block.leave_one_source_out.base='mode.balance=source'"
    assert main(["evaluate", f"ckpt={tmp_path / 'sweep'}", "block=leave_one_source_out", option]) == 0
    result = Result.load(tmp_path / "sweep" / "evaluation" / "test" / "leave_one_source_out")
    recall = result.tables["images"].groupby(["recipe", "source"])["correct"].mean()
    base, other = (f"{BACKBONE} frozen mode.balance={balance}" for balance in ("source", "none"))
    for recipe in (base, other):
        assert result.metrics[f"recall/ink/{recipe}"].value == pytest.approx(recall[recipe, "ink"])
        assert result.metrics[f"mean/{recipe}"].value == pytest.approx(recall[recipe].mean())
    gain = result.metrics[f"gain/{other}"].value
    assert gain == pytest.approx(recall[other].mean() - recall[base].mean())
    assert result.metrics[f"in_domain/{base}"].reason == Reason("no_val_of_known_sources")
    seconds = [read_record(tmp_path / "sweep" / name)["train_seconds"] for name in names if "none" in name]
    summary = result.tables["summary"].set_index("recipe")
    assert summary.loc[other, "train_seconds"] == pytest.approx(np.mean(seconds))


@pytest.mark.slow
def test_sweeps_over_numbers_of_sources_and_shots_draw_each_several_times(call, launched, sweep):
    sweep("sweep=sources", "data.limit=null", "seed=1")
    held_out = [tuple(names) for names in list_values(launched, "data.split.held_out")]
    parts = set(held_out)
    assert sorted(name for names in parts for name in names) == SOURCES
    drawn = zip(held_out, list_values(launched, "data.split.train_sources"), strict=True)
    assert sorted(drawn) == sorted(product(parts, (1, 2, 4, 8)))
    assert (len(parts), call["data"]["split"]["train_sources"]) == (3, 1)
    launched.clear()
    sweep("sweep=shots")
    drawn = list(zip(list_values(launched, "mode.shots"), list_values(launched, "seed"), strict=True))
    assert drawn == list(product((5, 10, 20, 50, 100), (1, 2, 3)))
    assert (call["mode"]["name"], call["mode"]["shots"], call["seed"]) == ("few_shot", 5, 1)


def test_a_launcher_that_cannot_be_used_is_refused(sweep_words, monkeypatch, command):
    from hydra.core.config_store import ConfigStore

    words = sweep_words("-m", "seed=1,2")
    if ConfigStore.instance().repo["hydra"]["launcher"].get("submitit_slurm.yaml"):
        monkeypatch.setattr(shutil, "which", lambda name: None)
        assert "sbatch is not installed" in command(*words, "hydra/launcher=submitit_slurm", code=2).err
    monkeypatch.setitem(ConfigStore.instance().repo["hydra"], "launcher", {})
    message = 'hydra/launcher=joblib: its package is not installed\ninstall it: pip install "avatar-bench[sweeps]"\n'
    assert command(*words, "hydra/launcher=joblib", code=2).err == message


def test_a_running_record_of_a_job_that_was_killed_is_marked(tmp_path):
    sweep = Sweep(tmp_path, records=True)
    sweep.add_jobs(["seed1", "seed2"])
    for name, status in (("seed1", "running"), ("seed2", "finished")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(f'{{"status": "{status}"}}', encoding="utf-8")
    assert sweep.finish() == 3  # the launcher died before it told of any
    assert jobs(tmp_path) == {"seed1": ("interrupted", "its process was killed"), "seed2": ("finished", "")}
    ended = {"status": "interrupted", "error": "its process was killed"}
    assert ended.items() <= read_record(tmp_path / "seed1").items()


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


def test_a_job_that_ends_without_a_result_was_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm_launcher, "CLUSTER_GRACE_SECONDS", 0.0)
    paths = SimpleNamespace(result_pickle=tmp_path / "result.pkl", stdout=tmp_path / "log.out")
    [result] = slurm_launcher._WaitingJob(SimpleNamespace(paths=paths, state="INTERRUPTED")).results()
    assert isinstance(result.return_value, JobError)
    assert "was killed or died" in result.return_value.lines[0]


# what follows runs real launchers, whose jobs have processes of their own


def trains(run):
    """Return whether a job has finished an epoch, but not all of them."""
    return (run / "checkpoints" / "last.ckpt.sha256").is_file() and read_record(run)["status"] == "running"


def find_lock_holders(run):
    """Return the processes that hold the lock of a run folder."""
    number = (run / "run.lock").stat().st_ino
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return [int(line[4]) for line in locks if line[5].endswith(f":{number}")]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_sweep_that_was_killed_is_finished_by_the_same_command(launcher, sweep, sweep_words, fork, tmp_path):
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words, folder = ["-m", "seed=1,2,3", "epochs=15", f"hydra/launcher={launcher}"], tmp_path / "sweep"
    child = fork(*sweep_words(*words))
    child.until(lambda: trains(folder / "seed2"))
    if launcher == "basic":
        child.kill()
    else:
        os.kill(find_lock_holders(folder / "seed2")[0], signal.SIGKILL)
        assert child.end() == 3
        assert "A process of this sweep was killed from outside" in child.said
        assert "Traceback" not in child.said
        assert {"interrupted", "not started"} <= {status for status, _ in jobs(folder).values()}
        assert "running" not in {read_record(file.parent)["status"] for file in folder.glob("*/run.json")}
    table = sweep(*words)
    assert {status for status, _ in table.values()} == {"finished"}
    assert launcher == "joblib" or table["seed1"] == DONE
    assert pd.read_csv(folder / "seed2" / "metrics.csv")["epoch"].tolist() == [*range(1, 16)]
    assert not list(folder.rglob("*.lock"))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("prlimit"), reason="needs prlimit, to limit the memory of a process")
def test_a_real_lack_of_memory_costs_its_job_alone(sweep_words, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = sweep_words("-m", "data.image_size=4096,32", "hydra/launcher=joblib")
    limited = ["prlimit", f"--as={5 * 2**30}", sys.executable, "-m", "avatar_bench", *words]
    done = subprocess.run(limited, capture_output=True, text=True, check=False, timeout=WAIT)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    (status, reason), other = jobs(tmp_path / "sweep").values()
    assert [status, other[0]] == ["failed", "finished"]
    assert reason.startswith("Out of memory. Use smaller batches: data.batch_size=N")


@pytest.mark.slow
def test_submitit_runs_jobs_on_this_machine_and_a_killed_one_costs_itself_alone(sweep_words, fork, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    words = ["-m", "lr=3e-3,1e-3,1e30", "epochs=15", "hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=2"]
    child, folder = fork(*sweep_words(*words)), tmp_path / "sweep"
    child.until(lambda: trains(folder / "lr0.001"))
    [os.kill(pid, signal.SIGKILL) for pid in find_lock_holders(folder / "lr0.001")]
    assert child.end() == 3
    table = jobs(folder)
    assert [status for status, _ in table.values()] == ["finished", "interrupted", "diverged"]
    assert table["lr0.001"][1].startswith("Its process was killed or died (FAILED); log: ")
    assert {file.name for file in folder.iterdir()} == {".submitit", "multirun.yaml", "jobs.csv", *table}


@pytest.fixture(scope="module")
def slurm():
    """Start the one-node SLURM of ../shared, or use the one that runs."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    scripts = Path(__file__).parents[3] / "shared" / "slurm"
    if not shutil.which("slurmctld") or not scripts.is_dir():
        pytest.skip("needs slurmctld, slurmd, slurm-client and munge, and ../shared/slurm")
    ran = subprocess.run(["sinfo"], capture_output=True, check=False).returncode == 0
    variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # nproc obeys it
    up = ["bash", str(scripts / "up.sh")]
    done = subprocess.run(up, capture_output=True, text=True, check=False, timeout=WAIT, env=variables)
    if done.returncode:
        pytest.skip(f"SLURM did not start: {done.stderr[-200:]}")
    yield
    end = time.monotonic() + WAIT
    while subprocess.run(["squeue", "--noheader"], capture_output=True, check=False).stdout and time.monotonic() < end:
        time.sleep(0.5)  # a job that is cut off here would hold its cores when SLURM starts again
    if not ran:
        subprocess.run(["bash", str(scripts / "down.sh")], capture_output=True, check=False, timeout=WAIT)


@pytest.mark.slow
def test_a_slurm_job_of_one_task_trains_on_two_devices(slurm, sweep_words, fork, tmp_path):
    words = sweep_words("-m", "seed=1,2", "trainer=ddp", "trainer.devices=2", "data.batch_size=4")
    child = fork(*words, "hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=2")
    assert child.end() == 0, child.said
    assert [status for status, _ in jobs(tmp_path / "sweep").values()] == ["finished"] * 2
    assert read_record(tmp_path / "sweep" / "seed1")["device"]["devices"] == 2


@pytest.mark.slow
def test_jobs_that_slurm_refuses_are_explained_with_its_reason(slurm, sweep_words, command):
    words = sweep_words("-m", "seed=1,2", "hydra/launcher=submitit_slurm")
    err = command(*words, "hydra.launcher.cpus_per_task=999", code=2).err
    assert "hydra/launcher=submitit_slurm: SLURM refused the jobs: " in err
    assert "Change what is asked for: hydra.launcher.cpus_per_task" in err


@pytest.mark.slow
def test_a_job_killed_on_slurm_costs_itself_alone(slurm, sweep, sweep_words, fork, tmp_path):
    words, folder = ["-m", "seed=1,2", "epochs=20", "hydra/launcher=submitit_slurm"], tmp_path / "sweep"
    words.append("hydra.launcher.cpus_per_task=1")
    child = fork(*sweep_words(*words))
    child.until(lambda: trains(folder / "seed1"))
    [first] = (folder / ".submitit").glob("*_0")
    subprocess.run(["scancel", first.name], check=True)
    assert child.end() == 3
    assert [status for status, _ in jobs(folder).values()] == ["interrupted", "finished"]
    assert jobs(folder)["seed1"][1].startswith("Its process was killed or died (CANCELLED)")
    assert read_record(folder / "seed1")["status"] == "interrupted"
    assert {status for status, _ in sweep(*words).values()} == {"finished"}


@pytest.mark.slow
def test_optuna_tries_what_it_tried_before_and_trains_nothing_twice(sweep_words, command, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = [word for word in sweep_words("sweep=search", "hydra.sweeper.n_trials=2") if not word.startswith("lr=")]
    printed = command(*words)
    table = pd.read_csv(tmp_path / "sweep" / "jobs.csv")
    assert len(table) == 2
    best = table.loc[table["val macro-F1"].idxmax()]
    line = f"best of 2 by val macro-F1, {best['val macro-F1']:.4f}: {tmp_path / 'sweep' / best['job']}"
    assert line in printed.out + printed.err
    results = OmegaConf.load(tmp_path / "sweep" / "optimization_results.yaml")
    assert results.best_value == pytest.approx(best["val macro-F1"], abs=1e-4)
    assert len(results.best_params) == 5
    command(*words)
    assert {reason for _, reason in jobs(tmp_path / "sweep").values()} == {"already finished"}


@pytest.mark.slow
def test_a_search_whose_trials_all_fail_ends_with_3(sweep):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["sweep=search", "hydra.sweeper.n_trials=2", "model.backbone=no_such_net"]
    assert [status for status, _ in sweep(*words, code=3).values()] == ["failed"] * 2

"""No command reads, writes or asks anything outside of a run folder that somebody else has made."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.builders.commands import change_record
from tests.builders.run_files import write_file
from tests.test_connections import find_foreign

LINKED = (  # what a command would write, then what one would read, through a link
    *("run.json.part", "calibration.json.part", "run.lock", "evaluation", "evaluation/blind", "evaluation/log.jsonl"),
    *("predictions", "logs", "checkpoints/last.ckpt.part", "curves.png.part", "metrics.csv"),
    *("run.json", "config.yaml", "split.csv", "checkpoints", "checkpoints/best.ckpt"),
    *("evaluation/blind/blind_test/per_source.png", "evaluation/blind/blind_test/per_source.csv"),
)
CSV = {"_target_": "pytorch_lightning.loggers.CSVLogger", "name": "", "version": "{logs}"}
SPIKES = {"_target_": "pytorch_lightning.callbacks.SpikeDetection", "exclude_batches_path": "OUTSIDE/file"}
WANDB = {"_target_": "pytorch_lightning.loggers.WandbLogger", "name": "{name}", "save_dir": "{folder}/logs"}
CONFIGURED = {  # by option; in a run whose images lie in its folder, so that nothing else is refused
    "callbacks.others.spikes": SPIKES,
    "logger.csv": CSV | {"save_dir": "{folder}_sibling"},
    "logger": {"csv": CSV | {"save_dir": "mywork", "version": ""}},
    "logger.wandb": WANDB | {"project": "avatar_bench", "offline": False},
    "data.shards": "s3://bucket/set",
    "data.root": "http://192.0.2.1/set",  # an address that leads nowhere (RFC 5737)
    "model.weights": "hub",
    "model.package": {"distribution": "avatar-bench-other", "file": "*.pth", "layout": "timm", "licence": "mit"},
    "teacher": "hf:OWNER/NAME",
}
RUN = """
import json, sys
from avatar_bench.cli.app import main
codes = []
for words in json.load(sys.stdin):
    codes.append(main(words))
    print(f"code {codes[-1]} of {words[:2]}", file=sys.stderr)
print(json.dumps(codes), file=open(sys.argv[1], "w"))
"""


def list_commands(run, images, out):
    """Return the command lines that open a run folder."""
    at = f"ckpt={run}"
    return [
        ["evaluate", at, "block=blind_test", "split=blind", "data.workers=0"],
        ["calibrate", at, "split=val", "workers=0"],
        ["train", f"resume={run}"],
        ["report", f"runs={run}", f"out={out}.html"],
        ["predict", at, str(images / "blind" / "real"), f"output={out}.csv", "workers=0"],
        ["export", at, f"out={out}.safetensors"],
        ["push", str(run), f"to={out}_shared"],
    ]


def run_watched(commands, tmp_path):
    """Return the exit codes of commands, what they opened, their connections to other machines, and their errors."""
    strace, trace = shutil.which("strace"), tmp_path / "trace"
    if strace is None:
        pytest.skip("strace is not installed")
    calls = "trace=open,openat,creat,rename,renameat,renameat2,connect,sendto,sendmsg,sendmmsg"
    watched = [strace, "-f", "-qq", "-y", "--seccomp-bpf", "-e", calls, "-o", str(trace), sys.executable, "-c", RUN]
    words = [*watched, str(tmp_path / "codes")]
    done = subprocess.run(words, cwd=tmp_path, input=json.dumps(commands), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    opened = [line for line in trace.read_text(errors="replace").splitlines() if re.search(r"outside/.*> *$", line)]
    return json.loads((tmp_path / "codes").read_text()), opened, find_foreign(trace), done.stderr


@pytest.fixture
def outside(tmp_path):
    """A folder of the user, which no stranger's run may reach."""
    write_file(tmp_path / "outside" / "file", "export EDITOR=vi\n")
    (tmp_path / "outside" / "folder").mkdir()
    return tmp_path / "outside"


@pytest.mark.slow
def test_a_link_leads_no_command_out_of_a_run_folder(tiny_run, images, outside, tmp_path):
    commands = []
    for number, name in enumerate(LINKED):
        run = Path(shutil.copytree(tiny_run, tmp_path / f"run_{number}"))
        change_record(run, status="interrupted" if number % 2 else "finished")
        link = run / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_dir():
            shutil.rmtree(link)
        link.unlink(missing_ok=True)
        link.symlink_to(outside / ("file" if "." in link.name else "folder"))
        commands += list_commands(run, images, tmp_path / f"out_{number}")
    codes, opened, connections, _ = run_watched(commands, tmp_path)
    assert set(codes) <= {3, 4}, list(zip(codes, commands, strict=True))  # 3: report, which found no run
    assert (opened, connections) == ([], [])
    assert sorted(outside.rglob("*")) == [outside / "file", outside / "folder"]
    assert (outside / "file").read_text() == "export EDITOR=vi\n"


@pytest.mark.slow
def test_a_configuration_leads_no_command_out_of_a_run_folder(tiny_run, images, outside, tmp_path):
    commands = []
    (tmp_path / "mywork").mkdir()
    kept = [write_file(tmp_path / "mywork" / name, "mine\n") for name in ("metrics.csv", "hparams.yaml")]
    for number, (option, value) in enumerate({"lang": "en", **CONFIGURED}.items()):
        run = Path(shutil.copytree(tiny_run, tmp_path / f"run_{number}"))
        change_record(run, status="interrupted", signature=None)
        shutil.copytree(images, run / "images")
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["data"] |= {"manifest": f"run_{number}/images/all.csv", "blind": None, "ood": {}}
        *groups, key = option.split(".")
        inner = config
        for group in groups:
            inner = inner[group]
        inner[key] = value
        text = yaml.safe_dump(config).replace("OUTSIDE", str(outside))
        (run / "config.yaml").write_text(text)
        every = list_commands(Path(run.name), images, tmp_path / f"out_{number}")
        commands += every if number == 1 else [words for words in every if words[0] == "train"]
    codes, opened, connections, errors = run_watched(commands, tmp_path)
    trained = [code for code, words in zip(codes, commands, strict=True) if words[0] == "train"]
    assert trained == [0, *[2] * len(CONFIGURED)], errors  # the first chooses nothing, and resumes
    for option in CONFIGURED:
        assert re.search(rf"config.yaml: {option}[.\w]*=.*cannot choose it", errors), (option, errors)
    assert (opened, connections) == ([], [])
    assert [file.read_text() for file in kept] == ["mine\n"] * 2
    assert not list(tmp_path.glob("*_sibling"))

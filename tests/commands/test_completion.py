"""Tests of the completion candidates, queried directly and through bash."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from avatar_bench.commands.completion import SHELLS, complete, execute

ROOT = Path(sys.modules["avatar_bench"].__file__ or "").parents[1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], ["train"]),
        (["list", "mode"], ["models", "modes"]),
        (["completion", "b"], ["bash"]),
        (["train", "mode=fro"], ["mode=frozen"]),
        (["train", "-m", "mode=full,fr"], ["mode=full,frozen"]),
        (["evaluate", "block=[blind"], ["block=[blind_test"]),
        (["train", "--multi"], ["--multirun"]),
        (["train", "data=folder", "see"], ["seed="]),
        (["train", "data=folder", "data.split.f"], ["data.split.folds="]),
        (["predict", "inp"], ["input="]),
        (["predict", "precision=a"], ["precision=auto"]),
        (["evaluate", "allow=s"], ["allow=shortcut"]),
        (["train", "out="], []),
        (["nosuch", "a"], []),
    ],
)
def test_the_last_word_is_completed(words, expected):
    assert complete(words) == expected


def test_options_of_hydra_are_not_offered_and_paths_are_where_the_shell_cannot(tmp_path):
    offered = complete(["train", "data=folder", ""])
    assert {"model=", "seed=", "data."} <= set(offered)
    assert not any(name.startswith(("hydra", "schema", "hydra_defaults")) for name in offered)
    (tmp_path / "my runs").mkdir()
    (tmp_path / "other").touch()
    assert complete(["evaluate", f"ckpt={tmp_path}/my"], files=True) == [f"ckpt={tmp_path}/my runs/"]
    assert complete(["evaluate", f"ckpt={tmp_path}/nowhere/my"], files=True) == []


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_legible_to_its_shell(shell, capsys):
    execute([shell])
    script = capsys.readouterr().out
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("avatar-bench train mode = fro", ["frozen"]),
        ("avatar-bench predict inp", ["input="]),
        ("python -m avatar_bench list mode", ["models", "modes"]),
        ("python other.py tr", []),
    ],
)
def test_bash_completes(words, expected):
    script = f"""
    avatar-bench() {{ '{sys.executable}' -m avatar_bench "$@"; }}
    python() {{ '{sys.executable}' "$@"; }}
    {(ROOT / "avatar_bench/commands/completion.bash").read_text(encoding="utf-8")}
    COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
    _avatar_bench 2>/dev/null
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    variables = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = ["bash", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=variables)
    assert done.stdout.split() == expected

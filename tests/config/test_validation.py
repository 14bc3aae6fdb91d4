"""Tests of config validation: no object is built from options, and none exposes environment variables."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avatar_bench.cli.app import main
from avatar_bench.config.validation import ALLOWED_TARGETS, check_values, escape_interpolations
from avatar_bench.errors import ConfigError

MARK = "it-ran"


def gadgets() -> dict[str, dict[str, Any]]:
    """Return what would leave a file in the working folder, or worse, if it were built; by target."""
    calls: dict[str, list[Any]] = {
        "os.system": [f"touch {MARK}"],
        "os.popen": [f"touch {MARK}"],
        "os.mkdir": [MARK],
        "os.execvp": ["touch", ["touch", MARK]],
        "os.spawnlp": [0, "touch", "touch", MARK],
        "posix.system": [f"touch {MARK}"],
        "subprocess.Popen": [["touch", MARK]],
        "subprocess.run": [["touch", MARK]],
        "subprocess.getoutput": [f"touch {MARK}"],
        "pty.spawn": [["touch", MARK]],
        "builtins.exec": [f"open('{MARK}', 'w')"],
        "builtins.eval": [f"open('{MARK}', 'w')"],
        "builtins.open": [MARK, "w"],
        "builtins.__import__": ["evil"],
        "io.open": [MARK, "w"],
        "codecs.open": [MARK, "w"],
        "pathlib.Path.write_text": [{"_target_": "pathlib.Path", "_args_": [MARK]}, "x"],
        "pathlib.Path.touch": [{"_target_": "pathlib.Path", "_args_": [MARK]}],
        "pathlib.Path.unlink": [{"_target_": "pathlib.Path", "_args_": ["kept"]}],
        "shutil.rmtree": ["kept"],
        "shutil.copyfile": ["kept", MARK],
        "importlib.import_module": ["evil"],
        "runpy.run_path": ["evil.py"],
        "pickle.loads": [f"cposix\nsystem\n(S'touch {MARK}'\ntR."],
        "pickle.load": [{"_target_": "builtins.open", "_args_": ["evil.pickle", "rb"]}],
        "joblib.load": ["evil.pickle"],
        "numpy.load": ["evil.npy", None, True],
        "pandas.read_pickle": ["evil.pickle"],
        "torch.load": ["evil.pickle"],
        "torch.hub.load": [".", "evil", "local"],
        "yaml.unsafe_load": [f"!!python/object/apply:os.system ['touch {MARK}']"],
        "sympy.sympify": [f"__import__('os').system('touch {MARK}')"],
        "logging.config.dictConfig": [{"version": 1, "handlers": {"a": {"class": "logging.FileHandler"}}}],
        "logging.FileHandler": [MARK],
        "hydra.utils.instantiate": [{"_target_": "os.system", "_args_": [f"touch {MARK}"]}],
        "hydra.utils.call": [{"_target_": "os.system", "_args_": [f"touch {MARK}"]}],
        "hydra.utils.get_method": ["os.system"],
        "functools.partial": [{"_target_": "hydra.utils.get_method", "path": "os.system"}, f"touch {MARK}"],
        "evil.Class": [],
    }
    return {target: {"_target_": target, "_args_": arguments} for target, arguments in calls.items()}


GADGETS = gadgets()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, on sys.path, in which gadgets find what they would run."""
    code = f"import pathlib\npathlib.Path('{MARK}').touch()\nclass Class: ...\n"
    (tmp_path / "evil.py").write_text(code)
    (tmp_path / "hubconf.py").write_text(code)
    for name in ("evil.pickle", "evil.npy"):
        (tmp_path / name).write_bytes(f"cposix\nsystem\n(S'touch {MARK}'\ntR.".encode())
    (tmp_path / "kept").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def option(gadget: Any) -> list[str]:
    return [f"model.options={inline({'a': gadget})}"]


def added(gadget: Any) -> list[str]:
    return [f"+data.prepare.a={inline(gadget)}"]


def folder(gadget: Any) -> list[str]:
    put("model/evil.yaml", {"model": {"backbone": "resnet18", "options": {"a": [gadget]}}}, "# @package _global_\n")
    return ["-cd", "conf", "model=evil"]


def launcher(gadget: Any) -> list[str]:
    return ["-m", "seed=1,2", f"+hydra.launcher={inline(gadget)}"]


def launcher_yaml(gadget: Any) -> list[str]:
    put("hydra/launcher/evil.yaml", gadget)
    return ["-m", "seed=1,2", "-cd", "conf", "hydra/launcher=evil"]


def sweeper(gadget: Any) -> list[str]:
    return ["-m", "seed=1,2", f"+hydra.sweeper={inline(gadget)}"]


def sampler(gadget: Any) -> list[str]:
    pytest.importorskip("optuna")
    return ["sweep=search", f"+hydra.sweeper.sampler={inline({'gamma': gadget})}"]


def callbacks(gadget: Any) -> list[str]:
    return [f"+hydra.callbacks.a={inline(gadget)}"]


def callbacks_yaml(gadget: Any) -> list[str]:
    put("hydra/callbacks/evil.yaml", {"a": gadget})
    return ["-cd", "conf", "+hydra/callbacks=evil"]


def logging(gadget: Any) -> list[str]:
    handler = {"()": gadget["_target_"], "a": gadget["_args_"]}
    written = {"version": 1, "handlers": {"a": handler}, "root": {"handlers": ["a"]}}
    put("hydra/job_logging/evil.yaml", written)
    put("hydra/hydra_logging/evil.yaml", written)
    return ["-cd", "conf", "hydra/job_logging=evil", "hydra/hydra_logging=evil"]


def resolver(gadget: Any) -> list[str]:
    return [f"+hydra.callbacks=${{oc.create:{inline({'a': gadget})}}}"]


def resumed(gadget: Any) -> list[str]:
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/run.json").write_text('{"status": "interrupted"}')
    Path("run/config.yaml").write_text(json.dumps({"model": {"options": {"a": gadget}}}))
    return ["resume=run"]


WAYS: tuple[Callable[[Any], list[str]], ...] = (
    *(option, added, folder, launcher, launcher_yaml, sweeper),
    *(sampler, callbacks, callbacks_yaml, logging, resolver, resumed),
)


def put(name: str, content: Any, header: str = "") -> None:
    file = Path("conf") / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(header + json.dumps(content))


def inline(value: Any) -> str:
    """Write a value in Hydra's grammar."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(inline, value)) + "]"
    quoted = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", " ") if isinstance(value, str) else value
    return f"'{quoted}'" if isinstance(value, str) else json.dumps(value)


def nothing_ran(here: Path) -> bool:
    return not (here / MARK).exists() and (here / "kept").is_dir() and "evil" not in sys.modules


def refused(words: list[str], here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    unread = ["data=folder", "data.root=none"] * ("resume=run" not in words)  # in case the gadget passes
    assert main(["train", *unread, *words]) == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert 1 <= len(told.err.splitlines()) <= 3, told.err
    assert "Traceback" not in told.err
    assert any(word in told.err for word in ("_target_", "_args_", "hydra.", "interpolation", "${")), told.err
    assert nothing_ran(here)


@pytest.mark.parametrize("target", GADGETS)
def test_a_gadget_is_never_built(target: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    way = WAYS[list(GADGETS).index(target) % len(WAYS)]
    refused(way(GADGETS[target]), here, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("target", ["os.system", "functools.partial", "evil.Class"])
def test_no_gadget_is_built_in_any_way(
    target: str, way: Callable[[Any], list[str]], here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refused(way(GADGETS[target]), here, capfd)


@pytest.mark.parametrize("way", [option, callbacks, launcher_yaml, logging], ids=lambda way: way.__name__)
def test_a_gadget_is_not_built_in_a_process_of_its_own(way: Callable[[Any], list[str]], here: Path) -> None:
    words = [sys.executable, "-m", "avatar_bench", "train", *way(GADGETS["os.system"])]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert 1 <= len(found.stderr.splitlines()) <= 3
    assert nothing_ran(here)


def test_a_swept_gadget_is_not_built(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refused(["-m", "+data.prepare._target_=os.getcwd,os.getpid", "out=sweep"], here, capfd)


def test_optuna_calls_no_function_of_the_options(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    refused(["sweep=search", "hydra.sweeper.custom_search_space=evil.Class"], here, capfd)


@pytest.mark.parametrize(
    "word",
    [
        "hydra.output_subdir=sub",
        "hydra.run.dir=elsewhere",
        "hydra.job.chdir=true",
        "+hydra.job.env_set.LD_PRELOAD=evil.so",
        "hydra.job.env_copy=[HOME]",
        "hydra.searchpath=[pkg://evil]",
        "hydra/job_logging=default",
    ],
)
def test_hydra_writes_no_file_runs_no_module_and_copies_no_variable(
    word: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    refused([word], here, capfd)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    "word",
    [
        "data.name=${oc.env:CANARY}",
        "logger.project=${oc.env:CANARY}",
        "model=${oc.env:CANARY}",
        "+model.options.a=${oc.decode:${oc.env:CANARY}}",
        "+model.options.a=${oc.select:no,${oc.env:CANARY}}",
        "+model.options.a=${${seed}:CANARY}",
        "out=${oc.env:CANARY} data.root=/nowhere",
    ],
)
def test_what_the_environment_holds_is_never_told(
    word: str, here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "tweet-7f3a")
    assert main(["train", "data=folder", "data.root=none", *word.split()]) in (2, 3)
    told = capfd.readouterr()
    assert "tweet-7f3a" not in told.out + told.err
    assert len(told.err.splitlines()) <= 3
    assert nothing_ran(here)
    assert not any("tweet" in str(path) for path in here.rglob("*"))


def test_the_launchers_and_sweepers_of_the_extras_may_stand_at_their_places() -> None:
    for option, targets in ALLOWED_TARGETS.items():
        for target in targets:
            tree: dict[str, Any] = {"_target_": target}
            for key in reversed(option.split(".")):
                tree = {key: tree}
            check_values(tree)
            with pytest.raises(ConfigError, match="cannot name an object"):
                check_values({"elsewhere": {"_target_": target}})


@pytest.mark.parametrize(
    "text", ["${a.b}/c", "${..a}", "${hydra:job.name}", "${now:%Y}", "${units:source}", r"\${oc.env:A}"]
)
def test_other_options_may_be_referred_to(text: str) -> None:
    check_values({"a": [{"b": text}]})


def test_what_is_literal_resolves_to_itself() -> None:
    from omegaconf import OmegaConf

    values = {"a": ["${oc.env:HOME}", r"c:\${x}", r"\\${y}", "$", 1, None]}
    assert OmegaConf.to_container(OmegaConf.create(escape_interpolations(values)), resolve=True) == values

"""Plug-ins: found by their folder or an entry point, listed without import, and named where they are missing."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from avatar_bench.cli.app import main
from avatar_bench.config import catalogue, entries
from avatar_bench.config.entries import KINDS, find_entries, find_plugins
from avatar_bench.errors import ConfigError
from tests.builders.archives import write_zip
from tests.builders.run_files import write_file
from tests.builders.walks import walk
from tests.commands.test_all_blocks import QUICK
from tests.test_readme import examples

PLUGINS = Path(entries.__file__).parents[1] / "plugins"
REQUESTS = {  # words that ask for something of each plug-in
    "app": [["app"], ["export", "ckpt=run", "out=page.html"]],
    "evidence": [["predict", "ckpt=run", "input=.", "evidence=true"]],
    "hub": [["push", "ckpt=run", "to=shared"], ["evaluate", "ckpt=hf:owner/name"]],
    "hub_detectors": [["import", f"kind={kind}", "folder=net", "out=new"] for kind in ("onnx", "timm", "transformers")],
    "measure": [["measure", "predictions=p.csv"]],
    "pretrain": [["pretrain"]],
    "ray": [
        ["predict", "ckpt=run", "input=.", "output=out.parquet", words] for words in ("engine=ray", "engine.actors=2")
    ],
}


def install(folder, monkeypatch):
    """Install a package with a plug-in, as pip would."""
    write_file(folder / "greetings" / "__init__.py", "raise RuntimeError('imported')\n")
    write_file(folder / "greetings" / "about.yaml", "summary: greetings of all kinds\n")
    write_file(folder / "greetings-1.dist-info" / "METADATA", "Name: greetings\nVersion: 1\n")
    write_file(folder / "greetings-1.dist-info" / "entry_points.txt", "[avatar_bench.plugins]\nhello = greetings\n")
    monkeypatch.syspath_prepend(folder)


def test_plugins_have_a_summary_and_an_extra_that_exists_and_the_index_names_what_they_provide():
    index = yaml.safe_load((PLUGINS / "index.yaml").read_text(encoding="utf-8"))
    names = {file.parent.name for file in PLUGINS.glob("*/about.yaml")}
    provided = {name: {} for name in names}
    for kind in KINDS:
        for name, entry in sorted(find_entries(kind).items()):
            if PLUGINS in entry.module.parents:
                plugin = entry.module.relative_to(PLUGINS).parts[0]
                provided[plugin].setdefault(kind, []).append(name)
    stated = {name: {kind: entries for kind, entries in index[name].items() if kind != "option"} for name in names}
    assert provided == stated
    project = tomllib.loads((PLUGINS.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for plugin in find_plugins().values():
        assert plugin.about["summary"]
        assert plugin.about.keys() <= {"summary", "extra"}
        assert plugin.about.get("extra") in {None, *project["optional-dependencies"]}


def install_examples(folder):
    """Install the wheel of a plug-in with entries of docs/extending.md by pip; return the folder of packages."""
    wheel, about = folder / "ours-1-py3-none-any.whl", "ours-1.dist-info"
    texts = {f"ours/{file.removeprefix('my/')}": body for file, body in examples("docs/extending.md", ("py",))}
    entries = ("ours/command/count.py", "ours/prediction_column/dimensions.py", "ours/prediction_output/md.py")
    members = {
        **{name: texts[name] for name in entries},
        "ours/__init__.py": "",
        "ours/about.yaml": "summary: sizes and counts\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: ours\nVersion: 1\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": "[avatar_bench.plugins]\nours = ours\n",
        f"{about}/RECORD": "",
    }
    write_zip(wheel, members)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target"]
    subprocess.run([*pip, str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


@pytest.mark.slow
def test_a_wheel_adds_a_command_a_column_and_an_output(tiny_run, images, tmp_path):
    file = tmp_path / "out.md"
    words = [f"ckpt={tiny_run}", f"input={images / 'blind'}", f"output={file}", "dimensions=true", "workers=0"]
    commands = [["list", "plugins"], ["--help"], ["count", "--help"], ["count", str(images / "blind.csv"), "by=label"]]
    commands += [["count", "by=lable"], ["predict", *words]]
    packages = [str(install_examples(tmp_path)), str(PLUGINS.parents[1])]
    ends = walk(commands, tmp_path, os.pathsep.join(packages))
    assert [code for code, _, _ in ends] == [0, 0, 0, 0, 2, 0], ends
    listed, helped, count_helped, counted, *_ = (out for _, out, _ in ends)
    assert "ours" in listed
    assert re.search(r"\n  count +Count the images of a manifest\n", helped)
    assert "by=label                            label | source | split; column to count by" in count_helped
    assert counted.count(" 14") == 3
    assert ends[4][2] == "by=lable: expected one of label, source, split\n"
    header, _rule, *rows = file.read_text(encoding="utf-8").splitlines()
    assert header.endswith("| dimensions |")
    assert len(rows) == 42
    assert all(re.search(r"\| \d+x\d+ \|$", row) for row in rows)


def test_a_plugin_is_listed_without_being_imported_and_named_where_it_cannot_be_used(tmp_path, monkeypatch, capsys):
    install(tmp_path, monkeypatch)
    taken = write_file(tmp_path / "greetings" / "command" / "train.py", "")
    with pytest.raises(ConfigError, match="avatar_bench already has a command train"):
        find_entries("command")
    taken.unlink()
    write_file(tmp_path / "greetings" / "command" / "greet.py", '"""greet: greet."""\n')
    assert main(["list", "plugins"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("hello ")]
    assert line.split(maxsplit=1)[1] == "greetings of all kinds"
    assert "greetings" not in sys.modules
    assert main(["greet"]) == 2
    assert "greet.py cannot be imported: RuntimeError: imported" in capsys.readouterr().err
    (tmp_path / "greetings" / "about.yaml").unlink()
    assert main(["list", "plugins"]) == 2
    assert "The package greetings is no plug-in" in capsys.readouterr().err


@pytest.mark.slow
def test_everything_else_works_without_plugins(small, tiny_run, images, tmp_path):
    root = tmp_path / "copy"
    for name in ("avatar_bench", "conf"):  # with its bytecode, but no file of it that is being written
        shutil.copytree(PLUGINS.parents[1] / name, root / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    for name in REQUESTS:
        shutil.rmtree(root / "avatar_bench" / "plugins" / name)
    shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    commands = [
        ["--help"],
        *(["list", kind] for kind in catalogue.LISTED_GROUPS),
        *([command, "--help"] for command in ("train", "evaluate", "predict", "export", "import")),
        ["predict", "ckpt=run", f"input={images / 'blind'}", "output=out.csv", "workers=0"],
        ["train", *small, "epochs=1", "out=new"],
        ["evaluate", "ckpt=run", "block=[blind_test,gradcam,out_of_domain]", "data.workers=0", "skip_unusable=true"]
        + [word for word in QUICK if word.split(".")[1] in ("blind_test", "gradcam", "out_of_domain")],
        ["report", "runs=run"],
    ]
    requests = [(name, words) for name, more in REQUESTS.items() for words in more]
    ends = walk([*commands, *(words for _, words in requests)], tmp_path, str(root))
    assert [code for code, _, _ in ends] == [0] * len(commands) + [2] * len(requests), ends
    for (name, words), (_, _, err) in zip(requests, ends[len(commands) :], strict=True):
        assert f"this is of the plug-in {name}, which is not part of this installation" in err, words
    shutil.rmtree(root / "avatar_bench" / "plugins")  # with the index of what they provide
    ((code, _, err),) = walk([["push"]], tmp_path, str(root))
    assert (code, err.splitlines()[0]) == (2, "push: no such command")

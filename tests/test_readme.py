"""Tests of the README and of some docs pages: every command runs and every example works."""

import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml

import avatar_bench
from avatar_bench.cli.app import main
from avatar_bench.config import catalogue
from avatar_bench.config.entries import find_entries, find_plugins, use_folders
from avatar_bench.results.declaration import declare_block
from tests.commands.conftest import blank_figures
from tests.commands.test_all_blocks import QUICK, QUICK_COMPARISONS

__all__ = ["blank_figures"]  # an example shows that it runs; figures have tests of their own

ROOT = Path(__file__).parents[1]
PAGES = (
    *("README.md", "docs/extending.md", "docs/views.md", "docs/commands/vary.md"),
    "docs/tutorial.md",  # last: its calibration would make a later evaluation of runs/ours refuse these images
)
IN_RUSSIAN = {"README.md": "README.ru.md", "docs/tutorial.md": "docs/tutorial.ru.md"}
SETUP = ["pip install .", "./scripts/demo", "./scripts/test"]  # run by test_wheel.py and test_scripts.py
SMALL = [  # shortens each training to seconds, unless the command sets the option
    *("data=folder", "data.root=photos", "data.image_size=32", "data.batch_size=4", "data.limit=60", "data.workers=0"),
    "data.split.folds=4",
    *("trainer=debug", "trainer.threads=1", "model.weights=none", "logger=none", "callbacks.progress=false"),
]
QUICK_AUDIT = [
    f"block.data_audit.{option}"
    for option in ("resamples=100", "folds=2", "limit=50", "equalised=false", "marks=false", "label_errors=false")
]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    bodies = [body for language, body in FENCE.findall(text) if language == "sh"]
    return [line.partition(" #")[0].strip() for line in "".join(bodies).splitlines()]


def examples(page, endings):
    """Yield the path and body of each example file; the path is the last one in backquotes before it."""
    text, end = (ROOT / page).read_text(encoding="utf-8"), 0
    for fence in FENCE.finditer(text):
        named = re.findall(r"`([\w/]+\.\w+)`", text[end : fence.start()])
        if named and named[-1].endswith(endings):
            yield named[-1], fence[2]
        end = fence.end()


def to_run():
    """Return the commands of all pages, those of the README as quick tests and all others as slow ones."""
    elsewhere = [*SETUP, "avatar-bench train sweep=nine_models"]
    lines = dict.fromkeys(line for page in PAGES for line in commands(page) if line not in elsewhere)
    of_readme = commands("README.md")
    return [pytest.param(line, marks=[] if line in of_readme else pytest.mark.slow) for line in lines]


def is_composed_alone(line, of_readme):
    """Return whether a line need not run: its options are ordinary ones, or it runs everything there is.

    Trainings, sweeps and block=all have tests of their own.
    """
    is_special = any(sign in line for sign in ("-cd", "_target_", "logger=[")) or line in of_readme
    is_ordinary = line.startswith("avatar-bench train") and not is_special
    return is_ordinary or any(sign in line for sign in (" -m ", "sweep=", "block=all"))


def made_quick(words):
    """Add fewer resamples and shorter timings of the blocks, and no worker processes, unless the command sets them."""
    blocks = next((word.removeprefix("block=") for word in words if word.startswith("block=")), "blind_test")
    parts = {word.partition("=")[0] for word in words}
    names = blocks.strip("[]").split(",")
    quick = [word for word in (*QUICK, *QUICK_COMPARISONS, *QUICK_AUDIT) if word.split(".")[1] in names]
    return words + [word for word in ("data.workers=0", *quick) if word.partition("=")[0] not in parts]


def made_small(words):
    """Add the options of a small training, unless the command sets them, and sweep over the first list alone."""
    parts = {word.partition("=")[0] for word in words}
    if "data" in parts:
        parts.add("data.root")
    swept = [word for word in words if "-m" in words and re.search(r"=\w+(,\w+)+$", word)]
    words = [word.partition(",")[0] if word in swept[1:] else word for word in words]
    return words + [word for word in SMALL if word.partition("=")[0] not in parts]


def made_few(words):
    """Let one avatar of each style be drawn and the audit be quick."""
    count = ["source.dicebear.count=1"] if any("dicebear" in word for word in words) else []
    return [*words, *QUICK_AUDIT, *count]


@pytest.fixture(scope="module")
def examples_folder(tiny_run, images, tmp_path_factory):
    """Folder with everything that the pages mention: images, manifests, yaml and two evaluated runs in runs/demo."""
    folder = tmp_path_factory.mktemp("readme")
    for name, source in (("all", "all"), ("blind", "blind"), ("photos", "blind")):
        shutil.copytree(images / source, folder / name)
    for manifest in ("all.csv", "blind.csv"):
        shutil.copy(images / manifest, folder)
    np.save(folder / "faces.npy", np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3), np.uint8))
    for model in ("efficientnet_lite0", "mobilenetv2"):
        shutil.copytree(tiny_run, folder / "runs" / "demo" / model)
    evaluation = [f"ckpt={folder / 'runs' / 'demo'}", "split=blind", "block=[blind_test,ensemble]", "data.workers=0"]
    assert main(["evaluate", *made_quick(evaluation)]) == 0
    for file, body in (example for page in PAGES for example in examples(page, ("yaml", "py"))):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(body, encoding="utf-8")
    return folder


@pytest.fixture
def _here(examples_folder, monkeypatch):
    monkeypatch.chdir(examples_folder)


def test_the_readme_begins_with_the_set_up():
    assert commands("README.md")[: len(SETUP)] == SETUP


def test_the_readme_has_at_most_120_lines():
    for page in ("README.md", "README.ru.md"):
        assert len((ROOT / page).read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize(("english", "russian"), IN_RUSSIAN.items())
def test_a_page_and_its_translation_hold_the_same_commands_and_examples(english, russian):
    pages = [FENCE.findall((ROOT / page).read_text(encoding="utf-8")) for page in (english, russian)]
    assert [kind for kind, _ in pages[0]] == [kind for kind, _ in pages[1]]
    assert commands(english) == commands(russian)
    examples_of_each = [[body for kind, body in page if kind != "sh"] for page in pages]
    assert examples_of_each[0] == examples_of_each[1]


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("line", to_run())
def test_every_command_runs(line, monkeypatch):
    program, command, *words = shlex.split(line)
    assert program == "avatar-bench"
    composed = []
    is_replaced = is_composed_alone(line, commands("README.md"))
    if is_replaced:
        monkeypatch.setattr(f"avatar_bench.commands.{command}.execute", lambda options: composed.append(options) or 0.0)
    if "ckpt=runs/ours" in words and not Path("runs/ours").exists():  # trained by a line of the README
        shutil.copytree("runs/demo/mobilenetv2", "runs/ours")
    small = {"train": made_small, "evaluate": made_quick, "prepare": made_few}
    assert main([command, *small.get(command, list)(words)]) == 0
    assert bool(composed) == is_replaced


@pytest.mark.usefixtures("_here")
def test_the_python_example_of_the_readme_runs(capsys):
    (body,) = [body for language, body in FENCE.findall((ROOT / "README.md").read_text()) if language == "python"]
    names = {}
    exec(body, names)
    assert list(names["table"]["status"]) == ["ok", "ok"]
    assert "value=" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("_here")
def test_the_examples_of_the_page_on_python_run_one_after_the_other(monkeypatch, capsys):
    small = {
        name.replace(".", "__"): yaml.safe_load(value) for name, _, value in (word.partition("=") for word in SMALL)
    }
    plain = avatar_bench.train
    monkeypatch.setattr(avatar_bench, "train", lambda **options: plain(**small | options))
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    names = {}
    for body in (body for language, body in FENCE.findall(text) if language == "python"):
        exec(body, names)
    assert names["figure"].axes
    assert list(names["rows"]["status"]) == ["ok"] * 42
    assert "splti: no such option; did you mean split?" in capsys.readouterr().out


def read_sections(page):
    """Return the sections of a page that hold commands, each as one test."""
    parts = (ROOT / page).read_text(encoding="utf-8").split("\n## ")[1:]
    return [pytest.param(part, id=part.partition("\n")[0]) for part in parts if "```sh" in part]


@pytest.mark.slow
@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("section", read_sections("docs/detectors.md"))
def test_the_examples_of_detectors_run_one_after_the_other(section):
    needed = ("transformers", "torch.onnx")
    for name, package in zip(needed, ("transformers", "onnxscript"), strict=True):
        if name in section and find_spec(package) is None:
            pytest.skip(f"needs {package}")
    end = 0
    for fence in FENCE.finditer(section):
        named, (language, body) = re.findall(r"`(my/[\w/]+\.\w+)`", section[end : fence.start()]), fence.groups()
        end = fence.end()
        if named:
            Path(named[-1]).parent.mkdir(parents=True, exist_ok=True)
            Path(named[-1]).write_text(body, encoding="utf-8")
        elif language == "python":
            exec(body, {})
        else:
            for line in body.splitlines():
                command, *words = shlex.split(line)[1:]
                blocks = "block=[blind_test,calibration]"  # of block=all, which has its own tests
                words = [blocks if word == "block=all" else word for word in words]
                assert main([command, *(made_quick(words) if command == "evaluate" else words)]) == 0, line


def test_every_link_to_a_file_leads_somewhere():
    pages = [ROOT / "README.md", ROOT / "README.ru.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not target.startswith("https://"):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_the_gallery_shows_figures_of_blocks_and_no_other_file():
    text = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    entry = r"^### .*\[(\w+)\]\((?:blocks|studies)/\1\.md[#\w-]*\), `(\w+)\.png`\n\n!\[.+\]\(images/gallery/\2\.png\)$"
    shown = re.findall(entry, text, re.MULTILINE)
    assert len(shown) == text.count("\n### ")
    with use_folders([ROOT / "studies" / "avatar_types"]):
        for block, figure in shown:
            assert declare_block(block).find_caption(figure) != figure.replace("_", " "), figure
    files = list((ROOT / "docs" / "images" / "gallery").iterdir())
    assert sorted(file.name for file in files) == sorted(f"{figure}.png" for _, figure in shown)
    assert max(file.stat().st_size for file in files) <= 60_000


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        (
            "commands",
            [name for name, entry in find_entries("command").items() if entry.package == "avatar_bench.commands"],
        ),
        ("plugins", list(find_plugins())),
        ("blocks", ["index", *catalogue.find_choices("block")]),
    ],
)
def test_every_command_plugin_and_block_has_its_page(folder, names):
    assert sorted(file.stem for file in (ROOT / "docs" / folder).glob("*.md")) == sorted(names)

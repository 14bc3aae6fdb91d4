"""Common first mistakes: each message says what to do."""

import shutil

import pytest
import torch
from huggingface_hub import constants

from avatar_bench.cli.app import main

TRAIN = ("train", "data=folder", "trainer=debug", "data.workers=0", "data.limit=60", "logger=none")


@pytest.fixture(scope="module")
def mistaken(images, tmp_path_factory):
    """A folder with the images of `all` in wrong layouts, and manifests of them in wrong formats."""
    root = tmp_path_factory.mktemp("mistaken")
    shutil.copytree(images / "all", root / "high" / "photos")
    for folder in ("beside", "beside/train", "parts/train", "parts/validation", "copies/train", "copies/val"):
        shutil.copytree(images / "blind", root / folder)
    (root / "flat").mkdir()
    for number, file in enumerate(sorted((root / "high").rglob("*.png"))):
        shutil.copy(file, root / "flat" / f"{number}.png")
    table = (images / "blind.csv").read_text(encoding="utf-8")
    (root / "semicolons.csv").write_text(table.replace(",", ";"), encoding="utf-8")
    (root / "windows.csv").write_text(table.replace("/", "\\"), encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("words", "code", "advice"),
    [
        ([*TRAIN, "data.root=flat"], 3, "Expected flat/<class>/<image>"),
        ([*TRAIN, "data.root=high"], 3, "If the folders in it are the classes: data.root=high/photos"),
        ([*TRAIN, r"data.root=.\high\photos"], 3, "Folders are separated by / here: ./high/photos"),
        ([*TRAIN, "data.root=beside"], 3, "beside has images in drawing beside those of train."),
        (["predict", "ckpt={run}", "input=flat", "output=windows.csv"], 5, "is there, and holds no predictions"),
        (["import", "kind=predictions", "columns=filename"], 2, "Write them in braces: 'columns={NAME: VALUE}'"),
        (["list", "runs=x"], 2, "list runs=x: no such kind; did you mean runs"),
        ([*TRAIN[:1], "data.root=high/photos"], 2, "Use both: data=folder data.root=high/photos"),
        ([*TRAIN, "data.root=parts"], 3, "Rename it to val, take one of them alone (root=parts/validation)"),
        (["prepare", "source=folder", "source.folder.root=parts", "out=x"], 3, "Rename it to val, take one of them"),
        ([*TRAIN, "data.root=copies"], 3, "Move or remove one of them, or split the images again: data.split.by=group"),
        (
            ["evaluate", "block=robustness", "block.robustness.severities=3"],
            2,
            "Write it in brackets: 'block.robustness.severities=[3]'",
        ),
        (["evaluate", "ckpt={run}", "trainer.threads=1"], 2, "trainer.threads: no such option; did you mean threads?"),
        (["predict", r"high\photos"], 2, "Folders are separated by / here: high/photos"),
        ([*TRAIN, "data=manifest", "data.manifest=windows.csv"], 3, "separated by / here: blind/drawing/"),
        (
            [*TRAIN, "data=manifest", "data.manifest=semicolons.csv"],
            3,
            "such as path,label, with commas between columns",
        ),
        (["predict", "semicolons.csv", "ckpt={run}"], 3, "Expected a header such as path,label."),
        ([*TRAIN, "data.root=high/photos", "trainer=gpu"], 2, "use trainer=cpu"),
        ([*TRAIN, "data.root=high/photos", "model=resnet18", "data.image_size=32"], 2, "choose model.weights=PATH"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(words, code, advice, mistaken, tiny_run, monkeypatch, capsys):
    monkeypatch.chdir(mistaken)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # no internet
    # the last value of an option counts
    given = {word.partition("=")[0]: word.replace("{run}", str(tiny_run)) for word in words}
    assert main(list(given.values())) == code
    err = capsys.readouterr().err.splitlines()
    assert any(advice in line for line in err[-3:])

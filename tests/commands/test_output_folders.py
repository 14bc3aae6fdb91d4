"""Folders that commands write to: what is in them is theirs, or they are refused before a file is touched."""

import pytest

from avatar_bench.cli.app import main
from tests.conftest import BACKBONE

FOREIGN = {  # what people have, under the names that commands write
    "config.yaml": "mine: true\n",
    "metrics.csv": "week,weight\n",
    "split.csv": "a,b\n",
    "checkpoints/best.ckpt": "weights of a month",
    "images/holiday.jpg": "a photo",
    "recipe.json": '["flour", "eggs"]',
    "run.json": '{"status": "marathon", "km": 42}',
}


def write(folder, contents):
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def read(folder):
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8") for file in files}


def make_words(command, images, small, tmp_path):
    data = ["data=manifest", f"data.manifest={images / 'blind.csv'}"]
    table = write(tmp_path, {"scores.csv": "path,score\n"}) / "scores.csv"
    own = {
        "train": [*small, "trainer=debug"],
        "pretrain": ["method=simclr", "model=timm", f"model.backbone={BACKBONE}", "model.weights=none", *data],
        "prepare": ["source=folder", f"source.folder.root={images / 'blind'}"],
        "vary": [*data, "size=32"],
        "import": ["kind=predictions", f"file={table}", "score=higher_is_real"],
    }
    return [command, *own[command]]


@pytest.mark.parametrize("command", ["train", "pretrain", "prepare", "vary", "import"])
def test_a_folder_of_other_files_is_refused_before_a_file_is_touched(command, images, small, tmp_path, capsys):
    words = make_words(command, images, small, tmp_path)
    out = write(tmp_path / "mine", FOREIGN)
    assert main([*words, f"out={out}"]) == 3
    assert capsys.readouterr().err.splitlines()[0] == f"out={out} holds other files, such as checkpoints."
    assert read(out) == FOREIGN
    assert main([*words, f"out={out / 'config.yaml'}"]) == 3
    assert f"out={out / 'config.yaml'} is a file." in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "scores.csv"]

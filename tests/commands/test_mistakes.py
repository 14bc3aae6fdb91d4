"""Mistakes of a user: each ends with its exit code and says what to do, in three lines at most, and writes nothing."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from huggingface_hub import constants

from avatar_bench.cli.app import main
from tests.builders.commands import change_record, data_of, write_manifest
from tests.conftest import BACKBONE

NET = ("train", "model=timm", "model.backbone=test_resnet", "model.weights=none", "out=run", "logger=none")
TRAIN = ("train", "data=folder", "trainer=debug", "data.workers=0", "data.limit=60", "logger=none")
ALL = (*NET, "data=folder", "data.root=high/photos")
EVALUATE = ("evaluate", "ckpt={run}")
OOD = (*EVALUATE, "block=out_of_domain")
PREDICT = ("predict", "ckpt={run}", "input=.", "output=o.csv")
CALIBRATE = ("calibrate", "ckpt={run}", "unit=source", *data_of("{images}/blind.csv"))
RAY = ("predict", "ckpt={run}", "input=.", "output=o.parquet", "engine=ray")
EXPORT = ("export", "ckpt={run}")
VARY = ("vary", "data=manifest", "data.manifest={images}/blind.csv", "out=varied")
REPORT = ("report", "runs=.")
FOREIGN = {  # what people have, under the names that commands write
    "config.yaml": "mine: true\n",
    "metrics.csv": "week,weight\n",
    "split.csv": "a,b\n",
    "checkpoints/best.ckpt": "weights of a month",
    "images/holiday.jpg": "a photo",
    "recipe.json": '["flour", "eggs"]',
    "run.json": '{"status": "marathon", "km": 42}',
}
RENAME = "Rename it to val, take one of them"
NO_SOURCE = "mode.balance=source: no image names its source."
LATE = ("choose model.weights=PATH", "'resnet18x'", "unfreeze=99", RENAME, NO_SOURCE)  # found once a folder is begun
OWN_SPLIT = "Move or remove one of them, or split the images again: data.split.by=group"


@pytest.fixture(scope="module")
def mistaken(images, tmp_path_factory):
    """A folder with images in wrong layouts, tables of them in wrong formats, and files of other kinds."""
    root = tmp_path_factory.mktemp("mistaken")
    shutil.copytree(images / "all", root / "high" / "photos")
    for folder in ("beside", "beside/train", "parts/train", "parts/validation", "copies/train", "copies/val"):
        shutil.copytree(images / "blind", root / folder)
    shutil.copytree(images / "blind" / "real", root / "single" / "real")
    for folder in ("empty", "flat", "weights.onnx", "odd/my cats", "few/test/drawing", "few/test/real"):
        (root / folder).mkdir(parents=True)
    for number, file in enumerate(sorted((root / "high").rglob("*.png"))):
        shutil.copy(file, root / "flat" / f"{number}.png")
    for label in ("drawing", "real"):
        shutil.copy(next((images / "blind" / label).rglob("*.png")), root / "few" / "test" / label)
    table = (images / "blind.csv").read_text(encoding="utf-8")
    texts = {
        "both.csv": "Path,path,label\na,b,c\n",
        "tabs.csv": table.replace(",", "\t"),
        "windows.csv": table.replace("/", "\\"),
        "page.txt": "",
    }
    texts |= {
        "list.txt": "page.txt\ns3://bucket/b.jpg\n",
        "taken.json": '{"name": "another"}',
        "weights.bin": "others",
        "net.onnx": "",
    }
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8")
    rows = pd.read_csv(images / "all.csv")
    french = rows["label"].replace({"real": "r\u00e9el"})
    is_odd = (french == "r\u00e9el") & (rows.index % 2 == 0)
    labels = {"some": rows["label"].mask(rows.index == 3, ""), "case": french.mask(is_odd, "R\u00c9EL")}
    tables = {name: rows.assign(label=column) for name, column in labels.items()}
    tables["unicode"] = rows.assign(label=french.mask(is_odd, "re\u0301el"))
    tables["sourceless"] = rows.drop(columns="source")
    tables["twice"] = pd.concat([rows, rows.head(1).assign(label="real")])
    tables["photo"] = rows.replace({"label": {"real": "photo"}})
    for name, table in tables.items():
        write_manifest(root / f"{name}.csv", table, images)
    numbers = rows["label"].map({"drawing": 0, "generated": 1, "real": -1}).astype("Int64")
    numbers[0] = None  # pandas reads the others as 0.0 and 1.0 then
    rows.assign(label=numbers, path=[str(images / path) for path in rows["path"]]).to_parquet(root / "minus.parquet")
    (root / "hollow").mkdir()
    (root / "hollow" / "painting").mkdir()
    for label in ("drawing", "real"):
        (root / "hollow" / label).symlink_to(images / "blind" / label)
    return root


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([*TRAIN, "data.root=flat"], 3, "Expected flat/<class>/<image>"),
        ([*TRAIN, "data.root=high"], 3, "If the folders in it are the classes: data.root=high/photos"),
        ([*TRAIN, r"data.root=.\high\photos"], 3, "Folders are separated by / here: ./high/photos"),
        ([*TRAIN, "data.root=beside"], 3, "beside has images in drawing beside those of train."),
        ([*TRAIN[:1], "data.root=high/photos"], 2, "Use both: data=folder data.root=high/photos"),
        ([*TRAIN, "data.root=parts"], 3, "Rename it to val, take one of them alone (root=parts/validation)"),
        ([*TRAIN, "data.root=copies"], 3, OWN_SPLIT),
        ([*TRAIN, *data_of("windows.csv")], 3, "separated by / here: blind/drawing/"),
        ([*TRAIN, *data_of("both.csv")], 3, "both.csv has the column path twice"),
        ([*TRAIN, "data.root=high/photos", "out=high/photos/run"], 2, "is in high/photos, and would be taken for some"),
        (["predict", "input=high", "ckpt={run}", "explain=high/maps"], 2, "explain=high/maps is in high, and would be"),
        ([*TRAIN, "data.root=high/photos", "trainer=gpu"], 2, "use trainer=cpu"),
        ([*TRAIN, "data.root=high/photos", "model=resnet18", "data.image_size=32"], 2, "choose model.weights=PATH"),
        ([*ALL, "data.root=empty"], 3, "empty contains no images in class folders"),
        ([*ALL, "data.root=nowhere"], 3, "nowhere is not a folder"),
        ([*ALL, "data.root=some.csv"], 3, "a table of images is data=manifest"),
        ([*ALL, "data.blind=nowhere"], 3, "data.blind: nowhere does not exist"),
        ([*NET, *data_of("empty")], 3, "empty is a folder"),
        ([*ALL, "data.root=single"], 3, "single has only one class, 'real'"),
        ([*ALL, "data.root=hollow"], 3, "painting"),
        ([*NET, *data_of("some.csv")], 3, "some.csv, line 5: "),
        ([*NET, *data_of("minus.parquet")], 3, "has no label (65 such images of 192)"),
        ([*NET, *data_of("case.csv")], 3, "differ only in case"),
        ([*NET, *data_of("unicode.csv")], 3, "invisible characters or the normal form of Unicode"),
        ([*NET, *data_of("twice.csv")], 3, "An image has one true class"),
        ([*NET, *data_of("sourceless.csv"), "mode.balance=source"], 2, NO_SOURCE),
        ([*NET, *data_of("sourceless.csv"), "data.split.val_by=source"], 3, "class 'drawing' has too few sources"),
        ([*NET, *data_of("some.csv"), "data.split.by=date"], 2, "data.split.until"),
        ([*NET, *data_of("some.csv"), "data.split.until=2024"], 2, "data.split.until"),
        ([*NET, *data_of("some.csv"), "data.split.by=date", "data.split.until=2024-1"], 2, "data.split.until"),
        ([*ALL, "data.root=few", "data.blind={images}/blind"], 3, "data.blind has class 'generated'"),
        ([*ALL, "model.backbone=resnet18x"], 2, "'resnet18x'"),
        ([*ALL, "init_from=nowhere"], 4, "nowhere"),
        ([*ALL, "init_from=hf:me/run"], 4, "is an address, but the images of the run and their split are needed"),
        (["predict", "ckpt=net.onnx", "input=."], 4, "import kind=onnx file=net.onnx"),
        ([*EVALUATE, "block=overview", "out=fresh"], 3, "block=[blind_test,overview]"),
        ([*ALL, "mode.stages=[{unfreeze: 99, epochs: 1, lr: 1}]"], 2, "unfreeze=99"),
        ([*ALL, "data.workers=100000"], 2, "from 0 to 256 processes"),
        ([*ALL, "seed=99999999999999999999999"], 2, "from 0 to 4294967295"),
        ([*ALL, "trainer.accelerator=os"], 2, "auto, cpu, gpu"),
        ([*ALL, "+trainer.plugins.mine=x"], 2, "trainer.plugins.mine=x: expected {_target_"),
        (["train", "resume={run}", "epochs=9"], 2, "epochs=9"),
        (["train", "resume=empty"], 4, "empty"),
        (["pretrain", *ALL[1:], "trainer.accelerator=cuda"], 2, "torch finds no GPU here"),
        (["prepare", "source=folder", "source.folder.root=parts", "out=x"], 3, RENAME),
        (
            ["prepare", "source=manifest", "source.manifest.file=some.csv", "+source.manifest.date='3'", "out=x"],
            2,
            "source.manifest.date=3: expected YYYY",
        ),
        (["import", "kind=predictions", "columns=filename"], 2, "Write them in braces: 'columns={NAME: VALUE}'"),
        (["list", "runs=x"], 2, "list runs=x: no such kind; did you mean runs"),
        (["evaluate", "ckpt=nowhere"], 4, "ckpt=nowhere does not exist"),
        (["evaluate", "ckpt=empty"], 4, "is not a run and contains none"),
        (["evaluate", "ckpt=[{run},{run}/checkpoints/..]", "block=significance"], 2, "is given twice"),
        (["evaluate", "block=[calibration,robustnes]"], 2, "did you mean robustness?"),
        (["evaluate", "block=robustness", "block.robustness.severities=3"], 2, "'block.robustness.severities=[3]'"),
        ([*EVALUATE, "split=blnd"], 2, "split=blnd"),
        ([*EVALUATE, "split=train"], 2, "do not estimate performance on new ones"),
        ([*EVALUATE, "data=folder", "data.root=nowhere"], 3, "nowhere is not a folder"),
        ([*EVALUATE, *data_of("photo.csv")], 3, "drawing, generated, real"),
        ([*EVALUATE, "data.image_size=64"], 3, "data.image_size=64"),
        (
            [*EVALUATE, "data.equalise=jpeg"],
            3,
            "`data.equalise=jpeg` conflicts with the checkpoint (trained with `None`)",
        ),
        ([*EVALUATE, "where.source=nobody"], 2, "Available: "),
        ([*EVALUATE, "trainer.threads=1"], 2, "trainer.threads: no such option; did you mean threads?"),
        ([*EVALUATE, "view=nope"], 2, "no such view"),
        ([*EVALUATE, "view=all", "view.classes={a: [real]}"], 2, "Expected at least two"),
        ([*EVALUATE, "view=generated_or_not", "block=gradcam"], 3, "this block needs those of the network"),
        ([*OOD, "data.ood={my cats: x}"], 2, "'my cats'"),
        ([*OOD, "data.ood={x}"], 2, "'x'"),
        ([*OOD, "data.ood={cats: /no}"], 3, "data.ood.cats: /no does not exist"),
        ([*OOD, "data.ood={test: x}"], 2, "data.ood={'test': 'x'}: expected names"),
        ([*OOD, "data.ood_root=odd"], 2, "'my cats' is not a valid name"),
        ([*OOD, "data.ood_root=/no"], 3, "/no: cannot be read"),
        ([*CALIBRATE, "unit=image", "beta=.2"], 2, "require unit=source"),
        ([*CALIBRATE, "per_class=true", "target_error=.1"], 2, "all classes of a source together"),
        ([*CALIBRATE, "folds=runs"], 2, "its networks have images of their own"),
        ([*CALIBRATE, "beta=1.5"], 2, "between 0 and 1"),
        ([*PREDICT, "ckpt=nowhere"], 4, "ckpt=nowhere does not exist"),
        ([*PREDICT, "evidence=ture"], 2, "evidence.enabled: expected true or false, got ture"),
        ([*PREDICT, "target_error=1.5"], 2, "between 0 and 1"),
        ([*PREDICT, "target_error=.05", "costs=costs.yaml"], 2, "exclude each other"),
        ([*PREDICT, "target_error=.05", "runtime=onnx"], 2, "needs embeddings"),
        ([*PREDICT, "target_error=.05", "precision=bf16"], 2, "precision=bf16"),
        ([*PREDICT, "target_error=.05", "calibrated=false"], 2, "calibrated=False"),
        ([*PREDICT, "per_class=true"], 2, "requires target_error"),
        ([*PREDICT, "alpha=.2"], 2, "requires target_error, false_alarms or costs"),
        ([*PREDICT, "costs=nowhere.yaml"], 2, "nowhere.yaml cannot be read"),
        ([*PREDICT, "input=nothing*"], 3, "matches no file"),
        ([*PREDICT, "input=@nothing"], 3, "@nothing"),
        ([*PREDICT, "input=empty"], 3, "contains no files"),
        (["predict", r"high\photos"], 2, "Folders are separated by / here: high/photos"),
        (["predict", "both.csv", "ckpt={run}"], 3, "both.csv has the column path twice"),
        (["predict", "tabs.csv", "ckpt={run}"], 3, "Expected a header such as path,label."),
        (["predict", "page.txt", "{run}", "output=o.csv"], 2, "is a run, not a folder of images"),
        ([*PREDICT, "output=page.txt/o.csv"], 5, "its folder cannot be created"),
        ([*PREDICT, "input=flat", "output=windows.csv"], 5, "is there, and holds no predictions"),
        ([*PREDICT, "output=empty"], 2, ".parquet"),
        ([*PREDICT, "precision=16"], 2, "precision=16 needs a GPU"),
        ([*PREDICT, "accelerator=gpu"], 2, "torch finds no GPU here"),
        ([*PREDICT, "threads=100000"], 2, "from 1 to 1024 threads"),
        ([*PREDICT, "runtime=tvm"], 2, "one of auto, torch, onnx, openvino"),
        ([*PREDICT, "runtime=torch", "precision=int8"], 2, "runtime=torch supports"),
        ([*PREDICT, "runtime=onnx", "precision=bf16"], 2, "runtime=onnx supports 32"),
        ([*PREDICT, "runtime=openvino", "precision=16"], 2, "runtime=openvino supports 32, bf16 or int8"),
        ([*PREDICT, "runtime=openvino", "accelerator=gpu"], 2, "on the CPU"),
        ([*PREDICT, "engine.actors=2"], 2, "requires engine=ray"),
        ([*PREDICT, "input=s3://b/k"], 2, "remote files are for engine=ray"),
        ([*PREDICT, "input=@list.txt"], 2, "there is engine=ray"),
        ([*PREDICT, "engine=ray"], 2, "ends in .parquet"),
        ([*RAY, "workers=2"], 2, "remove workers"),
        ([*RAY, "engine.actors=[3,2]"], 2, "[LEAST,MOST]"),
        (RAY, 2, "avatar-bench[ray]"),
        ([*EXPORT, "out=net.pt"], 2, ".safetensors, .onnx, .xml or .html"),
        ([*EXPORT, "out=weights.xml"], 2, "weights.bin"),
        ([*EXPORT, "out=taken.onnx"], 2, "taken.json"),
        ([*EXPORT, "out=weights.onnx"], 5, "cannot be written"),
        (VARY, 2, "expected ckpt=RUN, size=PIXELS, or at=native"),
        ([*VARY, "size=32", "ckpt=RUN"], 2, "ckpt excludes size and resize"),
        ([*VARY, "size=32", "block=calibration"], 2, "vary writes the images of robustness"),
        (["vary", "data=run", "size=32", "out=varied"], 2, "data=run requires ckpt=RUN"),
        (["report", "runs=nowhere"], 3, "there is no such folder"),
        (["report", "runs="], 2, "runs= is empty"),
        ([*REPORT, "lang=de"], 2, "lang=de: expected en or ru"),
        ([*REPORT, "out=page.pdf"], 2, "out=page.pdf: expected a file that ends in .html, .htm or .tex"),
    ],
)
def test_a_mistake_is_explained_in_three_lines_and_writes_no_output(
    words, code, message, mistaken, images, tiny_run, monkeypatch, capsys
):
    monkeypatch.chdir(mistaken)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # no internet
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    before = {path.name for path in mistaken.iterdir()}
    words = [word.replace("{run}", str(tiny_run)).replace("{images}", str(images)) for word in words]
    assert main(list({word.partition("=")[0]: word for word in words}.values())) == code  # the last value counts
    err = capsys.readouterr().err.splitlines()
    if words[0] in ("train", "pretrain", "prepare"):  # they describe the data first
        err = [line for line in err if not re.match(r"  |\d+ images of|warning: class ", line)]
    assert message in "\n".join(err)
    assert len(err) <= 3
    written = {path.name for path in mistaken.iterdir()} - before
    for name in written:
        shutil.rmtree(mistaken / name)
    assert not written or message in LATE


@pytest.mark.parametrize("name", ["train", "pretrain", "prepare", "vary", "import"])
def test_a_folder_of_other_files_is_refused_before_a_file_is_touched(name, images, small, tmp_path, command):
    data, scores, out = data_of(images / "blind.csv"), tmp_path / "scores.csv", tmp_path / "mine"
    scores.write_text("path,score\n", encoding="utf-8")
    words = {
        "train": [*small, "trainer=debug"],
        "pretrain": ["method=simclr", "model=timm", f"model.backbone={BACKBONE}", "model.weights=none", *data],
        "prepare": ["source=folder", f"source.folder.root={images / 'blind'}"],
        "vary": [*data, "size=32"],
        "import": ["kind=predictions", f"file={scores}", "score=higher_is_real"],
    }[name]
    for path, text in FOREIGN.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_text(text, encoding="utf-8")
    err = command(name, *words, f"out={out}", code=3).err
    assert err.splitlines()[0] == f"out={out} holds other files, such as checkpoints."
    assert f"out={out / 'config.yaml'} is a file." in command(name, *words, f"out={out / 'config.yaml'}", code=3).err
    files = {file.relative_to(out).as_posix(): file.read_text() for file in out.rglob("*") if file.is_file()}
    assert files == FOREIGN
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "scores.csv"]


def test_what_commands_wrote_among_images_is_left_out_and_named(tiny_run, images, tmp_path, monkeypatch, command):
    monkeypatch.chdir(shutil.copytree(images / "all", tmp_path / "photos"))
    for folder in ("runs/first", "real/second"):
        shutil.copytree(tiny_run, folder)
    predict = ("predict", f"ckpt={tiny_run}", "input=.", "workers=0")
    for output in ("a.csv", "b.html", "c.csv"):
        said = command(*predict, f"output={output}")
        assert f"{output}: 192 predictions, 0 files that could not be read" in said.out
        assert "are no images: " in said.err
    words = (*TRAIN, "model=timm", f"model.backbone={BACKBONE}", "model.weights=none", "data.root=.")
    said = command(*words, "data.image_size=32", "allow=[shortcut]")
    assert "left out, as runs or results of avatar-bench: ./runs/first" in said.err.replace(": runs", ": ./runs")
    assert "second" in said.err
    assert not any("curves" in file.read_text() for file in Path("runs").rglob("split.csv"))


def test_a_working_folder_of_images_takes_its_first_run(images, tmp_path, monkeypatch, command):
    shutil.copytree(images / "all", tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    words = (*TRAIN, "model=timm", f"model.backbone={BACKBONE}", "model.weights=none", "data.root=.")
    said = command(*words, "data.image_size=32", "allow=[shortcut]")
    assert "left out, as runs or results of avatar-bench" in said.err
    assert sorted(path.name for path in Path().iterdir()) == ["drawing", "generated", "real", "runs"]


def test_predictions_do_not_replace_the_table_that_they_are_made_of(tiny_run, tmp_path, command):
    table = tmp_path / "p.csv"
    table.write_text("path\na.png\n")
    assert "is the input" in command("predict", f"ckpt={tiny_run}", str(table), f"output={table}", code=2).err
    assert table.read_text() == "path\na.png\n"


def test_a_finished_training_without_its_history_is_not_resumed(run_copy, command):
    change_record(run_copy, status="interrupted")
    (run_copy / "metrics.csv").unlink()
    assert "metrics.csv is missing" in command("train", f"resume={run_copy}", code=4).err


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_table_may_write_its_columns_in_any_case_and_with_semicolons(separator, tiny_run, images, tmp_path, command):
    table = pd.read_csv(images / "blind.csv").rename(columns={"path": "Path", "label": "LABEL", "source": "Source"})
    table["Path"] = [str(images / path) for path in table["Path"]]
    table.to_csv(tmp_path / "excel.csv", sep=separator, index=False, encoding="utf-8-sig")
    words = ("block=blind_test", "data.workers=0", "block.blind_test.resamples=100")
    data = data_of(tmp_path / "excel.csv")
    said = command("evaluate", f"ckpt={tiny_run}", *data, *words, f"out={tmp_path / 'out'}")
    assert "(n = 42" in said.out
    said = command("predict", f"ckpt={tiny_run}", f"input={tmp_path / 'excel.csv'}", f"output={tmp_path / 'o.csv'}")
    assert "42 predictions, 0 files" in said.out


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_commands_work_where_standard_streams_are_closed(closed, tmp_path):
    python = f"{sys.executable} -m avatar_bench"
    assert subprocess.run(["bash", "-c", f"{python} list modes {closed}"], check=False).returncode == 0
    predict = f"{python} predict ckpt=none input=- output={tmp_path}/o.csv {closed}"
    assert subprocess.run(["bash", "-c", predict], check=False).returncode == 4

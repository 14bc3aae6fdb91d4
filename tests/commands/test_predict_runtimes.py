"""Tests of predict with exported runtimes: the same predictions as torch, from a network exported once."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from avatar_bench.cli.app import main
from avatar_bench.inference import autotune
from avatar_bench.inference.runtimes import find_missing_package
from avatar_bench.runs.ensembles import save_ensemble
from avatar_bench.runs.run import Run

if find_missing_package("onnx") or find_missing_package("openvino"):
    pytest.skip("the extras export and openvino are not installed", allow_module_level=True)

PROBABILITIES = ["prob_drawing", "prob_generated", "prob_real"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of their own, for all tests here."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVATAR_BENCH_CACHE", str(folder))
        yield folder


def predict_table(ckpt, images, output, *words):
    given = ["predict", f"ckpt={ckpt}", f"input={images / 'blind'}", f"output={output}", "workers=0", *words]
    assert main(given) == 0
    return pd.read_csv(output)


def apart(one, other):
    assert list(one["path"]) == list(other["path"])
    return float(np.abs(one[PROBABILITIES] - other[PROBABILITIES]).to_numpy().max())


@pytest.fixture(scope="module")
def plain(tiny_run, images, tmp_path_factory):
    """Return the predictions of torch."""
    return predict_table(tiny_run, images, tmp_path_factory.mktemp("plain") / "torch.csv", "precision=32")


@pytest.mark.parametrize("words", [["runtime=onnx"], ["runtime=openvino", "threads=1"]])
def test_an_exported_runtime_predicts_like_torch(words, plain, tiny_run, images, tmp_path):
    table = predict_table(tiny_run, images, tmp_path / "other.csv", "precision=32", "batch_size=5", *words)
    assert apart(table, plain) < 1e-4


def test_bf16_is_close(plain, tiny_run, images, tmp_path):
    table = predict_table(tiny_run, images, tmp_path / "bf16.csv", "runtime=openvino", "precision=bf16")
    assert 0 < apart(table, plain) < 0.05


def test_int8_says_each_time_how_often_it_agrees(tiny_run, images, tmp_path, capsys):
    n = len(Run.open(tiny_run).dataset("calibration"))
    tables, printed = [], []
    for name in ("first.csv", "second.csv"):
        tables.append(predict_table(tiny_run, images, tmp_path / name, "runtime=openvino", "precision=int8"))
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == 1
        printed.append([line for line in err.splitlines() if line.startswith("precision=int8: ")])
    assert tables[0].equals(tables[1])
    assert printed[0] == printed[1]
    assert f" of {n} predictions" in printed[0][0]


def test_a_network_that_is_kept_needs_neither_timm_nor_lightning(tiny_run, images, tmp_path, cache):
    words = ["runtime=openvino", "precision=32"]
    first = predict_table(tiny_run, images, tmp_path / "first.csv", *words)
    kept = sorted((cache / "networks").iterdir())
    given = ["predict", f"ckpt={tiny_run}", f"input={images / 'blind'}", f"output={tmp_path / 'again.csv'}"]
    code = f"import sys; from avatar_bench.cli.app import main; assert main({[*given, *words]}) == 0; "
    code += "print({'timm', 'pytorch_lightning', 'onnx', 'onnxscript', 'nncf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert pd.read_csv(tmp_path / "again.csv").equals(first)
    assert sorted((cache / "networks").iterdir()) == kept


def test_an_ensemble_and_a_soup_answer_by_their_members_engines(tiny_run, images, tmp_path):
    run = Run.open(tiny_run)
    member = {"run": str(tiny_run), "checkpoint_sha256": run.checkpoint_sha256, "weight": 0.5, "temperature": 1.2}
    for kind in ("soup", "ensemble"):
        said = {"kind": kind, "members": [member, member], "temperature": 1.5, "classes": list(run.classes)[::-1]}
        said |= {"classes": list(run.classes)} if kind == "soup" else {}
        folder = save_ensemble(tmp_path / kind, said)
        plain = predict_table(folder, images, tmp_path / "torch.csv", "precision=32")
        assert (
            apart(predict_table(folder, images, tmp_path / "o.csv", "runtime=openvino", "precision=32"), plain) < 1e-4
        )


def test_an_output_of_torch_is_gone_on_with(tiny_run, images, tmp_path):
    whole = predict_table(tiny_run, images, tmp_path / "out.csv", "precision=32")
    lines = (tmp_path / "out.csv").read_text().splitlines(keepends=True)
    (tmp_path / "out.csv").write_text("".join(lines[:20]))
    words = ("runtime=openvino", "precision=32", "update=true")
    assert apart(predict_table(tiny_run, images, tmp_path / "out.csv", *words), whole) < 1e-4


WRONG = """import numpy as np

from avatar_bench.inference.runtimes import ExportedNetwork


def export_network(classifier, size):
    return ExportedNetwork(b"nothing")


def load_engine(network, threads, precision):
    return lambda images: np.zeros((len(images), 3), dtype=np.float32)
"""


def test_auto_compares_the_runtimes_once_and_takes_none_that_disagrees(tiny_run, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "my" / "runtime").mkdir(parents=True)
    (tmp_path / "my" / "runtime" / "wrong.py").write_text(WRONG)  # by far the fastest
    given = (tiny_run, images, tmp_path / "o.csv", "-cd", str(tmp_path / "my"), "precision=32")

    def predict_and_tell():
        table, err = predict_table(*given), capsys.readouterr().err
        return (
            table,
            "comparing torch, onnx, openvino, wrong" in err,
            err.partition("Computed with runtime=")[2].split()[0],
        )

    few, has_compared, chosen = predict_and_tell()
    assert (has_compared, chosen) == (False, "torch")
    monkeypatch.setattr(autotune, "FEWEST_FILES", 2)
    table, has_compared, chosen = predict_and_tell()
    assert has_compared
    assert apart(table, few) < 1e-4
    (trial,) = (file for file in (tmp_path / "cache/trials").glob("*.json") if "seen" in file.read_text())
    kept = json.loads(trial.read_text())
    assert kept["runtime"] == chosen != "wrong"
    assert [words for words, one in kept["seen"].items() if one["equal_classes"] == 1] == [
        "runtime=torch precision=32",
        "runtime=onnx precision=32",
        "runtime=openvino precision=32",
    ]
    assert kept["seen"]["runtime=wrong precision=32"]["equal_classes"] < 0.99
    assert "seconds" not in kept["seen"]["runtime=wrong precision=32"]
    for other in ("openvino", "onnx"):  # as if the trial had come out otherwise
        trial.write_text(json.dumps(kept | {"runtime": other}))
        assert predict_and_tell()[1:] == (False, other)
    trial.write_text('{"runtime": "nowhere"}')
    assert predict_and_tell()[1]


def test_auto_is_torch_for_a_checkpoint_without_calibration_images(tiny_run, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(autotune, "FEWEST_FILES", 1)
    alone = Path(shutil.copy(tiny_run / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt"))
    predict_table(alone, images, tmp_path / "o.csv")
    assert "Computed with runtime=torch" in capsys.readouterr().err
    predict_table(tiny_run, images, tmp_path / "o.csv", "precision=int8")  # torch has no int8
    assert "Computed with runtime=openvino precision=int8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["runtime=tvm"], 2, "one of auto, torch, onnx, openvino"),
        (["runtime=onnx", "precision=bf16"], 2, "runtime=onnx supports 32"),
        (["precision=16"], 2, "precision=16 needs a GPU"),
        (["accelerator=gpu"], 2, "torch finds no GPU here"),
        (["threads=100000"], 2, "from 1 to 1024 threads"),
        (["runtime=openvino", "precision=16"], 2, "runtime=openvino supports 32, bf16 or int8"),
        (["runtime=torch", "precision=int8"], 2, "runtime=torch supports"),
        (["runtime=openvino", "accelerator=gpu"], 2, "on the CPU"),
        (["runtime=openvino", "precision=int8", "ckpt=alone.ckpt"], 2, "takes value ranges from calibration images"),
    ],
)
def test_a_mistake_is_told_in_three_lines_at_most(words, code, told, tiny_run, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))  # which does not know the checkpoint yet
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    shutil.copy(tiny_run / "checkpoints" / "best.ckpt", "alone.ckpt")
    given = [f"ckpt={tiny_run}", f"input={images / 'blind'}", "output=o.csv", "workers=0", *words]
    assert main(["predict", *given]) == code
    err = capsys.readouterr().err
    assert told in err
    assert len(err.splitlines()) <= 3
    assert not Path("o.csv").exists()


def test_a_missing_package_is_named_with_its_extra(tiny_run, images, tmp_path, monkeypatch, capsys):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "openvino" else real(name, *rest)
    )
    words = [f"ckpt={tiny_run}", f"input={images / 'blind'}", f"output={tmp_path / 'o.csv'}", "runtime=openvino"]
    assert main(["predict", *words]) == 2
    assert "runtime=openvino needs openvino" in (err := capsys.readouterr().err)
    assert "avatar-bench[openvino]" in err

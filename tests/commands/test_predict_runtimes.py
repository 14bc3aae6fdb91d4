"""predict with exported runtimes: the same predictions as torch, from a network exported once."""

import json
import shutil
import subprocess
import sys

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
OPENVINO = ("runtime=openvino", "precision=32")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of their own, for all tests here."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVATAR_BENCH_CACHE", str(folder))
        yield folder


def predict_table(ckpt, images, output, *words):
    line = ["predict", f"ckpt={ckpt}", f"input={images / 'blind'}", f"output={output}", "workers=0", *words]
    assert main(line) == 0
    return pd.read_csv(output)


def distance(table, other):
    assert list(table["path"]) == list(other["path"])
    return float(np.abs(table[PROBABILITIES] - other[PROBABILITIES]).to_numpy().max())


@pytest.fixture(scope="module")
def plain(tiny_run, images, tmp_path_factory):
    """Return the predictions of torch."""
    return predict_table(tiny_run, images, tmp_path_factory.mktemp("plain") / "torch.csv", "precision=32")


@pytest.mark.slow
def test_an_exported_runtime_predicts_like_torch_and_continues_its_output(plain, tiny_run, images, tmp_path):
    output = tmp_path / "out.csv"
    for words in (["runtime=onnx"], ["runtime=openvino", "threads=1"]):
        table = predict_table(tiny_run, images, output, "precision=32", "batch_size=5", *words)
        assert distance(table, plain) < 1e-4
    table = predict_table(tiny_run, images, output, "runtime=openvino", "precision=bf16")
    assert 0 < distance(table, plain) < 0.05
    predict_table(tiny_run, images, output, "precision=32")
    lines = output.read_text().splitlines(keepends=True)
    output.write_text("".join(lines[:20]))
    assert distance(predict_table(tiny_run, images, output, *OPENVINO, "update=true"), plain) < 1e-4


@pytest.mark.slow
def test_a_network_that_is_kept_needs_neither_timm_nor_lightning(tiny_run, images, tmp_path, cache):
    first = predict_table(tiny_run, images, tmp_path / "first.csv", *OPENVINO)
    kept = sorted((cache / "networks").iterdir())
    words = ["predict", f"ckpt={tiny_run}", f"input={images / 'blind'}", f"output={tmp_path / 'again.csv'}", *OPENVINO]
    code = f"import sys; from avatar_bench.cli.app import main; assert main({words}) == 0; "
    code += "print({'timm', 'pytorch_lightning', 'onnx', 'onnxscript', 'nncf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert pd.read_csv(tmp_path / "again.csv").equals(first)
    assert sorted((cache / "networks").iterdir()) == kept


@pytest.mark.slow
def test_an_ensemble_and_a_soup_predict_by_the_engines_of_their_members(tiny_run, images, tmp_path):
    run = Run.open(tiny_run)
    member = {"run": str(tiny_run), "checkpoint_sha256": run.checkpoint_sha256, "weight": 0.5, "temperature": 1.2}
    classes = list(run.classes)
    for kind, names in (("soup", classes), ("ensemble", classes[::-1])):
        description = {"kind": kind, "members": [member, member], "temperature": 1.5, "classes": names}
        folder = save_ensemble(tmp_path / kind, description)
        plain = predict_table(folder, images, tmp_path / "torch.csv", "precision=32")
        assert distance(predict_table(folder, images, tmp_path / "o.csv", *OPENVINO), plain) < 1e-4


WRONG = """import numpy as np

from avatar_bench.inference.runtimes import ExportedNetwork


def export_network(classifier, size):
    return ExportedNetwork(b"nothing")


def load_engine(network, threads, precision):
    return lambda images: np.zeros((len(images), 3), dtype=np.float32)
"""


@pytest.mark.slow
def test_auto_compares_the_runtimes_once_and_takes_none_that_disagrees(tiny_run, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "my" / "runtime").mkdir(parents=True)
    (tmp_path / "my" / "runtime" / "wrong.py").write_text(WRONG)  # by far the fastest
    words = (tiny_run, images, tmp_path / "o.csv", "-cd", str(tmp_path / "my"), "precision=32")

    def predict_and_read():
        table, err = predict_table(*words), capsys.readouterr().err
        runtime = err.partition("Computed with runtime=")[2].split()[0]
        return table, "comparing torch, openvino, wrong," in err, runtime

    few, has_compared, runtime = predict_and_read()
    assert (has_compared, runtime) == (False, "torch")
    monkeypatch.setattr(autotune, "FEWEST_FILES", 2)
    table, has_compared, runtime = predict_and_read()
    assert has_compared
    assert distance(table, few) < 1e-4
    (trial,) = (file for file in (tmp_path / "cache/trials").glob("*.json") if "seen" in file.read_text())
    kept = json.loads(trial.read_text())
    assert kept["runtime"] == runtime != "wrong"
    equal = [option for option, seen in kept["seen"].items() if seen["equal_classes"] == 1]
    assert equal == [f"runtime={name} precision=32" for name in ("torch", "openvino")]  # faster than onnx
    wrong = kept["seen"]["runtime=wrong precision=32"]
    assert wrong["equal_classes"] < 0.99
    assert "seconds" not in wrong
    for other in ("openvino", "torch"):  # as if the trial had come out otherwise
        trial.write_text(json.dumps(kept | {"runtime": other}))
        assert predict_and_read()[1:] == (False, other)
    trial.write_text('{"runtime": "nowhere"}')
    assert predict_and_read()[1]


@pytest.mark.slow
def test_auto_is_torch_for_a_checkpoint_without_calibration_images(tiny_run, images, tmp_path, monkeypatch, command):
    monkeypatch.setattr(autotune, "FEWEST_FILES", 1)
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))  # which does not know the checkpoint yet
    bare = shutil.copy(tiny_run / "checkpoints" / "best.ckpt", tmp_path / "bare.ckpt")
    words = ["predict", f"input={images / 'blind'}", f"output={tmp_path / 'o.csv'}", "workers=0"]
    err = command(*words, f"ckpt={bare}").err
    assert "Computed with runtime=torch" in err
    assert "calibration images are missing; runtime=openvino may be faster" in err
    err = command(*words, f"ckpt={bare}", "runtime=openvino", "precision=int8", code=2).err
    assert "takes value ranges from calibration images" in err
    err = command(*words, f"ckpt={tiny_run}", "precision=int8").err  # torch has no int8
    assert "Computed with runtime=openvino precision=int8" in err

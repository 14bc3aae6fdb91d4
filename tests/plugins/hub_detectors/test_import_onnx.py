"""import of ONNX networks: ours without options, those of others as they state their inputs and outputs."""

import json
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import expit, softmax

from avatar_bench.cli.app import main
from avatar_bench.data.dataset import read_manifest
from avatar_bench.data.equalise import resize_to_square
from avatar_bench.runs.ensembles import open_run
from avatar_bench.runs.run import Run

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CLASSES = ["drawing", "generated", "real"]
WEIGHTS = np.array([[3.0, -1, 0], [0, 2, -2], [-1, 0, 1]], np.float32)
STATED = ["size=24", "resize=pad", "mean=[.5,.4,.3]", "std=[.2,.3,.4]", "range=1", "output=logits"]
NAMES = f"names=[{','.join(CLASSES)}]"
BLOCKS = ("blind_test", "calibration", "error_bias", "prior_shift", "robustness")


def build(file, layout="NCHW", n=3, domain="", outside="", shape=()):
    """Write a network that multiplies the mean colour by WEIGHTS."""
    helper, numbers = onnx.helper, onnx.TensorProto.FLOAT
    sides = shape or (("n", 3, "s", "s") if layout == "NCHW" else ("n", "s", "s", 3))
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    weights = onnx.numpy_helper.from_array(np.ascontiguousarray(WEIGHTS[:, :n]), "weights")
    if outside:
        onnx.external_data_helper.set_external_data(weights, outside)
        (file.parent / outside).write_bytes(weights.raw_data)
        weights.ClearField("raw_data")
        weights.data_location = onnx.TensorProto.EXTERNAL
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["found"], domain=domain),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("pixels", numbers, sides)],
        [helper.make_tensor_value_info("found", numbers, ("n", n))],
        [onnx.numpy_helper.from_array(np.array(axes, np.int64), "axes"), weights],
    )
    opsets = [helper.make_opsetid("", 18)] + [helper.make_opsetid(domain, 1)] * bool(domain)
    file.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    return file


def compute(images):
    """Return the reference logits of the blind set, as STATED."""
    blind = read_manifest(images / "blind.csv")
    squares = np.stack([resize_to_square(blind.image(row), 24, "pad") for row in range(len(blind))]) / 255
    return ((squares - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]).mean(axis=(1, 2)) @ WEIGHTS


def import_network(file, *words, code=0):
    """Import a network into the folder run beside it; return the folder."""
    run = file.with_name("run")
    assert main(["import", "kind=onnx", f"file={file}", f"out={run}", *words]) == code
    return run


def append(file, operators, n=3):
    """Write a network whose output goes through further operators, which is divided by itself in Div."""
    model = onnx.load(build(file, n=n))
    output = model.graph.output[0]
    for operator in operators:
        inputs = [output.name] * (2 if operator == "Div" else 1)
        model.graph.node.append(onnx.helper.make_node(operator, inputs, [f"after {operator}"]))
        output.name = f"after {operator}"
    onnx.save(model, file)
    return file


def predict_blind(run, images):
    blind = read_manifest(images / "blind.csv")
    return open_run(run).predictor.predict([blind.image(row) for row in range(len(blind))])


@pytest.mark.parametrize(("layout", "outside"), [("NCHW", ""), ("NHWC", "weights.bin")])
def test_a_network_computes_as_it_is_stated(layout, outside, images, tmp_path):
    (tmp_path / "there").mkdir()
    run = import_network(build(tmp_path / "there" / "net.onnx", layout, outside=outside), *STATED, NAMES)
    shutil.move(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "there")  # the run folder is whole
    run, blind = open_run(tmp_path / "run"), read_manifest(images / "blind.csv")
    np.testing.assert_allclose(run.predictions(blind).logits, compute(images), atol=1e-4)
    table = run.predict([blind.file(row) for row in range(5)])
    probabilities = table[[f"prob_{name}" for name in CLASSES]].to_numpy(float)
    np.testing.assert_allclose(probabilities, softmax(compute(images), axis=1)[:5], atol=1e-5)


SCORE = [*STATED[:-1], "score=higher_is_drawing"]


@pytest.mark.parametrize("output", ["score", "logits"])
def test_one_output_is_a_score_with_a_direction(output, images, tmp_path):
    run = import_network(build(tmp_path / "net.onnx", n=1), *SCORE, f"output={output}", "threshold=0.5")
    assert open_run(run).classes == ("drawing", "not_drawing")
    expected = expit(compute(images)[:, 0] - 0.5)
    np.testing.assert_allclose(predict_blind(run, images)[:, 0], expected, atol=1e-5)


def test_a_probability_as_score_has_its_threshold_at_one_half(images, tmp_path):
    file = append(tmp_path / "net.onnx", ["Sigmoid"], n=1)
    run = import_network(file, *SCORE, "output=probabilities", "threshold=0.2")
    expected = expit(compute(images)[:, 0] - np.log(0.2 / 0.8))
    np.testing.assert_allclose(predict_blind(run, images)[:, 0], expected, atol=1e-5)


def test_an_image_without_a_finite_probability_is_an_error_and_the_others_are_predicted(tmp_path):
    file = append(tmp_path / "net.onnx", ["Div", "Softmax"])  # 0 by 0 is no number
    words = ["size=24", "resize=pad", "mean=[0,0,0]", "std=[1,1,1]", "range=1", "output=probabilities", NAMES]
    run = import_network(file, *words)
    Image.new("RGB", (40, 40)).save(black := tmp_path / "black.png")
    Image.new("RGB", (40, 40), (255, 100, 90)).save(other := tmp_path / "other.png")
    output = tmp_path / "out.csv"
    assert main(["predict", f"ckpt={run}", f"input=[{other},{black},{other}]", f"output={output}"]) == 3
    table = pd.read_csv(output)
    assert table["status"].tolist() == ["ok", "error"]
    assert "The network returns no probabilities" in table["reason"][1]


def test_a_fixed_batch_is_filled_up_and_metadata_state_what_options_would(images, tmp_path):
    fixed = build(tmp_path / "net.onnx", shape=(4, 3, 24, 24))
    runs = [import_network(fixed, *STATED[1:], NAMES)]  # the shape states the size
    (tmp_path / "other").mkdir()
    model = onnx.load(build(tmp_path / "other" / "net.onnx"))
    texts = dict(word.split("=") for word in STATED) | {"names": json.dumps(CLASSES)}
    texts |= {"mean": "[0.5,0.4,0.3]", "std": "[0.2,0.3,0.4]"}  # JSON has no .5
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, tmp_path / "other" / "net.onnx")
    runs.append(import_network(tmp_path / "other" / "net.onnx"))
    for run in runs:
        predictions = open_run(run).predictions(read_manifest(images / "blind.csv"))
        np.testing.assert_allclose(predictions.logits, compute(images), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words", "code", "reason"),
    [
        ({}, [], 2, "does not state size, resize, mean, std, range, output, names"),
        ({}, [*STATED, NAMES, "input=images"], 2, "input=images: the network has no such input"),
        ({}, [*STATED, "names=[a,b]"], 2, "returns 3 finite numbers an image for 2 classes"),
        ({}, [*STATED, NAMES, "layout=NHWC"], 2, "layout=NHWC does not fit"),
        ({}, [*STATED[:-1], NAMES, "output=probabilities"], 2, "returns no probabilities"),
        ({"shape": ("n", 3, 32, 32)}, [*STATED, NAMES], 2, "size=24: the network expects squares of another size"),
        ({"domain": "mine"}, [*STATED, NAMES], 3, "needs custom operators of mine"),
        ({"outside": "../weights.bin"}, [*STATED, NAMES], 3, "lies outside its folder"),
        ({"n": 1}, [*STATED, NAMES], 2, "returns 1 finite numbers"),
    ],
)
def test_a_network_that_cannot_be_used_is_refused_and_nothing_written(options, words, code, reason, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    import_network(build(tmp_path / "there" / "net.onnx", **options), *words, code=code)
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.strip().splitlines()) <= 3
    if code == 2:
        assert "The network expects pixels tensor(float)" in error
    assert not list(tmp_path.glob("there/*run*"))


def test_a_pickle_is_no_network(tmp_path, capsys):
    (tmp_path / "net.onnx").write_bytes(pickle.dumps({"weights": [1, 2]}))
    run = import_network(tmp_path / "net.onnx", *STATED, NAMES, code=3)
    assert "cannot be read as ONNX" in capsys.readouterr().err
    assert not run.exists()


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    """Return the run folder of the tiny run's exported network."""
    folder = tmp_path_factory.mktemp("exported")
    assert main(["export", f"ckpt={tiny_run}", f"out={folder / 'net.onnx'}"]) == 0
    return import_network(folder / "net.onnx", f"trained_on={tiny_run / 'split.csv'}")


def test_an_exported_network_of_ours_needs_no_option(exported, tiny_run, images):
    blind = read_manifest(images / "blind.csv")
    ours, theirs = Run.open(tiny_run), open_run(exported)
    assert theirs.classes == ours.classes
    predictions, other = ours.predictions(blind), theirs.predictions(blind)
    np.testing.assert_allclose(predictions.logits, other.logits, atol=1e-4)
    np.testing.assert_allclose(predictions.embeddings, other.embeddings, atol=1e-4)
    assert other.has_logits
    assert predictions.temperature == other.temperature != 1
    words = [blind.file(row) for row in range(3)]
    for calibrated in (True, False):
        tables = [run.predict(words, calibrated, "32") for run in (ours, theirs)]
        np.testing.assert_allclose(*(table.iloc[:, 3:].select_dtypes("number") for table in tables), atol=1e-4)


@pytest.mark.slow
def test_an_exported_network_has_the_metrics_of_its_run(exported, tiny_run, images, tmp_path):
    data = ["data=manifest", f"data.manifest={images / 'blind.csv'}", "data.name=new", "data.workers=0"]
    quick = [f"block.{name}.resamples=100" for name in BLOCKS if name != "robustness"]
    quick += ["block.robustness.severities=[3]", "block.robustness.corruptions=[noise]"]
    for name, ckpt in (("ours", tiny_run), ("theirs", exported)):
        words = [f"out={tmp_path / name}", f"block=[{','.join(BLOCKS)}]", *quick, *data]
        assert main(["evaluate", f"ckpt={ckpt}", *words]) == 0
    compared = 0
    for block in BLOCKS:
        files = [tmp_path / name / "evaluation" / "new" / block / "metrics.json" for name in ("ours", "theirs")]
        metrics = [json.loads(file.read_text(encoding="utf-8"))["metrics"] for file in files]
        for name in metrics[0].keys() & metrics[1].keys():
            value, other = (metric[name]["value"] for metric in metrics)
            if value is not None and other is not None:
                assert value == pytest.approx(other, abs=1e-4), (block, name)
                compared += 1
    assert compared > 50
    files = [tmp_path / name / "evaluation" / "new" / "blind_test" / "confusion.csv" for name in ("ours", "theirs")]
    pd.testing.assert_frame_equal(*map(pd.read_csv, files))

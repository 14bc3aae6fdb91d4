"""Many runs, as a user compares them: every run block, every comparison, the ensembles; kept the second time."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from avatar_bench.cli.app import main
from avatar_bench.evaluation.block import build_block
from avatar_bench.results.result import Result

CLASSES = ("drawing", "generated", "real")
METRICS = {
    "overview": [],
    "significance": [],
    "ensemble": [
        *(f"{kind}/{name}" for kind in ("accuracy", "macro_f1", "gain") for name in ("soft_vote", "soup")),
        *("agreement", "kappa", "disagreement", "q_statistic", "double_fault", "error_correlation"),
    ],
    "gradcam": [
        "unanimous",
        *(
            f"{before}{kind}/{name}"
            for before in ("", "null/")
            for kind in ("iou_top20", "iou_half", "pearson", "spearman")
            for name in CLASSES
        ),
    ],
}
TABLES = {"significance": ["pairs.csv"], "ensemble": ["pairs.csv"]}
ENSEMBLES = ("soft_vote", "accuracy_ece", "greedy", "scaled_vote")
ASKED = ["blind_test", "calibration", *METRICS]
QUICK = [f"block.{name}.resamples=100" for name in ASKED if hasattr(build_block(name), "resamples")]


@pytest.fixture(scope="module")
def many(train, tiny_run, tmp_path_factory):
    """A folder of three runs: one recipe with two seeds, and a recipe that learned longer."""
    root = tmp_path_factory.mktemp("many")
    shutil.copytree(tiny_run, root / "long", ignore=shutil.ignore_patterns("evaluation", "predictions"))
    for seed in (1, 2):
        train(root / f"short{seed}", "epochs=3", f"seed={seed}")
    return root


@pytest.fixture(scope="module")
def words(many):
    block = f"block=[{','.join(ASKED)}]"
    return [
        "evaluate",
        f"ckpt={many}",
        block,
        "data.workers=0",
        *QUICK,
        "block.gradcam.images=9",
        "block.gradcam.steps=2",
    ]


@pytest.fixture(scope="module")
def compared(many, words):
    assert main(words) == 0
    return many / "evaluation" / "test"


@pytest.mark.parametrize("name", METRICS)
def test_each_comparison_writes_what_the_contract_names(name, compared):
    found = Result.load_if_complete(compared / name)
    assert found is not None
    assert [metric for metric in METRICS[name] if metric not in found.metrics] == []
    assert [file for file in TABLES.get(name, []) if not (compared / name / file).is_file()] == []
    assert list((compared / name).glob("*.svg"))
    compared_runs = [entry for entry in found.provenance["compared"] if entry["label"] not in ENSEMBLES]
    assert len({entry["label"] for entry in compared_runs}) == 3
    assert len({entry["recipe"] for entry in compared_runs}) == 2


def test_ensembles_are_evaluated_like_runs(many, compared):
    for strategy in ENSEMBLES:
        folder = many / "ensembles" / strategy
        evaluated = Result.load(folder / "evaluation" / "test" / "blind_test").metrics["accuracy"]
        assert evaluated.value == pytest.approx(
            Result.load(compared / "ensemble").metrics[f"accuracy/{strategy}"].value
        )
        assert Result.load_if_complete(folder / "evaluation" / "test" / "calibration")


def test_the_overview_shows_the_ensembles_that_the_same_command_has_made(compared):
    runs = Result.load(compared / "overview").tables["runs"].set_index("run")
    kinds = runs["kind"].to_dict()
    assert {name: kinds.get(name) for name in ENSEMBLES} == dict.fromkeys(ENSEMBLES, "ensemble")
    for name in ENSEMBLES:
        evaluated = Result.load(compared.parents[1] / "ensembles" / name / "evaluation" / "test" / "blind_test")
        assert runs.loc[name, "accuracy"] == pytest.approx(evaluated.metrics["accuracy"].value)


def test_a_second_time_nothing_is_evaluated_again(compared, words, capsys, monkeypatch):
    def never(*_):
        raise AssertionError("the network was asked again")

    monkeypatch.setattr("avatar_bench.models.classifier.Classifier.forward", never)
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("blind: evaluated ")  # by calibration
    assert {line.split(":")[0] for line in lines[:-2]} == {"already there"}


def test_an_ensemble_predicts_like_a_run(many, compared, images, tmp_path):
    folder, out = many / "ensembles" / "soft_vote", tmp_path / "predictions.csv"
    assert main(["predict", f"ckpt={folder}", f"input={images / 'blind'}", f"output={out}", "workers=0"]) == 0
    table = pd.read_csv(out)
    assert set(table["status"]) == {"ok"}
    assert table[[f"prob_{name}" for name in CLASSES]].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-4)


def test_an_overview_is_made_anew_when_a_result_that_it_reads_has_changed(many, compared, capsys, tmp_path):
    copy = Path(shutil.copytree(many, tmp_path / "many"))
    line = ["evaluate", f"ckpt={copy}", "block=overview", "data.workers=0"]
    assert main(line) == 0
    assert "already there" in capsys.readouterr().out
    assert main(["evaluate", f"ckpt={copy / 'long'}", "block=blind_test", "block.blind_test.level=0.9"]) == 0
    capsys.readouterr()
    assert main(line) == 0
    assert "already there" not in capsys.readouterr().out


def test_of_a_single_run_a_comparison_is_refused_by_name_and_not_tried_by_all(run_copy, capsys):
    assert main(["evaluate", f"ckpt={run_copy}", "block=significance"]) == 3
    assert len(capsys.readouterr().err.splitlines()) <= 3
    assert main(["evaluate", f"ckpt={run_copy}", "block=[architecture,significance]", "skip_unusable=true"]) == 0
    assert "significance" not in capsys.readouterr().err


def test_a_run_that_is_not_finished_is_left_out_of_a_folder_and_named(run_copy, capsys):
    other = Path(shutil.copytree(run_copy, run_copy.parent / "other"))
    record = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    assert main(["evaluate", f"ckpt={run_copy.parent}", "block=architecture"]) == 0
    said = capsys.readouterr()
    assert f"skipped: {other}: its status is interrupted" in said.err
    assert str(other) not in said.out


def test_a_comparison_on_another_split_replaces_nothing(tiny_run, train, tmp_path, capsys):
    other = train(tmp_path / "other", "data.split.seed=5")
    left = shutil.ignore_patterns("evaluation", "predictions")
    for k, run in enumerate((tiny_run, tiny_run, other, other)):
        shutil.copytree(run, tmp_path / "many" / f"r{k}", ignore=left)

    def compare(*numbers, block="ensemble"):
        runs = ",".join(str(tmp_path / "many" / f"r{k}") for k in numbers)
        return main(["evaluate", f"ckpt=[{runs}]", f"block={block}", "data.workers=0"])

    assert compare(0, 1) == 0
    file = tmp_path / "many" / "evaluation" / "test" / "ensemble" / "metrics.json"
    before = file.read_bytes()
    capsys.readouterr()
    for block in ("ensemble", "overview"):
        assert compare(2, 3, block=block) == 2
        many = tmp_path / "many"
        text = f"already contains results for other images, from {many / 'r0'}, {many / 'r1'}."
        assert text in capsys.readouterr().err
    assert file.read_bytes() == before
    assert [folder.name for folder in file.parent.parent.iterdir()] == ["ensemble"]
    few = ["block.gradcam.images=3", "block.gradcam.steps=2", "block.gradcam.random_weights=1"]
    assert main(["evaluate", f"ckpt=[{many / 'r0'},{many / 'r2'}]", "block=gradcam", "data.workers=0", *few]) == 0
    err = capsys.readouterr().err
    assert f"skipped: {many / 'evaluation' / 'test' / 'gradcam'}: " in err
    assert (many / "r2" / "evaluation" / "test" / "gradcam" / "metrics.json").is_file()


def test_what_an_ensemble_that_was_made_on_the_way_cannot_do_is_named_and_no_error(many, capsys):
    words = ["block=[architecture,ensemble]", "block.ensemble.resamples=100", "block.ensemble.soup=false"]
    assert main(["evaluate", f"ckpt={many}", *words, "data.workers=0"]) == 0
    out, err = capsys.readouterr()
    assert f"skipped: {many / 'ensembles' / 'soft_vote' / 'evaluation' / 'test' / 'architecture'}: " in err
    assert "4 skipped" in out.splitlines()[-1]
    assert main(["evaluate", f"ckpt={many / 'ensembles' / 'soft_vote'}", "block=architecture"]) == 3

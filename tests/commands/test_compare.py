"""Many runs, as a user compares them: every run block, every comparison, the ensembles; kept the second time."""

import contextlib
import io
import shutil
from pathlib import Path

import pytest

from avatar_bench.cli.app import main
from avatar_bench.evaluation.block import build_block
from avatar_bench.results.result import Result
from tests.builders.commands import change_record, copy_run

pytestmark = pytest.mark.slow

COMPARISONS = ("overview", "significance", "ensemble", "gradcam")
ENSEMBLES = ("soft_vote", "accuracy_ece", "greedy", "scaled_vote")
BLOCKS = ["blind_test", "prior_shift", *COMPARISONS]
QUICK = [f"block.{name}.resamples=100" for name in BLOCKS if hasattr(build_block(name), "resamples")]
QUICK += ["block.gradcam.images=6", "block.gradcam.steps=2", "block.gradcam.random_weights=1", "data.workers=0"]


@pytest.fixture(scope="module")
def many(train, tiny_run, tmp_path_factory):
    """A folder of three runs: one recipe with two seeds, and a recipe that learned longer."""
    root = tmp_path_factory.mktemp("many")
    copy_run(tiny_run, root / "long")
    for seed in (1, 2):
        train(root / f"short{seed}", f"seed={seed}")
    return root


@pytest.fixture(scope="module")
def words(many):
    return ["evaluate", f"ckpt={many}", f"block=[{','.join(BLOCKS)}]", *QUICK]


@pytest.fixture(scope="module")
def printed(words):
    """Compare the runs, and return what is printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(words) == 0
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def compared(many, printed):
    return many / "evaluation" / "test"


@pytest.mark.parametrize("name", COMPARISONS)
def test_each_comparison_writes_figures_and_names_its_runs_and_recipes(name, compared):
    result = Result.load_if_complete(compared / name)
    assert result is not None
    assert list((compared / name).glob("*.svg"))
    runs = [entry for entry in result.provenance["compared"] if entry["label"] not in ENSEMBLES]
    assert [len({entry[key] for entry in runs}) for key in ("label", "recipe")] == [3, 2]


def test_ensembles_are_evaluated_and_shown_like_runs(many, compared):
    runs = Result.load(compared / "overview").tables["runs"].set_index("run")
    for strategy in ENSEMBLES:
        folder = many / "ensembles" / strategy / "evaluation" / "test"
        accuracy = pytest.approx(Result.load(folder / "blind_test").metrics["accuracy"].value)
        assert Result.load(compared / "ensemble").metrics[f"accuracy/{strategy}"].value == accuracy
        assert runs.loc[strategy, ["kind", "accuracy"]].tolist() == ["ensemble", accuracy]
        assert Result.load_if_complete(folder / "prior_shift")


def test_a_second_time_nothing_is_evaluated_again(compared, words, command, monkeypatch):
    monkeypatch.setattr("avatar_bench.models.classifier.Classifier.embed", lambda *_: pytest.fail("it was run again"))
    lines = command(*words).out.splitlines()
    assert {line.split(":")[0] for line in lines[:-1]} == {"already there"}


def test_an_overview_is_made_anew_when_a_result_that_it_reads_has_changed(many, compared, command, tmp_path):
    copy = Path(shutil.copytree(many, tmp_path / "many"))
    words = ["evaluate", f"ckpt={copy}", "block=overview", "data.workers=0"]
    assert "already there" in command(*words).out
    command("evaluate", f"ckpt={copy / 'long'}", "block=blind_test", "block.blind_test.level=0.9")
    assert "already there" not in command(*words).out


def test_a_run_that_is_not_finished_is_left_out_of_a_folder_and_named(run_copy, command):
    other = copy_run(run_copy, run_copy.parent / "other")
    change_record(other, status="interrupted")
    out, err = command("evaluate", f"ckpt={run_copy.parent}", "block=architecture")
    assert f"skipped: {other}: its status is interrupted" in err
    assert str(other) not in out


def test_a_comparison_on_another_split_replaces_nothing(tiny_run, train, tmp_path, command):
    other, many = train(tmp_path / "other", "data.split.seed=5"), tmp_path / "many"
    runs = [many / f"r{k}" for k in range(4)]
    copy_run(tiny_run, *runs[:2])
    copy_run(other, *runs[2:])

    def compare(first, second, block, *words, code=0):
        ckpt, few = f"ckpt=[{runs[first]},{runs[second]}]", f"block.{block}.resamples=100"
        few = [] if block == "overview" else [few]
        return command("evaluate", ckpt, f"block={block}", "data.workers=0", *few, *words, code=code).err

    compare(0, 1, "significance")
    file = many / "evaluation" / "test" / "significance" / "metrics.json"
    before = file.read_bytes()
    message = f"already contains results for other images, from {runs[0]}, {runs[1]}."
    for block in ("significance", "overview"):
        err = compare(2, 3, block, code=2).splitlines()
        assert message in err[0]
        assert "out=DIR" in err[1]
    assert file.read_bytes() == before
    assert [folder.name for folder in file.parents[1].iterdir()] == ["significance"]
    few = ["block.gradcam.images=3", "block.gradcam.steps=2", "block.gradcam.random_weights=1"]
    assert f"skipped: {many / 'evaluation' / 'test' / 'gradcam'}: " in compare(0, 2, "gradcam", *few)
    assert (runs[2] / "evaluation" / "test" / "gradcam" / "metrics.json").is_file()


def test_what_an_ensemble_that_was_made_on_the_way_cannot_do_is_named_and_no_error(many, printed, command):
    out, err = printed
    for strategy in ENSEMBLES:
        assert f"skipped: {many / 'ensembles' / strategy / 'evaluation' / 'test' / 'gradcam'}: " in err
    assert f"{len(ENSEMBLES)} skipped" in out.splitlines()[-1]
    command("evaluate", f"ckpt={many / 'ensembles' / 'soft_vote'}", "block=architecture", code=3)

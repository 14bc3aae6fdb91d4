"""block=all on a run: every block writes its figures, tables and metrics, and once."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from avatar_bench.cli.app import main
from avatar_bench.config.catalogue import list_blocks
from avatar_bench.config.options import iterate_options
from avatar_bench.data.corruptions import Corruption, Delivery, apply_variation, derive_seed, list_corruptions
from avatar_bench.data.loaders import to_tensor
from avatar_bench.evaluation.block import CompareBlock, RunBlock, build_block
from avatar_bench.models.classifier import Classifier
from avatar_bench.results.result import Result
from avatar_bench.runs.run import Run
from tests.builders.commands import copy_run, read_record
from tests.builders.ranges import find_faults

CORRUPTIONS = list_corruptions()
BY_NETWORK = ("efficiency", "gradcam", "architecture")  # these need more of it than its Predictions
BY_PREDICTIONS = ("blind_test", "robustness", "calibration", "decision", "clusters", "out_of_domain", "error_bias")
BY_PREDICTIONS += ("marks", "prior_shift")
BLOCKS = (*BY_PREDICTIONS, *BY_NETWORK)
QUICK = [
    *(f"block.{name}.resamples=100" for name in BLOCKS if name != "architecture"),
    *("block.robustness.severities=[3]", "block.robustness.delivery=[web]", "block.clusters.permutations=2"),
    *("block.gradcam.images=6", "block.gradcam.steps=3", "block.gradcam.random_weights=1"),
    *("block.efficiency.batches=[1,4]", "block.efficiency.rounds=3", "block.efficiency.seconds=.05"),
    *("block.efficiency.passes=2", "block.efficiency.pass_seconds=0", "block.efficiency.threads=[1]"),
    *("block.error_bias.minimum=5", "block.marks.kinds=[pill]", "block.marks.opacities=[1.0]"),
]
PREDICT_TIMES = pd.DataFrame({"round": [0, 1], "images": [128, 128], "seconds": [0.5, 0.54]}).assign(
    command="predict", runtime="onnx", precision="32", threads=2, workers=2, batch=64
)
COMPARISONS = ("significance", "integrated_score", "ensemble", "leave_one_source_out", "shots")
QUICK_COMPARISONS = [f"block.{name}.resamples=100" for name in COMPARISONS]
QUICK_COMPARISONS.append("block.integrated_score.weightings=100")


@pytest.fixture(scope="module")
def ood(tmp_path_factory):
    """Two sets: images of noise, and some that bear a class of the run."""
    root, rng = tmp_path_factory.mktemp("ood"), np.random.default_rng(0)
    for folder in (root / "noise", root / "faces" / "real"):
        folder.mkdir(parents=True)
        for number in range(12):
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return f"data.ood={{noise: {root / 'noise'}, faces: {root / 'faces'}}}"


@pytest.fixture(scope="module")
def evaluated(tiny_run, ood, tmp_path_factory):
    """A run evaluated by every block, the folder of its results and the words; what its network has seen.

    The blocks that need more of the network than its Predictions come after the others, and are not counted.
    """
    root, seen = tmp_path_factory.mktemp("evaluated"), Counter()
    run, out = copy_run(tiny_run, root / "run"), root / "out"
    words = ["evaluate", f"ckpt={run}", "block=all", f"out={out}", "data.workers=0", ood, *QUICK]

    embed = Classifier.embed

    def count(self, images):
        if len(images) > 1:  # a single one tries folded batch norms
            seen.update(image.numpy().tobytes() for image in images)
        return embed(self, images)

    before = predict_table(run, root / "before.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "embed", count)
        assert main(asking(BY_PREDICTIONS, words)) == 0
    with pytest.MonkeyPatch.context() as patch:  # its process takes seconds, see test_efficiency.py
        patch.setattr("avatar_bench.evaluation.blocks.efficiency.latency.time_predict", lambda *_: PREDICT_TIMES)
        assert main(words) == 0
    assert predict_table(run, root / "after.csv") == before
    return run, out / "evaluation" / "test", words, seen


def asking(names, words):
    """Return the words that choose these blocks alone, with their options."""
    prefixes = tuple(f"block.{name}." for name in names)
    kept = [word for word in words if not word.startswith("block") or word.startswith(prefixes)]
    return [*kept, f"block=[{','.join(names)}]"]


def predict_table(run, file):
    """Return the predictions for the images on which a run was evaluated: no evaluation may change it."""
    paths, root = pd.read_csv(run / "split.csv").query("split == 'test'")["path"], read_record(run)["data"]["root"]
    file.with_suffix(".txt").write_text("\n".join(f"{root}/{path}" for path in paths))
    words = [f"ckpt={run}", f"input=@{file.with_suffix('.txt')}", f"output={file}", "workers=0"]
    assert main(["predict", *words]) == 0
    return file.read_bytes()


def test_all_names_every_block_that_reads_or_compares_runs():
    built = {name: build_block(name) for name in list_blocks(("run", "comparison", "dataset"))}
    reading = [name for name, block in built.items() if isinstance(block, RunBlock)]
    comparing = [name for name, block in built.items() if isinstance(block, CompareBlock)]
    assert sorted(list_blocks()) == sorted({*reading, *comparing})
    assert sorted([*BLOCKS, "over_time"]) == sorted(reading)  # over_time needs dates, see test_dates.py


@pytest.mark.parametrize("name", BLOCKS)
def test_each_block_writes_figures_tables_and_metrics_with_a_value_or_a_reason(name, evaluated):
    folder = evaluated[1] / name
    result = Result.load_if_complete(folder)
    assert result is not None
    assert list(folder.glob("*.png")), "no figure"
    assert list(folder.glob("*.csv")), "no table"
    assert all(metric.n >= 0 for metric in result.metrics.values())
    assert [fault for key, metric in result.metrics.items() for fault in find_faults(key, metric)] == []


def test_a_second_time_nothing_is_evaluated_again(evaluated, capsys, monkeypatch):
    monkeypatch.setattr("avatar_bench.models.classifier.Classifier.embed", lambda *_: pytest.fail("it was run again"))
    assert main(evaluated[2]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "blind: evaluated 1 time on 1 run"
    assert [line.split(":")[0] for line in lines[:-2]] == ["already there"] * len(BLOCKS)


def test_each_set_goes_through_the_network_once_and_once_for_each_variation(evaluated, ood):
    folder, results, _, seen = evaluated
    run = Run.open(folder, others=yaml.safe_load(ood.partition("=")[2]))
    sets = [run.dataset(name) for name in ("test", "calibration", "train", "blind", "noise", "faces")]
    plain = [image for dataset in sets for image in run.predictor.read_inputs(dataset, range(len(dataset)))]
    test = sets[0]
    seeds = [derive_seed(digest) for digest in test.frame["sha256"]]
    variations = [*(Corruption(kind, 3) for kind in CORRUPTIONS), Delivery("web")]
    variations += build_block("marks", {"kinds": ["pill"], "opacities": [1.0]}).list_variations().values()
    varied = [
        to_tensor(apply_variation(variation, test.image(row), run.preprocessing, seed))
        for row, seed in enumerate(seeds)
        for variation in variations
    ]
    assert seen == Counter(image.numpy().tobytes() for image in [*plain, *varied])
    kept = Result.load(results / "robustness").provenance
    assert 0 < kept["seconds_of_passes"] < kept["seconds"]
    assert Result.load(results / "error_bias").provenance["seconds_of_passes"] == 0


@pytest.mark.slow
def test_kept_results_are_listed_and_evaluated_again_without_a_network(evaluated):
    script = f"""
import sys
from avatar_bench.__main__ import main
from avatar_bench.inference import copy_search
copy_search.search_aligned_copies = lambda known, dataset: []  # it needs features where it has not searched yet
assert main({evaluated[2]}) == 0
assert main({[*asking(["error_bias"], evaluated[2]), "again=true"]}) == 0
assert not {{"timm", "captum", "pytorch_lightning"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_option_of_a_block_is_said_in_its_page():
    docs = Path(__file__).parents[2] / "docs" / "blocks"
    for name in list_blocks(("run", "comparison", "dataset")):
        options = [field.name for field, _ in iterate_options(type(build_block(name)))]
        page = (docs / f"{name}.md").read_text(encoding="utf-8")
        assert [option for option in options if f"`{option}`" not in page] == [], name

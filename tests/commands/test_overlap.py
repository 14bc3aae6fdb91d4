"""Copies of images that chose the epoch of a run, or that it is calibrated on, in an evaluated set."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from avatar_bench.results.reasons import Reason, format_reason
from tests.builders.commands import data_of, read_record, read_result

TARGETS = {"decision": ["block.decision.targets=[0.2]"]}


@pytest.fixture
def evaluate(large_run, images, tmp_path, command):
    """Return a function that evaluates the blind images and copies of some images of a split, and what it prints."""

    def evaluate_copies(name, split, n, is_near, block, *words, code=0):
        rows = (
            pd.read_csv(large_run / "split.csv").query("split == @split").iloc[::2].head(n)[["path", "label", "source"]]
        )
        root, copies = Path(read_record(large_run)["data"]["root"]), []
        for path in rows["path"]:
            copies.append(tmp_path / f"{name}{len(copies)}{'.png' if is_near else Path(path).suffix}")
            copies[-1].write_bytes((root / path).read_bytes())
            if is_near:
                image = Image.open(copies[-1]).convert("RGB")
                image.resize((image.width + 2, image.height + 2)).save(copies[-1])
        blind = pd.read_csv(images / "blind.csv").drop(columns="group")
        blind["path"] = [str(images / path) for path in blind["path"]]
        pd.concat([rows.assign(path=copies), blind]).to_csv(tmp_path / f"{name}.csv", index=False)
        options = [f"block={block}", f"block.{block}.resamples=100", *TARGETS.get(block, []), "data.workers=0"]
        return command(
            "evaluate", f"ckpt={large_run}", *data_of(tmp_path / f"{name}.csv"), *options, *words, code=code
        ).err

    return evaluate_copies


@pytest.mark.parametrize(("is_near", "n"), [(False, 5), (True, 4)])
def test_copies_of_val_images_are_counted_in_a_warning(is_near, n, large_run, evaluate):
    warning = Reason("overlap_with_val", n=n, all=42 + n)
    assert format_reason(warning) in evaluate(f"val{n}", "val", n, is_near, "blind_test")
    saved = read_result(large_run, f"val{n}")
    assert warning.plain in saved["warnings"]
    assert warning.plain in saved["provenance"]["leakage"]  # printed however many warnings there are


@pytest.mark.parametrize(("is_near", "block"), [(False, "decision"), (True, "calibration")])
def test_what_a_block_is_fitted_on_is_refused_and_so_are_its_near_duplicates(is_near, block, evaluate):
    words = (f"{block}{is_near}", "calibration", 3, is_near, block)
    err = evaluate(*words, code=3)
    text = "near-duplicates of calibration images" if is_near else "also in the set that this block is fitted on"
    assert f"3 of 45 images of {block}{is_near} are {text}" in err
    assert len(err.splitlines()) <= 3
    evaluate(*words, "allow=[near_duplicates]", code=0 if is_near else 3)


@pytest.mark.parametrize(("guard", "n"), [("overlap", 4), ("near_duplicates", 2)])
def test_copies_of_training_images_that_are_allowed_are_counted_as_they_are_refused(guard, n, large_run, evaluate):
    words = f"train{guard}", "train", 4, guard == "near_duplicates", "blind_test"
    assert f"{n} of 46 images" in evaluate(*words, code=3)
    assert format_reason(Reason(f"{guard}_allowed", n=n, all=46)) in evaluate(*words, f"allow=[{guard}]")


def test_neither_copies_of_test_images_nor_other_sets_are_warned_of(evaluate):
    assert "val images" not in evaluate("other", "test", 3, True, "blind_test")

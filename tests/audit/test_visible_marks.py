"""Tests of the search for visible marks: planted stamps, their boxes, sets without marks, and small images."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from avatar_bench.audit import mark_tests, visible_marks
from avatar_bench.audit.probes import ProbeSettings
from avatar_bench.audit.visible_marks import MARK_LEVEL, find_marks
from avatar_bench.data.dataset import read_manifest
from avatar_bench.data.stamps import paste_stamp

SETTINGS = ProbeSettings(resamples=100)
SIDE = 120


def draw_scene(seed, side=SIDE):
    """Draw random blots with grain, of which no two images share any."""
    rng = np.random.default_rng(1000 + seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=float)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def write_set(root, *stamps, n=72, sources=9, side=SIDE):
    """Write images of two classes and sources of each; those of class "generated" bear the stamps."""
    rows = []
    for number in range(n):
        label = ("generated", "real")[number % 2]
        pixels = draw_scene(number, side)
        for stamp in stamps if label == "generated" else ():
            pixels = paste_stamp(pixels, *stamp, number)
        Image.fromarray(pixels).save(root / f"{number}.png")
        rows.append((f"{number}.png", label, f"{label}{number // 2 % sources}"))
    pd.DataFrame(rows, columns=["path", "label", "source"]).to_csv(root / "set.csv", index=False)
    return read_manifest(root / "set.csv")


def search(dataset, **columns):
    frame = dataset.frame.assign(row=np.arange(len(dataset)), **columns)
    return find_marks(dataset, frame, SETTINGS)


@pytest.fixture(scope="module")
def stamped(tmp_path_factory):
    """A set with a logo in a corner and letters at any position, and its marks."""
    stamps = ("logo", 0.5, 0.2, "top_left"), ("letters", 1.0, 0.2, "any")
    dataset = write_set(tmp_path_factory.mktemp("stamped"), *stamps)
    return dataset, search(dataset)


def test_marks_are_found_with_their_boxes_crops_and_the_options_that_cover_them(stamped):
    dataset, findings = stamped
    listed = findings.found.set_index("position")
    assert set(listed["class"]) == {"generated"}
    assert listed.loc["top_left", "auroc"] > 0.95
    assert (listed.loc["top_left", "images"], listed.loc["top_left", "sources"]) == (36, 9)
    assert 0.2 <= findings.fraction <= 0.3  # the stamp ends at .22 of the side
    boxes = findings.patches[findings.patches["mark"] == listed.loc["top_left", "mark"]]
    logo = boxes[["left", "top", "width", "height"]].median()
    np.testing.assert_allclose(logo, [2, 2, 24, 24], atol=4)
    letters = findings.patches[findings.patches["mark"] == listed.loc["anywhere", "mark"]]
    assert len(letters) >= 25
    is_covered = []
    for row in letters.itertuples():
        number = int(Path(row.path).stem)
        rng = np.random.default_rng(number)  # as the stamp's module draws its position
        top, left = (int(rng.integers(SIDE - 24 + 1)) for _ in range(2))
        is_covered.append(row.left <= left + 4 and row.top <= top + 4 and row.left + row.width >= left + 20)
    assert np.mean(is_covered) >= 0.9
    assert set(letters["path"]) <= set(dataset.frame.loc[dataset.frame["label"] == "generated", "path"])
    name = findings.found.set_index("position").loc["anywhere", "mark"]
    crop = findings.crops[name].reshape(-1, 3).astype(float)
    assert (np.abs(crop - (0, 51, 153)).sum(axis=1) < 60).mean() > 0.3  # the blue of the letters' ground
    (reason,) = findings.reasons
    (of_class,) = reason.values["named"]
    assert (of_class.values["name"], sorted(of_class.values["marks"])) == ("generated", sorted(findings.found["mark"]))
    assert reason.values["options"] == [f"data.mask.corners={findings.fraction:.2f}", "data.mask.patches=patches.csv"]


def test_interval_and_p_of_a_mark_are_of_one_test_and_a_mark_has_its_interval_above_one_half(stamped, monkeypatch):
    dataset, findings = stamped
    table = findings.table
    assert (((table["low"] > 0.5) | (table["high"] < 0.5)) == (table["p"] < 0.05)).all()
    assert (table.loc[table["mark"] != "", ["low", "p_search"]].to_numpy() >= (0.5, 0)).all()
    unsure = 0.48, 0.40, 0.56, 0.6
    monkeypatch.setattr(visible_marks, "_measure", lambda *_: unsure)  # what the search finds, but no AUROC shows
    search_alone = search(dataset)
    assert search_alone.table["p_search"].min() <= MARK_LEVEL
    assert (search_alone.found.empty, search_alone.reasons) == (True, [])


def test_the_auroc_equals_that_of_scikit_learn_on_scores_without_the_own_source(stamped):
    dataset, findings = stamped
    frame = dataset.frame
    corners = np.stack([mark_tests.look_at(dataset.image(row)).corners[1, 0] for row in range(len(dataset))])
    row = findings.table.query("position == 'top_left' and grid == 'scaled' and `class` == 'generated'").iloc[0]
    targets = np.unique(frame["label"], return_inverse=True)[1]
    units = mark_tests.form_units(frame, targets, 0)
    members = np.stack([units.labels[None] == code for code in (0, 1)]).astype(np.float32)
    _, scores = mark_tests._test_agreement(corners, units, members)
    assert row["auroc"] == pytest.approx(roc_auc_score(targets == 0, scores[:, 0]), abs=1e-12)
    # the own source has no part in the score: without its other images, that of an image stays the same
    is_same = frame["source"] == frame["source"].iloc[0]
    rest = np.flatnonzero(~is_same | (np.arange(len(frame)) == 0))
    few = mark_tests.form_units(frame.iloc[rest], targets[rest], 0)
    members = np.stack([few.labels[None] == code for code in (0, 1)]).astype(np.float32)
    assert mark_tests._test_agreement(corners[rest], few, members)[1][0] == pytest.approx(scores[0], abs=1e-5)


def test_a_set_without_marks_or_with_the_style_of_a_source_has_none(tmp_path):
    findings = search(write_set(tmp_path, n=36))
    assert findings.table["p_search"].min() > MARK_LEVEL
    assert (findings.table["mark"] == "").all()
    assert (len(findings.patches), findings.crops, findings.reasons) == (0, {}, [])
    dataset = write_set(tmp_path, n=6)
    assert len(search(dataset, label="real").table) == 0
    assert len(search(dataset, label=["generated"] + ["real"] * 5).table) == 0
    assert tuple(search(dataset, label="real").table) == visible_marks.MARK_COLUMNS
    dataset = write_set(tmp_path, n=36)
    for row in np.flatnonzero(dataset.frame["source"] == "generated0"):
        Image.fromarray(paste_stamp(dataset.image(row), "logo", 1.0, 0.2, "top_left", 0)).save(dataset.file(row))
    assert (search(dataset).table["mark"] == "").all()


def test_marks_are_found_by_group_without_sources_and_in_images_smaller_than_a_window(tmp_path):
    findings = search(write_set(tmp_path, ("logo", 1.0, 0.2, "bottom_right"), n=36), source="")
    assert findings.table["unit"].unique().tolist() == ["group"]
    assert "bottom_right" in set(findings.found["position"])
    assert findings.reasons[-1].code == "mark_or_style"
    findings = search(write_set(tmp_path, ("logo", 1.0, 0.4, "top_left"), n=36, side=32))
    assert "top_left" in set(findings.found["position"])
    boxes = findings.patches
    assert ((boxes["left"] + boxes["width"] <= 32) & (boxes["top"] + boxes["height"] <= 32)).all()

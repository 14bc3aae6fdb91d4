"""Audit of a data set: measured properties, tables, and the assessment at every threshold."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avatar_bench.audit import shortcuts
from avatar_bench.audit.file_metadata import HINTS
from avatar_bench.audit.properties import APPEARANCE, METADATA
from avatar_bench.audit.shortcuts import (
    assess,
    compare_provenance,
    count_hints,
    cross_tabulate,
    find_copies,
    measure_images,
    summarise,
)
from avatar_bench.data.dataset import OTHER_PREFIX, Dataset, read_manifest
from avatar_bench.errors import DataError
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Metric
from tests.builders.pixels import make_noise

NOTHING = Metric(0.5, 100, 0.45, 0.55)


def write_set(root, formats, n=12):
    """Write n images a class, grain of their own each, with the endings of `formats` in turn."""
    rows = []
    for label, endings in formats.items():
        for number in range(n):
            file = root / f"{label}{number}.{endings[number % len(endings)]}"
            Image.fromarray(make_noise(len(rows))).save(file)
            rows.append((file.name, label, f"{label}-{number % 2}"))
    pd.DataFrame(rows, columns=["path", "label", "source"]).to_csv(root / "set.csv", index=False)
    return read_manifest(root / "set.csv")


def known(a=40, b=40, groups=None):
    """Return a table for `assess` of a set without any shortcoming."""
    n = a + b
    frame = pd.DataFrame({"label": ["a"] * a + ["b"] * b, "source": np.array(["x", "y"])[np.arange(n) % 2]})
    group = np.arange(n) if groups is None else np.arange(n) % groups
    return frame.assign(generator="", group=group.astype(str), outlier="")


def test_images_are_measured_in_order_or_equalised_and_broken_ones_and_copies_of_another_class_named(tmp_path):
    frame, _ = measure_images(write_set(tmp_path, {"a": ("png", "jpg")}, n=4), resize="squash")
    assert (set(frame["format"]), frame["width"].tolist()) == ({"JPEG"}, frame["height"].tolist())
    dataset = write_set(tmp_path, {"a": ("png",), "b": ("jpg",)}, n=3)
    dataset.file(1).write_bytes(b"no image")
    with pytest.raises(DataError, match="no image can be decoded"):
        measure_images(dataset.take(np.array([1])))
    frame, ((path, reason),) = measure_images(dataset)
    assert frame["path"].tolist() == ["a0.png", "a2.png", "b0.jpg", "b1.jpg", "b2.jpg"]
    assert (frame["row"].tolist(), frame["format"].tolist()) == ([0, 2, 3, 4, 5], ["PNG"] * 2 + ["JPEG"] * 3)
    assert {*METADATA, *APPEARANCE, *HINTS, "outlier", "generated"} <= set(frame)
    assert (path, "not a known image format" in reason) == ("a1.png", True)
    dataset = write_set(tmp_path, {"a": ("png",), "b": ("png",)}, n=3)
    assert find_copies(dataset, measure_images(dataset)[0])["conflict"].tolist() == []
    dataset.file(4).write_bytes(dataset.file(0).read_bytes())
    same, (frame, _) = read_manifest(tmp_path / "set.csv"), measure_images(dataset)
    (row,) = find_copies(same, frame).to_dict("records")
    assert (row["left"], row["right"], row["kind"], row["conflict"]) == ("a0.png", "b1.png", "bytes", True)


def test_tables_give_quantiles_the_commonest_word_and_counts_of_every_image(tmp_path):
    frame, _ = measure_images(write_set(tmp_path, {"a": ("png", "png", "jpg"), "b": ("jpg",)}))
    frame.loc[frame["label"] == "a", "width"] = np.arange(12)
    table = summarise(frame).set_index(["property", "label"])
    assert table.loc[("width", "a"), ["median", "low", "high"]].tolist() == pytest.approx([5.5, 0.55, 10.45])
    assert table.loc[("format", "a"), ["commonest", "share"]].tolist() == ["PNG", pytest.approx(2 / 3)]
    assert (table.loc[("format", "b"), "share"], table.loc[("exif", "b"), "commonest"]) == (1.0, "False")
    frame = pd.DataFrame({"source": ["x", "x", "y", ""], "label": ["a", "b", "a", "a"]})
    table = cross_tabulate(frame, "source")
    assert table.columns.tolist() == ["source", "a", "b", "total"]
    assert (table.iloc[0].tolist(), table["total"].sum()) == (["x", 1, 1, 2], 4)
    frame = pd.DataFrame({name: ["", "", ""] for name in HINTS}).assign(label=["a", "a", "b"], generated=False)
    frame.loc[0, ["png_text", "generated"]] = ["parameters", True]
    counts = count_hints(frame).set_index("hint").loc[["png_text", "is_declared_generated", "c2pa"]]
    assert counts.to_numpy().tolist() == [[1, 0], [1, 0], [0, 0]]


def test_the_lower_end_of_the_file_probe_decides_then_the_source_and_the_gravest_reason_comes_first():
    always = Metric(1.0, 9, reason=Reason("no_spread"))
    for auroc, suitable in (
        (Metric(0.95, 9, 0.90, 0.97), "no"),
        (Metric(0.95, 9, 0.89, 0.97), "with_care"),
        (always, "no"),
        (Metric(0.70, 9, 0.65, 0.75), "with_care"),
        (Metric(0.70, 9, 0.64, 0.75), "yes"),
        (Metric(None, 0, reason=Reason("fewer_than_two_classes")), "yes"),
    ):
        assessment = assess(known(), auroc, NOTHING)
        assert assessment.suitable == suitable
        assert any(reason.code.startswith("file") for reason in assessment.reasons) == (suitable != "yes")
    assert assess(known(), NOTHING, NOTHING) == shortcuts.Assessment("yes", [])
    assert assess(known(), NOTHING, always) == shortcuts.Assessment("with_care", [Reason("source")])
    assessment = assess(known().assign(source="x"), always, NOTHING)
    assert (assessment.suitable, assessment.reasons[0]) == ("no", Reason("file", value=1.0))
    assert len(assessment.reasons) == 3


def test_the_assessment_gives_reasons_and_weighs_copies_and_label_conflicts():
    half = ["x", "y"] * 20 + [""] * 40
    for frame, suitable, expected in (
        (known(a=9), "no", "class 'a' has fewer than 10 images: 9"),
        (known(a=10, b=30), "yes", ""),
        (known(groups=4), "no", "class 'a' has fewer than 5 groups: 4"),
        (known(groups=5), "yes", ""),
        (known(a=121), "with_care", "the classes are unbalanced: 121 images of 'a', 40 of 'b'"),
        (known(a=120), "yes", ""),
        (known().assign(source="x"), "with_care", "class 'a' comes from one source"),
        (known().assign(source=""), "with_care", "not checked: no source of a, b is known"),
        (known().assign(source=half), "with_care", "not checked: no source of b is known"),
        (known().assign(generator=["sd"] * 40 + [""] * 40), "with_care", "class 'a' comes from one generator"),
        (known().assign(outlier=["blank"] * 5 + [""] * 75), "with_care", "6% of the images are blank"),
        (known().assign(outlier=["blank"] * 4 + [""] * 76), "yes", ""),
        (known(a=0), "not_asked", "one class"),
    ):
        assessment = assess(frame, NOTHING, NOTHING)
        assert (assessment.suitable, bool(assessment.reasons)) == (suitable, suitable != "yes"), expected
        assert expected in "; ".join(assessment.format()[1])
    for count, conflict, suitable in (
        *((3, True, "no"), (2, True, "with_care")),  # 6 and 4 of 80 images
        *((5, False, "with_care"), (4, False, "yes"), (0, False, "yes")),
    ):
        rows = [(f"{i}l", f"{i}r", conflict) for i in range(count)]
        matches = pd.DataFrame(rows, columns=["left", "right", "conflict"])
        assert assess(known(), NOTHING, NOTHING, matches).suitable == suitable


def test_what_training_and_an_external_set_share_is_counted_with_its_classes():
    shared, other = "various diffusion models", "photographers not named"  # stand for a missing name
    ours = [(6, "real", f"Ann Lee; {other}", "https://a.example/", "")]
    ours.append((7, "drawing", "Bo Xu (art)", "https://b.example", shared))
    theirs = [(4, "real", f"Cy Ott, {other}", "https://a.example", "")]
    theirs.append((3, "drawing", "Di Roe and Bo Xu", "https://c.example", shared))
    columns = ["label", *(f"{OTHER_PREFIX}{name}" for name in ("author", "url")), "generator"]
    sets = []
    for name, kinds in (("ours", ours), ("theirs", theirs)):
        frame = pd.DataFrame([row for n, *row in kinds for _ in range(n)], columns=columns)
        sets.append(Dataset(name, Path(), frame.assign(source=name, origin="")))
    table, warnings = compare_provenance(*sets, {})
    assert table[["value", "training", "external"]].to_numpy().tolist() == [
        ["https://a.example", 6, 4],
        ["Bo Xu", 7, 3],
    ]
    assert [format_reason(warning, "data_audit") for warning in warnings] == [
        "real: url https://a.example on both sides: 6 images of training, 4 of theirs",
        "drawing: author Bo Xu on both sides: 7 images of training, 3 of theirs",
    ]

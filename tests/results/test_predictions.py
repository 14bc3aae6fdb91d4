"""Predictions: probabilities by hand, edge cases, and files without pickle."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from avatar_bench.errors import CheckpointError, DivergedError
from avatar_bench.results.predictions import Predictions, to_string_array


def predict(logits, targets, **options):
    n = len(logits)
    names = to_string_array(f"фото {row}, (x).png" for row in range(n))
    embeddings = np.arange(n * 2, dtype=np.float32).reshape(-1, 2)
    arrays = {"logits": np.asarray(logits, dtype=np.float32), "targets": np.asarray(targets, dtype=np.int64)}
    arrays |= {"embeddings": embeddings, "paths": names, "groups": names, "sources": to_string_array([""] * n)}
    return Predictions(classes=options.pop("classes", ("a", "b, c", "д")), **arrays, **options)


def test_probabilities_are_the_softmax_of_logits_over_temperature_however_large():
    logits = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    made = predict(logits, np.zeros(50), temperature=2.5)
    np.testing.assert_allclose(made.probabilities, softmax(logits.astype(float) / 2.5, axis=1), rtol=1e-12)
    np.testing.assert_allclose(made.probabilities.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(made.confidence, made.probabilities.max(axis=1))
    for temperature in (2.5, 0.05, 20.0):  # changes no prediction
        predicted = predict(logits, np.zeros(50), temperature=temperature).predicted
        np.testing.assert_array_equal(predicted, logits.argmax(axis=1))
    made = predict([[1e30, 0, -1e30], [2, 2, 2]], [0, 1])
    assert made.confidence[0] == 1.0
    assert made.probabilities[0].tolist() == [1, 0, 0]
    assert made.predicted.tolist() == [0, 0]
    np.testing.assert_allclose(made.confidence[1], 1 / 3)
    unknown = predict([[9, 0, 0], [9, 0, 0], [0, 9, 0]], [0, -1, 0])
    assert unknown.correct.tolist() == [True, False, False]
    for bad in (np.nan, np.inf, -np.inf):  # is refused with its image
        with pytest.raises(DivergedError, match=r"фото 1, \(x\)\.png"):
            predict([[0, 0, 0], [0, bad, 0]], [0, 0])


def test_a_file_gives_back_what_was_saved_and_holds_no_pickle(tmp_path):
    made = predict(np.random.default_rng(0).normal(size=(4, 3)), [0, 1, 2, -1], temperature=1.25)
    made.save(tmp_path / "x.npz")
    read = Predictions.load(tmp_path / "x.npz")
    assert (read.classes, read.temperature) == (made.classes, made.temperature)
    for name in ("logits", "embeddings", "targets", "paths", "groups", "sources"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
        assert getattr(read, name).dtype == getattr(made, name).dtype
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]
    with zipfile.ZipFile(tmp_path / "x.npz") as parts:
        assert len(parts.namelist()) == 9
    predict(np.zeros((2, 3)), [0, 1], has_logits=False).save(tmp_path / "x.npz")
    assert not Predictions.load(tmp_path / "x.npz").has_logits
    with np.load(tmp_path / "x.npz") as stored:
        older = {name: stored[name] for name in stored if name != "has_logits"}
    np.savez(tmp_path / "older.npz", **older)
    assert Predictions.load(tmp_path / "older.npz").has_logits  # it is of a network


def test_some_rows_and_no_images_have_their_codes_of_groups_and_all_rows_are_no_copy(tmp_path):
    none = predict(np.zeros((0, 3)), [])
    assert (len(none), none.probabilities.shape, none.group_codes.tolist()) == (0, (0, 3), [])
    none.save(tmp_path / "none.npz")
    assert len(Predictions.load(tmp_path / "none.npz")) == 0
    names = to_string_array(["b", "Ж", "a", "b", "", "ä"])
    made = replace(predict(np.eye(3)[np.arange(6) % 3], np.arange(6) % 3), groups=names)
    np.testing.assert_array_equal(made.group_codes, np.unique(names, return_inverse=True)[1])
    for rows in (np.array([2, 0]), np.arange(6) % 2 == 0, np.array([1, 0, 3])):
        part = made.take(rows)
        np.testing.assert_array_equal(part.targets, made.targets[rows])
        np.testing.assert_array_equal(part.paths, made.paths[rows])
        np.testing.assert_array_equal(part.group_codes, np.unique(names[rows], return_inverse=True)[1])
        assert part.classes == made.classes
    assert made.take(np.arange(6)) is made.take(np.ones(6, dtype=bool)) is made
    single = made.take(np.array([0]))
    assert (len(single.take(np.array([False]))), len(single.take(np.array([0, 0])))) == (0, 2)


@pytest.mark.parametrize(
    "other",
    [
        *({"logits": np.zeros(shape, dtype=np.float32)} for shape in ((3, 3), (2, 2))),
        *({"logits": np.full((2, 3), np.nan, np.float32)}, {"logits": np.zeros((2, 3), dtype=np.int64)}),
        *({"targets": np.array(targets)} for targets in ([0, 3], [0, -2], ["0", "1"])),
        *({"embeddings": np.zeros(2)}, {"paths": np.zeros(2)}, {"classes": np.array(3)}),
        *({"temperature": np.array([1.0, 2.0])}, {"temperature": np.nan}),
    ],
    ids=str,
)
def test_arrays_that_do_not_go_together_are_refused(other, tmp_path):
    predict(np.zeros((2, 3)), [0, 1]).save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as stored:
        arrays = {**stored, **other}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(CheckpointError):
        Predictions.load(tmp_path / "x.npz")


def test_packed_missing_and_foreign_files_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "packed.npz", logits=np.zeros(10**6))
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("no arrays")
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:  # says that it is larger than memory
        header = "{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,)}\n"
        archive.writestr("classes.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode())
    for name in ("packed.npz", "one.npy", "text.npz", "huge.npz", "nowhere.npz"):
        with pytest.raises(CheckpointError):
            Predictions.load(tmp_path / name)


def test_probabilities_of_merged_and_of_some_classes_are_sums_and_renamed_classes_keep_their_logits():
    logits = np.random.default_rng(0).normal(0, 4, size=(50, 3)).astype(np.float32)
    made = predict(logits, np.zeros(50), temperature=2.5)
    merged = made.merge({"x": ["д"], "y": ["a", "b, c"]}, np.ones(50, dtype=np.int64))
    for predictions, temperature in ((merged, 2.5), (merged.uncalibrated, 1.0)):
        whole = softmax(logits.astype(float) / temperature, axis=1)
        expected = np.column_stack([whole[:, 2], whole[:, 0] + whole[:, 1]])
        np.testing.assert_allclose(predictions.probabilities, expected, rtol=1e-12)
    assert merged.classes == ("x", "y")
    assert (merged.targets == 1).all()
    energy = logsumexp(merged.uncalibrated.logits, axis=1)
    np.testing.assert_allclose(energy, logsumexp(logits.astype(float), axis=1), rtol=1e-12)
    plain, turned = merged.uncalibrated, merged.reorder(("y", "x")).uncalibrated
    np.testing.assert_allclose(turned.probabilities, plain.probabilities[:, ::-1])
    np.testing.assert_array_equal(merged.take(np.array([3, 1])).uncalibrated.logits, plain.logits[[3, 1]])
    made = predict([[1, 2, 300], [0, 0, 0]], [0, 1])  # the first two are far below any float's last digit
    merged = made.merge({"b": ["b, c"], "a": ["a"]}, np.array([-1, 0]))
    np.testing.assert_allclose(merged.probabilities, [softmax([2, 1]), [0.5, 0.5]], rtol=1e-12)
    renamed = predict([[1, 2, 3]], [0]).merge({"z": ["д"], "x": ["a"], "y": ["b, c"]}, np.array([1]))
    assert renamed.logits.tolist() == [[3, 1, 2]]
    assert (renamed.has_logits, renamed.unscaled) == (True, None)

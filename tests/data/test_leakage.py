"""Guards: copies across the split, copies of two labels, and a shortcut that an audit has found."""

import json
import shutil
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avatar_bench.data import leakage
from avatar_bench.data.dataset import Dataset, read_dataset, read_manifest, read_split, write_split
from avatar_bench.data.fingerprints import ORIENTATIONS
from avatar_bench.data.leakage import find_shared_images, fingerprint_dataset, make_hash_columns, refuse_shortcut
from avatar_bench.data.splits import SplitPlan
from avatar_bench.errors import DataError, GuardError

SHARED = Path(__file__).parents[3] / "shared" / "data"
COPIES = {  # name, change, and options of its file
    "bytes": ("copy.png", Image.Image.copy, {}),
    "pixels": ("copy.webp", Image.Image.copy, {"lossless": True}),
    "jpeg": ("copy.jpg", Image.Image.copy, {"quality": 60}),
    "mirrored": ("copy.png", lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), {}),
    "smaller": ("copy.png", lambda image: image.resize((34, 34)), {}),
}
NEAR = ["pixels", "jpeg", "mirrored", "smaller"]


def paint(seed):
    """Return an image of soft patches, (48, 48), that no other seed gives."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC)


def save_near_copies(root):
    """Save for each of sixty images in a/ and b/ one with a share of another, turned, by name before it or after."""
    for seed in range(60):
        image = np.asarray(Image.blend(paint(seed), paint(seed + 1000), 0.1 + 0.01 * (seed % 20)))
        turned = np.ascontiguousarray(list(ORIENTATIONS.values())[seed % 8](image))
        Image.fromarray(turned).save(root / "ab"[seed % 2] / f"{'-z'[seed // 2 % 2]}{seed:02}.png")


def copy(kind, label="a"):
    """Add a copy of image 0, of class a, to a class."""
    name, change, options = COPIES[kind]
    return lambda root: change(paint(0)).save(root / label / name, **options)


@pytest.fixture
def make_set(tmp_path):
    """Return a set of 30 images per class, "a" and "b", in class folders; `change` may modify the folder first."""

    def make(change=lambda root: None):
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        for seed in range(60):
            file = tmp_path / "set" / "ab"[seed % 2] / f"{seed:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            paint(seed).save(file)
        change(tmp_path / "set")
        return read_dataset(tmp_path / "set")

    return make


@pytest.fixture
def others(tmp_path):
    """A folder with ten images of a class that no set of `make_set` has."""
    (tmp_path / "others" / "a").mkdir(parents=True)
    for seed in range(100, 110):
        paint(seed).save(tmp_path / "others" / "a" / f"{seed}.png")
    return tmp_path / "others"


def split(whole, allowed=(), **plan):
    """Split by a plan, and return the notes, too."""
    notes = []
    return leakage.split_without_leakage(whole, SplitPlan(**plan), allowed, notes), notes


def side(used, name):
    return used.frame.loc[used.frame["path"] == name, "split"].iat[0].replace("calibration", "val")


def test_fingerprints_are_kept_for_files_that_hold_the_same_and_for_no_others(make_set, tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    dataset = make_set()
    anew = fingerprint_dataset(dataset)
    (cache_file,) = (tmp_path / "cache" / "fingerprints").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("avatar_bench.data.fingerprints.decode", None)
        assert fingerprint_dataset(dataset) == anew
    for damage in (cache_file.read_bytes()[:-9], cache_file.read_bytes().replace(b"1", b"2"), b"\xff", b""):
        cache_file.write_bytes(damage)
        assert fingerprint_dataset(dataset) == anew
    paint(99).save(dataset.file(0))  # the data set says as before that it is another
    changed = fingerprint_dataset(dataset)
    assert (changed[0] != anew[0], changed[1:]) == (True, anew[1:])


def test_all_broken_images_are_named_at_once_and_one_as_decoding_tells_it(make_set):
    for broken, message in ((2, "b/01.png."), (9, "b/07.png, a/08.png."), (40, "a/20.png and 19 more.")):
        dataset = make_set()
        dataset = dataset.take(dataset.frame["path"].str.extract(r"(\d+)").astype(int)[0].to_numpy().argsort())
        for row in range(broken):
            dataset.file(row).write_bytes(b"broken")
        with pytest.raises(DataError) as caught:
            fingerprint_dataset(dataset)
        first = f"{broken} of 60 images of set cannot be used, first {dataset.file(0)}: not a known image format."
        assert caught.value.lines[0] == first
        assert caught.value.lines[1].startswith("The others: b/01.png")
        assert caught.value.lines[1].endswith(message)
    dataset = make_set()
    dataset.file(7).write_bytes(b"")
    for read in (fingerprint_dataset, lambda whole: split(whole, folds=3)):
        with pytest.raises(DataError, match=f"^{dataset.file(7)}: empty file.$"):
            read(dataset)


def test_distinct_images_are_split_as_they_are_and_byte_copies_of_other_groups_are_refused(make_set):
    whole = make_set()
    used, notes = split(whole, folds=3)
    assert notes == []
    assert used.frame["group"].tolist() == whole.frame["group"].tolist() == used.frame["stated_group"].tolist()
    hashes = dict(zip(whole.frame["path"], (image.phashes[0] for image in fingerprint_dataset(whole)), strict=True))
    assert used.frame["phash"].tolist() == [hashes[path] for path in used.frame["path"]]
    assert "place" not in used.frame
    whole = make_set(copy("bytes"))
    whole.frame["group"] = whole.frame["path"]
    whole.frame["split"] = ["val"] * 8 + ["train"] * 53
    with pytest.raises(GuardError, match="are the same image"):
        split(whole)
    used, _ = split(whole, by="group", folds=3)
    assert side(used, "a/copy.png") == side(used, "a/00.png")


def test_a_limit_looks_at_the_images_that_are_drawn_alone_and_divides_the_labelled_by_themselves(make_set):
    whole = make_set()
    bare = whole.frame["path"].str.contains(r"[05]\.png")
    partly = Dataset("partly", whole.root, whole.frame.assign(label=whole.frame["label"].where(~bare, "")))
    for limit in (20, 50, 70):
        alone, used = (split(images, folds=3, limit=limit)[0] for images in (partly.take(~bare), partly))
        assert used.frame[: len(alone)][["path", "split"]].equals(alone.frame[["path", "split"]])
        assert len(used) == min(limit, 60)
    used, _ = split(whole, folds=3, limit=24)
    assert len(used) == 24
    unused = next(path for path in whole.frame["path"] if path not in set(used.frame["path"]))
    (whole.root / unused).write_text("broken")
    assert split(whole, folds=3, limit=24)[0].frame.equals(used.frame)


@pytest.mark.parametrize("kind", NEAR)
def test_a_copy_goes_to_the_side_of_its_image_and_a_stated_split_that_divides_them_is_refused(kind, make_set):
    whole = make_set(copy(kind))
    for seed in range(2):
        used, notes = split(whole, folds=3, seed=seed)
        assert side(used, f"a/{COPIES[kind][0]}") == side(used, "a/00.png")
        assert notes[0] == "1 group is joined to others because of near-duplicates"
        drawn, _ = split(whole, folds=3, fold=2, shots=5, draw_seed=seed)  # a copy that is not drawn is on no side
        assert len(drawn.select_split("train")) == 10
    for other in ["val", "test"]:
        whole = make_set(copy(kind))
        copied = whole.frame["path"].str.contains("copy")
        whole.frame["split"] = ["train", "train", "train", "val", "test"] * 12 + ["train"]
        whole.frame.loc[whole.frame["path"] == "a/00.png", "split"] = "train"
        whole.frame.loc[copied, "split"] = other
        with pytest.raises(GuardError, match=r"a/00\.png \(train\)") as caught:
            split(whole)
        assert f"({other})" in str(caught.value)
        assert ("mirrored" in str(caught.value)) == (kind == "mirrored")
        assert "allow=[near_duplicates]" in str(caught.value)
        assert len(split(whole, ("near_duplicates",))[0]) == len(split(whole, by="group", folds=3)[0]) == 61
        whole.frame.loc[copied, "split"] = "train"
        assert len(split(whole)[0]) == 61


@pytest.mark.parametrize("seed", range(2))
def test_no_guard_finds_near_duplicates_across_a_split_of_ours(make_set, tmp_path, seed):
    whole = make_set(save_near_copies)
    used, notes = split(whole, folds=3, seed=seed)
    write_split(used, tmp_path / "split.csv")
    assert notes[0].endswith("because of near-duplicates")
    written = read_split(tmp_path / "split.csv", whole.root)
    names = ["train"], ["val", "calibration"], ["test"]
    for seen, evaluated in permutations([written.take(written.frame["split"].isin(sides)) for sides in names], 2):
        trained = Dataset("run", seen.root, seen.frame.assign(split="train"))
        leakage.Leakage([leakage.UsedImages(whole.classes, trained)], [], ()).refuse(evaluated)
        assert not leakage.mark_shared_images(evaluated, seen).any()


def test_an_exact_copy_of_another_label_is_refused_and_a_near_one_a_warning_that_names_the_pair(make_set):
    for kind in ("bytes", "pixels"):
        whole = make_set(copy(kind, "b"))
        with pytest.raises(GuardError, match=r"a/00\.png \(a\) and b/copy\.\w+ \(b\) are the same image"):
            split(whole, folds=3)
        used, notes = split(whole, ("label_conflict",), folds=3)
        assert len(used) == 61
        assert "different labels" in notes[0]
    _, notes = split(make_set(copy("jpeg", "b")), folds=3)
    assert "first a/00.png (a) and b/copy.jpg (b)" in notes[0]
    assert notes[0].startswith("1 pair ")


def test_copies_are_found_by_the_hashes_of_an_earlier_version_and_by_files_that_are_there(make_set, others):
    train = make_set()
    assert find_shared_images(train, read_dataset(others)) == []
    hashes = make_hash_columns(fingerprint_dataset(train))
    shutil.move(train.root / "b" / "07.png", others / "a" / "07.png")
    paint(8).transpose(Image.Transpose.ROTATE_90).save(others / "a" / "turned.jpg", quality=80)
    upright, shown = train.frame.assign(phash=hashes["phash"]), read_dataset(others)

    def find(root, evaluated):
        matches = find_shared_images(Dataset("upright", root, upright), evaluated)
        return sorted((train.frame["path"].iat[match.left], match.kind) for match in matches)

    assert find(train.root, shown) == [("a/08.png", "near"), ("b/07.png", "bytes")]  # the files that are there are read
    assert find(others / "gone", shown.take(shown.frame.index < 11)) == [("b/07.png", "bytes")]
    with pytest.raises(DataError, match=r"cannot be read"):
        find_shared_images(Dataset("gone", others / "gone", train.frame), shown)


def test_the_hashes_that_are_kept_find_what_the_files_do(make_set):
    whole = make_set(save_near_copies)
    copied = whole.frame["path"].str.contains("[-z]")
    hashed = Dataset("hashed", whole.root, whole.frame.assign(**make_hash_columns(fingerprint_dataset(whole))))
    upright = Dataset("upright", whole.root, hashed.frame.drop(columns="turned_phashes"))  # of an earlier version
    for seen, evaluated in ((copied, ~copied), (~copied, copied)):
        matches = find_shared_images(whole.take(seen), whole.take(evaluated))
        assert len(matches) > 10
        for known in (hashed, upright):
            assert find_shared_images(known.take(seen), whole.take(evaluated)) == matches


@pytest.mark.parametrize("by", ["group", "source"])
def test_a_copy_of_the_plans_own_images_without_a_label_changes_no_side_of_the_others(make_set, by):
    def copy_all(root):
        for seed in range(60):
            paint(seed).save(root / "a" / f"{seed:02}-copy.jpg", quality=60)

    whole = make_set(copy_all)
    copied = whole.frame["path"].str.contains("copy")
    whole.frame["source"] = ["xyz"[row % 3] for row in range(len(whole))]
    whole.frame.loc[copied, ["label", "source"]] = ""
    plan = {"folds": 3, "by": by, "held_out": ("x",) * (by == "source")}
    alone, (used, notes) = split(whole.take(~copied), **plan)[0], split(whole, **plan)
    assert not any("joined" in note or "left out" in note for note in notes)
    assert used.frame[: len(alone)][["path", "split", "group"]].equals(alone.frame[["path", "split", "group"]])
    sides = alone.frame.set_index("path")["split"]
    for row in used.frame[len(alone) :].itertuples():
        seed = int(Path(row.path).name[:2])
        assert row.split == sides[f"{'ab'[seed % 2]}/{seed:02}.png"]


def test_images_that_one_without_a_label_joins_across_the_split_are_told_and_left_out_of_the_side_before(make_set):
    whole = make_set(copy("jpeg"))
    copied = whole.frame["path"].str.contains("copy")
    sides = split(whole.take(~copied), folds=3)[0].frame.set_index("path")["split"]
    near = "a/00.png"
    other = next(path for path in sides.index if {sides[path], sides[near]} == {"train", "test"})
    whole.frame.loc[copied, ["label", "group"]] = "", whole.frame["group"][whole.frame["path"] == other].iat[0]
    used, notes = split(whole, folds=3)
    assert notes == ["left out because unlabelled images join them to images of another side: 1 image"]
    assert side(used, "a/copy.jpg") == "test"
    assert set(sides.index) - set(used.frame["path"]) == {near if sides[near] == "train" else other}


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED / "avatars.csv").is_file(), reason="../shared/data is not here")
def test_the_blind_avatars_raise_no_false_alarm():
    whole = read_manifest(SHARED / "avatars.csv")
    used, notes = split(whole)
    assert (notes, len(used)) == ([], len(whole))
    assert find_shared_images(used.select_split("train"), read_manifest(SHARED / "blind.csv")) == []


def test_training_is_refused_where_the_audit_says_no_of_what_it_would_see(tmp_path):
    refuse_shortcut(tmp_path / "audit", None)  # no audit is no objection
    for answer, equalised, option, reason in (
        ("yes", "yes", None, ""),
        ("with_care", None, None, ""),
        ("no", "yes", None, "the source reveals"),
        ("no", "with_care", "jpeg", ""),
        ("no", "no", "jpeg", "one class"),
        ("no", None, "jpeg", "the source reveals"),
        ("no", None, None, "the source reveals"),
    ):
        provenance = {"assessment": {"suitable": answer, "reasons": [{"code": "source"}]}}
        if equalised:
            provenance["equalised/assessment"] = {"suitable": equalised, "reasons": [{"code": "one_class"}]}
        (tmp_path / "metrics.json").write_text(json.dumps({"provenance": provenance}))
        if not reason:
            refuse_shortcut(tmp_path, option)
            continue
        with pytest.raises(GuardError, match=reason) as caught:
            refuse_shortcut(tmp_path, option)
        assert "allow=[shortcut]" in caught.value.lines[-1]
        assert ("data.equalise=jpeg" in caught.value.lines[-1]) == (equalised == "yes")
        assert len(caught.value.lines) <= 3
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(DataError, match=r"metrics\.json"):
        refuse_shortcut(tmp_path, None)


def test_a_class_that_its_file_format_tells_is_refused():
    for formats in (
        {"a": ["PNG"], "b": ["JPEG"]},
        {"a": ["PNG"], "b": ["JPEG"], "c": ["JPEG"]},
        {"a": ["PNG"] * 9 + ["JPEG"], "b": ["JPEG"] * 9 + ["PNG"]},  # nine of ten, by hand: .9
    ):
        with pytest.raises(GuardError, match="file format alone identifies class 'a'"):
            refuse_formats(formats)
    refuse_formats({"a": ["PNG"] * 8 + ["JPEG"] * 2, "b": ["JPEG"] * 9 + ["PNG"]})
    refuse_formats({"a": ["PNG"], "b": ["PNG"]})
    refuse_formats({"a": ["PNG", "WEBP"], "b": ["WEBP", "PNG"]})
    refuse_formats({"a": ["PNG"]})
    refuse_formats({"a": ["PNG", ""], "b": ["PNG"]})  # files of no known format are for decoding to tell
    refuse_formats({"a": [""], "b": ["PNG"]})
    refuse_formats({"a": ["PNG"], "b": ["JPEG"]}, n=9)  # few images say nothing


def refuse_formats(formats, n=20):
    """Refuse a set of `n` images a class with these formats in turn."""
    kinds = [of_class[number % len(of_class)] for of_class in formats.values() for number in range(n)]
    leakage.refuse_format_shortcut(pd.Series(list(formats)).repeat(n).reset_index(drop=True), kinds)

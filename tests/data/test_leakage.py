"""Guards: copies across the split, copies of two labels, and a shortcut that an audit has found."""

import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from avatar_bench.data.dataset import Dataset, read_dataset, read_manifest, read_split, write_split
from avatar_bench.data.leakage import (
    Leakage,
    UsedImages,
    find_shared_images,
    fingerprint_dataset,
    make_hash_columns,
    mark_shared_images,
    refuse_format_shortcut,
    refuse_shortcut,
    split_without_leakage,
)
from avatar_bench.data.splits import SplitPlan
from avatar_bench.errors import DataError, GuardError
from tests.data.near_copies import paint, save_near_copies

SHARED = Path(__file__).parents[3] / "shared" / "data"
Make = Callable[..., Dataset]


@pytest.fixture
def make_set(tmp_path):
    """Return a set of 30 images per class, "a" and "b", in class folders; `change` may modify the folder first."""

    def make(change=lambda root: None):
        for seed in range(60):
            file = tmp_path / "set" / "ab"[seed % 2] / f"{seed:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            paint(seed).save(file)
        change(tmp_path / "set")
        return read_dataset(tmp_path / "set")

    return make


def copy(kind, label="a"):
    """Add a copy of image 0, of class a, to a class."""
    changes = {
        "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "smaller": lambda image: image.resize((34, 34)),
    }
    ending = ".webp" if kind == "pixels" else ".jpg" if kind == "jpeg" else ".png"
    options = {"lossless": True} if kind == "pixels" else {"quality": 60} if kind == "jpeg" else {}
    change = changes.get(kind, Image.Image.copy)
    return lambda root: change(paint(0)).save(root / label / f"copy{ending}", **options)


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
    assert changed[0] != anew[0]
    assert changed[1:] == anew[1:]


def test_broken_images_are_all_named_at_once(make_set):
    for broken, message in [(2, "b/01.png."), (9, "b/07.png, a/08.png."), (40, "a/20.png and 19 more.")]:
        by_seed = make_set().frame["path"].str.extract(r"(\d+)").astype(int)[0].to_numpy().argsort()
        dataset = make_set().take(by_seed)
        for row in range(broken):
            dataset.file(row).write_bytes(b"broken")
        with pytest.raises(DataError) as caught:
            fingerprint_dataset(dataset)
        assert caught.value.lines[0] == (
            f"{broken} of 60 images of set cannot be used, first {dataset.file(0)}: not a known image format."
        )
        assert caught.value.lines[1].startswith("The others: b/01.png")
        assert caught.value.lines[1].endswith(message)


def test_one_broken_image_is_told_as_decoding_tells_it(make_set):
    dataset = make_set()
    dataset.file(7).write_bytes(b"")
    with pytest.raises(DataError, match=f"^{dataset.file(7)}: empty file.$"):
        fingerprint_dataset(dataset)


def side(used, name):
    return str(used.frame.loc[used.frame["path"] == name, "split"].iat[0])


def test_distinct_images_are_split_as_they_are_and_get_their_hash(make_set):
    whole, notes = make_set(), list[str]()
    used = split_without_leakage(whole, SplitPlan(folds=3), (), notes)
    assert notes == []
    assert used.frame["group"].tolist() == whole.frame["group"].tolist() == used.frame["stated_group"].tolist()
    hashes = dict(zip(whole.frame["path"], (one.phashes[0] for one in fingerprint_dataset(whole)), strict=True))
    assert used.frame["phash"].tolist() == [hashes[path] for path in used.frame["path"]]
    assert "place" not in used.frame


@pytest.mark.parametrize("kind", ["pixels", "jpeg", "mirrored", "smaller"])
def test_a_copy_goes_to_the_side_of_its_image_and_that_is_said(make_set, kind):
    whole = make_set(copy(kind))
    for seed in range(4):
        notes = list[str]()
        used = split_without_leakage(whole, SplitPlan(folds=3, seed=seed), (), notes)
        name = next(path for path in used.frame["path"] if "copy" in path)
        assert side(used, name).replace("calibration", "val") == side(used, "a/00.png").replace("calibration", "val")
        assert notes[0] == "1 group is joined to others because of near-duplicates"


@pytest.mark.parametrize("seed", range(4))
def test_no_guard_finds_near_duplicates_across_a_split_of_ours(make_set, tmp_path, seed):
    whole, notes = make_set(save_near_copies), list[str]()
    write_split(split_without_leakage(whole, SplitPlan(folds=3, seed=seed), (), notes), tmp_path / "split.csv")
    assert notes[0].endswith("because of near-duplicates")
    written = read_split(tmp_path / "split.csv", whole.root)
    sides = [
        written.take(written.frame["split"].isin(names)) for names in (["train"], ["val", "calibration"], ["test"])
    ]
    for seen, evaluated in permutations(sides, 2):
        trained = Dataset("run", seen.root, seen.frame.assign(split="train"))
        Leakage([UsedImages(whole.classes, trained)], [], ()).refuse(evaluated)
        assert not mark_shared_images(evaluated, seen).any()


def test_a_limit_looks_at_the_images_that_are_drawn_alone(make_set):
    whole = make_set()
    used = split_without_leakage(whole, SplitPlan(folds=3, limit=24), (), [])
    assert len(used) == 24
    (whole.root / next(path for path in whole.frame["path"] if path not in set(used.frame["path"]))).write_text(
        "broken"
    )
    assert split_without_leakage(whole, SplitPlan(folds=3, limit=24), (), []).frame.equals(used.frame)


@pytest.mark.parametrize("kind", ["pixels", "jpeg", "mirrored", "smaller"])
@pytest.mark.parametrize("other", ["val", "test"])
def test_a_stated_split_that_divides_copies_is_refused_by_the_first_pair(make_set, kind, other):
    whole = make_set(copy(kind))
    copied = whole.frame["path"].str.contains("copy")
    sides = ["train", "train", "train", "val", "test"] * 12 + ["train"]
    whole.frame["split"] = sides
    whole.frame.loc[whole.frame["path"] == "a/00.png", "split"] = "train"
    whole.frame.loc[copied, "split"] = other
    with pytest.raises(GuardError, match=r"a/00\.png \(train\)") as caught:
        split_without_leakage(whole, SplitPlan(), (), [])
    assert f"({other})" in str(caught.value)
    assert ("mirrored" in str(caught.value)) == (kind == "mirrored")
    assert "allow=[near_duplicates]" in str(caught.value)
    assert len(split_without_leakage(whole, SplitPlan(), ("near_duplicates",), [])) == 61
    assert len(split_without_leakage(whole, SplitPlan(by="group", folds=3), (), [])) == 61
    whole.frame.loc[copied, "split"] = "train"
    assert len(split_without_leakage(whole, SplitPlan(), (), [])) == 61


def test_a_byte_copy_of_another_stated_group_is_refused_across_a_stated_split(make_set):
    whole = make_set(copy("bytes"))
    whole.frame["group"] = whole.frame["path"]
    whole.frame["split"] = ["val"] * 8 + ["train"] * 53
    with pytest.raises(GuardError, match="are the same image"):
        split_without_leakage(whole, SplitPlan(), (), [])
    used = split_without_leakage(whole, SplitPlan(by="group", folds=3), (), [])
    assert side(used, "a/copy.png").replace("calibration", "val") == side(used, "a/00.png").replace(
        "calibration", "val"
    )


def test_a_near_duplicate_of_another_label_is_a_warning_that_names_the_pair(make_set):
    notes = list[str]()
    split_without_leakage(make_set(copy("jpeg", "b")), SplitPlan(folds=3), (), notes)
    assert "first a/00.png (a) and b/copy.jpg (b)" in notes[0]
    assert notes[0].startswith("1 pair ")


@pytest.mark.parametrize("kind", ["bytes", "pixels"])
def test_an_exact_copy_of_another_label_is_refused(make_set, kind):
    whole = make_set(copy(kind, "b"))
    with pytest.raises(GuardError, match=r"a/00\.png \(a\) and b/copy\.\w+ \(b\) are the same image"):
        split_without_leakage(whole, SplitPlan(folds=3), (), [])
    notes = list[str]()
    assert len(split_without_leakage(whole, SplitPlan(folds=3), ("label_conflict",), notes)) == 61
    assert "different labels" in notes[0]


def test_an_image_that_cannot_be_decoded_is_named(make_set):
    whole = make_set(lambda root: (root / "a" / "00.png").write_bytes((root / "a" / "00.png").read_bytes()[:200]))
    with pytest.raises(DataError, match=r"00\.png"):
        split_without_leakage(whole, SplitPlan(folds=3), (), [])


def test_copies_of_training_images_are_found_by_the_hashes_kept_of_them(make_set, tmp_path):
    train = make_set()
    hashed = Dataset("train", train.root, train.frame.assign(**make_hash_columns(fingerprint_dataset(train))))
    (tmp_path / "others" / "a").mkdir(parents=True)
    for seed in range(100, 110):
        paint(seed).save(tmp_path / "others" / "a" / f"{seed}.png")
    assert find_shared_images(hashed, read_dataset(tmp_path / "others")) == []
    paint(7).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "others" / "a" / "turned.jpg", quality=80)
    others = read_dataset(tmp_path / "others")
    for known in (hashed, train):  # without hashes the files are read
        (match,) = find_shared_images(known, others)
        assert train.frame["path"].iat[match.left] == "b/07.png"
        assert others.frame["path"].iat[match.right] == "a/turned.jpg"


def test_the_hashes_that_are_kept_find_what_the_files_do(make_set):
    whole = make_set(save_near_copies)
    copied = whole.frame["path"].str.contains("[-z]")
    hashed = Dataset("hashed", whole.root, whole.frame.assign(**make_hash_columns(fingerprint_dataset(whole))))
    upright = Dataset("upright", whole.root, hashed.frame.drop(columns="turned_phashes"))
    for seen, evaluated in ((copied, ~copied), (~copied, copied)):
        matches = find_shared_images(whole.take(seen), whole.take(evaluated))
        assert len(matches) > 10
        assert find_shared_images(hashed.take(seen), whole.take(evaluated)) == matches
        assert find_shared_images(upright.take(seen), whole.take(evaluated)) == matches  # of an earlier version


def test_the_upright_hash_is_enough_of_a_training_of_an_earlier_version_whose_images_are_gone(make_set, tmp_path):
    train = make_set()
    hashes = make_hash_columns(fingerprint_dataset(train))
    (tmp_path / "others" / "a").mkdir(parents=True)
    for seed in range(100, 110):
        paint(seed).save(tmp_path / "others" / "a" / f"{seed}.png")
    (tmp_path / "others" / "a" / "07.png").write_bytes((train.root / "b" / "07.png").read_bytes())
    paint(8).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "others" / "a" / "turned.jpg", quality=80)
    (train.root / "b" / "07.png").unlink()
    others = read_dataset(tmp_path / "others")
    upright = Dataset("upright", train.root, train.frame.assign(phash=hashes["phash"]))
    matches = [(train.frame["path"].iat[match.left], match.kind) for match in find_shared_images(upright, others)]
    assert sorted(matches) == [("a/08.png", "near"), ("b/07.png", "bytes")]  # the files that are there are read
    (match,) = find_shared_images(
        Dataset("gone", tmp_path / "gone", upright.frame), others.take(others.frame.index < 11)
    )
    assert (train.frame["path"].iat[match.left], match.kind) == ("b/07.png", "bytes")
    with pytest.raises(DataError, match=r"cannot be read"):
        find_shared_images(Dataset("gone", tmp_path / "gone", train.frame), others)


@pytest.mark.parametrize("by", ["group", "source"])
def test_a_copy_of_the_plans_own_images_without_a_label_changes_no_side_of_the_others(make_set, by):
    whole = make_set(
        lambda root: [paint(seed).save(root / "a" / f"{seed:02}-copy.jpg", quality=60) for seed in range(60)]
    )
    copied = whole.frame["path"].str.contains("copy")
    whole.frame["source"] = ["xyz"[row % 3] for row in range(len(whole))]
    whole.frame.loc[copied, ["label", "source"]] = ""
    plan = SplitPlan(folds=3, by=by, held_out=("x",) * (by == "source"))
    alone, notes = split_without_leakage(whole.take(~copied), plan, (), []), list[str]()
    used = split_without_leakage(whole, plan, (), notes)
    assert not any("joined" in note or "left out" in note for note in notes)
    assert used.frame[: len(alone)][["path", "split", "group"]].equals(alone.frame[["path", "split", "group"]])
    sides = alone.frame.set_index("path")["split"]
    for row in used.frame[len(alone) :].itertuples():
        seed = int(Path(str(row.path)).name[:2])
        assert row.split == sides[f"{'ab'[seed % 2]}/{seed:02}.png"]


def test_images_that_one_without_a_label_joins_across_the_split_are_told_and_left_out_of_the_side_before(make_set):
    whole = make_set(copy("jpeg"))
    copied = whole.frame["path"].str.contains("copy")
    plan = SplitPlan(folds=3)
    sides = split_without_leakage(whole.take(~copied), plan, (), []).frame.set_index("path")["split"]
    near = "a/00.png"
    other = next(path for path in sides.index if {sides[path], sides[near]} == {"train", "test"})
    whole.frame.loc[copied, ["label", "group"]] = "", whole.frame["group"][whole.frame["path"] == other].iat[0]
    notes = list[str]()
    used = split_without_leakage(whole, plan, (), notes)
    assert notes == ["left out because unlabelled images join them to images of another side: 1 image"]
    assert side(used, "a/copy.jpg") == "test"
    assert set(sides.index) - set(used.frame["path"]) == {near if sides[near] == "train" else other}


def test_a_limit_divides_the_labelled_as_if_nothing_else_were_there(make_set):
    whole = make_set()
    bare = whole.frame["path"].str.contains(r"[05]\.png")
    whole.frame.loc[bare, "label"] = ""
    for limit in (20, 50, 70):
        plan = SplitPlan(folds=3, limit=limit)
        alone, used = split_without_leakage(whole.take(~bare), plan, (), []), split_without_leakage(whole, plan, (), [])
        assert used.frame[: len(alone)][["path", "split"]].equals(alone.frame[["path", "split"]])
        assert len(used) == min(limit, 60)


def audit(folder, answer, equalised=None):
    provenance = {"assessment": {"suitable": answer, "reasons": [{"code": "source"}]}}
    if equalised:
        provenance["equalised/assessment"] = {"suitable": equalised, "reasons": [{"code": "one_class"}]}
    (folder / "metrics.json").write_text(json.dumps({"provenance": provenance}))
    return folder


@pytest.mark.parametrize(
    ("answer", "equalised", "option", "refused"),
    [
        ("yes", "yes", None, False),
        ("with_care", None, None, False),
        ("no", "yes", None, True),
        ("no", "with_care", "jpeg", False),
        ("no", "no", "jpeg", True),
        ("no", None, "jpeg", True),
        ("no", None, None, True),
    ],
)
def test_training_is_refused_where_the_audit_says_no_of_what_it_would_see(tmp_path, answer, equalised, option, refused):
    folder = audit(tmp_path, answer, equalised)
    if not refused:
        refuse_shortcut(folder, option)
        return
    reason = "one class" if option and equalised else "the source reveals"
    with pytest.raises(GuardError, match=reason) as caught:
        refuse_shortcut(folder, option)
    assert "allow=[shortcut]" in caught.value.lines[-1]
    assert ("data.equalise=jpeg" in caught.value.lines[-1]) == (equalised == "yes")
    assert len(caught.value.lines) <= 3


def test_no_audit_is_no_objection_and_a_broken_one_is_named(tmp_path):
    refuse_shortcut(tmp_path / "audit", None)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(DataError, match=r"metrics\.json"):
        refuse_shortcut(tmp_path, None)


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED / "avatars.csv").is_file(), reason="../shared/data is not here")
def test_the_blind_avatars_raise_no_false_alarm():
    whole, notes = read_manifest(SHARED / "avatars.csv"), list[str]()
    used = split_without_leakage(whole, SplitPlan(), (), notes)
    assert notes == []
    assert len(used) == len(whole)
    assert find_shared_images(used.select_split("train"), read_manifest(SHARED / "blind.csv")) == []


@pytest.mark.parametrize(
    ("formats", "refused"),
    [
        ({"a": ["PNG"], "b": ["JPEG"]}, True),
        ({"a": ["PNG"], "b": ["JPEG"], "c": ["JPEG"]}, True),
        ({"a": ["PNG"] * 9 + ["JPEG"], "b": ["JPEG"] * 9 + ["PNG"]}, True),  # nine of ten, by hand: .9
        ({"a": ["PNG"] * 8 + ["JPEG"] * 2, "b": ["JPEG"] * 9 + ["PNG"]}, False),
        ({"a": ["PNG"], "b": ["PNG"]}, False),
        ({"a": ["PNG", "WEBP"], "b": ["WEBP", "PNG"]}, False),
        ({"a": ["PNG"]}, False),
        ({"a": ["PNG", ""], "b": ["PNG"]}, False),  # files of no known format are for decoding to tell
        ({"a": [""], "b": ["PNG"]}, False),
    ],
)
def test_a_class_that_its_file_format_tells_is_refused(formats, refused):
    rows = [(label, matches[number % len(matches)]) for label, matches in formats.items() for number in range(20)]
    labels, kinds = pd.Series([label for label, _ in rows]), [kind for _, kind in rows]
    if not refused:
        refuse_format_shortcut(labels, kinds)
        return
    with pytest.raises(GuardError, match="file format alone identifies class 'a'"):
        refuse_format_shortcut(labels, kinds)


def test_few_images_say_nothing_of_their_formats():
    refuse_format_shortcut(pd.Series(["a"] * 9 + ["b"] * 9), ["PNG"] * 9 + ["JPEG"] * 9)

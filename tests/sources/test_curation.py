"""Tests of curation: what stays, in which group, on which side."""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from avatar_bench.data.duplicates import ImageSet
from avatar_bench.data.fingerprints import fingerprint_image
from avatar_bench.data.splits import SplitPlan
from avatar_bench.errors import ConfigError
from avatar_bench.sources.curation import BLIND_SIDE, GROUP_PREFIX, CurationRules, OtherSet, curate
from tests.builders.pixels import make_smooth

PLAN = SplitPlan(by="group", folds=4)


def face(seed):
    return make_smooth(seed, 90, 90)


def brighter(image):
    return np.clip(image.astype(int) + 3, 0, 255).astype(np.uint8)


class Shelf:
    """Images that lie stored, with their rows."""

    def __init__(self):
        self.images = []
        self.rows = []

    def add(self, image, label="real", source="a", **known):
        number, prints = len(self.rows), fingerprint_image(image)
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        row = {"path": f"{source}/{number}", "label": label, "source": source, "recipe_source": source}
        row |= {"origin": str(number), "group": f"{source}:{number}", "split": "", "generator": ""}
        row |= {"sha256": digest, "origin_sha256": digest, "pixels": prints.pixels, "phashes": " ".join(prints.phashes)}
        self.images.append(image)
        self.rows.append({**row, **known})

    def fill(self, n, **known):
        for _ in range(n):
            self.add(face(1000 + len(self.rows)), **known)
        return self

    def curate(self, rules=None, **more):
        rules = rules or CurationRules(plan=PLAN)
        return curate(pd.DataFrame(self.rows), rules, lambda path: self.images[int(path.split("/")[1])], **more)

    def other(self, name):
        prints = [fingerprint_image(image) for image in self.images]
        paths, labels, sha256s = ([row[key] for row in self.rows] for key in ("path", "label", "sha256"))
        return OtherSet(name, paths, labels, ImageSet.of(sha256s, prints, self.images.__getitem__))


@pytest.fixture
def shelf():
    return Shelf().fill(20).fill(20, label="drawing", source="b")


def test_images_without_copies_all_stay_in_the_split_that_is_stated(shelf):
    curated = shelf.curate()
    assert list(curated.frame["path"]) == [row["path"] for row in shelf.rows]
    assert curated.refused == []
    assert curated.duplicates.empty
    counts = pd.crosstab(curated.frame["label"], curated.frame["split"])
    assert counts.to_dict("index") == {name: {"test": 5, "train": 10, "val": 5} for name in ("drawing", "real")}
    assert set(curated.frame["fold"]) == set("0123")
    for row in shelf.rows[:6]:
        row["split"] = "test"
    frame = shelf.curate().frame
    assert list(frame["split"][:6]) == ["test"] * 6
    assert {"train", "val"} <= set(frame["split"][6:])


def test_of_the_same_bytes_or_pixels_the_first_stays_and_of_two_classes_none(shelf):
    shelf.add(shelf.images[0], source="z")
    shelf.add(shelf.images[1], source="z", origin_sha256="another file")
    curated = shelf.curate()
    assert (curated.refused, len(curated.frame)) == ([], 40)
    assert list(curated.duplicates["outcome"]) == ["z/40 left out", "z/41 left out"]
    assert list(curated.duplicates["kind"]) == ["bytes", "pixels"]
    assert not curated.duplicates["conflict"].any()
    shelf.add(shelf.images[2], label="drawing", source="z")
    shelf.add(shelf.images[2], source="z", origin_sha256="a third file")
    curated = shelf.curate()
    assert {name for name, _ in curated.refused} == {"a: 2", "z: 42", "z: 43"}
    assert all(reason.startswith("label conflict") for _, reason in curated.refused)
    assert any("label conflicts: 1, first a: 2 (real) and z: 42 (drawing)" in note for note in curated.notes)


def test_near_duplicates_stay_in_one_group_and_on_one_side(shelf):
    for number in (0, 5, 25):
        shelf.add(brighter(shelf.images[number])[:, ::-1], label="generated", source="z", generator="g")
    curated = shelf.curate()
    frame = curated.frame.set_index("path")
    assert len(frame) == 43
    for path, near in (("a/0", "z/40"), ("a/5", "z/41"), ("b/25", "z/42")):
        assert frame.at[path, "group"] == frame.at[near, "group"]
        assert frame.at[path, "split"] == frame.at[near, "split"]
    assert list(curated.duplicates["turned"]) == ["mirrored"] * 3
    assert list(curated.duplicates["outcome"]) == ["one group"] * 3
    assert curated.duplicates["conflict"].all()


def test_the_blind_set_loses_what_the_rest_holds_and_the_whole_group_of_it(shelf):
    shelf.add(brighter(shelf.images[0]), source="z", group="z:anna")
    shelf.add(face(7), source="z")
    shelf.add(face(8), source="z", group="z:anna")
    curated = shelf.curate(CurationRules(blind=("z",), plan=PLAN))
    assert [(name, reason.split(",")[0]) for name, reason in curated.refused] == [
        ("z: 40", "is a near-duplicate or in a group of a: 0"),
        ("z: 42", "is a near-duplicate or in a group of a: 0"),
    ]
    blind = curated.frame[curated.frame["blind"]]
    assert list(blind["path"]) == ["z/41"]
    assert set(blind["split"]) == set(blind["fold"]) == {""}


def test_a_near_copy_is_found_through_any_exact_copy(shelf):
    shelf.rows = [{**row, "source": "z", "recipe_source": "z"} if row["path"] == "a/0" else row for row in shelf.rows]
    shelf.add(shelf.images[0], source="a")  # the exact copy in training comes later than the blind one
    shelf.add(brighter(shelf.images[0])[:, ::-1], source="z")
    curated = shelf.curate(CurationRules(blind=("z",), plan=PLAN))
    assert not curated.frame["blind"].any()
    assert "a/40" in set(curated.frame["path"])


def test_what_stands_in_another_set_is_left_out(shelf):
    blind = Shelf()
    blind.add(brighter(shelf.images[3]), label="real")
    blind.add(shelf.images[24], label="real")
    curated = shelf.curate(others=[blind.other("blind")])
    assert dict(curated.refused) == {"a: 3": "is also in blind: a/0", "b: 24": "is also in blind: a/1"}
    assert list(curated.duplicates["conflict"]) == [False, True]


def test_caps_take_so_many_of_each_source_and_class(shelf):
    rules = CurationRules(per_source=12, per_class=15, plan=PLAN)
    capped = shelf.fill(20, source="c").curate(rules)
    assert capped.frame["label"].value_counts().to_dict() == {"real": 15, "drawing": 12}
    assert capped.frame["source"].value_counts().max() == 12
    assert "capped: drawing 20 to 12, real 40 to 15" in capped.notes
    again = shelf.curate(rules)
    assert list(again.frame["path"]) == list(capped.frame["path"])


def earlier_of(curated):
    sides = {}
    for row in curated.frame.itertuples():
        side = (BLIND_SIDE, -1) if row.blind else (row.split, int(row.fold))
        sides |= {row.origin_sha256: side, GROUP_PREFIX + row.stated_group: side}
    return sides


def test_a_new_image_that_joins_two_sides_is_left_out():
    shelf = Shelf().fill(20)
    before = shelf.curate()
    sides = before.frame.groupby("split")["path"].first()
    numbers = [int(sides[side].split("/")[1]) for side in ("train", "test")]
    for number in numbers:  # one new image that resembles each; a declared group makes them one
        shelf.add(brighter(shelf.images[number]), source="z", group="z:pair")
    after = shelf.curate(earlier=earlier_of(before))
    assert dict(after.refused) == dict.fromkeys(
        ("z: 20", "z: 21"), "a near-duplicate of images on two sides of the split"
    )
    assert earlier_of(after) == earlier_of(before)


def test_a_held_out_source_is_test_and_shares_no_group_with_the_rest(shelf):
    shelf.fill(10, source="c")
    shelf.add(brighter(shelf.images[45]), source="a")
    plan = replace(PLAN, by="source", held_out=("c",))
    curated = shelf.curate(CurationRules(plan=plan))
    assert set(curated.frame.loc[curated.frame["source"] == "c", "split"]) == {"test"}
    assert set(curated.frame.loc[curated.frame["split"] == "test", "source"]) == {"c"}
    assert curated.refused == [("a: 50", "shares a group with a held-out source")]
    with pytest.raises(ConfigError, match="'d'"):
        shelf.curate(CurationRules(plan=replace(plan, held_out=("d",))))


def test_an_update_moves_no_image_even_if_it_was_away_and_with_a_cap_those_before_come_first(shelf):
    before = shelf.curate()
    sides = earlier_of(before)
    away, shelf.rows = shelf.rows, shelf.rows[:5] + shelf.rows[12:]
    images, shelf.images = shelf.images, shelf.images[:5] + shelf.images[12:]
    sides |= earlier_of(shelf.curate(earlier=sides))
    shelf.rows, shelf.images = away, images
    assert earlier_of(shelf.curate(earlier=sides)) == sides
    shelf.fill(30, source="c").fill(11, label="drawing", source="d")
    after = shelf.curate(earlier=earlier_of(before)).frame.set_index("path")
    for row in before.frame.itertuples():
        assert (after.at[row.path, "split"], after.at[row.path, "fold"]) == (row.split, row.fold)
    shares = after.groupby("label")["fold"].value_counts(normalize=True)
    assert shares.min() > 0.2
    assert shares.max() < 0.3
    capped = shelf.curate(CurationRules(per_class=20, plan=PLAN), earlier=earlier_of(before))
    assert set(capped.frame["path"]) == set(before.frame["path"])


def test_a_blind_image_stays_blind_when_another_source_holds_it(shelf):
    shelf.add(face(7), source="z")
    rules = CurationRules(blind=("z",), plan=PLAN)
    sides = earlier_of(shelf.curate(rules))
    shelf.add(face(7), source="a", origin_sha256=shelf.rows[40]["origin_sha256"])
    shelf.add(brighter(face(7)), source="a")
    curated = shelf.curate(rules, earlier=sides)
    assert "z/40" in set(curated.frame["path"])
    assert curated.frame["path"].isin(["a/41", "a/42"]).sum() == 0
    assert [name for name, _ in curated.refused] == ["a: 42"]
    assert "is held out of training" in curated.refused[0][1]
    shelf.rows = [*shelf.rows[:40], shelf.rows[40] | {"source": "a", "recipe_source": "a"}]
    assert shelf.curate(earlier=sides).refused == [("a: 40", "was held out of training before")]


def test_out_of_domain_images_share_nothing_with_the_rest_and_a_set_without_any_is_named(shelf):
    rules = CurationRules(ood={"things": ("photos",)}, plan=PLAN)
    shelf.add(brighter(shelf.images[0]), label="thing", source="photos")  # a near-duplicate of one to train on
    note = "warning: no image of the out-of-domain set things is left: see quarantine.csv"
    assert note in shelf.curate(rules).notes
    shelf.fill(3, label="thing", source="photos")
    shelf.add(shelf.images[20], label="thing", source="photos")  # a copy of one, under another label
    curated = shelf.curate(rules)
    things = curated.frame[curated.frame["ood"] == "things"]
    assert (list(things["path"]), set(things["split"])) == (["photos/41", "photos/42", "photos/43"], {""})
    assert (curated.frame["ood"] == "things").equals(curated.frame["blind"])
    assert {name for name, _ in curated.refused} == {"photos: 40", "photos: 44", "b: 20"}


def test_of_near_duplicates_that_came_to_two_sides_the_first_stays_and_a_group_keeps_its_side(shelf):
    shelf.add(brighter(shelf.images[0]), source="z")
    sides = {row["origin_sha256"]: ("train", 3) for row in shelf.rows[:40]}
    sides[shelf.rows[40]["origin_sha256"]] = ("test", 0)
    curated = shelf.curate(earlier=sides)
    assert [name for name, _ in curated.refused] == ["z: 40"]
    assert set(curated.frame["split"]) == {"train"}
    shelf.add(face(7), source="z", group="z:anna")  # of a group that was away
    frame = shelf.curate(earlier={GROUP_PREFIX + "z:anna": ("val", 1)}).frame.set_index("path")
    assert (frame.at["z/41", "split"], frame.at["z/41", "fold"]) == ("val", "1")

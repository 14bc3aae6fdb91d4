"""Search for aligned copies: what it finds, keeps, leaves to others, and why it does not run."""

import pandas as pd
import pytest
import timm
import torch

from avatar_bench.data.dataset import Dataset, read_images
from avatar_bench.data.leakage import Leakage, UsedImages
from avatar_bench.errors import GuardError
from avatar_bench.inference import copy_search
from avatar_bench.inference.copy_search import search_aligned_copies
from avatar_bench.models import package_features
from avatar_bench.results.reasons import Reason
from tests.data.test_aligned_copies import draw


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """Return six drawn images, and four of others: two crops, an identical file and another image."""
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    for name in ("known", "other"):
        (tmp_path / name).mkdir()
    for seed in range(6):
        draw(seed).save(tmp_path / "known" / f"{seed}.png")
    for seed in (1, 4):
        draw(seed).crop((6, 6, 154, 154)).save(tmp_path / "other" / f"crop-{seed}.png")
    draw(2).save(tmp_path / "other" / "same.png")
    draw(20).save(tmp_path / "other" / "x.png")
    return tuple(hashed(tmp_path / name) for name in ("known", "other"))


def hashed(folder):
    images = read_images(folder)
    groups = images.name + images.frame["path"]
    return Dataset(images.name, images.root, images.frame.assign(label="a", group=groups, stated_group=groups))


@pytest.fixture
def untrained(monkeypatch):
    """Let the network have random weights, by which a crop is near its original too."""
    torch.manual_seed(0)
    net = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    monkeypatch.setattr("avatar_bench.models.backbones.create_backbone", lambda *arguments: net)
    monkeypatch.setattr(copy_search, "has_weights", lambda recipe: True)


def test_crops_are_found_and_kept_by_content_and_identical_files_left_to_others(sets, untrained, tmp_path, monkeypatch):
    matches = search_aligned_copies(*sets)
    assert isinstance(matches, list)
    names = [(sets[0].frame["path"][match.left], sets[1].frame["path"][match.right]) for match in matches]
    assert names == [("1.png", "crop-1.png"), ("4.png", "crop-4.png")]
    computed = []

    def compute(recipe, size, batches):
        features = package_features.compute_package_features(recipe, size, batches)
        computed.append(len(features))
        return features

    monkeypatch.setattr(copy_search, "compute_package_features", compute)
    assert search_aligned_copies(*sets) == matches
    assert computed == []
    (kept,) = (tmp_path / "cache" / "copies" / "matches").iterdir()
    kept.write_text("[[")
    assert search_aligned_copies(*sets) == matches
    assert computed == []  # all features are kept
    draw(5).crop((5, 5, 150, 150)).save(sets[1].root / "x.png")
    assert len(search_aligned_copies(sets[0], hashed(sets[1].root))) == 3
    assert computed == [2]  # two views of the image that changed


def test_nothing_is_downloaded(sets, monkeypatch):
    monkeypatch.setattr("avatar_bench.files.package_files.subprocess.run", None)
    assert search_aligned_copies(*sets) == Reason("no_weights_to_align", model="efficientnet_lite0")


def test_the_guard_names_crops_of_training_images_and_warns_of_those_across_the_runs_own_split(sets, untrained):
    known, other = sets[0], sets[1].take(sets[1].frame["path"] != "same.png")
    trained = Dataset("run", known.root, known.frame.assign(split="train"))
    used = [UsedImages(("a",), trained)]
    Leakage(used, [], ()).refuse(other)  # the first search finds nothing
    Leakage(used, [], ("near_duplicates",), search_aligned_copies).refuse(other)
    with pytest.raises(GuardError, match="2 of 3 images of other are near-duplicates of training images") as caught:
        Leakage(used, [], (), search_aligned_copies).refuse(other)
    assert caught.value.lines[1] == "They are: crop-1.png, crop-4.png."
    frames = [images.frame.assign(path=f"{images.name}/" + images.frame["path"]) for images in sets]
    other = frames[1][frames[1]["path"] != "other/same.png"]
    whole = pd.concat([frames[0].assign(split="train"), other.assign(split="test")], ignore_index=True)
    dataset = Dataset("run", sets[0].root.parent, whole)
    guard = Leakage([UsedImages(("a",), dataset)], [dataset], (), search_aligned_copies)
    guard.refuse(dataset.select_split("test"))
    (warning,) = guard.list_warnings(dataset.select_split("test"))
    values = {"n": 2, "all": 3, "first": "other/crop-1.png", "other": "known/1.png"}
    assert warning == Reason("copies_across_split", **values)

"""Random delivery of training images: its draws, and that no augmentation makes the tier kept for evaluation."""

import numpy as np
import pytest
import torch
from PIL import Image

from avatar_bench.config.catalogue import find_choices
from avatar_bench.data.augmentation_steps import DeliveryAugmentation
from avatar_bench.data.cache import ImageCache
from avatar_bench.data.corruptions import DELIVERY_TIERS, UNTRAINED_TIER
from avatar_bench.data.dataset import Dataset, read_manifest
from avatar_bench.data.training_batches import DataModule
from avatar_bench.data.transforms import Augmentation, Preprocessing
from avatar_bench.files.document import read_yaml
from tests.builders.pixels import make_smooth

CLASSES = ("drawing", "generated", "real")
PREPROCESSING = Preprocessing(32, "squash", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def photo():
    """A large image with smooth and fine texture, (900, 1200, 3)."""
    grain = np.random.default_rng(0).normal(0, 8, (900, 1200, 1))
    return np.clip(make_smooth(0, 900, 1200) + grain, 0, 255).astype(np.uint8)


@pytest.fixture
def saved(monkeypatch):
    """Format, size and options of every image file that Pillow writes."""
    files = []
    save = Image.Image.save

    def keep(image, stream, kind, **options):
        files.append((kind, image.size, options))
        save(image, stream, kind, **options)

    monkeypatch.setattr(Image.Image, "save", keep)
    return files


def test_images_are_delivered_at_a_probability_by_their_seed_once_or_twice_within_their_ranges(photo, saved):
    chains = []
    for seed in range(60):
        before = len(saved)
        delivered = DeliveryAugmentation.deliver(photo, np.random.default_rng(seed))
        chains.append(saved[before:])
        assert (delivered.shape, delivered.dtype) == ((*chains[-1][-1][1][::-1], 3), np.uint8)
    assert {len(chain) for chain in chains} == {1, 2}
    assert 0.35 < np.mean([len(chain) == 2 for chain in chains]) < 0.65
    sides = [max(size) for _, size, _ in saved]
    assert 64 - 7 <= min(sides) < 80
    assert 650 < max(sides) <= 800
    qualities = [options["quality"] for _, _, options in saved]
    assert 30 <= min(qualities) < 35
    assert 90 < max(qualities) <= 95
    assert {kind for kind, _, _ in saved} == {"JPEG", "WEBP"}
    assert {options.get("subsampling") for kind, _, options in saved if kind == "JPEG"} == {"4:4:4", "4:2:0"}
    again = [max(second[1]) / max(first[1]) for first, second in (chain for chain in chains if len(chain) == 2)]
    assert min(again) < 0.9 < 1.5 < max(again)  # shown smaller, and enlarged again
    half = Augmentation(delivery=0.5)
    assert half.is_active
    drawn = [half.draw_delivery(seed) for seed in range(400)]
    assert 150 < sum(deliver is not None for deliver in drawn) < 250  # five standard deviations
    seed = next(seed for seed, deliver in enumerate(drawn) if deliver)
    assert np.array_equal(*(half.draw_delivery(seed)(photo) for _ in range(2)))
    assert not any(Augmentation(flip=1).draw_delivery(seed) for seed in range(50))


@pytest.mark.parametrize("name", find_choices("augmentation"))
def test_no_augmentation_makes_the_tier_that_no_training_uses(name, photo, saved):
    recipe = read_yaml(find_choices("augmentation")[name])
    study = read_yaml(find_choices("augmentation")["study"]) if recipe and "defaults" in recipe else {}
    options = {**study, **(recipe or {})}
    steps = {key: value for key, value in options.items() if key not in ("defaults", "mixup", "cutmix")}
    augmentation = Augmentation(**steps)
    for seed in range(20):
        deliver = augmentation.draw_delivery(seed)
        augmentation(PREPROCESSING(deliver(photo) if deliver else photo), seed)
    formats = {kind for kind, _, _ in saved}
    assert formats == ({"JPEG", "WEBP"} if name == "delivery" else set())
    assert UNTRAINED_TIER in DELIVERY_TIERS
    assert UNTRAINED_TIER.upper() not in formats
    assert f"delivery/{UNTRAINED_TIER}" not in augmentation.resembles


def test_delivered_batches_are_those_of_the_seed_with_any_workers_cache_or_fixed_copies(images, tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path))
    whole = read_manifest(images / "all.csv")
    frame = whole.frame[::6].assign(split="train").reset_index(drop=True)

    def build(workers=0, seed=0, **options):
        dataset = Dataset("few", whole.root, frame)
        common = {"seed": seed, "batch_size": 8, "workers": workers, "balance": "none", **options}
        return DataModule(dataset, CLASSES, PREPROCESSING, Augmentation(flip=0.5, delivery=0.7), **common)

    def read(batches):
        return torch.cat([batch["image"] for batch in batches])

    alone = read(build().train_dataloader())
    assert torch.equal(read(build(workers=2).train_dataloader()), alone)
    for _ in range(2):  # empty, then filled
        assert torch.equal(read(build(cache=ImageCache(PREPROCESSING)).train_dataloader()), alone)
    assert not torch.equal(read(build(seed=1).train_dataloader()), alone)
    copies = {workers: read(build(workers, augmented_copies=3).fixed_copies_loader(3)) for workers in (0, 2)}
    assert torch.equal(copies[0], copies[2])
    first, second, third = copies[0].split(len(frame))
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)

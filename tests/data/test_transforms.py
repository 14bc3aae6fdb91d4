"""Tests of avatar_bench.data.transforms: geometry by hand, and augmentation that depends on its seed alone."""

import json
import pickle
import random
import re
import subprocess
import sys
from dataclasses import replace
from itertools import product

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from avatar_bench.config.entries import use_folders
from avatar_bench.data.equalise import RESIZE_MODES
from avatar_bench.data.transforms import Augmentation, Preprocessing
from avatar_bench.errors import CheckpointError, ConfigError
from tests.builders.pixels import make_noise, make_smooth

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ALL = Augmentation(flip=0.5, jitter=(0.2, 0.2, 0.2, 0.05), rotation=10, noise=0.02, randaugment=9)


def preprocessing(size, resize):
    return Preprocessing(size, resize, MEAN, STD)


@pytest.fixture
def sample():
    """A smooth coloured image, (64, 64, 3), away from black and white."""
    return make_smooth(0, low=60, high=200)


@pytest.mark.parametrize("resize", RESIZE_MODES)
def test_images_come_out_at_the_size_of_the_network_and_those_that_have_it_are_left_alone(resize, sample):
    for shape in [(1, 1), (1, 5000), (5000, 1), (3, 2), (224, 224), (223, 225), (1000, 400)]:
        image = np.full((*shape, 3), (10, 120, 240), np.uint8)
        result = preprocessing(224, resize)(image)
        assert (result.shape, result.dtype) == ((224, 224, 3), np.uint8)
        content = result if resize != "pad" else result[(result != 255).any(axis=2)]
        assert content.size > 0
        assert (content == (10, 120, 240)).all()  # one colour stays one colour
    assert np.array_equal(preprocessing(64, resize)(sample), sample)


def test_squash_averages_whole_blocks_without_moire_and_enlarging_is_cubic(sample):
    expected = sample.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(preprocessing(16, "squash")(sample) - expected).max() <= 0.5 + 1e-6
    stripes = np.zeros((1, 1000, 3), np.uint8)
    stripes[:, ::2] = 255
    for image in (stripes, np.repeat(stripes, 1000, axis=0)):  # one side grows, none does
        assert np.abs(preprocessing(20, "squash")(image).astype(int) - 127).max() <= 1
    expected = cv2.resize(sample, (160, 160), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(preprocessing(160, "squash")(sample), expected)


def test_crop_keeps_the_centred_square_and_pad_centres_the_whole_image_on_white():
    for shape, top, left, side in [((8, 20), 0, 6, 8), ((20, 8), 6, 0, 8), ((9, 12), 0, 1, 9), ((8, 8), 0, 0, 8)]:
        image = make_noise(0, *shape)
        assert np.array_equal(preprocessing(side, "crop")(image), image[top : top + side, left : left + side])
    placed = [((10, 20), (5, 15), (0, 20)), ((20, 10), (0, 20), (5, 15)), ((20, 11), (0, 20), (4, 15))]
    for shape, rows, columns in (*placed, ((40, 20), (0, 20), (5, 15)), ((1, 5000), (9, 10), (0, 20))):
        expected = np.full((20, 20, 3), 255, np.uint8)
        expected[slice(*rows), slice(*columns)] = 0
        assert np.array_equal(preprocessing(20, "pad")(np.zeros((*shape, 3), np.uint8)), expected)


def test_preprocessing_survives_json():
    for resize, equalise in product(RESIZE_MODES, (None, "jpeg")):
        before = Preprocessing(224, resize, MEAN, STD, equalise)
        state = json.loads(json.dumps(before.to_dict()))
        after = Preprocessing.from_dict(state)
        assert (after, hash(after)) == (before, hash(before))
        if equalise is None:  # as checkpoints of before equalisation
            del state["equalise"]
            assert Preprocessing.from_dict(state) == before


def test_a_damaged_preprocessing_is_a_checkpoint_error():
    state = preprocessing(224, "squash").to_dict()
    for name in ("size", "resize", "mean", "std"):
        with pytest.raises(CheckpointError, match=name):
            Preprocessing.from_dict({key: value for key, value in state.items() if key != name})
    damaged = [("size", 0), ("size", "224"), ("size", True), ("size", 224.0), ("resize", "stretch"), ("resize", None)]
    damaged += [("mean", [0.5, 0.5]), ("mean", None), ("mean", [0.5, 0.5, float("nan")]), ("std", [0.5, 0.5, 0.0])]
    damaged += [("std", ["a", "b", "c"]), ("equalise", "png"), ("equalise", ""), ("interpolation", "bicubic")]
    for name, value in damaged:
        with pytest.raises(CheckpointError, match="preprocessing"):
            Preprocessing.from_dict({**state, name: value})


def test_augmentation_depends_on_image_and_seed_alone_and_off_returns_the_image_itself(sample):
    other = np.ascontiguousarray(sample[::-1])
    before = [ALL(sample, seed) for seed in range(20)]
    np.random.seed(5)  # the global state must not matter
    worker = pickle.loads(pickle.dumps(ALL))
    for seed in reversed(range(20)):
        ALL(other, seed + 7)
        assert np.array_equal(ALL(sample, seed), before[seed])
        assert np.array_equal(worker(sample, seed), before[seed])
    assert len({image.tobytes() for image in before}) == 20
    assert Augmentation()(sample, seed=1) is sample
    code = "import sys, avatar_bench.data.transforms as m; m.Augmentation(); sys.exit('albumentations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_each_part_takes_any_image_changes_it_and_spares_its_input(sample):
    copy, jitters = sample.copy(), [{"jitter": (0.2, 0, 0, 0)}, {"jitter": (0, 0, 0, 0.05)}]
    parts = [{"flip": 1}, *jitters, {"rotation": 10}, {"noise": 0.1}, {"randaugment": 9}]
    for augmentation in (ALL, *(Augmentation(**part) for part in parts)):
        result = augmentation(sample, seed=3)
        assert np.array_equal(sample, copy)
        assert (result.shape, result.dtype, result.flags.c_contiguous) == (sample.shape, np.uint8, True)
        assert not np.array_equal(result, sample)
    for value, shape in product((0, 255), ((1, 1, 3), (1, 7, 3))):
        assert ALL(np.full(shape, value, np.uint8), seed=0).shape == shape


def test_flips_and_brightness_keep_to_their_probability_and_range(sample):
    assert np.array_equal(Augmentation(flip=1)(sample, seed=0), sample[:, ::-1])
    half = Augmentation(flip=0.5)
    flips = sum(not np.array_equal(half(sample, seed), sample) for seed in range(400))
    assert 150 < flips < 250  # five standard deviations
    grey = np.full((8, 8, 3), 100, np.uint8)
    values = [int(Augmentation(jitter=(0.2, 0, 0, 0))(grey, seed)[0, 0, 0]) for seed in range(100)]
    assert 79 <= min(values) < 85
    assert 115 < max(values) <= 120


def test_noise_and_randaugment_are_those_of_albumentations_and_torchvision(sample):
    import albumentations

    for share, value in [(0.02, None), (1, None), (0.3, 0), (0.3, 255)]:
        image = sample if value is None else np.full_like(sample, value)
        theirs = albumentations.Compose([albumentations.GaussNoise(std_range=(0, share), p=1)])
        for seed in range(20):
            theirs.set_random_seed(seed)
            assert np.array_equal(Augmentation(noise=share)(image, seed), theirs(image=image)["image"])
    theirs, ours = v2.RandAugment(num_ops=2, magnitude=9, fill=128), Augmentation(randaugment=9)
    before = torch.get_rng_state()
    collected = [ours(sample, seed) for seed in range(10)]
    assert torch.equal(torch.get_rng_state(), before)
    for seed, image in enumerate(collected):
        with torch.random.fork_rng():
            torch.manual_seed(random.Random(seed).getrandbits(31))
            assert np.array_equal(image, np.asarray(theirs(Image.fromarray(sample))))


def test_rotation_stays_within_its_angle_and_brings_in_no_border_colour():
    spot = np.zeros((101, 101, 3), np.uint8)
    cv2.circle(spot, (90, 50), 3, (255, 255, 255), -1)
    angles = []
    for seed in range(100):
        y, x = np.argwhere(Augmentation(rotation=10)(spot, seed)[..., 0] > 128).mean(axis=0)
        angles.append(np.degrees(np.arctan2(50 - y, x - 50)))
    assert -10.5 < min(angles) < -8
    assert 8 < max(angles) < 10.5
    red = np.full((32, 32, 3), (200, 30, 30), np.uint8)
    for seed in range(20):
        assert np.array_equal(Augmentation(rotation=45)(red, seed), red)


@pytest.fixture
def shifted_module(tmp_path):
    """Module of a user's augmentation, which is in use: it shifts all values by up to an amount."""
    file = tmp_path / "augmentation" / "shifted.py"
    file.parent.mkdir()
    file.write_text(
        """
from dataclasses import dataclass
from typing import ClassVar
from avatar_bench.config.options import Options, option

@dataclass(kw_only=True)
class Shifted(Options):
    resembles: ClassVar[tuple[str, ...]] = ("brightness",)
    amount: int = option(40, help="largest shift", range=(1, 100))

    def __call__(self, image, rng):
        return image // 2 + rng.integers(1, self.amount + 1, dtype="uint8")
"""
    )
    with use_folders([tmp_path]):
        yield file


def test_an_augmentation_of_a_user_comes_last_and_one_that_fails_is_one_error(sample, shifted_module):
    with_own = replace(ALL, others={"shifted": {"amount": 90}})
    shifts = set()
    for seed in range(10):
        before, after = ALL(sample, seed), with_own(sample, seed)
        (shift,) = np.unique(after - before // 2)
        shifts.add(int(shift))
        assert np.array_equal(pickle.loads(pickle.dumps(with_own))(sample, seed), after)
    assert len(shifts) > 5
    assert Augmentation(others={"shifted": None}).is_active
    assert Augmentation(noise=0.1, others={"shifted": None}).resembles == ["brightness", "noise"]
    code = shifted_module.read_text()
    for wrong, reason in (("image[1:]", "for uint8"), ("image / no_such_name", "NameError")):
        shifted_module.write_text(code.replace("image // 2 + rng", f"{wrong} #"))
        with pytest.raises(ConfigError, match=f"shifted.py failed: .*{reason}"):
            Augmentation(others={"shifted": None})(sample, 0)


@pytest.mark.usefixtures("shifted_module")
def test_a_wrong_option_or_augmentation_of_a_user_is_named():
    for options, reason in (
        ({"flip": 1.5}, "data.augment.flip"),
        ({"flip": float("nan")}, "data.augment.flip"),
        ({"rotation": -1}, "data.augment.rotation"),
        ({"noise": 5}, "data.augment.noise"),
        ({"randaugment": 31}, "data.augment.randaugment"),
        ({"delivery": 2}, "data.augment.delivery"),
        ({"jitter": (0.2, 0.2, 0.2, 0.6)}, "data.augment.jitter"),
        ({"jitter": (0.2, 0.2)}, "data.augment.jitter"),
        ({"others": {"shiftd": {}}}, "no augmentation named 'shiftd'; did you mean shifted"),
        ({"others": {"flip": {}}}, "data.augment.flip"),
        ({"others": {"delivery": {}}}, "data.augment.delivery"),
        ({"others": {"shifted": {"amount": 0}}}, "augmentation.shifted.amount=0: expected 1 to 100"),
        ({"others": {"shifted": {"size": 1}}}, "there is no such option"),
    ):
        with pytest.raises(ConfigError, match=re.escape(reason)):
            Augmentation(**options)

"""Tests of avatar_bench.data.mask: which pixels it paints, and that training and evaluation see the same image."""

import re

import numpy as np
import pandas as pd
import pytest

from avatar_bench.cli.app import main
from avatar_bench.config.schema import MaskConfig
from avatar_bench.data.cache import ImageCache
from avatar_bench.data.corruptions import Delivery
from avatar_bench.data.dataset import read_manifest
from avatar_bench.data.equalise import RESIZE_MODES, equalise, hash_pixels, resize_to_square
from avatar_bench.data.loaders import ReadableImageDataset, build_image_dataset, build_varied_loader
from avatar_bench.data.mask import Mask, read_mask
from avatar_bench.data.stamps import CORNERS, paste_stamp
from avatar_bench.data.transforms import Augmentation, Preprocessing
from avatar_bench.errors import DataError
from avatar_bench.runs.run import Run
from tests.builders.commands import data_of
from tests.builders.pixels import make_noise, make_smooth

MARKS = [(4, 6, 12, 10), (30, 2, 6, 20)]  # left, top, width, height


def paint(image, corner=0, boxes=()):
    """Paint squares in the corners and boxes, one pixel after the other."""
    painted, (height, width) = image.copy(), image.shape[:2]
    for y, x in np.ndindex(height, width):
        in_corner = min(y, height - 1 - y) < corner and min(x, width - 1 - x) < corner
        if in_corner or any(left <= x < left + w and top <= y < top + h for left, top, w, h in boxes):
            painted[y, x] = 128
    return painted


@pytest.fixture(scope="module")
def marked(images, tmp_path_factory):
    """A table of two marks on the first image of a class, and of one on another."""
    paths = pd.read_csv(images / "all.csv").query("label == 'generated'")["path"]
    boxes = (0, "m1", MARKS[0]), (0, "m2", MARKS[1]), (5, "m1", MARKS[0])
    rows = [(paths.iat[row], mark, *box) for row, mark, box in boxes]
    file = tmp_path_factory.mktemp("marks") / "patches.csv"
    pd.DataFrame(rows, columns=["path", "mark", "left", "top", "width", "height"]).to_csv(file, index=False)
    return file


@pytest.fixture(scope="module")
def masked_run(train, marked, tmp_path_factory):
    return train(tmp_path_factory.mktemp("masked") / "run", f"data.mask={{corners: .2, patches: {marked}}}")


def test_the_corners_of_an_image_are_squares_in_which_a_stamp_leaves_no_trace():
    for shape in [(40, 60), (61, 33), (1, 1), (3, 50)]:
        image = make_noise(1, *shape)
        for corners, side in ((0.12, max(1, round(0.12 * min(shape)))), (0.5, max(1, round(0.5 * min(shape))))):
            assert np.array_equal(Mask(corners)(image), paint(image, side))
    for position in CORNERS:
        image, mask = make_smooth(3, 200, 150), Mask(0.12)
        stamped = paste_stamp(image, "letters", 1.0, 0.1, position, 0)
        assert not np.array_equal(stamped, image)
        assert np.array_equal(mask(stamped), mask(image))


def test_every_image_gets_the_boxes_of_a_bearer_of_each_mark_in_fractions_of_its_sides():
    bearers = [make_smooth(seed, 50, 40) for seed in (1, 2)]
    other = (20, 30, 10, 8)  # where the second bearer has the first mark; it lacks the second mark
    first, second, third = ((x / 40, y / 50, w / 40, h / 50) for x, y, w, h in (*MARKS, other))
    digests = list(map(hash_pixels, bearers))
    mask = Mask(None, {"m1": dict(zip(digests, ((first,), (third,)), strict=True)), "m2": {digests[0]: (second,)}})
    assert np.array_equal(mask(bearers[0]), paint(bearers[0], boxes=MARKS))
    assert np.array_equal(mask(bearers[1]), paint(bearers[1], boxes=[other, MARKS[1]]))
    halves, drawn = ([(2, 3, 6, 5), (15, 1, 3, 10)], [(10, 15, 5, 4), (15, 1, 3, 10)]), []
    for seed in range(60):  # of half the size
        image = make_noise(seed, 25, 20)
        painted = [np.array_equal(mask(image), paint(image, boxes=boxes)) for boxes in halves]
        drawn.append(painted.index(True))
    assert 18 < sum(drawn) < 42
    varied = make_noise(0, 50, 40)  # as a variation of a bearer, it is masked where the mark was
    assert np.array_equal(mask(varied, bearers[0]), paint(varied, boxes=MARKS))


@pytest.mark.parametrize("resize", RESIZE_MODES)
def test_masks_are_painted_before_images_are_equalised_and_resized(resize):
    image, plain = make_smooth(5, 70, 50), Preprocessing(24, resize, (0.5,) * 3, (0.5,) * 3)
    masked = Preprocessing(24, resize, (0.5,) * 3, (0.5,) * 3, "jpeg", Mask(0.2))
    assert np.array_equal(masked(image), resize_to_square(equalise(paint(image, 10), resize), 24, resize))
    assert Preprocessing.from_dict(masked.to_dict()) == masked
    assert "mask" not in plain.to_dict()  # cards and keys of caches are what they were
    assert ImageCache(plain).folder != ImageCache(masked).folder


def test_training_evaluation_and_prediction_see_the_same_masked_images_and_delivered_copies(masked_run, images):
    run, dataset = Run.open(masked_run), read_manifest(images / "all.csv")
    preprocessing = run.preprocessing
    assert preprocessing.mask is not None
    assert {mark: len(bearers) for mark, bearers in preprocessing.mask.patches.items()} == {"m1": 2, "m2": 1}
    row = int(np.flatnonzero(dataset.frame["label"] == "generated")[0])
    native = dataset.image(row)
    expected = resize_to_square(paint(native, round(0.2 * min(native.shape[:2])), MARKS), 32, "squash")
    bearer = dataset.take(np.array([row]))
    trained = build_image_dataset(bearer, run.classes, preprocessing)
    assert np.array_equal(trained[0]["image"], expected)
    assert np.array_equal(run.predictor.prepare(native), expected)
    predicted = ReadableImageDataset([str(bearer.file(0))], [preprocessing])
    assert np.array_equal(predicted[0]["images"][0], expected)
    assert np.array_equal(run.predictor.read_inputs(bearer, [0])[0].permute(1, 2, 0).numpy(), expected)
    augmentation, tier = Augmentation(delivery=1.0), Delivery("webp")
    deliver = augmentation.draw_delivery(3)
    trained = build_image_dataset(bearer, run.classes, preprocessing, augmentation=augmentation)[0, 3]["image"]
    assert np.array_equal(trained, preprocessing(deliver(native), native))
    (item,) = build_varied_loader(bearer, run.classes, preprocessing, [tier], 1, 0)
    assert np.array_equal(item["image"][0].numpy(), preprocessing(tier(native, 0), native))


def test_a_table_that_does_not_fit_the_images_is_refused(marked, images, tmp_path):
    table, dataset = pd.read_csv(marked), read_manifest(images / "all.csv")
    for changed, message in (
        (table.drop(columns=["width", "height"]), "has no column width and height"),
        (table.assign(path=[*table["path"][:2], "other.png"]), "line 4: other.png is no image of all"),
        (table.assign(left=1000), "line 2: .*: a box is not within its"),
        (table.assign(top=-1), "line 2: .*: a box is not within its"),
        (table.assign(top="high"), "Expected whole numbers in left, top, width, height"),
        (table.head(0), "has no rows"),
    ):
        changed.to_csv(tmp_path / "patches.csv", index=False)
        with pytest.raises(DataError) as raised:
            read_mask(MaskConfig(patches=str(tmp_path / "patches.csv")), dataset)
        assert re.search(message, str(raised.value))
        assert len(raised.value.lines) <= 3


def test_a_wrong_option_or_a_mask_other_than_that_of_training_is_refused(
    train, tmp_path, capsys, masked_run, marked, images
):
    for word, code, message in (
        ("data.mask={corners: .6}", 2, "data.mask.corners=0.6: expected more than 0 and at most 0.5"),
        ("data.mask.corners=0", 2, "expected more than 0 and at most 0.5"),
        (f"data.mask.patches={tmp_path}/none.csv", 3, "none.csv cannot be read: No such file or directory"),
    ):
        train(tmp_path / "run", word, code=code)
        assert message in capsys.readouterr().err
    words = ["evaluate", f"ckpt={masked_run}", *data_of(images / "blind.csv"), "block=blind_test"]
    other = tmp_path / "other.csv"
    other.write_text(marked.read_text() + "\n")
    for word, message in (
        ("data.mask={corners: .12}", "`data.mask.corners=0.12` conflicts with the checkpoint (trained with `0.2`)"),
        (f"data.mask.patches={other}", "` conflicts with the checkpoint (trained with `"),
    ):
        assert main([*words, word]) == 3
        assert message in capsys.readouterr().err
    assert main(["evaluate", *words[2:-1], "block=data_audit", "data.mask.corners=.2"]) == 2
    assert "data.mask: without ckpt=RUN" in capsys.readouterr().err
    assert main([*words, f"data.mask={{corners: .2, patches: {marked}}}", "block.blind_test.resamples=100"]) == 0

"""Random views of images: sizes, and dependence on the seed only."""

import numpy as np
import pandas as pd
from PIL import Image

from avatar_bench.data.dataset import read_manifest
from avatar_bench.data.leakage import mark_shared_images
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.plugins.pretrain.multi_view_data import MultiViewDataModule, RandomViews
from tests.builders.pixels import make_noise

PREPROCESSING = Preprocessing(32, "squash", (0.5,) * 3, (0.25,) * 3)


def test_views_have_their_sizes_and_follow_from_the_seed():
    views = RandomViews(32, 0.3, large=2, small=3, local_size=16)
    image = make_noise(0, 40, 40)
    made = views(image, 5)
    assert [view.shape for view in made] == [(32, 32, 3)] * 2 + [(16, 16, 3)] * 3
    assert all(np.array_equal(a, b) for a, b in zip(made, views(image, 5), strict=True))
    assert not np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], views(image, 6)[0])


def test_with_all_off_a_view_is_a_crop():
    (view,) = RandomViews(40, 1.0, large=1, flip=0, jitter=0, grey=0, blur=0)(np.full((40, 40, 3), 77, np.uint8), 0)
    assert (view == 77).all()


def test_batches_hold_views_and_rows_and_no_label(images):
    dataset = read_manifest(images / "all.csv").take(np.arange(10))
    views = RandomViews(32, 0.3, small=1, local_size=16)
    module = MultiViewDataModule(dataset, views, PREPROCESSING, seed=0, batch_size=4, workers=0)
    batches = list(module.train_dataloader())
    assert [set(batch) for batch in batches] == [{"views", "row"}] * 2  # the two left over are dropped
    assert [tuple(view.shape) for view in batches[0]["views"]] == [(4, 3, 32, 32)] * 2 + [(4, 3, 16, 16)]


def test_an_image_is_shared_by_its_bytes_its_group_or_a_near_duplicate(images, tmp_path):
    whole = read_manifest(images / "all.csv")
    rows = [0, 1, 2, 3, 6, 7]  # three groups of two
    dataset = whole.take(np.array(rows))
    other = pd.DataFrame({"path": ["near.jpg", "mate.png"], "label": "", "group": ["", dataset.frame["group"].iat[2]]})
    Image.fromarray(dataset.image(0)).save(tmp_path / "near.jpg", quality=80)
    Image.fromarray(whole.image(100)).save(tmp_path / "mate.png")
    other.to_csv(tmp_path / "other.csv", index=False)
    shared = mark_shared_images(dataset, read_manifest(tmp_path / "other.csv"))
    assert shared.tolist() == [True, True, True, True, False, False]

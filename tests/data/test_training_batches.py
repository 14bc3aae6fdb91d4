"""Batches: balance, order by seed and epoch alone, and files that cannot be read."""

import numpy as np
import pandas as pd
import pytest
import torch

from avatar_bench.data.cache import ImageCache
from avatar_bench.data.dataset import Dataset, read_manifest
from avatar_bench.data.loaders import ReadableImageDataset, build_image_dataset, build_loader, encode_targets
from avatar_bench.data.training_batches import DataModule, EpochSampler, RankBatches, weigh_sources
from avatar_bench.data.transforms import Augmentation, Preprocessing
from avatar_bench.errors import ConfigError, DataError

CLASSES = ("drawing", "generated", "real")
PREPROCESSING = Preprocessing(32, "squash", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def uneven(images):
    """40 drawings, 15 generated, 5 real to train on, and 12 to validate on."""
    whole = read_manifest(images / "all.csv")
    counts = {"drawing": 40, "generated": 15, "real": 5}
    train = [whole.take((whole.frame["label"] == label).to_numpy()).frame[:n] for label, n in counts.items()]
    val = whole.frame[whole.frame["path"].str.contains("/6[0-3]")]
    frame = pd.concat([*train, val], ignore_index=True)
    frame["split"] = ["train"] * 60 + ["val"] * len(val)
    return Dataset("uneven", whole.root, frame)


@pytest.fixture
def module(uneven):
    def build(**options):
        common = {"seed": 0, "batch_size": 16, "workers": 0, "balance": "none", **options}
        return DataModule(uneven, CLASSES, PREPROCESSING, Augmentation(flip=0.5, noise=0.05), **common)

    return build


def draw_rows(module, epochs):
    sampler, rows = module.train_dataloader().batch_sampler.sampler, list[int]()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        rows += [row for row, _ in sampler]
    return rows


def test_a_balance_shows_images_or_classes_or_sources_equally_often(module):
    shown = torch.cat([batch["row"] for batch in module(balance="none").train_dataloader()])
    assert sorted(shown.tolist()) == list(range(60))
    drawn = np.repeat([0, 1, 2], [40, 15, 5])[draw_rows(module(balance="sampler"), 200)]
    np.testing.assert_allclose(np.bincount(drawn) / 12_000, 1 / 3, atol=0.015)  # three standard errors
    data = module(balance="source")
    frame, weights = data.train_set.frame, data.image_weights
    sums = pd.Series(weights).groupby([frame["label"], frame["source"]]).sum()
    expected = {(label, source): 20 / n for (label, source), n in zip(sums.index, (3, 3, 3, 2, 2, 2, 2), strict=True)}
    assert sums.to_dict() == pytest.approx(expected)
    rows = pd.Series(draw_rows(data, 200))
    shown = rows.groupby([rows.map(frame["label"]), rows.map(frame["source"])]).size()
    np.testing.assert_allclose(shown / shown.sum(), sums / 60, atol=0.015)
    with pytest.raises(ConfigError, match="no image names its source"):
        weigh_sources(["a", "b"], ["", ""])
    from sklearn.utils.class_weight import compute_class_weight

    data, targets = module(balance="loss"), np.repeat([0, 1, 2], [40, 15, 5])
    assert data.counts.tolist() == [40, 15, 5]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    np.testing.assert_allclose(data.class_weights, expected)
    assert sorted(draw_rows(data, 1)) == list(range(60))  # one balance at a time
    assert module(balance="none").class_weights is module(balance="sampler").class_weights is None


def test_training_images_are_varied_in_an_order_of_seed_and_epoch_alone_and_validation_images_are_not(module, uneven):
    def pairs(seed, epoch):
        sampler = EpochSampler(50, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    np.random.seed(1)
    torch.manual_seed(1)
    first = pairs(0, 0)
    np.random.seed(2)
    torch.manual_seed(2)
    assert (pairs(0, 0), sorted(row for row, _ in first)) == (first, list(range(50)))
    assert len({tuple(pairs(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    data = module()
    (batch,) = data.val_dataloader()
    plain = PREPROCESSING(uneven.select_split("val").image(0))
    assert torch.equal(batch["image"][0], torch.from_numpy(plain.transpose(2, 0, 1).copy()))
    assert (batch["image"].dtype, batch["row"].tolist()) == (torch.uint8, list(range(12)))
    shown = next(iter(data.train_dataloader()))
    row = int(shown["row"][0])
    train = PREPROCESSING(uneven.select_split("train").image(row))
    assert not torch.equal(shown["image"][0], torch.from_numpy(train.transpose(2, 0, 1).copy()))


@pytest.mark.parametrize(("batch_size", "batches"), [(59, 1), (60, 1), (20, 3), (16, 4)])
def test_a_last_batch_of_one_image_joins_the_batch_before(batch_size, batches, module):
    shown = list(module(batch_size=batch_size).train_dataloader())
    assert len(shown) == batches
    assert min(len(batch["row"]) for batch in shown) > 1
    assert sorted(torch.cat([batch["row"] for batch in shown]).tolist()) == list(range(60))


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("n", [6, 47, 48, 49, 50, 51, 52, 53])
def test_the_processes_of_a_run_share_each_batch_of_one_process(n, world):
    """Each image is seen once an epoch, in as many batches, of about equal size, by each process."""
    alone = list(RankBatches(EpochSampler(n, 0), 4 * world))
    shares = [RankBatches(EpochSampler(n, 0), 4, rank, world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    together = list(zip(*shares, strict=True))
    assert sorted(row for parts in together for part in parts for row, _ in part) == list(range(n))
    for parts in together:
        sizes = [len(part) for part in parts]
        assert min(sizes) > 1
        assert max(sizes) - min(sizes) <= 1
    for whole, parts in zip(alone, together[:-1], strict=False):
        assert sorted(whole) == sorted(item for part in parts for item in part)


def test_the_images_of_a_few_shards_are_shuffled_together():
    shards = np.arange(60) % 6
    orders = []
    for epoch in (0, 1):
        sampler = EpochSampler(60, 0, epoch=epoch, shards=shards, together=2)
        rows = [row for row, _ in sampler]
        assert sorted(rows) == list(range(60))
        windows = [set(shards[rows[start : start + 20]]) for start in (0, 20, 40)]
        assert ([len(window) for window in windows], set.union(*windows)) == ([2, 2, 2], set(range(6)))
        orders.append(rows)
    assert orders[0] != orders[1]
    everything = EpochSampler(60, 0, shards=shards, together=6)
    assert list(everything) == list(EpochSampler(60, 0))  # as with files


def test_fixed_views_come_in_turn_and_each_is_what_the_network_sees_alone(module):
    data = module(augmented_copies=2)
    copies = torch.cat([batch["image"] for batch in data.fixed_copies_loader(2)])
    batches = data.train_dataloader()
    seen = []
    for epoch in range(4):
        batches.batch_sampler.sampler.set_epoch(epoch)
        shown = list(batches)
        order = torch.cat([batch["row"] for batch in shown]).argsort()
        seen.append(torch.cat([batch["image"] for batch in shown])[order])
    assert torch.equal(torch.cat(seen[:2]), copies)
    assert torch.equal(torch.cat(seen[2:]), copies)
    assert not torch.equal(seen[0], seen[1])
    other = module(augmented_copies=2, seed=1).fixed_copies_loader(2)
    assert not torch.equal(copies, torch.cat([batch["image"] for batch in other]))


def test_a_cache_changes_no_batch_and_decodes_nothing_twice(module, tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path))
    for workers in (2, 0):  # the second reads what the processes of the first have kept
        plain, cached = module(), module(cache=ImageCache(PREPROCESSING), workers=workers)
        for loader in ("train_dataloader", "val_dataloader"):
            for one, other in zip(getattr(plain, loader)(), getattr(cached, loader)(), strict=True):
                assert torch.equal(one["image"], other["image"])
                assert torch.equal(one["row"], other["row"])
        monkeypatch.setattr("avatar_bench.data.cache.decode_bytes", None)


def test_targets_are_by_name_and_an_unreadable_file_stops_training_and_costs_a_prediction_its_row(uneven, tmp_path):
    turned = encode_targets(uneven, CLASSES[::-1])
    assert [CLASSES[::-1][target] for target in turned] == uneven.frame["label"].tolist()
    assert (encode_targets(uneven, ("real",)) == -1).sum() == (uneven.frame["label"] != "real").sum()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    uneven.frame.loc[0, "path"] = str(tmp_path / "broken.png")
    with pytest.raises(DataError, match=r"broken\.png"):
        list(build_loader(build_image_dataset(uneven, CLASSES, PREPROCESSING), 16, 0))
    images = ReadableImageDataset([str(tmp_path / "broken.png"), str(uneven.file(1))], [PREPROCESSING])
    assert images[0]["row"] == 0
    assert images[0]["reason"]
    assert images[1]["images"][0].shape == (32, 32, 3)

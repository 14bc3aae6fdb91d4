"""Counts against sums made by hand, and timing against a fake clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from avatar_bench.models import profiling
from avatar_bench.models.profiling import TimedCall, time_interleaved
from tests.models.small import count_macs


class Clock:
    """A clock that only work moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.now += seconds

        return call


def test_a_convolution_and_a_linear_layer_have_the_macs_of_a_hand_count() -> None:
    conv = nn.Conv2d(3, 8, 5, stride=2, padding=2, groups=1).eval()
    assert count_macs(conv, 16) == 8 * 8 * 8 * 3 * 5 * 5
    depthwise = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, padding=1), nn.ReLU(), nn.BatchNorm2d(6)).eval()
    assert count_macs(depthwise, 10) == 6 * 10 * 10 * 9
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 7)).eval()
    assert count_macs(linear, 4) == 48 * 7


@pytest.mark.parametrize(
    ("model", "giga", "millions"),
    # He et al. 2016 (1.8 x 10^9), Howard et al. 2019 (56 x 10^6, of 1000 classes); timm's own table for the rest
    [("resnet18", 1.81, 11.69), ("mobilenetv3_small", 0.056, 2.54)],
)
def test_published_networks_have_the_published_cost(model: str, giga: float, millions: float) -> None:
    import timm
    import yaml

    from avatar_bench.config.catalogue import find_choices

    name = yaml.safe_load(find_choices("model")[model].read_text(encoding="utf-8"))["model"]["backbone"]
    net = timm.create_model(name, pretrained=False).eval()
    assert count_macs(net, 224) / 1e9 == pytest.approx(giga, rel=0.02)
    assert sum(each.numel() for each in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.002)


def test_attention_counts_its_matrix_products() -> None:
    import timm

    net = timm.create_model("test_vit.r160_in1k", pretrained=False, num_classes=3).eval()
    tokens, width, block = 101, 64, net.blocks[0]
    linear = 100 * 64 * 3 * 16 * 16 + 64 * 3
    hidden = block.mlp.fc1.out_features
    linear += len(net.blocks) * tokens * (3 * width * width + width * width + 2 * width * hidden)
    attention = len(net.blocks) * 2 * tokens * tokens * width
    assert count_macs(net, 160) == linear + attention


def peak(net: nn.Module, images: torch.Tensor) -> int:
    return int(profiling.trace_memory(net, images)["bytes"].max())


def test_memory_is_told_by_operation() -> None:
    net, images = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten()), torch.zeros(2, 3, 10, 10)
    steps = profiling.trace_memory(net, images)
    assert steps["operation"].tolist() == ["aten.convolution", "aten.relu", "aten.view"]
    before, made = profiling.count_weight_bytes(net) + 2 * 300 * 4, 2 * 800 * 4
    assert steps["bytes"].tolist() == [before + made, before + 2 * made, before + made]


def test_peak_memory_is_what_lives_at_the_same_time() -> None:
    images = torch.zeros(2, 3, 10, 10)
    conv, bigger = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
    weights = profiling.count_weight_bytes(nn.Sequential(conv, bigger))
    given, first, second = (2 * channels * 100 * 4 for channels in (3, 8, 16))
    assert peak(conv, images) == profiling.count_weight_bytes(conv) + given + first
    assert peak(nn.Sequential(conv, bigger), images) == weights + given + first + second
    # made in place, or only looked at in another way, it takes no more
    inplace = nn.Sequential(conv, nn.ReLU(inplace=True), nn.Flatten())
    assert peak(inplace, images) == profiling.count_weight_bytes(conv) + given + first


def test_each_job_is_visited_once_a_round_in_an_order_drawn_anew() -> None:
    clock, seen = Clock(), []

    def job(name: str, seconds: float) -> TimedCall:
        work = clock.work(seconds)
        return TimedCall(lambda: (seen.append(name), work()), 1)

    table = time_interleaved([job("a", 1.0), job("b", 1.0), job("c", 1.0)], rounds=8, seconds=8.0, clock=clock)
    assert table.groupby("job")["round"].apply(list).tolist() == [list(range(8))] * 3
    turns = ["".join(seen[9 + 3 * number :][:3]) for number in range(8)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert len(set(turns)) > 1
    seen.clear()
    time_interleaved([job("a", 1.0), job("b", 1.0), job("c", 1.0)], rounds=8, seconds=8.0, clock=clock)
    assert ["".join(seen[9 + 3 * number :][:3]) for number in range(8)] == turns

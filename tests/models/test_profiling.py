"""Counts against sums made by hand, and timing against a fake clock."""

import pytest
import timm
import torch
import yaml
from torch import nn

from avatar_bench.config.catalogue import find_choices
from avatar_bench.models import profiling
from avatar_bench.models.profiling import TimedCall, time_batches, time_interleaved
from tests.models.small import count_macs


class Clock:
    """A clock that only work moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def work(self, seconds):
        def call():
            self.now += seconds

        return call


def test_published_networks_have_the_published_cost_and_layers_that_of_a_hand_count():
    for model, giga, millions in (
        ("resnet18", 1.81, 11.69),
        ("resnet50", 4.09, 25.56),
        ("mobilenetv3_small", 0.056, 2.54),
    ):
        name = yaml.safe_load(find_choices("model")[model].read_text(encoding="utf-8"))["model"]["backbone"]
        net = timm.create_model(name, pretrained=False).eval()
        assert count_macs(net, 224) / 1e9 == pytest.approx(giga, rel=0.02)
        assert sum(parameter.numel() for parameter in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.002)
    conv = nn.Conv2d(3, 8, 5, stride=2, padding=2, groups=1).eval()
    assert count_macs(conv, 16) == 8 * 8 * 8 * 3 * 5 * 5
    depthwise = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, padding=1), nn.ReLU(), nn.BatchNorm2d(6)).eval()
    assert count_macs(depthwise, 10) == 6 * 10 * 10 * 9
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 7)).eval()
    assert count_macs(linear, 4) == 48 * 7
    net = timm.create_model("test_vit.r160_in1k", pretrained=False, num_classes=3).eval()
    tokens, width, block = 101, 64, net.blocks[0]
    linear = 100 * 64 * 3 * 16 * 16 + 64 * 3
    hidden = block.mlp.fc1.out_features
    linear += len(net.blocks) * tokens * (3 * width * width + width * width + 2 * width * hidden)
    attention = len(net.blocks) * 2 * tokens * tokens * width
    assert count_macs(net, 160) == linear + attention


def test_weights_are_counted_by_layer_with_their_statistics_and_peak_memory_is_what_lives_at_once():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert sum(parameter.numel() for parameter in net.parameters()) == (12 + 4) + (4 + 4)
    assert profiling.count_weight_bytes(net) == 4 * (24 + 8) + 8  # the last: how many batches it has seen
    assert profiling.count_weight_bytes(net.half()) == 2 * (24 + 8) + 8
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4)))
    assert profiling.count_layer_bytes(net) == {"0": 4 * 16, "1.0": 4 * 16 + 8}
    net, images = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten()), torch.zeros(2, 3, 10, 10)
    steps = profiling.trace_memory(net, images)
    assert steps["operation"].tolist() == ["aten.convolution", "aten.relu", "aten.view"]
    before, activations = profiling.count_weight_bytes(net) + 2 * 300 * 4, 2 * 800 * 4
    assert steps["bytes"].tolist() == [before + activations, before + 2 * activations, before + activations]
    images = torch.zeros(2, 3, 10, 10)
    conv, bigger = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
    weights = profiling.count_weight_bytes(nn.Sequential(conv, bigger))
    input_bytes, first, second = (2 * channels * 100 * 4 for channels in (3, 8, 16))
    assert peak(conv, images) == profiling.count_weight_bytes(conv) + input_bytes + first
    assert peak(nn.Sequential(conv, bigger), images) == weights + input_bytes + first + second
    # made in place, or only looked at in another way, it takes no more
    inplace = nn.Sequential(conv, nn.ReLU(inplace=True), nn.Flatten())
    assert peak(inplace, images) == profiling.count_weight_bytes(conv) + input_bytes + first
    deep, images = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(20))), torch.zeros(1, 3, 50, 50)
    assert peak(deep, images) == profiling.count_weight_bytes(deep) + 3 * images.numel() * 4  # the others are let go


def peak(net, images):
    return int(profiling.trace_memory(net, images)["bytes"].max())


def test_on_cuda_memory_is_what_its_allocator_reports_of_each_operation(monkeypatch):
    reported = iter([500, 900])
    resets = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: resets.append(1))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: next(reported))
    net, images = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.zeros(2, 3, 10, 10)
    counter = profiling._AllocatedBytes()
    with torch.no_grad(), counter:
        net(images)
    assert counter.steps == [("aten.convolution", 500), ("aten.relu", 900)]
    assert len(resets) == 2


def test_each_job_is_visited_once_a_round_in_an_order_drawn_anew_so_that_a_slow_moment_meets_all():
    clock, seen = Clock(), []

    def job(name, seconds):
        work = clock.work(seconds)
        return TimedCall(lambda: (seen.append(name), work()), 1)

    table = time_interleaved([job(name, 1.0) for name in "abc"], rounds=8, seconds=8.0, clock=clock)
    assert table.groupby("job")["round"].apply(list).tolist() == [list(range(8))] * 3
    turns = ["".join(seen[9 + 3 * number :][:3]) for number in range(8)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert len(set(turns)) > 1
    seen.clear()
    time_interleaved([job(name, 1.0) for name in "abc"], rounds=8, seconds=8.0, clock=clock)
    assert ["".join(seen[9 + 3 * number :][:3]) for number in range(8)] == turns
    clock = Clock()

    def call():
        clock.now += 3.0 if 100 < clock.now < 200 else 1.0

    table = time_interleaved([TimedCall(call, 1), TimedCall(call, 1)], rounds=60, seconds=1000.0, clock=clock)
    slow = table[table["seconds"] > 2].groupby("job").size()
    assert slow.max() - slow.min() <= 0.25 * slow.max()


def test_short_jobs_are_called_often_after_a_first_call_and_long_ones_get_fewer_rounds_but_three():
    clock, calls = Clock(), []
    work = clock.work(0.01)
    table = time_interleaved([TimedCall(lambda: (calls.append(0), work()), 1)], rounds=4, seconds=0.2, clock=clock)
    assert len(table) == 4 * 5
    assert len(calls) == len(table) + 4 + 3  # one a visit, and the visit that warms up
    assert table["seconds"].tolist() == pytest.approx([0.01] * 20)
    assert len(time_interleaved([TimedCall(work, 1)], rounds=2, seconds=1e9, clock=clock)) == 2 * 20
    clock = Clock()
    jobs = [TimedCall(clock.work(5.0), 1), TimedCall(clock.work(1.0), 1)]
    assert time_interleaved(jobs, rounds=10, seconds=1.0, clock=clock)["round"].max() == 2
    assert time_interleaved(jobs, rounds=2, seconds=0.0, clock=clock)["round"].max() == 1


def test_threads_are_set_for_each_job_and_set_back():
    before, seen = torch.get_num_threads(), []
    jobs = [TimedCall(lambda: seen.append(torch.get_num_threads()), count) for count in (before, before + 1)]
    time_interleaved(jobs, rounds=3, seconds=0.0)
    assert set(seen) == {before, before + 1}
    assert torch.get_num_threads() == before

    def fail():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        time_interleaved([TimedCall(fail, before + 1)], rounds=1, seconds=0.0)
    assert torch.get_num_threads() == before


def test_waits_are_those_between_batches():
    clock = Clock()

    def batches():
        for seconds in (3.0, 1.0, 2.0):
            clock.now += seconds
            yield [0] * int(seconds)

    assert list(time_batches(batches(), clock)) == [(3, 3.0), (1, 1.0), (2, 2.0)]

"""profile=FILE: the trace of a command, and what it names as its costs."""

import json
import re
import sys
from collections import Counter

import pytest
import torch

from avatar_bench.cli.app import main
from avatar_bench.cli.profile import OTHER, describe_costs, name_cost


def test_a_profiled_command_writes_a_trace_and_names_its_costs(tiny_run, images, tmp_path, capsys):
    trace, outputs = tmp_path / "new" / "trace.json", [tmp_path / "profiled.csv", tmp_path / "plain.csv"]
    words = ["predict", f"ckpt={tiny_run}", f"input={images / 'blind'}", "workers=0", "runtime=torch", "precision=32"]
    assert main([*words, f"output={outputs[0]}", f"profile={trace}"]) == 0
    printed = capsys.readouterr().err
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"aten::conv2d", "aten::softmax"} & names
    costs = re.search(r"costs in \d+ s or more: (.*)", printed).group(1)
    assert 0 < sum(int(share) for share in re.findall(r"(\d+) %", costs)) <= 102  # five rounded shares
    assert main([*words, f"output={outputs[1]}"]) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_the_innermost_known_file_names_the_cost():
    class Frames(torch.nn.Module):
        def forward(self, _):
            return sys._getframe()

    assert name_cost(Frames()(None)) == "network"
    assert name_cost(sys._getframe()) == name_cost(None) == OTHER


def test_the_largest_costs_come_first():
    samples = Counter(dict(zip("abcdef", (100, 300, 50, 40, 6, 4), strict=True)))
    assert describe_costs(samples) == "costs in 5 s or more: b 60 %, a 20 %, c 10 %, d 8 %, e 1 %"


@pytest.mark.slow
def test_a_profile_of_a_sweep_is_refused(tmp_path, capsys):
    words = ["train", "-m", "seed=1,2", f"profile={tmp_path / 't.json'}", f"out={tmp_path / 'sweep'}"]
    assert main(words) == 3
    assert "profile: a sweep has many jobs" in capsys.readouterr().err

"""profile=FILE: the trace of a command, and what it names as its costs."""

import json
import re
import sys
from collections import Counter

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
    costs = re.search(r"costs in \d+ s: (.*)", printed).group(1)
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
    assert describe_costs(samples, 5.4) == "costs in 5 s: b 60 %, a 20 %, c 10 %, d 8 %, e 1 %"
    assert describe_costs(Counter({"a": 399, "b": 1}), 4) == "costs in 4 s: a 100 %"
    assert describe_costs(Counter(), 0) == "costs in 0 s: "


def test_a_profile_of_a_sweep_is_refused_once_and_one_in_place_of_another_file_too(tmp_path, tiny_run, images, capsys):
    words = ["train", "-m", "seed=1,2", f"profile={tmp_path / 't.json'}", f"out={tmp_path / 'sweep'}"]
    assert main(words) == 2
    assert capsys.readouterr().err.count("profile: a sweep has many jobs") == 1
    assert not list(tmp_path.iterdir())
    (tmp_path / "run.json").write_text('{"status": "finished"}', encoding="utf-8")
    predict = ["predict", f"ckpt={tiny_run}", f"input={images / 'blind'}", "output=-"]
    assert main([*predict, f"profile={tmp_path / 'run.json'}"]) == 5
    assert "exists and is no trace" in capsys.readouterr().err
    assert (tmp_path / "run.json").read_text(encoding="utf-8") == '{"status": "finished"}'

"""Entrants: each run that is compared has a name of its own, and runs of one recipe share the recipe's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from avatar_bench.runs.labels import label_runs
from avatar_bench.runs.record import write_record

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(folder: str, record: dict[str, Any], **config: Any) -> Path:
        place = tmp_path / folder
        place.mkdir(parents=True)
        write_record(place, {"status": "finished", "mode": "frozen", **record})
        given = {"seed": record.get("seed", 0), "out": folder, "lr": 1e-3} | config
        (place / "config.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
        return place

    return build


def test_runs_that_differ_in_seed_alone_are_of_one_recipe(make: Make) -> None:
    folders = [make(f"job{seed}", {"name": "resnet18", "seed": seed}) for seed in (1, 2)]
    found = label_runs(folders)
    assert [one.recipe for one in found] == ["resnet18 frozen"] * 2
    assert [one.label for one in found] == ["resnet18 frozen · seed 1", "resnet18 frozen · seed 2"]


@pytest.mark.parametrize(
    "apart",
    [
        {"lang": "ru"},
        {"logger": {"name": "none"}},
        {"data": {"workers": 4, "fraction": 1.0}},
        {"trainer": {"threads": 1, "precision": "32"}},
    ],
)
def test_what_has_no_part_in_what_is_learned_makes_no_recipe(make: Make, apart: dict[str, Any]) -> None:
    plain = {"data": {"workers": 2, "fraction": 1.0}, "trainer": {"threads": 2, "precision": "32"}}
    found = label_runs([make("a", {"name": "m"}, **plain), make("b", {"name": "m"}, **plain | apart)])
    assert found[0].recipe == found[1].recipe


def test_options_that_an_older_configuration_does_not_name_are_what_they_were_then(make: Make) -> None:
    later = {"name": "adamw", "weight_decay": 0.01, "rho": None, "layer_decay": None, "decay_norms": True}
    older = make("a", {"name": "m", "seed": 1}, optimizer={"name": "adamw", "weight_decay": 0.01})
    same = make("b", {"name": "m", "seed": 2}, optimizer=later)
    other = make("c", {"name": "m", "seed": 3}, optimizer=later | {"decay_norms": False})
    found = label_runs([older, same, other])
    assert found[0].recipe == found[1].recipe != found[2].recipe
    assert found[0].config["optimizer"]["decay_norms"]


def test_any_other_option_makes_another_recipe_and_the_folder_tells_them_apart(make: Make) -> None:
    found = label_runs([make("slow", {"name": "m"}, lr=1e-4), make("fast", {"name": "m"}, lr=1e-2)])
    assert [one.recipe for one in found] == ["m frozen (slow)", "m frozen (fast)"]
    assert [one.label for one in found] == ["m frozen (slow)", "m frozen (fast)"]


def test_a_run_is_called_by_its_experiment_its_shots_its_start_and_what_was_held_out(make: Make) -> None:
    found = label_runs(
        [
            make("a", {"name": "x", "experiment": "resnet50_full"}),
            make("b", {"name": "resnet18", "mode": "few_shot"}, mode={"shots": 5}),
            make(
                "s",
                {"name": "resnet18", "init": {"method": "simclr"}},
                optimizer={"name": "sam", "rho": 0.5, "adaptive": True},
            ),
            make("c", {"name": "resnet18"}, data={"split": {"held_out": ["tabler"]}}),
        ]
    )
    assert [one.label for one in found] == [
        "resnet50_full",
        "resnet18 few_shot 5 shots",
        "resnet18 frozen sam 0.5 adaptive from simclr",
        "resnet18 frozen without tabler",
    ]


def test_labels_are_never_shared_even_where_all_is_the_same(make: Make, tmp_path: Path) -> None:
    folders = [make(f"{place}/job", {"name": "m", "seed": 1}) for place in ("a", "b", "c")]
    labels = [one.label for one in label_runs(folders)]
    assert len(set(labels)) == 3


def test_a_checkpoint_file_is_called_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "best.ckpt"
    file.write_bytes(b"")
    assert [one.label for one in label_runs([file])] == ["best.ckpt"]

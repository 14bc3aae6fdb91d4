"""Labelled runs: unique labels, and one recipe name for runs that differ only in the seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from avatar_bench.runs.labels import label_runs
from avatar_bench.runs.record import RunRecord

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(folder: str, record: dict[str, Any], **config: Any) -> Path:
        place = tmp_path / folder
        place.mkdir(parents=True)
        RunRecord(**{"status": "finished", "mode": "frozen", **record}).write(place)
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


def test_runs_of_one_name_are_named_by_the_option_in_which_they_differ(make: Make) -> None:
    found = label_runs([make("slow", {"name": "m"}, lr=1e-4), make("fast", {"name": "m"}, lr=1e-2)])
    assert [one.recipe for one in found] == ["m frozen lr=0.0001", "m frozen lr=0.01"]
    assert [one.label for one in found] == ["m frozen lr=0.0001", "m frozen lr=0.01"]


def test_a_nested_option_is_named_as_it_is_typed_and_a_missing_one_is_null(make: Make) -> None:
    plain = {"data": {"resize": "squash", "fraction": 1.0}}
    found = label_runs([make("a", {"name": "m"}, **plain), make("b", {"name": "m"}, data={"fraction": 1.0})])
    assert [one.recipe for one in found] == ["m frozen data.resize=squash", "m frozen data.resize=null"]


def test_seeds_of_recipes_that_differ_in_an_option_keep_its_name(make: Make) -> None:
    found = label_runs(
        [make(f"{rate}-{seed}", {"name": "m", "seed": seed}, lr=rate) for rate in (0.1, 0.2) for seed in (1, 2)]
    )
    assert [one.label for one in found] == [
        f"m frozen lr={rate} · seed {seed}" for rate in (0.1, 0.2) for seed in (1, 2)
    ]


def test_the_folder_names_runs_that_differ_in_many_options(make: Make) -> None:
    found = label_runs([make("a", {"name": "m"}), make("b", {"name": "m"}, lr=1, epochs=2, mode={"balance": "none"})])
    assert [one.recipe for one in found] == ["m frozen (a)", "m frozen (b)"]


def test_a_run_is_called_by_its_experiment_its_shots_its_start_and_what_was_held_out(make: Make) -> None:
    found = label_runs(
        [
            make("a", {"name": "x", "experiment": "resnet50_full"}),
            make("b", {"name": "resnet18", "mode": "few_shot"}, mode={"shots": 5}),
            make(
                "s",
                {"name": "resnet18", "init": {"method": "simclr"}},
                optimizer={"name": "adamw", "rho": 0.5, "adaptive": True},
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

"""The sets beside a data set: those of the demo, and those that the options name."""

from pathlib import Path

from avatar_bench.config.schema import ImagesConfig
from avatar_bench.sources.dataset_kinds import list_further_sets


def test_the_demo_brings_sets_that_a_users_own_replace_and_other_data_has_the_sets_that_are_named_alone(tmp_path):
    options = ImagesConfig(kind="demo", ood_sources={"things": ["a"], "icons": ["b"]}, ood={"icons": "mine"})
    expected = {"blind": tmp_path / "blind.csv", "things": tmp_path / "ood_things.csv", "icons": Path("mine")}
    assert list_further_sets(options, tmp_path) == expected
    options.blind = "other.csv"
    assert list_further_sets(options, tmp_path)["blind"] == Path("other.csv")
    for name in ("obj", "simpsons", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").touch()
    options = ImagesConfig(kind="manifest", ood_sources={"things": ["a"]}, ood_root=str(tmp_path), ood={"obj": "mine"})
    assert list_further_sets(options, tmp_path) == {"obj": Path("mine"), "simpsons": tmp_path / "simpsons"}
    assert list_further_sets(ImagesConfig(kind="folder"), tmp_path) == {}

"""Views: how they merge classes, and which of them a run can answer."""

import pytest

from avatar_bench.config.entries import use_folders
from avatar_bench.errors import ConfigError
from avatar_bench.results.view import View, find_meanings, read_views
from tests.builders.run_files import write_file

THREE = {name: (name,) for name in ("drawing", "generated", "real")}
TWO = {"artificial": ("generated",), "human": ("drawing", "real")}
TWO_FAKES = {"gan": ("generated",), "sd": ("generated",), "a": ("real",)}
PHOTOS = View.parse("photo_or_art", {"photo": ["real"], "art": ["drawing"]})
GENERATED = View.parse("generated_or_not", {"generated": ["generated"], "not_generated": ["drawing", "real"]})


@pytest.mark.parametrize(
    ("view", "class_map", "expected"),
    [
        (View(), THREE, THREE),
        (View(), TWO, None),  # human is two classes
        (View(), {"ai": ("generated",), "photo": ("real",)}, {"generated": ("ai",), "real": ("photo",)}),
        (View(), TWO_FAKES, {"generated": ("gan", "sd"), "real": ("a",)}),
        (GENERATED, THREE, {"generated": ("generated",), "not_generated": ("drawing", "real")}),
        (GENERATED, TWO, {"generated": ("artificial",), "not_generated": ("human",)}),
        (GENERATED, {"real": ("real",), "drawing": ("drawing",)}, None),  # nothing is generated
        (PHOTOS, THREE, {"photo": ("real",), "art": ("drawing",)}),
        (PHOTOS, TWO, None),
        (PHOTOS, {"a": ("real", "generated"), "b": ("drawing",)}, None),  # part of a class is left out
    ],
)
def test_a_run_answers_a_view_if_its_classes_are_inside_those_of_the_view(view, class_map, expected):
    assert view.assign(class_map) == expected


def test_labels_are_mapped_others_left_out_and_shares_of_merged_classes_summed(tmp_path):
    assert [PHOTOS.find_class(name) for name in ("real", "drawing", "generated", "")] == ["photo", "art", "", ""]
    assert View().find_class("generated") == "generated"
    assert PHOTOS.find_class("photo") == "photo"  # data may be labelled with the classes of the view
    not_generated = ["drawing", "real", "not_generated"]
    meanings = {"generated": ["generated"], "not_generated": not_generated}
    assert find_meanings(["not_generated", "generated"]) == meanings
    assert find_meanings(["fake", "not_fake"]) == {}
    assert (View().name_set("test"), PHOTOS.name_set("test")) == ("test", "test--photo_or_art")
    shares = {"drawing": 0.5, "real": 0.3, "generated": 0.2}
    assert GENERATED.merge_shares(shares) == pytest.approx({"generated": 0.2, "not_generated": 0.8})
    assert PHOTOS.merge_shares(shares) == pytest.approx({"photo": 0.375, "art": 0.625})
    assert PHOTOS.merge_shares({"generated": 1.0}) == {}
    text = "name: as_they_are\nclasses: {d: [drawing], g: [generated], r: [real]}\n"
    write_file(tmp_path / "view" / "as_they_are.yaml", text)
    with use_folders([tmp_path]):
        assert list(read_views()) == ["all", "as_they_are", "generated_or_not", "photo_or_art"]
    assert list(read_views()) == ["all", "generated_or_not", "photo_or_art"]


def test_a_view_without_two_disjoint_classes_is_refused():
    two = {"a": ["real"], "b": ["drawing"]}
    for name, classes in (
        *(("x", {"a": ["real"]}), ("x", {}), ("x", {"a": ["real"], "b": 3})),
        ("x", {"a": ["real"], "b": ["real", "drawing"]}),  # in two
        ("x y", two),  # no name of a folder
        ("all", two),
    ):
        with pytest.raises(ConfigError, match=f"view={name}: its classes are"):
            View.parse(name, classes)

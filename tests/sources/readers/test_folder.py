"""Tests of images in folders of one's own."""

import glob
import os
import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from avatar_bench.errors import ConfigError, DataError
from avatar_bench.sources.reader import SourceJob
from avatar_bench.sources.readers.folder import ImageFolder, compile_rules, match_rules, translate_glob

SHARED = Path(__file__).parents[4] / "shared" / "data"


def plant(root, *names):
    """Write files that hold their own names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def read(tmp_path, done=(), **options):
    label = {"label": options.pop("label", "")}
    job = SourceJob("own", label, tmp_path / "place", done)
    return list(ImageFolder(**options).read(job)), job.quarantine


def test_folders_give_class_source_and_split_in_the_order_of_paths_and_of_other_files_nothing_is_guessed(tmp_path):
    plant(tmp_path / "set", "real/b.jpg", "real/phone/deep/a.jpg", "drawing/c.svg", "ai_portrait.jpg", "real/d.jpg")
    images, quarantine = read(tmp_path, done={"real/d.jpg"}, root=str(tmp_path / "set"))
    assert [(image.name, image.label, image.source) for image in images] == [
        ("drawing/c.svg", "drawing", ""),
        ("real/b.jpg", "real", ""),
        ("real/phone/deep/a.jpg", "real", "phone"),
    ]
    assert images[0].content.read_bytes() == b"drawing/c.svg"
    assert quarantine == [("ai_portrait.jpg", "not in a class folder")]
    plant(tmp_path / "halves", "train/real/a.jpg", "test/real/phone/b.jpg", "extra/real/c.jpg")
    images, quarantine = read(tmp_path, root=str(tmp_path / "halves"))
    expected = [("test", "real", "phone"), ("train", "real", "")]
    assert [(image.split, image.label, image.source) for image in images] == expected
    assert quarantine == [("extra/real/c.jpg", "outside the folders train, test")]
    plant(tmp_path, "one/x/a.jpg", "two/a.jpg")
    images, _ = read(tmp_path, roots={"two": str(tmp_path / "two"), "one": str(tmp_path / "one")}, label="real")
    expected = [("one/x/a.jpg", "one", ""), ("two/a.jpg", "two", "")]
    assert [(image.name, image.source, image.label) for image in images] == expected


def test_clutter_is_skipped_and_what_is_no_file_is_named(tmp_path):
    root = tmp_path / "set"
    plant(root, "real/a.jpg", "real/.hidden.jpg", "real/Thumbs.db", ".git/real/b.jpg", "real/.DS_Store")
    plant(tmp_path, "secret.jpg")
    (root / "real" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "real" / "inside.jpg").symlink_to(root / "real" / "a.jpg")
    (root / "real" / "nothing.jpg").symlink_to(root / "gone.jpg")
    (root / "real" / "loop").symlink_to(root)
    (root / "real" / "circle.jpg").symlink_to("elcric.jpg")
    (root / "real" / "elcric.jpg").symlink_to("circle.jpg")
    os.mkfifo(root / "real" / "pipe")
    images, quarantine = read(tmp_path, root=str(root))
    assert [image.name for image in images] == ["real/a.jpg", "real/inside.jpg"]
    assert dict(quarantine) == {
        "real/out.jpg": "a link that leads out of the folder",
        "real/nothing.jpg": "a broken link",
        "real/circle.jpg": "a broken link",
        "real/elcric.jpg": "a broken link",
        "real/loop": "a link to a folder, which is not followed",
        "real/pipe": "not a file",
    }


def test_a_name_that_is_no_text_is_quarantined(tmp_path):
    plant(tmp_path / "set", "real/a.jpg")
    try:
        (tmp_path / "set" / "real" / os.fsdecode(b"\xff.jpg")).write_text("")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    images, quarantine = read(tmp_path, root=str(tmp_path / "set"))
    assert [image.name for image in images] == ["real/a.jpg"]
    assert quarantine == [("real/\\udcff.jpg", "its name is not UTF-8")]


def test_rules_read_the_class_or_name_what_they_cannot_decide(tmp_path):
    root = tmp_path / "set"
    plant(root, "portrait_ai.jpg", "faces/x/anna_1.jpg", "faces/x/anna_2.jpg", "gen/sdxl-7.png", "gen/anna_9.jpg")
    rules = [
        {"regex": r"faces/.*/(?P<group>[a-z]+)_\d+\.jpg", "label": "real"},
        {"regex": r"gen/(?P<generator>\w+)-\d+\.png", "label": "generated"},
        {"glob": "**/*.jpg", "label": "generated"},
    ]
    images, quarantine = read(tmp_path, root=str(root), rules=[*rules[:2], {"glob": "gen/*", "label": "generated"}])
    assert [(image.name, image.label, image.group) for image in images] == [
        ("faces/x/anna_1.jpg", "real", "anna"),
        ("faces/x/anna_2.jpg", "real", "anna"),
        ("gen/anna_9.jpg", "generated", ""),
    ]
    assert quarantine == [("gen/sdxl-7.png", "ambiguous: rules 2 and 3 differ"), ("portrait_ai.jpg", "no rule matches")]
    _, quarantine = read(tmp_path, root=str(root), rules=rules)
    assert ("faces/x/anna_1.jpg", "ambiguous: rules 1 and 3 differ") in quarantine


def test_a_manifest_says_more_however_folders_are_written_and_may_not_contradict(tmp_path, monkeypatch):
    root = tmp_path / "set"
    plant(root, "real/a.jpg", "real/b.jpg", "real/c.jpg")
    (tmp_path / "m.csv").write_text(
        f"path,label,source,group,split\nset/real/a.jpg,real,phone,anna,test\n{root}/real/b.jpg,drawing,,,\n"
        "set/real/gone.jpg,real,,,\nelsewhere/d.jpg,real,,,\n"
    )
    images, quarantine = read(tmp_path, root=str(root), manifest=str(tmp_path / "m.csv"))
    expected = [("real/a.jpg", "phone", "anna", "test"), ("real/c.jpg", "", "", "")]
    assert [(image.name, image.source, image.shared_group, image.split) for image in images] == expected
    assert quarantine == [
        ("real/b.jpg", "label is real by its path, drawing in the manifest"),
        ("real/gone.jpg", "listed in m.csv, missing in set"),
    ]
    plant(tmp_path, "mine/real/a.jpg", "other/x")
    (tmp_path / "mine" / "m.csv").write_text("path,group\nreal/a.jpg,anna\n")
    monkeypatch.chdir(tmp_path / "other")
    images, quarantine = read(tmp_path, root="../mine", manifest="../other/../mine/m.csv")
    assert [(image.name, image.shared_group) for image in images] == [("real/a.jpg", "anna")]
    assert quarantine == []


def test_a_broken_manifest_or_no_folder_is_an_error(tmp_path):
    plant(tmp_path / "set", "real/a.jpg")
    for text, message in (
        ("file,label\na,b\n", "no column path"),
        ("path,split\nreal/a.jpg,middle\n", "line 2: unknown split 'middle'"),
        ("path\n", "has no rows"),
        ("path\nset/real/a.jpg\nset/real/a.jpg\n", "listed twice"),
    ):
        (tmp_path / "m.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            read(tmp_path, root=str(tmp_path / "set"), manifest=str(tmp_path / "m.csv"))
    with pytest.raises(DataError, match="is not a folder"):
        read(tmp_path, root=str(tmp_path / "none"))


def test_the_state_changes_with_any_file_and_with_the_manifest(tmp_path):
    plant(tmp_path, "set/real/a.jpg", "m.csv")
    source = ImageFolder(root=str(tmp_path / "set"), manifest=str(tmp_path / "m.csv"))
    states = [source.hash_state(), source.hash_state()]
    plant(tmp_path, "set/real/b.jpg")
    states.append(source.hash_state())
    os.utime(tmp_path / "set" / "real" / "a.jpg", ns=(1, 1))
    states.append(source.hash_state())
    (tmp_path / "m.csv").write_text("longer than before")
    states.append(source.hash_state())
    assert states[0] == states[1]
    assert len(set(states)) == 4


@pytest.mark.shared
def test_the_shared_images_come_with_the_counts_sources_and_groups_of_their_manifest(tmp_path):
    if not (SHARED / "manifest.csv").is_file():
        pytest.skip("../shared/data is missing")
    images, quarantine = read(tmp_path, root=str(SHARED / "avatars"), manifest=str(SHARED / "manifest.csv"))
    table = pd.read_csv(SHARED / "manifest.csv", dtype=str)
    table = table[table["set"] == "avatars"]
    assert quarantine == []
    assert Counter(image.label for image in images) == Counter(table["label"])
    assert Counter((image.source, image.shared_group) for image in images) == Counter(
        zip(table["source"], table["group"], strict=True)
    )


def test_a_glob_fits_whole_paths():
    for pattern, fits, fits_not in (
        ("*.jpg", ["a.jpg", ".jpg"], ["x/a.jpg", "a.jpg.png", "a_jpg"]),
        ("**/*.jpg", ["a.jpg", "x/a.jpg", "x/y/a.jpg"], ["a.png"]),
        ("faces/**", ["faces/a", "faces/b/c"], ["face/a", "faces", "my/faces/a"]),
        ("img?.[jp]*", ["img1.jpg", "img2.png"], ["img10.jpg", "img1.gif", "img/.jpg"]),
        ("[!a]x", ["bx"], ["ax", "/x"]),
        ("a+b(1).png", ["a+b(1).png"], ["aab1.png"]),
        ("x/**/y", ["x/y", "x/a/b/y"], ["xy", "x/ay"]),
    ):
        compiled = re.compile(translate_glob(pattern))
        assert [path for path in fits if not compiled.fullmatch(path)] == []
        assert [path for path in fits_not if compiled.fullmatch(path)] == []


@pytest.mark.skipif(not hasattr(glob, "translate"), reason="the standard library translates globs since Python 3.13")
@pytest.mark.parametrize("pattern", ["*.jpg", "**/*.jpg", "a/*/b?.png", "[ab]/x", "[!ab]x/y"])
def test_globs_mean_what_the_standard_library_means(pattern):
    theirs = re.compile(glob.translate(pattern, recursive=True, include_hidden=True))
    paths = ["a.jpg", "x/a.jpg", "x/y/a.jpg", "a/q/b1.png", "a/b1.png", "a/x", "b/x", "c/x", "cx/y", "ax/y"]
    mine = re.compile(translate_glob(pattern))
    assert [bool(mine.fullmatch(path)) for path in paths] == [bool(theirs.match(path)) for path in paths]


def test_rules_of_one_outcome_agree_named_groups_count_more_and_what_makes_no_sense_is_refused():
    rules = compile_rules("own", [{"glob": "a/*", "label": "real"}, {"regex": "(?P<label>real)|a/b", "label": "real"}])
    assert match_rules("a/b", rules) == {"label": "real"}
    rules = compile_rules("own", [{"regex": r"(?P<label>\w+)?/(?P<source>\w+)/.*", "label": "real"}])
    assert match_rules("drawing/tux/1.png", rules) == {"label": "drawing", "source": "tux"}
    assert match_rules("/tux/1.png", rules) == {"label": "real", "source": "tux"}
    for rule, message in (
        ({"glob": "*", "lable": "real"}, "did you mean label"),
        ({"label": "real"}, "needs either glob or regex"),
        ({"regex": "(", "label": "real"}, "is invalid"),
        ({"glob": "*"}, "rule 1 has no class"),
    ):
        with pytest.raises(ConfigError, match=message):
            ImageFolder(root="x", rules=[rule]).check("own", {"label": ""})

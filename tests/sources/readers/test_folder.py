"""Tests of images in folders of one's own."""

import os
import re

import pytest

from avatar_bench.errors import ConfigError
from avatar_bench.sources.reader import SourceJob
from avatar_bench.sources.readers.folder import ImageFolder, translate_glob


def plant(root, *names):
    """Write files that hold their own names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def read(tmp_path, done=(), **options):
    label = {"label": options.pop("label", "")}
    job = SourceJob("own", label, tmp_path / "place", done)
    return list(ImageFolder(**options).read(job)), job.quarantine


def test_class_folders_give_class_and_source_in_the_order_of_paths(tmp_path):
    root = tmp_path / "set"
    plant(root, "real/b.jpg", "real/phone/deep/a.jpg", "drawing/c.svg")
    images, quarantine = read(tmp_path, root=str(root))
    assert [(one.name, one.label, one.source) for one in images] == [
        ("drawing/c.svg", "drawing", ""),
        ("real/b.jpg", "real", ""),
        ("real/phone/deep/a.jpg", "real", "phone"),
    ]
    assert images[0].content.read_bytes() == b"drawing/c.svg"
    assert quarantine == []


def test_split_folders_are_splits_and_not_classes(tmp_path):
    plant(tmp_path / "set", "train/real/a.jpg", "test/real/phone/b.jpg", "extra/real/c.jpg")
    images, quarantine = read(tmp_path, root=str(tmp_path / "set"))
    assert [(one.split, one.label, one.source) for one in images] == [("test", "real", "phone"), ("train", "real", "")]
    assert quarantine == [("extra/real/c.jpg", "outside the folders train, test")]


def test_clutter_is_skipped_and_what_is_no_file_is_named(tmp_path):
    root = tmp_path / "set"
    plant(root, "real/a.jpg", "real/.hidden.jpg", "real/Thumbs.db", ".git/real/b.jpg", "real/.DS_Store")
    plant(tmp_path, "secret.jpg")
    (root / "real" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "real" / "inside.jpg").symlink_to(root / "real" / "a.jpg")
    (root / "real" / "nothing.jpg").symlink_to(root / "gone.jpg")
    (root / "real" / "loop").symlink_to(root)
    os.mkfifo(root / "real" / "pipe")
    images, quarantine = read(tmp_path, root=str(root))
    assert [one.name for one in images] == ["real/a.jpg", "real/inside.jpg"]
    assert dict(quarantine) == {
        "real/out.jpg": "a link that leads out of the folder",
        "real/nothing.jpg": "a broken link",
        "real/loop": "a link to a folder, which is not followed",
        "real/pipe": "not a file",
    }


def test_rules_read_the_class_or_name_what_they_cannot_decide(tmp_path):
    root = tmp_path / "set"
    plant(root, "portrait_ai.jpg", "faces/x/anna_1.jpg", "faces/x/anna_2.jpg", "gen/sdxl-7.png", "gen/anna_9.jpg")
    rules = [
        {"regex": r"faces/.*/(?P<group>[a-z]+)_\d+\.jpg", "label": "real"},
        {"regex": r"gen/(?P<generator>\w+)-\d+\.png", "label": "generated"},
        {"glob": "**/*.jpg", "label": "generated"},
    ]
    images, quarantine = read(tmp_path, root=str(root), rules=[*rules[:2], {"glob": "gen/*", "label": "generated"}])
    assert [(one.name, one.label, one.group) for one in images] == [
        ("faces/x/anna_1.jpg", "real", "anna"),
        ("faces/x/anna_2.jpg", "real", "anna"),
        ("gen/anna_9.jpg", "generated", ""),
    ]
    assert quarantine == [("gen/sdxl-7.png", "ambiguous: rules 2 and 3 differ"), ("portrait_ai.jpg", "no rule matches")]
    _, quarantine = read(tmp_path, root=str(root), rules=rules)
    assert ("faces/x/anna_1.jpg", "ambiguous: rules 1 and 3 differ") in quarantine


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"glob": "*", "lable": "real"}, "did you mean label"),
        ({"label": "real"}, "needs either glob or regex"),
        ({"regex": "(", "label": "real"}, "is invalid"),
        ({"glob": "*"}, "rule 1 has no class"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_before_anything_is_read(rule, told):
    with pytest.raises(ConfigError, match=told):
        ImageFolder(root="x", rules=[rule]).check("own", {"label": ""})


def test_a_manifest_says_more_and_may_not_contradict(tmp_path):
    root = tmp_path / "set"
    plant(root, "real/a.jpg", "real/b.jpg", "real/c.jpg")
    (tmp_path / "m.csv").write_text(
        f"path,label,source,group,split\nset/real/a.jpg,real,phone,anna,test\n{root}/real/b.jpg,drawing,,,\n"
        "set/real/gone.jpg,real,,,\nelsewhere/d.jpg,real,,,\n"
    )
    images, quarantine = read(tmp_path, root=str(root), manifest=str(tmp_path / "m.csv"))
    assert [(one.name, one.source, one.shared_group, one.split) for one in images] == [
        ("real/a.jpg", "phone", "anna", "test"),
        ("real/c.jpg", "", "", ""),
    ]
    assert quarantine == [
        ("real/b.jpg", "label is real by its path, drawing in the manifest"),
        ("real/gone.jpg", "listed in m.csv, missing in set"),
    ]


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("*.jpg", ["a.jpg", ".jpg"], ["x/a.jpg", "a.jpg.png", "a_jpg"]),
        ("**/*.jpg", ["a.jpg", "x/a.jpg", "x/y/a.jpg"], ["a.png"]),
        ("faces/**", ["faces/a", "faces/b/c"], ["face/a", "faces", "my/faces/a"]),
        ("img?.[jp]*", ["img1.jpg", "img2.png"], ["img10.jpg", "img1.gif", "img/.jpg"]),
        ("[!a]x", ["bx"], ["ax", "/x"]),
        ("a+b(1).png", ["a+b(1).png"], ["aab1.png"]),
        ("x/**/y", ["x/y", "x/a/b/y"], ["xy", "x/ay"]),
    ],
)
def test_a_glob_fits_whole_paths(pattern, fits, fits_not):
    compiled = re.compile(translate_glob(pattern))
    assert [path for path in fits if not compiled.fullmatch(path)] == []
    assert [path for path in fits_not if compiled.fullmatch(path)] == []

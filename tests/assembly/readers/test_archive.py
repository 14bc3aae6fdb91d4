"""Tests of pictures in archives: unpacked safely or refused whole."""

import hashlib
import io
import tarfile
import zipfile

import pytest

from avatar_bench.assembly.readers import archive
from avatar_bench.assembly.readers.archive import KIND
from avatar_bench.assembly.readers.base import Job
from avatar_bench.errors import DataError

FILES = {"set/real/a.jpg": b"a", "set/drawing/b.svg": b"b", "README": b"hello"}


def zipped(path, files=FILES, **options):
    with zipfile.ZipFile(path, "w", **options) as made:
        for name, data in files.items():
            made.writestr(name, data)
    return path


def tarred(path, files=FILES, mode="w:gz"):
    with tarfile.open(path, mode) as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return path


def special(path, **fields):
    with tarfile.open(path, "w") as made:
        info = tarfile.TarInfo("set/real/odd.jpg")
        for key, value in fields.items():
            setattr(info, key, value)
        made.addfile(info)
    return path


def read(tmp_path, file, done=(), **options):
    job = Job("packed", {"kind": "archive", "label": "", "file": str(file), **options}, tmp_path / "place", done)
    return list(KIND.read(job)), job.quarantine


@pytest.mark.parametrize(
    "make",
    [
        zipped,
        tarred,
        lambda path: tarred(path, mode="w"),
        lambda path: tarred(path, mode="w:xz"),
        lambda path: tarred(path, mode="w:bz2"),
    ],
)
def test_every_kind_of_archive_is_read_like_a_folder(tmp_path, make):
    pictures, quarantine = read(tmp_path, make(tmp_path / "packed.bin"), root="set")
    assert [(one.name, one.label, one.read()) for one in pictures] == [
        ("drawing/b.svg", "drawing", b"b"),
        ("real/a.jpg", "real", b"a"),
    ]
    assert quarantine == []


def test_a_manifest_within_says_more(tmp_path):
    files = {**FILES, "set/m.csv": b"path,label,group\nreal/a.jpg,real,anna\n../README,real,x\n"}
    pictures, quarantine = read(tmp_path, zipped(tmp_path / "packed.zip", files), root="set", manifest="m.csv")
    assert [(one.name, one.shared_group) for one in pictures] == [("drawing/b.svg", ""), ("real/a.jpg", "anna")]
    assert quarantine == []


def test_it_is_unpacked_once(tmp_path, monkeypatch):
    file = zipped(tmp_path / "packed.zip")
    read(tmp_path, file, root="set")
    monkeypatch.setattr(archive, "_write", None)
    pictures, _ = read(tmp_path, file, root="set", done={"real/a.jpg"})
    assert [one.name for one in pictures] == ["drawing/b.svg"]


def test_an_archive_that_changed_is_unpacked_anew(tmp_path):
    read(tmp_path, zipped(tmp_path / "packed.zip"), root="set")
    zipped(tmp_path / "packed.zip", {"set/real/other.jpg": b"other"})
    assert [one.name for one in read(tmp_path, tmp_path / "packed.zip", root="set")[0]] == ["real/other.jpg"]


def test_a_tar_that_holds_a_zip_is_a_tar(tmp_path):
    inner = zipped(tmp_path / "inner.zip", {"real/evil.jpg": b""}).read_bytes()
    pictures, _ = read(tmp_path, tarred(tmp_path / "outer.tar", {"real/inner.zip": inner}, "w"))
    assert [one.name for one in pictures] == ["real/inner.zip"]


def encrypted(path):
    data = bytearray(zipped(path).read_bytes())
    start = data.index(b"PK\x01\x02")
    data[start + 8] |= 1  # bit 0 of the flags in the central directory
    path.write_bytes(data)
    return path


def linked(path):
    with zipfile.ZipFile(path, "w") as made:
        info = zipfile.ZipInfo("set/real/link.jpg")
        info.external_attr = 0o120777 << 16
        made.writestr(info, "/etc/passwd")
    return path


UNSAFE = {
    "absolute path": (lambda path: tarred(path, {"/tmp/x.jpg": b""}), "leads out"),
    "parent in a tar": (lambda path: tarred(path, {"real/../../x.jpg": b""}), "leads out"),
    "parent in a zip": (lambda path: zipped(path, {"../x.jpg": b""}), "leads out"),
    "backslashes": (lambda path: zipped(path, {"..\\x.jpg": b""}), "leads out"),
    "drive": (lambda path: zipped(path, {"C:\\x.jpg": b""}), "leads out"),
    "symbolic link": (lambda path: special(path, type=tarfile.SYMTYPE, linkname="a"), "link or a device"),
    "hard link": (lambda path: special(path, type=tarfile.LNKTYPE, linkname="a"), "link or a device"),
    "device": (lambda path: special(path, type=tarfile.CHRTYPE), "link or a device"),
    "link in a zip": (linked, "link or a device"),
    "encrypted": (encrypted, "encrypted"),
    "file and folder of one name": (lambda path: tarred(path, {"real": b"", "real/a.jpg": b""}), "refused"),
    "no archive": (lambda path: path.write_bytes(b"GIF89a") and path, "refused"),
    "cut": (lambda path: path.write_bytes(tarred(path).read_bytes()[:-20]) and path, "refused"),
}


@pytest.mark.parametrize(("make", "told"), UNSAFE.values(), ids=UNSAFE)
def test_an_unsafe_archive_is_refused_whole(tmp_path, make, told):
    file = make(tmp_path / "unsafe.bin")
    with pytest.raises(DataError, match=told):
        read(tmp_path, file)
    assert list((tmp_path / "place").iterdir()) == []
    assert not (tmp_path / "x.jpg").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as made:
        made.writestr("real/a.jpg", b"1")
        made.writestr("real/a.jpg", b"2")
    with pytest.raises(DataError, match="refused"):
        read(tmp_path, tmp_path / "twice.zip")


def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "SMALL", 2**20)
    bomb = zipped(tmp_path / "bomb.zip", {"real/a.jpg": bytes(2**22)}, compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size * archive.RATIO < 2**22
    with pytest.raises(DataError, match="unpacks to more than 1 MiB"):
        read(tmp_path, bomb)
    assert list((tmp_path / "place").iterdir()) == []


@pytest.mark.parametrize(
    ("option", "told"), [({"max_files": 2}, "more than max_files=2"), ({"max_gib": 1e-9}, "max_gib")]
)
def test_the_limits_are_options(tmp_path, option, told):
    with pytest.raises(DataError, match=told):
        read(tmp_path, zipped(tmp_path / "packed.zip"), **option)


def test_the_sha256_is_checked(tmp_path):
    file = zipped(tmp_path / "packed.zip")
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    assert len(read(tmp_path, file, root="set", sha256=right)[0]) == 2
    with pytest.raises(DataError, match=f"its sha256 is {right}"):
        read(tmp_path, file, root="set", sha256="0" * 64)


@pytest.mark.parametrize("root", ["none", "../.."])
def test_a_root_that_is_not_in_the_archive_is_an_error_that_names_what_is(tmp_path, root):
    with pytest.raises(DataError, match=r"no such folder in the archive.\nIt has: README, set"):
        read(tmp_path, zipped(tmp_path / "packed.zip"), root=root)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path, tmp_path / "none.zip")

"""Tests of images in archives: unpacked safely or refused whole."""

import hashlib
import io
import tarfile
import zipfile

import pytest

from avatar_bench.errors import DataError
from avatar_bench.sources.reader import SourceJob
from avatar_bench.sources.readers import archive
from avatar_bench.sources.readers.archive import Archive

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
    job = SourceJob("packed", {"label": options.pop("label", "")}, tmp_path / "place", done)
    return list(Archive(file=str(file), **options).read(job)), job.quarantine


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
    images, quarantine = read(tmp_path, make(tmp_path / "packed.bin"), root="set")
    assert [(image.name, image.label, image.content.read_bytes()) for image in images] == [
        ("drawing/b.svg", "drawing", b"b"),
        ("real/a.jpg", "real", b"a"),
    ]
    assert quarantine == []


def test_a_manifest_within_says_more(tmp_path):
    files = {**FILES, "set/m.csv": b"path,label,group\nreal/a.jpg,real,anna\n../README,real,x\n"}
    images, quarantine = read(tmp_path, zipped(tmp_path / "packed.zip", files), root="set", manifest="m.csv")
    assert [(image.name, image.shared_group) for image in images] == [("drawing/b.svg", ""), ("real/a.jpg", "anna")]
    assert quarantine == []


def test_it_is_unpacked_once(tmp_path, monkeypatch):
    file = zipped(tmp_path / "packed.zip")
    read(tmp_path, file, root="set")
    monkeypatch.setattr(archive, "_write", None)
    images, _ = read(tmp_path, file, root="set", done={"real/a.jpg"})
    assert [image.name for image in images] == ["drawing/b.svg"]


def test_an_archive_that_changed_is_unpacked_anew(tmp_path):
    read(tmp_path, zipped(tmp_path / "packed.zip"), root="set")
    zipped(tmp_path / "packed.zip", {"set/real/other.jpg": b"other"})
    assert [one.name for one in read(tmp_path, tmp_path / "packed.zip", root="set")[0]] == ["real/other.jpg"]


def test_a_tar_that_holds_a_zip_is_a_tar(tmp_path):
    inner = zipped(tmp_path / "inner.zip", {"real/evil.jpg": b""}).read_bytes()
    images, _ = read(tmp_path, tarred(tmp_path / "outer.tar", {"real/inner.zip": inner}, "w"))
    assert [image.name for image in images] == ["real/inner.zip"]


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
    monkeypatch.setattr(archive, "ALWAYS_ALLOWED_BYTES", 2**20)
    bomb = zipped(tmp_path / "bomb.zip", {"real/a.jpg": bytes(2**22)}, compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size * archive.MAX_RATIO < 2**22
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
    with pytest.raises(DataError, match=r"the archive has no such folder.\nIt has: README, set"):
        read(tmp_path, zipped(tmp_path / "packed.zip"), root=root)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path, tmp_path / "none.zip")


def lying(path):
    """A zip whose directory says that a member is small."""
    zipped(path, {"real/a.jpg": bytes(2**16)}, compression=zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    return path


def overlapping(path):
    """A zip whose directory names one member many times, as a bomb that needs no recursion does."""
    zipped(path, {"real/0.jpg": bytes(range(256)) * 64})
    data = path.read_bytes()
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entries = [data[start:end].replace(b"real/0.jpg", f"real/{n}.jpg".encode()) for n in range(9)]
    tail = bytearray(data[end:])
    tail[8:10] = tail[10:12] = (9).to_bytes(2, "little")
    tail[12:16] = sum(map(len, entries)).to_bytes(4, "little")
    path.write_bytes(data[:start] + b"".join(entries) + tail)
    return path


def through_a_link(path):
    with tarfile.open(path, "w") as made:
        link = tarfile.TarInfo("real")
        link.type, link.linkname = tarfile.SYMTYPE, str(path.parent)
        made.addfile(link)
        made.addfile(tarfile.TarInfo("real/x.jpg"))
    return path


HOSTILE = {
    "overlapping members": overlapping,
    "lying size": lying,
    "file through a link": through_a_link,
    "FIFO": lambda path: special(path, type=tarfile.FIFOTYPE),
    "block device": lambda path: special(path, type=tarfile.BLKTYPE),
    "escape sequence": lambda path: tarred(path, {"real/\x1b[2J.jpg": b""}),
    "newline": lambda path: zipped(path, {"real/a\nb.jpg": b""}),
    "turned direction": lambda path: zipped(path, {"real/\u202egpj.exe": b""}),
    "parent after a folder": lambda path: tarred(path, {"real/a/../../../x.jpg": b""}),
    "UNC path": lambda path: zipped(path, {"\\\\host\\share\\x.jpg": b""}),
    "very long name": lambda path: tarred(path, {"real/" + "a" * 300 + ".jpg": b""}),
    "very deep name": lambda path: tarred(path, {"a/" * 3000 + "x.jpg": b""}),
    "file over folder": lambda path: tarred(path, {"real/a/b.jpg": b"", "real/a": b""}),
    "empty name": lambda path: tarred(path, {"real/a.jpg": b"", ".": b""}),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_leaves_nothing(tmp_path, make):
    with pytest.raises(DataError, match="is refused"):
        read(tmp_path, make(tmp_path / "hostile.bin"))
    assert list((tmp_path / "place").iterdir()) == []
    assert not (tmp_path / "x.jpg").exists()


def test_modes_of_the_archive_are_not_taken_over(tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w") as made:
        info = tarfile.TarInfo("real/a.jpg")
        info.mode = 0o6777
        made.addfile(info)
    archive._unpack(tmp_path / "set.tar", tmp_path / "there", 2**20, 10, None)
    assert (tmp_path / "there" / "real" / "a.jpg").stat().st_mode & 0o7111 == 0


def test_an_archive_of_very_many_members_is_refused_soon(tmp_path):
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as made:
        for number in range(20_000):
            made.writestr(f"{number}.jpg", b"")
    with pytest.raises(DataError, match="more than max_files=100 files"):
        read(tmp_path, tmp_path / "many.zip", max_files=100)
    assert list((tmp_path / "place").iterdir()) == []

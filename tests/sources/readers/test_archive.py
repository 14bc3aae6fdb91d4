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


@pytest.mark.parametrize("make", [zipped, tarred])
def test_every_kind_of_archive_is_read_like_a_folder(tmp_path, make):
    images, quarantine = read(tmp_path, make(tmp_path / "packed.bin"), root="set")
    assert [(one.name, one.label, one.content.read_bytes()) for one in images] == [
        ("drawing/b.svg", "drawing", b"b"),
        ("real/a.jpg", "real", b"a"),
    ]
    assert quarantine == []


def test_it_is_unpacked_once(tmp_path, monkeypatch):
    file = zipped(tmp_path / "packed.zip")
    read(tmp_path, file, root="set")
    monkeypatch.setattr(archive, "_write", None)
    images, _ = read(tmp_path, file, root="set", done={"real/a.jpg"})
    assert [one.name for one in images] == ["drawing/b.svg"]


def test_an_archive_that_changed_is_unpacked_anew(tmp_path):
    read(tmp_path, zipped(tmp_path / "packed.zip"), root="set")
    zipped(tmp_path / "packed.zip", {"set/real/other.jpg": b"other"})
    assert [one.name for one in read(tmp_path, tmp_path / "packed.zip", root="set")[0]] == ["real/other.jpg"]


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


HOSTILE = {
    "absolute path": (lambda path: tarred(path, {"/tmp/x.jpg": b""}), "leads out"),
    "parent in a zip": (lambda path: zipped(path, {"../x.jpg": b""}), "leads out"),
    "parent after a folder": (lambda path: tarred(path, {"real/a/../../../x.jpg": b""}), "leads out"),
    "backslashes": (lambda path: zipped(path, {"..\\x.jpg": b""}), "leads out"),
    "symbolic link": (lambda path: special(path, type=tarfile.SYMTYPE, linkname="a"), "link or a device"),
    "device": (lambda path: special(path, type=tarfile.CHRTYPE), "link or a device"),
    "link in a zip": (linked, "link or a device"),
    "file through a link": (through_a_link, "link or a device"),
    "encrypted": (encrypted, "encrypted"),
    "no archive": (lambda path: path.write_bytes(b"GIF89a") and path, "refused"),
    "cut": (lambda path: path.write_bytes(tarred(path).read_bytes()[:-20]) and path, "refused"),
    "overlapping members": (overlapping, "refused"),
    "lying size": (lying, "refused"),
    "escape sequence": (lambda path: tarred(path, {"real/\x1b[2J.jpg": b""}), "refused"),
    "very long name": (lambda path: tarred(path, {"real/" + "a" * 300 + ".jpg": b""}), "refused"),
    "file over folder": (lambda path: tarred(path, {"real/a/b.jpg": b"", "real/a": b""}), "refused"),
}


@pytest.mark.parametrize(("make", "told"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_refused_whole(tmp_path, make, told):
    with pytest.raises(DataError, match=told):
        read(tmp_path, make(tmp_path / "hostile.bin"))
    assert list((tmp_path / "place").iterdir()) == []
    assert not (tmp_path / "x.jpg").exists()

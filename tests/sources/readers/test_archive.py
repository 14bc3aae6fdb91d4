"""Tests of images in archives: unpacked safely or refused whole."""

import hashlib
import tarfile
import zipfile

import pytest

from avatar_bench.errors import DataError
from avatar_bench.sources.reader import SourceJob
from avatar_bench.sources.readers import archive
from avatar_bench.sources.readers.archive import Archive
from tests.builders.archives import write_tar, write_zip

FILES = {"set/real/a.jpg": b"a", "set/drawing/b.svg": b"b", "README": b"hello"}


def special(path, **fields):
    with tarfile.open(path, "w") as archive_file:
        info = tarfile.TarInfo("set/real/odd.jpg")
        for key, value in fields.items():
            setattr(info, key, value)
        archive_file.addfile(info)
    return path


def read(tmp_path, file, done=(), **options):
    job = SourceJob("packed", {"label": options.pop("label", "")}, tmp_path / "place", done)
    return list(Archive(file=str(file), **options).read(job)), job.quarantine


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:xz", "w:bz2"])
def test_every_kind_of_archive_is_read_like_a_folder(tmp_path, mode):
    file = tmp_path / "packed.bin"
    write_zip(file, FILES) if mode == "zip" else write_tar(file, FILES, mode)
    images, quarantine = read(tmp_path, file, root="set")
    expected = [("drawing/b.svg", "drawing", b"b"), ("real/a.jpg", "real", b"a")]
    assert [(image.name, image.label, image.content.read_bytes()) for image in images] == expected
    assert quarantine == []


def test_a_manifest_within_says_more_and_what_changed_is_unpacked_anew(tmp_path):
    files = {**FILES, "set/m.csv": b"path,label,group\nreal/a.jpg,real,anna\n../README,real,x\n"}
    images, quarantine = read(tmp_path, write_zip(tmp_path / "packed.zip", files), root="set", manifest="m.csv")
    assert [(image.name, image.shared_group) for image in images] == [("drawing/b.svg", ""), ("real/a.jpg", "anna")]
    assert quarantine == []
    file = write_zip(tmp_path / "packed.zip", FILES)
    (unpacked, _), _ = read(tmp_path, file, root="set")
    before = unpacked.content.stat().st_ino
    (again,), _ = read(tmp_path, file, root="set", done={"real/a.jpg"})
    assert (again.name, again.content.stat().st_ino) == ("drawing/b.svg", before)
    write_zip(file, {"set/real/other.jpg": b"other"})
    assert [image.name for image in read(tmp_path, file, root="set")[0]] == ["real/other.jpg"]


def test_a_tar_that_holds_a_zip_is_a_tar_and_modes_are_not_taken_over(tmp_path):
    inner = write_zip(tmp_path / "inner.zip", {"real/evil.jpg": b""}).read_bytes()
    images, _ = read(tmp_path, write_tar(tmp_path / "outer.tar", {"real/inner.zip": inner}, "w"))
    assert [image.name for image in images] == ["real/inner.zip"]
    with tarfile.open(tmp_path / "set.tar", "w") as archive_file:
        info = tarfile.TarInfo("real/a.jpg")
        info.mode = 0o6777
        archive_file.addfile(info)
    (image,), _ = read(tmp_path, tmp_path / "set.tar")
    assert image.content.stat().st_mode & 0o7111 == 0


def test_limits_hashes_roots_and_missing_files_are_checked(tmp_path):
    file = write_zip(tmp_path / "packed.zip", FILES)
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    assert len(read(tmp_path, file, root="set", sha256=right)[0]) == 2
    with pytest.raises(DataError, match=f"its sha256 is {right}"):
        read(tmp_path, file, root="set", sha256="0" * 64)
    for option, message in (({"max_files": 2}, "more than max_files=2"), ({"max_gib": 1e-9}, "max_gib")):
        with pytest.raises(DataError, match=message):
            read(tmp_path, write_zip(tmp_path / "packed.zip", FILES), **option)
    for root in ("none", "../.."):
        with pytest.raises(DataError, match=r"the archive has no such folder.\nIt has: README, set"):
            read(tmp_path, write_zip(tmp_path / "packed.zip", FILES), root=root)
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path, tmp_path / "none.zip")


def linked(path):
    with zipfile.ZipFile(path, "w") as archive_file:
        info = zipfile.ZipInfo("set/real/link.jpg")
        info.external_attr = 0o120777 << 16
        archive_file.writestr(info, "/etc/passwd")
    return path


def twice(path):
    with zipfile.ZipFile(path, "w") as archive_file:
        for content in (b"1", b"2"):
            archive_file.writestr("real/a.jpg", content)
    return path


def change_directory(path, start, content):
    """Overwrite bytes of the first entry of a zip's central directory."""
    data = bytearray(path.read_bytes())
    start += data.index(b"PK\x01\x02")
    data[start : start + len(content)] = content
    path.write_bytes(data)
    return path


def cut(path, n):
    path.write_bytes(path.read_bytes()[:-n])
    return path


def overlapping(path):
    """Write a zip whose directory names one member many times, as a bomb that needs no recursion does."""
    write_zip(path, {"real/0.jpg": bytes(range(256)) * 64})
    data = path.read_bytes()
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entries = [data[start:end].replace(b"real/0.jpg", f"real/{n}.jpg".encode()) for n in range(9)]
    tail = bytearray(data[end:])
    tail[8:10] = tail[10:12] = (9).to_bytes(2, "little")
    tail[12:16] = sum(map(len, entries)).to_bytes(4, "little")
    path.write_bytes(data[:start] + b"".join(entries) + tail)
    return path


def through_a_link(path):
    with tarfile.open(path, "w") as archive_file:
        link = tarfile.TarInfo("real")
        link.type, link.linkname = tarfile.SYMTYPE, str(path.parent)
        archive_file.addfile(link)
        archive_file.addfile(tarfile.TarInfo("real/x.jpg"))
    return path


PACKED = {"compression": zipfile.ZIP_DEFLATED}
UNSAFE = {
    "absolute path": (lambda path: write_tar(path, {"/tmp/x.jpg": b""}), "leads out"),
    "parent in a tar": (lambda path: write_tar(path, {"real/../../x.jpg": b""}), "leads out"),
    "parent in a zip": (lambda path: write_zip(path, {"../x.jpg": b""}), "leads out"),
    "backslashes": (lambda path: write_zip(path, {"..\\x.jpg": b""}), "leads out"),
    "drive": (lambda path: write_zip(path, {"C:\\x.jpg": b""}), "leads out"),
    "symbolic link": (lambda path: special(path, type=tarfile.SYMTYPE, linkname="a"), "link or a device"),
    "hard link": (lambda path: special(path, type=tarfile.LNKTYPE, linkname="a"), "link or a device"),
    "device": (lambda path: special(path, type=tarfile.CHRTYPE), "link or a device"),
    "link in a zip": (linked, "link or a device"),
    "file through a link": (through_a_link, "is refused"),
    "encrypted": (lambda path: change_directory(write_zip(path, FILES), 8, b"\1"), "encrypted"),
    "lying size": (
        lambda path: change_directory(write_zip(path, {"real/a.jpg": bytes(2**16)}, **PACKED), 24, b"\x0a\0\0\0"),
        "is refused",
    ),
    "overlapping members": (overlapping, "is refused"),
    "file and folder of one name": (lambda path: write_tar(path, {"real": b"", "real/a.jpg": b""}), "is refused"),
    "two members of one name": (twice, "is refused"),
    "escape sequence": (lambda path: write_tar(path, {"real/\x1b[2J.jpg": b""}), "is refused"),
    "turned direction": (lambda path: write_zip(path, {"real/\u202egpj.exe": b""}), "is refused"),
    "very long name": (lambda path: write_tar(path, {"real/" + "a" * 300 + ".jpg": b""}), "is refused"),
    "very deep name": (lambda path: write_tar(path, {"a/" * 3000 + "x.jpg": b""}), "is refused"),
    "empty name": (lambda path: write_tar(path, {"real/a.jpg": b"", ".": b""}), "is refused"),
    "no archive": (lambda path: path.write_bytes(b"GIF89a") and path, "is refused"),
    "cut": (lambda path: cut(write_tar(path, FILES), 20), "is refused"),
    "cut within its checksum": (lambda path: cut(write_tar(path, FILES), 4), "is refused"),
    "bomb": (lambda path: write_zip(path, {"real/a.jpg": bytes(2**22)}, **PACKED), "unpacks to more than 1 MiB"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", UNSAFE)
def test_an_unsafe_archive_is_refused_whole(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(archive, "ALWAYS_ALLOWED_BYTES", 2**20)
    make, message = UNSAFE[kind]
    with pytest.raises(DataError, match=message):
        read(tmp_path, make(tmp_path / "unsafe.bin"))
    assert list((tmp_path / "place").iterdir()) == []
    assert not (tmp_path / "x.jpg").exists()

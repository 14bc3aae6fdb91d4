"""Archives with something before or behind them, or whose directory is not what their records are."""

import zipfile

import pytest
import torch

from avatar_bench.errors import CheckpointError
from avatar_bench.models.checkpoint import read_checkpoint


def test_what_lies_before_or_behind_is_refused(small_checkpoint, tmp_path):
    file = small_checkpoint(tmp_path / "x.ckpt")
    data = file.read_bytes()
    read_checkpoint(file)
    for odd in (b"PK" + data, data + b"\0", data[:-2] + b"\1\0x", data + data):
        file.write_bytes(odd)
        with pytest.raises(CheckpointError):
            read_checkpoint(file)


def test_a_record_that_claims_to_be_a_folder_is_refused(small_checkpoint, tmp_path):
    file = small_checkpoint(tmp_path / "x.ckpt")
    data = bytearray(file.read_bytes())
    entry = data.rindex(b"x/data/0") - 46  # of the directory: torch would take the tensor's bytes for none
    data[entry + 38] |= 0x10
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="attributes"):
        read_checkpoint(file)


def test_a_tensor_that_claims_more_than_its_record_is_refused(tmp_path):
    torch.save({"a": torch.arange(10.0)}, tmp_path / "x.ckpt")
    with zipfile.ZipFile(tmp_path / "x.ckpt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    pickled = parts["x/data.pkl"]
    for old, new in ((b"K\ntq", b"M\x00\x40tq"), (b"K\n\x85", b"M\x00\x40\x85")):
        assert old in pickled
        parts["x/data.pkl"] = pickled.replace(old, new)
        with zipfile.ZipFile(tmp_path / "y.ckpt", "w") as archive:
            for name, content in parts.items():
                archive.writestr(zipfile.ZipInfo(name), content)
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_checkpoint(tmp_path / "y.ckpt")


def test_an_archive_that_another_writer_made_of_the_same_records_is_read(tmp_path):
    torch.save({"a": torch.arange(10.0)}, tmp_path / "x.ckpt")
    with zipfile.ZipFile(tmp_path / "x.ckpt") as archive, zipfile.ZipFile(tmp_path / "y.ckpt", "w") as other:
        for name in archive.namelist():
            other.writestr(zipfile.ZipInfo(name), archive.read(name))
    assert torch.equal(read_checkpoint(tmp_path / "y.ckpt")["a"], torch.arange(10.0))


def test_records_that_share_their_bytes_are_refused(tmp_path):
    torch.save({"a": torch.arange(10_000.0)}, tmp_path / "x.ckpt")
    data = (tmp_path / "x.ckpt").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.ckpt") as archive:
        start, records = archive.start_dir, archive.infolist()
    size = next(record.file_size for record in records if record.filename.endswith("data/0"))
    directory = bytearray(data[start:])
    index = directory.index(b"x/version") - 46  # whose entry names the tensor's bytes too
    directory[index + 20 : index + 28] = size.to_bytes(4, "little") * 2
    (tmp_path / "y.ckpt").write_bytes(data[:start] + directory)
    with pytest.raises(CheckpointError, match="overlap"):
        read_checkpoint(tmp_path / "y.ckpt")


def test_a_second_directory_that_torch_would_follow_is_refused(tmp_path):
    torch.save({"a": torch.zeros(4), "b": torch.ones(4)}, tmp_path / "x.ckpt")
    data = (tmp_path / "x.ckpt").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.ckpt") as archive:
        start = archive.start_dir
    directory, end, locator, last = data[start:-98], data[-98:-42], bytearray(data[-42:-22]), data[-22:]
    locator[8:16] = (start + len(directory)).to_bytes(8, "little")
    behind = start + len(directory) + len(end)
    checked = directory + end[:48] + behind.to_bytes(8, "little") + bytes(locator) + last
    (tmp_path / "y.ckpt").write_bytes(data[:start] + directory + end + checked)
    with pytest.raises(CheckpointError, match="directory"):
        read_checkpoint(tmp_path / "y.ckpt")

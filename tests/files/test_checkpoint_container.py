"""Archives with something before or behind them, or whose directory is not what their records are."""

import zipfile

import pytest
import torch

from avatar_bench.errors import CheckpointError
from avatar_bench.models.checkpoint import read_checkpoint


def write_archive(file, records):
    """Write records with another writer of archives than torch."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in records.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return file


def test_what_lies_before_or_behind_and_a_record_that_claims_to_be_a_folder_are_refused(small_checkpoint, tmp_path):
    file = small_checkpoint(tmp_path / "x.ckpt")
    data = file.read_bytes()
    read_checkpoint(file)
    for odd in (b"PK" + data, data + b"\0", data[:-2] + b"\1\0x", data + data):
        file.write_bytes(odd)
        with pytest.raises(CheckpointError):
            read_checkpoint(file)
    entry = data.rindex(b"x/data/0") - 46  # of the directory: torch would take the tensor's bytes for none
    file.write_bytes(data[: entry + 38] + bytes([data[entry + 38] | 0x10]) + data[entry + 39 :])
    with pytest.raises(CheckpointError, match="attributes"):
        read_checkpoint(file)


def test_another_writers_archive_is_read_unless_a_tensor_claims_more_than_its_record(tmp_path):
    torch.save({"a": torch.arange(10.0)}, tmp_path / "x.ckpt")
    with zipfile.ZipFile(tmp_path / "x.ckpt") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    assert torch.equal(read_checkpoint(write_archive(tmp_path / "y.ckpt", records))["a"], torch.arange(10.0))
    pickled = records["x/data.pkl"]
    for old, new in ((b"K\ntq", b"M\x00\x40tq"), (b"K\n\x85", b"M\x00\x40\x85")):
        assert old in pickled
        spoilt = write_archive(tmp_path / "y.ckpt", records | {"x/data.pkl": pickled.replace(old, new)})
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_checkpoint(spoilt)


def test_records_that_share_bytes_and_a_second_directory_that_torch_would_follow_are_refused(tmp_path):
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
    directory, end, locator, last = data[start:-98], data[-98:-42], bytearray(data[-42:-22]), data[-22:]
    locator[8:16] = (start + len(directory)).to_bytes(8, "little")
    behind = start + len(directory) + len(end)
    checked = directory + end[:48] + behind.to_bytes(8, "little") + bytes(locator) + last
    (tmp_path / "y.ckpt").write_bytes(data[:start] + directory + end + checked)
    with pytest.raises(CheckpointError, match="directory"):
        read_checkpoint(tmp_path / "y.ckpt")

"""Archives that take more memory than their size, or of which torch alone would read other records than zipfile."""

import zipfile

import pytest
import torch

from avatar_bench.errors import CheckpointError
from avatar_bench.models.checkpoint import read_checkpoint


def write_archive(file, records, method=zipfile.ZIP_STORED):
    """Write records with another writer of archives than torch."""
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in records.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return file


def save(file, count=10_000):
    """Save one tensor of ones; return its records, the content of the file, and where its directory begins."""
    torch.save({"a": torch.ones(count)}, file)
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}, file.read_bytes(), archive.start_dir


def test_another_writers_archive_is_read_unless_a_tensor_claims_more_than_its_record(tmp_path):
    records, _, _ = save(tmp_path / "x.ckpt", 10)
    assert torch.equal(read_checkpoint(write_archive(tmp_path / "y.ckpt", records))["a"], torch.ones(10))
    pickled = records["x/data.pkl"]
    for old, new in ((b"K\ntq", b"M\x00\x40tq"), (b"K\n\x85", b"M\x00\x40\x85")):
        assert old in pickled
        spoilt = write_archive(tmp_path / "y.ckpt", records | {"x/data.pkl": pickled.replace(old, new)})
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_checkpoint(spoilt)


def test_records_that_are_compressed_or_share_bytes_take_more_memory_than_the_file_and_are_refused(tmp_path):
    file = tmp_path / "x.ckpt"
    records, data, start = save(file, 10**6)
    packed = write_archive(file, records, zipfile.ZIP_DEFLATED).stat().st_size
    assert torch.load(file, weights_only=True)["a"].nbytes > 100 * packed
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(file)
    directory = bytearray(data[start:])
    index = directory.index(b"x/version") - 46  # whose entry names the tensor's bytes too
    directory[index + 20 : index + 28] = len(records["x/data/0"]).to_bytes(4, "little") * 2
    file.write_bytes(data[:start] + directory)
    with pytest.raises(CheckpointError, match="overlap"):
        read_checkpoint(file)


def test_torch_reads_no_other_records_than_those_that_were_checked(tmp_path):
    file = tmp_path / "x.ckpt"
    _, data, start = save(file)
    directory, end, locator, last = data[start:-98], data[-98:-42], bytearray(data[-42:-22]), data[-22:]
    index = directory.index(b"x/data/0") - 46
    folder = directory[: index + 38] + b"\x10" + directory[index + 39 :]  # torch would not read a folder's bytes
    file.write_bytes(data[:start] + folder + data[start + len(directory) :])
    assert torch.equal(read_checkpoint(file)["a"], torch.ones(10_000))
    other = directory.replace(b"x/data/0", b"x/data/9")  # torch follows the locator to this one, zipfile does not
    locator[8:16] = (start + len(other)).to_bytes(8, "little")
    behind = (start + len(other) + len(end)).to_bytes(8, "little")
    file.write_bytes(data[:start] + other + end + directory + end[:48] + behind + locator + last)
    with pytest.raises(RuntimeError, match="data/0"):
        torch.load(file, weights_only=True)
    assert torch.equal(read_checkpoint(file)["a"], torch.ones(10_000))
    twins = {"x/DATA.pkl": b"\x80\x02N.", "x/version": b"3\n", "x/byteorder": b"little", "x/data.pkl": b"\x80\x02}."}
    assert torch.load(write_archive(file, twins), weights_only=True) is None
    assert read_checkpoint(file) == {}

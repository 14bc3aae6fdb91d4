"""SHA-256 against its published test vector."""

import hashlib
from pathlib import Path

import pytest

from avatar_bench.files.hashes import sha256_of_bytes, sha256_of_file, sha256_of_parts, sha256_of_text

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


@pytest.mark.parametrize(("data", "digest"), [(b"", EMPTY), (b"abc", ABC)])
def test_digests_are_those_of_the_standard(data, digest, tmp_path):
    (tmp_path / "file").write_bytes(data)
    assert sha256_of_bytes(data) == sha256_of_file(tmp_path / "file") == digest
    assert sha256_of_text(data.decode()) == sha256_of_parts((data[:1], data[1:])) == digest


def test_a_file_is_read_once_unless_it_has_just_changed(tmp_path, monkeypatch):
    read, digest = [], hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda stream, name: read.append(Path(stream.name)) or digest(stream, name)
    )
    old, fresh = Path(pytest.__file__), tmp_path / "file"
    assert sha256_of_file(old) == sha256_of_file(old) == hashlib.sha256(old.read_bytes()).hexdigest()
    assert read == [old]
    for content in (b"abc", b"cba", b"abc"):  # of one size, within one step of many a file system's clock
        fresh.write_bytes(content)
        assert sha256_of_file(fresh) == hashlib.sha256(content).hexdigest()

"""Data sets in shards: tar files of mixed images, as WebDataset's, and a manifest that names the member of each."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np

from avatar_bench.data.dataset import OTHER_PREFIX, RUN_COLUMNS, Dataset, list_files, read_manifest
from avatar_bench.data.leakage import join_copies
from avatar_bench.data.shard_files import SHARD_LIST, SHARD_SUFFIX, open_remote_folder
from avatar_bench.errors import DataError
from avatar_bench.files.atomic_write import atomic_write, write_text
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.files.remote import is_remote
from avatar_bench.files.table_io import format_csv

_MANIFEST, _AUDIT = "manifest.csv", "audit/metrics.json"


def write_shards(dataset: Dataset, folder: Path, audit: Path, megabytes: float) -> None:
    """Write a data set as shards of about `megabytes`, with the result of its audit.

    The manifest, written last, keeps everything stated and gains what the guards need: fingerprints, and groups joined
    by copies. Raise GuardError if copies are on two sides of the stated split.
    """
    table = join_copies(dataset).frame
    shutil.rmtree(folder, ignore_errors=True)
    (folder / _AUDIT).parent.mkdir(parents=True)
    shutil.copy(audit, folder / _AUDIT)
    files, paths = list_files(dataset), np.empty(len(dataset), dtype=object)
    waiting = list(np.random.default_rng(0).permutation(len(dataset)))  # so that a shard has images of every class
    digests: dict[str, str] = {}
    while waiting:
        shard = folder / f"{len(digests):05}{SHARD_SUFFIX}"
        with atomic_write(shard) as part, tarfile.open(part, "w") as archive:
            while waiting and archive.offset < megabytes * 10**6:
                row = waiting.pop()
                name, label = str(table["path"].iat[row]), str(table["label"].iat[row])
                _add(archive, name, files[row].read_bytes())
                _add(archive, f"{name.rpartition('.')[0]}.txt", label.encode())
                paths[row] = f"{shard.name}/{name}"
        digests[shard.name] = sha256_of_file(shard)
    table = table.assign(path=paths).rename(columns=lambda name: name.removeprefix(OTHER_PREFIX))
    write_text(folder / SHARD_LIST, "".join(f"{name},{digest}\n" for name, digest in digests.items()))
    write_text(folder / _MANIFEST, format_csv(table))


def open_shards(address: str, name: str | None, keep_gb: float) -> Dataset:
    """Read a data set in shards from a folder or an address; raise DataError if its manifest is missing or foreign."""
    remote = is_remote(address)
    folder = (
        open_remote_folder(address, {_MANIFEST: True, SHARD_LIST: True, _AUDIT: False}, keep_gb)
        if remote
        else Path(address)
    )
    if not (folder / _MANIFEST).is_file():
        reason = f"data.shards={address}: there is no {_MANIFEST} in it."
        raise DataError(reason, "Expected shards written by: avatar-bench prepare ... out_format=shards")
    dataset = read_manifest(folder / _MANIFEST, name or address.rstrip("/").rpartition("/")[2])
    table = dataset.frame.rename(columns={OTHER_PREFIX + column: column for column in RUN_COLUMNS})
    if not {*RUN_COLUMNS} <= {*table}:
        reason = f"data.shards={address}: its {_MANIFEST} has no fingerprints, so leakage cannot be ruled out."
        raise DataError(reason, "Expected shards written by: avatar-bench prepare ... out_format=shards")
    return Dataset(dataset.name, dataset.root, table)


def number_shards(dataset: Dataset) -> np.ndarray | None:
    """Return the number of each image's shard, (N,); None if the images are files."""
    shards = dataset.frame["path"].str.extract(rf"^(.*?\{SHARD_SUFFIX})/", expand=False)
    return None if shards.isna().any() else np.unique(shards.to_numpy(str), return_inverse=True)[1]


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))

"""Cache of exported networks."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

import avatar_bench
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.hashes import sha256_of_bytes, sha256_of_text
from avatar_bench.files.paths import cache_root
from avatar_bench.inference.runtimes import ExportedNetwork, describe_versions

MAX_CACHE_BYTES = 2 * 10**9  # bytes of all cached networks together


def load_or_export(
    runtime: str, checkpoint_sha256: str, kind: str, make: Callable[[], ExportedNetwork]
) -> ExportedNetwork:
    """Return the exported network of a checkpoint from the cache; `make` exports it on first use.

    `kind` is "float" or "int8". A network that is damaged, or was made by other versions, is exported again. The least
    recently used networks are deleted once the cache exceeds MAX_CACHE_BYTES.
    """
    versions = [avatar_bench.__version__, *describe_versions(runtime)]
    key = sha256_of_text(repr((checkpoint_sha256, runtime, kind, versions)))[:32]
    file = cache_root() / "networks" / key
    network = _read(file)
    if network is None:
        network = make()
        with suppress(OSError):  # no space or not writable: exported again next time
            _write(network, file)
    return network


def _read(file: Path) -> ExportedNetwork | None:
    try:
        content = file.read_bytes()
        os.utime(file)
    except OSError:
        return None
    digest, parts = content[:32], content[32:]
    if digest.hex() != sha256_of_bytes(parts):
        return None
    found = {name: part.tobytes() for name, part in load(parts).items()}
    return ExportedNetwork(found["graph"], found["weights"], found["note"].decode())


def _write(network: ExportedNetwork, file: Path) -> None:
    contents = asdict(network) | {"note": network.note.encode()}
    parts = save({name: np.frombuffer(content, dtype=np.uint8) for name, content in contents.items()})
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file, alone=False) as part:
        part.write_bytes(bytes.fromhex(sha256_of_bytes(parts)) + parts)
    left = MAX_CACHE_BYTES
    for other in sorted(file.parent.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True):
        left -= other.stat().st_size
        if left < 0 and other != file:
            other.unlink(missing_ok=True)

"""Copies and near-copies among pictures, by their hashes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

NEAR = 6  # bits of 64 by which the perceptual hashes of one picture may differ

Pairs = NDArray[np.intp]


def near_pairs(phashes: Sequence[str], distance: int = NEAR) -> Pairs:
    """Give the pairs of rows, (P, 2) with the smaller first, whose 64-bit hashes (hex) differ in at most that many."""
    bits = np.array([int(text, 16) for text in phashes], dtype=np.uint64)
    pairs = [np.empty((0, 2), dtype=np.intp)]
    for row in range(len(bits) - 1):
        near = np.flatnonzero(np.bitwise_count(bits[row + 1 :] ^ bits[row]) <= distance) + row + 1
        pairs.append(np.column_stack([np.full(len(near), row), near]))
    return np.concatenate(pairs)


def find_copies(
    phashes: Sequence[str], sha256s: Sequence[str], sources: Sequence[str], distance: int = NEAR
) -> tuple[dict[int, int], Pairs]:
    """Give the rows to drop, each with the earlier row it repeats, and the near pairs among the rows that stay.

    A row goes if its bytes occurred before, or if it is near to a row of another source: else a source kept for the
    blind set could share a picture with the others.
    """
    first: dict[str, int] = {}
    copies = {row: first[digest] for row, digest in enumerate(sha256s) if first.setdefault(digest, row) != row}
    pairs = near_pairs(phashes, distance)
    for original, row in sorted(pairs.tolist(), key=lambda pair: pair[1]):
        if sources[original] != sources[row] and original not in copies and row not in copies:
            copies[row] = original
    kept = ~np.isin(pairs, list(copies)).any(axis=1)
    return copies, pairs[kept]


def join_groups(groups: Sequence[str], pairs: Pairs) -> list[str]:
    """Give each row the name of its group, where every pair joins the groups of its two rows into one."""
    names, codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    left, right = codes[pairs[:, 0]], codes[pairs[:, 1]]
    links = coo_array((np.ones(len(pairs)), (left, right)), shape=(len(names), len(names)))
    _, cluster = connected_components(links, directed=False)
    head = {int(code): str(name) for code, name in zip(cluster[::-1], names[::-1], strict=True)}
    return [head[int(cluster[code])] for code in codes]

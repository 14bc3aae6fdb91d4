"""Search for copies of an image: same bytes, same pixels, or near-duplicates by perceptual hash and thumbnail.

The thresholds were set on 2,478 avatars of some thirty sources: on their copies (JPEG of quality 60, WebP, 70 % of the
size, mirrored, rotated, a tenth brighter or darker) and on the pairs of different images with similar hashes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations, pairwise
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from avatar_bench.data.fingerprints import ORIENTATIONS, Fingerprint

MAX_HASH_DISTANCE = 8  # of 64 bits in which the hash of a copy may differ: enough for 99.9 % of the copies
MAX_CANDIDATES = 32  # candidates compared per image, nearest first; bounds the cost of lookalikes
# Hashes per orientation compared for each band, likeliest first, if not more are found by chance; bounds the cost too
MAX_BUCKET_HASHES = 1024

_FEW_HASHES = 2**20  # up to so many, four bands of 16 bits are faster than three of 21 or 22
_QUERIES_PER_GROUP = 4  # of one bucket, looked up together
_THUMBNAIL_SIDE = 12  # pixels: larger thumbnails show JPEG artefacts, smaller ones hide a mouth
_MAX_SAMPLE_DIFFERENCE = 34.0  # of 255 levels, per thumbnail sample: at most 29 in copies, at least 41 in others
_MAX_BRIGHTNESS_SHIFT = 40.0  # levels of mean brightness: at most 25 in copies
_MAX_RESIDUAL_CONTRAST = 0.5  # of the contrast: at most 0.40 in copies; separates low-contrast images
_MIN_CONTRAST = 2.0  # levels: contrast below this is JPEG noise
_QUERY_SHIFT, _KEY_SHIFT = 36, 10  # bit offsets of the query and the key in a packed number
# Chunk sizes: the first two fit a processor's cache, and memory does not grow with the set
_HINTS_PER_CHUNK, _CANDIDATES_PER_CHUNK, _THUMBNAILS_PER_CHUNK = 2**17, 2**21, 1024
_THUMBNAILS_PER_TASK = 64

Decoder = Callable[[int], NDArray[np.uint8]]  # returns the upright image of a row, (H, W, 3) RGB
Integers = NDArray[np.integer]
_BY_RIGHT_ROW = attrgetter("right", "left")  # the order of matches
_TURN_NAMES = list(ORIENTATIONS)
_INVERSE_TURNS = np.array([0, 1, 2, 3, 4, 6, 5, 7])  # the inverse of each of ORIENTATIONS


class Match(NamedTuple):
    """Pair of rows that show the same image, of `kind` bytes, pixels or near, with the bits of the hashes that differ.

    `turned` is the orientation of the right image relative to the left one, a key of ORIENTATIONS.
    """

    left: int
    right: int
    kind: str
    distance: int = 0
    turned: str = ""


@dataclass(frozen=True)
class ImageSet:
    """Images to be searched for copies: SHA-256 of their files and pixels, hashes, (N, 8), and the decoder of a row."""

    sha256s: pd.Series
    pixels: pd.Series
    hashes: NDArray[np.uint64]
    image: Decoder

    @classmethod
    def of(cls, sha256s: Iterable[str], fingerprints: Sequence[Fingerprint], image: Decoder) -> ImageSet:
        """Return the set of some images, given the SHA-256 of their files and their fingerprints."""
        hashes = parse_hashes("".join(fingerprint.phashes) for fingerprint in fingerprints)
        return cls(_as_texts(sha256s), _as_texts(fingerprint.pixels for fingerprint in fingerprints), hashes, image)

    def __len__(self) -> int:
        return len(self.hashes)


def parse_hashes(joined: Iterable[str]) -> NDArray[np.uint64]:
    """Return the eight hashes of each image, (N, 8), from their 128 hex digits."""
    digits = bytearray()
    for text in joined:
        digits += bytes.fromhex(text)
    return np.frombuffer(digits, dtype=">u8").astype(np.uint64).reshape(-1, len(ORIENTATIONS))


def find_matches(images: ImageSet, distance: int = MAX_HASH_DISTANCE) -> list[Match]:
    """Find the copies within a set; left < right, sorted by right, then left.

    An exact copy is linked only to the first such image, a near-duplicate to at most MAX_CANDIDATES earlier images,
    none of which is an exact copy: few pairs connect all copies of an image.
    """
    exact, alone = _match_exact(images, images, within=True)
    return sorted(exact + _match_near(images, alone, images, alone, distance, within=True), key=_BY_RIGHT_ROW)


def find_matches_between(left: ImageSet, right: ImageSet, distance: int = MAX_HASH_DISTANCE) -> list[Match]:
    """Find the copies in the right set of images in the left one, as `find_matches` does; none within a set."""
    exact, alone = _match_exact(left, right, within=False)
    firsts = np.flatnonzero(~left.pixels.duplicated())
    return sorted(exact + _match_near(left, firsts, right, alone, distance, within=False), key=_BY_RIGHT_ROW)


def join_groups(groups: Iterable[str], pairs: Integers) -> pd.Series:
    """Return the group of each row after merging the groups of every pair of rows, (P, 2), under their first name."""
    codes, names = pd.factorize(_as_texts(groups))
    left, right = codes[pairs[:, 0]], codes[pairs[:, 1]]
    from scipy.sparse import coo_array  # imported here for a faster start of commands that compare no images
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs)), (left, right)), shape=(len(names), len(names)))
    _, cluster = connected_components(links, directed=False)
    linked = np.unique([left, right])
    by_name = pd.DataFrame({"cluster": cluster[linked], "name": names[linked], "code": linked}).sort_values("name")
    first = np.arange(len(names))
    first[by_name["code"]] = by_name.groupby("cluster")["code"].transform("first")
    return pd.Series(names[first[codes]])


def _as_texts(values: Iterable[str]) -> pd.Series:
    return values if isinstance(values, pd.Series) else pd.Series(list(values), dtype=str)


def _match_exact(left: ImageSet, right: ImageSet, within: bool) -> tuple[list[Match], Integers]:
    """Match each right image with the first left one of its bytes, else of its pixels; return the other rows too."""
    by_bytes = _find_first_rows(left.sha256s, right.sha256s, within)
    by_pixels = _find_first_rows(left.pixels, right.pixels, within)
    is_matched = (by_bytes >= 0) | (by_pixels >= 0)
    matches = [
        Match(int(by_bytes[row]), row, "bytes") if by_bytes[row] >= 0 else Match(int(by_pixels[row]), row, "pixels")
        for row in np.flatnonzero(is_matched).tolist()
    ]
    return matches, np.flatnonzero(~is_matched)


def _find_first_rows(left: pd.Series, right: pd.Series, within: bool) -> Integers:
    """Return the first left row of each right one's text; -1 if there is none, or, `within` one set, none before it."""
    codes, texts = pd.factorize(left if within else pd.concat([left, right]))
    first = np.full(len(texts), -1)
    first[codes[: len(left)][::-1]] = np.arange(len(left))[::-1]  # the last assignment counts
    first_rows = first[codes[len(codes) - len(right) :]]
    return np.where(first_rows < np.arange(len(right)), first_rows, -1) if within else first_rows


def _match_near(
    left: ImageSet, lefts: Integers, right: ImageSet, rights: Integers, distance: int, within: bool
) -> list[Match]:
    """Match the given rows of the left images with those of the right ones; `within` one set, with earlier rows only.

    Two images are near-duplicates if, in some orientation, the hash of either one is close to the upright hash of the
    other and their thumbnails are similar. Both directions are searched: negating frequencies moves the median.
    """
    ours = left.hashes[lefts]
    theirs = ours if within else right.hashes[rights]
    candidates = _find_candidates(ours[:, :1], theirs, distance, within)
    if within:
        query, key, bits, turn = _unpack(candidates)
        candidates, others = candidates[key < query], _pack(key, query, bits, _INVERSE_TURNS[turn])[key > query]
    else:
        others = _find_candidates(ours, theirs[:, :1], distance, within)
    candidates = _keep_nearest(np.concatenate([candidates, others]))
    candidates = candidates[_compare_thumbnails(left, right, _unpack_rows(candidates, lefts, rights), within)]
    unique = candidates[_is_first(candidates >> _KEY_SHIFT)]
    return [
        Match(first, second, "near", bits, _TURN_NAMES[_INVERSE_TURNS[turn]])
        for first, second, bits, turn in _unpack_rows(unique, lefts, rights).tolist()
    ]


def _find_candidates(
    ours: NDArray[np.uint64], theirs: NDArray[np.uint64], distance: int, within: bool
) -> NDArray[np.int64]:
    """Find packed (their row, our row, bits, turn) of hashes, (N, 1 or 8), that differ in at most `distance` bits.

    One side is searched in all orientations. Each of their rows keeps its MAX_CANDIDATES nearest of ours; `within` one
    set, that many earlier and that many later ones.

    Multi-index hashing (Norouzi et al., 2012): hashes that differ in so few bits are nearly equal in one of a few
    bands, so it suffices to look up each band with one or two bits flipped. The number of flips per band follows the
    general pigeonhole principle (Qin et al., 2018): the radii sum to `distance` + 1 - bands. In a circle of bands that
    holds for two as well (pigeonring, Qin and Xiao, 2018): there is a band within its radius that differs, together
    with the next one, in at most one bit more than their radii allow. So 16 bits of the next band tell for nearly all
    hashes looked up that they are too far. Many hashes get three bands instead of four, so that few of those looked up
    are alike by chance. The larger side is indexed, because comparing neighbours in memory is many times as fast as
    looking up another band.
    """
    if not ours.size or not theirs.size:
        return np.empty(0, np.int64)
    indexed, queries = (ours, theirs) if ours.size > theirs.size else (theirs, ours)
    bands = 4 if indexed.size <= _FEW_HASHES else 3
    edges = [64 * band // bands for band in range(bands + 1)]
    radii = [(distance + 1 + band) // bands - 1 for band in range(bands)]
    kept, new, room = np.empty(0, np.int64), [], _CANDIDATES_PER_CHUNK
    for band, (low, high) in enumerate(pairwise(edges)):
        following = (band + 1) % bands
        in_two = radii[band] + radii[following] + 1
        for entry, lookup, bits in _BandIndex(indexed, low, high, edges[following], radii[band]).find(
            queries, distance, in_two
        ):
            our, their = (entry, lookup) if indexed is ours else (lookup, entry)
            (key, turned), (query, turn) = np.divmod(our, ours.shape[1]), np.divmod(their, theirs.shape[1])
            new.append(_pack(query, key, bits, turn + _INVERSE_TURNS[turned]))  # one of the two turns is 0
            room -= len(bits)
            if room < 0:
                kept, new = _keep_nearest_on_each_side(np.concatenate([kept, *new]), within), []
                room = max(_CANDIDATES_PER_CHUNK, len(kept))
    return _keep_nearest_on_each_side(np.concatenate([kept, *new]), within)


class _BandIndex:
    """Index of hashes by one band of their bits, from `low` up to `high`, with 16 bits of the band after it."""

    def __init__(self, hashes: NDArray[np.uint64], low: int, high: int, following: int, radius: int) -> None:
        self.low, self.high, self.following, self.turns = low, high, following, hashes.shape[1]
        values, self.order = self._sort(hashes)
        self.hashes = hashes.ravel()[self.order]
        self.hints = self._hints(self.hashes)
        self.starts = np.searchsorted(values, np.arange(2 ** (high - low) + 1, dtype=np.uint32)).astype(np.uint32)
        flipped = (bits for n in range(radius + 1) for bits in combinations(range(high - low), n))
        self.flips = np.array([sum(1 << bit for bit in bits) for bits in flipped], dtype=np.uint32)

    def find(
        self, queries: NDArray[np.uint64], distance: int, in_two: int
    ) -> Iterator[tuple[Integers, Integers, Integers]]:
        """Yield places in the index and among the hashes asked for, with the bits, at most `distance`, that differ.

        Of pairs that differ in more than `in_two` bits of this band and the next some are left out. Hashes are looked
        up in the order of their band, those of one value together, and compared with all of a window, so that memory
        is read in its order. A window that is longer than its bucket finds other pairs too, or the same ones again.
        """
        values, order = self._sort(queries)
        hashes = queries.ravel()[order]
        hints = self._hints(hashes)
        begins, sizes = _group(values)
        mean = len(self.hashes) >> (self.high - self.low)
        width = min(8 + mean + mean // 4 & ~7, len(self.hashes))
        windows = np.lib.stride_tricks.sliding_window_view(self.hints, width)
        bits_of_flips = np.bitwise_count(self.flips).tolist()
        n_rows = 1 + _HINTS_PER_CHUNK // width
        for part in np.array_split(np.arange(len(begins)), 1 + len(begins) // n_rows):
            part = part[np.argsort(-sizes[part], kind="stable")]
            begin, size, value = begins[part], sizes[part], values[begins[part]]
            room = np.full(len(part), max(MAX_BUCKET_HASHES * self.turns, 2 * len(self.flips) * mean), dtype=np.uint32)
            for flip, flipped in zip(self.flips, bits_of_flips, strict=True):
                bucket = value ^ flip
                first = self.starts[bucket]
                counts = np.minimum(self.starts[bucket + 1] - first, room)
                room -= counts
                lookups, places = _list_windows(counts, first, width)
                places = np.minimum(places, len(windows) - 1)
                for start in range(0, len(places), 2 * n_rows):
                    group, position = (several[start : start + 2 * n_rows] for several in (lookups, places))
                    alive = np.searchsorted(-size[group], -np.arange(size[group[0]])).tolist()
                    window, begun = windows[position], begin[group]
                    query = np.concatenate([begun[:n] + rank for rank, n in enumerate(alive)])
                    differing = np.concatenate([window[:n] for n in alive])
                    differing ^= hints[query][:, None]
                    row, column = np.divmod(np.flatnonzero(_differ_in(differing, in_two - flipped)), width)
                    entry = np.concatenate([position[:n] for n in alive])[row] + column
                    lookup = query[row]
                    bits = np.bitwise_count(self.hashes[entry] ^ hashes[lookup])
                    near = np.flatnonzero(bits <= distance)
                    if len(near):
                        yield self.order[entry[near]], order[lookup[near]], bits[near]

    def _sort(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Return the values of the band in ascending order, and where each comes from."""
        packed = hashes.ravel() << np.uint64(64 - self.high)
        packed >>= np.uint64(64 - self.high + self.low)
        packed <<= np.uint64(32)
        packed |= np.arange(packed.size, dtype=np.uint64)
        packed.sort()
        return (packed >> np.uint64(32)).astype(np.uint32), packed.astype(np.uint32)

    def _hints(self, hashes: NDArray[np.uint64]) -> NDArray[np.uint16]:
        return (hashes >> np.uint64(self.following)).astype(np.uint16)


def _list_windows(counts: Integers, first: Integers, length: int) -> tuple[Integers, Integers]:
    """Return each lookup once per window of its entries, and where each window begins."""
    some = np.flatnonzero(counts)
    windows = (counts[some] + np.uint32(length - 1)) // np.uint32(length)
    ends = windows.cumsum()
    begin = np.repeat(first[some] - length * (ends - windows).astype(np.int64), windows)
    return np.repeat(some, windows), begin + length * np.arange(len(begin))


def _differ_in(hints: NDArray[np.uint16], bits: int) -> NDArray[np.bool_]:
    """Return which numbers have at most so many bits; those of bytes are counted five times as fast as those of two."""
    counts = np.bitwise_count(hints.view(np.uint8)).view(np.uint16)
    counts *= np.uint16(257)  # the upper byte becomes the sum of both
    return counts < np.uint16(256 * (bits + 1))


def _group(ordered: Integers) -> tuple[Integers, Integers]:
    """Return where groups of at most _QUERIES_PER_GROUP equal numbers begin, and their sizes."""
    rows = np.arange(len(ordered))
    begins = np.flatnonzero((rows - np.searchsorted(ordered, ordered)) % _QUERIES_PER_GROUP == 0)
    return begins, np.diff(begins, append=len(ordered))


def _keep_nearest_on_each_side(packed: NDArray[np.int64], within: bool) -> NDArray[np.int64]:
    """Return the nearest keys of each query, of one set those before it and those after it."""
    query, key, _, _ = _unpack(packed)
    sides = (packed[key < query], packed[key > query]) if within else (packed,)
    return np.concatenate([_keep_nearest(side) for side in sides])


def _pack(query: Integers, key: Integers, bits: Integers, turn: Integers) -> NDArray[np.int64]:
    """Pack four numbers into one, because sorting integers is many times as fast as sorting rows of four."""
    query, key, bits = (part.astype(np.int64) for part in (query, key, bits))
    return (query << _QUERY_SHIFT) | (key << _KEY_SHIFT) | (bits << 3) | turn


def _unpack(packed: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    key = (packed >> _KEY_SHIFT) & (2 ** (_QUERY_SHIFT - _KEY_SHIFT) - 1)
    return packed >> _QUERY_SHIFT, key, (packed >> 3) & 127, packed & 7


def _keep_nearest(packed: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the MAX_CANDIDATES nearest keys of each query, in all their orientations, sorted."""
    packed = np.sort(packed)
    packed = packed[_is_first(packed)]
    nearest = _is_first(packed >> _KEY_SHIFT)
    query, _, bits, _ = _unpack(packed[nearest])
    rank = np.empty(len(query), dtype=np.intp)
    order = np.argsort((query << 7) | bits, kind="stable")
    rank[order] = np.arange(len(query)) - np.searchsorted(query, query)  # sorting by bits keeps the order of queries
    pair: Integers = np.cumsum(nearest) - 1
    return packed[rank[pair] < MAX_CANDIDATES]


def _is_first(ordered: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of the sorted numbers differ from their predecessor."""
    return np.append(True, np.diff(ordered) > 0)[: len(ordered)]


def _unpack_rows(packed: NDArray[np.int64], lefts: Integers, rights: Integers) -> NDArray[np.int64]:
    """Return (left, right, bits, turn), (P, 4), with rows of the images."""
    query, key, bits, turn = _unpack(packed)
    return np.column_stack([lefts[key], rights[query], bits, turn])


def _compare_thumbnails(left: ImageSet, right: ImageSet, pairs: NDArray[np.int64], within: bool) -> NDArray[np.bool_]:
    """Return which pairs (left, right, bits, turn) show the same image, by their thumbnails."""
    if within:
        rows, places = np.unique(pairs[:, :2], return_inverse=True)
        thumbnails = _make_thumbnails(left.image, rows)
        return _compare_turned(thumbnails, thumbnails, places.reshape(-1, 2), pairs[:, 3])
    (ours, first), (theirs, second) = (np.unique(pairs[:, side], return_inverse=True) for side in (0, 1))
    places, thumbnails = np.column_stack([first, second]), _make_thumbnails(left.image, ours)
    return _compare_turned(thumbnails, _make_thumbnails(right.image, theirs), places, pairs[:, 3])


def _make_thumbnails(image: Decoder, rows: Integers) -> NDArray[np.uint8]:
    """Compute the thumbnails of some rows, (12, 12, 3, N)."""
    thumbnails = np.empty((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE, 3, len(rows)), dtype=np.uint8)

    def put(first: int) -> None:
        for index, row in enumerate(rows[first : first + _THUMBNAILS_PER_TASK].tolist(), first):
            small = Image.fromarray(image(row)).resize((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BOX)
            thumbnails[..., index] = np.asarray(small)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(put, range(0, len(rows), _THUMBNAILS_PER_TASK)))  # a task for each image would need a kilobyte
    return thumbnails


def _compare_turned(
    left: NDArray[np.uint8], right: NDArray[np.uint8], places: Integers, turns: Integers
) -> NDArray[np.bool_]:
    same = np.zeros(len(places), dtype=bool)
    for turn, turned in enumerate(ORIENTATIONS.values()):
        chosen = np.flatnonzero(turns == turn)
        for start in range(0, len(chosen), _THUMBNAILS_PER_CHUNK):
            several = chosen[start : start + _THUMBNAILS_PER_CHUNK]
            same[several] = _are_similar(left[..., places[several, 0]], turned(right[..., places[several, 1]]))
    return same


def _are_similar(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return for pairs of thumbnails, (12, 12, 3, P), whether they agree up to brightness and contrast, either way."""
    axes = (0, 1, 2)
    first, second = left.astype(np.float32), right.astype(np.float32)
    shade = second.mean(axis=axes) - first.mean(axis=axes)
    first, second = first - first.mean(axis=axes), second - second.mean(axis=axes)
    alike = _explains(first, second) | _explains(second, first)
    return np.asarray((np.abs(shade) <= _MAX_BRIGHTNESS_SHIFT) & alike, dtype=np.bool_)


def _explains(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where the second centred thumbnail has little residual after regression on the first."""
    axes = (0, 1, 2)
    gain = (first * second).sum(axis=axes) / np.maximum((first**2).sum(axis=axes), 1)
    rest = second - gain * first
    share = rest.std(axis=axes) / np.maximum(second.std(axis=axes), _MIN_CONTRAST)
    is_close = np.abs(rest).max(axis=axes) <= _MAX_SAMPLE_DIFFERENCE
    return np.asarray(is_close & (share <= _MAX_RESIDUAL_CONTRAST), dtype=np.bool_)

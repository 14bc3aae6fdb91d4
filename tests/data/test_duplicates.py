"""Tests of the search for copies."""

from hashlib import sha256
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from avatar_bench.data import duplicates
from avatar_bench.data.decoding import decode, decode_bytes
from avatar_bench.data.duplicates import ImageSet, Match, find_matches, find_matches_between, join_groups
from avatar_bench.data.fingerprints import ORIENTATIONS, Fingerprint, fingerprint_image
from tests.builders.pixels import encode

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
ROUGH = np.random.default_rng(0).normal(0, 6, (64, 64, 3))  # a grain that no two encodings keep alike


def draw(seed, side=64):
    """Return a soft random image with some grain, (side, side, 3)."""
    soft = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(soft).resize((64, 64), Image.Resampling.BICUBIC))
    grainy = np.clip(wide * 0.8 + 25 + ROUGH, 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(grainy).resize((side, side), Image.Resampling.LANCZOS))


def reload(image, kind, **options):
    """Return the pixels that an image has after it was stored."""
    return decode_bytes(encode(np.ascontiguousarray(image), kind, **options), "x")


def blend(image, other, share):
    """Return an image blended with another: a copy up to some proportion, and none beyond it."""
    return np.asarray(Image.blend(Image.fromarray(image), Image.fromarray(other), share))


def shrink(image, share):
    side = round(len(image) * share)
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


COPIES = {
    "jpeg": lambda image: reload(image, "JPEG", quality=60),
    "webp": lambda image: reload(image, "WEBP", quality=75),
    "shrunk": lambda image: reload(shrink(image, 0.7), "JPEG", quality=90),
    "brighter": lambda image: reload(np.clip(image * 1.1, 0, 255).astype(np.uint8), "JPEG", quality=90),
    "darker": lambda image: reload((image * 0.9).astype(np.uint8), "JPEG", quality=90),
}


def as_set(images, digests=None):
    """Return images to search, each a file of its own unless the digests say otherwise."""
    digests = digests or [sha256(f"{id(images)} {row}".encode()).hexdigest() for row in range(len(images))]
    return ImageSet.of(digests, [fingerprint_image(image) for image in images], lambda row: images[row])


def hashed(*numbers):
    """Return fingerprints with the given first hash, whose other hashes lie near to none."""
    far = [f"{number:016x}" for number in np.random.default_rng(1000).integers(0, 2**63, len(numbers) * 7).tolist()]
    hashes = [(f"{number:016x}", *far[row * 7 : row * 7 + 7]) for row, number in enumerate(numbers)]
    return [Fingerprint(f"p{row}", turned) for row, turned in enumerate(hashes)]


def blank(_):
    return np.full((8, 8, 3), 128, dtype=np.uint8)


def turned_bits(left, right):
    """Return the number of differing hash bits for each orientation of either image."""
    inverse = {"rotated 90": "rotated 270", "rotated 270": "rotated 90"}
    ours, theirs = (
        dict(zip(ORIENTATIONS, (int(text, 16) for text in image.phashes), strict=True)) for image in (left, right)
    )
    pairs = {turn: (ours[turn] ^ theirs[""], ours[""] ^ theirs[inverse.get(turn, turn)]) for turn in ORIENTATIONS}
    return {turn: min(one.bit_count(), other.bit_count()) for turn, (one, other) in pairs.items()}


def look_alike(one, other):
    """Fit a line from each thumbnail to the other, and hold what is left against the limits that are stated."""
    fits = []
    for first, second in ((one.ravel(), other.ravel()), (other.ravel(), one.ravel())):
        rest = second - np.polyval(np.polyfit(first, second, 1), first)
        fits.append(abs(rest).max() <= 34 and rest.std() <= 0.5 * second.std())
    return any(fits) and bool(abs(one.mean() - other.mean()) <= 40)


def pairs(matches):
    return [(match.left, match.right) for match in matches]


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_near_and_other_images_are_not(kind):
    images = [draw(seed) for seed in range(30)]
    images += [COPIES[kind](image) for image in images]
    matches = find_matches(as_set(images))
    assert pairs(matches) == [(row, row + 30) for row in range(30)]
    assert {match.kind for match in matches} == {"near"}
    assert all(match.distance <= duplicates.MAX_HASH_DISTANCE and match.turned == "" for match in matches)


@pytest.mark.parametrize("turn", ORIENTATIONS)
def test_a_turned_copy_is_found_with_its_turn_and_of_turns_that_are_as_near_each_is_looked_at(turn):
    images = [draw(seed) for seed in range(10)]
    images += [reload(ORIENTATIONS[turn](image), "JPEG", quality=85) for image in images]
    matches = find_matches(as_set(images))
    assert pairs(matches) == [(row, row + 10) for row in range(10)]
    assert {match.turned for match in matches} == {turn}
    images = [draw(0), np.ascontiguousarray(ORIENTATIONS[turn](draw(0)))]
    prints = [Fingerprint(f"p{row}", (f"{5:016x}",) * 8) for row in range(2)]
    assert find_matches(ImageSet.of(["a", "b"], prints, lambda row: images[row])) == [Match(0, 1, "near", 0, turn)]
    (swapped,) = find_matches(ImageSet.of(["a", "b"], prints, lambda row: images[1 - row]))
    assert np.array_equal(ORIENTATIONS[swapped.turned](images[1]), images[0])


def test_images_that_only_look_alike_or_have_a_near_hash_are_no_copies():
    one, other = draw(0), draw(1)
    prints = hashed(5, 5)
    assert find_matches(ImageSet.of(["a", "b"], prints, lambda row: (one, other)[row])) == []
    assert find_matches(ImageSet.of(["a", "b"], prints, lambda row: one)) == [Match(0, 1, "near")]
    face = np.full((96, 96, 3), 240, dtype=np.uint8)
    face[20:80, 25:70] = (220, 170, 130)
    smiling = face.copy()
    smiling[62:70, 38:58] = (120, 20, 30)
    images = [face, smiling, reload(face, "JPEG", quality=60)]
    assert pairs(find_matches(as_set(images), distance=24)) == [(0, 2)]
    shades = [np.full((side, side, 3), shade, dtype=np.uint8) for side, shade in ((20, 250), (30, 249), (20, 90))]
    assert pairs(find_matches(as_set(shades))) == [(0, 1)]


def test_eight_bits_are_near_nine_are_not_and_the_nearest_lookalikes_are_looked_at(monkeypatch):
    prints = hashed(0, 0xFF, 0x1FF0000_00000000)
    assert find_matches(ImageSet.of(["a", "b", "c"], prints, blank)) == [Match(0, 1, "near", 8)]
    monkeypatch.setattr(duplicates, "MAX_CANDIDATES", 1)
    prints = hashed(0b1111, 0b11, 0b1)
    assert find_matches(ImageSet.of(["a", "b", "c"], prints, blank)) == [Match(0, 1, "near", 2), Match(1, 2, "near", 1)]


@pytest.fixture(params=["few", "many"])
def _size(request, monkeypatch):
    """Search as among few hashes, and as among many: their number decides on the bands."""
    if request.param == "many":
        monkeypatch.setattr(duplicates, "_FEW_HASHES", 0)


@pytest.mark.usefixtures("_size")
@pytest.mark.parametrize("distance", [0, 3, 8, 11])
def test_near_pairs_are_those_of_which_either_is_near_at_a_turn_of_the_other(distance):
    rng = np.random.default_rng(distance + 1)
    near = rng.integers(0, 2**63, 64)[rng.integers(0, 64, (90, 8))]  # what each turn of each image is near to
    flips = np.array([sum(1 << int(bit) for bit in rng.permutation(63)[: rng.integers(0, 9)]) for _ in range(720)])
    hashes = [tuple(f"{number:016x}" for number in numbers) for numbers in (near ^ flips.reshape(90, 8)).tolist()]
    prints = [Fingerprint(f"p{row}", turned) for row, turned in enumerate(hashes)]
    digests = [str(row) for row in range(90)]
    bits = {(one, other): turned_bits(prints[one], prints[other]) for one, other in combinations(range(90), 2)}
    expected = {pair: min(turns.values()) for pair, turns in bits.items() if min(turns.values()) <= distance}
    matches = find_matches(ImageSet.of(digests, prints, blank), distance)
    assert {(match.left, match.right): match.distance for match in matches} == expected
    assert all(bits[match.left, match.right][match.turned] == match.distance for match in matches)
    first, second = (ImageSet.of(digests[part], prints[part], blank) for part in (slice(45), slice(45, 90)))
    across = {pair for pair in expected if pair[0] < 45 <= pair[1]}
    assert {(left, right + 45) for left, right in pairs(find_matches_between(first, second, distance))} == across
    assert {(left, right + 45) for right, left in pairs(find_matches_between(second, first, distance))} == across


@pytest.mark.usefixtures("_size")
@pytest.mark.parametrize("bands", [3, 4])
def test_a_copy_is_near_wherever_its_eight_bits_lie(bands):
    rng = np.random.default_rng(bands)
    edges = [64 * band // bands for band in range(bands + 1)]
    spread = [bits for bits in product(range(9), repeat=bands) if sum(bits) == 8]
    places = [[low + rng.permutation(64 // bands)[:n] for low, n in zip(edges, bits, strict=False)] for bits in spread]
    flips = [sum(1 << bit for bit in np.concatenate(bits).tolist()) for bits in places]
    numbers = rng.integers(0, 2**64, len(spread), dtype=np.uint64).tolist()
    ours, theirs = hashed(*numbers), hashed(*(number ^ flip for number, flip in zip(numbers, flips, strict=True)))
    theirs = [Fingerprint(f"{copy.pixels} copied", copy.phashes) for copy in theirs]
    left, right = (
        ImageSet.of([f"{name}{row}" for row in range(len(spread))], prints, blank)
        for name, prints in (("a", ours), ("b", theirs))
    )
    matches = find_matches_between(left, right)
    assert [match[:2] for match in matches] == [(row, row) for row in range(len(spread))]
    assert {(match.distance, match.turned) for match in matches} == {(8, "")}


def test_near_images_are_those_that_a_look_at_all_pairs_in_all_orientations_finds():
    originals = [draw(seed, 48) for seed in range(24)]
    shares = np.linspace(0.1, 0.4, 24)
    mixed = [blend(image, draw(seed + 100, 48), shares[seed]) for seed, image in enumerate(originals)]
    turns = list(ORIENTATIONS.values())
    images = [*(np.ascontiguousarray(turns[row % 8](image)) for row, image in enumerate(mixed)), *originals]
    prints = [fingerprint_image(image) for image in images]
    sketches = [Image.fromarray(image).resize((12, 12), Image.Resampling.BOX) for image in images]
    thumbnails = [np.asarray(sketch, dtype=float) for sketch in sketches]
    expected = {
        (left, right)
        for left, right in combinations(range(48), 2)
        for turn, bits in turned_bits(prints[left], prints[right]).items()
        if bits <= duplicates.MAX_HASH_DISTANCE and look_alike(ORIENTATIONS[turn](thumbnails[left]), thumbnails[right])
    }
    assert 6 < len(expected) < 24
    assert set(pairs(find_matches(as_set(images)))) == expected


@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.4), st.sampled_from(list(ORIENTATIONS)), st.booleans())
def test_it_does_not_matter_which_of_two_images_comes_first(seed, share, turn, even):
    one = draw(seed, 48)
    if even:  # then it is as near when turned to the left as to the right
        one = blend(one, one[::-1, ::-1], 0.5)
    other = np.ascontiguousarray(ORIENTATIONS[turn](blend(one, draw(seed + 1, 48), share)))
    ours, theirs, both, swapped = (as_set(images) for images in ([one], [other], [one, other], [other, one]))
    between = [find_matches_between(ours, theirs), find_matches_between(theirs, ours)]
    ways = [find_matches(both), find_matches(swapped), *between]
    assert len({tuple(match.distance for match in matches) for matches in ways}) == 1


def test_many_blocks_of_rows_find_what_one_does(monkeypatch):
    images = [COPIES["jpeg"](draw(seed % 20)) if seed % 3 else draw(seed % 20) for seed in range(50)]
    whole = find_matches(as_set(images))
    for limit in ("_HINTS_PER_CHUNK", "_CANDIDATES_PER_CHUNK", "_THUMBNAILS_PER_CHUNK"):
        monkeypatch.setattr(duplicates, limit, 7)
    assert whole
    assert find_matches(as_set(images)) == whole


def test_copies_are_found_in_a_set_within_others_or_in_none():
    ours, theirs = [draw(0), draw(1), draw(2), draw(0)], [draw(5), COPIES["jpeg"](draw(2)), draw(1), draw(0), draw(6)]
    theirs[4] = reload(np.rot90(ours[1]), "JPEG", quality=80)
    found = find_matches_between(as_set(ours, ["a", "b", "c", "d"]), as_set(theirs, ["v", "w", "x", "d", "z"]))
    expected = [(2, 1, "near", ""), (1, 2, "pixels", ""), (3, 3, "bytes", ""), (1, 4, "near", "rotated 90")]
    assert [(match.left, match.right, match.kind, match.turned) for match in found] == expected
    ours, theirs = [draw(0), draw(0)], [draw(1), draw(1)]
    assert find_matches_between(as_set(ours), as_set(theirs)) == []
    none, one = as_set([]), as_set([draw(0)])
    assert find_matches(none) == find_matches(one) == []
    assert find_matches_between(none, one) == find_matches_between(one, none) == []
    images = [draw(0), draw(1), draw(0), draw(0), draw(1)]
    matches = find_matches(as_set(images, ["a", "b", "a", "c", "d"]))
    assert matches == [Match(0, 2, "bytes"), Match(0, 3, "pixels"), Match(1, 4, "pixels")]


def test_a_crowd_is_joined_by_few_pairs_and_hides_none_of_its_turned_hashes(monkeypatch):
    assert list(join_groups(["c", "b", "a", "d", "c"], np.array([[0, 1], [1, 2]]))) == ["a", "a", "a", "d", "a"]
    assert list(join_groups(["b", "a"], np.empty((0, 2), dtype=int))) == ["b", "a"]
    assert list(join_groups([], np.empty((0, 2), dtype=int))) == []
    monkeypatch.setattr(duplicates, "MAX_BUCKET_HASHES", 100)
    n = 800
    prints = hashed(*[1 << (row % 3) for row in range(n)])
    matches = find_matches(ImageSet.of([str(row) for row in range(n)], prints, blank))
    assert len(matches) <= duplicates.MAX_CANDIDATES * n
    assert len(set(join_groups([str(row) for row in range(n)], np.array(pairs(matches))))) == 1
    monkeypatch.setattr(duplicates, "MAX_BUCKET_HASHES", 20)
    ours = [Fingerprint(f"left {row}", ("f" * 16, *("0" * 16,) * 7)) for row in range(20)]
    crowd = ImageSet.of([str(row) for row in range(20)], ours, blank)
    found = find_matches_between(crowd, ImageSet.of(["x"], hashed(0), blank))
    assert pairs(found) == [(row, 0) for row in range(20)]


@pytest.mark.shared
def test_three_hundred_faces_have_no_copy_among_them_and_their_copies_are_found():
    kinds = ("ffhq", "voteview", "tabler", "fakersd3", "stylegan2tpdne")
    files = [file for kind in kinds for file in sorted((SHARED / "avatars").rglob(f"{kind}__*.jpg"))[:60]]
    if len(files) < 300:
        pytest.skip(f"no images in {SHARED}")
    faces = [decode(file) for file in files]
    assert find_matches(as_set(faces)) == []
    copies = [reload(shrink(face, 0.7)[:, ::-1], "JPEG", quality=60) for face in faces]
    found = find_matches_between(as_set(faces), as_set(copies))
    assert pairs(found) == [(row, row) for row in range(300)]
    assert {match.turned for match in found} == {"mirrored"}

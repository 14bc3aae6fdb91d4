"""Tests of copies and near-copies."""

import numpy as np

from avatar_bench.data.copies import find_copies, join_groups, near_pairs


def test_near_pairs_are_those_that_a_count_of_bits_finds():
    rng = np.random.default_rng(0)
    numbers = [int(number) for number in rng.integers(0, 2**63, 20)]
    numbers += [number ^ 0b101 for number in numbers[:5]]
    expected = [[i, j] for i in range(25) for j in range(i + 1, 25) if bin(numbers[i] ^ numbers[j]).count("1") <= 6]
    assert near_pairs([f"{number:016x}" for number in numbers]).tolist() == expected


def test_six_bits_are_near_and_seven_are_not():
    assert near_pairs([f"{0:016x}", f"{0b111111:016x}"]).tolist() == [[0, 1]]
    assert near_pairs([f"{0:016x}", f"{0b1111111:016x}"]).tolist() == []


def test_no_picture_and_one_picture_have_no_pairs():
    assert near_pairs([]).shape == near_pairs(["ff"]).shape == (0, 2)


def test_the_same_bytes_and_the_near_of_another_source_are_copies():
    phashes = ["00", "00", "01", "03", "ffffffff"]
    copies, near = find_copies(phashes, ["a", "a", "b", "c", "d"], ["x", "x", "x", "y", "y"])
    assert copies == {1: 0, 3: 0}
    assert near.tolist() == [[0, 2]]


def test_a_row_is_no_copy_of_a_row_that_goes():
    copies, _ = find_copies(["00", "3f", "fff"], ["a", "b", "c"], ["x", "y", "z"])  # 0-1 and 1-2 are near, 0-2 not
    assert copies == {1: 0}


def test_a_chain_of_pairs_makes_one_group():
    assert join_groups(["a", "b", "c", "d", "a"], np.array([[0, 1], [1, 2]])) == ["a", "a", "a", "d", "a"]
    assert join_groups(["b", "a"], np.empty((0, 2), dtype=int)) == ["b", "a"]

"""The cache of prepared images: the same pixels, whatever befalls its files, and no more room than it may take."""

import hashlib
import multiprocessing
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avatar_bench.data import cache as caches
from avatar_bench.data.cache import ImageCache
from avatar_bench.data.decoding import decode
from avatar_bench.data.transforms import Preprocessing

PREPROCESSING = Preprocessing(32, "squash", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
GIB = 2**30


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / caches.PREPARED_FOLDER


@pytest.fixture
def files(images):
    """Twelve images of three formats by their SHA-256."""
    chosen = sorted((images / "all").rglob("*.*"))[::16]
    return {hashlib.sha256(file.read_bytes()).hexdigest(): file for file in chosen}


def stored(root):
    return sorted(file for file in root.rglob("*") if file.is_file())


def fill(cache, files):
    assert cache.reserve(files, GIB) is None
    for digest, file in files.items():
        assert np.array_equal(cache.read(file, digest), cache.preprocessing(decode(file)))


@pytest.mark.parametrize(("resize", "equalise"), [("squash", None), ("pad", "jpeg")])
def test_pixels_are_the_same_bit_by_bit_before_and_after(resize, equalise, files, root):
    cache = ImageCache(replace(PREPROCESSING, resize=resize, equalise=equalise))
    fill(cache, files)
    assert len(stored(root)) == len(files)
    for digest, file in files.items():
        image = cache.read(Path("gone"), digest)  # no file is read a second time
        assert np.array_equal(image, cache.preprocessing(decode(file)))
        assert image.flags.writeable


def test_a_damaged_file_is_made_anew(files, root):
    cache = ImageCache(PREPROCESSING)
    fill(cache, files)
    before = {file: file.read_bytes() for file in stored(root)}
    for damage in (lambda content: content[:-1], lambda content: content[:100] + b"\0\1" + content[102:], None):
        for file, content in before.items():
            file.write_bytes(damage(content)) if damage else file.unlink()
        assert all(not file.exists() or file.read_bytes() != content for file, content in before.items())
        fill(cache, files)
        assert {file: file.read_bytes() for file in stored(root)} == before


def test_what_is_not_the_image_of_a_hash_is_not_kept_and_more_than_fits_not_begun(files, root, monkeypatch):
    cache = ImageCache(PREPROCESSING)
    (digest, _), (_, other) = list(files.items())[:2]
    assert cache.reserve([digest], GIB) is None
    assert np.array_equal(cache.read(other, digest), PREPROCESSING(decode(other)))
    assert stored(root) == []
    assert "its limit" in str(cache.reserve(files, 11 * cache.item_bytes))
    monkeypatch.setattr(caches, "MIN_FREE_BYTES", shutil.disk_usage(root.parents[1]).free)
    assert "free" in str(cache.reserve(files, GIB))


def test_what_was_used_longest_ago_gives_way(files, root):
    digests = list(files)
    old, middle = digests[:4], digests[4:8]
    for age, chosen in ((200, old), (100, middle)):
        fill(ImageCache(PREPROCESSING), {digest: files[digest] for digest in chosen})
        for digest in chosen:
            file = next(root.rglob(digest))
            os.utime(file, (file.stat().st_atime, file.stat().st_mtime - age))
    cache = ImageCache(replace(PREPROCESSING, resize="crop"))
    assert cache.reserve(digests[:6], 10 * cache.item_bytes) is None
    assert {file.name for file in stored(root)} == set(middle)
    assert ImageCache(PREPROCESSING).reserve(middle[:1], 3 * cache.item_bytes) is None  # used now, so the last to go
    kept = {file.name for file in stored(root)}
    assert (len(kept), middle[0] in kept) == (3, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_ends_the_filling_and_not_the_reading(files, root):
    cache = ImageCache(PREPROCESSING)
    digest, file = next(iter(files.items()))
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, most))  # no file may be larger, as on a full disk
    try:
        assert np.array_equal(cache.read(file, digest), PREPROCESSING(decode(file)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert (cache.is_writable, stored(root)) == (False, [])


def test_processes_that_fill_it_at_once_and_are_killed_leave_whole_images(files, root):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill_for_ever, args=(files,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    reader = ImageCache(PREPROCESSING)
    expected = {digest: PREPROCESSING(decode(file)) for digest, file in files.items()}
    for number in range(300):
        digest = list(files)[number % len(files)]
        assert np.array_equal(reader.read(files[digest], digest), expected[digest])
        if number % 100 == 99:
            workers[number // 100].kill()
    for worker in workers:
        worker.kill()
        worker.join()
    whole = [file for file in stored(root) if file.suffix != ".part"]
    assert {file.stat().st_size for file in whole} == {reader.item_bytes}
    for file in whole:
        assert np.array_equal(reader.read(Path("gone"), file.name), expected[file.name])


def _fill_for_ever(files):
    while True:
        cache = ImageCache(PREPROCESSING)
        for digest, file in files.items():
            cache.store(digest, cache.preprocessing(decode(file)))


def test_caches_are_listed_again_for_another_limit_or_a_missing_array_alone(files, root, monkeypatch):
    cache, listed, list_files = ImageCache(PREPROCESSING), list[Path](), caches._list_files
    monkeypatch.setattr(caches, "_list_files", lambda folder: listed.append(folder) or list_files(folder))
    fill(cache, files)
    for limit, count in ((GIB, 1), (2 * GIB, 2), (GIB, 2)):
        assert (cache.reserve(files, limit), listed) == (None, [root] * count)
    stored(root)[0].unlink()
    assert (cache.reserve(files, GIB), listed) == (None, [root] * 3)

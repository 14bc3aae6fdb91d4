"""Structural checks of image files: truncated files and decompression bombs are found before decoding."""

from __future__ import annotations

import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator

# Each limit is far above what cameras and editors write, and keeps a decoder's parsing below a second.
MAX_EXIF_BYTES = 2**20
MAX_JPEG_SEGMENTS = 10_000  # segments plus bytes of junk between them
MAX_JPEG_SCAN_PIXELS = 1_000_000_000  # pixels times scans: 20 scans of 50 million pixels
MAX_PNG_CHUNKS = 100_000
MAX_GIF_BLOCKS = 10_000  # before the first frame; Pillow joins comments block by block
MAX_RLE_BMP_BYTES = 4 * 2**20  # Pillow decodes run lengths one by one
MAX_TIFF_VALUES = 250_000  # numbers in the tags, including strip offsets
MAX_TIFF_TILE_PIXELS = 50_000_000
MAX_WEBP_IN_TIFF_PIXELS = 25_000_000
ZEROS = 64  # bytes at the end of a file that may be the rest of a download that was cut short
ENDS_IN_ZEROS = f"it is truncated: it ends in {ZEROS} zeros or more"
_CUT = ZEROS // 4  # bytes, more than encoders append

_MARKER = re.compile(rb"\xff+([^\0\1\xd0-\xd8\xff])")  # JPEG marker followed by a length, or the end marker
# bytes per value, by tag type
_VALUE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_BYTE_TYPES = (1, 2, 7)  # tag types that are read as bytes or text
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by PNG colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_WIDTH, _HEIGHT, _COMPRESSION, _ROWS, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 259, 278, 322, 323
_JPEG_IN_TIFF, _WEBP_IN_TIFF = (6, 7), 50001


def check_structure(kind: str, data: bytes) -> bytes:
    """Raise ValueError if a file is truncated, or built to be slow or large to decode; nothing is timed.

    Return what to decode: a JPEG of one scan with zeros for its end, at which decoders would invent missing pixels.
    """
    if kind == "JPEG":
        end, is_one_scan = _check_jpeg(data)
        _raise_if(not is_one_scan and not any(data[end - ZEROS : end]), ENDS_IN_ZEROS)
        return data[:end] + bytes(_CUT) if is_one_scan else data
    walk = {"PNG": _check_png, "GIF": _check_gif, "BMP": _check_bmp, "TIFF": _check_tiff}
    if kind in walk:
        walk[kind](data)
    _raise_if(kind == "AVIF" and not any(data[-ZEROS:]), ENDS_IN_ZEROS)
    return data


def is_png_truncated(data: bytes) -> bool:
    """Return whether the pixel stream of a PNG ends before its last row; Pillow and libpng leave such rows black."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * _CHANNELS.get(colour, 1)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sides = [(-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in passes]
    lacking = sum((1 + (columns * bits + 7) // 8) * rows for columns, rows in sides if columns > 0 and rows > 0)
    stream = zlib.decompressobj()
    for kind, start, end in iterate_png_chunks(data):
        left = data[start:end] if kind == b"IDAT" else b""
        while left and lacking > 0:
            lacking -= len(stream.decompress(left, 2**20))
            left = stream.unconsumed_tail
    return bool(lacking > 0)


def drop_png_texts(data: bytes) -> bytes:
    """Return a PNG without texts and colour profile, which its pixels do not need."""
    chunks = ((kind, data[start - 8 : end + 4]) for kind, start, end in iterate_png_chunks(data))
    return data[:8] + b"".join(chunk for kind, chunk in chunks if kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"))


def iterate_png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of the content of each chunk of a PNG, up to the last one."""
    start, kind = 8, b""
    while start + 8 <= len(data) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, start)
        yield kind, start + 8, start + 8 + length
        start += 12 + length


def shorten(kind: str, data: bytes) -> bytes:
    """Return a WebP or the one scan of a JPEG without some of the zeros that its pixels end in; b"" if they are few.

    Decoders need each byte of a whole image, and a plain one may end in thousands of zeros. So the shorter file can be
    decoded only if the zeros are not the image's own.
    """
    if kind == "JPEG":
        return b"" if any(data[-ZEROS:]) else data[: -2 * _CUT]
    length, name, size, start, chunk = int.from_bytes(data[4:8], "little"), b"", 0, 12, 12
    while start + 8 <= min(len(data), 8 + length):
        chunk, (name, size) = start, struct.unpack_from("<4sI", data, start)
        start += 8 + size + size % 2
    end = chunk + 8 + size
    if name not in (b"VP8 ", b"VP8L") or size < ZEROS or any(data[end - ZEROS : end]):
        return b""
    head = data[:4] + struct.pack("<I", length - _CUT) + data[8 : chunk + 4] + struct.pack("<I", size - _CUT)
    return head + data[chunk + 8 : end - _CUT] + bytes(size % 2)


def _check_jpeg(data: bytes) -> tuple[int, bool]:
    """Return where the end marker of a JPEG is, and whether all pixels are in one scan, row by row."""
    position, segments, scans, exif, junk, pixels, is_sequential = 2, 0, 0, 0, 0, 0, False
    while match := _MARKER.search(data, position):
        marker, start = match[1][0], match.end()
        if marker == 0xD9:
            return match.start(), scans == 1 and is_sequential
        segments += 1
        junk += 0 if scans else match.end() - 2 - position
        scans += marker == 0xDA
        exif += len(data[start : start + 2**16]) if data[start + 2 : start + 6] == b"Exif" else 0
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(data) >= start + 7:
            height, width = struct.unpack_from(">HH", data, start + 3)
            is_sequential = marker <= 0xC1
            pixels = max(pixels, height * width)
        _raise_if(segments + junk > MAX_JPEG_SEGMENTS, "it has too many segments, or junk between them")
        _raise_if(exif > 2 * MAX_EXIF_BYTES, "its EXIF is too large")
        _raise_if(scans > 1 and scans * pixels > MAX_JPEG_SCAN_PIXELS, "it has too many scans for its size")
        position = start + int.from_bytes(data[start : start + 2])
    raise ValueError("it is truncated, or its end was never written")


def _check_png(data: bytes) -> None:
    """Check each chunk's CRC as well: Pillow's decoder accepts chunks with flipped bits."""
    kinds: Counter[bytes] = Counter()
    for kind, start, end in iterate_png_chunks(data):
        kinds[kind] += 1
        is_complete = end + 4 <= len(data)
        _raise_if(not is_complete, "it is truncated, or its end was never written")
        broken = zlib.crc32(memoryview(data)[start - 4 : end]) != int.from_bytes(data[end : end + 4])
        _raise_if(broken, f"its chunk {kind.decode('latin-1')!r} is broken")
        _raise_if(kinds.total() > MAX_PNG_CHUNKS, f"it has more than {MAX_PNG_CHUNKS:,} chunks")
        _raise_if(kinds[b"iCCP"] > 1, "it has several colour profiles")
    _raise_if(not kinds[b"IEND"], "it is truncated, or its end was never written")


def _check_gif(data: bytes) -> None:
    position = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 128 else 0)
    extension = False
    for _ in range(MAX_GIF_BLOCKS):
        if position >= len(data) or (not extension and data[position] in b",;"):
            return
        if extension:
            extension = data[position] != 0
            position += 1 + data[position]
        else:
            extension = data[position] == ord("!")
            position += 2 if extension else 1
    raise ValueError(f"it has more than {MAX_GIF_BLOCKS:,} blocks before its first frame")


def _check_bmp(data: bytes) -> None:
    runs = len(data) >= 34 and data[14:18] > b"\x0c\0\0\0" and data[30] in (1, 2)
    _raise_if(
        runs and len(data) > MAX_RLE_BMP_BYTES, f"it has more than {MAX_RLE_BMP_BYTES // 2**20} MiB of run-length data"
    )


def _check_tiff(data: bytes) -> None:
    tags = _read_directory(data)
    width, height = tags.get(_WIDTH, 0), tags.get(_HEIGHT, 0)
    tile = tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_HEIGHT, 0)
    strip = width * min(tags.get(_ROWS, height), height)
    _raise_if(tile > MAX_TIFF_TILE_PIXELS, f"its tiles have more than {MAX_TIFF_TILE_PIXELS // 10**6} million pixels")
    compression = tags.get(_COMPRESSION, 1)
    slow = compression == _WEBP_IN_TIFF and width * height > MAX_WEBP_IN_TIFF_PIXELS
    _raise_if(slow, f"it is WebP of more than {MAX_WEBP_IN_TIFF_PIXELS // 10**6} million pixels")
    passes = data.count(b"\xff\xda") * (tile or strip) if compression in _JPEG_IN_TIFF else 0
    _raise_if(passes > MAX_JPEG_SCAN_PIXELS, "it has too many scans for its size")


def _read_directory(data: bytes) -> dict[int, int]:
    """Return the first number of each tag with few values; raise ValueError if there are more than MAX_TIFF_VALUES."""
    order = "<" if data[:2] == b"II" else ">"
    big = b"+" in data[2:4]
    head, number, entry = ("Q", "Q", "HHQ8s") if big else ("I", "H", "HHI4s")
    try:
        (offset,) = struct.unpack_from(order + head, data, 8 if big else 4)
        (count,) = struct.unpack_from(order + number, data, offset)
    except struct.error:
        return {}  # Pillow reports the error
    _raise_if(count > 2**16, "it has too many tags")
    start = offset + struct.calcsize(order + number)
    size = struct.calcsize(order + entry)
    whole = min(count, (len(data) - start) // size)
    entries = struct.iter_unpack(order + entry, data[start : start + size * whole])
    return _read_values(entries, order, len(data))


def _read_values(entries: Iterator[tuple[int, int, int, bytes]], order: str, limit: int) -> dict[int, int]:
    tags: dict[int, int] = {}
    values = 0
    for tag, kind, count, value in entries:
        size = _VALUE_SIZES.get(kind, 0)
        if not size or count * size > limit:  # such values are not read
            continue
        values += 0 if kind in _BYTE_TYPES else count
        _raise_if(values > MAX_TIFF_VALUES, f"its tags contain more than {MAX_TIFF_VALUES:,} numbers")
        if size in (1, 2, 4, 8) and kind not in (5, 10, 11, 12):
            tags.setdefault(tag, int.from_bytes(value[:size], "little" if order == "<" else "big"))
    return tags


def _raise_if(wrong: bool, reason: str) -> None:
    if wrong:
        raise ValueError(reason)

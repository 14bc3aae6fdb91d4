"""Writers of image files, byte by byte, for tests that must know the pixels without any library's word."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width, height, depth, colour, interlaced, chunks):
    """Write a PNG of a header and of chunks, whatever they hold."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*item) for item in chunks) + chunk(b"IEND", b"")


def png(samples, depth, colour, before=(), after=(), interlaced=False, pieces=1):
    """Write a PNG of samples (H, W, C), with more chunks before and after its pixels, those in so many pieces."""
    passes = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [samples]
    packed = zlib.compress(
        b"".join(b"\0" + _packed(row.reshape(-1), depth) for part in passes if part.size for row in part)
    )
    step = -(-len(packed) // pieces)
    body = [(b"IDAT", packed[i : i + step]) for i in range(0, len(packed), step)]
    return png_of(samples.shape[1], samples.shape[0], depth, colour, interlaced, [*before, *body, *after])


def _packed(row, depth):
    if depth == 16:
        return row.astype(">u2").tobytes()
    if depth == 8:
        return row.astype(np.uint8).tobytes()
    bits = (row[:, None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()


def tiff(tags, data, order="<"):
    """Write a TIFF of one directory: tag to values, of 16 bits or as (4, values) of 32; `data` are its strips."""
    blocks = [8 + sum(map(len, data[:number])) for number in range(len(data))]
    offset = 8 + sum(map(len, data))
    where, lengths = (324, 325) if 322 in tags else (273, 279)
    full = {where: (4, blocks), lengths: (4, [len(block) for block in data]), **tags}
    entries, extra = b"", b""
    start = offset + 2 + len(full) * 12 + 4
    for tag, entry in sorted(full.items()):
        kind, values = entry if isinstance(entry, tuple) else (3, entry)
        content = struct.pack(order + {3: "H", 4: "I"}[kind] * len(values), *values)
        if len(content) > 4:
            extra, content = extra + content, struct.pack(order + "I", start + len(extra))
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + content.ljust(4, b"\0")
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, offset)
    return head + b"".join(data) + struct.pack(order + "H", len(full)) + entries + bytes(4) + extra


def tiff_of(samples, photometric, more=(), packed=None):
    """Write a TIFF of samples (H, W, C) in one strip, unpacked or packed by deflate, with more tags."""
    height, width, channels = samples.shape
    tags = {256: [width], 257: [height], 258: [samples.dtype.itemsize * 8] * channels, 259: [8 if packed else 1]}
    tags |= {262: [photometric], 277: [channels], 278: [height], **dict(more)}
    return tiff(tags, [packed or samples.tobytes()])


def bmp(width, height, bits, data, palette=b"", compression=0, masks=b""):
    """Write a BMP with the header of Windows 3; a negative height counts rows from the top."""
    offset = 14 + 40 + len(masks) + len(palette)
    colours = len(palette) // 4
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + masks + palette + data


def rows(samples):
    """Pad each row of a BMP, the last first, to four bytes."""
    return b"".join(row.tobytes() + bytes(-row.size % 4) for row in samples[::-1])


def gif(size, frames, palette, disposal=0, before=b""):
    """Write a GIF: each frame is where it lies (left, top), its indices (H, W), and the index that is transparent."""
    table = palette.tobytes()
    flags = 0x80 | max(len(palette) - 1, 1).bit_length() - 1
    body = b"GIF89a" + struct.pack("<HHBBB", *size, flags, 0, 0) + table + before
    for (left, top), indices, clear in frames:
        control = disposal << 2 | (clear is not None)
        body += b"!\xf9\x04" + struct.pack("<BHB", control, 5, clear or 0) + b"\0"
        body += b"," + struct.pack("<HHHHB", left, top, *indices.shape[::-1], 0)
        body += _lzw(indices)
    return body + b";"


def _lzw(indices):
    """Write 8-bit indices as LZW that begins anew before its codes would grow."""
    codes = []
    flat = indices.reshape(-1).tolist()
    for start in range(0, len(flat), 100):
        codes += [256, *flat[start : start + 100]]
    bits = sum(code << 9 * index for index, code in enumerate([*codes, 257]))
    data = bits.to_bytes(-(-9 * (len(codes) + 1) // 8), "little")
    blocks = (data[i : i + 255] for i in range(0, len(data), 255))
    return b"\x08" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def riff(*chunks):
    body = b"WEBP" + b"".join(k + struct.pack("<I", len(d)) + d + bytes(len(d) % 2) for k, d in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def exif(*entries, following=0):
    """Write a TIFF header and a directory of entries (tag, type, count, four bytes)."""
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", following)

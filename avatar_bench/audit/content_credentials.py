"""Provenance hints in image files (C2PA, IPTC, PNG texts, EXIF, XMP), which may be missing, forged or broken."""

from __future__ import annotations

import importlib
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice

from PIL import Image

from avatar_bench.data.decoding import FORMATS

HINTS = ("c2pa", "iptc_digital_source_type", "png_text", "exif_software", "exif_make", "exif_model", "xmp_creator_tool")
MAX_HINT_LENGTH = 80  # characters of a value
MAX_PNG_TEXT = 2**16  # bytes of a decompressed text: a compressed one can expand a thousandfold
MAX_CREDENTIAL_CHUNKS = 2**16

# Description box at the start of a manifest store (C2PA 2.1, 11.1.4), identical in every container
_C2PA = b"jumdc2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9bq"
# The IPTC vocabulary in full: in a manifest, no byte has to separate a term from what follows
_SOURCE_TYPE = re.compile(
    rb"igital[sS]ource[tT]ype(?:/|(?:\s+rdf:resource)?\s*(?:=\s*[\"']|>)\s*(?:https?://[\w./]{1,80}/)?)"
    rb"(compositeWithTrainedAlgorithmicMedia|multiFrameComputationalCapture|trainedAlgorithmic(?:Media|Data)"
    rb"|algorithmicallyEnhanced|algorithmicMedia|computationalCapture|composite(?:Synthetic|Capture)?"
    rb"|virtualRecording|dataDrivenMedia|digital(?:Creation|Capture|Art)|(?:minorH|h)umanEdits"
    rb"|screenCapture|softwareImage|negativeFilm|positiveFilm|print)"
)
_CREATOR_TOOL = re.compile(rb"CreatorTool\s*(?:>|=\s*[\"'])([^<\"']{1,200})")
_PNG = b"\x89PNG\r\n\x1a\n"
_EXIF_TAGS = {"exif_software": 305, "exif_make": 271, "exif_model": 272}

# Only generators use these keys: AUTOMATIC1111, ComfyUI, InvokeAI
_GENERATOR_KEYS = ("parameters", "prompt", "workflow", "invokeai_metadata", "invokeai_graph", "sd-metadata", "dream")
_KEYS = (*_GENERATOR_KEYS, "comment", "software", "description", "title", "source")
# ComfyUI stores its prompt and workflow as EXIF make and model of a WebP
_GENERATORS = re.compile(
    r"stable.?diffusion|midjourney|\bdall(?:[-·. ]e\b|e.?[23]\b)|firefly|novelai|comfyui|invokeai|automatic1111"
    r"|openai|chatgpt|gpt-image|ideogram|leonardo\.ai|dreamstudio|bing image creator|black forest labs"
    r"|^(?:prompt|workflow):",
    re.IGNORECASE,
)


def read_hints(data: bytes) -> dict[str, str]:
    """Read the provenance hints of a file: a text for each of HINTS, "" where it has none; never raises.

    `c2pa`: "manifest", or the claim generator and the signer where c2pa-python is installed (the signature is not
    verified); `iptc_digital_source_type`: terms of the IPTC vocabulary, in XMP or a C2PA manifest; `png_text`:
    "key: value" of the texts that generators and editors write; the others: the tags of these names.
    """
    chunks = list(_read_png_texts(data))
    texts = {key.decode("latin-1").lower(): text for key, text in reversed(chunks)}
    packed = b"".join(text for key, text in chunks if key == b"XML:com.adobe.xmp")
    tool = _find_matches(_CREATOR_TOOL, data) or _find_matches(_CREATOR_TOOL, packed)
    return {
        "c2pa": _read_manifest(data),
        "iptc_digital_source_type": ", ".join(_find_matches(_SOURCE_TYPE, data) or _find_matches(_SOURCE_TYPE, packed)),
        "png_text": "; ".join(f"{key}: {_clean(texts[key])}" for key in _KEYS if key in texts),
        **_read_exif(data),
        "xmp_creator_tool": tool[0] if tool else "",
    }


def is_declared_generated(found: Mapping[str, str]) -> bool:
    """Return whether a hint alone declares the image AI-generated; editing a photo with AI is not enough."""
    if "trainedAlgorithmicMedia" in found["iptc_digital_source_type"].split(", "):
        return True
    return found["png_text"].startswith(_GENERATOR_KEYS) or any(map(_GENERATORS.search, found.values()))


def _find_matches(pattern: re.Pattern[bytes], data: bytes) -> list[str]:
    return list(dict.fromkeys(_clean(match[1]) for match in islice(pattern.finditer(data), 16)))


def _clean(value: object) -> str:
    """Convert any value to one short line of printable characters."""
    start = slice(4 * MAX_HINT_LENGTH)
    text = value[start].decode("utf-8", "replace") if isinstance(value, bytes) else str(value)[start]
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:MAX_HINT_LENGTH]


def _read_manifest(data: bytes) -> str:
    if _C2PA not in data:
        return ""
    with suppress(Exception):  # not installed, or not a valid manifest
        c2pa = importlib.import_module("c2pa")
        # a file must not trigger network access
        offline = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
        with c2pa.Reader("", io.BytesIO(data), context=c2pa.Context(c2pa.Settings.from_dict(offline))) as reader:
            store = json.loads(reader.json())
        claim = store["manifests"][store["active_manifest"]]
        maker = claim.get("claim_generator") or claim["claim_generator_info"][0]["name"]
        return f"{_clean(maker)}, signed by {_clean(claim['signature_info']['issuer'])}"
    return "manifest"


def _read_exif(data: bytes) -> dict[str, str]:
    exif = Image.Exif()
    with suppress(Exception):  # Pillow raises almost any exception on broken tags
        if data.startswith(_PNG):  # Pillow would decode the whole PNG to find tags at its end
            exif.load(next((chunk for kind, chunk in _read_png_chunks(data) if kind == b"eXIf"), b""))
        else:
            with Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
                exif = image.getexif()
    return {name: _clean(exif.get(tag, "")) for name, tag in _EXIF_TAGS.items()}


def _read_png_texts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each key and text of a PNG, decompressed."""
    for kind, chunk in _read_png_chunks(data):
        key, _, text = chunk.partition(b"\0")
        if kind == b"iTXt":  # compression flag, method, language\0, translated key\0
            packed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
        else:
            packed, text = kind == b"zTXt", text[1:] if kind == b"zTXt" else text
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            yield key, _unpack(text) if packed else text[:MAX_PNG_TEXT]


def _unpack(text: bytes) -> bytes:
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(text, MAX_PNG_TEXT)
    return b""


def _read_png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of each chunk, without header and pixel chunks, up to the end of the file."""
    start = len(_PNG) if data.startswith(_PNG) else len(data)
    for _ in range(MAX_CREDENTIAL_CHUNKS):
        if start + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, start)
        if kind not in (b"IHDR", b"IDAT", b"PLTE"):
            yield kind, data[start + 8 : start + 8 + length]
        start += 12 + length

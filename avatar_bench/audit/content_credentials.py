"""What an image file itself says of its origin, read as hints that may be missing, forged or broken."""

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

HINTS = (
    "c2pa",
    "iptc_digital_source_type",
    "png_text",
    "exif_software",
    "exif_make",
    "exif_model",
    "xmp_creator_tool",
)
MAX_HINT_LENGTH = 80  # characters kept of a value
MAX_PNG_TEXT = 2**16  # bytes unpacked of a text, whose packed form may promise a thousand times as many
MAX_CREDENTIAL_CHUNKS = 2**16

# The description box that opens a store of manifests (C2PA 2.1, 11.1.4), the same within every container
_C2PA = b"jumdc2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9bq"
# The IPTC's vocabulary, spelt out, as no byte need part a term of a manifest from what follows it
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

# Only generators write texts by these keys: AUTOMATIC1111, ComfyUI, InvokeAI
_GENERATOR_KEYS = ("parameters", "prompt", "workflow", "invokeai_metadata", "invokeai_graph", "sd-metadata", "dream")
_KEYS = (*_GENERATOR_KEYS, "comment", "software", "description", "title", "source")
# ComfyUI writes its prompt and workflow into the EXIF maker and model of a WebP
_GENERATORS = re.compile(
    r"stable.?diffusion|midjourney|\bdall(?:[-·. ]e\b|e.?[23]\b)|firefly|novelai|comfyui|invokeai|automatic1111"
    r"|openai|chatgpt|gpt-image|ideogram|leonardo\.ai|dreamstudio|bing image creator|black forest labs"
    r"|^(?:prompt|workflow):",
    re.IGNORECASE,
)


def read_hints(data: bytes) -> dict[str, str]:
    """Read what a file says of its origin: a text for each of HINTS, "" where it says nothing; never raises.

    `c2pa`: "manifest", or the claim's generator and the signer where c2pa-python is installed (whether the signature
    holds is not asked); `iptc_digital_source_type`: terms of the IPTC's vocabulary, in XMP or a C2PA manifest;
    `png_text`: "key: value" of the texts that generators and editors write; the others: the tags of these names.
    """
    chunks = list(_read_png_texts(data))
    packed = b"".join(text for key, text in chunks if key == b"XML:com.adobe.xmp")
    tool = _find_matches(_CREATOR_TOOL, data) or _find_matches(_CREATOR_TOOL, packed)
    return {
        "c2pa": _read_manifest(data),
        "iptc_digital_source_type": ", ".join(_find_matches(_SOURCE_TYPE, data) or _find_matches(_SOURCE_TYPE, packed)),
        "png_text": _format_texts(chunks),
        **_read_exif(data),
        "xmp_creator_tool": tool[0] if tool else "",
    }


def says_generated(found: Mapping[str, str]) -> bool:
    """Tell whether a hint states by itself that a model made the image; to have edited a photo is not enough."""
    if "trainedAlgorithmicMedia" in found["iptc_digital_source_type"].split(", "):
        return True
    return found["png_text"].startswith(_GENERATOR_KEYS) or any(map(_GENERATORS.search, found.values()))


def _find_matches(pattern: re.Pattern[bytes], data: bytes) -> list[str]:
    return list(dict.fromkeys(_clean(match[1]) for match in islice(pattern.finditer(data), 16)))


def _clean(value: object) -> str:
    """Bring any value to one short line of printable characters."""
    text = (
        value[: 4 * MAX_HINT_LENGTH].decode("utf-8", "replace")
        if isinstance(value, bytes)
        else str(value)[: 4 * MAX_HINT_LENGTH]
    )
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:MAX_HINT_LENGTH]


def _read_manifest(data: bytes) -> str:
    if _C2PA not in data:
        return ""
    with suppress(Exception):  # not installed, or not a manifest after all
        c2pa = importlib.import_module("c2pa")
        offline = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}  # a file is not to make us call out
        with c2pa.Reader("", io.BytesIO(data), context=c2pa.Context(c2pa.Settings.from_dict(offline))) as reader:
            store = json.loads(reader.json())
        claim = store["manifests"][store["active_manifest"]]
        maker = claim.get("claim_generator") or claim["claim_generator_info"][0]["name"]
        return f"{_clean(maker)}, signed by {_clean(claim['signature_info']['issuer'])}"
    return "manifest"


def _format_texts(chunks: list[tuple[bytes, bytes]]) -> str:
    """Name the texts whose keys tell something, those of generators first."""
    texts = {key.decode("latin-1").lower(): text for key, text in reversed(chunks)}
    return "; ".join(f"{key}: {_clean(texts[key])}" for key in _KEYS if key in texts)


def _read_exif(data: bytes) -> dict[str, str]:
    exif = Image.Exif()
    with suppress(Exception):  # Pillow raises nearly anything on broken tags
        if data.startswith(_PNG):  # Pillow would decode all of a PNG to look for tags at its end
            exif.load(next((chunk for kind, chunk in _read_png_chunks(data) if kind == b"eXIf"), b""))
        else:
            with Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
                exif = image.getexif()
    return {name: _clean(exif.get(tag, "")) for name, tag in _EXIF_TAGS.items()}


def _read_png_texts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give each key and text of a PNG, unpacked."""
    for kind, chunk in _read_png_chunks(data):
        key, _, text = chunk.partition(b"\0")
        if kind == b"iTXt":  # packed or not, method, language\0, translated key\0
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
    """Give kind and content of each chunk that is neither header nor pixels, as far as the file goes."""
    start = len(_PNG) if data.startswith(_PNG) else len(data)
    for _ in range(MAX_CREDENTIAL_CHUNKS):
        if start + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, start)
        if kind not in (b"IHDR", b"IDAT", b"PLTE"):
            yield kind, data[start + 8 : start + 8 + length]
        start += 12 + length

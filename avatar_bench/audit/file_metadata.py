"""Metadata of an image file that say how it was made, with its C2PA manifest; they may be missing, forged or broken."""

from __future__ import annotations

import importlib
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date
from itertools import islice
from typing import Any

from PIL import Image

from avatar_bench.data.dates import find_days
from avatar_bench.data.decoding import FORMATS
from avatar_bench.data.file_structure import iterate_png_chunks

MAX_VALUE = 80  # characters of a name in a manifest
NO_SOURCE_TYPE = "no source type"
# The IPTC vocabulary in full: in a manifest, no byte has to separate a term from what follows
SOURCE_TYPE = (
    rb"(compositeWithTrainedAlgorithmicMedia|multiFrameComputationalCapture|trainedAlgorithmic(?:Media|Data)"
    rb"|algorithmicallyEnhanced|algorithmicMedia|computationalCapture|composite(?:Synthetic|Capture)?"
    rb"|virtualRecording|dataDrivenMedia|digital(?:Creation|Capture|Art)|(?:minorH|h)umanEdits"
    rb"|screenCapture|softwareImage|negativeFilm|positiveFilm|print)"
)

# Description box at the start of a manifest store (C2PA 2.1, 11.1.4), identical in every container
_C2PA = b"jumdc2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9bq"
_PACKED_TYPE = re.compile(rb"igital[sS]ource[tT]ype/" + SOURCE_TYPE)
_TERM = re.compile(SOURCE_TYPE)
_GENERATED, _EDITED = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
_ORIGINAL = re.compile("[cC]apture|Film|digitalArt|digitalCreation")

# columns in which the audit shows the metadata of an image
HINTS = ("c2pa", "iptc_digital_source_type", "png_text", "exif_software", "exif_make", "exif_model", "xmp_creator_tool")
MAX_TEXT = 2**16  # bytes of one text: a compressed one can expand a thousandfold
MAX_TEXTS = 2**20  # bytes of all texts of a PNG

_PNG = b"\x89PNG\r\n\x1a\n"
_XMP = (b"<rdf:RDF", b"</rdf:RDF>")
_XMP_KEY, _XMP_TAG, _EXIF_IFD, _USER_COMMENT = "xml:com.adobe.xmp", 700, 0x8769, 0x9286
# no tag of a place, a serial number, an owner or an artist
_EXIF_TAGS = {"ImageDescription": 270, "Make": 271, "Model": 272, "Software": 305}
_DATE_TAG = 36867
_STATED_DATE = re.compile(r"(\d{4})(?:[-:./](\d\d))?(?:[-:./](\d\d))?", re.ASCII)
_FIRST_CLOCK = 1990  # of cameras that write EXIF
_EXPOSURE_TAGS = (33434, 33437, 34855, 37386)  # exposure time, aperture, sensitivity, focal length
_STATED_TYPE = re.compile(
    rb"igital[sS]ource[tT]ype(?:\s+rdf:resource)?\s*(?:=\s*[\"']|>)\s*(?:https?://[\w./]{1,80}/)?" + SOURCE_TYPE
)
# those of generators first: AUTOMATIC1111, ComfyUI, InvokeAI
_GENERATOR_KEYS = ("parameters", "prompt", "workflow", "invokeai_metadata", "invokeai_graph", "sd-metadata", "dream")
_PNG_KEYS = (*_GENERATOR_KEYS, "comment", "software", "description", "title", "source")
_PLACES = {"iptc_digital_source_type": "xmp:DigitalSourceType", "xmp_creator_tool": "xmp:CreatorTool"}
_PLACES |= {"exif_software": "exif:Software", "exif_make": "exif:Make", "exif_model": "exif:Model"}


def read_metadata(data: bytes, trust: str = "") -> dict[str, str]:
    """Read the texts in a file that may say how it was made, by place, without those that it lacks; never raise.

    Places: "png:<key>" in lower case; "exif:Make", "exif:Model", "exif:Software", "exif:ImageDescription",
    "exif:UserComment", and "exif:Camera", make and model where an exposure is stated as well; "comment" of a JPEG or
    GIF; "xmp", the whole packet, and "xmp:CreatorTool", "xmp:Credit", "xmp:Software" and "xmp:DigitalSourceType", terms
    of the IPTC vocabulary; "c2pa:<state>", see `read_manifest`, which `trust` is for. Each has MAX_TEXT bytes at most.
    """
    texts: dict[str, str] = {}
    for key, text in _read_png_texts(data):
        texts.setdefault(f"png:{_decode(key).lower()}", _decode(text))
    packet = texts.pop(f"png:{_XMP_KEY}", "").encode()
    with suppress(Exception):  # Pillow raises almost any exception on broken tags
        exif, comment, other = _open_tags(data)
        packet = packet or other
        texts |= {"comment": _decode(comment)}
        texts |= {f"exif:{name}": text for name, text in _read_exif(exif).items()}
    texts |= _read_xmp(packet) | read_manifest(data, trust)
    return {field_name: text for field_name, text in texts.items() if text}


def read_date(data: bytes, latest: str = "") -> tuple[str, str]:
    """Return when an image was made as its file states, YYYY-MM-DD or less, and where: "EXIF" or "XMP".

    DateTimeOriginal of EXIF comes first, then DateCreated and CreateDate of XMP. A date after today or `latest` is
    not taken, nor is one before 1990 that a clock wrote, which was not set: the other is then "odd". Both are "" where
    no date is stated; never raise.
    """
    exif, packet = "", b""
    with suppress(Exception):  # as above
        tags, _, packet = _open_tags(data)
        exif = _decode(tags.get_ifd(_EXIF_IFD).get(_DATE_TAG, ""))
    packet = packet or next((text for key, text in _read_png_texts(data) if key.lower() == _XMP_KEY.encode()), b"")
    stated = [("EXIF", exif), *(("XMP", _find_property(packet, name)) for name in ("DateCreated", "CreateDate"))]
    stated = [(origin, text.strip("\0 \n")) for origin, text in stated]
    limits = [date.today(), *(days.last for days in [find_days(latest)] if days)]
    for index, (origin, text) in enumerate(stated):
        match = _STATED_DATE.match(text)
        days = find_days("-".join(filter(None, match.groups()))) if match else None
        first = _FIRST_CLOCK if index != 1 else 0  # people state the date of an old work in DateCreated
        if match and days and days.first <= min(limits) and days.first.year >= first:
            return "-".join(filter(None, match.groups())), origin
    return "", "odd" if any(text for _, text in stated) else ""


def select_hints(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return a short text for each of HINTS, "" where a file has none, from what `read_metadata` has read.

    `c2pa`: the state of the manifest and what it states; `iptc_digital_source_type`: terms of the IPTC vocabulary in
    XMP; `png_text`: "key: value" of the texts that generators and editors write; the others: the tags of these names.
    """
    state, signed = next(
        ((field_name, text) for field_name, text in metadata.items() if field_name.startswith("c2pa:")), ("", "")
    )
    texts = {key: clean_text(metadata[f"png:{key}"]) for key in _PNG_KEYS if f"png:{key}" in metadata}
    hints = {name: clean_text(metadata.get(field_name, "")) for name, field_name in _PLACES.items()}
    hints["c2pa"] = clean_text(f"{state.removeprefix('c2pa:')}: {signed}", 3 * len(signed)) if state else ""
    hints["png_text"] = "; ".join(f"{key}: {text}" for key, text in texts.items())
    return {name: hints[name] for name in HINTS}


def _open_tags(data: bytes) -> tuple[Image.Exif, bytes, bytes]:
    """Return the EXIF, the comment and the XMP packet of a file."""
    if data.startswith(_PNG):  # Pillow would decode the whole PNG to find tags at its end
        exif = Image.Exif()
        exif.load(next((chunk for kind, chunk in _read_png_chunks(data) if kind == b"eXIf"), b""))
        return exif, b"", b""
    with Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
        exif, comment, packet = image.getexif(), image.info.get("comment", b""), image.info.get("xmp", b"")
    packet = packet or exif.get(_XMP_TAG, b"")
    if image.format == "GIF":  # stored as one piece, which Pillow does not read
        packet = data[max(data.find(_XMP[0]), 0) :][:MAX_TEXT]
    return exif, _encode(comment), _encode(packet)


def _read_exif(exif: Image.Exif) -> dict[str, str]:
    texts = {}
    for name, tag in _EXIF_TAGS.items():
        texts[name] = _decode(exif.get(tag, ""))
        with suppress(ValueError):  # Pillow reads each byte as a letter, and many programs write UTF-8
            texts[name] = texts[name].encode("latin-1").decode()
    inner: Mapping[int, Any] = {}
    with suppress(Exception):
        inner = exif.get_ifd(_EXIF_IFD)
    comment = inner.get(_USER_COMMENT, "")
    if isinstance(comment, bytes):  # its first 8 bytes name the encoding, and its letters may have two bytes each
        comment = comment[8 : 8 + 2 * MAX_TEXT].replace(b"\0", b"")
    texts["UserComment"] = _decode(comment)
    if texts["Make"] and any(tag in inner for tag in _EXPOSURE_TAGS):
        texts["Camera"] = f"{texts['Make']} {texts['Model']}"
    return texts


def _read_xmp(packet: bytes) -> dict[str, str]:
    """Find the properties in a packet by patterns: no XML is parsed, so that entities are never expanded."""
    start = packet.find(_XMP[0])
    end = packet.find(_XMP[1], start)
    packet = packet[start : end if end > 0 else None][:MAX_TEXT] if start >= 0 else b""
    terms = dict.fromkeys(match[1].decode() for match in islice(_STATED_TYPE.finditer(packet), 16))
    texts = {"xmp": _decode(packet), "xmp:DigitalSourceType": ", ".join(terms)}
    return texts | {f"xmp:{name}": _find_property(packet, name) for name in ("CreatorTool", "Credit", "Software")}


def _find_property(packet: bytes, name: str) -> str:
    match = re.search(rb"\b%s\s*(?:>|=\s*[\"'])([^<\"']{1,200})" % name.encode(), packet[:MAX_TEXT])
    return _decode(match[1]) if match else ""


def _encode(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _decode(value: object) -> str:
    return value[:MAX_TEXT].decode("utf-8", "replace") if isinstance(value, bytes) else str(value)[:MAX_TEXT]


def _read_png_texts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each key and text of a PNG, decompressed, up to MAX_TEXTS bytes of all texts."""
    left = MAX_TEXTS
    for kind, chunk in _read_png_chunks(data):
        if kind not in (b"tEXt", b"zTXt", b"iTXt") or left <= 0:
            continue
        key, _, text = chunk.partition(b"\0")
        if kind == b"iTXt":  # compression flag, method, language\0, translated key\0
            packed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
        else:
            packed, text = kind == b"zTXt", text[1:] if kind == b"zTXt" else text
        text = _unpack(text) if packed else text[:MAX_TEXT]
        left -= len(text)
        yield key[:80], text


def _unpack(text: bytes) -> bytes:
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(text, MAX_TEXT)
    return b""


def _read_png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of each chunk of a PNG, without those of its pixels; none for another format."""
    chunks = iterate_png_chunks(data) if data.startswith(_PNG) else ()
    return ((kind, data[start:end]) for kind, start, end in chunks if kind not in (b"IDAT", b"fdAT"))


def read_manifest(data: bytes, trust: str = "") -> dict[str, str]:
    """Read the manifest of a file: {"c2pa:<state>": "source types; generator; signer"}, {} without one; never raise.

    States: "trusted": the signature is valid and its certificate descends from one in `trust`, a PEM text; "valid":
    anyone may have signed it; "invalid": the file or the manifest was changed, or cannot be read; "unverified":
    c2pa-python is not installed. Nothing is fetched from a network.
    """
    if _C2PA not in data:
        return {}
    try:
        c2pa = importlib.import_module("c2pa")
    except ImportError:
        types = {match[1].decode() for match in _PACKED_TYPE.finditer(data, data.find(_C2PA))}
        return {"c2pa:unverified": "; ".join([", ".join(sorted(types)) or NO_SOURCE_TYPE, "not verified"])}
    with suppress(Exception):  # not a valid manifest
        offline = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
        settings = c2pa.Settings.from_dict(offline | ({"trust": {"trust_anchors": trust}} if trust else {}))
        with c2pa.Reader("", io.BytesIO(data), context=c2pa.Context(settings)) as reader:
            store = json.loads(reader.json())
        is_valid, is_trusted = store["validation_state"] in ("Valid", "Trusted"), store["validation_state"] == "Trusted"
        # c2pa-python may come to trust a list of its own
        state = "trusted" if is_trusted and trust else "valid" if is_valid else "invalid"
        return {f"c2pa:{state}": _describe(store)}
    return {"c2pa:invalid": "unreadable"}


def clean_text(value: object, length: int = MAX_VALUE) -> str:
    """Convert any value to one short line of printable characters."""
    text = str(value)[: 4 * length]
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:length]


def _describe(store: Mapping[str, Any]) -> str:
    claim = store["manifests"][store["active_manifest"]]
    named = [info.get("name") for info in claim.get("claim_generator_info") or []]
    maker = claim.get("claim_generator") or next(filter(None, named), "unknown")
    signer = (claim.get("signature_info") or {}).get("issuer") or "unknown"
    types = list(_list_source_types(store))
    if any(map(_ORIGINAL.search, types)):  # generated parts in what was photographed or drawn
        types = [_EDITED if term == _GENERATED else term for term in types]
    # a name cannot pass for a source type: those come first, and end at the first semicolon
    stated = ", ".join(dict.fromkeys(types)) or NO_SOURCE_TYPE
    return f"{stated}; {clean_text(maker)}; signed by {clean_text(signer)}"


def _list_source_types(store: Mapping[str, Any]) -> Iterator[str]:
    """Yield the source types of the actions that made the image, last file first; generated parts make composites."""
    left, seen = [(store["active_manifest"], True)], set[str]()
    while left:
        name, is_whole = left.pop(0)
        if name in seen or name not in store["manifests"]:
            continue
        seen.add(name)
        manifest = store["manifests"][name]
        for assertion in manifest.get("assertions", []):
            if assertion["label"].startswith("c2pa.actions"):
                for action in assertion["data"].get("actions", []):
                    term = str(action.get("digitalSourceType", "")).rpartition("/")[2]
                    if _TERM.fullmatch(term.encode()) and (is_whole or term in (_GENERATED, _EDITED)):
                        yield term if is_whole else _EDITED
        for part in manifest.get("ingredients", []):
            if part.get("relationship") != "inputTo":
                left.append((part.get("active_manifest"), is_whole and part.get("relationship") == "parentOf"))

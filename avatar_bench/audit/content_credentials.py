"""C2PA manifests of image files (Content Credentials), and whether their signature is valid and trusted."""

from __future__ import annotations

import importlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

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
        found = {match[1].decode() for match in _PACKED_TYPE.finditer(data, data.find(_C2PA))}
        return {"c2pa:unverified": "; ".join([", ".join(sorted(found)) or NO_SOURCE_TYPE, "not verified"])}
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
    """Yield the source types of the actions that made the image, from those of the last file to those of the first.

    A part that was generated makes an image a composite.
    """
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

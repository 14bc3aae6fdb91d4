"""Provenance hints: the columns in which the audit shows the metadata of an image."""

from __future__ import annotations

from collections.abc import Mapping

from avatar_bench.audit.content_credentials import clean_text

HINTS = ("c2pa", "iptc_digital_source_type", "png_text", "exif_software", "exif_make", "exif_model", "xmp_creator_tool")
# those of generators first: AUTOMATIC1111, ComfyUI, InvokeAI
_GENERATOR_KEYS = ("parameters", "prompt", "workflow", "invokeai_metadata", "invokeai_graph", "sd-metadata", "dream")
_PNG_KEYS = (*_GENERATOR_KEYS, "comment", "software", "description", "title", "source")
_PLACES = {"iptc_digital_source_type": "xmp:DigitalSourceType", "xmp_creator_tool": "xmp:CreatorTool"}
_PLACES |= {"exif_software": "exif:Software", "exif_make": "exif:Make", "exif_model": "exif:Model"}


def select_hints(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return a short text for each of HINTS, "" where a file has none, from what `read_metadata` has read.

    `c2pa`: the state of the manifest and what it states; `iptc_digital_source_type`: terms of the IPTC vocabulary in
    XMP; `png_text`: "key: value" of the texts that generators and editors write; the others: the tags of these names.
    """
    state, signed = next(((place, text) for place, text in metadata.items() if place.startswith("c2pa:")), ("", ""))
    texts = {key: clean_text(metadata[f"png:{key}"]) for key in _PNG_KEYS if f"png:{key}" in metadata}
    found = {name: clean_text(metadata.get(place, "")) for name, place in _PLACES.items()}
    found["c2pa"] = clean_text(f"{state.removeprefix('c2pa:')}: {signed}", 3 * len(signed)) if state else ""
    found["png_text"] = "; ".join(f"{key}: {text}" for key, text in texts.items())
    return {name: found[name] for name in HINTS}

"""Rules of what the metadata of an image file say of its class."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from avatar_bench.data.evidence.content_credentials import NO_SOURCE_TYPE, clean_text

STRONG, MODERATE, WEAK, NONE = STRENGTHS = ("strong", "moderate", "weak", "none")
EVIDENCE_COLUMNS = EVIDENCE_SAYS, EVIDENCE = ("evidence_says", "evidence")  # of predictions
MAX_EVIDENCE = 200  # characters of a value

_GENERATED, _DRAWING, _REAL = "generated", "drawing", "real"
_SIGNED = ("c2pa:trusted", "c2pa:valid")
_NAMED_IN = (
    "png:software",
    "png:source",
    "exif:Software",
    "exif:Make",
    "xmp:CreatorTool",
    "xmp:Software",
    "xmp:Credit",
)
_TEXTS = ("exif:UserComment", "exif:ImageDescription", "comment", "xmp")
_GENERATED_TYPE = "trainedAlgorithmicMedia"
_CAPTURED = "digitalCapture|computationalCapture|multiFrameComputationalCapture|negativeFilm|positiveFilm"
_DRAWN = "digitalArt|digitalCreation"
_EDITED_WITH_AI = "compositeWithTrainedAlgorithmicMedia|compositeSynthetic|algorithmicMedia"
_IPTC = "https://cv.iptc.org/newscodes/digitalsourcetype/"
_C2PA = "https://spec.c2pa.org/specifications/specifications/2.1/specs/C2PA_Specification.html"
_EXIF = "https://www.cipa.jp/std/documents/download_e.html?DC-008-Translation-2023-E"
_OPENAI = r"dall(?:[-·. ]e\b|e.?[23]\b)|openai|chatgpt|gpt-image"
_LIST_TYPE = r"(?:\w+, )*"  # before a source type of a manifest, see `read_manifest`
_MADE_BY_GENERATOR = rf"{NO_SOURCE_TYPE}; [^;]*(?:{_OPENAI}|firefly|midjourney|stability)"


@dataclass(frozen=True)
class Rule:
    """Rule of one kind of evidence: where it looks for what, and the class that it says.

    `looks_for` holds pairs of places, see `read_metadata`, and a pattern, of which the matched part is all that is ever
    shown. `says` is "" where it says nothing of a class. `is_doubt` means that no class but generated is concluded
    beside it. `strength` is one of STRENGTHS; what a trusted signer states is strong.
    """

    name: str
    what: str
    looks_for: tuple[tuple[Sequence[str], str], ...]
    says: str
    strength: str
    source: str
    is_doubt: bool = False

    def find(self, metadata: Mapping[str, str]) -> Evidence | None:
        """Return the evidence in the metadata of a file, the first that is found; None without any."""
        for places, pattern in self.looks_for:
            for place in places:
                match = re.search(pattern, metadata.get(place, ""), re.IGNORECASE) if place in metadata else None
                if match:
                    is_trusted = place == "c2pa:trusted" and self.says
                    return Evidence(
                        self, f"{place}: {clean_text(match[0], MAX_EVIDENCE)}", STRONG if is_trusted else self.strength
                    )
        return None


@dataclass(frozen=True)
class Evidence:
    """What a rule has found in a file: the place and the matched part as `value`, and its strength."""

    rule: Rule
    value: str
    strength: str


def _match_type(terms: str) -> str:
    return rf"^{_LIST_TYPE}(?:{terms})[,;].*"


# Rules of signed manifests first, then of statements without a signature, of generators, and of the rest.
RULES = (
    Rule(
        "c2pa_generated",
        "valid C2PA manifest: digitalSourceType trainedAlgorithmicMedia",
        ((_SIGNED, _match_type(_GENERATED_TYPE)),),
        _GENERATED,
        MODERATE,
        _C2PA,
    ),
    Rule(
        "c2pa_generator",
        "valid C2PA manifest without a digitalSourceType: its claim generator is an image generator",
        ((_SIGNED, rf"^{_MADE_BY_GENERATOR}.*"),),
        _GENERATED,
        MODERATE,
        _C2PA,
    ),
    Rule(
        "c2pa_captured",
        "valid C2PA manifest: digitalSourceType of a camera or film",
        ((_SIGNED, _match_type(_CAPTURED)),),
        _REAL,
        WEAK,
        _C2PA,
    ),
    Rule(
        "c2pa_drawn",
        "valid C2PA manifest: digitalSourceType digitalArt or digitalCreation",
        ((_SIGNED, _match_type(_DRAWN)),),
        _DRAWING,
        WEAK,
        _C2PA,
    ),
    Rule(
        "c2pa_ai_edited",
        "valid C2PA manifest: digitalSourceType of a composite with generated parts",
        ((_SIGNED, _match_type(_EDITED_WITH_AI)),),
        "",
        NONE,
        _C2PA,
        is_doubt=True,
    ),
    Rule(
        "c2pa_signed",
        "valid C2PA manifest that states nothing of the above",
        (
            (
                _SIGNED,
                rf"^(?!{_MADE_BY_GENERATOR}|{_LIST_TYPE}(?:{_GENERATED_TYPE}|{_CAPTURED}|{_DRAWN}|{_EDITED_WITH_AI})[,;]).*",
            ),
        ),
        "",
        NONE,
        _C2PA,
    ),
    Rule(
        "c2pa_invalid",
        "C2PA manifest whose signature does not fit the file, or that cannot be read",
        ((("c2pa:invalid",), ".+"),),
        "",
        NONE,
        _C2PA,
        is_doubt=True,
    ),
    Rule(
        "c2pa_unverified_generated",
        "C2PA manifest, not verified since c2pa-python is missing: only digitalSourceType trainedAlgorithmicMedia",
        ((("c2pa:unverified",), "^trainedAlgorithmicMedia;.*"),),
        _GENERATED,
        WEAK,
        _C2PA,
    ),
    Rule(
        "c2pa_unverified",
        "C2PA manifest, not verified since c2pa-python is missing: any other",
        ((("c2pa:unverified",), "^(?!trainedAlgorithmicMedia;).*"),),
        "",
        NONE,
        _C2PA,
        is_doubt=True,
    ),
    Rule(
        "iptc_generated",
        "XMP: digitalSourceType trainedAlgorithmicMedia",
        ((("xmp:DigitalSourceType",), r"\btrainedAlgorithmicMedia\b"),),
        _GENERATED,
        MODERATE,
        _IPTC,
    ),
    Rule(
        "iptc_captured",
        "XMP: digitalSourceType of a camera or film",
        ((("xmp:DigitalSourceType",), rf"\b(?:{_CAPTURED})\b"),),
        _REAL,
        WEAK,
        _IPTC,
    ),
    Rule(
        "iptc_drawn",
        "XMP: digitalSourceType digitalArt or digitalCreation",
        ((("xmp:DigitalSourceType",), rf"\b(?:{_DRAWN})\b"),),
        _DRAWING,
        WEAK,
        _IPTC,
    ),
    Rule(
        "iptc_ai_edited",
        "XMP: digitalSourceType of a composite with generated parts, or of an algorithm",
        ((("xmp:DigitalSourceType",), rf"\b(?:{_EDITED_WITH_AI})\b"),),
        "",
        NONE,
        _IPTC,
        is_doubt=True,
    ),
    Rule(
        "stable_diffusion",
        "Stable Diffusion web UI, Fooocus, SwarmUI: parameters in a PNG text, EXIF UserComment, a comment or XMP",
        (
            (("png:parameters",), r"\bSteps: \d+|\"sui_image_params\"|\"base_model\"|\"metadata_scheme\""),
            (_TEXTS, r"\bSteps: \d+, (?:Sampler|Schedule type|CFG scale)(?=: )|\"sui_image_params\""),
            (_NAMED_IN, r"stable.?diffusion|automatic1111|fooocus|swarmui"),
        ),
        _GENERATED,
        MODERATE,
        "https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/master/modules/images.py",
    ),
    Rule(
        "comfyui",
        "ComfyUI: prompt or workflow in a PNG text, or in EXIF Make, Model or UserComment",
        (
            (("png:prompt", "exif:UserComment"), r"\"class_type\""),
            (("png:workflow",), r"\"(?:nodes|last_node_id)\""),
            (("exif:Make", "exif:Model", "exif:ImageDescription"), r"^(?:prompt|workflow):(?=\s*\{)"),
            (_NAMED_IN, "comfyui"),
        ),
        _GENERATED,
        MODERATE,
        "https://github.com/comfyanonymous/ComfyUI/blob/master/nodes.py",
    ),
    Rule(
        "invokeai",
        "InvokeAI: its PNG texts",
        (
            (("png:invokeai_metadata", "png:invokeai_graph", "png:invokeai_workflow", "png:sd-metadata"), r"^\s*\{"),
            (("png:dream",), r"\s-[SsCW] ?\d+"),
            (_NAMED_IN, "invokeai"),
        ),
        _GENERATED,
        MODERATE,
        "https://github.com/invoke-ai/InvokeAI/blob/main/invokeai/app/services/image_files/image_files_disk.py",
    ),
    Rule(
        "novelai",
        "NovelAI: software, source or signed parameters in a PNG text or EXIF",
        ((_NAMED_IN, "novelai"), (("png:comment", "exif:UserComment"), r"\"signed_hash\"")),
        _GENERATED,
        MODERATE,
        "https://github.com/NovelAI/novelai-image-metadata",
    ),
    Rule(
        "midjourney",
        "Midjourney: job number in a description, or its name as the tool",
        (
            (("png:description", "png:comment", *_TEXTS), r"\bJob ID: (?=[0-9a-f]{8}-[0-9a-f]{4}-)"),
            (_NAMED_IN, "midjourney"),
        ),
        _GENERATED,
        MODERATE,
        "https://github.com/Ktiseos-Nyx/Dataset-Tools/blob/main/dataset_tools/parser_definitions/midjourney.json",
    ),
    Rule(
        "dall_e",
        "DALL·E, ChatGPT: its name as the tool",
        ((_NAMED_IN, _OPENAI),),
        _GENERATED,
        MODERATE,
        "https://help.openai.com/en/articles/8912793-c2pa-in-dall-e-3",
    ),
    Rule(
        "firefly",
        "Adobe Firefly: its name as the tool",
        ((_NAMED_IN, r"\bfirefly\b"),),
        _GENERATED,
        MODERATE,
        "https://helpx.adobe.com/firefly/using/content-credentials.html",
    ),
    Rule(
        "other_generator",
        "another generator: its name as the tool, as Flux writes it",
        (
            (
                _NAMED_IN,
                r"\bAI generated\b|black forest labs|ideogram|leonardo\.ai|dreamstudio|bing image creator"
                r"|made with google ai|draw things",
            ),
        ),
        _GENERATED,
        MODERATE,
        "https://github.com/black-forest-labs/flux/blob/main/src/flux/util.py",
    ),
    Rule(
        "camera",
        "EXIF: make and model of a camera, with exposure time, aperture, sensitivity or focal length",
        ((("exif:Camera",), "^.{1,60}"),),
        _REAL,
        WEAK,
        _EXIF,
    ),
    Rule(
        "editing_software",
        "EXIF, XMP, PNG text: name of an editor",
        (
            (
                _NAMED_IN,
                r"\b(?:photoshop|lightroom|illustrator|gimp|krita|inkscape|affinity|procreate|clip studio|paint\.net"
                r"|canva|figma|pixelmator|picasa|snapseed|darktable|rawtherapee|capture one|imagemagick)\b",
            ),
        ),
        "",
        NONE,
        _EXIF,
    ),
)


def find_evidence(metadata: Mapping[str, str]) -> list[Evidence]:
    """Return what each rule finds in the metadata of a file, in the order of RULES; no camera beside a generator."""
    found = [each for each in (rule.find(metadata) for rule in RULES) if each]
    is_generated = any(each.rule.says == _GENERATED for each in found)
    return [each for each in found if not (is_generated and each.rule.name == "camera")]


def conclude(found: Sequence[Evidence]) -> str:
    """Return the class that the strongest evidence says; "" if it says none, contradicts itself or is in doubt."""
    for strength in STRENGTHS:
        said = {each.rule.says for each in found if each.strength == strength and each.rule.says}
        if said:
            is_doubtful = any(each.rule.is_doubt for each in found) and said != {_GENERATED}
            return "" if len(said) > 1 or is_doubtful else said.pop()
    return ""


def format_evidence(found: Sequence[Evidence]) -> str:
    """Return evidence as JSON: a list of objects with rule, value and strength."""
    rows = [{"rule": each.rule.name, "value": each.value, "strength": each.strength} for each in found]
    return json.dumps(rows, ensure_ascii=False)

"""Rules of evidence: their names, what they conclude together, and their table in the documentation."""

from pathlib import Path

from avatar_bench.audit.evidence_rules import RULES, conclude, find_evidence

PAGE = Path(__file__).parents[2] / "docs" / "plugins" / "evidence.md"


def conclude_from(**metadata):
    return conclude(find_evidence({field.replace("_", ":"): text for field, text in metadata.items()}))


def test_the_documentation_has_the_table_of_rules():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `") and "http" in line]
    assert rows == [
        f"| `{rule.name}` | {rule.what} | {rule.says or 'nothing'} | {rule.strength} | [source]({rule.source}) |"
        for rule in RULES
    ]


def test_one_statement_says_what_its_rule_says():
    generated, composite = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
    for field, text, says in (
        ("xmp_DigitalSourceType", "digitalCapture, trainedAlgorithmicMedia", "generated"),
        ("xmp_DigitalSourceType", composite, ""),
        ("xmp_DigitalSourceType", "print", ""),
        ("c2pa_valid", "no source type; Adobe_Photoshop/25; signed by Adobe Inc.", ""),
        ("c2pa_valid", f"digitalCapture; {generated}; signed by x", "real"),
        ("c2pa_trusted", f"digitalArt, {generated}; x; signed by y", ""),
        ("c2pa_unverified", f"{composite}, {generated}; not verified", ""),
        ("png_comment", "Created with GIMP, not with Midjourney", ""),
        ("png_description", "a photo of Midjourney, Firefly and OpenAI", ""),
        ("png_prompt", "please enter your name", ""),
        ("png_parameters", "exposure 2", ""),
        ("exif_UserComment", "Steps: 20 to the door", ""),
        ("exif_Software", "Stable Diffusion XL", "generated"),
        ("exif_Software", "DALLE-2", "generated"),
        ("exif_Make", "Kendalle", ""),
        ("exif_Camera", "Apple iPhone 15", "real"),
    ):
        assert conclude_from(**{field: text}) == says, text


def test_the_strongest_evidence_decides_and_a_contradiction_says_nothing():
    signed = "digitalCapture; Camera; signed by Maker"
    assert conclude_from(c2pa_trusted=signed, xmp_DigitalSourceType="trainedAlgorithmicMedia") == "real"
    assert conclude_from(c2pa_valid=signed, xmp_DigitalSourceType="trainedAlgorithmicMedia") == "generated"
    assert conclude_from(c2pa_valid=signed, xmp_DigitalSourceType="digitalArt") == ""
    assert conclude_from(c2pa_invalid="unreadable", exif_Camera="Canon EOS") == ""
    assert conclude_from(c2pa_invalid="unreadable", exif_Software="NovelAI") == "generated"
    evidence = find_evidence({"exif:Camera": "prompt: a portrait", "png:parameters": "Steps: 20"})
    assert [item.rule.name for item in evidence] == ["stable_diffusion"]

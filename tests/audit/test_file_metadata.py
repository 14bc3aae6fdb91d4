"""Metadata of image files: their place in each format, and files that are broken."""

import struct
import sys
import tracemalloc
import zlib
from itertools import product

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from avatar_bench.audit import file_metadata
from avatar_bench.audit.evidence_rules import conclude, find_evidence
from avatar_bench.audit.file_metadata import HINTS, read_date, read_metadata, select_hints
from tests.builders.pixels import encode, make_noise
from tests.data.image_writers import chunk

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # broken tags, which avatar_bench ignores too

NEWSCODES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
PIXELS = make_noise(0, 16, 16)
STORE = b"\0\0\0\x40jumb\0\0\0\x1ejumdc2pa\0\x11\0\x10\x80\0\0\xaa\0\x38\x9bq\3c2pa\0\0\0\0\0"
# a text of CBOR, followed at once by a key of 13 letters, whose head is the letter m
ACTION = b"qdigitalSourceTypexF" + NEWSCODES.encode() + b"trainedAlgorithmicMediamsoftwareAgent"


def with_chunk(kind, content):
    """Return a PNG with one more chunk after its pixels."""
    data = encode(PIXELS)
    return data[:-12] + chunk(kind, content) + data[-12:]


def xmp(inner):
    return f"<x:xmpmeta><rdf:RDF><rdf:Description {inner}</rdf:RDF></x:xmpmeta>".encode()


def with_store(kind):
    """Return an image with a manifest store at the place of its format."""
    data, store = encode(PIXELS, kind), STORE + ACTION
    if kind == "PNG":
        return with_chunk(b"caBX", store)
    if kind == "WEBP":
        body = data[12:] + b"C2PA" + struct.pack("<I", len(store)) + store
        return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    return data[:2] + b"\xff\xeb" + struct.pack(">H", len(store) + 10) + b"JP\0\1\0\0\0\1" + store + data[2:]


def test_a_plain_image_says_nothing_and_exif_is_read_in_every_format():
    for kind in ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"]:
        assert read_metadata(encode(PIXELS, kind)) == {}
    for kind in ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"]:
        exif = Image.Exif()
        exif.update({271: "Canon\0\n", 272: "EOS 5D", 305: "darktable 4"})
        metadata = read_metadata(encode(PIXELS, kind, exif=exif))
        texts = [metadata[f"exif:{name}"].strip("\0\n") for name in ("Make", "Model", "Software")]
        assert texts == ["Canon", "EOS 5D", "darktable 4"]
        assert "exif:Camera" not in metadata


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_manifest_is_found_without_a_package_which_says_that_it_is_broken(kind, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "c2pa", None)
        evidence = find_evidence(read_metadata(with_store(kind)))
    assert [(item.rule.name, item.strength) for item in evidence] == [("c2pa_unverified_generated", "weak")]
    assert conclude(evidence) == "generated"
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    evidence = find_evidence(read_metadata(with_store(kind)))
    assert ([item.value for item in evidence], conclude(evidence)) == (["c2pa:invalid: unreadable"], "")


def test_xmp_is_read_in_every_format_and_the_source_type_however_it_is_written():
    for form, prefix, term in product(
        (
            'Iptc4xmpExt:DigitalSourceType="{}"/>',
            "><Iptc4xmpExt:DigitalSourceType>\n{}</Iptc4xmpExt:DigitalSourceType></rdf:Description>",
            '><Iptc4xmpExt:DigitalSourceType rdf:resource="{}"/></rdf:Description>',
        ),
        (NEWSCODES, ""),
        ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "digitalCapture"),
    ):
        metadata = read_metadata(encode(PIXELS, "JPEG", xmp=xmp(form.format(prefix + term))))
        assert metadata["xmp:DigitalSourceType"] == term
    for kind in ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"]:
        packet = xmp(f'Iptc4xmpExt:DigitalSourceType="{NEWSCODES}digitalArt" xmp:CreatorTool="Krita 5"/>')
        options = {"xmp": packet}
        if kind == "PNG":
            options = {"pnginfo": (info := PngImagePlugin.PngInfo())}
            info.add_itxt("XML:com.adobe.xmp", packet.decode(), zip=True)
        elif kind == "TIFF":
            options = {"tiffinfo": {700: packet}}
        metadata = read_metadata(encode(PIXELS, kind, **options))
        assert (metadata["xmp:DigitalSourceType"], metadata["xmp:CreatorTool"]) == ("digitalArt", "Krita 5")


def test_texts_of_a_png_are_read_even_behind_its_pixels():
    text = b"a portrait\nSteps: 20"
    for kind, content in (
        (b"tEXt", b"parameters\0" + text),
        (b"zTXt", b"parameters\0\0" + zlib.compress(text)),
        (b"iTXt", b"parameters\0\0\0\0\0" + text),
        (b"iTXt", b"parameters\0\1\0en\0p\0" + zlib.compress(text)),
    ):
        assert read_metadata(with_chunk(kind, content)) == {"png:parameters": text.decode()}


def check(data):
    metadata = read_metadata(data)
    assert all(0 < len(text) <= file_metadata.MAX_TEXT for text in metadata.values())
    assert all(item.value.isprintable() for item in find_evidence(metadata))


def samples():
    exif = Image.Exif()
    exif.update({271: "Canon", 305: "darktable"})
    options = {kind: {"exif": exif, "xmp": xmp('xmp:CreatorTool="Krita"/>')} for kind in ("JPEG", "WEBP", "AVIF")}
    kinds = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF")
    plain = {kind: encode(PIXELS, kind, **options.get(kind, {})) for kind in kinds}
    text = with_chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a portrait"))
    return plain | {"text": text, "manifest": with_store("JPEG"), "png manifest": with_store("PNG")}


@pytest.mark.parametrize("kind", samples())
def test_no_cut_or_damage_raises(kind, monkeypatch):
    data, rng = samples()[kind], np.random.default_rng(0)
    for length in rng.integers(0, len(data), 60):
        check(data[:length])
    for _ in range(120):
        broken = np.frombuffer(data, np.uint8).copy()
        broken[rng.integers(0, len(data), rng.integers(1, 20))] = rng.integers(0, 256)
        check(broken.tobytes())


def test_damaged_and_random_bytes_and_false_lengths_do_not_raise():
    rng = np.random.default_rng(0)
    signatures = (b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\xff\xff\x7fWEBP", b"GIF89a", b"II*\0")
    for start in (b"", *signatures, STORE):
        for length in (0, 1, 7, 8, 100, 5000):
            check(start + rng.bytes(length))
    start = b"\x89PNG\r\n\x1a\n"
    check(start + b"\xff\xff\xff\xfftEXtparameters\0x")
    check(start + b"\0\0\0\0tEXt\0\0\0\0" * 100_000)
    check(b"II*\0\x08\0\0\0\xff\xff" + b"\x31\1\2\0\xff\xff\xff\xff\0\0\0\0" * 100)


def test_packed_texts_are_unpacked_to_a_limit_and_entities_never():
    bomb = with_chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a" * 50_000_000))
    tracemalloc.start()
    assert read_metadata(bomb) == {"png:parameters": "a" * file_metadata.MAX_TEXT}
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10 * file_metadata.MAX_TEXT < 50_000_000
    data, bomb = encode(PIXELS), zlib.compress(b"a" * 100_000)
    many = b"".join(chunk(b"zTXt", b"key%d\0\0" % number + bomb) for number in range(2000))
    metadata = read_metadata(data[:-12] + many + data[-12:])
    assert sum(map(len, metadata.values())) == file_metadata.MAX_TEXTS == 16 * file_metadata.MAX_TEXT
    entities = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
    bomb = entities + xmp('xmp:CreatorTool="&b;&b;"/>')
    assert read_metadata(encode(PIXELS, "JPEG", xmp=bomb))["xmp:CreatorTool"] == "&b;&b;"
    data = encode(PIXELS, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    data = data[:-12] + chunk(b"zTXt", b"parameters\0\0no zlib") + chunk(b"tEXt", b"Software\0NovelAI\xff") + data[-12:]
    assert conclude(find_evidence(read_metadata(data))) == "generated"


def test_hints_are_one_short_line_each_those_of_generators_first():
    assert select_hints({}) == dict.fromkeys(HINTS, "")
    hints = select_hints({"png:software": "x" * 500, "png:mood": "good", "png:prompt": '{"3": {}}'})
    assert hints["png_text"] == 'prompt: {"3": {}}; software: ' + "x" * 80
    hints = select_hints({"png:comment": "<b>\x1b[31m\r\n\tred\0" + "!" * 500, "exif:Make": "Canon\0\n"})
    assert hints["png_text"].startswith("comment: <b> [31m red !!!")
    assert (len(hints["png_text"]), hints["exif_make"]) == (len("comment: ") + 80, "Canon")
    hints = select_hints({"c2pa:valid": "digitalArt; Image Maker; signed by Test Press"})
    assert hints["c2pa"] == "valid: digitalArt; Image Maker; signed by Test Press"


def with_dates(kind, exif="", packet=b""):
    """Return an image with DateTimeOriginal and an XMP packet."""
    tags, info = Image.Exif(), PngImagePlugin.PngInfo()
    tags[271] = "Camera"
    tags.get_ifd(34665)[36867] = exif
    if packet:
        info.add_itxt("XML:com.adobe.xmp", packet.decode())
    return encode(PIXELS, kind, exif=tags if exif else b"", xmp=packet, pnginfo=info)


CREATED = xmp('photoshop:DateCreated="1863-05" xmp:CreateDate="2011-02-03T04:05:06+01:00"/>')


def test_dates_are_read_in_each_format_unless_they_cannot_be_those_of_the_image():
    for kind in ["JPEG", "PNG", "WEBP", "AVIF"]:
        assert read_date(with_dates(kind, "2014:05:03 12:00:00")) == ("2014-05-03", "EXIF")
        assert read_date(with_dates(kind, packet=CREATED)) == ("1863-05", "XMP")
        assert read_date(with_dates(kind, "2014:05:03 12:00:00", CREATED)) == ("2014-05-03", "EXIF")
        assert read_date(with_dates(kind)) == ("", "")
    odd = ("0000:00:00 00:00:00", "    :  :     :  :  ", "9999:01:01 00:00:00", "2014:13:01 00:00:00")
    for exif in (*odd, "1980:01:01 00:00:00"):  # the last is of a clock that was not set
        assert read_date(with_dates("JPEG", exif)) == ("", "odd")
    assert read_date(with_dates("JPEG", "1990:01:01 00:00:00")) == ("1990-01-01", "EXIF")
    assert read_date(with_dates("JPEG", "1980:01:01 00:00:00", CREATED)) == ("1863-05", "XMP")
    for packet, expected in (
        ('xmp:CreateDate="1904-01-01T00:00:00Z"/>', ("", "odd")),
        ("><xmp:CreateDate>2011</xmp:CreateDate></rdf:Description>", ("2011", "XMP")),
        ('photoshop:DateCreated="unknown"/>', ("", "odd")),
    ):
        assert read_date(with_dates("JPEG", packet=xmp(packet))) == expected
    scanned = with_dates("JPEG", "2014:05:03 12:00:00")
    assert read_date(scanned, "1900") == ("", "odd")
    assert read_date(scanned, "2014") == read_date(scanned, "2014-05-03") == ("2014-05-03", "EXIF")
    assert read_date(b"no image") == ("", "")

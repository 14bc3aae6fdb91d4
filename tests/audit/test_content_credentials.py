"""Provenance hints: their place in each format, and files that are broken."""

from __future__ import annotations

import datetime
import io
import json
import struct
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from avatar_bench.audit import content_credentials
from avatar_bench.audit.content_credentials import HINTS, is_declared_generated, read_hints

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # broken tags, which avatar_bench ignores too

NEWSCODES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
STORE = b"\0\0\0\x40jumb\0\0\0\x1ejumdc2pa\0\x11\0\x10\x80\0\0\xaa\0\x38\x9bq\3c2pa\0\0\0\0\0"
# a text of CBOR, followed at once by a key of 13 letters, whose head is the letter m
ACTION = b"qdigitalSourceTypexF" + NEWSCODES.encode() + b"trainedAlgorithmicMediamsoftwareAgent"


def saved(kind: str = "PNG", **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream := io.BytesIO(), kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a PNG with one more chunk after its pixels."""
    data = saved()
    return data[:-12] + chunk(kind, content) + data[-12:]


def xmp(inner: str) -> bytes:
    return f"<x:xmpmeta><rdf:RDF><rdf:Description {inner}</rdf:RDF></x:xmpmeta>".encode()


def with_store(kind: str) -> bytes:
    """Return an image with a manifest store at the place of its format."""
    data, store = saved(kind), STORE + ACTION
    if kind == "PNG":
        return with_chunk(b"caBX", store)
    if kind == "WEBP":
        body = data[12:] + b"C2PA" + struct.pack("<I", len(store)) + store
        return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    return data[:2] + b"\xff\xeb" + struct.pack(">H", len(store) + 10) + b"JP\0\1\0\0\0\1" + store + data[2:]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_a_plain_image_says_nothing(kind: str) -> None:
    found = read_hints(saved(kind))
    assert found == dict.fromkeys(HINTS, "")
    assert not is_declared_generated(found)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_manifest_is_found_without_a_package(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    found = read_hints(with_store(kind))
    assert (found["c2pa"], found["iptc_digital_source_type"]) == ("manifest", "trainedAlgorithmicMedia")
    assert is_declared_generated(found)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_broken_manifest_is_still_a_manifest(kind: str) -> None:
    assert read_hints(with_store(kind))["c2pa"] == "manifest"


def test_a_manifest_tells_generator_and_signer_where_the_package_is_there() -> None:
    c2pa = pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    created = {"action": "c2pa.created", "digitalSourceType": f"{NEWSCODES}trainedAlgorithmicMedia"}
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [created]}}
    claim = {"claim_generator_info": [{"name": "Image Maker"}], "format": "image/jpeg", "assertions": [actions]}
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(b"es256", *certificate(), None))
    c2pa.Builder(json.dumps(claim)).sign(signer, "image/jpeg", io.BytesIO(saved("JPEG")), signed := io.BytesIO())
    found = read_hints(signed.getvalue())
    assert found["c2pa"] == "Image Maker, signed by Test Press"
    assert found["iptc_digital_source_type"] == "trainedAlgorithmicMedia"


def certificate() -> tuple[bytes, bytes]:
    """Return a chain of two certificates and the key of the first, as C2PA requires."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    names = x509.NameOID
    now, chain = datetime.datetime.now(datetime.UTC), b""
    for name, key, is_root in (("leaf", leaf, False), ("root", root, True)):
        subject, issuer = (
            x509.Name(
                [
                    x509.NameAttribute(names.ORGANIZATION_NAME, "Test Press"),
                    x509.NameAttribute(names.COMMON_NAME, common),
                ]
            )
            for common in (name, "root")
        )
        usage = x509.KeyUsage(True, False, False, False, False, is_root, is_root, False, False)
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        builder = builder.add_extension(x509.BasicConstraints(is_root, None), True).add_extension(usage, True)
        parent = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key())
        builder = builder.add_extension(parent, False)
        if not is_root:
            purpose = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purpose, False)
        chain += builder.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    plain = serialization.NoEncryption()
    return chain, leaf.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


@pytest.mark.parametrize("term", ["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "digitalCapture"])
@pytest.mark.parametrize(
    "form",
    [
        'Iptc4xmpExt:DigitalSourceType="{}"/>',
        "><Iptc4xmpExt:DigitalSourceType>\n{}</Iptc4xmpExt:DigitalSourceType></rdf:Description>",
        '><Iptc4xmpExt:DigitalSourceType rdf:resource="{}"/></rdf:Description>',
    ],
)
@pytest.mark.parametrize("prefix", [NEWSCODES, ""])
def test_the_source_type_is_read_however_xmp_writes_it(form: str, prefix: str, term: str) -> None:
    found = read_hints(saved("JPEG", xmp=xmp(form.format(prefix + term))))
    assert found["iptc_digital_source_type"] == term


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_xmp_is_read_in_every_format(kind: str) -> None:
    packet = xmp(f'Iptc4xmpExt:DigitalSourceType="{NEWSCODES}digitalArt" xmp:CreatorTool="Krita 5"/>')
    options: dict[str, object] = {"xmp": packet}
    if kind == "PNG":
        options = {"pnginfo": (info := PngImagePlugin.PngInfo())}
        info.add_itxt("XML:com.adobe.xmp", packet.decode(), zip=True)
    elif kind == "TIFF":
        options = {"tiffinfo": {700: packet}}
    found = read_hints(saved(kind, **options))
    assert (found["iptc_digital_source_type"], found["xmp_creator_tool"]) == ("digitalArt", "Krita 5")


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"tEXt", b"parameters\0a portrait\nSteps: 20"),
        (b"zTXt", b"parameters\0\0" + zlib.compress(b"a portrait\nSteps: 20")),
        (b"iTXt", b"parameters\0\0\0\0\0a portrait\nSteps: 20"),
        (b"iTXt", b"parameters\0\1\0en\0p\0" + zlib.compress(b"a portrait\nSteps: 20")),
    ],
)
def test_texts_of_a_png_are_read_even_behind_its_pixels(kind: bytes, content: bytes) -> None:
    found = read_hints(with_chunk(kind, content))
    assert found["png_text"] == "parameters: a portrait Steps: 20"
    assert is_declared_generated(found)


def test_texts_of_generators_come_first_and_unknown_ones_not_at_all() -> None:
    info = PngImagePlugin.PngInfo()
    for key, text in (("Software", "x" * 500), ("Mood", "good"), ("prompt", '{"3": {}}')):
        info.add_text(key, text)
    assert read_hints(saved(pnginfo=info))["png_text"] == 'prompt: {"3": {}}; software: ' + "x" * 80


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_is_read_in_every_format(kind: str) -> None:
    exif = Image.Exif()
    exif.update({271: "Canon\0\n", 272: "EOS 5D", 305: "darktable 4"})
    found = read_hints(saved(kind, exif=exif))
    assert [found[name] for name in ("exif_make", "exif_model", "exif_software")] == ["Canon", "EOS 5D", "darktable 4"]
    assert not is_declared_generated(found)


@pytest.mark.parametrize(
    ("hint", "value", "generated"),
    [
        ("iptc_digital_source_type", "trainedAlgorithmicMedia", True),
        ("iptc_digital_source_type", "digitalCapture, trainedAlgorithmicMedia", True),
        ("iptc_digital_source_type", "compositeWithTrainedAlgorithmicMedia", False),
        ("iptc_digital_source_type", "algorithmicMedia", False),
        ("c2pa", "manifest", False),
        ("c2pa", "OpenAI-API, signed by OpenAI", True),
        ("c2pa", "Adobe_Photoshop/25, signed by Adobe Inc.", False),
        ("png_text", "workflow: {}", True),
        ("png_text", "comment: Created with GIMP", False),
        ("png_text", "software: NovelAI", True),
        ("exif_software", "Stable Diffusion XL", True),
        ("exif_software", "Adobe Photoshop CS", False),
        ("exif_make", 'prompt:{"3": {}}', True),
        ("exif_model", "iPhone 15", False),
        ("xmp_creator_tool", "Adobe Firefly", True),
        ("xmp_creator_tool", "Midjourney", True),
        ("xmp_creator_tool", "DALL·E 3", True),
        ("xmp_creator_tool", "DALLE-2", True),
        ("exif_make", "Kendalle", False),
    ],
)
def test_only_what_names_a_generator_is_declared_generated(hint: str, value: str, generated: bool) -> None:
    assert is_declared_generated(dict.fromkeys(HINTS, "") | {hint: value}) is generated


def check(data: bytes) -> None:
    found = read_hints(data)
    assert tuple(found) == HINTS
    assert all(isinstance(value, str) and len(value) < 1500 and value.isprintable() for value in found.values())
    is_declared_generated(found)


def samples() -> dict[str, bytes]:
    exif = Image.Exif()
    exif.update({271: "Canon", 305: "darktable"})
    options = {kind: {"exif": exif, "xmp": xmp('xmp:CreatorTool="Krita"/>')} for kind in ("JPEG", "WEBP", "AVIF")}
    plain = {kind: saved(kind, **options.get(kind, {})) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF")}
    text = with_chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a portrait"))
    return plain | {"text": text, "manifest": with_store("JPEG"), "png manifest": with_store("PNG")}


@pytest.mark.parametrize("kind", samples())
def test_no_cut_or_damage_raises(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, rng = samples()[kind], np.random.default_rng(0)
    for length in rng.integers(0, len(data), 60):
        check(data[:length])
    for _ in range(120):
        broken = np.frombuffer(data, np.uint8).copy()
        broken[rng.integers(0, len(data), rng.integers(1, 20))] = rng.integers(0, 256)
        check(broken.tobytes())


def test_random_bytes_behind_any_signature_do_not_raise() -> None:
    rng = np.random.default_rng(0)
    for start in (
        b"",
        b"\xff\xd8\xff\xe1",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\xff\xff\xff\x7fWEBP",
        b"GIF89a",
        b"II*\0",
        STORE,
    ):
        for length in (0, 1, 7, 8, 100, 5000):
            check(start + rng.bytes(length))


def test_lengths_that_promise_too_much_cost_nothing() -> None:
    start = b"\x89PNG\r\n\x1a\n"
    check(start + b"\xff\xff\xff\xfftEXtparameters\0x")
    check(start + b"\0\0\0\0tEXt\0\0\0\0" * 100_000)
    check(b"II*\0\x08\0\0\0\xff\xff" + b"\x31\1\2\0\xff\xff\xff\xff\0\0\0\0" * 100)


def test_a_packed_text_is_unpacked_to_its_first_bytes_alone() -> None:
    bomb = zlib.compress(bytes(50_000_000))
    assert len(content_credentials._unpack(bomb)) == content_credentials.MAX_PNG_TEXT
    before = time.perf_counter()
    check(with_chunk(b"zTXt", b"parameters\0\0" + bomb))
    assert time.perf_counter() - before < 1


def test_markup_and_control_characters_come_out_as_one_short_line() -> None:
    found = read_hints(with_chunk(b"tEXt", b"comment\0<b>\x1b[31m\r\n\tred\x00" + b"!" * 500))
    assert found["png_text"].startswith("comment: <b> [31m red !!!")
    assert len(found["png_text"]) == len("comment: ") + content_credentials.MAX_HINT_LENGTH

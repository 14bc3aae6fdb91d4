"""Tests of predict evidence=true: a file for each rule, signed, forged and hostile ones, and what is never copied."""

import importlib.util
import io
import json
import shutil
import socket
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from avatar_bench.audit.evidence_rules import RULES
from avatar_bench.cli.app import main
from avatar_bench.files.table_io import read_csv
from avatar_bench.runs.run import Run
from tests.builders.pixels import encode, make_noise
from tests.data.image_writers import chunk

SECRETS = ("SECRET-PROMPT", "SECRET-SERIAL", "SECRET-OWNER", "SECRET-ARTIST", "59.93", "SECRET-JOB")
PROMPT = f"a portrait of {SECRETS[0]}, oil on canvas, "
A1111 = PROMPT + "\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1"
COMFY = json.dumps({"3": {"class_type": "KSampler", "inputs": {"text": PROMPT}}})
JOB = f"{PROMPT} --v 6 Job ID: 0a1b2c3d-0000-4000-8000-00000000000{SECRETS[5]}"
TYPE = 'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{}"/>'
MAKE, MODEL, SOFTWARE, DESCRIPTION, INNER, COMMENT = 271, 272, 305, 270, 0x8769, 0x9286
has_c2pa = importlib.util.find_spec("c2pa") is not None
needs_c2pa = pytest.mark.skipif(not has_c2pa, reason="c2pa-python is not installed")


def image(kind="JPEG", **options):
    return encode(make_noise(0, 40, 40), kind, **options)


def texts(**fields):
    info = PngImagePlugin.PngInfo()
    for key, text in fields.items():
        info.add_text(key, text)
    return image("PNG", pnginfo=info)


def exif(inner=None, **tags):
    """Return EXIF with what must never be copied, and these tags."""
    marks = Image.Exif()
    marks.update({315: "SECRET-ARTIST", 33432: "SECRET-OWNER"} | {globals()[name]: text for name, text in tags.items()})
    marks[INNER] = {0xA431: "SECRET-SERIAL", 0xA430: "SECRET-OWNER"} | (inner or {})
    marks[0x8825] = {1: "N", 2: (59.93, 0.0, 0.0)}
    return marks


def xmp(inner):
    return f"<x:xmpmeta><rdf:RDF><rdf:Description {inner}</rdf:RDF></x:xmpmeta>".encode()


PLAIN = image("PNG")
CAMERA = exif({33434: 0.01, 34855: 200}, MAKE="Canon", MODEL="EOS 5D")
BROKEN = (b"prompt\0\xff\xfe", b"Software\0NovelAI \xff\xff", b"\0", b"")
GENERATED = {  # files by the only rule that finds something, which says that they are generated
    "stable_diffusion": {
        "a1111.png": texts(parameters=A1111),
        "a1111.jpg": image(exif=exif({COMMENT: b"UNICODE\0" + A1111.encode("utf-16-be")})),
        "a1111.webp": image("WEBP", xmp=xmp(f'exif:UserComment="{A1111}"/>')),
        "swarm.png": texts(parameters=json.dumps({"sui_image_params": PROMPT})),
        "forged.jpg": image(exif=CAMERA, comment=A1111),  # with the EXIF of a camera
    },
    "comfyui": {
        "comfy.png": texts(prompt=COMFY, workflow='{"nodes": []}'),
        "comfy.webp": image("WEBP", exif=exif(MAKE=f"workflow:{COMFY}", MODEL=f"prompt:{COMFY}")),
    },
    "invokeai": {
        "invoke.png": texts(invokeai_metadata=json.dumps({"positive_prompt": PROMPT})),
        "dream.png": texts(Dream=f'"{PROMPT}" -s 50 -S 7 -W512'),
    },
    "novelai": {
        "novelai.png": texts(Software="NovelAI", Description=PROMPT),
        "signed.png": texts(Comment=json.dumps({"prompt": PROMPT, "signed_hash": "x"})),
        "broken.png": PLAIN[:-12] + b"".join(chunk(b"tEXt", text) for text in BROKEN) + PLAIN[-12:],
    },
    "midjourney": {
        "midjourney.png": texts(Description=JOB),
        "midjourney.jpg": image(xmp=xmp(f'dc:description="{JOB}"/>')),
    },
    "dall_e": {"dalle.jpg": image(exif=exif(SOFTWARE="DALL·E 3".encode()))},
    "firefly": {"firefly.jpg": image(xmp=xmp('xmp:CreatorTool="Adobe Firefly"/>'))},
    "other_generator": {
        "flux.jpg": image(exif=exif(SOFTWARE="AI generated;txt2img;flux", MAKE="Black Forest Labs", DESCRIPTION=PROMPT))
    },
    "iptc_generated": {"iptc.jpg": image(xmp=xmp(TYPE.format("trainedAlgorithmicMedia")))},
}
COMPOSITE = "compositeWithTrainedAlgorithmicMedia"
EDITED = xmp(TYPE.format(COMPOSITE))
# the file, the class that is said, and the rules that find something
FILES = {name: (data, "generated", (rule,)) for rule, files in GENERATED.items() for name, data in files.items()} | {
    "plain.jpg": (image(), "", ()),
    "film.jpg": (image(xmp=xmp(TYPE.format("negativeFilm"))), "real", ("iptc_captured",)),
    "art.jpg": (image(xmp=xmp(TYPE.format("digitalArt"))), "drawing", ("iptc_drawn",)),
    "camera.jpg": (image(exif=CAMERA), "real", ("camera",)),
    "scan.jpg": (image(exif=exif(MAKE="EPSON", MODEL="Perfection")), "", ()),
    "edited.jpg": (image(exif=exif(SOFTWARE="Adobe Photoshop 24.3")), "", ("editing_software",)),
    # the EXIF of a camera on what says that it was edited by AI or drawn
    "inpainted.jpg": (image(exif=CAMERA, xmp=EDITED), "", ("iptc_ai_edited", "camera")),
    "contradiction.jpg": (image(exif=CAMERA, xmp=xmp(TYPE.format("digitalArt"))), "", ("iptc_drawn", "camera")),
    # hostile: a part that is broken or huge costs its own rule alone
    "huge.jpg": (image(comment="Steps: 20, " * 5_000), "", ()),
    "page.html.jpg": (image(exif=exif(MAKE="<script>", MODEL="=1+1\r\n@x")), "", ()),
}


@pytest.fixture
def folder(tmp_path):
    """A folder with every file of FILES, and one that is not an image."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, (data, *_) in FILES.items():
        (folder / name).write_bytes(data)
    (folder / "none.txt").write_text("Steps: 20, Sampler: Euler")
    return folder


@pytest.fixture
def predict(tiny_run, tmp_path):
    def run(files, output, *words):
        options = f"ckpt={tiny_run}", f"input={files}", f"output={tmp_path / output}", "workers=0"
        return main(["predict", *options, *words])

    return run


def read(file):
    """Return what each file of an output says, and its evidence."""
    table = read_csv(file, keep_default_na=False)
    good = table[table["status"] == "ok"]
    names, evidence = good["path"].map(lambda path: Path(path).name), good["evidence"].map(json.loads)
    return dict(zip(names, zip(good["evidence_says"], evidence, strict=True), strict=True))


def test_each_rule_finds_its_files_and_copies_nothing_private(predict, folder, tmp_path, capsys):
    with_files = {rule for _, _, rules in FILES.values() for rule in rules}
    assert {rule.name for rule in RULES if not rule.name.startswith("c2pa")} == with_files
    assert predict(folder, "plain.csv") == 3
    assert "forged" not in capsys.readouterr().err
    assert predict(folder, "out.csv", "evidence=true") == 3
    assert "forged or stripped" in capsys.readouterr().err
    evidence = read(tmp_path / "out.csv")
    assert {name: (says, tuple(row["rule"] for row in rows)) for name, (says, rows) in evidence.items()} == {
        name: (says, rules) for name, (_, says, rules) in FILES.items()
    }
    text = (tmp_path / "out.csv").read_text(encoding="utf-8")
    assert not [secret for secret in SECRETS if secret in text]
    assert max(len(row["value"]) for _, rows in evidence.values() for row in rows) < 100
    for ending in ("jsonl", "parquet"):
        assert predict(folder, f"out.{ending}", "evidence=true") == 3
    plain, table = (read_csv(tmp_path / name, keep_default_na=False) for name in ("plain.csv", "out.csv"))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    for other in (pd.DataFrame(lines), pd.read_parquet(tmp_path / "out.parquet")):
        assert other[list(table)[-2:]].fillna("").to_numpy().tolist() == table.iloc[:, -2:].to_numpy().tolist()
    assert list(table)[-2:] == ["evidence_says", "evidence"]
    pd.testing.assert_frame_equal(table.iloc[:, :-2], plain)
    assert table.loc[table["status"] == "error", ["evidence_says", "evidence"]].to_numpy().tolist() == [["", ""]]


def test_the_class_is_that_of_the_view_or_empty_with_the_rule_kept(predict, folder, tiny_run, tmp_path):
    assert predict(folder, "out.csv", "evidence=true", "view=photo_or_art") == 3
    evidence = read(tmp_path / "out.csv")
    assert evidence["camera.jpg"][0] == "photo"
    assert evidence["art.jpg"][0] == "art"
    assert evidence["iptc.jpg"][0] == ""
    assert evidence["iptc.jpg"][1][0]["rule"] == "iptc_generated"
    run = Run.open(tiny_run, class_map={"generated": "generated", "real": "photograph", "drawing": "sketch"})
    assert [run.name_class(label) for label in ("generated", "real", "drawing", "")] == ["generated", "", "", ""]


@pytest.mark.slow
def test_update_continues_with_the_same_evidence_and_refuses_another(predict, folder, tmp_path, capsys):
    shutil.copy(folder / "forged.jpg", folder / "z\udcff.jpg")  # a name that is not UTF-8
    for ending in ("jsonl", "csv"):
        whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
        assert predict(folder, whole.name, "evidence=true", "batch_size=8") == 3
        cut.write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:20]))
        assert predict(folder, cut.name, "evidence=true", "batch_size=8", "update=true") == 3
        assert cut.read_bytes() == whole.read_bytes()
        capsys.readouterr()
        assert predict(folder, cut.name, "update=true") == 2
        assert "does not have the columns" in capsys.readouterr().err
    assert predict(folder, "whole.parquet", "evidence=true") == 3
    assert predict(folder, "whole.parquet", "evidence=true", "update=true") == 3
    capsys.readouterr()
    (folder / "z\udcff.jpg").unlink()
    predict(folder, "other.csv", "evidence=true")
    rows = read_csv(tmp_path / "other.csv", dtype=str, keep_default_na=False)
    rows.loc[rows["status"] == "ok", "evidence"] = "{}"
    rows.to_csv(tmp_path / "other.csv", index=False)
    capsys.readouterr()
    assert predict(folder, "other.csv", "evidence=true", "update=true") == 2
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("update=true: the evidence in the existing rows is another")
    assert len(err) <= 3


@needs_c2pa
def test_a_signature_is_valid_trusted_broken_or_gone(predict, tmp_path):
    from tests.audit.signed_files import make_signer

    signer, other, folder, made = make_signer(), make_signer(), tmp_path / "signed", "trainedAlgorithmicMedia"
    sign = signer.sign
    generated, captured = sign(image(), made), sign(image(), "digitalCapture")
    tampered = bytearray(generated)
    tampered[-20] ^= 1  # a pixel
    Image.open(io.BytesIO(generated)).save(stripped := io.BytesIO(), "JPEG")
    files = {  # the file, the class that is said, and the rules that find something
        "generated": (generated, "generated", "c2pa_generated"),
        "png": (sign(image("PNG"), made, "image/png"), "generated", "c2pa_generated"),
        "edited": (sign(image(), parent=generated, generator="Photo Editor"), "generated", "c2pa_generated"),
        "named": (sign(image(), parent=image(), generator="OpenAI-API"), "generated", "c2pa_generator"),
        "unnamed": (sign(image(), parent=image(), generator=f"Photo Editor; {made}"), "", "c2pa_signed"),
        "captured": (captured, "real", "c2pa_captured"),
        "filled": (sign(image(), made, parent=captured), "", "c2pa_captured c2pa_ai_edited"),
        "drawn": (sign(image(), "digitalCreation"), "drawing", "c2pa_drawn"),
        "composite": (sign(image(exif=CAMERA), COMPOSITE), "", "c2pa_ai_edited camera"),
        "tampered": (bytes(tampered), "", "c2pa_invalid"),
        "stripped": (stripped.getvalue(), "", ""),
    }
    folder.mkdir()
    for name, (data, *_) in files.items():
        (folder / name).write_bytes(data)
    expected = {name: (says, rules.split()) for name, (_, says, rules) in files.items()}
    for trusted in (signer, other):
        (tmp_path / "trust.pem").write_bytes("# of a société\n".encode() + trusted.root)
        assert predict(folder, "out.csv", "evidence=true", f"evidence.trust={tmp_path / 'trust.pem'}") == 0
        evidence = read(tmp_path / "out.csv")
        assert {name: (says, [row["rule"] for row in rows]) for name, (says, rows) in evidence.items()} == expected
        every = [row for _, rows in evidence.values() for row in rows]
        strengths = {row["rule"]: (row["value"].split(": ")[0], row["strength"]) for row in every}
        state = "c2pa:trusted" if trusted is signer else "c2pa:valid"
        assert strengths["c2pa_generated"] == (state, "strong" if trusted is signer else "moderate")
        assert strengths["c2pa_captured"] == (state, "strong" if trusted is signer else "weak")
        assert strengths["c2pa_invalid"] == ("c2pa:invalid", "none")
        assert evidence["png"][1][0]["value"] == f"{state}: trainedAlgorithmicMedia; Image Maker; signed by Test Press"
    # without anyone to trust, the evidence in the existing rows is the same as with another's certificate
    assert predict(folder, "out.csv", "evidence=true", "update=true") == 0
    (tmp_path / "trust.pem").write_bytes(signer.root)
    assert predict(folder, "out.csv", "evidence=true", "update=true", f"evidence.trust={tmp_path / 'trust.pem'}") == 2


@needs_c2pa
def test_no_remote_manifest_is_fetched(predict, tmp_path, monkeypatch):
    from tests.audit.signed_files import make_signer

    (tmp_path / "signed").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/manifest.c2pa"
        both = make_signer().sign(image(), "trainedAlgorithmicMedia", remote=address)
        (tmp_path / "signed" / "both.jpg").write_bytes(both)
        alone = image(xmp=xmp(f'dcterms:provenance="{address}"/>'))
        (tmp_path / "signed" / "alone.jpg").write_bytes(alone)
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socket", None)  # of Python; the server hears of any other
            assert predict(tmp_path / "signed", "out.csv", "evidence=true") == 0
        with pytest.raises(TimeoutError):
            server.accept()
    evidence = read(tmp_path / "out.csv")
    assert (evidence["both.jpg"][0], evidence["alone.jpg"]) == ("generated", ("", []))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evidence.trust=FILE"], "evidence.trust requires evidence=true"),
        (["evidence=true", "evidence.trust=FILE"], "it holds no certificates" if has_c2pa else "needs c2pa-python"),
        (["evidence=true", "evidence.trust=GONE"], "No such file" if has_c2pa else "needs c2pa-python"),
    ],
)
def test_a_wrong_option_is_refused_in_three_lines(words, message, predict, images, tmp_path, capsys):
    (tmp_path / "FILE").write_text("-----BEGIN CERTIFICATE-----\nnone\n")
    words = [word.replace("=FILE", f"={tmp_path / 'FILE'}") for word in words]
    assert predict(images / "blind" / "real", "out.csv", *words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) <= 3
    assert not (tmp_path / "out.csv").exists()

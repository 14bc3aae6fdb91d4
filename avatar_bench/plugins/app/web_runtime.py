"""Runtime that computes a network in a browser: ONNX Runtime Web, from a folder or from npm."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from avatar_bench.errors import ConfigError
from avatar_bench.files.package_files import fetch_npm_archive, read_members

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
# of the package's archive, as npm states it
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_EXPORTS = re.compile(r"\bexport\{([^{}]*)\};?\s*(?://# sourceMappingURL=\S*)?\s*$")
_BANNER = re.compile(r"ONNX Runtime Web v([\w.-]+)")


@dataclass(frozen=True)
class WebRuntime:
    """Script and WebAssembly binary of ONNX Runtime Web."""

    script: str
    binary: bytes

    @property
    def version(self) -> str:
        """Return the version that the script states, "" if none."""
        match = _BANNER.search(self.script)
        return match[1] if match else ""

    @property
    def expression(self) -> str:
        """Return an expression of JavaScript for the script's exports; raise ConfigError if it states none."""
        match = _EXPORTS.search(self.script)
        if match is None or "</script" in self.script.lower():
            raise ConfigError(f"{SCRIPT} is no module that a page can contain.", _EXPECTED)
        names = (name.split(" as ") for name in match[1].split(","))
        exported = ", ".join(f"{name[-1].strip()}: {name[0].strip()}" for name in names)
        return f"(() => {{\n{self.script[: match.start()]}\nreturn {{ {exported} }};\n}})()"


_EXPECTED = f"Expected the files of npm's {PACKAGE}, for example {VERSION}: {SCRIPT} and {BINARY}."


def load_web_runtime(folder: Path | None) -> WebRuntime:
    """Read the runtime from a folder, its subfolder dist, or by default from npm's package, which the cache keeps.

    Raise ConfigError if the folder lacks a file, DataError if npm cannot get the package, or gets another one.
    """
    if folder is None:
        archive = fetch_npm_archive(PACKAGE, VERSION, INTEGRITY, instead="web_runtime=DIR")
        names = {f"package/dist/{name}" for name in (SCRIPT, BINARY)}
        match = {Path(name).name: content for name, content in read_members(archive, names)}
        return WebRuntime(match[SCRIPT].decode(), match[BINARY])
    places = [candidate for candidate in (folder, folder / "dist") if (candidate / SCRIPT).is_file()]
    if not places or not (places[0] / BINARY).is_file():
        raise ConfigError(f"web_runtime={folder} does not contain the runtime of a page.", _EXPECTED)
    try:
        return WebRuntime((places[0] / SCRIPT).read_text(encoding="utf-8"), (places[0] / BINARY).read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"web_runtime={folder} cannot be read: {error}.", _EXPECTED) from error

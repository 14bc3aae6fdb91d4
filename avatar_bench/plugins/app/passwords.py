"""Names and hashed passwords of the people who may use the app, kept in a file."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import stat
from pathlib import Path

from avatar_bench.errors import ConfigError

MIN_CHARACTERS = 12  # of a password
_N, _R, _P = 2**14, 8, 5  # 16 MiB and about 0.2 s a password, as OWASP advises
_LINE = re.compile(rf"(?P<name>[^\s:]+):scrypt\${_N}\${_R}\${_P}\$(?P<salt>[0-9a-f]{{32}})\$(?P<key>[0-9a-f]{{64}})")


def hash_password(name: str, password: str) -> str:
    """Return the line of the password file, NAME:HASH; raise ConfigError for a name that it cannot hold."""
    if not re.fullmatch(r"[^\s:]+", name):
        raise ConfigError(f"hash={name!r}: expected a name without spaces and colons.")
    if len(password) < MIN_CHARACTERS:
        raise ConfigError(f"The password has fewer than {MIN_CHARACTERS} characters.", "Choose a longer one.")
    salt = secrets.token_bytes(16)
    return f"{name}:scrypt${_N}${_R}${_P}${salt.hex()}${_derive_key(password, salt).hex()}"


class Passwords:
    """Passwords by name; what was verified once is known by a keyed digest, which takes no time."""

    def __init__(self, hashes: dict[str, tuple[bytes, bytes]]) -> None:
        self._hashes = hashes
        self._secret = secrets.token_bytes(32)
        self._verified: set[bytes] = set()

    @classmethod
    def read(cls, file: Path) -> Passwords:
        """Read a file with a line NAME:HASH for each person; raise ConfigError for an unsafe or invalid one."""
        try:
            mode = file.stat().st_mode
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise ConfigError(f"auth={file} cannot be read: {reason}.") from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"auth={file} can be read or written by other users.", f"Run: chmod 600 '{file}'")
        hashes = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            if (
                match := _LINE.fullmatch(line.strip())
            ) is None:  # the line may hold a password in clear: it is not shown
                raise ConfigError(
                    f"auth={file}: line {number} is no NAME:HASH. A password in clear is not accepted.",
                    "Make the line by: avatar-bench app hash=NAME",
                )
            hashes[match["name"]] = bytes.fromhex(match["salt"]), bytes.fromhex(match["key"])
        if not hashes:
            raise ConfigError(f"auth={file} has no names.", "Make a line by: avatar-bench app hash=NAME")
        return cls(hashes)

    def is_verified(self, name: str, password: str) -> bool:
        """Return whether a password was found correct before, without deriving a key."""
        return self._digest(name, password) in self._verified

    def verify(self, name: str, password: str) -> bool:
        """Return whether the password is that of the name; takes as long for an unknown name."""
        salt, key = self._hashes.get(name, (b"unknown", b""))
        is_correct = hmac.compare_digest(_derive_key(password, salt), key)
        if is_correct:
            self._verified.add(self._digest(name, password))
        return is_correct

    def _digest(self, name: str, password: str) -> bytes:
        return hmac.digest(self._secret, f"{name}:{password}".encode(errors="surrogatepass"), "sha256")


def _derive_key(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(errors="surrogatepass"), salt=salt, n=_N, r=_R, p=_P, dklen=32)

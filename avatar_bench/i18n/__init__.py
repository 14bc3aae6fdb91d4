"""Translation of texts in figures, reports and messages, from the catalogues of blocks and of this folder."""

from __future__ import annotations

import gettext
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from avatar_bench.config.entries import KINDS, find_entries, find_plugins, find_user_folders
from avatar_bench.errors import ConfigError
from avatar_bench.files.document import read_yaml

_PACKAGE = Path(__file__).parents[1]
LANGUAGES = ("en", "ru")


class Catalogue(gettext.NullTranslations):
    """Translations of one language: from an English text to its translation, or to its plural forms.

    A text with plural forms is found by its English singular. A text that the catalogue lacks stays English.
    """

    def __init__(self, language: str, texts: Mapping[str, str | Sequence[str]]) -> None:
        super().__init__()
        self.language = language
        self.texts = texts

    def gettext(self, message: str) -> str:
        """Return the translation of a text."""
        translation = self.texts.get(message, message)
        return translation if isinstance(translation, str) else translation[0]

    def ngettext(self, msgid1: str, msgid2: str, n: int) -> str:
        """Return the form of a text for the number n, given its English singular and plural."""
        forms = self.texts.get(msgid1)
        if forms is None or isinstance(forms, str):
            return msgid1 if n == 1 else msgid2
        return forms[_choose_russian_form(n)]


_ENGLISH = Catalogue("en", {})
_current: ContextVar[Catalogue] = ContextVar("catalogue", default=_ENGLISH)


def get_language() -> str:
    """Return the current language."""
    return _current.get().language


@contextmanager
def use_language(language: str) -> Iterator[None]:
    """Set the language of `_` inside the `with`."""
    token = _current.set(load_catalogue(language))
    try:
        yield
    finally:
        _current.reset(token)


def _(text: str, **values: object) -> str:
    """Translate an English text into the current language and fill its {placeholders} with `values`."""
    translated = _current.get().gettext(text)
    return translated.format(**values) if values else translated


def ngettext(one: str, many: str, n: int, **values: object) -> str:
    """Translate the form of an English text for the number n, and fill its {placeholders}, {n} among them."""
    return _current.get().ngettext(one, many, n).format(n=n, **values)


def get_title(kind: str, name: str) -> str:
    """Return the title of an entry in the current language; its name if it has none, or is not known here."""
    entry = find_entries(kind).get(name)
    return _(str(entry.about.get("title", name))) if entry else name


def load_catalogue(language: str) -> Catalogue:
    """Load every LANGUAGE.yaml of the package, of plug-ins and of users' entries; the first win. English has none."""
    folders = [*(plugin.folder for plugin in find_plugins().values()), *find_user_folders()]
    return _ENGLISH if language == "en" else _load_catalogue(language, tuple(folders))


@cache
def _load_catalogue(language: str, folders: Sequence[Path]) -> Catalogue:
    shipped = sorted(_PACKAGE.rglob(f"{language}.yaml"))
    users = [file for folder in folders for part in ("", "*/*/") for file in folder.glob(f"{part}{language}.yaml")]
    texts: dict[str, str | Sequence[str]] = {}
    for entry in (entry for kind in KINDS for entry in find_entries(kind).values()):
        translated = entry.about.get(language, {})  # such as {title: TEXT} in the yaml of a corruption
        if not isinstance(translated, dict):
            raise ConfigError(f"{entry.yaml}: {language} is not a mapping, such as title: TEXT.")
        texts |= {entry.about[key]: text for key, text in translated.items() if key in entry.about}
    for file in [*reversed(users), *shipped]:
        stated = read_yaml(file) or {}
        if not isinstance(stated, dict):
            raise ConfigError(f"{file}: expected a mapping of English texts to their translations.")
        texts |= stated
    return Catalogue(language, texts)


def _choose_russian_form(n: int) -> int:
    """Return 0 for 1, 21 ..., 1 for 2 to 4, 22 ..., 2 for all others: Unicode's plural rules for Russian."""
    if n % 10 == 1 and n % 100 != 11:
        return 0
    return 1 if n % 10 in (2, 3, 4) and n % 100 not in (12, 13, 14) else 2

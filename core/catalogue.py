"""gettext catalogues, read from their `.po` files: nothing has to be compiled beforehand."""

from __future__ import annotations

import gettext
import io
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po


def load_catalogue(path: Path, language: str) -> gettext.NullTranslations:
    """The translations of a file; what is written in the code where there is none, as for English."""
    if not path.is_file():
        return gettext.NullTranslations()
    compiled = io.BytesIO()
    with path.open("rb") as file:
        write_mo(compiled, read_po(file, locale=language))
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)

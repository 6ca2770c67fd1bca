"""A file uploader that speaks the session's language: Streamlit's says "Upload" and "20MB per file" in English only."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ui.i18n import _

# Its words have no tokens and no arguments: they shrink to nothing, and ours come after them. Its small buttons do not
# show where the tab key is.
_STYLE = """<style>
.st-key-{key} [data-testid=stFileUploaderDropzone] button p,
.st-key-{key} [data-testid=stFileUploaderDropzoneInstructions] span {{ font-size: 0; }}
.st-key-{key} [data-testid=stFileUploaderDropzone] button p::after,
.st-key-{key} [data-testid=stFileUploaderDropzoneInstructions] span::after {{
  font-size: 0.875rem; white-space: normal;
}}
.st-key-{key} [data-testid=stFileUploaderDropzone] button p::after {{ content: "{choose}"; }}
.st-key-{key} [data-testid=stFileUploaderDropzoneInstructions] span::after {{ content: "{limit}"; }}
.st-key-{key} button[kind=borderlessIcon]:focus-visible {{ outline: 2px solid; outline-offset: 2px; }}
</style>"""


def file_uploader(label: str, *, key: str, limit_mb: int, many: bool = False, **options: Any) -> Any:
    """What `st.file_uploader` gives: one file or None, and with `many` a list of files, each of at most `limit_mb`."""
    st.html(
        _STYLE.format(
            key=key,
            choose=_("Choose files") if many else _("Choose a file"),
            limit=(_("at most {limit} MB each") if many else _("at most {limit} MB")).format(limit=limit_mb),
        )
    )
    return st.file_uploader(label, key=key, max_upload_size=limit_mb, accept_multiple_files=many, **options)

"""Documentation that the gateway serves itself: how to call it, and what each error code means."""

from __future__ import annotations

import html
from functools import cache

from fastapi import APIRouter
from fastapi.responses import HTMLResponse
from markdown_it import MarkdownIt

from core import errors
from core.config import ROOT
from core.errors import VisionMeterError
from gateway.problems import HTTP_STATUS, TITLES

router = APIRouter(include_in_schema=False)

# Codes without a class of their own.
OTHER_CODES = {
    "not_found": (404, "There is nothing at this address."),
    "method_not_allowed": (405, "The address does not take this method."),
    "internal": (500, "Something went wrong on our side; send the request again with the same Idempotency-Key."),
}
# Title, file, the words for the error codes, and the other language.
LANGUAGES = {
    "en": ("VisionMeter: HTTP API", "api.md", "Error codes", "zh-CN"),
    "zh-CN": ("VisionMeter：HTTP API", "api.zh_CN.md", "错误码（英文）", "en"),
}
OWN_NAMES = {"en": "English", "zh-CN": "简体中文"}
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{font-family:ui-monospace,monospace;font-size:.9em}pre{overflow-x:auto;padding:.75rem;border:1px solid}"
    ":root{color-scheme:light dark}html{-webkit-text-size-adjust:100%}*{overflow-wrap:anywhere}"
    "dt{margin-top:1rem;font-weight:600}dd{margin-left:0}table{border-collapse:collapse}td,th{"
    "padding:.25rem .75rem .25rem 0;text-align:left;vertical-align:top}"
)


@router.get("/errors")
def error_codes() -> HTMLResponse:
    """Every code with its status and its meaning; the `type` of a problem document leads here."""
    return HTMLResponse(_errors_page())


@router.get("/docs")
def documentation(lang: str = "en") -> HTMLResponse:
    """`docs/api.md` in a language, and the way to the other one and to the OpenAPI document."""
    return HTMLResponse(_documentation_page("zh-CN" if lang.lower().startswith("zh") else "en"))


@cache
def _documentation_page(language: str) -> str:
    title, file, codes, other = LANGUAGES[language]
    text = (ROOT / "docs" / file).read_text(encoding="utf-8")
    switch = f'<a href="docs?lang={other}" lang="{other}" hreflang="{other}">{OWN_NAMES[other]}</a>'
    links = f'<p><a href="openapi.json">OpenAPI</a> · <a href="errors">{codes}</a> · {switch}</p>'
    return page(title, links + MarkdownIt("commonmark").enable("table").render(text), language)


@cache
def _errors_page() -> str:
    rows = {
        one.code: (HTTP_STATUS.get(one.code, 400), (one.__doc__ or "").replace("`", ""))
        for name in errors.__all__
        if issubclass(one := getattr(errors, name), VisionMeterError)
    }
    rows = {**rows, **OTHER_CODES}
    items = "".join(
        f'<dt id="{html.escape(code)}"><code>{html.escape(code)}</code> · {status} {TITLES.get(status, "")}</dt>'
        f"<dd>{html.escape(' '.join(text.split()))}</dd>"
        for code, (status, text) in sorted(rows.items())
    )
    return page("VisionMeter: error codes", f"<h1>Error codes</h1><dl>{items}</dl>")


def page(title: str, body: str, language: str = "en") -> str:
    """A page without anything from elsewhere."""
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body>{body}</body></html>"
    )

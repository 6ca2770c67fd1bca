"""What kind of browser somebody signed in with, in two words."""

from __future__ import annotations

# The first that is named counts: each of them also names those below it.
_KINDS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("MicroMessenger/", "WeChat"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)
_SYSTEMS = (
    ("Windows", "Windows"),
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("CrOS", "ChromeOS"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)


def describe_browser(user_agent: str) -> str:
    """A `User-Agent` header as `Firefox · Windows`; empty when neither is known. No version, nothing else of it."""
    words = [next((name for sign, name in names if sign in user_agent), "") for names in (_KINDS, _SYSTEMS)]
    return " · ".join(filter(None, words))

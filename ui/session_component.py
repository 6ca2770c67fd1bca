"""A component without a face: posts a sign-in ticket to `/session`, or ends the session there.

Streamlit cannot set cookies, and a cookie that scripts can set, scripts can read. So the page's script only
carries a single-use ticket; the cookie itself comes from the gateway and is `HttpOnly`.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

_JS = """
let handled = null;

export default function (component) {
  const { data, setTriggerValue } = component;
  if (!data || data.nonce === handled) return;
  handled = data.nonce;
  if (data.language) {
    document.documentElement.lang = data.language.replace("_", "-");
    document.cookie =
      `${data.cookie}=${data.language}; path=/; max-age=31536000; SameSite=Lax`;
    return;
  }
  if (data.address) {
    window.location.assign(new URL(data.address, window.location.origin));
    return;
  }
  fetch(new URL("/session", window.location.origin), {
    method: data.method,
    credentials: "same-origin",
    headers: { "Content-Type": "application/json" },
    body: data.method === "POST" ? JSON.stringify({ ticket: data.ticket }) : undefined,
  })
    .then((response) => {
      if (!response.ok) throw new Error(String(response.status));
      if (data.method === "POST") window.location.reload();
    })
    .catch(() => setTriggerValue("failed", true));
}
"""


@st.cache_resource(show_spinner=False)
def _component() -> Any:
    return st.components.v2.component("visionmeter_session", js=_JS)


def carry_ticket(ticket: str) -> bool:
    """Exchange a ticket for the cookie and reload the page; True when that failed."""
    result = _component()(
        key="session_ticket",
        data={"method": "POST", "ticket": ticket, "nonce": ticket},
        on_failed_change=lambda: None,
        height=1,
    )
    return bool(result.failed)


def clear_cookie(nonce: str) -> None:
    """Let the gateway delete the cookie."""
    _component()(
        key="session_clear",
        data={"method": "DELETE", "nonce": nonce},
        on_failed_change=lambda: None,
        height=1,
    )


def open_address(path: str, *, nonce: str) -> None:
    """Leave the portal for a path of this host, in this tab; a link of Streamlit opens another one."""
    _component()(key="session_address", data={"address": path, "nonce": nonce}, height=1)


def remember_language(cookie: str, language: str) -> None:
    """Tell the browser the language of the page, and keep it in a cookie, so that the sign-in page speaks it too."""
    _component()(
        key="session_language",
        data={"cookie": cookie, "language": language, "nonce": f"language {language}"},
        height=1,
    )

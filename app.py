"""The launcher: one ASGI application with the portal and the HTTP gateway side by side.

`streamlit run app.py` and `uvicorn app:app` serve the same thing. The portal's main script is `ui/portal.py`,
on purpose not this file: a `pages/` folder beside the main script switches on Streamlit's page discovery,
which on a cold server runs a deep-linked page without any login (docs/adr/0003).
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import streamlit as st  # noqa: E402  # the path comes first: Streamlit imports the pages by name
from starlette.middleware import Middleware  # noqa: E402

from gateway.guard import PortalGuard  # noqa: E402
from gateway.headers import SecurityHeaders  # noqa: E402  # the path comes first
from gateway.main import gateway_routes, lifespan  # noqa: E402  # the path comes first
from gateway.observe import Observe  # noqa: E402  # the path comes first
from gateway.oidc import oidc_routes  # noqa: E402  # the path comes first
from gateway.session import session_routes  # noqa: E402
from ui.messages import show_script_error  # noqa: E402

app = st.App(
    str(ROOT / "ui" / "portal.py"),
    lifespan=lifespan,
    routes=[*oidc_routes(), *session_routes(), *gateway_routes()],
    middleware=[Middleware(Observe), Middleware(SecurityHeaders), Middleware(PortalGuard)],
    on_script_error=show_script_error,
)

"""The launcher: one ASGI application with the portal and the HTTP gateway side by side.

`streamlit run app.py` and `uvicorn app:app` serve the same thing. The portal's main script is `ui/portal.py`,
on purpose not this file: a `pages/` folder beside the main script switches on Streamlit's page discovery,
which on a cold server runs a deep-linked page without any login (docs/adr/0003).
"""

import gc
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import streamlit as st  # noqa: E402  # the path comes first: Streamlit imports the pages by name
from starlette.middleware import Middleware  # noqa: E402
from starlette.routing import Mount  # noqa: E402

from core.config import load_settings  # noqa: E402
from core.logs import configure_logging  # noqa: E402
from core.services import application  # noqa: E402
from core.services.job_runner import JobRunner  # noqa: E402
from gateway.guard import PortalGuard  # noqa: E402
from gateway.main import create_api  # noqa: E402
from gateway.session import session_routes  # noqa: E402
from ui.messages import show_script_error  # noqa: E402

log = logging.getLogger("visionmeter")


@asynccontextmanager
async def lifespan(_app: Any) -> AsyncIterator[dict[str, Any]]:
    """Open the database, start the engine and the runner; stop them in reverse."""
    settings = load_settings()
    configure_logging(settings)
    vision_meter = application.open_application(settings)
    vision_meter.engine.start()
    application.warm_models(vision_meter)
    runner = JobRunner(vision_meter)
    runner.start()
    application.set_current(vision_meter)
    # Streamlit runs a full collection after every script run. What is loaded by now never becomes garbage,
    # so it is taken out of the collector's sight (bench/rerun_latency.py shows what that is worth).
    gc.collect()
    if settings.gc_freeze:
        gc.freeze()
    log.info("VisionMeter is ready; models run on %s", vision_meter.engine.device_name)
    try:
        yield {}
    finally:
        runner.stop()
        vision_meter.engine.stop()
        application.set_current(None)
        vision_meter.close()


app = st.App(
    str(ROOT / "ui" / "portal.py"),
    lifespan=lifespan,
    routes=[*session_routes(), Mount("/v1", create_api())],
    middleware=[Middleware(PortalGuard)],
    on_script_error=show_script_error,
)

"""Detect: choose pictures, see the price, run, look at the boxes."""

import streamlit as st

from core.errors import ImageUnsupportedError, VisionMeterError
from core.geometry import IMG_SIZES_PX
from core.inference.registry import ModelState
from core.services import account_view, admin
from core.services.advisor import find_open_advice
from core.services.application import current
from core.services.picture_sources import fetch_picture
from core.tiles import TILES_PX
from ui.advisor import show_advice, show_advisor
from ui.batch import SAMPLES, add_fetched, clear_batch, collect, has_restored
from ui.budget import show_budget
from ui.format import local_time, plain, task_words, tile_words, tokens
from ui.i18n import _, ngettext
from ui.job_view import show_job
from ui.messages import explain
from ui.opened import open_run, opened_advice, opened_run
from ui.preview import show_preview
from ui.session import require_user
from ui.uploader import file_uploader

OTHERS_SHOWN = 5

user = require_user()
app = current()

st.title(_("Detect"))
reason = account_view.find_freeze_reason(app, user)
if reason is not None:
    st.warning(
        _("This account is frozen: it cannot spend. Money still comes in. The reason given: {reason}").format(
            reason=plain(reason)
        ),
        icon=":material/ac_unit:",
    )
models = admin.list_models(app)
ready = {view.model.name: view.model for view in models if view.state is ModelState.READY}
prices = account_view.get_prices(app)
batch = st.session_state.setdefault("batch_number", 0)

if not ready:
    st.error(
        _("No model is installed on this machine: the operator adds one in Admin → Models."),
        icon=":material/deployed_code_alert:",
    )
    st.stop()

uploads = file_uploader(
    _("Drop photographs here, many at once"),
    many=True,
    key=f"uploads_{batch}",
    limit_mb=max(1, app.settings.image_bytes_max // 1_000_000),
    help=_("JPEG, PNG, WebP, BMP or TIFF, or a ZIP of them."),
)
samples = st.pills(_("Or try a sample"), SAMPLES, selection_mode="multi", key=f"samples_{batch}")
with st.expander(_("Or from an address, or the camera"), icon=":material/add_link:", key="other_sources"):
    with (
        st.form("fetch_picture", border=False),
        st.container(horizontal=True, vertical_alignment="bottom"),
    ):
        if st.session_state.pop("fetched", False):
            st.session_state["fetch_address"] = ""
        address = st.text_input(_("Address of a picture"), placeholder="https://", max_chars=4096, key="fetch_address")
        if st.form_submit_button(_("Add"), icon=":material/add_link:") and address.strip():
            with st.spinner(_("Fetching …")):
                try:
                    add_fetched(*fetch_picture(app, require_user(), address))
                except ImageUnsupportedError:
                    st.error(_("There is no picture at this address: name the file itself, not a page that shows it."))
                except VisionMeterError as error:
                    st.error(explain(error))
                else:
                    st.session_state["fetched"] = True
                    st.rerun()
    # The browser asks for the camera as soon as it is shown.
    if st.toggle(_("Use the camera"), key=f"with_camera_{batch}"):
        shot = st.camera_input(_("Take a picture"), key=f"camera_{batch}")
        if shot is not None:
            uploads = [*uploads, shot]
left, right = st.columns(2)
model = left.selectbox(
    _("Model"),
    list(ready),
    format_func=lambda name: " · ".join(
        (
            ready[name].title,
            task_words(ready[name].task),
            f"β {prices.betas.get(name, '—')}",
            _(ready[name].classes),
        )
    ),
    key="model",
)
# No `value`: Fit my budget and the advisor put their own choice there.
st.session_state.setdefault("img_size", 640)
img_size = right.select_slider(_("Size of the longer side (px)"), IMG_SIZES_PX, key="img_size")
has_boxes_only = ready[model].task == "detect"
chosen_px = st.selectbox(
    _("Tiles for small objects"),
    [0, *TILES_PX],
    format_func=lambda side: tile_words(side) if side else _("no tiles"),
    key="tile_px",
    disabled=not has_boxes_only,
    help=_(
        "Objects of a few pixels vanish when a large picture is made small for the model. With tiles, the picture is "
        "also cut into overlapping squares, and each is run like a picture of its own: more is found, and more pixels "
        "are paid for. The price is shown before."
    ),
)
tile_px = (chosen_px or None) if has_boxes_only else None
others = [view.model.title for view in models if view.model.name not in ready]
st.caption(
    _("Runs on {device}.").format(device=app.engine.device_name)
    + (
        " "
        + (
            _("Not installed here: {models} and others.")
            if len(others) > OTHERS_SHOWN
            else _("Not installed here: {models}.")
        ).format(models=", ".join(others[:OTHERS_SHOWN]))
        if others
        else ""
    )
)

candidates = collect(uploads, samples)
show_budget(candidates, ready[model].task)
if candidates:
    if has_restored():
        st.button(_("Clear these pictures"), icon=":material/close:", on_click=clear_batch)
    show_preview(candidates, model, img_size, tile_px)
show_advisor(candidates, model, img_size, tile_px)

jobs = account_view.list_jobs(app, user, limit=10)
job_id, advice_id = opened_run(), opened_advice()
if job_id is None and advice_id is None:
    # Somebody who closed the tab in the middle of a run finds it again.
    job_id = next((job.id for job, _progress in jobs if job.status != "finished"), None)
    st.session_state["job_id"] = job_id
    if job_id is None:
        advice_id = st.session_state["advice_id"] = find_open_advice(app, user)
if advice_id is not None:
    st.divider()
    show_advice(advice_id)
if job_id is not None:
    st.divider()
    show_job(job_id)
if not candidates and not jobs and job_id is None and advice_id is None:
    st.info(
        _("Drop a photograph above, or click a sample: the exact price appears before anything runs."),
        icon=":material/lightbulb:",
    )

if jobs:
    with st.expander(_("Earlier runs"), icon=":material/history:"):
        for job, progress in jobs:
            label = " · ".join(
                [
                    local_time(job.created_at),
                    job.model,
                    ngettext("{n} picture", "{n} pictures", progress.total),
                    tokens(progress.charged_mt),
                ]
            )
            if st.button(label, key=f"open_{job.id}", width="stretch", disabled=job.id == job_id):
                open_run(job.id)
                st.rerun()

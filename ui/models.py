"""Admin, Models: what there is and what it earns, versions and ways back, new weights for a share, and a new model."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation

import streamlit as st

from core.errors import VisionMeterError
from core.inference.backends.probe import ProbeReport
from core.inference.canaries import PERCENT_MAX
from core.inference.catalogue import NAME_LENGTH_MAX, TITLE_LENGTH_MAX
from core.inference.registry import ModelState
from core.services import admin, models
from core.services.application import current
from core.services.model_overview import Margins, ModelLine, list_overview
from core.services.models import ModelDesk, VersionView
from ui.format import local_time, plain, table_time
from ui.i18n import _
from ui.messages import explain
from ui.session import require_operator
from ui.uploader import file_uploader
from ui.weights_words import explain_to_operator, loss_words

# What Streamlit takes at most (.streamlit/config.toml).
UPLOAD_MB_MAX = 500
CANARY_PERCENT_DEFAULT = 5


def show_models() -> None:
    """All models; the chosen one with its versions and what can be done to it; a form for another one."""
    app = current()
    if done := st.session_state.pop("models_done", None):
        st.success(done, icon=":material/check_circle:")
    overview = list_overview(app.db, app.registry, app.settings.data_dir)
    # What is installed first: most of those that could be are not.
    lines = sorted(overview.lines, key=lambda line: line.state is not ModelState.READY)
    backends = app.engine.backends
    event = st.dataframe(
        [
            {
                _("Model"): line.model.title,
                _("Name"): line.model.name,
                _("State"): _state_words(line),
                "β": "—" if line.beta is None else str(line.beta),
                **(_margin_cells(line) if overview.margins is not None else {}),
                _("Computes in"): backends.get(line.version.sha256, "") if line.version else "",
                _("Version"): line.version.version if line.version else "",
                _("File"): app.registry.weights_path(line.model).name,
            }
            for line in lines
        ],
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        # A selection is a list of row numbers: it must not outlive the list that it was made on.
        key=f"models_{hash(tuple(line.model.name for line in lines))}",
    )
    st.caption(_margin_words(overview.margins))
    if app.backends_measured is not None:
        st.caption(_backend_words(app.backends_measured))
    if event.selection.rows:
        _show_model(lines[event.selection.rows[0]])
    else:
        st.caption(_("Select a model to see its versions, change its weights or retire it."))
    _show_fetch([line.model.name for line in overview.lines if line.state is ModelState.FETCHABLE])
    with st.expander(_("Add a model"), icon=":material/add:"):
        _show_add()


def _backend_words(report: ProbeReport) -> str:
    """What was measured at start, the fastest first."""
    taken = sorted((one for one in report.measured if one.ms is not None), key=lambda one: one.ms or 0)
    words = _("Measured at start, milliseconds for a picture of 640 × 640: {times}. {backend} serves.").format(
        times=", ".join(f"{one.backend} {one.ms}" for one in taken), backend=report.chosen
    )
    problems = [f"{one.backend} ({plain(one.problem)})" for one in report.measured if one.problem is not None]
    return words + (" " + _("Not taken: {backends}.").format(backends=", ".join(problems)) if problems else "")


def _margin_cells(line: ModelLine) -> dict[str, str]:
    margin = line.margin
    return {
        _("Measured β"): f"{margin.beta:.2f}" if margin else "",
        _("Margin"): f"{margin.margin:+.0%}" if margin else "",
    }


def _state_words(line: ModelLine) -> str:
    if line.is_retired:
        return _("retired")
    if line.problem is not None:
        return explain(line.problem)
    if line.canary is not None:
        return _("canary {percent} %").format(percent=line.canary.percent)
    states = {
        ModelState.READY: _("ready"),
        ModelState.FETCHABLE: _("can be fetched"),
        ModelState.MISSING: _("missing"),
    }
    return states[line.state]


def _margin_words(margins: Margins | None) -> str:
    if margins is None:
        return _("What each model earns is not known here yet: run {command} on an idle machine.").format(
            command="`visionmeter calibrate`"
        )
    return _("Margin: the list price above (+) or below (−) the compute measured on {device} at {time}.").format(
        device=plain(margins.device), time=local_time(margins.measured_at)
    )


# One model ----------------------------------------------------------------------------------------


def _show_model(line: ModelLine) -> None:
    name, title = line.model.name, plain(line.model.title)
    st.subheader(title)
    versions = models.list_versions(_desk(), name)
    chosen = _show_versions(name, versions)
    with st.container(horizontal=True):
        if st.button(
            _("Roll back"), icon=":material/undo:", disabled=chosen is None or chosen.served, key=f"back_{name}"
        ) and (chosen is not None):
            version = chosen.version.version
            _ask(
                _("Roll back"),
                _("Put version {version} of {model} in service again?").format(version=version, model=title),
                lambda: models.roll_back(_desk(), name, version),
                _("{model} goes back to version {version} as soon as it is warm.").format(model=title, version=version),
            )
        if line.model.sha256 is None and st.button(
            _("Replace the weights"), icon=":material/upload_file:", key=f"replace_{name}"
        ):
            st.dialog(_("Replace the weights"))(_replace_dialog)(name, title)
        if line.is_retired:
            if st.button(_("Offer it again"), icon=":material/visibility:", key=f"offer_{name}"):
                _ask(
                    _("Offer it again"),
                    _("Offer {model} to customers again?").format(model=title),
                    lambda: models.offer_model(_desk(), name),
                    _("{model} is offered again.").format(model=title),
                )
        elif st.button(_("Retire"), icon=":material/visibility_off:", key=f"retire_{name}"):
            _ask(
                _("Retire"),
                _("Offer {model} no longer? What was quoted still runs; results and receipts stay.").format(
                    model=title
                ),
                lambda: models.retire_model(_desk(), name),
                _("{model} is no longer offered.").format(model=title),
            )
    if line.model.sha256 is not None:
        st.caption(_("The weights of this model come with the installation and cannot be others."))
    elif line.version is not None:
        _show_canary(line, title)


def _show_versions(name: str, versions: list[VersionView]) -> VersionView | None:
    """The kept versions; the one that is selected."""
    if not versions:
        st.info(_("No version of this model was in service yet: put its weights in place."))
        return None
    event = st.dataframe(
        [
            {
                _("Version"): view.version.version,
                _("In service since"): table_time(view.used_at),
                _("State"): _version_words(view),
            }
            for view in versions
        ],
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key=f"versions_{name}_{hash(tuple(view.version.sha256 for view in versions))}",
    )
    for view in versions:
        if view.manifest is not None:
            st.caption(loss_words(view.version.version, view.manifest, origin_known=view.origin_known))
    if not event.selection.rows:
        st.caption(_("Select an earlier version to roll back to it."))
        return None
    return versions[event.selection.rows[0]]


def _version_words(view: VersionView) -> str:
    if view.served:
        return _("served")
    return _("canary {percent} %").format(percent=view.canary_percent) if view.canary_percent else ""


def _show_canary(line: ModelLine, title: str) -> None:
    name, canary = line.model.name, line.canary
    if canary is None:
        if st.button(_("Try new weights on a share"), icon=":material/science:", key=f"canary_{name}"):
            st.dialog(_("Try new weights on a share"))(_canary_dialog)(name, title)
        return
    version = canary.sha256[:12]
    st.markdown(
        _("{percent} % of the accounts meet version {version}, always the same ones.").format(
            percent=canary.percent, version=version
        )
    )
    with st.container(horizontal=True):
        if st.button(_("Give it to everybody"), icon=":material/done_all:", key=f"promote_{name}"):
            _ask(
                _("Give it to everybody"),
                _("Let everybody meet version {version} of {model}?").format(version=version, model=title),
                lambda: models.promote(_desk(), name),
                _("Everybody meets version {version} of {model}.").format(version=version, model=title),
            )
        if st.button(_("Change the share"), icon=":material/percent:", key=f"share_{name}"):
            st.dialog(_("Change the share"))(_share_dialog)(name, title, canary.percent)
        if st.button(_("Stop trying it"), icon=":material/block:", key=f"stop_{name}"):
            _ask(
                _("Stop trying it"),
                _("Let nobody meet version {version} of {model} any more?").format(version=version, model=title),
                lambda: models.stop_canary(_desk(), name),
                _("Nobody meets version {version} of {model} any more.").format(version=version, model=title),
            )


# What is asked before it is done ----------------------------------------------------------------------


def _desk() -> ModelDesk:
    """Asked for at each deed: who was an operator when the page was drawn may be none any more."""
    return models.open_desk(current(), require_operator())


def _ask(title: str, question: str, act: Callable[[], object], done: str) -> None:
    def dialog() -> None:
        st.markdown(f"**{question}**")
        with st.container(horizontal=True):
            confirmed = st.button(title, type="primary", key="models_confirm")
            if st.button(_("Back"), key="models_back"):
                st.rerun()
        if confirmed:
            _do(act, done)

    st.dialog(title)(dialog)()


def _do(act: Callable[[], object], done: str) -> None:
    try:
        with st.spinner(_("Trying the weights …")):
            act()
    except VisionMeterError as error:
        st.error(explain_to_operator(error))
    else:
        st.session_state["models_done"] = done
        st.rerun()


def _weights_input() -> bytes | None:
    limit = max(1, min(UPLOAD_MB_MAX, current().settings.weights_bytes_max // 1_000_000))
    upload = file_uploader(
        _("Weights of Ultralytics, as .onnx (preferred) or .pt, or quantized as .openvino"),
        type=["onnx", "openvino", "pt"],
        key="weights_upload",
        limit_mb=limit,
    )
    return upload.getvalue() if upload is not None else None


def _percent_input(value: int) -> int:
    return int(st.number_input(_("Share of the accounts, in percent"), 1, PERCENT_MAX, value))


def _replace_dialog(name: str, title: str) -> None:
    with st.form("replace_weights", border=False):
        st.markdown(
            _(
                "The file is tried first. Then new quotes of {model} name its version, and what was quoted before runs "
                "with the old one."
            ).format(model=title)
        )
        weights = _weights_input()
        if not st.form_submit_button(_("Replace the weights"), type="primary"):
            return
    if weights is None:
        st.error(_("Choose a file."))
        return
    _do(
        lambda: models.replace_weights(_desk(), name, weights),
        _("The new weights of {model} are served as soon as they are warm.").format(model=title),
    )


def _canary_dialog(name: str, title: str) -> None:
    with st.form("start_canary", border=False):
        st.markdown(
            _("The file is tried first. Then this share of the accounts meets it in new quotes of {model}.").format(
                model=title
            )
        )
        weights = _weights_input()
        percent = _percent_input(CANARY_PERCENT_DEFAULT)
        if not st.form_submit_button(_("Try it on this share"), type="primary"):
            return
    if weights is None:
        st.error(_("Choose a file."))
        return
    _do(
        lambda: models.start_canary(_desk(), name, weights, percent=percent),
        _("{percent} % of the accounts meet the new weights of {model}.").format(percent=percent, model=title),
    )


def _share_dialog(name: str, title: str, percent_now: int) -> None:
    with st.form("change_share", border=False):
        percent = _percent_input(percent_now)
        if not st.form_submit_button(_("Change the share"), type="primary"):
            return
    _do(
        lambda: models.start_canary(_desk(), name, None, percent=percent),
        _("{percent} % of the accounts meet the new weights of {model}.").format(percent=percent, model=title),
    )


# More models ----------------------------------------------------------------------------------------


def _show_add() -> None:
    with st.form("add_model", border=False):
        left, middle, right = st.columns(3)
        name = left.text_input(_("Name for programs"), max_chars=NAME_LENGTH_MAX, placeholder=_("such as helmets-2"))
        title = middle.text_input(_("Title for people"), max_chars=TITLE_LENGTH_MAX)
        beta = right.text_input(_("β in the price list"), max_chars=12, placeholder="1.0")
        weights = _weights_input()
        st.caption(
            _(
                "The file is looked into and tried before anything is changed. The model is then offered to everybody, "
                "under a new version of the price list."
            )
        )
        if not st.form_submit_button(_("Add the model"), type="primary"):
            return
    try:
        rate = Decimal(beta.strip())
    except InvalidOperation:
        rate = Decimal(0)  # which is refused in words
    if weights is None:
        st.error(_("Choose a file."))
        return
    _do(
        lambda: models.add_model(_desk(), name=name.strip(), title=title, weights=weights, beta=rate),
        _("{model} is offered at β {beta}.").format(model=plain(title.strip()), beta=rate),
    )


def _show_fetch(fetchable: list[str]) -> None:
    app = current()
    st.caption(
        _("Put weights into the folder {folder}, or fetch published ones:").format(folder=app.settings.weights_dir)
    )
    if not fetchable:
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox(_("Model"), fetchable, key="fetch_model", width=240)
        if not st.button(_("Fetch"), icon=":material/cloud_download:"):
            return
        with st.spinner(_("Fetching …")):
            try:
                admin.fetch_model(app, require_operator(), name)
            except VisionMeterError as error:
                st.error(
                    explain_to_operator(error)
                    if error.code == "weights_refused"
                    else _(
                        "{name} could not be fetched from here: download it elsewhere and put it into {folder}."
                    ).format(name=app.registry.get(name).file, folder=app.settings.weights_dir)
                )
            else:
                st.rerun()

"""A run: its progress while it lasts, then settlement, pictures with boxes, tables and downloads."""

from __future__ import annotations

import json
from collections.abc import Callable

import streamlit as st

from core.db import utcnow
from core.errors import VisionMeterError
from core.inference.detections import CONFIDENCE_STORED_MIN, Detections
from core.inference.draw import draw_detections
from core.inference.exports import FORMATS_OF_BOXES, Labelled
from core.inference.images import encode_jpeg, encode_png
from core.jobs.tables import JobImage
from core.services import account_view
from core.services.account_view import JobView
from core.services.application import current
from core.services.job_runner import cancel_job
from core.services.run_exports import Picture, write_coco, write_csv, write_json, zip_drawn, zip_labels
from ui.batch import restore
from ui.comparison import show_comparison
from ui.format import local_time, plain, show_amount, tile_words, tokens
from ui.i18n import _, ngettext
from ui.messages import explain, explain_code
from ui.pictures import SHOWN_PX, stored_pixels
from ui.session import may, require_user

POLL_S = 0.7
PER_PAGE = 6
CONFIDENCE_DEFAULT = 0.25


def show_job(job_id: str) -> None:
    """One run of the account, by id."""
    try:
        view = account_view.get_job(current(), require_user(), job_id)
    except VisionMeterError as error:
        st.error(explain(error))
        return
    st.subheader(
        _("Run of {time} · {model} at {size}").format(
            time=local_time(view.job.created_at), model=view.job.model, size=view.job.img_size
        )
        + (" · " + tile_words(view.job.tile_px) if view.job.tile_px else "")
    )
    if view.job.status != "finished":
        st.fragment(_show_progress, run_every=POLL_S)(job_id)
        return
    if st.session_state.get("jobs_seen_id") != job_id:
        # The finished run may have made pictures of the batch free: let the preview ask again.
        st.session_state["jobs_seen_id"] = job_id
        st.session_state["jobs_seen"] = st.session_state.get("jobs_seen", 0) + 1
    _show_settlement(view)
    st.fragment(_show_results)(job_id)


def _show_progress(job_id: str) -> None:
    view = account_view.get_job(current(), require_user(), job_id)
    if view.job.status == "finished":
        st.rerun()
    progress = view.progress
    text = _("{done} of {total} pictures").format(done=progress.done, total=progress.total)
    if progress.done:
        elapsed_s = (utcnow() - view.job.created_at).total_seconds()
        left_s = elapsed_s / progress.done * (progress.total - progress.done)
        text += " · " + ngettext("about {n} second left", "about {n} seconds left", max(1, round(left_s)))
    st.progress(progress.done / progress.total, text=text)
    st.caption(
        _("Held: {held} · charged so far: {charged}. The run goes on if you leave this page.").format(
            held=tokens(progress.held_mt), charged=tokens(progress.charged_mt)
        )
    )
    may_cancel = may(require_user(), "member")
    label = _("Cancel what has not started")
    if st.button(label, icon=":material/cancel:", key=f"cancel_{job_id}", disabled=not may_cancel):
        returned_mt = cancel_job(current(), require_user(), job_id)
        st.toast(_("Given back: {amount}").format(amount=tokens(returned_mt)))
    st.dataframe(
        [{_("Picture"): image.name, _("State"): state_words(image.status)} for image in view.images],
        hide_index=True,
        height="auto" if len(view.images) <= PER_PAGE else 260,
    )


def state_words(status: str) -> str:
    """The state of a picture or the outcome of a record, in words."""
    words = {
        "queued": _("waiting"),
        "running": _("running"),
        "charged": _("charged"),
        "free": _("free"),
        "failed": _("failed — given back"),
        "cancelled": _("cancelled — given back"),
        "interrupted": _("interrupted — given back"),
    }
    return words.get(status, status)


def _show_settlement(view: JobView) -> None:
    progress = view.progress
    with st.container(border=True):
        charged, free, back, *refunded = st.columns(4 if view.refunded_mt else 3)
        show_amount(charged, _("Charged"), progress.charged_mt)
        free.metric(_("Free pictures"), progress.counts.get("free", 0))
        show_amount(back, _("Given back"), progress.given_back_mt)
        if refunded:
            show_amount(refunded[0], _("Refunded"), view.refunded_mt)
    unpaid = [image for image in view.images if image.status in ("failed", "cancelled", "interrupted")]
    if not unpaid:
        return
    reasons = {}
    for image in unpaid:
        reasons.setdefault(_reason(image), []).append(image.name)
    for reason, names in reasons.items():
        shown = ", ".join(plain(name) for name in names[:5]) + (" …" if len(names) > 5 else "")
        st.warning(f"**{shown}** — {reason}", icon=":material/undo:")
    if st.button(
        ngettext("Preview {n} picture again", "Preview {n} pictures again", len(unpaid)),
        icon=":material/replay:",
        key=f"again_{view.job.id}",
    ):
        user = require_user()
        restored = []
        for image in unpaid:
            try:
                restored.append((image.name, account_view.get_file(current(), user, image)))
            except OSError:
                st.error(_("{name} is not stored any more: upload it again.").format(name=plain(image.name)))
        restore(restored)
        st.rerun()


def _reason(image: JobImage) -> str:
    if image.status == "cancelled":
        return _("You cancelled before this picture ran. Nothing was taken.")
    return explain_code(image.error_code or ("restart" if image.status == "interrupted" else None))


def _show_results(job_id: str) -> None:
    user = require_user()
    view = account_view.get_job(current(), user, job_id)
    done = [image for image in view.images if image.is_answered]
    if not done:
        return
    found = {}
    for image in done:
        detections = account_view.get_detections(current(), user, image.charge_key)
        if detections is not None:
            found[image.id] = detections
    classes = sorted({name for detections in found.values() for name in detections.names.values()})
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    confidence = left.slider(
        _("Confidence at least"),
        CONFIDENCE_STORED_MIN,
        0.95,
        CONFIDENCE_DEFAULT,
        0.05,
        key="confidence",
        help=_("Free: all detections are stored, this only filters them."),
    )
    with right:
        shown_classes = st.pills(
            _("Classes"), classes, default=classes, selection_mode="multi", key=f"classes_{job_id}"
        )
    of_pictures = any(detections.whole_picture for detections in found.values())
    with_boxes = st.toggle(_("Show classes") if of_pictures else _("Show boxes"), value=True, key="with_boxes")
    kept = {
        image_id: detections.filter(confidence_min=confidence, classes=set(shown_classes))
        for image_id, detections in found.items()
    }
    total = sum(len(detections) for detections in kept.values())
    counts = _sum_counts(kept)
    words = ngettext("{n} class", "{n} classes", total) if of_pictures else ngettext("{n} object", "{n} objects", total)
    st.markdown(f"**{words}**" + "".join(f" · {plain(name)} {count:,}" for name, count in counts.items()))
    pages = -(-len(done) // PER_PAGE)
    number = 1
    if pages > 1:
        number = st.pagination(pages, key=f"page_{job_id}")
    # A single picture would fill the whole screen: it gets three fifths.
    columns = st.columns(2) if len(done) > 1 else st.columns([3, 2])[:1]
    for index, image in enumerate(done[(number - 1) * PER_PAGE : number * PER_PAGE]):
        with columns[index % len(columns)], st.container(border=True):
            _show_image(user.account_id, image, kept[image.id], confidence, tuple(shown_classes), with_boxes)
    show_comparison(job_id, confidence, tuple(name for name in classes if name not in shown_classes))
    _show_downloads(
        job_id,
        [
            Picture(Labelled(image.name, image.width, image.height, kept[image.id]), image.file_sha256)
            for image in done
            if image.id in kept
        ],
    )


def _show_downloads(job_id: str, pictures: list[Picture]) -> None:
    """Everything of a run, in the formats of other tools; each is made when it is clicked."""
    st.markdown(f"**{_('Download all')}**")
    st.caption(_("As they are shown: at this confidence, with these classes."))
    user = require_user()
    makers: dict[str, tuple[str, Callable[[], str | bytes], str, str]] = {
        "drawn": (_("Drawn pictures (ZIP)"), lambda: zip_drawn(current(), user, pictures), "zip", "application/zip"),
        "json": (_("All detections as JSON"), lambda: write_json(pictures), "json", "application/json"),
        "csv": ("CSV", lambda: write_csv(pictures), "csv", "text/csv"),
        "coco": ("COCO", lambda: write_coco(pictures), "json", "application/json"),
        "yolo": (_("YOLO labels (ZIP)"), lambda: zip_labels(pictures), "zip", "application/zip"),
    }
    if any(picture.labelled.detections.whole_picture for picture in pictures):
        st.caption(
            _("COCO and YOLO labels have a box for each object: they do not apply to classes of whole pictures.")
        )
        makers = {kind: maker for kind, maker in makers.items() if kind not in FORMATS_OF_BOXES}
    with st.container(horizontal=True):
        for kind, (label, make, ending, mime) in makers.items():
            st.download_button(
                label,
                data=make,
                file_name=f"{job_id}.{ending}" if kind in ("json", "csv") else f"{job_id}-{kind}.{ending}",
                mime=mime,
                icon=":material/download:",
                key=f"all_{kind}_{job_id}",
                on_click="ignore",
            )


def _sum_counts(kept: dict[str, Detections]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for detections in kept.values():
        for name, count in detections.counts().items():
            counts[name] = counts.get(name, 0) + count
    return counts


def _show_image(
    account_id: str,
    image: JobImage,
    detections: Detections,
    confidence: float,
    classes: tuple[str, ...],
    with_boxes: bool,
) -> None:
    try:
        picture = _shown_jpeg(account_id, image.file_sha256, image.charge_key, confidence, classes, with_boxes)
    except OSError:
        st.warning(_("{name} is not stored any more: upload it again.").format(name=plain(image.name)))
        return
    counts = ", ".join(f"{name} {count}" for name, count in detections.counts().items()) or _("nothing found")
    st.image(
        picture,
        width="stretch",
        caption=f"{plain(image.name)} — {counts}",
        alt=_("{name}, with what was found in it: {counts}").format(name=image.name, counts=counts),
    )
    price = _("free") if image.status == "free" else tokens(image.amount_mt)
    st.caption(f"{image.width} × {image.height} px · {price} · {image.model_ms or 0} ms")
    if image.returned_mt:
        st.caption(
            ":material/undo: "
            + _("Some tiles of this picture failed: {amount} given back.").format(amount=tokens(image.returned_mt))
        )
    with st.expander(_("Detections and downloads")):
        st.dataframe(
            [
                {
                    _("Class"): item["name"],
                    _("Confidence"): item["confidence"],
                    **item.get("box", {}),
                }
                for item in detections.to_json()
            ],
            hide_index=True,
        )
        stem = image.name.rsplit(".", 1)[0]
        with st.container(horizontal=True):
            st.download_button(
                "PNG",
                data=lambda: _full_png(account_id, image.file_sha256, detections),
                file_name=f"{stem}-detections.png",
                mime="image/png",
                key=f"png_{image.id}",
                on_click="ignore",
            )
            st.download_button(
                "JSON",
                data=json.dumps({"image": image.name, "predictions": detections.to_json()}, indent=2),
                file_name=f"{stem}.json",
                mime="application/json",
                key=f"json_{image.id}",
                on_click="ignore",
            )


@st.cache_data(max_entries=256, show_spinner=False)
def _shown_jpeg(
    account_id: str,
    file_sha256: str,
    charge_key: str,
    confidence: float,
    classes: tuple[str, ...],
    with_boxes: bool,
) -> bytes:
    """The picture as it is shown, JPEG of the shown size. The account is part of the key."""
    pixels = stored_pixels(account_id, file_sha256)
    if with_boxes:
        detections = account_view.get_detections(current(), require_user(), charge_key)
        if detections is not None:
            pixels = draw_detections(pixels, detections.filter(confidence_min=confidence, classes=set(classes)))
    return encode_jpeg(pixels, longest_side_px=SHOWN_PX)


def _full_png(account_id: str, file_sha256: str, detections: Detections) -> bytes:
    return encode_png(draw_detections(stored_pixels(account_id, file_sha256), detections))

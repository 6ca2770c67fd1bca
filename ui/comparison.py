"""Two runs of the same picture beside one another: what both found, and what only one of them did."""

from __future__ import annotations

from collections import Counter

import streamlit as st

from core.errors import VisionMeterError
from core.inference.compare import match_detections
from core.inference.detections import Detections
from core.inference.draw import draw_detections
from core.inference.images import encode_jpeg
from core.jobs.tables import Job
from core.services import account_view
from core.services.application import current
from core.services.run_comparison import Pair, Seen, compare_runs, list_comparable
from ui.format import local_time, plain, tile_words, tokens
from ui.i18n import _, ngettext
from ui.messages import explain
from ui.pictures import SHOWN_PX, stored_pixels
from ui.session import require_user

PAIRS_PER_PAGE = 2


def show_comparison(job_id: str, confidence: float, hidden: tuple[str, ...]) -> None:
    """Lets another run of the same pictures be chosen, and shows both as the page shows one: without hidden classes."""
    user = require_user()
    comparable = {one.job.id: one for one in list_comparable(current(), user, job_id)}
    asked = st.query_params.get("compare")
    if not comparable and asked is None:
        return
    options = list(comparable)
    key = f"compare_{job_id}"
    if key not in st.session_state and asked in comparable:
        st.session_state[key] = asked
    chosen = st.selectbox(
        _("Compare with …"),
        options,
        index=None,
        format_func=lambda other_id: " · ".join(
            [
                run_words(comparable[other_id].job),
                ngettext("{n} picture", "{n} pictures", comparable[other_id].pictures),
                local_time(comparable[other_id].job.created_at),
            ]
        ),
        placeholder=_("another run of the same pictures"),
        key=key,
        help=_("Costs nothing: both results are stored."),
    )
    if asked is not None and asked not in comparable and chosen is None:
        _refuse(job_id, asked)
        return
    if chosen is None:
        st.query_params.pop("compare", None)
        return
    st.query_params["compare"] = chosen
    _show_pairs(job_id, chosen, confidence, hidden)


def run_words(job: Job) -> str:
    """A run by what it computed, such as `yolov8n · 640 px`."""
    words = [job.model, f"{job.img_size} px"]
    if job.tile_px is not None:
        words.append(tile_words(job.tile_px))
    return " · ".join(words)


def _refuse(job_id: str, asked: str) -> None:
    """An address that names a run which is not this account's, or has nothing to compare."""
    try:
        compare_runs(current(), require_user(), job_id, asked)
    except VisionMeterError as error:
        st.error(explain(error))
        return
    st.info(_("These two runs have no picture in common that they computed differently."))


def _show_pairs(job_id: str, other_id: str, confidence: float, hidden: tuple[str, ...]) -> None:
    user = require_user()
    comparison = compare_runs(current(), user, job_id, other_id)
    only_differences = st.toggle(
        _("Draw only what one of them found"), key="only_differences", help=_("Hides what both found.")
    )
    pages = -(-len(comparison.pairs) // PAIRS_PER_PAGE)
    number = st.pagination(pages, key=f"compare_page_{job_id}_{other_id}") if pages > 1 else 1
    for pair in comparison.pairs[(number - 1) * PAIRS_PER_PAGE : number * PAIRS_PER_PAGE]:
        with st.container(border=True):
            _show_pair(user.account_id, pair, comparison.first, comparison.second, confidence, hidden, only_differences)


def _show_pair(
    account_id: str,
    pair: Pair,
    first: Job,
    second: Job,
    confidence: float,
    hidden: tuple[str, ...],
    only_differences: bool,
) -> None:
    kept = [_kept(seen.detections, confidence, hidden) for seen in (pair.first, pair.second)]
    matching = match_detections(*kept)
    alone = [kept[0].take(matching.only_first), kept[1].take(matching.only_second)]
    names = _names(first, second)
    st.markdown(f"**{plain(pair.first.image.name)}**")
    for place, name, seen, other, found in zip(
        st.columns(2), names, (pair.first, pair.second), (pair.second, pair.first), kept, strict=True
    ):
        with place:
            st.markdown(plain(name))
            try:
                picture = _pair_jpeg(
                    account_id,
                    seen.image.file_sha256,
                    (seen.image.charge_key, other.image.charge_key),
                    confidence,
                    hidden,
                    only_differences,
                )
            except OSError:
                st.warning(_("{name} is not stored any more: upload it again.").format(name=plain(seen.image.name)))
            else:
                st.image(picture, width="stretch")
            st.caption(f"{ngettext('{n} object', '{n} objects', len(found))} · {_paid(seen)}")
    st.dataframe(_count_rows(kept, alone, names), hide_index=True, key=f"pair_counts_{pair.first.image.id}")
    if only_one := _only_rows(alone, names):
        st.caption(_("Found by one of them only:"))
        st.dataframe(only_one, hide_index=True, key=f"pair_only_{pair.first.image.id}")
    else:
        st.caption(_("Both found the same objects."))


def _paid(seen: Seen) -> str:
    words = _("free") if seen.image.status == "free" else tokens(seen.image.amount_mt)
    if seen.tiles_failed:
        words += " · " + ngettext("{n} tile failed", "{n} tiles failed", seen.tiles_failed)
    return words


def _kept(detections: Detections, confidence: float, hidden: tuple[str, ...]) -> Detections:
    # What only the other run knows is not among the classes that the page offers, and is shown all the same.
    return detections.filter(confidence_min=confidence, classes=set(detections.names.values()).difference(hidden))


def _names(first: Job, second: Job) -> tuple[str, str]:
    """Two runs in words, which differ: the same model has had different weights."""
    if run_words(first) != run_words(second):
        return run_words(first), run_words(second)
    return f"{run_words(first)} · {first.model_version}", f"{run_words(second)} · {second.model_version}"


def _count_rows(kept: list[Detections], alone: list[Detections], names: tuple[str, str]) -> list[dict[str, object]]:
    counts = [Counter(found.class_names()) for found in kept]
    only = [Counter(found.class_names()) for found in alone]
    return [
        {
            _("Class"): name,
            names[0]: counts[0][name],
            names[1]: counts[1][name],
            _("Both"): counts[0][name] - only[0][name],
            _("Only the first"): only[0][name],
            _("Only the second"): only[1][name],
        }
        for name in sorted(counts[0] | counts[1])
    ]


def _only_rows(alone: list[Detections], names: tuple[str, str]) -> list[dict[str, object]]:
    return [
        {
            _("Found by"): by,
            _("Class"): item["name"],
            _("Confidence"): item["confidence"],
            **item.get("box", {}),
        }
        for found, by in zip(alone, names, strict=True)
        for item in found.to_json()
    ]


@st.cache_data(max_entries=64, show_spinner=False)
def _pair_jpeg(
    account_id: str,
    file_sha256: str,
    charge_keys: tuple[str, str],
    confidence: float,
    hidden: tuple[str, ...],
    only_differences: bool,
) -> bytes:
    """A picture with what the first of two results found, or what only it found. The account is part of the key."""
    found, other = (
        _kept(account_view.get_detections(current(), require_user(), key), confidence, hidden) for key in charge_keys
    )
    if only_differences:
        found = found.take(match_detections(found, other).only_first)
    return encode_jpeg(draw_detections(stored_pixels(account_id, file_sha256), found), longest_side_px=SHOWN_PX)

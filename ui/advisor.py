"""The advisor: what cheaper models and sizes would cost and lose, on a few of the customer's own pictures."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from core.db import utcnow
from core.errors import QuoteGrewError, VisionMeterError
from core.inference.detections import CONFIDENCE_STORED_MIN
from core.money import format_tokens, mean_mt
from core.services import advisor
from core.services.advice_verdict import AdviceView, Answer, Compared, Measured, Verdict, compare_advice, judge
from core.services.advisor import OTHERS_MAX, SAMPLE_DEFAULT, SAMPLE_MAX, AdvicePlan
from core.services.application import current
from core.services.budget import Combination
from core.services.quotes import PreparedImage, quote_lines
from ui.batch import Candidate
from ui.budget import use, words
from ui.format import local_time, percent, plain, show_amount, tokens
from ui.i18n import _, ngettext
from ui.messages import explain, explain_code
from ui.opened import open_advice
from ui.run_button import show_spend_button
from ui.session import may, require_user

POLL_S = 0.7
REQUOTE_BEFORE_S = 30
EARLIER_SHOWN = 5
CONFIDENCE_DEFAULT = 0.25


def show_advisor(candidates: list[Candidate], model: str, img_size: int, tile_px: int | None) -> None:
    """A closed section that plans an advice for the batch, and lists earlier ones."""
    if st.session_state.pop("advisor_close", False):
        st.session_state["advisor_open"] = False
    section = st.expander(
        _("Advisor: the same for less?"), icon=":material/balance:", on_change="rerun", key="advisor_open"
    )
    if not section.open:
        return
    with section:
        st.caption(
            _(
                "Runs a few of your pictures with cheaper models and sizes, too, and says what you would lose and "
                "save. These runs are charged like any other; what was processed already is free."
            )
        )
        images = [candidate.image for candidate in candidates if candidate.image]
        if images:
            try:
                _show_plan(candidates, images, model, img_size, tile_px)
            except VisionMeterError as error:
                st.error(explain(error))
        else:
            st.info(_("Add pictures above: the advice is about your own ones."), icon=":material/lightbulb:")
        _show_earlier()


# Before the run ------------------------------------------------------------------------------------


def _show_plan(
    candidates: list[Candidate], images: list[PreparedImage], model: str, img_size: int, tile_px: int | None
) -> None:
    different = len({image.image_sha256 for image in images})
    most = min(SAMPLE_MAX, different)
    count = 1
    if most > 1:
        st.session_state["advisor_pictures"] = min(st.session_state.get("advisor_pictures", SAMPLE_DEFAULT), most)
        count = st.slider(
            _("Pictures to try"),
            1,
            most,
            key="advisor_pictures",
            help=_("Taken evenly from your batch. The more, the surer the answer, and the more it costs."),
        )
    sample = advisor.choose_sample(images, count)
    offered = advisor.list_alternatives(current(), require_user(), sample, model=model, tile_px=tile_px)
    by_combination = {one.combination: one for one in offered}
    chosen = next(
        (
            one
            for one in by_combination
            if (one.model, one.img_size) == (model, img_size) and one.tile_px in (tile_px, None)
        ),
        None,
    )
    if chosen is None:
        st.info(_("This model has no price: choose another one."), icon=":material/sell:")
        return
    # Named by what it offers: another batch or another choice above starts with its own suggestion.
    stem = f"{model}_{img_size}_{tile_px}_{len(by_combination)}"
    reference = st.selectbox(
        _("Compared with"),
        list(by_combination),
        index=list(by_combination).index(chosen),
        format_func=words,
        key=f"advisor_reference_{stem}",
        help=_("What it finds is what the others are measured against. At first, what you chose above."),
    )
    cheaper = [one.combination for one in advisor.list_cheaper(offered, reference)]
    if not cheaper:
        st.info(_("Nothing here computes less than this: there is nothing to try."), icon=":material/check:")
        return
    others = st.multiselect(
        _("Cheaper ones to try"),
        cheaper,
        default=advisor.suggest(offered, reference),
        max_selections=OTHERS_MAX,
        format_func=words,
        key=f"advisor_others_{stem}_{reference.model}_{reference.img_size}_{reference.tile_px}",
    )
    if not others:
        st.caption(_("Choose at least one."))
        return
    plan = _current_plan(sample, reference, others)
    _show_quotes(plan, reference, others)
    label = _("Advise me — {amount}").format(amount=tokens(plan.total_mt)) if plan.total_mt else _("Advise me — free")
    if show_spend_button(plan.quotes, label, key="advise", icon=":material/balance:"):
        _start(plan, candidates)


def _current_plan(sample: list[PreparedImage], reference: Combination, others: list[Combination]) -> AdvicePlan:
    """The stored quotes of exactly these runs; new ones when something changed or the old ones run out.

    As with a single run, a click keeps the price that was on its button.
    """
    signature = (
        tuple((image.name, image.file_sha256) for image in sample),
        reference,
        tuple(others),
        st.session_state.get("jobs_seen", 0),
    )
    plan: AdvicePlan | None = st.session_state.get("advice_plan")
    is_clicked = plan is not None and bool(st.session_state.get(f"advise_{plan.id}"))
    if plan is not None and st.session_state.get("advice_signature") == signature:
        if is_clicked or (plan.expires_at - utcnow()).total_seconds() > REQUOTE_BEFORE_S:
            return plan
    elif is_clicked:
        st.warning(explain_code("quote_mismatch"), icon=":material/price_change:")
    plan = advisor.plan_advice(current(), require_user(), sample, reference, others)
    st.session_state["advice_plan"], st.session_state["advice_signature"] = plan, signature
    return plan


def _show_quotes(plan: AdvicePlan, reference: Combination, others: list[Combination]) -> None:
    grown = st.session_state.pop("advice_grown", None)
    if grown is not None:
        st.warning(
            _("The price went from {before} to {now} since the preview. Nothing was taken.").format(
                before=tokens(grown), now=tokens(plan.total_mt)
            ),
            icon=":material/price_change:",
        )
    rows = []
    for one, quote in zip((reference, *others), plan.quotes, strict=True):
        lines = quote_lines(quote)
        free = sum(1 for line in lines if line.free_reason)
        rows.append(
            {
                _("Run"): words(one) + (f" ({_('reference')})" if one == reference else ""),
                _("Pictures"): _("{charged} charged · {free} free").format(charged=len(lines) - free, free=free),
                _("Tokens"): format_tokens(quote.total_mt),
            }
        )
    st.dataframe(rows, hide_index=True, key="advice_quotes")


def _start(plan: AdvicePlan, candidates: list[Candidate]) -> None:
    wanted = {line.file_sha256 for line in quote_lines(plan.quotes[0])}
    files = {
        candidate.image.file_sha256: candidate.read()
        for candidate in candidates
        if candidate.image and candidate.image.file_sha256 in wanted
    }
    try:
        advice_id = advisor.start_advice(current(), require_user(), [quote.id for quote in plan.quotes], files)
    except QuoteGrewError as error:
        st.session_state["advice_grown"] = error.details["previous_mt"]
        st.session_state.pop("advice_plan", None)
        st.rerun()
    except VisionMeterError as error:
        st.session_state.pop("advice_plan", None)
        st.error(explain(error))
        return
    _open(advice_id)


def _show_earlier() -> None:
    lines = advisor.list_advices(current(), require_user(), limit=EARLIER_SHOWN)
    if not lines:
        return
    st.markdown(f"**{_('Earlier advice')}**")
    for line in lines:
        label = " · ".join(
            [
                local_time(line.advice.created_at),
                f"{line.reference.model} {line.reference.img_size}",
                ngettext("{n} run", "{n} runs", line.runs),
                ngettext("{n} picture", "{n} pictures", line.pictures),
                tokens(line.charged_mt),
            ]
        )
        if st.button(label, key=f"open_{line.advice.id}", width="stretch"):
            _open(line.advice.id)


def _open(advice_id: str) -> None:
    """Show an advice, without the plan above it."""
    st.session_state["advisor_close"] = True
    open_advice(advice_id)
    st.rerun()


# While it runs, and after --------------------------------------------------------------------------


def show_advice(advice_id: str) -> None:
    """One advice of the account: how far it is, then what it says."""
    try:
        view = advisor.get_advice(current(), require_user(), advice_id)
    except VisionMeterError as error:
        st.error(explain(error))
        return
    st.subheader(_("Advice of {time}").format(time=local_time(view.advice.created_at)))
    if not view.is_finished:
        st.fragment(_show_progress, run_every=POLL_S)(advice_id)
        return
    if st.session_state.get("advice_seen_id") != advice_id:
        # The finished runs made pictures free: let the previews ask again.
        st.session_state["advice_seen_id"] = advice_id
        st.session_state["jobs_seen"] = st.session_state.get("jobs_seen", 0) + 1
        st.rerun()
    _show_settlement(view)
    st.fragment(_show_answer)(advice_id)


def _show_progress(advice_id: str) -> None:
    view = advisor.get_advice(current(), require_user(), advice_id)
    if view.is_finished:
        st.rerun()
    total = sum(run.progress.total for run in view.runs)
    done = sum(run.progress.done for run in view.runs)
    st.progress(
        done / total,
        text=_("{done} of {total} pictures").format(done=done, total=total)
        + " · "
        + ngettext("{n} run", "{n} runs", len(view.runs)),
    )
    st.caption(
        _("Held: {held} · charged so far: {charged}. The run goes on if you leave this page.").format(
            held=tokens(sum(run.progress.held_mt for run in view.runs)),
            charged=tokens(sum(run.progress.charged_mt for run in view.runs)),
        )
    )
    may_cancel = may(require_user(), "member")
    label = _("Cancel what has not started")
    if st.button(label, icon=":material/cancel:", key=f"cancel_{advice_id}", disabled=not may_cancel):
        returned_mt = advisor.cancel_advice(current(), require_user(), advice_id)
        st.toast(_("Given back: {amount}").format(amount=tokens(returned_mt)))


def _show_settlement(view: AdviceView) -> None:
    with st.container(border=True):
        charged, free, back = st.columns(3)
        show_amount(charged, _("Charged"), sum(run.progress.charged_mt for run in view.runs))
        free.metric(_("Free pictures"), sum(run.progress.counts.get("free", 0) for run in view.runs))
        show_amount(back, _("Given back"), sum(run.progress.given_back_mt for run in view.runs))


def _show_answer(advice_id: str) -> None:
    view = advisor.get_advice(current(), require_user(), advice_id)
    confidence = st.slider(
        _("Confidence at least"),
        CONFIDENCE_STORED_MIN,
        0.95,
        CONFIDENCE_DEFAULT,
        0.05,
        key="advice_confidence",
        help=_("Free: all detections are stored, this only filters them."),
    )
    compared = compare_advice(view, confidence_min=confidence)
    verdict = judge(compared)
    show = {Answer.SAME: st.success, Answer.TRADE_OFF: st.warning}.get(verdict.answer, st.info)
    show(sentence(view, verdict), icon=":material/balance:")
    best = verdict.best if verdict.answer in (Answer.SAME, Answer.TRADE_OFF) else None
    if best is not None and st.button(
        _("Choose {combination}").format(combination=words(best.measured.combination)),
        key="use_advice",
        icon=":material/check:",
        on_click=use,
        args=(best.measured.combination,),
    ):
        st.rerun()
    _show_table(view.reference, compared, confidence)
    st.caption(
        _(
            "An object counts as found where a box of the same class overlaps it by at least one half (IoU ≥ 0.5), at "
            "this confidence in both. Savings are of the list price."
        )
    )


def sentence(view: AdviceView, verdict: Verdict) -> str:
    """The answer in one sentence, with the number of pictures that it rests on."""
    reference, best = plain(words(view.reference.combination)), verdict.best
    if best is None:
        return _(
            "There is nothing to compare: no picture has a result of {reference} and of another one. What failed was "
            "given back."
        ).format(reference=reference)
    rests = (
        ngettext("Seen on {n} picture.", "Seen on {n} pictures.", best.pictures)
        if best.pictures == view.pictures
        else _("Seen on {seen} of {all} pictures; the others failed and were given back.").format(
            seen=best.pictures, all=view.pictures
        )
    )
    if verdict.answer is Answer.EMPTY:
        return (
            _(
                "{reference} finds nothing on these pictures at this confidence, so nothing can be lost: try a lower "
                "confidence or other pictures."
            ).format(reference=reference)
            + " "
            + rests
        )
    facts = {
        "best": plain(words(best.measured.combination)),
        "reference": reference,
        "found": best.found,
        "objects": ngettext("{n} object", "{n} objects", best.objects),
        "percent": percent(best.saving_percent),
        "missed": _name_counts(best.missed),
        "extra": ngettext("{n} object", "{n} objects", best.extra),
    }
    if verdict.answer is Answer.SAME:
        told = (
            _("{best} finds the same {objects} as {reference} for {percent} less.")
            if not best.extra
            else _("{best} finds all {objects} of {reference}, and {extra} more, for {percent} less.")
        )
    elif not best.missed:
        told = _(
            "Nothing cheaper is as good as {reference}. {best} finds all {objects} for {percent} less, but also "
            "{extra} that {reference} does not."
        )
    else:
        told = _(
            "Nothing cheaper is as good as {reference}. Nearest is {best}: it finds {found} of {objects} for {percent} "
            "less and misses {missed}."
        )
        if best.extra:
            told += " " + _("It also finds {extra} that {reference} does not.")
    return told.format(**facts) + " " + rests


def _name_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {plain(name)}" for name, count in counts.items())


def _show_table(reference: Measured, compared: list[Compared], confidence: float) -> None:
    def row(run: Measured, saving: str, found: str, extra: str, missed: str, pictures: int) -> dict:
        return {
            _("Run"): words(run.combination),
            _("Tokens a picture"): format_tokens(mean_mt(run.work_mt, len(run.images))),
            _("Saving"): saving,
            _("Found"): found,
            _("Extra"): extra,
            _("Misses"): missed,
            _("Pictures compared"): pictures,
        }

    objects = sum(len(one.filter(confidence_min=confidence)) for one in reference.found.values())
    st.dataframe(
        [
            row(reference, f"— ({_('reference')})", f"{objects:,}", "—", "—", len(reference.found)),
            *(
                row(
                    one.measured,
                    percent(one.saving_percent),
                    _("{found} of {objects}").format(found=one.found, objects=one.objects),
                    f"{one.extra:,}",
                    ", ".join(f"{count} {name}" for name, count in one.missed.items()) or "—",
                    one.pictures,
                )
                for one in sorted(compared, key=lambda one: one.saving_percent)
            ),
        ],
        hide_index=True,
        key="advice_table",
    )

"""The charts of the portal (Plotly); they follow the theme."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta

import plotly.graph_objects as go

from core.money import from_millitokens
from core.services.savings import Comparison
from core.services.usage_details import Month
from core.usage.latency import Latency
from core.usage.queries import DayUsage

# Okabe-Ito, as in .streamlit/config.toml.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
OUTCOME_COLOURS = {
    "charged": "#0072B2",
    "free": "#009E73",
    "failed": "#D55E00",
    "cancelled": "#E69F00",
    "interrupted": "#CC79A7",
}


def plain_label(text: str) -> str:
    """Words that people typed, as Plotly shows them: it would take them for markup and for its templates."""
    return html.escape(text, quote=False).replace("{", "&#123;")


def tokens_by_day(
    days: Sequence[date], usage: Sequence[DayUsage], *, names: Mapping[str, str], unit: str, images: str, others: str
) -> go.Figure:
    """Tokens by day, stacked by model or caller, the largest at the bottom; what gets no colour is `others`."""
    amounts: Counter[str] = Counter()
    for item in usage:
        amounts[item.group] += item.amount_mt
    ranked = [group for group, _amount in amounts.most_common()]
    shown = ranked if len(ranked) <= len(PALETTE) else ranked[: len(PALETTE) - 1]
    figure = go.Figure()
    for index, group in enumerate([*shown, *(["" for _one in ranked[len(shown) :][:1]])]):
        mine = [item for item in usage if (item.group == group if group else item.group not in shown)]
        amount_mt, counted = Counter[date](), Counter[date]()
        for item in mine:
            amount_mt[item.day] += item.amount_mt
            counted[item.day] += item.images
        name = plain_label(names.get(group, group)) if group else others
        figure.add_bar(
            x=list(days),
            y=[_tokens(amount_mt[day]) for day in days],
            customdata=[counted[day] for day in days],
            name=name,
            marker_color=PALETTE[index],
            hovertemplate=f"%{{x|%Y-%m-%d}}<br>%{{y:,.3f}} {unit}<br>%{{customdata:,}} {images}<extra>{name}</extra>",
        )
    figure.update_layout(barmode="stack", yaxis_title=unit, bargap=0.25, **_layout())
    _set_days(figure, days)
    figure.update_yaxes(tickformat=",~g", rangemode="tozero")
    return figure


def month(view: Month, *, words: Mapping[str, str]) -> go.Figure:
    """The sum of the month's tokens so far, the forecast with its band, and the cap.

    `words` has `used`, `forecast`, `band`, `cap` and `unit`.
    """
    figure = go.Figure()
    hover = f"%{{x|%Y-%m-%d}}<br>%{{y:,.3f}} {words['unit']}"
    sums, total = [], 0
    for day in view.days:
        total += view.daily_mt.get(day, 0)
        sums.append(_tokens(total))
    last = view.days[-1]
    if (forecast := view.forecast) is not None:
        last = forecast.days[-1]
        for bound, fill in ((forecast.high_mt, None), (forecast.low_mt, "tonexty")):
            figure.add_scatter(
                x=list(forecast.days),
                y=[_tokens(amount_mt) for amount_mt in bound],
                mode="lines",
                line={"width": 0},
                fill=fill,
                fillcolor="rgba(230, 159, 0, 0.22)",
                name=words["band"],
                showlegend=fill is not None,
                hovertemplate=hover + f"<extra>{words['band']}</extra>",
            )
        figure.add_scatter(
            x=list(forecast.days),
            y=[_tokens(amount_mt) for amount_mt in forecast.expected_mt],
            mode="lines",
            name=words["forecast"],
            line={"color": PALETTE[1], "dash": "dot"},
            hovertemplate=hover + f"<extra>{words['forecast']}</extra>",
        )
    figure.add_scatter(
        x=view.days,
        y=sums,
        mode="lines+markers",
        name=words["used"],
        line={"color": PALETTE[0], "width": 3},
        hovertemplate=hover + f"<extra>{words['used']}</extra>",
    )
    if view.cap_mt is not None:
        figure.add_scatter(
            x=[view.days[0], last],
            y=[_tokens(view.cap_mt)] * 2,
            mode="lines",
            name=words["cap"],
            line={"color": PALETTE[4], "dash": "dash"},
            hovertemplate=f"%{{y:,.3f}} {words['unit']}<extra>{words['cap']}</extra>",
        )
    figure.update_layout(yaxis_title=words["unit"], **_layout())
    _set_days(figure, [view.days[0], last])
    figure.update_yaxes(tickformat=",~g", rangemode="tozero")
    return figure


def hours(images: Mapping[tuple[int, int], int], *, weekdays: Sequence[str], unit: str, dark: bool) -> go.Figure:
    """Images by weekday, Monday on top, and hour."""
    # One hue that begins in the background of either theme, and ends where it stands out most from it.
    hue = "86, 180, 233" if dark else "0, 114, 178"
    figure = go.Figure(
        go.Heatmap(
            z=[[images.get((weekday, hour), 0) for hour in range(24)] for weekday in range(7)],
            x=[f"{hour:02}:00" for hour in range(24)],
            y=list(weekdays),
            colorscale=[[0, f"rgba({hue}, 0.06)"], [1, f"rgba({hue}, 1)"]],
            xgap=2,
            ygap=2,
            colorbar={"title": {"text": unit, "side": "right"}, "thickness": 10, "tickformat": ",~s"},
            hovertemplate=f"%{{y}} %{{x}}<br>%{{z:,}} {unit}<extra></extra>",
        )
    )
    figure.update_layout(**_layout())
    figure.update_xaxes(type="category", tickvals=[f"{hour:02}:00" for hour in range(0, 24, 4)], showgrid=False)
    figure.update_xaxes(ticktext=[f"{hour}" for hour in range(0, 24, 4)], tickangle=0)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def latencies(days: Sequence[date], found: Mapping[date, Latency], *, unit: str, images: str) -> go.Figure:
    """The median and the slow end of each day; days without a measured image are gaps."""
    figure = go.Figure()
    for name, colour, take in (
        ("p50", PALETTE[0], lambda one: one.p50_ms),
        ("p95", PALETTE[4], lambda one: one.p95_ms),
    ):
        figure.add_scatter(
            x=list(days),
            y=[take(found[day]) if day in found else None for day in days],
            customdata=[found[day].images if day in found else 0 for day in days],
            mode="lines+markers",
            name=name,
            line={"color": colour},
            hovertemplate=f"%{{x|%Y-%m-%d}}<br>%{{y:,}} {unit}<br>%{{customdata:,}} {images}<extra>{name}</extra>",
        )
    figure.update_layout(yaxis_title=unit, **_layout())
    _set_days(figure, days)
    figure.update_yaxes(tickformat=",~s", rangemode="tozero")
    return figure


def classes(counts: Mapping[str, int], *, unit: str) -> go.Figure:
    """Objects by class as horizontal bars, the most frequent on top."""
    figure = _bars(counts, list(counts), [PALETTE[2]] * len(counts), unit=unit)
    figure.update_xaxes(tickformat=",~s")
    figure.update_yaxes(type="category")
    return figure


def outcomes(counts: Mapping[str, int], words: Mapping[str, str], *, unit: str) -> go.Figure:
    """Images by outcome as horizontal bars."""
    return _bars(counts, [words[name] for name in counts], [OUTCOME_COLOURS[name] for name in counts], unit=unit)


def break_even(comparison: Comparison, *, words: Mapping[str, str], currency: str) -> go.Figure:
    """A month's cost here by pictures a day, beside the flat price; where both meet, and where the reader stands.

    `words` has `metered`, `flat`, `you`, `even` and `pictures`.
    """
    most = max(comparison.images_day, comparison.break_even_images_day, 1) * 1.4
    flat = float(comparison.flat)
    hover = f"%{{x:,.0f}} {words['pictures']}<br>{currency}%{{y:,.2f}}"
    figure = go.Figure()
    figure.add_scatter(
        x=[0, most],
        y=[0, float(comparison.daily_image) * most],
        mode="lines",
        name=words["metered"],
        line_color=PALETTE[0],
        hovertemplate=hover + f"<extra>{words['metered']}</extra>",
    )
    figure.add_scatter(
        x=[0, most],
        y=[flat, flat],
        mode="lines",
        name=words["flat"],
        line={"color": PALETTE[4], "dash": "dash"},
        hovertemplate=f"{currency}%{{y:,.2f}}<extra>{words['flat']}</extra>",
    )
    for name, x, y, symbol, colour in (
        ("even", comparison.break_even_images_day, flat, "circle-open", PALETTE[2]),
        ("you", comparison.images_day, float(comparison.metered), "circle", PALETTE[1]),
    ):
        figure.add_scatter(
            x=[x],
            y=[y],
            mode="markers",
            name=words[name],
            marker={"size": 12, "symbol": symbol, "color": colour, "line_width": 2},
            hovertemplate=hover + f"<extra>{words[name]}</extra>",
        )
    figure.update_layout(xaxis_title=words["pictures"], yaxis_title=currency, **_layout())
    figure.update_xaxes(tickformat=",~s", rangemode="tozero")
    figure.update_yaxes(tickformat=",~s", rangemode="tozero")
    return figure


def _bars(counts: Mapping[str, int], labels: Sequence[str], colours: Sequence[str], *, unit: str) -> go.Figure:
    """Horizontal bars with their figures, the first on top: Plotly draws from the bottom."""
    figure = go.Figure(
        go.Bar(
            x=list(counts.values())[::-1],
            y=labels[::-1],
            orientation="h",
            marker_color=colours[::-1],
            text=[f"{count:,}" for count in counts.values()][::-1],
            hovertemplate=f"%{{y}}: %{{x:,}} {unit}<extra></extra>",
        )
    )
    figure.update_layout(xaxis_title=unit, **_layout())
    return figure


def _tokens(amount_mt: int) -> float:
    return float(from_millitokens(amount_mt))


def _set_days(figure: go.Figure, days: Sequence[date]) -> None:
    """A horizontal axis of whole days, from the first to the last of some."""
    half_day = timedelta(hours=12)
    noon = [datetime.combine(day, time.min) for day in (days[0], days[-1])]
    figure.update_xaxes(tickformat="%m-%d", type="date", range=[noon[0] - half_day, noon[1] + half_day], nticks=8)


def _layout() -> dict[str, object]:
    return {
        "height": 320,
        "margin": {"l": 8, "r": 8, "t": 24, "b": 8},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "hoverlabel": {"align": "left"},
    }

"""The charts of the portal (Plotly); they follow the theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta

import plotly.graph_objects as go

from core.money import from_millitokens
from core.services.savings import Comparison
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


def tokens_by_day(days: Sequence[date], usage: Sequence[DayUsage], *, unit: str, images: str) -> go.Figure:
    """Tokens by day, stacked by model; empty days stay as gaps."""
    figure = go.Figure()
    for index, model in enumerate(sorted({item.model for item in usage})):
        by_day = {item.day: item for item in usage if item.model == model}
        figure.add_bar(
            x=list(days),
            y=[float(from_millitokens(by_day[day].amount_mt)) if day in by_day else 0 for day in days],
            customdata=[by_day[day].images if day in by_day else 0 for day in days],
            name=model,
            marker_color=PALETTE[index % len(PALETTE)],
            hovertemplate=f"%{{x|%Y-%m-%d}}<br>%{{y:,.3f}} {unit}<br>%{{customdata}} {images}<extra>{model}</extra>",
        )
    figure.update_layout(barmode="stack", yaxis_title=unit, bargap=0.25, **_layout())
    half_day = timedelta(hours=12)
    noon = [datetime.combine(day, time.min) for day in (days[0], days[-1])]
    figure.update_xaxes(tickformat="%m-%d", type="date", range=[noon[0] - half_day, noon[1] + half_day])
    figure.update_yaxes(tickformat=",~g", rangemode="tozero")
    return figure


def outcomes(counts: dict[str, int], words: dict[str, str], *, unit: str) -> go.Figure:
    """Images by outcome as horizontal bars."""
    names = list(counts)[::-1]
    figure = go.Figure(
        go.Bar(
            x=[counts[name] for name in names],
            y=[words[name] for name in names],
            orientation="h",
            marker_color=[OUTCOME_COLOURS[name] for name in names],
            text=[f"{counts[name]:,}" for name in names],
            hovertemplate=f"%{{y}}: %{{x:,}} {unit}<extra></extra>",
        )
    )
    figure.update_layout(xaxis_title=unit, **_layout())
    return figure


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


def _layout() -> dict[str, object]:
    return {
        "height": 320,
        "margin": {"l": 8, "r": 8, "t": 24, "b": 8},
        "legend": {"orientation": "h", "y": 1.12, "x": 0},
        "hoverlabel": {"align": "left"},
    }

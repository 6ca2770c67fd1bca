"""The charts of the portal (Plotly); they follow the theme."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

import plotly.graph_objects as go

from core.money import from_millitokens
from core.services.savings import Comparison
from core.services.usage_details import Month
from core.usage.latency import Latency
from core.usage.queries import DayUsage

# As plotly.js reads them.
Trace = dict[str, Any]
Axis = dict[str, Any]
# Okabe-Ito, as in .streamlit/config.toml.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
OUTCOME_COLOURS = {
    "charged": "#0072B2",
    "free": "#009E73",
    "failed": "#D55E00",
    "cancelled": "#E69F00",
    "interrupted": "#CC79A7",
}


# So many marks, one for each picture, still have room.
TICKS_OF_ONE_MAX = 8


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
    traces = []
    for index, group in enumerate([*shown, *(["" for _one in ranked[len(shown) :][:1]])]):
        mine = [item for item in usage if (item.group == group if group else item.group not in shown)]
        amount_mt, counted = Counter[date](), Counter[date]()
        for item in mine:
            amount_mt[item.day] += item.amount_mt
            counted[item.day] += item.images
        name = plain_label(names.get(group, group)) if group else others
        traces.append(
            {
                "type": "bar",
                "x": list(days),
                "y": [_tokens(amount_mt[day]) for day in days],
                "customdata": [counted[day] for day in days],
                "name": name,
                "marker": {"color": PALETTE[index]},
                "hovertemplate": f"%{{x|%Y-%m-%d}}<br>%{{y:,.3f}} {unit}<br>%{{customdata:,}} {images}"
                f"<extra>{name}</extra>",
            }
        )
    return _figure(traces, xaxis=_days_axis(days), yaxis=_amounts_axis(unit, ",~g"), barmode="stack", bargap=0.25)


def month(view: Month, *, words: Mapping[str, str]) -> go.Figure:
    """The sum of the month's tokens so far, the forecast with its band, and the cap.

    `words` has `used`, `forecast`, `band`, `cap` and `unit`.
    """
    traces: list[Trace] = []
    hover = f"%{{x|%Y-%m-%d}}<br>%{{y:,.3f}} {words['unit']}"
    sums, total = [], 0
    for day in view.days:
        total += view.daily_mt.get(day, 0)
        sums.append(_tokens(total))
    last = view.days[-1]
    if (forecast := view.forecast) is not None:
        last = forecast.days[-1]
        for bound, fill in ((forecast.high_mt, None), (forecast.low_mt, "tonexty")):
            traces.append(
                _lines(
                    forecast.days,
                    [_tokens(amount_mt) for amount_mt in bound],
                    words["band"],
                    hover,
                    line={"width": 0},
                    fill=fill,
                    fillcolor="rgba(230, 159, 0, 0.22)",
                    showlegend=fill is not None,
                )
            )
        expected = [_tokens(amount_mt) for amount_mt in forecast.expected_mt]
        dotted = {"color": PALETTE[1], "dash": "dot"}
        traces.append(_lines(forecast.days, expected, words["forecast"], hover, line=dotted))
    drawn = {"color": PALETTE[0], "width": 3}
    traces.append(_lines(view.days, sums, words["used"], hover, line=drawn, mode="lines+markers"))
    if view.cap_mt is not None:
        cap, dashed = [_tokens(view.cap_mt)] * 2, {"color": PALETTE[4], "dash": "dash"}
        hover = f"%{{y:,.3f}} {words['unit']}"
        traces.append(_lines([view.days[0], last], cap, words["cap"], hover, line=dashed))
    return _figure(traces, xaxis=_days_axis([view.days[0], last]), yaxis=_amounts_axis(words["unit"], ",~g"))


def hours(images: Mapping[tuple[int, int], int], *, weekdays: Sequence[str], unit: str, dark: bool) -> go.Figure:
    """Images by weekday, Monday on top, and hour."""
    # One hue that begins in the background of either theme, and ends where it stands out most from it.
    hue = "86, 180, 233" if dark else "0, 114, 178"
    heat = {
        "type": "heatmap",
        "z": [[images.get((weekday, hour), 0) for hour in range(24)] for weekday in range(7)],
        "x": [f"{hour:02}:00" for hour in range(24)],
        "y": list(weekdays),
        "colorscale": [[0, f"rgba({hue}, 0.06)"], [1, f"rgba({hue}, 1)"]],
        "xgap": 2,
        "ygap": 2,
        "colorbar": {"title": {"text": unit, "side": "right"}, "thickness": 10, **_whole_ticks(images.values())},
        "hovertemplate": f"%{{y}} %{{x}}<br>%{{z:,}} {unit}<extra></extra>",
    }
    every_fourth = {
        "type": "category",
        "tickvals": [f"{hour:02}:00" for hour in range(0, 24, 4)],
        "ticktext": [f"{hour}" for hour in range(0, 24, 4)],
        "tickangle": 0,
        "showgrid": False,
    }
    return _figure([heat], xaxis=every_fourth, yaxis={"autorange": "reversed", "showgrid": False})


def latencies(days: Sequence[date], found: Mapping[date, Latency], *, unit: str, images: str) -> go.Figure:
    """The median and the slow end of each day; days without a measured image are gaps."""
    traces = []
    for name, colour, take in (
        ("p50", PALETTE[0], lambda one: one.p50_ms),
        ("p95", PALETTE[4], lambda one: one.p95_ms),
    ):
        traces.append(
            _lines(
                days,
                [take(found[day]) if day in found else None for day in days],
                name,
                f"%{{x|%Y-%m-%d}}<br>%{{y:,}} {unit}<br>%{{customdata:,}} {images}",
                customdata=[found[day].images if day in found else 0 for day in days],
                mode="lines+markers",
                line={"color": colour},
            )
        )
    return _figure(traces, xaxis=_days_axis(days), yaxis=_amounts_axis(unit, ",~s"))


def classes(counts: Mapping[str, int], *, unit: str) -> go.Figure:
    """Objects by class as horizontal bars, the most frequent on top."""
    labels, colours = list(counts), [PALETTE[2]] * len(counts)
    axis = _titled(unit) | _whole_ticks(counts.values())
    return _bars(counts, labels, colours, xaxis=axis, yaxis={"type": "category"})


def outcomes(counts: Mapping[str, int], words: Mapping[str, str], *, unit: str) -> go.Figure:
    """Images by outcome as horizontal bars."""
    labels, colours = [words[name] for name in counts], [OUTCOME_COLOURS[name] for name in counts]
    return _bars(counts, labels, colours, xaxis=_titled(unit) | _whole_ticks(counts.values()), yaxis={})


def break_even(comparison: Comparison, *, words: Mapping[str, str], currency: str) -> go.Figure:
    """A month's cost here by pictures a day, beside the flat price; where both meet, and where the reader stands.

    `words` has `metered`, `flat`, `you`, `even` and `pictures`.
    """
    most = max(comparison.images_day, comparison.break_even_images_day, 1) * 1.4
    flat = float(comparison.flat)
    hover = f"%{{x:,.0f}} {words['pictures']}<br>{currency}%{{y:,.2f}}"
    traces = [
        _lines(
            [0, most], [0, float(comparison.daily_image) * most], words["metered"], hover, line={"color": PALETTE[0]}
        ),
        _lines(
            [0, most],
            [flat, flat],
            words["flat"],
            f"{currency}%{{y:,.2f}}",
            line={"color": PALETTE[4], "dash": "dash"},
        ),
    ]
    for name, x, y, symbol, colour in (
        ("even", comparison.break_even_images_day, flat, "circle-open", PALETTE[2]),
        ("you", comparison.images_day, float(comparison.metered), "circle", PALETTE[1]),
    ):
        marker = {"size": 12, "symbol": symbol, "color": colour, "line": {"width": 2}}
        traces.append(_lines([x], [y], words[name], hover, mode="markers", marker=marker))
    return _figure(traces, xaxis=_amounts_axis(words["pictures"], ",~s"), yaxis=_amounts_axis(currency, ",~s"))


def _bars(
    counts: Mapping[str, int], labels: Sequence[str], colours: Sequence[str], *, xaxis: Axis, yaxis: Axis
) -> go.Figure:
    """Horizontal bars with their figures, the first on top: Plotly draws from the bottom."""
    bars = {
        "type": "bar",
        "x": list(counts.values())[::-1],
        "y": labels[::-1],
        "orientation": "h",
        "marker": {"color": colours[::-1]},
        "text": [f"{count:,}" for count in counts.values()][::-1],
        "hovertemplate": f"%{{y}}: %{{x:,}} {xaxis['title']['text']}<extra></extra>",
    }
    return _figure([bars], xaxis=xaxis, yaxis=yaxis)


def _lines(x: Sequence[object], y: Sequence[object], name: str, hover: str, **style: object) -> Trace:
    """A line or its points; `style` are properties of Plotly's scatter."""
    template = f"{hover}<extra>{name}</extra>"
    return {"type": "scatter", "x": list(x), "y": y, "mode": "lines", "name": name, "hovertemplate": template} | style


def _tokens(amount_mt: int) -> float:
    return float(from_millitokens(amount_mt))


def _titled(title: str) -> Axis:
    return {"title": {"text": title}}


def _whole_ticks(counts: Iterable[int]) -> Axis:
    """The marks of an axis of counts: there is no half picture, and a few are no thousandths of a thousand."""
    return {"tickformat": ",d", "dtick": 1} if max(counts, default=0) < TICKS_OF_ONE_MAX else {"tickformat": ",~s"}


def _amounts_axis(title: str, tickformat: str) -> Axis:
    return _titled(title) | {"tickformat": tickformat, "rangemode": "tozero"}


def _days_axis(days: Sequence[date]) -> Axis:
    """A horizontal axis of whole days, from the first to the last of some."""
    half_day = timedelta(hours=12)
    noon = [datetime.combine(day, time.min) for day in (days[0], days[-1])]
    return {"type": "date", "tickformat": "%m-%d", "range": [noon[0] - half_day, noon[1] + half_day], "nticks": 8}


def _figure(traces: Sequence[Trace], *, xaxis: Axis, yaxis: Axis, **layout: object) -> go.Figure:
    """A figure in the house's form, made at once: property by property takes Plotly three times as long."""
    house = {
        "height": 320,
        "margin": {"l": 8, "r": 8, "t": 24, "b": 8},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "hoverlabel": {"align": "left"},
    }
    return go.Figure(data=list(traces), layout={**house, **layout, "xaxis": xaxis, "yaxis": yaxis})

"""The help as it is shown: the Markdown of `docs/help` with its figures taken from the price list and the settings.

A figure stands between `<!--=name-->` and `<!--/=-->`, so that the files read well without the portal, too; what stands
there is of the published price list and the usual settings, which a test checks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from core.config import ROOT, Settings
from core.geometry import STRIDE_PX
from core.inference.detections import CONFIDENCE_STORED_MIN
from core.money import format_tokens, to_currency
from core.pricing.book import Prices
from core.tiles import OVERLAP_PERCENT
from ui.code_samples import HOST_DEFAULT
from ui.i18n import _, ngettext

FOLDER = ROOT / "docs" / "help"
TOPICS = ("start", "prices", "money", "api", "faq")
FIGURE = re.compile(r"<!--=(\w+)-->(\n?).*?\n?<!--/=-->", re.DOTALL)

# Width, height and size of the worked examples, in pixels, and the model.
EXAMPLE = (1920, 1080, 640, "yolov8s")
EXAMPLES = (
    EXAMPLE,
    (640, 640, 640, "yolov8s"),
    (960, 960, 960, "yolov8l"),
    (4000, 3000, 1280, "yolov8x"),
    (1000, 700, 320, "yolov8n"),
    (32, 32, 640, "yolov8s"),
)
TILES_EXAMPLE = (3840, 2160, 640, "yolov8s")
TILES_EXAMPLE_PX = 640
_SIZES = "nsmlx"
# A family, its size and what follows, such as `yolov8`, `n`, `-seg`.
_SIZED = re.compile(r"(yolo(?:v8|\d\d))([nsmlx])(-(?:seg|pose|obb|cls))?")


def read_topic(topic: str, language: str) -> str:
    """A topic's Markdown as it is in the repository."""
    return (FOLDER / language / f"{topic}.md").read_text(encoding="utf-8")


def fill(text: str, figures: Mapping[str, str]) -> str:
    """The Markdown with these figures between its marks, which stay. `KeyError` for one that is not there."""
    return FIGURE.sub(lambda found: f"<!--={found[1]}-->{found[2]}{figures[found[1]]}{found[2]}<!--/=-->", text)


def show_text(text: str, figures: Mapping[str, str], *, host: str) -> tuple[str, str]:
    """The title of a topic and its text for a page of the server `host`, where topics are at `help?topic=…`."""
    title, _newline, body = fill(text, figures).partition("\n")
    body = re.sub(r"<!--.*?-->", "", body)
    body = re.sub(r"\]\((\w+)\.md\)", r"](help?topic=\1)", body)
    body = body.replace("](../../api.md)", "](/v1/docs)").replace("](../../api.zh_CN.md)", "](/v1/docs?lang=zh-CN)")
    return title.removeprefix("# "), re.sub(r"^## ", "### ", body, flags=re.MULTILINE).replace(HOST_DEFAULT, host)


def figures(prices: Prices, settings: Settings) -> dict[str, str]:
    """Every figure of the help, in the session's language where it has words."""
    per_token = settings.price_per_token
    width, height, img_size, model = EXAMPLE
    _plan, example_mt = prices.price_image(height, width, img_size, model)
    return {
        "alpha": str(prices.alpha),
        "batch_max": f"{settings.batch_images_max:,}",
        "betas": _betas(prices),
        "confidence_min": str(CONFIDENCE_STORED_MIN),
        "currency": settings.currency_symbol,
        "discount_example": _discount_example(prices),
        "discounts": _discounts(prices),
        "example": _formula(prices, EXAMPLE),
        "example_thousand": f"{to_currency(example_mt * 1000, per_token):,.2f}",
        "examples": _examples(prices),
        "given_back_s": f"{settings.hold_lease_s + settings.sweep_interval_s:g}",
        "image_mb": f"{settings.image_bytes_max / 1e6:g}",
        "image_mp": f"{settings.image_pixels_max / 1e6:g}",
        "jobs_max": f"{settings.rate_jobs_concurrent:,}",
        "minimum": str(prices.minimum),
        "overlap": f"{OVERLAP_PERCENT} %",
        "price": str(per_token),
        "quote_kept_h": f"{settings.quote_retention_s / 3600:g}",
        "quote_min": f"{settings.quote_ttl_s / 60:g}",
        "rate_min": f"{settings.rate_images_per_minute:,}",
        "rate_s": f"{settings.rate_requests_per_s:,}",
        "session_days": f"{settings.session_ttl_h / 24:g}",
        "stride": str(STRIDE_PX),
        "thousand": f"{to_currency(1_000_000, per_token):,.2f}",
        "tiles_example": _formula(prices, TILES_EXAMPLE, tile_px=TILES_EXAMPLE_PX),
        "timeout_s": f"{settings.image_timeout_s:g}",
        "welcome": f"{settings.welcome_tokens:,}",
    }


def _formula(prices: Prices, example: tuple[int, int, int, str], *, tile_px: int | None = None) -> str:
    width, height, img_size, model = example
    plan, amount_mt = prices.price_image(height, width, img_size, model, tile_px=tile_px)
    pixels = f"{plan.whole.width} × {plan.whole.height}"
    if plan.tile is not None:
        pixels = f"({pixels} + {len(plan.tiles)} × {plan.tile.width} × {plan.tile.height})"
    return f"{prices.alpha} × ({pixels} / 640²) × {prices.beta(model)} = {format_tokens(amount_mt)}"


def _betas(prices: Prices) -> str:
    """A line for each family, and one for each model that has none."""
    families: dict[str, dict[str, str]] = {}
    for model, beta in prices.betas.items():
        sized = _SIZED.fullmatch(model)
        family, size = (f"{sized[1]}…{sized[3] or ''}", sized[2]) if sized else (model, "")
        families.setdefault(family, {})[size] = f"{size} {beta}".strip()
    return "\n".join(
        f"- `{family}`: {' · '.join(betas[size] for size in sorted(betas, key=_SIZES.find))}"
        for family, betas in sorted(families.items(), key=lambda item: ("…" not in item[0], item[0]))
    )


def _examples(prices: Prices) -> str:
    rows = [
        f"| {_('Picture')} | {_('Size')} | {_('Model')} | {_('Network input')} | {_('Tokens')} |",
        "|---|---|---|---|---|",
    ]
    for width, height, img_size, model in EXAMPLES:
        plan, amount_mt = prices.price_image(height, width, img_size, model)
        rows.append(
            f"| {width} × {height} | {img_size} | {model} | {plan.whole.width} × {plan.whole.height} "
            f"| {format_tokens(amount_mt)} |"
        )
    return "\n".join(rows)


def _discounts(prices: Prices) -> str:
    if not prices.discounts:
        return _("The price list in force has none.")
    rows = [f"| {_('Charged pictures, from')} | {_('Discount')} |", "|---|---|"]
    return "\n".join([*rows, *(f"| {tier.images_min} | {tier.percent} % |" for tier in prices.discounts)])


def _discount_example(prices: Prices) -> str:
    """The first tier, worked out with the example."""
    if not prices.discounts:
        return ""
    width, height, img_size, model = EXAMPLE
    count = prices.discounts[0].images_min
    batch = prices.price_batch([(height, width)] * count, img_size, model, charged=[True] * count)
    return _("{count} of the example together: {list} − {percent} % = **{total}** tokens.").format(
        count=ngettext("{n} picture", "{n} pictures", count),
        list=format_tokens(batch.list_mt),
        percent=batch.discount_percent,
        total=format_tokens(batch.total_mt),
    )

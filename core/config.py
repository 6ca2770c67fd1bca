"""Settings: environment variables with the prefix `VISIONMETER_` (or `.env`), validated at start."""

from __future__ import annotations

import sys
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent

# Set by the gateway, read by the portal.
SESSION_COOKIE = "visionmeter_session"


class Settings(BaseSettings):
    """Every setting, its default and its limits. The README's table is generated from this class."""

    model_config = SettingsConfigDict(env_prefix="VISIONMETER_", env_file=".env", extra="ignore", frozen=True)

    data_dir: Path = Field(default=ROOT / "data", description="Folder of the database and the stored images.")
    weights_dir: Path = Field(default=ROOT / "weights", description="Folder of the models' weights.")
    database_url: str = Field(
        default="",
        description="SQLAlchemy URL of the database; empty means SQLite in `data_dir`/visionmeter.db.",
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = Field(
        default="auto", description="Where models run; `auto` takes the first of cuda, mps, cpu that works."
    )
    welcome_tokens: Decimal = Field(
        default=Decimal(20),
        ge=0,
        le=1_000_000,
        decimal_places=3,
        description="Tokens given to a new account.",
    )
    currency_symbol: str = Field(default="¥", min_length=1, max_length=4, description="Shown before money.")
    price_per_token: Decimal = Field(
        default=Decimal("0.01"), gt=0, description="Money for one token, in the currency's major unit."
    )
    quote_ttl_s: int = Field(default=900, ge=30, le=86_400, description="Seconds a quote binds.")
    quote_retention_s: int = Field(
        default=86_400,
        ge=3_600,
        le=31_536_000,
        description="Seconds after its price ran out that a quote which nobody ran is removed, with its pictures.",
    )
    stored_quote_bytes_max: int = Field(
        default=2_000_000_000,
        ge=0,
        description="Most bytes of pictures that wait on the disk for the quotes of one account to be run.",
    )
    disk_free_bytes_min: int = Field(
        default=500_000_000,
        ge=0,
        description="Bytes left on the disk of `data_dir` below which no picture is accepted.",
    )
    billing_time_zone: str = Field(
        default="UTC",
        description="Time zone of the days and months of spending caps and statements, such as Asia/Shanghai.",
    )
    hold_lease_s: int = Field(
        default=30, ge=5, le=3600, description="Seconds until a hold nobody renews is given back."
    )
    sweep_interval_s: float = Field(default=5.0, ge=0.1, le=60, description="Seconds between sweeps.")
    job_poll_interval_s: float = Field(
        default=0.5, ge=0.05, le=10, description="Seconds between looks for new jobs in the database."
    )
    image_timeout_s: float = Field(
        default=120.0, gt=0, le=3600, description="Seconds one image may take before it is given up, unpaid."
    )
    image_bytes_max: int = Field(default=20_000_000, ge=1_000, description="Largest file, in bytes, that is accepted.")
    image_pixels_max: int = Field(default=50_000_000, ge=1_000, description="Most pixels that one image may decode to.")
    request_bytes_max: int = Field(
        default=100_000_000, ge=1_000_000, description="Largest body of one request with many pictures, in bytes."
    )
    batch_images_max: int = Field(default=200, ge=1, le=10_000, description="Most images in one batch.")
    engine_queue_max: int = Field(default=64, ge=1, description="Images that may wait for the engine.")
    runner_threads: int = Field(
        default=2, ge=1, le=64, description="Images of jobs that are prepared at the same time."
    )
    backend: Literal["auto", "measured", "openvino", "onnxruntime", "torch"] = Field(
        default="auto",
        description=(
            "What computes: `openvino`, `onnxruntime` or `torch`. `auto` takes the first of them that works on a "
            "processor, and `torch` on a GPU; `measured` measures them at every start, for some seconds, and takes the "
            "fastest that finds what `torch` finds."
        ),
    )
    models_loaded_max: int = Field(default=3, ge=1, le=64, description="Models kept in memory at once.")
    models_memory_mb_max: int = Field(
        default=0,
        ge=0,
        le=10_000_000,
        description="Megabytes that models may take in memory, as estimated from their files; 0 means no such limit.",
    )
    weights_bytes_max: int = Field(
        default=1_000_000_000, ge=1_000, description="Largest file of weights, in bytes, that an operator may add."
    )
    model_fetch: bool = Field(
        default=True, description="Whether an operator may fetch published weights over the network."
    )
    fetch_allowed_hosts: str = Field(
        default="",
        description=(
            "Own hosts that may be called by `image_url` and `webhook_url` although they are not public: "
            "comma-separated `host`, `host:port` or network such as `10.1.0.0/16`."
        ),
    )
    fetch_timeout_s: float = Field(
        default=10.0, gt=0, le=120, description="Seconds that fetching one `image_url` may take in all."
    )
    fetch_redirects_max: int = Field(
        default=3, ge=0, le=10, description="Redirects of an `image_url` that are followed."
    )
    session_ttl_h: int = Field(default=24 * 14, ge=1, le=24 * 365, description="Hours a sign-in lasts.")
    sign_in_attempts_max: int = Field(
        default=10, ge=1, description="Failed sign-ins for an address in 15 minutes before it must wait."
    )
    cookie_secure: bool = Field(
        default=False, description="Mark the session cookie `Secure`; set it when served under TLS."
    )
    redis_url: str = Field(
        default="",
        description="Address of a Redis that processes share, such as redis://127.0.0.1:6379/0; empty means none.",
    )
    rate_requests_per_s: int = Field(default=20, ge=1, le=10_000, description="Requests a second of one API key.")
    rate_images_per_minute: int = Field(default=600, ge=1, le=100_000, description="Images a minute of one API key.")
    rate_jobs_concurrent: int = Field(
        default=20, ge=1, le=10_000, description="Unfinished runs of one account at once."
    )
    gc_freeze: bool = Field(
        default=True, description="Keep what is loaded at start out of the garbage collector (faster pages)."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe log line that is written."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="Log lines for people, or one JSON object a line for programs."
    )
    metrics_token: str = Field(
        default="",
        description="Bearer token that `/v1/metrics` asks for; empty means that only this machine may read it.",
    )

    @field_validator("data_dir", "weights_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path if path.is_absolute() else (ROOT / path)

    @field_validator("billing_time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("is no time zone: give one such as UTC or Asia/Shanghai") from None
        return name

    @property
    def billing_zone(self) -> ZoneInfo:
        """The time zone of caps and statements."""
        return ZoneInfo(self.billing_time_zone)

    @property
    def sqlalchemy_url(self) -> str:
        """The database's URL with the default filled in."""
        return self.database_url or f"sqlite:///{self.data_dir / 'visionmeter.db'}"


def load_settings() -> Settings:
    """Read the environment afresh. Raises `ConfigError` with one sentence for each wrong setting."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"VISIONMETER_{'_'.join(str(part) for part in item['loc']).upper()}: {item['msg']}"
            for item in error.errors()
        ]
        raise ConfigError("Settings cannot be used. " + "; ".join(lines)) from None


@cache
def settings() -> Settings:
    """The settings of this process."""
    return load_settings()


def settings_table() -> str:
    """Every setting as a Markdown table; the README holds it, and a test compares the two."""
    lines = ["| setting | default | accepted | what it is |", "|---|---|---|---|"]
    lines += [
        f"| `VISIONMETER_{name.upper()}` | {_default_text(field)} | {_accepted_text(field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(lines) + "\n"


def _default_text(field: FieldInfo) -> str:
    default = field.default
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, Path):
        return f"`{default.relative_to(ROOT)}`"
    return "empty" if default == "" else f"`{default}`"


def _accepted_text(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    limits = [
        f"{sign} {getattr(limit, name):,}"
        for limit in field.metadata
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"))
        if hasattr(limit, name)
    ]
    kinds: dict[Any, str] = {
        int: "whole number",
        float: "number",
        Decimal: "number",
        bool: "`true`, `false`",
        Path: "folder",
    }
    kind = kinds.get(field.annotation, "text")
    return " ".join([kind, " and ".join(limits)]).strip()


if __name__ == "__main__":
    sys.stdout.write(settings_table())

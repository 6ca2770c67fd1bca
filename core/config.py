"""Settings: environment variables with the prefix `VISIONMETER_` (or `.env`), validated at start."""

from __future__ import annotations

import base64
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.addresses import is_safe_address
from core.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent

# Set by the gateway, read by the portal.
SESSION_COOKIE = "visionmeter_session"
_IN_FILES = ("stripe_secret_key", "stripe_webhook_secret", "oidc_client_secret", "second_factor_key", "smtp_password")


class Settings(BaseSettings):
    """Every setting, its default and its limits. The README's table is made from this class."""

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
    currency: str = Field(
        default="CNY", min_length=3, max_length=3, description="The currency's code in ISO 4217, such as CNY or JPY."
    )
    top_up_presets: str = Field(
        default="50, 100, 500, 1000", description="Amounts of money that the page Top up offers, with commas between."
    )
    top_up_min: Decimal = Field(default=Decimal(10), gt=0, description="Least money of one top-up.")
    top_up_max: Decimal = Field(default=Decimal(50_000), gt=0, description="Most money of one top-up.")
    top_up_bonus: str = Field(
        default="500: 3, 1000: 5, 5000: 8",
        description="Money of one top-up from which on so many percent more tokens are given; empty for none.",
    )
    bank_transfer: str = Field(
        default="",
        max_length=2000,
        description=(
            "Where customers send money, as they read it: account, bank, holder. They get a reference to write on the "
            "transfer, and the operator confirms it in Admin. Empty: no bank transfers."
        ),
    )
    payment_ttl_days: int = Field(
        default=14, ge=1, le=365, description="Days after which a payment that did not come is given up."
    )
    public_url: str = Field(
        default="",
        description=(
            "Address at which people reach the portal, such as https://vision.example.com; used in links and after "
            "payments."
        ),
    )
    smtp_host: str = Field(default="", description="Server that takes our mail; empty: no mail is sent.")
    smtp_port: int = Field(
        default=0, ge=0, le=65_535, description="Its port; 0 means 587 for `starttls`, 465 for `tls`, 25 for `none`."
    )
    smtp_tls: Literal["starttls", "tls", "none"] = Field(
        default="starttls",
        description="How the connection to it is kept secret; `none` takes no password, except on this machine.",
    )
    smtp_user: str = Field(default="", description="User that signs in at the mail server; empty: without signing in.")
    smtp_password: SecretStr = Field(default=SecretStr(""), description="That user's password.")
    smtp_password_file: str = Field(default="", description="File with that password, in its place.")
    smtp_from: str = Field(
        default="", description="Address that mail comes from, such as VisionMeter <no-reply@example.com>."
    )
    stripe_secret_key: SecretStr = Field(
        default=SecretStr(""), description="Secret or restricted key of a Stripe account; empty: no payments by card."
    )
    stripe_secret_key_file: str = Field(default="", description="File with that key, in its place.")
    stripe_webhook_secret: SecretStr = Field(
        default=SecretStr(""),
        description="Signing secret of Stripe's webhook endpoint for `/v1/stripe/webhook`; begins with whsec_.",
    )
    stripe_webhook_secret_file: str = Field(default="", description="File with that secret, in its place.")
    stripe_api_base: str = Field(
        default="", description="Address of a stand-in for Stripe's API, for tests; empty means Stripe."
    )
    stripe_check_after_s: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="Seconds after which Stripe is asked for a payment it did not report.",
    )
    invoice_seller_name: str = Field(
        default="", max_length=200, description="Who sells, as invoices name him; empty: no invoices."
    )
    invoice_seller_address: str = Field(
        default="", max_length=500, description="His address on invoices; its lines end with a line break or `;`."
    )
    invoice_seller_tax_id: str = Field(default="", max_length=40, description="His tax number on invoices.")
    invoice_vat_percent: Decimal = Field(
        default=Decimal(0),
        ge=0,
        le=100,
        decimal_places=2,
        description="Percent of value added tax that prices include, as invoices show it.",
    )
    invoice_prefix: str = Field(
        default="INV-",
        pattern=r"^([A-Za-z0-9/_.-]{0,15}[A-Za-z/_.-])?$",
        description=(
            "What invoice numbers begin with, not ending in a digit. Each prefix counts from 1 without gaps, so a new "
            "one begins a new series."
        ),
    )
    invoice_note: str = Field(
        default="", max_length=500, description="A sentence on each invoice, such as why no tax is charged."
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
    compiled_shapes_max: int = Field(
        default=0,
        ge=0,
        le=32,
        description="Where `torch` computes: input shapes of each model that it compiles in the background, the first "
        "that came fifty times; a compiled one serves if it finds the same sooner.",
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
    sign_up: Literal["open", "invitation", "closed"] = Field(
        default="open",
        description=(
            "Who may open an account: anybody, whom the operator invites, or nobody. The first account, the "
            "operator's, can always be made, and owners can always invite colleagues into theirs."
        ),
    )
    session_ttl_h: int = Field(default=24 * 14, ge=1, le=24 * 365, description="Hours a sign-in lasts.")
    sign_in_attempts_max: int = Field(
        default=10, ge=1, description="Failed sign-ins for an address in 15 minutes before it must wait."
    )
    second_factor_key: SecretStr = Field(
        default=SecretStr(""),
        description=(
            "Key that the seeds of second factors are encrypted with: 32 bytes in base64, as `openssl rand -base64 32` "
            "makes them. Empty: a file `second-factor.key` in `data_dir`, made when the first one is turned on."
        ),
    )
    second_factor_key_file: str = Field(default="", description="File with that key, in its place.")
    cookie_secure: bool = Field(
        default=False, description="Mark the session cookie `Secure`; set it when served under TLS."
    )
    oidc_issuer: str = Field(
        default="",
        description=(
            "Issuer of an identity provider (OpenID Connect) that people may sign in with, such as "
            "https://login.example.com/realms/company; empty means none."
        ),
    )
    oidc_client_id: str = Field(default="", description="What the identity provider calls this portal.")
    oidc_client_secret: SecretStr = Field(
        default=SecretStr(""), description="The secret that the identity provider gave to this portal."
    )
    oidc_client_secret_file: str = Field(default="", description="File with that secret, in its place.")
    oidc_name: str = Field(
        default="Company account", min_length=1, max_length=40, description="Name of the identity provider's button."
    )
    redis_url: str = Field(
        default="",
        description="Address of a Redis that processes share, such as redis://127.0.0.1:6379/0; empty means none.",
    )
    rate_requests_per_s: int = Field(default=20, ge=1, le=10_000, description="Requests a second of one API key.")
    rate_images_per_minute: int = Field(default=600, ge=1, le=100_000, description="Images a minute of one API key.")
    rate_sign_ins: int = Field(
        default=50, ge=1, le=100_000, description="Sign-ins from one network address in 15 minutes."
    )
    rate_sign_ups: int = Field(
        default=20, ge=1, le=100_000, description="New accounts asked for from one network address in an hour."
    )
    rate_resets: int = Field(
        default=20,
        ge=1,
        le=100_000,
        description="Mails for a forgotten password, and passwords chosen behind a mail's link, from one network "
        "address in an hour.",
    )
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

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in _IN_FILES:
            path = values.get(f"{name}_file")
            if path and not values.get(name):
                try:
                    values = {**values, name: Path(path).read_text("utf-8").strip()}
                except (OSError, UnicodeError):
                    raise ValueError(f"VISIONMETER_{name.upper()}_FILE names a file that cannot be read") from None
        return values

    @model_validator(mode="after")
    def _whole_seller(self) -> Settings:
        if self.invoice_seller_name and not self.invoice_seller_address:
            raise ValueError("VISIONMETER_INVOICE_SELLER_ADDRESS is needed beside VISIONMETER_INVOICE_SELLER_NAME")
        return self

    @field_validator("invoice_seller_address")
    @classmethod
    def _in_lines(cls, address: str) -> str:
        lines = (line.strip() for line in address.replace(";", "\n").splitlines())
        return "\n".join(line for line in lines if line)

    @field_validator("data_dir", "weights_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path if path.is_absolute() else (ROOT / path)

    @field_validator("second_factor_key")
    @classmethod
    def _is_key(cls, key: SecretStr) -> SecretStr:
        text = key.get_secret_value()
        try:
            is_key = not text or len(base64.b64decode(text, altchars=b"-_", validate=True)) == 32
        except ValueError:
            is_key = False
        if not is_key:
            raise ValueError("is 32 bytes in base64, as `openssl rand -base64 32` makes them")
        return key

    @field_validator("billing_time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("is no time zone: give one such as UTC or Asia/Shanghai") from None
        return name

    @model_validator(mode="after")
    def _whole_oidc(self) -> Self:
        if not self.oidc_issuer:
            return self
        for name, url in (("OIDC_ISSUER", self.oidc_issuer), ("PUBLIC_URL", self.public_url)):
            if not is_safe_address(url):
                raise ValueError(
                    f"VISIONMETER_{name} must be an address such as https://vision.example.com (http only on this "
                    "machine): people are sent there to sign in"
                )
        if not self.oidc_client_id:
            raise ValueError("VISIONMETER_OIDC_ISSUER needs VISIONMETER_OIDC_CLIENT_ID: register the portal there")
        return self

    @property
    def billing_zone(self) -> ZoneInfo:
        """The time zone of caps and statements."""
        return ZoneInfo(self.billing_time_zone)

    @property
    def public_base(self) -> str:
        """`public_url` as links begin; empty where it is none that a browser could open."""
        public = urlsplit(self.public_url)
        usable = public.scheme in ("http", "https") and public.netloc and not (public.query or public.fragment)
        return self.public_url.rstrip("/") if usable and self.public_url.isprintable() else ""

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
            if item["loc"]
            else str(item["msg"])
            for item in error.errors()
        ]
        raise ConfigError("Settings cannot be used. " + "; ".join(lines)) from None


@cache
def settings() -> Settings:
    """The settings of this process."""
    return load_settings()

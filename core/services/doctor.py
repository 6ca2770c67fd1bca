"""What is wrong with a deployment, in sentences that say what to do. It looks, and changes nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import func, inspect, select
from sqlalchemy.exc import SQLAlchemyError

from core import database_copy, seed_key
from core.config import Settings
from core.db import Database, utcnow, why
from core.errors import CardPaymentsDownError, ConfigError, VisionMeterError
from core.ledger.seal import unsealed_accounts
from core.mail import outbox
from core.mail.smtp import read_smtp
from core.payments.offers import read_offers
from core.payments.stripe_checkout import read_stripe
from core.redis_link import RedisLink
from core.services import second_factor
from core.services.oidc_sign_in import provider_of, redirect_uri

Level = Literal["ok", "warning", "problem"]

# A lease of a hold is half a minute: clocks that are further apart end the work of others.
CLOCKS_APART_S_MAX = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one part: `ok`, a `warning` (it works, and could be better), or a `problem` (it does not)."""

    subject: str
    level: Level
    sentence: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at the parts of an installation one by one, as its settings name them."""
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _look_at_folders,
        _look_at_database,
        _look_at_redis,
        _look_at_device,
        _look_at_models,
        _look_at_stripe,
        _look_at_mail,
        _look_at_doors,
        _look_at_identity_provider,
    )
    for check in checks:
        yield from check(settings)


def _look_at_folders(settings: Settings) -> Iterator[Finding]:
    for name, folder in (
        ("VISIONMETER_DATA_DIR", settings.data_dir),
        ("VISIONMETER_WEIGHTS_DIR", settings.weights_dir),
    ):
        # What is not there yet is made at the first start, where its parents let us.
        there = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            with tempfile.NamedTemporaryFile(dir=there):
                pass
        except OSError as error:
            yield Finding(
                "folders", "problem", f"{folder} cannot be written ({error.strerror}): give it to us ({name})."
            )
            continue
        yield Finding("folders", "ok", f"{folder} can be written.")
    if not settings.data_dir.is_dir():
        return
    free = shutil.disk_usage(settings.data_dir).free
    least = settings.disk_free_bytes_min
    if free < least:
        words = f"{free / 1e9:.1f} GB are left on the disk of {settings.data_dir}, and below {least / 1e9:.1f} GB no "
        yield Finding("disk", "problem", f"{words}picture is taken: make room.")
    elif free < 4 * least:
        yield Finding(
            "disk", "warning", f"{free / 1e9:.1f} GB are left on the disk of {settings.data_dir}: make room soon."
        )
    else:
        yield Finding("disk", "ok", f"{free / 1e9:.1f} GB are left.")


def _look_at_database(settings: Settings) -> Iterator[Finding]:
    try:
        db = Database(settings.sqlalchemy_url)
    except (VisionMeterError, ImportError) as error:
        advice = (
            "install it: see deploy/README.md, The database" if isinstance(error, ImportError) else "see the setting"
        )
        yield Finding("database", "problem", f"{error}: {advice}.")
        return
    try:
        yield from _look_into(settings, db)
    except SQLAlchemyError as error:
        yield Finding(
            "database",
            "problem",
            f"It cannot be reached ({why(error)}): start it, or correct VISIONMETER_DATABASE_URL.",
        )
    finally:
        db.close()


def _look_at_second_factors(settings: Settings, db: Database) -> Iterator[Finding]:
    state, where = second_factor.examine_key(settings, db), second_factor.name_key(settings)
    if state.unreadable:
        words = (
            f"{state.unreadable} of {state.seeds} people with a second factor sign in by recovery code alone: their "
            f"key is not {where}. Bring it back from where you keep it. If it is lost for good, put a new one there "
            "(`openssl rand -base64 32`), and `visionmeter reset-second-factor EMAIL` lets a person in without a code."
        )
        yield Finding("sign-in", "problem", words)
    elif state.seeds:
        words = f"{state.seeds} people have a second factor. No back-up has their key: keep {where}, too, "
        yield Finding("sign-in", "ok", f"{words}but in another place.")
    path = seed_key.key_file(settings)
    if os.name == "posix" and path is not None and path.is_file() and path.stat().st_mode & 0o077:
        yield Finding("sign-in", "warning", f"Others on this machine can read {path}: chmod 600 {path}.")


def _look_into(settings: Settings, db: Database) -> Iterator[Finding]:
    kind = db.engine.dialect.name
    if kind == "sqlite" and not Path(db.engine.url.database or "").exists():
        yield Finding("database", "ok", "There is none yet: the first start makes it.")
        return
    with db.read() as session:
        has_tables = bool(inspect(session.connection()).get_table_names())
        revision = database_copy.find_revision(session)
        server_now = session.execute(select(func.now())).scalar_one() if kind == "postgresql" else None
        here = utcnow()
    newest = database_copy.newest_revision()
    if not has_tables:
        yield Finding("database", "ok", "It is empty: the first start makes its tables.")
        return
    if revision is None or revision > newest:
        yield Finding(
            "database",
            "problem",
            f"Its schema is {revision or 'not ours'}, and this version knows {newest}: start the version that made it.",
        )
        return
    if revision < newest:
        yield Finding(
            "database", "warning", f"Its schema is {revision}; the next start brings it to {newest}: back it up first."
        )
    else:
        yield Finding("database", "ok", f"{kind} answers, with schema {revision}.")
        with db.read() as session:
            behind = len(unsealed_accounts(session))
        if behind:
            words = f"{behind} accounts have entries that are not sealed: a running service seals them within seconds."
            yield Finding("ledger", "warning", words)
        else:
            yield Finding("ledger", "ok", "Every entry is sealed. `visionmeter ledger verify` replays them.")
        yield from _look_at_second_factors(settings, db)
        with db.read() as session:
            lost = outbox.count_given_up(session)
        if lost:
            words = f"{lost} mails of the last two days were given up: the log says of each why."
            yield Finding("mail", "warning", words)
    if server_now is not None:
        apart = abs((server_now - here).total_seconds())
        if apart > CLOCKS_APART_S_MAX:
            yield Finding(
                "clock", "problem", f"This clock and the database's are {apart:.1f} s apart: keep both by NTP."
            )
        else:
            yield Finding("clock", "ok", "This clock and the database's agree.")


def _look_at_redis(settings: Settings) -> Iterator[Finding]:
    if not settings.redis_url:
        yield Finding("redis", "ok", "None is configured; limits count in this process.")
        return
    try:
        link = RedisLink(settings.redis_url)
    except VisionMeterError as error:
        yield Finding("redis", "problem", error.message)
        return
    try:
        if link.state == "closed":
            yield Finding("redis", "ok", "It answers.")
        else:
            words = (
                "It does not answer; the service goes on without it, and limits count in each process: start it, or "
            )
            yield Finding("redis", "warning", f"{words}correct VISIONMETER_REDIS_URL.")
    finally:
        link.close()


def _look_at_device(settings: Settings) -> Iterator[Finding]:
    import torch

    from core.inference.backends.choose import count_cores, name_device
    from core.inference.engine import choose_device

    device = choose_device(settings.device)
    try:
        torch.zeros(1, device=device) + 1
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        yield Finding(
            "device", "problem", f"{settings.device} does not work here ({reason}): set VISIONMETER_DEVICE=auto."
        )
        return
    yield Finding("device", "ok", f"Models run on {name_device(device)}, with {count_cores()} cores.")
    if device.type == "cpu" and shutil.which("nvidia-smi"):
        words = "There is an NVIDIA driver, but this torch does not use it: install its build for CUDA (TORCH_BACKEND)."
        yield Finding("device", "warning", words)


def _look_at_models(settings: Settings) -> Iterator[Finding]:
    from core.inference.registry import ModelState, Registry

    registry = Registry(settings.weights_dir, fetch_allowed=settings.model_fetch)
    ready, broken = [], []
    try:
        for model in registry.models():
            if registry.is_retired(model.name) or registry.state(model.name) is not ModelState.READY:
                continue
            try:
                registry.resolve(model.name)
            except VisionMeterError as error:
                broken.append(f"{model.name}: {error.message}")
            else:
                ready.append(model.name)
    except VisionMeterError as error:
        broken.append(error.message)
    for words in broken:
        yield Finding("models", "problem", words)
    if ready:
        yield Finding("models", "ok", f"{', '.join(ready)} can run.")
    elif not broken:
        words = "No model has its weights here: run `python -m core.inference.embedded`, or "
        yield Finding("models", "problem", f"{words}`visionmeter catalog add`.")


def _look_at_stripe(settings: Settings) -> Iterator[Finding]:
    try:
        stripe = read_stripe(settings, read_offers(settings))
        if stripe is None:
            yield Finding("stripe", "ok", "No cards are taken.")
            return
        stripe.ping()
    except ConfigError as error:
        yield Finding("stripe", "problem", error.message)
        return
    except CardPaymentsDownError:
        words = "It does not answer, or refuses the key: look at VISIONMETER_STRIPE_SECRET_KEY and what it may do "
        yield Finding(
            "stripe", "problem", f"{words}(deploy/README.md, Taking cards), and whether this machine gets out."
        )
        return
    yield Finding("stripe", "ok", "It answers to our key.")
    if not settings.public_url.startswith("https://"):
        words = "Customers come back from paying without TLS: set VISIONMETER_PUBLIC_URL to an address with https."
        yield Finding("stripe", "warning", words)


def _look_at_mail(settings: Settings) -> Iterator[Finding]:
    try:
        smtp = read_smtp(settings)
    except ConfigError as error:
        yield Finding("mail", "problem", error.message)
        return
    if smtp is None:
        words = "No mail is sent: addresses are not confirmed, and forgotten passwords are yours to reset "
        yield Finding("mail", "ok", f"{words}(`visionmeter reset-password`).")
        return
    if wrong := smtp.check():
        words = f"{smtp.host}:{smtp.port} does not let us in ({wrong}): look at VISIONMETER_SMTP_HOST, _PORT, _TLS, "
        yield Finding("mail", "problem", f"{words}_USER and _PASSWORD, and whether this machine gets out.")
        return
    yield Finding("mail", "ok", f"{smtp.host}:{smtp.port} takes our mail.")
    if not smtp.public_url.startswith("https://"):
        words = "Links in mails lead to an address without TLS: set VISIONMETER_PUBLIC_URL to one with https."
        yield Finding("mail", "warning", words)


def _look_at_doors(settings: Settings) -> Iterator[Finding]:
    if not settings.cookie_secure:
        words = (
            "Cookies go without TLS: right on localhost; behind a proxy with TLS set VISIONMETER_COOKIE_SECURE=true."
        )
        yield Finding("safety", "warning", words)
    else:
        yield Finding("safety", "ok", "Cookies go under TLS alone, and browsers are told to insist on it.")
    if os.environ.get("WEB_CONCURRENCY", "1") not in ("", "0", "1"):
        words = "WEB_CONCURRENCY starts several processes, and a browser's session lives in the one that it began with"
        yield Finding("processes", "problem", f"{words}: run one.")
    env_file = Path(".env")
    if os.name == "posix" and env_file.is_file() and env_file.stat().st_mode & 0o077:
        yield Finding("safety", "warning", "Others on this machine can read .env, which has secrets: chmod 600 .env.")


def _look_at_identity_provider(settings: Settings) -> Iterator[Finding]:
    if not settings.oidc_issuer:
        return
    try:
        metadata = provider_of(settings).metadata(afresh=True)
    except VisionMeterError as error:
        yield Finding("identity provider", "problem", f"{error.message} See VISIONMETER_OIDC_ISSUER.")
        return
    words = f"{settings.oidc_issuer} answers; register {redirect_uri(settings)} there."
    yield Finding("identity provider", "ok", words)
    claims = metadata.get("claims_supported")
    if isinstance(claims, list) and "email_verified" not in claims:
        yield Finding(
            "identity provider",
            "warning",
            "It does not list email_verified among what it says of people: without that nobody new can sign in.",
        )

"""What nobody ran goes, with its pictures; what somebody runs at that very moment does not."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlmodel import col, select

from core import errors
from core.config import ROOT
from core.identity.tables import User
from core.jobs.blobs import DISK_BLOCK_BYTES, hash_bytes
from core.jobs.tables import Job, JobImage
from core.ledger.tables import Hold
from core.pricing.book import adopt_book, current_prices
from core.pricing.tables import Quote
from core.services import retention
from core.services.application import Application
from core.services.detect import detect
from core.services.job_runner import JobRunner
from core.services.kept_quotes import quote_and_keep
from core.services.metered_detection import submit_quote
from core.services.quotes import PreparedImage, get_quote, prepare_image, quote_batch, quote_lines
from core.services.retention import remove_unrun_quotes
from core.services.stages import Stages
from tests.conftest import MODEL, OpenApp
from tests.core.services import helpers
from tests.core.services.helpers import balance, change, statuses, wait

LONG_AGO = "2001-01-01 00:00:00.000000"
CUSTOMERS, ROUNDS = 4, 12
SEED = 20261124

# The keeper of another process, which does nothing but this.
SWEEPER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from core.config import Settings
from core.db import Database
from core.jobs.blobs import BlobStore
from core.services.retention import remove_unrun_quotes

app = SimpleNamespace(settings=Settings(_env_file=None), db=Database(sys.argv[1]), blobs=BlobStore(Path(sys.argv[2])))
print("ready", flush=True)
while not Path(sys.argv[3]).exists():
    remove_unrun_quotes(app)
"""


@pytest.fixture(autouse=True)
def _time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round does all that there is, however busy the machine."""
    monkeypatch.setattr(retention, "ROUND_S_MAX", 60)


def pictures(count: int, seed: int = 1) -> dict[str, bytes]:
    """Different pictures, each of which fits into one block of a disk."""
    return helpers.pictures(count, seed=seed, side=33)


@pytest.fixture
def ann(any_app: Application, sign_up: Callable[..., User]) -> User:
    """A customer with 20.000 tokens."""
    return sign_up(any_app)


def keep(app: Application, user: User, files: dict[str, bytes]) -> Quote:
    """A quote that keeps its pictures."""
    images = [(prepare_image(app, name, data), data) for name, data in files.items()]
    return quote_and_keep(app, user, images, model=MODEL, img_size=320)


def run_kept(app: Application, user: User, quote_id: str) -> Job:
    """Submit a quote by its id alone."""
    return submit_quote(app, user, quote_id, app.blobs.kept(user.account_id, quote_id))


def age(app: Application, *quotes: Quote) -> None:
    """Let quotes be years old, and their files."""
    for quote in quotes:
        change(app, "UPDATE quote SET expires_at = :past WHERE id = :id", past=LONG_AGO, id=quote.id)
        try:
            os.utime(app.blobs.root / ".quotes" / quote.id, (0, 0))
        except FileNotFoundError:
            pass  # its pictures are those of a run, or gone


def stored_quotes(app: Application) -> set[str]:
    """The ids of all quotes."""
    with app.db.read() as session:
        return set(session.exec(select(Quote.id)).all())


def files_of(app: Application, quote: Quote) -> list[bool]:
    """Whether each picture of a quote is there, waiting or for good."""
    return [
        (app.blobs.root / ".quotes" / quote.id / line.file_sha256).is_file()
        or app.blobs.path(quote.account_id, line.file_sha256).is_file()
        for line in quote_lines(quote)
    ]


def waiting(app: Application) -> list[Path]:
    """The files that wait for quotes, and those that are being written."""
    return [path for name in (".quotes", ".incoming") for path in (app.blobs.root / name).rglob("*") if path.is_file()]


# What goes, and what stays -------------------------------------------------------------------------


def test_an_old_quote_goes_with_its_pictures(any_app: Application, ann: User) -> None:
    """One that binds, or expired less than a day ago, stays with its pictures, though they are the same."""
    files = pictures(2)
    old, recent, binding = (keep(any_app, ann, files) for _n in range(3))
    preview = quote_batch(
        any_app, ann, [prepare_image(any_app, *one) for one in files.items()], model=MODEL, img_size=320
    )
    age(any_app, old, preview)
    change(any_app, "UPDATE quote SET expires_at = created_at WHERE id = :id", id=recent.id)
    # A clock or a backup may have set the time of a folder: the row decides.
    os.utime(any_app.blobs.root / ".quotes" / binding.id, (0, 0))
    assert remove_unrun_quotes(any_app) is False
    assert stored_quotes(any_app) == {recent.id, binding.id}
    assert (len(waiting(any_app)), files_of(any_app, recent), files_of(any_app, binding)) == (4, [True] * 2, [True] * 2)
    with pytest.raises(errors.QuoteNotFoundError):
        get_quote(any_app, ann, old.id)
    for quote in (recent, binding):
        assert all(any_app.blobs.get(ann.account_id, line.file_sha256) for line in ran_lines(any_app, ann, quote))
    assert waiting(any_app) == []


def ran_lines(app: Application, user: User, quote: Quote) -> list[JobImage]:
    """The images of the run of a quote."""
    job = run_kept(app, user, quote.id)
    with app.db.read() as session:
        return list(session.exec(select(JobImage).where(JobImage.job_id == job.id)).all())


def test_a_quote_that_was_run_stays(
    any_app: Application, ann: User, start_runner: Callable[[Application], JobRunner]
) -> None:
    """However old, also one that had expired and was run as a new one; and the pictures of the runs are read again."""
    plain, renewed = keep(any_app, ann, pictures(1, seed=1)), keep(any_app, ann, pictures(1, seed=2))
    age(any_app, renewed)
    jobs = [run_kept(any_app, ann, quote.id) for quote in (plain, renewed)]
    start_runner(any_app)  # not before: its keeper would remove the one that is old and not run yet
    assert [statuses(wait(any_app, ann, job)) for job in jobs] == [["charged"]] * 2
    change(any_app, "UPDATE quote SET expires_at = :past", past=LONG_AGO)
    assert remove_unrun_quotes(any_app) is False
    assert stored_quotes(any_app) == {plain.id, renewed.id, jobs[1].quote_id}
    for quote in (plain, renewed):
        assert run_kept(any_app, ann, quote.id).id in {job.id for job in jobs}
        assert files_of(any_app, quote) == [True]
    assert balance(any_app, ann) == (19_500, 0)
    change(any_app, "UPDATE quote SET ran_at = NULL WHERE id <> :id", id=renewed.id)
    assert remove_unrun_quotes(any_app) is False
    assert stored_quotes(any_app) == {plain.id, renewed.id, jobs[1].quote_id}, "a job names two of them"


def test_a_quote_that_grew_hands_its_pictures_on(any_app: Application, ann: User) -> None:
    """The old quote may go: the one that took its place runs by its id alone, and counts what it keeps."""
    quote = keep(any_app, ann, pictures(2))
    age(any_app, quote)
    with any_app.db.write() as session:
        prices = current_prices(session)
        adopt_book(session, replace(prices, version="9999-1", betas={**prices.betas, MODEL: Decimal(2)}))
    with pytest.raises(errors.QuoteGrewError) as caught:
        run_kept(any_app, ann, quote.id)
    renewed = get_quote(any_app, ann, caught.value.details["quote_id"])
    assert renewed.stored_bytes == quote.stored_bytes == 2 * DISK_BLOCK_BYTES
    remove_unrun_quotes(any_app)
    assert stored_quotes(any_app) == {renewed.id}
    run_kept(any_app, ann, renewed.id)
    assert balance(any_app, ann) == (20_000, renewed.total_mt)


def test_without_its_pictures_nothing_is_held(any_app: Application, ann: User) -> None:
    """A quote whose pictures went, or that is refused otherwise, holds nothing and leaves no picture of its own."""
    gone = keep(any_app, ann, pictures(2, seed=1))
    (any_app.blobs.root / ".quotes" / gone.id / quote_lines(gone)[1].file_sha256).unlink()
    with pytest.raises(errors.QuoteMismatchError, match="not kept any more"):
        run_kept(any_app, ann, gone.id)
    files = pictures(2, seed=2)
    quoted = quote_batch(
        any_app, ann, [prepare_image(any_app, *one) for one in files.items()], model=MODEL, img_size=320
    )
    change(any_app, "UPDATE account SET status = 'frozen' WHERE id = :id", id=ann.account_id)
    with pytest.raises(errors.AccountNotActiveError):
        submit_quote(any_app, ann, quoted.id, {hash_bytes(data): data for data in files.values()})
    change(any_app, "UPDATE account SET status = 'active' WHERE id = :id", id=ann.account_id)
    assert balance(any_app, ann) == (20_000, 0)
    with any_app.db.read() as session:
        assert session.exec(select(Job)).all() == []
    assert not any(path.is_file() for path in (any_app.blobs.root / ann.account_id).rglob("*"))


def test_quotes_of_an_older_version(any_app: Application, ann: User) -> None:
    """The migration finds out which were run, by themselves or as a new one; and it can be taken back."""
    plain, late, unrun = (keep(any_app, ann, pictures(1, seed=seed)) for seed in range(3))
    age(any_app, late)
    jobs = [run_kept(any_app, ann, quote.id) for quote in (plain, late)]
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.attributes["url"] = any_app.db.url
    command.downgrade(config, "0006")
    any_app.db.migrate()
    with any_app.db.read() as session:
        quotes = session.exec(select(Quote)).all()
    assert {quote.id for quote in quotes if quote.ran_at} == {plain.id, late.id, *(job.quote_id for job in jobs)}
    assert {quote.id for quote in quotes if not quote.ran_at} == {unrun.id}
    assert {quote.stored_bytes for quote in quotes} == {0}


def test_what_a_crash_leaves_is_found_again(any_app: Application, ann: User) -> None:
    """Pictures without their quote, a quote without its pictures, pictures of a run that was stored, half a file."""
    lost_row, lost_files, ran = (keep(any_app, ann, pictures(1, seed=seed)) for seed in range(3))
    folder = any_app.blobs.root / ".quotes"
    run_kept(any_app, ann, ran.id)
    (folder / ran.id).mkdir()
    (folder / ran.id / "left").write_bytes(b"left")
    change(any_app, "DELETE FROM quote WHERE id = :id", id=lost_row.id)
    any_app.blobs.forget(lost_files.id)
    (folder / "lost+found").mkdir()
    half = any_app.blobs.root / ".incoming" / "1.a.partial"
    half.write_bytes(b"half")
    age(any_app, lost_files)
    for path in (folder / lost_row.id, folder / ran.id, folder / "lost+found", half):
        os.utime(path, (0, 0))
    assert remove_unrun_quotes(any_app) is False
    assert (waiting(any_app), stored_quotes(any_app)) == ([], {ran.id})
    assert files_of(any_app, ran) == [True]


def test_little_at_once(any_app: Application, ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round ends after a while and says that there is more; the rounds together remove all of it."""
    image = prepare_image(any_app, "a.png", pictures(1)["0.png"])
    quotes = [quote_batch(any_app, ann, [image], model=MODEL, img_size=320) for _n in range(9)]
    age(any_app, *quotes)
    monkeypatch.setattr(retention, "ROWS_PER_TRANSACTION", 2)
    monkeypatch.setattr(retention, "ROUND_S_MAX", 0)
    assert remove_unrun_quotes(any_app) is True
    assert len(stored_quotes(any_app)) == 9
    monkeypatch.setattr(retention, "ROUND_S_MAX", 60)
    assert remove_unrun_quotes(any_app) is False
    assert stored_quotes(any_app) == set()


def test_the_keeper_does_it(any_app: Application, ann: User, start_runner: Callable[[Application], JobRunner]) -> None:
    """Nobody has to ask for it."""
    old, binding = keep(any_app, ann, pictures(1, seed=1)), keep(any_app, ann, pictures(1, seed=2))
    age(any_app, old)
    start_runner(any_app)
    deadline = time.monotonic() + 30
    while old.id in stored_quotes(any_app):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (stored_quotes(any_app), len(waiting(any_app))) == ({binding.id}, 1)


# Limits --------------------------------------------------------------------------------------------


def small_app(open_app: OpenApp, database_url: str, pictures_max: int) -> Application:
    """An application where so many small pictures may wait for an account."""
    return open_app(database_url=database_url, stored_quote_bytes_max=pictures_max * DISK_BLOCK_BYTES)


def test_unrun_quotes_keep_so_much_and_no_more(
    open_app: OpenApp, database_url: str, sign_up: Callable[..., User]
) -> None:
    """What is refused stores nothing; a run, or the end of a quote, makes room; the portal's previews take none."""
    app = small_app(open_app, database_url, 3)
    ann, bob = sign_up(app), sign_up(app, "bob@example.com")
    with pytest.raises(errors.TooManyStoredPicturesError, match="quote fewer at once") as caught:
        keep(app, ann, pictures(4))
    assert "free_at" not in caught.value.details
    first, second = keep(app, ann, pictures(2)), keep(app, ann, pictures(1, seed=2))
    with pytest.raises(errors.TooManyStoredPicturesError, match="run some of these") as caught:
        keep(app, ann, pictures(1, seed=3))
    assert caught.value.details["stored_bytes"] == caught.value.details["stored_bytes_max"] == 3 * DISK_BLOCK_BYTES
    assert caught.value.details["free_at"] > first.expires_at.isoformat(timespec="seconds")
    assert (stored_quotes(app), len(waiting(app))) == ({first.id, second.id}, 3)
    keep(app, bob, pictures(3))
    image = prepare_image(app, "a.png", pictures(1, seed=3)["0.png"])
    quote_batch(app, ann, [image], model=MODEL, img_size=320)
    run_kept(app, ann, first.id)
    third = keep(app, ann, {**pictures(2), **{f"new {n}": data for n, data in pictures(2, seed=4).items()}})
    assert third.stored_bytes == 2 * DISK_BLOCK_BYTES, "what the account has for good takes nothing"
    with pytest.raises(errors.TooManyStoredPicturesError):
        keep(app, ann, pictures(1, seed=5))
    age(app, second)
    remove_unrun_quotes(app)
    keep(app, ann, pictures(1, seed=5))


def test_quotes_at_once_stay_within_the_limit(
    open_app: OpenApp, database_url: str, sign_up: Callable[..., User]
) -> None:
    """Eight that come together each fit alone: as many are kept as fit together."""
    app = small_app(open_app, database_url, 3)
    ann = sign_up(app)

    def try_one(seed: int) -> bool:
        try:
            keep(app, ann, pictures(1, seed=seed))
        except errors.TooManyStoredPicturesError:
            return False
        return True

    with ThreadPoolExecutor(8) as clients:
        assert sum(clients.map(try_one, range(8))) == 3
    assert (len(stored_quotes(app)), len(waiting(app))) == (3, 3)


def test_a_full_disk_takes_no_picture(open_app: OpenApp, database_url: str, sign_up: Callable[..., User]) -> None:
    """Quotes that keep, runs and single pictures are refused before anything is held; what was run is answered."""
    app = open_app(database_url=database_url)
    ann = sign_up(app)
    files = pictures(1, seed=1)
    ran, unrun = keep(app, ann, files), keep(app, ann, pictures(1, seed=2))
    job = run_kept(app, ann, ran.id)
    full = replace(app, settings=app.settings.model_copy(update={"disk_free_bytes_min": 10**18}))
    full.hands.runner = "me"
    before = stored_quotes(app)
    held = balance(app, ann)
    for attempt in (
        lambda: keep(full, ann, pictures(1, seed=3)),
        lambda: run_kept(full, ann, unrun.id),
        lambda: detect(
            full, ann, pictures(1, seed=4)["0.png"], name="a.png", model=MODEL, img_size=320, stages=Stages()
        ),
    ):
        with pytest.raises(errors.DiskFullError):
            attempt()
    assert run_kept(full, ann, ran.id).id == job.id
    assert (stored_quotes(app), balance(app, ann), len(waiting(app))) == (before, held, 1)


# The race ------------------------------------------------------------------------------------------


@contextmanager
def sweeping(app: Application, folder: Path) -> Iterator[None]:
    """Two other processes and a thread of this one remove unrun quotes all the time while the block lasts."""
    end = folder / "end"
    command = [sys.executable, "-c", SWEEPER, app.settings.sqlalchemy_url, str(app.blobs.root), str(end)]
    sweepers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _n in range(2)]
    failures: list[BaseException] = []

    def sweep() -> None:
        try:
            while not end.exists():
                remove_unrun_quotes(app)
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=sweep)
    try:
        for sweeper in sweepers:
            assert sweeper.stdout is not None
            assert sweeper.stdout.readline() == "ready\n"
        thread.start()
        yield
    finally:
        end.touch()
        for sweeper in sweepers:
            sweeper.communicate(timeout=60)
        if thread.is_alive():
            thread.join(60)
    assert (failures, [sweeper.returncode for sweeper in sweepers]) == ([], [0, 0])


class Customers:
    """Some people of one account who quote, preview and run the same pictures at the same moment."""

    def __init__(self, app: Application, user: User) -> None:
        self.app, self.user = app, user
        self.meeting = threading.Barrier(CUSTOMERS)
        self.binding: list[Quote] = []
        self.refused = 0

    def work(self, number: int) -> None:
        """One customer's rounds."""
        draw = random.Random(SEED + number)
        for turn in range(ROUNDS):
            files = [random.Random(f"{turn} {n}").randbytes(300) for n in range(2)]
            images = [
                (PreparedImage(f"{n}", hash_bytes(data), hash_bytes(data), 64, 64), data)
                for n, data in enumerate(files)
            ]
            self.meeting.wait(60)
            act = draw.choice([self.run_at_once, self.run_late, self.preview_and_run, self.leave_binding, self.leave])
            act(images)

    def quote(self, images: list[tuple[PreparedImage, bytes]]) -> Quote:
        """A quote that keeps its pictures."""
        return quote_and_keep(self.app, self.user, images, model=MODEL, img_size=320)

    def run_at_once(self, images: list[tuple[PreparedImage, bytes]]) -> None:
        """By its id, while it binds."""
        run_kept(self.app, self.user, self.quote(images).id)

    def run_late(self, images: list[tuple[PreparedImage, bytes]]) -> None:
        """By its id, just as it is removed: it runs whole, or is refused."""
        quote = self.quote(images)
        age(self.app, quote)
        try:
            run_kept(self.app, self.user, quote.id)
        except (errors.QuoteNotFoundError, errors.QuoteMismatchError):
            self.refused += 1

    def preview_and_run(self, images: list[tuple[PreparedImage, bytes]]) -> None:
        """As the portal does, which sends the pictures with the run; twice, as an impatient person does."""
        quote = quote_batch(self.app, self.user, [image for image, _data in images], model=MODEL, img_size=320)
        for _n in range(2):
            submit_quote(self.app, self.user, quote.id, {image.file_sha256: data for image, data in images})

    def leave_binding(self, images: list[tuple[PreparedImage, bytes]]) -> None:
        """A quote that is run later."""
        self.binding.append(self.quote(images))

    def leave(self, images: list[tuple[PreparedImage, bytes]]) -> None:
        """A quote that nobody runs."""
        age(self.app, self.quote(images))


def test_nothing_is_lost_to_whoever_tidies_up(any_app: Application, ann: User, tmp_path: Path) -> None:
    """Whatever is quoted and run meanwhile has all its pictures; only what nobody ran is gone at the end."""
    app = any_app
    customers = Customers(app, ann)
    with sweeping(app, tmp_path), ThreadPoolExecutor(CUSTOMERS) as threads:
        list(threads.map(customers.work, range(CUSTOMERS)))
        for quote in customers.binding:
            assert files_of(app, quote) == [True, True]
        for quote in customers.binding[::2]:
            run_kept(app, ann, quote.id)
    with app.db.read() as session:
        images = session.exec(select(JobImage)).all()
        named = set(session.exec(select(Job.quote_id)).all())
        unnamed = session.exec(select(Quote).where(col(Quote.ran_at).is_(None))).all()
        holds = session.exec(select(Hold).where(Hold.status == "held")).all()
    assert images, SEED
    assert all(app.blobs.path(ann.account_id, image.file_sha256).is_file() for image in images)
    assert named <= stored_quotes(app)
    assert balance(app, ann)[1] == sum(hold.amount_mt for hold in holds)
    age(app, *unnamed)
    remove_unrun_quotes(app)
    assert named <= stored_quotes(app)
    with app.db.read() as session:
        assert session.exec(select(Quote).where(col(Quote.ran_at).is_(None))).all() == []
    assert waiting(app) == []

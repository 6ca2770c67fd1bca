"""A second factor: codes are taken once, guesses are counted, recovery codes work, and the seed is nowhere in clear."""

from __future__ import annotations

import io
import json
import os
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pyotp
import pytest
from sqlalchemy import text

from core import errors, seed_key
from core.db import utcnow
from core.identity import second_factors
from core.identity.tables import User
from core.services import api_keys, audit_trail, closing, doctor, my_data, profile, second_factor, sign_in, team
from core.services.api_key_settings import KeySettings
from core.services.application import Application
from tests.conftest import PASSWORD, OpenApp
from tests.core.services.helpers import change

ANN, BOB = "ann@example.com", "bob@example.com"
NEW_PASSWORD = "another horse battery"
PAST = "2001-01-01 00:00:00.000000"


class Phone:
    """An authenticator app: gives codes that were not given before, as if 30 seconds passed between two."""

    def __init__(self, app: Application, user: User, token: str) -> None:
        self.app, self.user = app, user
        enrolment = second_factor.begin(app, user, PASSWORD)
        self.totp = pyotp.TOTP(enrolment.seed)
        self.first = self.now()
        self.recovery_codes = list(second_factor.turn_on(app, user, token, enrolment, self.first))

    def now(self) -> str:
        """The code of this moment."""
        return self.totp.at(utcnow())

    def fresh(self) -> str:
        """A code that is taken: the server forgets which one it took last."""
        change(self.app, "UPDATE second_factor SET last_step = 0 WHERE user_id = :id", id=self.user.id)
        return self.now()

    def wrong(self) -> str:
        """Six digits that are no code within minutes."""
        near = {self.totp.at(utcnow(), counter_offset=offset) for offset in range(-5, 6)}
        return next(
            code for code in ("000000", "111111", "222222", *map(str, range(300000, 300020))) if code not in near
        )


def come_in(app: Application, email: str = ANN) -> tuple[User, str]:
    """Sign somebody up and in; gives him and his token."""
    token = sign_in.open_session(app, sign_in.sign_up(app, email, PASSWORD))
    user = sign_in.signed_in_user(app, token)
    assert user is not None
    return user, token


def show_password(app: Application, email: str = ANN, password: str = PASSWORD) -> str:
    """The right password of somebody with a second factor; gives the step that waits."""
    with pytest.raises(errors.SecondFactorNeededError) as needed:
        sign_in.sign_in(app, email, password)
    return needed.value.step


def actions(app: Application, user: User) -> list[str]:
    """What the audit log says of an account, oldest first."""
    with app.db.read() as session:
        rows = session.execute(
            text("SELECT action FROM audit_event WHERE account_id = :id ORDER BY created_at, id"),
            {"id": user.account_id},
        )
        return [row[0] for row in rows]


def test_the_whole_way(any_app: Application) -> None:
    """On, in with a code, in with a recovery code, new codes, off: each is asked for what it must be, and is logged."""
    ann, token = come_in(any_app)
    elsewhere = sign_in.open_session(any_app, sign_in.sign_in(any_app, ANN, PASSWORD))
    ticket = sign_in.sign_in(any_app, ANN, PASSWORD)
    phone = Phone(any_app, ann, token)
    assert sign_in.signed_in_user(any_app, elsewhere) is None
    with pytest.raises(errors.SignInTicketError):
        sign_in.open_session(any_app, ticket)
    renewed = sign_in.open_session(any_app, second_factor.renew_session(any_app, ann, token))
    assert sign_in.signed_in_user(any_app, token) is None
    assert sign_in.signed_in_user(any_app, renewed) is not None

    step = show_password(any_app)
    with pytest.raises(errors.SignInTicketError):
        sign_in.open_session(any_app, step)
    code = phone.fresh()
    assert sign_in.open_session(any_app, second_factor.sign_in(any_app, step, f"{code[:3]} {code[3:]}"))
    recovery = phone.recovery_codes[3]
    assert second_factor.sign_in(any_app, show_password(any_app), f" {recovery.upper()} ")
    state = second_factor.get_state(any_app, ann)
    assert state is not None
    assert state.recovery_codes == 9
    for used in (recovery, "never-made-code-here", "", "12345", "１２３４５６"):
        with pytest.raises(errors.BadCodeError):
            second_factor.sign_in(any_app, show_password(any_app), used)

    renewed_codes = second_factor.renew_recovery_codes(any_app, ann, PASSWORD, phone.fresh())
    with pytest.raises(errors.BadCodeError):
        second_factor.turn_off(any_app, ann, PASSWORD, phone.recovery_codes[0])
    with pytest.raises(errors.BadCredentialsError):
        second_factor.turn_off(any_app, ann, "wrong horse battery", renewed_codes[0])
    second_factor.turn_off(any_app, ann, PASSWORD, renewed_codes[0])
    assert second_factor.get_state(any_app, ann) is None
    assert sign_in.sign_in(any_app, ANN, PASSWORD)
    done = actions(any_app, ann)
    assert [one for one in done if one.startswith("second_factor.") and "wrong" not in one] == [
        "second_factor.turn_on",
        "second_factor.use_recovery_code",
        "second_factor.new_codes",
        "second_factor.turn_off",
        "second_factor.use_recovery_code",
    ]
    assert done.count("second_factor.wrong_code") == 6


def test_it_is_on_only_after_the_first_code(any_app: Application) -> None:
    """A wrong password, a wrong first code and one that comes after a quarter of an hour change nothing."""
    ann, token = come_in(any_app)
    with pytest.raises(errors.BadCredentialsError):
        second_factor.begin(any_app, ann, "wrong horse battery")
    enrolment = second_factor.begin(any_app, ann, PASSWORD)
    with pytest.raises(errors.BadCodeError):
        second_factor.turn_on(any_app, ann, token, enrolment, "abcdef")
    late = second_factor.Enrolment(enrolment.seed, enrolment.uri, utcnow() - second_factor.ENROLMENT_TTL * 2)
    with pytest.raises(errors.SecondFactorStateError):
        second_factor.turn_on(any_app, ann, token, late, pyotp.TOTP(enrolment.seed).now())
    assert sign_in.sign_in(any_app, ANN, PASSWORD)
    Phone(any_app, ann, token)
    with pytest.raises(errors.SecondFactorStateError):
        second_factor.begin(any_app, ann, PASSWORD)
    with pytest.raises(errors.SecondFactorStateError):
        second_factor.turn_on(any_app, ann, token, enrolment, pyotp.TOTP(enrolment.seed).now())


def test_a_step_each_way() -> None:
    """The code before, this one and the next are taken; those beyond are not."""
    seed = second_factors.make_seed()
    totp = pyotp.TOTP(seed)
    now = second_factors.current_step()
    for offset in range(-3, 4):
        found = second_factors.match_step(seed, totp.generate_otp(now + offset), now=now)
        assert found == (now + offset if abs(offset) <= 1 else None)


def test_rfc_6238() -> None:
    """The vectors of RFC 6238 (SHA-1), cut to six digits."""
    seed = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    for seconds, code in ((59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")):
        assert second_factors.match_step(seed, code, now=seconds // second_factors.STEP_S) is not None


def test_a_code_is_taken_once(any_app: Application) -> None:
    """The first code signs nobody in; a replay is refused; an older code is refused after a newer one."""
    ann, token = come_in(any_app)
    phone = Phone(any_app, ann, token)
    with pytest.raises(errors.BadCodeError):
        second_factor.sign_in(any_app, show_password(any_app), phone.first)
    code = phone.fresh()
    assert second_factor.sign_in(any_app, show_password(any_app), code)
    with pytest.raises(errors.BadCodeError):
        second_factor.sign_in(any_app, show_password(any_app), code)
    change(any_app, "UPDATE second_factor SET last_step = last_step + 1")
    with pytest.raises(errors.BadCodeError):
        second_factor.sign_in(any_app, show_password(any_app), phone.now())


@pytest.mark.parametrize("kind", ["app", "recovery"])
def test_two_tabs_with_one_code(kind: str, any_app: Application) -> None:
    """Six tabs, each with its own step, send the same code at the same moment: one gets in."""
    ann, token = come_in(any_app)
    phone = Phone(any_app, ann, token)
    steps = [show_password(any_app) for _ in range(6)]
    code = phone.fresh() if kind == "app" else phone.recovery_codes[0]
    assert enter_at_once(any_app, [(step, code) for step in steps]).count("in") == 1


def test_one_step_with_many_codes(any_app: Application) -> None:
    """A step opens one session, however many right codes are shown for it at once."""
    ann, token = come_in(any_app)
    phone = Phone(any_app, ann, token)
    step = show_password(any_app)
    outcomes = enter_at_once(any_app, [(step, code) for code in phone.recovery_codes[:6]])
    assert outcomes.count("in") == 1
    state = second_factor.get_state(any_app, ann)
    assert state is not None
    assert state.recovery_codes == 9


def enter_at_once(app: Application, shown: list[tuple[str, str]]) -> list[str]:
    """Send pairs of step and code at the same moment; gives `in`, or the code of each refusal."""
    barrier = threading.Barrier(len(shown))

    def client(pair: tuple[str, str]) -> str:
        barrier.wait()
        try:
            second_factor.sign_in(app, *pair)
        except errors.VisionMeterError as error:
            return error.code
        return "in"

    with ThreadPoolExecutor(len(shown)) as clients:
        return list(clients.map(client, shown))


def test_a_step_ends(any_app: Application) -> None:
    """After five minutes, after five wrong codes, with a new password, and when it was used: none opens anything."""
    ann, token = come_in(any_app)
    phone = Phone(any_app, ann, token)
    waiting = show_password(any_app)
    change(any_app, "UPDATE sign_in_step SET expires_at = :past", past=PAST)
    guessed = show_password(any_app)
    for _ in range(5):
        with pytest.raises(errors.BadCodeError):
            second_factor.sign_in(any_app, guessed, "wrong-wrong-wrong-wrong")
    old = show_password(any_app)
    profile.change_password(any_app, ann, token, PASSWORD, NEW_PASSWORD)
    used = show_password(any_app, password=NEW_PASSWORD)
    assert second_factor.sign_in(any_app, used, phone.fresh())
    for step in (waiting, guessed, old, used, "made up", ""):
        with pytest.raises(errors.SignInStepError):
            second_factor.sign_in(any_app, step, phone.recovery_codes[0])
    state = second_factor.get_state(any_app, ann)
    assert state is not None
    assert state.recovery_codes == 10


def test_brute_force(open_app: OpenApp, database_url: str) -> None:
    """Guesses are counted for the person, whatever step or address; his recovery code and others still get in."""
    app = open_app(database_url=database_url, sign_in_attempts_max=3)
    ann, token = come_in(app)
    bob, bobs = come_in(app, BOB)
    phone, other = Phone(app, ann, token), Phone(app, bob, bobs)
    for number in range(3):
        with pytest.raises(errors.BadCodeError):
            second_factor.sign_in(app, show_password(app), phone.wrong(), address=f"203.0.113.{number}")
    right = phone.fresh()
    with pytest.raises(errors.TooManyAttemptsError):
        second_factor.sign_in(app, show_password(app), right)
    assert second_factor.sign_in(app, show_password(app, BOB), other.fresh())
    assert second_factor.sign_in(app, show_password(app), phone.recovery_codes[0])
    change(app, "UPDATE sign_in_attempt SET created_at = :past", past=PAST)
    assert second_factor.sign_in(app, show_password(app), phone.fresh())


def test_guesses_all_at_once(open_app: OpenApp, database_url: str) -> None:
    """Twenty guesses at the same moment count one by one: no more than the limit are looked at."""
    app = open_app(database_url=database_url, sign_in_attempts_max=3)
    ann, token = come_in(app)
    phone = Phone(app, ann, token)
    step = show_password(app)
    outcomes = enter_at_once(app, [(step, phone.wrong())] * 20)
    assert outcomes.count("bad_code") <= 3
    assert set(outcomes) <= {"bad_code", "too_many_attempts", "sign_in_step_ended"}


def test_a_hundred_in_a_row(any_app: Application) -> None:
    """Then no code of the app is taken, also the right one; a recovery code opens it again."""
    ann, token = come_in(any_app)
    phone = Phone(any_app, ann, token)
    change(any_app, "UPDATE second_factor SET failures = :n", n=second_factors.FAILURES_MAX - 1)
    with pytest.raises(errors.BadCodeError):
        second_factor.sign_in(any_app, show_password(any_app), phone.wrong())
    with pytest.raises(errors.SecondFactorLockedError):
        second_factor.sign_in(any_app, show_password(any_app), phone.fresh())
    assert second_factor.sign_in(any_app, show_password(any_app), phone.recovery_codes[0])
    assert second_factor.sign_in(any_app, show_password(any_app), phone.fresh())


def test_from_one_network(open_app: OpenApp) -> None:
    """Codes count by network address, too; another network goes on."""
    app = open_app(rate_sign_ins=2)
    ann, token = come_in(app)
    phone = Phone(app, ann, token)
    for _ in range(2):
        with pytest.raises(errors.SignInStepError):
            second_factor.sign_in(app, "made up", "000000", address="203.0.113.7")
    with pytest.raises(errors.TooManyFromHereError):
        second_factor.sign_in(app, show_password(app), phone.fresh(), address="203.0.113.7")
    assert second_factor.sign_in(app, show_password(app), phone.fresh(), address="203.0.113.8")


def test_another_persons_codes(any_app: Application) -> None:
    """A step is its user's: neither the code nor the recovery code of another opens it; nor is his used up by that."""
    ann, token = come_in(any_app)
    bob, bobs = come_in(any_app, BOB)
    Phone(any_app, ann, token)
    other = Phone(any_app, bob, bobs)
    step = show_password(any_app)
    for code in (other.fresh(), other.recovery_codes[0]):
        with pytest.raises(errors.BadCodeError):
            second_factor.sign_in(any_app, step, code)
    assert second_factor.sign_in(any_app, show_password(any_app, BOB), other.now())
    assert second_factor.sign_in(any_app, show_password(any_app, BOB), other.recovery_codes[0])


def test_nobody_learns_of_it_before_the_password(any_app: Application) -> None:
    """With a wrong password, somebody with a second factor, somebody without and nobody get the same answer."""
    ann, token = come_in(any_app)
    come_in(any_app, BOB)
    Phone(any_app, ann, token)
    answers = set()
    for email in (ANN, BOB, "nobody@example.com"):
        with pytest.raises(errors.BadCredentialsError) as refused:
            sign_in.sign_in(any_app, email, "wrong horse battery")
        answers.add((refused.value.code, refused.value.message, str(refused.value.details)))
    assert len(answers) == 1


def test_a_sign_in_under_way_while_it_is_turned_on(any_app: Application) -> None:
    """Sign-ins by password that race with turning it on: none of them has a session afterwards."""
    ann, token = come_in(any_app)
    enrolment = second_factor.begin(any_app, ann, PASSWORD)
    tickets: list[str] = []
    barrier = threading.Barrier(4)

    def client(_number: int) -> None:
        barrier.wait()
        for _ in range(2):
            try:
                tickets.append(sign_in.sign_in(any_app, ANN, PASSWORD))
            except errors.SecondFactorNeededError:
                pass

    def owner() -> None:
        barrier.wait()
        second_factor.turn_on(any_app, ann, token, enrolment, pyotp.TOTP(enrolment.seed).now())

    with ThreadPoolExecutor(4) as clients:
        done = [clients.submit(client, number) for number in range(3)] + [clients.submit(owner)]
        for one in done:
            one.result()
    for ticket in tickets:
        with pytest.raises(errors.SignInTicketError):
            sign_in.open_session(any_app, ticket)


def test_a_stolen_cookie(any_app: Application) -> None:
    """Without the password it neither turns it off nor makes codes; it dies soon after it is turned on."""
    ann, token = come_in(any_app)
    stolen = token
    phone = Phone(any_app, ann, token)
    with any_app.db.read() as session:
        ends_at = session.execute(
            text("SELECT MAX(expires_at) FROM user_session WHERE revoked_at IS NULL")
        ).scalar_one()
    assert str(ends_at)[:19] <= str((utcnow() + second_factor.CODES_SHOWN_FOR).replace(tzinfo=None))[:19]
    with pytest.raises(errors.BadCredentialsError):
        second_factor.turn_off(any_app, ann, "guess", phone.recovery_codes[0])
    with pytest.raises(errors.BadCredentialsError):
        second_factor.renew_recovery_codes(any_app, ann, "guess", phone.recovery_codes[0])
    second_factor.renew_session(any_app, ann, token)
    assert sign_in.signed_in_user(any_app, stolen) is None


def test_programs_go_on(any_app: Application) -> None:
    """An API key made before works after it is turned on, as do those made later: no code is asked for."""
    ann, token = come_in(any_app)
    before = api_keys.create_key(any_app, ann, KeySettings("before"))
    Phone(any_app, ann, token)
    after = api_keys.create_key(any_app, ann, KeySettings("after"))
    for made in (before, after):
        assert api_keys.authenticate(any_app, made.secret, None).account_id == ann.account_id


def test_password_deletion_export(any_app: Application) -> None:
    """A new password keeps it; an export says since when and no secret; a deleted account leaves nothing of it."""
    come_in(any_app, "operator@example.com")
    ann, token = come_in(any_app)
    phone = Phone(any_app, ann, token)
    changed = profile.change_password(any_app, ann, token, PASSWORD, NEW_PASSWORD)
    assert sign_in.open_session(any_app, changed.ticket)
    show_password(any_app, password=NEW_PASSWORD)
    archive = io.BytesIO()
    my_data.write_my_data(any_app, ann, archive)
    with zipfile.ZipFile(archive) as files:
        everything = "".join(files.read(name).decode() for name in files.namelist())
        profiled = json.loads(files.read("profile.json"))
    assert profiled["second_factor_since"]
    with any_app.db.read() as session:
        sealed = session.execute(text("SELECT sealed_seed FROM second_factor")).scalar_one()
    for secret in (phone.totp.secret, sealed, *phone.recovery_codes):
        assert secret not in everything
    closing.delete_account(any_app, ann, NEW_PASSWORD, forfeit_mt=20_000)
    with any_app.db.read() as session:
        for table in ("second_factor", "recovery_code", "sign_in_step"):
            assert session.execute(text(f"SELECT COUNT(*) FROM {table}")).scalar_one() == 0


def test_a_removed_member(any_app: Application) -> None:
    """Whoever is removed from a team waits for no code any more, and leaves no seed."""
    owner, _token = come_in(any_app, "owner@example.com")
    code = team.invite_member(any_app, owner, ANN, "member")
    token = sign_in.open_session(any_app, sign_in.sign_up(any_app, ANN, PASSWORD, invitation=code))
    ann = sign_in.signed_in_user(any_app, token)
    assert ann is not None
    phone = Phone(any_app, ann, token)
    step = show_password(any_app)
    team.remove_member(any_app, owner, ann.id)
    with pytest.raises(errors.SignInStepError):
        second_factor.sign_in(any_app, step, phone.recovery_codes[0])
    with pytest.raises(errors.BadCredentialsError):
        second_factor.turn_off(any_app, ann, PASSWORD, phone.recovery_codes[0])
    with any_app.db.read() as session:
        assert session.execute(text("SELECT COUNT(*) FROM second_factor")).scalar_one() == 0


def test_no_secret_is_stored(any_app: Application) -> None:
    """Neither the seed nor a recovery code nor a step stands in any table; the key's file is for its owner alone."""
    ann, token = come_in(any_app)
    phone = Phone(any_app, ann, token)
    step = show_password(any_app)
    with any_app.db.read() as session:
        stored = "".join(
            str(row)
            for table in ("second_factor", "recovery_code", "sign_in_step", "audit_event", "sign_in_attempt")
            for row in session.execute(text(f"SELECT * FROM {table}"))
        )
    plain = [code.replace("-", "") for code in phone.recovery_codes]
    for secret in (phone.totp.secret, step, *phone.recovery_codes, *plain):
        assert secret not in stored
    path = seed_key.key_file(any_app.settings)
    assert path is not None
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.glob(f".{seed_key.FILE_NAME}*")] == []


def test_a_row_of_another(any_app: Application) -> None:
    """Whoever can write to the database gives nobody else's row his own seed: it is bound to its user."""
    ann, token = come_in(any_app)
    bob, bobs = come_in(any_app, BOB)
    Phone(any_app, ann, token)
    other = Phone(any_app, bob, bobs)
    change(
        any_app,
        "UPDATE second_factor SET sealed_seed = (SELECT sealed_seed FROM second_factor WHERE user_id = :bob)",
        bob=bob.id,
    )
    with pytest.raises(errors.SeedKeyError):
        second_factor.sign_in(any_app, show_password(any_app), other.fresh())


def test_a_lost_key(any_app: Application) -> None:
    """A recovery code still lets in; the doctor says what to do; no second key is made; the operator resets."""
    operator, _token = come_in(any_app, "operator@example.com")
    ann, token = come_in(any_app)
    phone = Phone(any_app, ann, token)
    path = seed_key.key_file(any_app.settings)
    assert path is not None
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(errors.SeedKeyError):
        second_factor.sign_in(any_app, show_password(any_app), phone.fresh())
    bob, bobs = come_in(any_app, BOB)
    with pytest.raises(errors.SeedKeyError):
        Phone(any_app, bob, bobs)
    assert not path.exists()
    found = [one for one in doctor.examine(any_app.settings) if one.subject == "sign-in"]
    assert [one.level for one in found] == ["problem"]
    assert "reset-second-factor" in found[0].sentence
    session_token = sign_in.open_session(
        any_app, second_factor.sign_in(any_app, show_password(any_app), phone.recovery_codes[0])
    )
    for broken in (b"no key", b"c2hvcnQ=", b"\xff\xff"):
        path.write_bytes(broken)
        with pytest.raises(errors.SeedKeyError):
            second_factor.sign_in(any_app, show_password(any_app), phone.now())
    path.write_bytes(kept)
    assert second_factor.sign_in(any_app, show_password(any_app), phone.now())
    with pytest.raises(errors.NotAllowedError):
        second_factor.reset(any_app, bob, ann.id)
    with pytest.raises(errors.NotAllowedError):
        second_factor.reset(any_app, operator, operator.id)
    second_factor.reset(any_app, operator, ann.id)
    assert sign_in.signed_in_user(any_app, session_token) is None
    assert sign_in.sign_in(any_app, ANN, PASSWORD)
    with pytest.raises(errors.SecondFactorStateError):
        second_factor.reset(any_app, operator, ann.id)
    newest = audit_trail.list_trail(any_app, operator, limit=20)
    assert any(line.event.action == "second_factor.reset" and line.event.actor == operator.id for line in newest)


def test_the_first_two_keys(any_app: Application) -> None:
    """Eight who make the key at once get the same one."""
    with ThreadPoolExecutor(8) as makers:
        keys = set(makers.map(lambda _number: seed_key.make_key(any_app.settings).id, range(8)))
    assert len(keys) == 1


def test_reset_by_command(any_app: Application, sign_up: Callable[..., User]) -> None:
    """By address, however it is typed; who has none, and who is nobody, is said so."""
    ann, token = come_in(any_app)
    sign_up(any_app, BOB)
    Phone(any_app, ann, token)
    step = show_password(any_app)
    assert [second_factor.reset_by_command(any_app.db, who) for who in (BOB, "nobody", f" {ANN.upper()}", ANN)] == [
        False,
        False,
        True,
        False,
    ]
    with pytest.raises(errors.SignInStepError):
        second_factor.sign_in(any_app, step, "000000")
    assert actions(any_app, ann)[-1] == "second_factor.reset"

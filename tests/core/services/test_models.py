"""An operator's models: added whole or not at all, replaced, tried on a share, rolled back, retired."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from core.errors import (
    CanaryNotFoundError,
    InvalidModelError,
    ModelNameTakenError,
    ModelNotFoundError,
    ModelRetiredError,
    NotAllowedError,
    VisionMeterError,
    WeightsFolderError,
    WeightsRefusedError,
)
from core.identity.audit_log import list_events
from core.identity.tables import User
from core.inference.registry import Registry
from core.inference.weights import hash_file
from core.jobs.blobs import hash_bytes
from core.pricing.book import Prices, adopt_book, adopt_published, current_prices, read_book
from core.services import admin, models
from core.services.account_view import JobView
from core.services.application import Application
from core.services.detect import detect
from core.services.metered_detection import submit_quote
from core.services.model_watch import ModelWatcher
from core.services.models import ModelDesk
from core.services.quotes import prepare_image, quote_batch
from core.services.stages import Stages
from tests.conftest import MODEL
from tests.core.inference.test_weights import checkpoint, hostile_pickles
from tests.core.services.helpers import pictures, statuses, wait
from tests.other_weights import make_other_weights
from tests.quantized import MANIFEST

OTHER = "yolov8s"  # in the built-in catalogue, and open to any weights
OWN = "helmets-1.2"
SEED = 20_261_127


@pytest.fixture(scope="module")
def weights(weights_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three versions of a model."""
    folder = tmp_path_factory.mktemp("versions")
    paths = [weights_dir / f"{MODEL}.pt", folder / "1.pt", folder / "2.pt"]
    for number in (1, 2):
        make_other_weights(paths[0], paths[number], seed=SEED + number)
    return paths


@dataclass
class Shop:
    """An application with a weights folder of its own, its operator, and a customer."""

    app: Application
    desk: ModelDesk
    operator: User
    customer: User
    folder: Path

    def prices(self) -> Prices:
        with self.app.db.read() as session:
            return current_prices(session)

    def actions(self) -> list[str]:
        """What the audit log says of models, oldest first."""
        with self.app.db.read() as session:
            events = list_events(session, limit=100)
        return [event.action for event in reversed(events) if event.action.startswith("model.")]

    def files(self) -> list[str]:
        """Everything in the weights folder."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def run(self, quote_of: str, files: dict[str, bytes]) -> JobView:
        """Submit a stored quote and wait."""
        by_hash = {hash_bytes(data): data for data in files.values()}
        return wait(self.app, self.customer, submit_quote(self.app, self.customer, quote_of, by_hash))

    def quote(self, model: str, files: dict[str, bytes]):
        images = [prepare_image(self.app, name, data) for name, data in files.items()]
        return quote_batch(self.app, self.customer, images, model=model, img_size=320)


@pytest.fixture
def shop(
    open_app: Callable[..., Application], sign_up: Callable[..., User], tmp_path: Path, weights_dir: Path
) -> Iterator[Shop]:
    folder = tmp_path / "weights"
    folder.mkdir()
    shutil.copy(weights_dir / f"{MODEL}.pt", folder)
    app = open_app(weights_dir=folder)
    operator, customer = sign_up(app), sign_up(app, "bob@example.com")
    return Shop(app, models.open_desk(app, operator), operator, customer, folder)


def add(shop: Shop, weights: bytes | Path, **changes: object) -> None:
    """A model of the operator's own."""
    wanted = {"name": OWN, "title": "Helmets", "beta": Decimal("1.5"), **changes}
    models.add_model(shop.desk, weights=weights, **wanted)


# Adding -------------------------------------------------------------------------------------------


def test_a_model_is_added_priced_and_runs(
    shop: Shop, weights: list[Path], start_runner: Callable[[Application], object]
) -> None:
    """In the catalogue with its classes, in a new price list beside the old rates, and a customer is charged by it.

    Another process that opened the folder before finds it, too.
    """
    elsewhere = Registry(shop.folder)
    before = shop.prices()
    add(shop, weights[1])
    model = shop.app.registry.get(OWN)
    assert (model.title, model.file, model.sha256, model.embedded) == ("Helmets", f"{OWN}.pt", None, False)
    assert sorted(model.classes.split(", ")) == ["Fall", "Normal"]
    after = shop.prices()
    assert after.betas == {**before.betas, OWN: Decimal("1.5")}
    assert (after.alpha, after.minimum, after.discounts, after.late_rules) == (
        *(before.alpha, before.minimum, before.discounts, before.late_rules),
    )
    assert elsewhere.get(OWN) == model
    assert shop.actions() == ["model.add"]
    assert shop.files() == ["catalog.json", f"{OWN}.pt", f"{MODEL}.pt"]
    assert OWN in {view.model.name for view in admin.list_models(shop.app)}

    files = pictures(2)
    quoted = shop.quote(OWN, files)
    assert quoted.total_mt == 2 * 375  # β 1.5 on 320 × 320
    start_runner(shop.app)
    assert statuses(shop.run(quoted.id, files)) == ["charged"] * 2


def test_an_upgrade_keeps_the_rates_of_own_models(shop: Shop, weights: list[Path]) -> None:
    """A published list that is new comes into force with them; its own rates are those that were published."""
    add(shop, weights[1])
    published = read_book().version
    with shop.app.db.write() as session:
        session.connection().exec_driver_sql("PRAGMA foreign_keys = OFF")
        for table, column in (("rate", "price_version"), ("price_book", "version")):
            session.connection().exec_driver_sql(f"DELETE FROM {table} WHERE {column} = '{published}'")
    with shop.app.db.write() as session:
        adopt_published(session)
        assert current_prices(session).version == published
        assert current_prices(session).betas[OWN] == Decimal("1.5")
        adopt_book(session, Prices("9999", Decimal(1), Decimal(1), {}))
        adopt_published(session)
        assert current_prices(session).version == "9999", "what is known is not put in force again"


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        *[
            ({"name": name}, InvalidModelError, "name")
            for name in ("", "Helmets", "../x", ".x", "a/b", "a b", "ü", "x" * 61)
        ],
        *[({"name": name}, ModelNameTakenError, None) for name in (MODEL, OTHER)],
        *[({"title": title}, InvalidModelError, "title") for title in ("", "  ", "a\nb", "x" * 81)],
        *[({"beta": Decimal(b)}, InvalidModelError, "beta") for b in ("0", "-1", "1001", "0.00001", "NaN", "Infinity")],
    ],
)
def test_what_no_model_can_be_called_or_cost(
    shop: Shop, weights: list[Path], changes: dict[str, object], error: type[VisionMeterError], field: str | None
) -> None:
    """Refused before the file is looked at, and nothing changed."""
    files, before = shop.files(), shop.prices()
    with pytest.raises(error) as caught:
        add(shop, weights[1], **changes)
    assert caught.value.details.get("field") == field
    assert (shop.files(), shop.prices(), shop.actions()) == (files, before, [])


@pytest.mark.parametrize(
    "what", ["hostile", "another hostile", "text", "half a file", "too large", "no file", "does not run"]
)
def test_weights_that_are_refused_leave_nothing(shop: Shop, weights: list[Path], tmp_path: Path, what: str) -> None:
    """One sentence; nothing that the file names is executed; folder, prices and audit log are as they were."""
    marker = tmp_path / "marker"
    hostile = hostile_pickles(marker)
    data = weights[1].read_bytes()
    wrong: bytes | Path = {
        "hostile": checkpoint(hostile["reduce"]),
        "another hostile": checkpoint(hostile["dotted global"]),
        "text": b"no checkpoint",
        "half a file": data[: len(data) // 2],
        "too large": data,
        "no file": tmp_path / "nowhere.pt",
        "does not run": checkpoint(pickle.dumps({"model": None}, protocol=2)),
    }[what]
    if what == "too large":
        shop.desk = ModelDesk(shop.app.db, shop.app.registry, "x", len(data) - 1)
    files, before = shop.files(), shop.prices()
    with pytest.raises(WeightsRefusedError) as caught:
        add(shop, wrong)
    assert ".new.pt" not in caught.value.message
    assert not marker.exists()
    assert (shop.files(), shop.prices(), shop.actions()) == (files, before, [])
    with pytest.raises(ModelNotFoundError):
        shop.app.registry.get(OWN)
    shutil.copy(weights[0], shop.folder / f"{OTHER}.pt")
    for change in (
        lambda: models.replace_weights(shop.desk, OTHER, wrong),
        lambda: models.start_canary(shop.desk, OTHER, wrong, percent=5),
    ):
        with pytest.raises(WeightsRefusedError):
            change()
    assert not marker.exists()
    assert shop.files() == sorted([*files, f"{OTHER}.pt"])


def test_a_failure_at_the_end_leaves_nothing(shop: Shop, weights: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the database refuses at the commit, file and entry go again, and the same model can be added after it."""
    files = shop.files()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the database is gone")

    with monkeypatch.context() as patch:
        patch.setattr(models, "record_event", fail)
        with pytest.raises(RuntimeError):
            add(shop, weights[1])
    assert shop.files() == files
    assert OWN not in shop.prices().betas
    add(shop, weights[1])
    assert OWN in shop.prices().betas


def test_a_name_is_taken_once(shop: Shop, weights: list[Path]) -> None:
    """Neither a second model nor a stranger's file of that name is written over."""
    add(shop, weights[1])
    with pytest.raises(ModelNameTakenError):
        add(shop, weights[2])
    (shop.folder / "mine.pt").write_bytes(b"kept by somebody")
    with pytest.raises(ModelNameTakenError):
        add(shop, weights[2], name="mine")
    assert (shop.folder / "mine.pt").read_bytes() == b"kept by somebody"
    assert (shop.folder / f"{OWN}.pt").read_bytes() == weights[1].read_bytes()


def test_only_an_operator(shop: Shop) -> None:
    """A customer gets no desk."""
    with pytest.raises(NotAllowedError):
        models.open_desk(shop.app, shop.customer)


def test_a_folder_that_cannot_be_written(shop: Shop, weights: list[Path], tmp_path: Path) -> None:
    """A sentence that names it."""
    (tmp_path / "file").write_bytes(b"")
    desk = ModelDesk(shop.app.db, Registry(tmp_path / "file" / "weights"), models.COMMAND, 10**9)
    with pytest.raises(WeightsFolderError, match="file/weights"):
        models.add_model(desk, name=OWN, title="Helmets", weights=weights[1], beta=Decimal(1))
    with pytest.raises(WeightsFolderError, match="file/weights"):
        models.retire_model(desk, OTHER)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"models": [{"name": "yolov8s"}]}',
        '{"models": [{"name": "a", "file": "../a.pt", "title": "", "classes": ""}]}',
        '{"models": {}, "retired": []}',
        '{"retired": "x"}',
        '{"models": [{"name": "a", "file": "a.pt"}]}',
        '{"models": [{"name": "a", "file": "a.pt", "title": "", "classes": "", "sha256": 1}]}',
    ],
)
def test_a_catalogue_that_cannot_be_read(shop: Shop, content: str) -> None:
    """What was known goes on, and nobody writes over it."""
    models.retire_model(shop.desk, OTHER)
    path = shop.folder / "catalog.json"
    assert json.loads(path.read_text()) == {"models": [], "retired": [OTHER]}
    assert shop.app.registry.is_retired(OTHER)
    path.write_text(content)
    assert shop.app.registry.is_retired(OTHER)
    with pytest.raises(WeightsFolderError):
        models.offer_model(shop.desk, OTHER)
    assert path.read_text() == content
    assert shop.actions() == ["model.retire"]


def test_classes_are_words() -> None:
    """They come out of a stranger's file: no markup, no control signs, a few of them."""
    assert models.describe_classes(["hard hat", "no_hat"]) == "hard hat, no_hat"
    assert models.describe_classes(["[x](http://y)\n<b>", "人"]) == "x http y b, 人"
    assert models.describe_classes([f"c{n}" for n in range(80)]) == "c0, c1, c2, c3, c4, c5, … (80)"
    assert len(models.describe_classes(["x" * 1000])) == models.CLASS_LENGTH_MAX


# New weights, and the way back --------------------------------------------------------------------


def test_what_a_quantized_version_was_made_from(tmp_path: Path) -> None:
    """It is known where it is a version of the model or comes with the installation, and else the operator is told."""
    registry, named = Registry(tmp_path), MANIFEST.weights_sha256
    assert not models.is_origin_known(registry, "yolov8s", MANIFEST)
    registered = MANIFEST.model_copy(update={"weights_sha256": registry.get(MODEL).sha256})
    assert models.is_origin_known(registry, "yolov8s", registered)
    (tmp_path / "versions" / "yolov8s").mkdir(parents=True)
    (tmp_path / "versions" / "yolov8s" / f"{named}.pt").touch()
    assert models.is_origin_known(registry, "yolov8s", MANIFEST)
    assert not models.is_origin_known(registry, "yolov8n", MANIFEST)


def test_replaced_and_rolled_back(shop: Shop, weights: list[Path]) -> None:
    """The watch switches to what was put in place, and back; the versions say which is served."""
    shutil.copy(weights[0], shop.folder / f"{OTHER}.pt")
    watcher = ModelWatcher(shop.app)
    watcher.check()
    old = shop.app.registry.resolve(OTHER)
    new = models.replace_weights(shop.desk, OTHER, weights[1].read_bytes())
    assert shop.app.registry.resolve(OTHER) == old, "until it is warm"
    watcher.check()
    assert shop.app.registry.resolve(OTHER).sha256 == new
    listed = models.list_versions(shop.desk, OTHER)
    assert [(view.version.sha256, view.served) for view in listed] == [(new, True), (old.sha256, False)]
    with pytest.raises(InvalidModelError):
        models.replace_weights(shop.desk, OTHER, weights[1])

    models.roll_back(shop.desk, OTHER, old.version)
    watcher.check()
    assert shop.app.registry.resolve(OTHER).sha256 == old.sha256
    assert shop.actions() == ["model.replace", "model.switch", "model.roll_back", "model.switch"]


def test_onnx_weights_go_every_way(
    shop: Shop, weights: list[Path], onnx_weights: Path, start_runner: Callable[[Application], object]
) -> None:
    """Added, run and paid; a pickle takes its place, and it comes back; each by the bytes of a file without a name."""
    add(shop, onnx_weights.read_bytes())
    assert shop.files() == ["catalog.json", f"{OWN}.onnx", f"{MODEL}.pt"]
    registry, watcher = shop.app.registry, ModelWatcher(shop.app)
    watcher.check()
    first = registry.now(OWN)
    assert first.sha256 == hash_file(onnx_weights)
    assert shop.app.registry.is_kept(first)
    files = pictures(1)
    quoted = shop.quote(OWN, files)
    start_runner(shop.app)
    assert statuses(shop.run(quoted.id, files)) == ["charged"]
    assert shop.app.engine.backends[first.sha256] == "openvino fp32"
    with pytest.raises(ModelNameTakenError):
        add(shop, weights[1])

    models.replace_weights(shop.desk, OWN, weights[1].read_bytes())
    watcher.check()
    assert registry.now(OWN).sha256 == hash_file(weights[1])
    assert {f"{OWN}.pt", f"{OWN}.onnx"} & set(shop.files()) == {f"{OWN}.pt"}
    assert {view.version.sha256 for view in models.list_versions(shop.desk, OWN)} == {
        first.sha256,
        hash_file(weights[1]),
    }
    models.roll_back(shop.desk, OWN, first.version)
    watcher.check()
    assert registry.now(OWN).sha256 == first.sha256
    assert registry.look(OWN).path.suffix == ".onnx"


def test_registered_weights_cannot_be_others(shop: Shop, weights: list[Path]) -> None:
    """The embedded model is what its SHA-256 says, in place and on a share."""
    with pytest.raises(WeightsRefusedError):
        models.replace_weights(shop.desk, MODEL, weights[1])
    with pytest.raises(WeightsRefusedError):
        models.start_canary(shop.desk, MODEL, weights[1], percent=5)
    assert shop.actions() == []


# Retirement ---------------------------------------------------------------------------------------


def test_a_retired_model_takes_no_quotes_and_keeps_what_it_gave(
    shop: Shop, start_runner: Callable[[Application], object]
) -> None:
    """No new quote in any process; what was quoted before runs; offered again, the same pictures are free."""
    elsewhere, files = Registry(shop.folder), pictures(2)
    quoted = shop.quote(MODEL, files)
    models.retire_model(shop.desk, MODEL)
    models.retire_model(shop.desk, MODEL)
    for registry in (shop.app.registry, elsewhere):
        with pytest.raises(ModelRetiredError):
            registry.resolve(MODEL)
    with pytest.raises(ModelRetiredError):
        shop.quote(MODEL, files)
    assert MODEL not in {view.model.name for view in admin.list_models(shop.app)}
    start_runner(shop.app)
    view = shop.run(quoted.id, files)
    assert statuses(view) == ["charged"] * 2

    models.offer_model(shop.desk, MODEL)
    assert shop.quote(MODEL, files).total_mt == 0
    assert shop.actions() == ["model.retire", "model.offer"]


# A share of the accounts --------------------------------------------------------------------------


def served(shop: Shop, registry: Registry) -> dict[str, str]:
    """Which version each of 200 accounts meets."""
    return {f"acc_{n}": registry.resolve(OTHER, account_id=f"acc_{n}").sha256 for n in range(200)}


def test_a_share_of_the_accounts_meets_the_new_version(shop: Shop, weights: list[Path]) -> None:
    """About so many, each always the same one, in two processes alike; a larger share takes none of them away.

    After the promotion everybody, also where the watch has not looked; and nobody that has it not warm.
    """
    shutil.copy(weights[0], shop.folder / f"{OTHER}.pt")
    registry, watcher = shop.app.registry, ModelWatcher(shop.app)
    watcher.check()
    second = Registry(shop.folder)
    old = registry.resolve(OTHER).sha256
    new = models.start_canary(shop.desk, OTHER, weights[1], percent=25).sha256
    first_share = served(shop, registry)
    chosen = {account for account, sha256 in first_share.items() if sha256 == new}
    # Which accounts depends on the weights: five standard deviations around a quarter, and below around three fifths.
    assert 20 <= len(chosen) <= 81
    assert served(shop, registry) == first_share
    assert set(served(shop, second).values()) == {old}, "not warm there"
    second.canaries.admit(OTHER, new)
    assert served(shop, second) == first_share
    assert registry.resolve(OTHER).sha256 == old, "without an account"
    (canary,) = [view for view in models.list_versions(shop.desk, OTHER) if view.canary_percent]
    assert (canary.version.sha256, canary.canary_percent, canary.served) == (new, 25, False)

    models.start_canary(shop.desk, OTHER, None, percent=60)
    larger = {account for account, sha256 in served(shop, second).items() if sha256 == new}
    assert chosen < larger
    assert 85 <= len(larger) <= 155

    models.promote(shop.desk, OTHER)
    assert set(served(shop, registry).values()) == set(served(shop, second).values()) == {new}
    watcher.check()
    assert registry.served(OTHER).sha256 == new
    assert set(served(shop, registry).values()) == {new}
    with pytest.raises(CanaryNotFoundError):
        models.stop_canary(shop.desk, OTHER)

    models.roll_back(shop.desk, OTHER, old[:12])
    watcher.check()
    assert set(served(shop, registry).values()) == set(served(shop, second).values()) == {old}


def test_a_share_that_is_stopped(
    shop: Shop, weights: list[Path], start_runner: Callable[[Application], object]
) -> None:
    """At once nobody meets it, in no process; what was quoted with it runs with it. A watch warms a canary itself."""
    shutil.copy(weights[0], shop.folder / f"{OTHER}.pt")
    watcher = ModelWatcher(shop.app)
    watcher.check()
    command = ModelDesk(shop.app.db, Registry(shop.folder), models.COMMAND, 10**9)
    new = models.start_canary(command, OTHER, weights[1], percent=100).sha256
    assert new not in served(shop, shop.app.registry).values()
    watcher.check()
    assert set(served(shop, shop.app.registry).values()) == {new}
    assert new in shop.app.engine.backends
    files = pictures(1)
    quoted = shop.quote(OTHER, files)
    assert quoted.model_version == new[:12]

    start_runner(shop.app)
    answer = detect(
        *(shop.app, shop.customer, pictures(1, seed=2)["0.png"]),
        **{"name": "x.png", "model": OTHER, "img_size": 320, "stages": Stages()},
    )
    assert answer.job.model_version == new[:12]

    models.stop_canary(command, OTHER)
    assert new not in served(shop, shop.app.registry).values()
    view = shop.run(quoted.id, files)
    assert (statuses(view), view.job.model_version) == (["charged"], new[:12])
    for wrong in (lambda: models.promote(command, OTHER), lambda: models.start_canary(command, OTHER, None, percent=5)):
        with pytest.raises(CanaryNotFoundError):
            wrong()
    assert shop.actions() == ["model.canary", "model.stop_canary"]


@pytest.mark.parametrize("percent", [0, 101, -5])
def test_a_share_is_a_percent(shop: Shop, weights: list[Path], percent: int) -> None:
    """From 1 to 100."""
    with pytest.raises(InvalidModelError) as caught:
        models.start_canary(shop.desk, OTHER, weights[1], percent=percent)
    assert caught.value.details == {"field": "percent"}

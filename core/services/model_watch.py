"""New weights go live without dropping a request: tried, loaded beside the old ones, warm, switched to in one step."""

from __future__ import annotations

import logging
import threading

from core.errors import ModelNotReadyError, VisionMeterError
from core.identity.audit_log import record_event
from core.inference.registry import ModelVersion
from core.inference.trial import try_weights
from core.ledger import ledger
from core.services.application import Application

log = logging.getLogger("visionmeter")

WATCH_INTERVAL_S = 2.0


class ModelWatcher:
    """Looks at the files in the weights folder, and puts in service what an operator put there.

    Whoever replaces a file, and however: requests go on with the old version until the new one is warm; from then on
    each new quote names the new one, and what was priced with the old one runs with it. A file that is refused changes
    nothing. Any number of processes may have a watcher, and each writes its own switch into the audit log.
    """

    def __init__(self, app: Application) -> None:
        self._app = app
        # What was refused, by name: it is not tried again until the file is another one.
        self._refused: dict[str, str] = {}
        self._refused_canaries: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="models", daemon=True)

    def start(self) -> None:
        """Take what is there as what is served, then watch."""
        self.check()
        self._thread.start()

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """Watch no more; a model that is being loaded is not waited for longer than this."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def check(self) -> list[ModelVersion]:
        """Look once; gives the versions that were switched to."""
        switched = []
        for model in self._app.registry.models():
            try:
                version = self._check(model.name)
            except ModelNotReadyError:
                self._app.registry.withdraw(model.name)  # its file was taken away, and the model with it
            except (VisionMeterError, OSError) as error:
                self._tell(model.name, error)
            else:
                if version is not None:
                    switched.append(version)
            try:
                self._check_canary(model.name)
            except (VisionMeterError, OSError) as error:
                self._tell(f"canary of {model.name}", error)
        return switched

    def _tell(self, what: str, error: Exception) -> None:
        if self._told.get(what) != str(error):  # every two seconds would be too often
            self._told[what] = str(error)
            log.error("%s: %s", what, error)

    def _check(self, name: str) -> ModelVersion | None:
        registry = self._app.registry
        found, served = registry.look(name), registry.served(name)
        if served is not None and found.sha256 == served.sha256:
            return None
        if self._refused.get(name) == found.sha256:
            return None
        try:
            known = registry.is_kept(found)
            fresh = registry.keep(found)
            if served is not None:
                self._warm(fresh, known=known)
        except VisionMeterError:
            self._refused[name] = found.sha256
            raise
        registry.switch(fresh)
        registry.prune(name)
        if served is not None:
            log.info("%s: version %s takes the place of %s", name, fresh.version, served.version)
            with self._app.db.write() as session:
                details = {"from": served.version, "to": fresh.version, "sha256": fresh.sha256}
                record_event(session, actor=ledger.SYSTEM, action="model.switch", subject=name, details=details)
        return fresh

    def _check_canary(self, name: str) -> None:
        """Warm what is to serve a share of the accounts; it was tried before it was named (`core.services.models`)."""
        canary, canaries = self._app.registry.find_canary(name), self._app.registry.canaries
        if canary is None or canaries.is_warm(name, canary.sha256) or self._refused_canaries.get(name) == canary.sha256:
            return
        try:
            self._app.engine.warm(canary)
        except VisionMeterError:
            self._refused_canaries[name] = canary.sha256
            raise
        canaries.admit(name, canary.sha256)

    def _warm(self, fresh: ModelVersion, *, known: bool) -> None:
        """Load it beside the one that is served. What cannot be loaded is not kept."""
        try:
            if not known:
                try_weights(fresh.path, fresh.sha256, fresh.model.task)
            self._app.engine.warm(fresh)
        except VisionMeterError:
            self._app.registry.forget(fresh)
            raise

    def _work(self) -> None:
        while not self._stopping.wait(WATCH_INTERVAL_S):
            try:
                self.check()
            except Exception:
                # A back end or a disk that fails in its own way: what is served goes on being served.
                log.exception("the watch over the models goes on after an error")

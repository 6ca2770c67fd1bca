"""New weights go live without dropping a request: tried, loaded beside the old ones, warm, switched to in one step."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

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
        # What passed its trial, by name, and could not be kept yet.
        self._tried: dict[str, str] = {}
        self._told: dict[str, str] = {}
        # Files that another one goes before, with their time when it was said.
        self._hidden: dict[Path, int] = {}
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
            except Exception as error:
                # Whatever one model's file makes somebody raise: the models after it are watched all the same.
                self._tell(model.name, error)
            else:
                if version is not None:
                    switched.append(version)
            try:
                self._check_canary(model.name)
            except Exception as error:
                self._tell(f"canary of {model.name}", error)
        return switched

    def _tell(self, what: str, error: Exception) -> None:
        if self._told.get(what) != str(error):  # every two seconds would be too often
            self._told[what] = str(error)
            expected = isinstance(error, VisionMeterError | OSError)
            log.error("%s: %s", what, error, exc_info=None if expected else error)

    def _check(self, name: str) -> ModelVersion | None:
        registry = self._app.registry
        found, served = registry.look(name), registry.served(name)
        self._tell_hidden(found)
        if served is not None and found.sha256 == served.sha256:
            return None
        if self._refused.get(name) == found.sha256:
            return None
        try:
            if served is not None:
                self._try(found)
            fresh = registry.keep(found)
            if served is not None:
                self._warm(fresh)
        except OSError:
            raise  # a disk that is full may be emptied: it is looked at again
        except Exception:
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

    def _tell_hidden(self, found: ModelVersion) -> None:
        """Say once that a newer file is not served, for one of another kind goes before it."""
        for hidden in self._app.registry.hidden_paths(found.model):
            newer = hidden.stat().st_mtime_ns
            if newer > found.path.stat().st_mtime_ns and self._hidden.get(hidden) != newer:
                self._hidden[hidden] = newer
                log.warning(
                    "%s: %s is newer and not served, for %s goes before it: take that away to serve the newer one",
                    *(found.model.name, hidden.name, found.path.name),
                )

    def _check_canary(self, name: str) -> None:
        """Warm what is to serve a share of the accounts; it was tried before it was named (`core.services.models`)."""
        canary, canaries = self._app.registry.find_canary(name), self._app.registry.canaries
        if canary is None or canaries.is_warm(name, canary.sha256) or self._refused_canaries.get(name) == canary.sha256:
            return
        try:
            self._app.engine.warm(canary)
        except OSError:
            raise
        except Exception:
            self._refused_canaries[name] = canary.sha256
            raise
        canaries.admit(name, canary.sha256)

    def _try(self, found: ModelVersion) -> None:
        """Run it in another process, unless it was. Before it is kept: who finds it kept loads it without a trial."""
        name = found.model.name
        if self._tried.get(name) != found.sha256 and not self._app.registry.is_kept(found):
            try_weights(found.path, found.sha256, found.model.task)
            self._tried[name] = found.sha256

    def _warm(self, fresh: ModelVersion) -> None:
        """Load it beside the one that is served. What cannot be loaded is not kept."""
        try:
            self._app.engine.warm(fresh)
        except Exception:
            self._app.registry.forget(fresh)
            raise

    def _work(self) -> None:
        while not self._stopping.wait(WATCH_INTERVAL_S):
            try:
                self.check()
            except Exception:
                # A back end or a disk that fails in its own way: what is served goes on being served.
                log.exception("the watch over the models goes on after an error")

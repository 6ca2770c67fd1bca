"""A throw-away PostgreSQL server on the disk that is measured: real `fsync`, gone afterwards.

Debian keeps the programs in `/usr/lib/postgresql/*/bin`, elsewhere they are on the PATH. PostgreSQL refuses to run as
root, so root hands it to the user `postgres`, as `.ci/run` does.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

SERVER_USER = "postgres"
DATABASE_USER = "visionmeter"
COMMAND_TIMEOUT_S = 600
STARTS_MAX = 5
DURABLE = {"fsync": "on", "synchronous_commit": "on"}


def find_programs() -> Path | None:
    """The folder of the newest `initdb` and `pg_ctl` on this machine, or None."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(folders, key=lambda folder: float(folder.parent.name), default=None)


class Cluster:
    """One server of our own in a folder of its own; settings as `-c name=value`."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self._is_running = False
        self._programs = programs
        self._drop_root: list[str] = []
        if os.geteuid() == 0:
            owner = pwd.getpwnam(SERVER_USER)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            self._drop_root = ["setpriv", f"--reuid={SERVER_USER}", f"--regid={SERVER_USER}", "--clear-groups"]
        self._run(
            "initdb", "-D", self._data, "-U", DATABASE_USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"
        )

    @property
    def url(self) -> str:
        """Its SQLAlchemy URL, over the loopback interface."""
        return f"postgresql+psycopg://{DATABASE_USER}@127.0.0.1:{self.port}/postgres"

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def start(self, settings: Mapping[str, str]) -> None:
        """Start it, on a port that is free now; should another program take that meanwhile, on another one.

        After a stop it comes back on the port that it had, where its clients look for it.
        """
        for attempt in range(STARTS_MAX):
            if attempt or not self.port:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", 0))
                    self.port = int(probe.getsockname()[1])
            options = ["-h 127.0.0.1", f"-p {self.port}", f"-k {self.folder}"]
            options += [f"-c {name}={value}" for name, value in settings.items()]
            log = str(self.folder / "server.log")
            try:
                self._run("pg_ctl", "-D", self._data, "-l", log, "-w", "-o", " ".join(options), "start")
            except subprocess.CalledProcessError:
                if attempt == STARTS_MAX - 1:
                    print(Path(log).read_text(), file=sys.stderr)
                    raise
            else:
                self._is_running = True
                return

    def stop(self, mode: str = "fast") -> None:
        """Stop it if it runs: `fast` writes everything out first, `immediate` is as good as a crash."""
        if self._is_running:
            self._run("pg_ctl", "-D", self._data, "-m", mode, "-w", "stop")
            self._is_running = False

    def _run(self, program: str, *arguments: str) -> None:
        # Into a file: the server keeps the descriptors that pg_ctl was given.
        with (self.folder / "commands.log").open("ab") as output:
            subprocess.run(
                [*self._drop_root, str(self._programs / program), *arguments],
                cwd=self.folder,
                env={**os.environ, "HOME": str(self.folder), "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=True,
                timeout=COMMAND_TIMEOUT_S,
            )


@contextmanager
def own_cluster(parent: Path | None = None) -> Iterator[Cluster | None]:
    """A cluster that is not started yet, in a folder under `parent` that is removed; None without PostgreSQL."""
    programs = find_programs()
    if programs is None or (os.geteuid() == 0 and not _has_server_user()):
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="visionmeter-pg-", dir=parent))
    try:
        cluster = Cluster(programs, folder)
        try:
            yield cluster
        finally:
            cluster.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def durable_server(url: str | None, parent: Path | None) -> Iterator[str | None]:
    """The URL of the server to measure on: that one, or a cluster of our own; None where there is no PostgreSQL."""
    if url:
        yield url
        return
    with own_cluster(parent) as cluster:
        if cluster is not None:
            cluster.start(DURABLE)
        yield None if cluster is None else cluster.url


def describe(url: str) -> str:
    """Version of a server and the settings that decide what a commit costs."""
    engine = create_engine(url)
    with engine.connect() as connection:
        version = connection.execute(text("SHOW server_version")).scalar_one().split()[0]
        settings = [f"{name}={connection.execute(text(f'SHOW {name}')).scalar_one()}" for name in DURABLE]
    engine.dispose()
    return " ".join(["PostgreSQL", version, *settings])


def add_database(url: str, name: str) -> str:
    """Make an empty database on a server; gives its URL."""
    _administrate(url, [f'CREATE DATABASE "{name}"'])
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def drop_database(url: str, name: str) -> None:
    """Remove a database of `add_database`."""
    _administrate(url, [f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'])


def _administrate(url: str, statements: Sequence[str]) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
    except SQLAlchemyError as error:
        raise SystemExit(f"PostgreSQL refused: {error}") from error
    finally:
        engine.dispose()


def _has_server_user() -> bool:
    try:
        pwd.getpwnam(SERVER_USER)
    except KeyError:
        return False
    return shutil.which("setpriv") is not None

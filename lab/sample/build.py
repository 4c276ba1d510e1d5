# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the sample service `shop`, really: git with an origin, SQLite with alembic, .env, static files, supervisord.

    sample = create(Path("/tmp/x"));  sample.start();  sample.deploy_bad();  sample.stop()

Everything is below one folder, nothing is global; the programs are those of the Python that runs this.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lab.sample.profile import profile

RELEASE = Path(__file__).resolve().parent / "release"
GOOD, BAD = "1.4.0", "1.5.0"
API_KEY, BAD_API_KEY = "canary-key-5f1d0c", "canary-key-broken-91"
ABOUT, IDENTITY = "sample.json", "of the rollbackctl lab"
PATIENCE_SECONDS = 30.0
MIGRATIONS = {"destroys": "0003_client.py", "adds": "0003_note.py"}
# What release 1.5.0 does to app.py: it reads a column that its own migration calls something else.
BUG = ("SELECT id, customer, email, cents FROM orders", "SELECT id, client_name, cents FROM orders")
CLIENT_INSERT = (
    'INSERT INTO orders (customer, email, cents) VALUES (?, ?, ?)", values)',
    'INSERT INTO orders (client, cents) VALUES (?, ?)", values[::2])',
)
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}
# Nothing of the caller's git or Python may change what is made.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTHON", "SHOP_"))},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "LC_ALL": "C.UTF-8",
}


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sample service and where its parts are (absolute paths).

    root: all of it; origin: the bare repository; app: the server's checkout; databases: SQLite files, the first one
    leads; env_file, static, log: what they say; identity: the file that proves the place; state: the state store.
    configuration, socket: supervisord's; port: where it listens on 127.0.0.1.
    """

    name: str
    root: Path
    origin: Path
    app: Path
    databases: tuple[Path, ...]
    env_file: Path
    static: Path
    log: Path
    identity: Path
    state: Path
    configuration: Path
    socket: Path
    port: int

    @property
    def url(self) -> str:
        """The service's address, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    # -- running it --------------------------------------------------------------------------------------------------

    def start(self, *, die_with_parent: bool = False, healthy: bool = True) -> int:
        """Start supervisord, and with it the service; return supervisord's process id.

        die_with_parent: it ends when the calling thread's process is gone, however that happens.
        healthy: wait for /health to answer 200, not only for any answer.
        """
        with (self.root / "supervisord.out").open("ab") as out:
            process = subprocess.Popen(
                [Path(sys.executable).with_name("supervisord"), "--nodaemon", "--configuration", self.configuration],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=ENVIRONMENT,
                start_new_session=True,
                preexec_fn=_end_with_parent if die_with_parent else None,  # noqa: PLW1509 - one call, no locks in it
            )
        _CHILDREN[process.pid] = process
        (self.root / "supervisord.started").write_text(str(process.pid), encoding="ascii")
        self.wait(healthy=healthy)
        return process.pid

    def wait(self, *, healthy: bool = True, version: str = "") -> None:
        """Wait until it answers; with healthy also well, with version also as that version.

        :raises TimeoutError: after PATIENCE_SECONDS.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        seen = "nothing"
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                status, document = self.get("/health")
                seen = f"{status} {document}"
                if (status == 200 or not healthy) and version in {"", document.get("version")}:
                    return
            time.sleep(0.02)
        raise TimeoutError(f"{self.url}/health answers {seen}; see {self.log} and {self.root}/supervisord.out")

    def stop(self, *, gently: bool = True) -> None:
        """Stop supervisord and the service, by process id; nothing else. Does nothing when it does not run."""
        for name in ("supervisord.pid", "supervisord.started"):
            with contextlib.suppress(OSError, ValueError):
                _end(int((self.root / name).read_text(encoding="ascii")), str(self.configuration), gently=gently)

    def remove(self) -> None:
        """Kill it and remove everything."""
        self.stop(gently=False)
        shutil.rmtree(self.root, ignore_errors=True)
        if not self.socket.is_relative_to(self.root):
            shutil.rmtree(self.socket.parent, ignore_errors=True)

    def supervisor(self, *words: str) -> str:
        """Return what supervisorctl answers; its exit code 3 only says that something does not run."""
        program = str(Path(sys.executable).with_name("supervisorctl"))
        argv = [program, "--configuration", str(self.configuration), *words]
        done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60)
        return done.stdout.strip()

    # -- using it ----------------------------------------------------------------------------------------------------

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Return status and JSON of a GET.

        :raises OSError: no answer.
        """
        return request(f"{self.url}{path}")

    def order(self, customer: str, cents: int = 100) -> tuple[int, dict[str, Any]]:
        """Place an order; return status and JSON."""
        return request(f"{self.url}/orders", {"customer": customer, "cents": cents})

    def revision(self, database: int = 0) -> str:
        """Return the schema's revision, read by sqlite3 alone."""
        with contextlib.closing(connect(self.databases[database])) as connection:
            return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])

    def commit(self) -> str:
        """Return the checkout's commit."""
        return git(self.app, "rev-parse", "HEAD")

    def digest(self) -> str:
        """Return a sha256 over everything the service owns: databases' content, files and modes, git's refs and heads,
        settings, the running process. Not over logs, nor over the state store, which is not the service's.
        """
        return hashlib.sha256(json.dumps(self.inspect(), sort_keys=True).encode()).hexdigest()

    def inspect(self) -> dict[str, Any]:
        """Return what the digest is made from, so that a test can say what differs."""
        found: dict[str, Any] = {"supervisor": self.supervisor("pid", self.name)}
        for path in self.databases:
            with contextlib.closing(connect(path)) as connection:
                found[path.name] = hashlib.sha256("\n".join(connection.iterdump()).encode()).hexdigest()
        for folder in (self.origin, self.app):
            refs = git(folder, "for-each-ref", "--format=%(refname) %(objectname) %(symref)")
            found[f"git {folder.name}"] = [refs, git(folder, "symbolic-ref", "--quiet", "HEAD")]
        found["git status"] = git(self.app, "status", "--porcelain", "--ignored=no")
        for path in (self.env_file, self.identity, self.configuration, *_files(self.static), *_files(self.app)):
            mode = path.lstat().st_mode
            content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
            found[str(path.relative_to(self.root))] = [mode, hashlib.sha256(content).hexdigest()]
        found["data"] = sorted(path.name for path in self.databases[0].parent.iterdir() if path.suffix == ".db")
        return found

    # -- changing it -------------------------------------------------------------------------------------------------

    def alembic(self, *words: str, database: int = 0) -> str:
        """Run alembic as a deployment does; return what it prints."""
        return run(
            [sys.executable, "-m", "alembic", *words], self.app, DATABASE_URL=f"sqlite:///{self.databases[database]}"
        )

    def deploy_bad(
        self, *, code: bool = True, settings: bool = True, files: bool = True, migration: str = "destroys"
    ) -> None:
        """Deploy release 1.5.0: a new commit, pushed and checked out, its migration, other settings, a restart. Then
        /health answers 500 for as long as its code or its settings are there; reading orders fails, writing works.

        migration: "destroys" (a column, values, rows that refer to others), "adds" (a column), or "" for none.
        """
        if code:
            (self.app / "VERSION").write_text(f"{BAD}\n", encoding="ascii")
            source = (self.app / "app.py").read_text(encoding="utf-8").replace(*BUG)
            if migration == "destroys":
                source = source.replace(*CLIENT_INSERT)
            (self.app / "app.py").write_text(source, encoding="utf-8")
        if migration:
            script = RELEASE / "bad" / "migrations" / "versions" / MIGRATIONS[migration]
            shutil.copy(script, self.app / "migrations" / "versions")
        if code or migration:
            publish(self.app, f"Release {BAD}: one column for the client")
        if migration:
            for number in range(len(self.databases)):
                self.alembic("upgrade", "head", database=number)
        if settings:
            write_settings(self, {"SHOP_API_KEY": BAD_API_KEY, "SHOP_CURRENCY": "Euro", "SHOP_NEW_CHECKOUT": "true"})
        if files:
            (self.static / "shop.css").write_text("body { display: none }\n", encoding="utf-8")
            (self.static / "checkout.js").write_text("// new in 1.5.0\n", encoding="utf-8")
        self.restart()
        self.wait(healthy=False, version=BAD if code else GOOD)

    def restart(self) -> None:
        """Restart the service, as a person would."""
        self.supervisor("restart", self.name)

    def inventory(self, path: Path, **changes: Any) -> Path:
        """Write an inventory with this service as its one host; return its path. changes replace profile variables."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(inventory_of([self], **changes), sort_keys=False), encoding="utf-8")
        return path


def inventory_of(samples: Sequence[Sample], **changes: Any) -> dict[str, Any]:
    """Return an inventory of several services."""
    return {"all": {"hosts": {sample.name: {**profile(sample), **changes} for sample in samples}}}


def create(
    root: Path, *, name: str = "shop", port: int = 0, databases: Sequence[str] = (), orders: int = 200
) -> Sample:
    """Make a sample service below root/name, at release 1.4.0 with some orders in it; it is not started.

    port: 0 takes a free one. databases: names of its SQLite databases (default: one, named like the service).
    """
    home = (root / name).resolve()
    home.mkdir(parents=True)
    sample = _layout(home, port or free_port(), databases or (name,), _socket_path(home))
    about = {"port": sample.port, "databases": list(databases or (name,)), "socket": str(sample.socket)}
    (home / ABOUT).write_text(json.dumps(about), encoding="ascii")
    for folder in (sample.databases[0].parent, sample.static, sample.log.parent, sample.state):
        folder.mkdir()
    sample.state.chmod(0o700)
    sample.identity.write_text(f"{name} {IDENTITY}\n", encoding="ascii")
    _make_repository(sample)
    write_settings(sample, {"SHOP_API_KEY": API_KEY, "SHOP_CURRENCY": "EUR", "SHOP_NEW_CHECKOUT": "false"})
    (sample.static / "shop.css").write_text("body { color: black }\n", encoding="utf-8")
    _write_supervisor(sample)
    for number, path in enumerate(sample.databases):
        sample.alembic("upgrade", "head", database=number)
        with contextlib.closing(connect(path)) as connection, connection:
            connection.execute("PRAGMA journal_mode = WAL")
            rows = [(f"customer{n}", f"customer{n}@example.org", 100 + n) for n in range(orders)]
            connection.executemany("INSERT INTO orders (customer, email, cents) VALUES (?, ?, ?)", rows)
            connection.execute("INSERT INTO deliveries (order_id, address) SELECT id, id || ' Main Street' FROM orders")
    return sample


def load(home: Path) -> Sample:
    """Return the sample service that create made in a folder, whether it runs or not.

    :raises ValueError: there is none.
    """
    try:
        about = json.loads((home / ABOUT).read_text(encoding="ascii"))
        said = (home / "IDENTITY").read_text(encoding="ascii")
    except OSError as exc:
        raise ValueError(f"{home} holds no sample service: {exc.strerror}") from exc
    if said.strip() != f"{home.name} {IDENTITY}":
        raise ValueError(f"{home} holds no sample service: IDENTITY says something else")
    return _layout(home.resolve(), int(about["port"]), about["databases"], Path(about["socket"]))


def _layout(home: Path, port: int, databases: Sequence[str], listens: Path) -> Sample:
    return Sample(
        name=home.name,
        root=home,
        origin=home / "origin.git",
        app=home / "app",
        databases=tuple(home / "data" / f"{database}.db" for database in databases),
        env_file=home / f"{home.name}.env",
        static=home / "static",
        log=home / "log" / f"{home.name}.log",
        identity=home / "IDENTITY",
        state=home / "rollback-state",
        configuration=home / "supervisord.conf",
        socket=listens,
        port=port,
    )


def _make_repository(sample: Sample) -> None:
    """Make origin with releases 1.3.0 and 1.4.0, and the server's checkout of it."""
    git(sample.root, "init", "--quiet", "--bare", "--initial-branch=main", str(sample.origin))
    git(sample.root, "clone", "--quiet", str(sample.origin), str(sample.app))
    git(sample.app, "symbolic-ref", "HEAD", "refs/heads/main")
    git(sample.app, "config", "user.name", "Deployment")
    git(sample.app, "config", "user.email", "deploy@example.org")
    shutil.copytree(RELEASE / "good", sample.app, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (sample.app / "VERSION").write_text("1.3.0\n", encoding="ascii")
    publish(sample.app, "Release 1.3.0: take orders")
    (sample.app / "VERSION").write_text(f"{GOOD}\n", encoding="ascii")
    publish(sample.app, f"Release {GOOD}: know where to write to")


def _write_supervisor(sample: Sample) -> None:
    # By the one name that every environment has, so that a check may look for it.
    argv = [str(Path(sys.executable).with_name("python")), "-B", str(sample.app / "app.py"), "--port", str(sample.port)]
    argv += ["--env-file", str(sample.env_file), "--log", str(sample.log), "--static", str(sample.static)]
    command = " ".join([*argv, *map(str, sample.databases)])
    text = f"""\
[unix_http_server]
file={sample.socket}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{sample.socket}
[supervisord]
logfile=%(here)s/log/supervisord.log
pidfile=%(here)s/supervisord.pid
childlogdir=%(here)s/log
[program:{sample.name}]
command={command}
directory=%(here)s/app
autorestart=true
startsecs=1
stopwaitsecs=5
stdout_logfile=%(here)s/log/{sample.name}.out
stderr_logfile=%(here)s/log/{sample.name}.err
"""
    sample.configuration.write_text(text, encoding="utf-8")


def _socket_path(home: Path) -> Path:
    # A socket's path may have 107 bytes (unix(7)); supervisord first binds beside it, with its process id added.
    path = home / "s.sock"
    return path if len(str(path)) < 95 else Path(tempfile.mkdtemp(prefix="shop-")) / "s.sock"


def _files(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
    return sorted(path for path in found if not {".git", "__pycache__"} & set(path.parts))


def write_settings(sample: Sample, settings: Mapping[str, str]) -> None:
    """Write the service's .env file, as a deployment does."""
    text = "# settings of the sample service\n" + "".join(f"{key}={value}\n" for key, value in settings.items())
    sample.env_file.write_text(text, encoding="utf-8")
    sample.env_file.chmod(0o600)


def publish(folder: Path, message: str) -> None:
    """Commit everything and push it."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    git(folder, "push", "--quiet", "origin", "main")


def git(folder: Path, *words: str) -> str:
    """Return what git prints."""
    return run(["git", *words], folder)


def run(argv: Sequence[str], folder: Path, **environment: str) -> str:
    """Return what a command prints; environment is added to its own.

    :raises RuntimeError: it failed; with what it said.
    """
    env = {**ENVIRONMENT, **environment}
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def connect(path: Path) -> sqlite3.Connection:
    """Open a database that exists."""
    return sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=10)


def request(url: str, document: Mapping[str, Any] | None = None, timeout: float = 5.0) -> tuple[int, dict[str, Any]]:
    """Return status and JSON of a GET, or of a POST of the document.

    :raises OSError: no answer, or one that is cut off.
    """
    raw = None if document is None else json.dumps(document).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=raw), timeout=timeout) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _end_with_parent() -> None:
    # prctl(2), PR_SET_PDEATHSIG = 1; supervisord stops its programs on SIGTERM.
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _end(pid: int, mark: str, *, gently: bool) -> None:
    """End a supervisord of ours and its programs; a number that now names something else is left alone.

    gently: let it stop its programs, which it does within two seconds; otherwise all are killed, it first.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    programs = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    while _runs(pid, mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM if gently and time.monotonic() < end else signal.SIGKILL)
        time.sleep(0.02)
    for program in programs:
        while _runs(program, mark.removesuffix("supervisord.conf")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(program, signal.SIGKILL)
            time.sleep(0.02)
    if child := _CHILDREN.pop(pid, None):
        child.wait(PATIENCE_SECONDS)  # it may have ended since it was polled, and be a zombie


def _runs(pid: int, mark: str) -> bool:
    if pid in _CHILDREN:
        _CHILDREN[pid].poll()  # or it would stay a zombie
    with contextlib.suppress(OSError):
        return mark.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False

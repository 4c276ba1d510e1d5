# SPDX-License-Identifier: GPL-3.0-or-later
"""A level 3 run with everything turned on that could tell a secret, and hostile words in all that is shown.

The secrets are in the service's settings, in the address that alembic is given, and in a check's header; the hostile
words in the reason and in a commit's subject. The run succeeds; then every place it wrote to is looked through.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lab.sample.build import API_KEY, BAD_API_KEY, publish
from lab.sample.profile import profile
from tests.support.bench import BIN, Bench, Ran

DSN, TOKEN = "canary-dsn-77aa41", "canary-token-31bb52"
SECRETS = (API_KEY, BAD_API_KEY, DSN, TOKEN)
SUBJECT = "<script>alert(2)</script> {{ 7 * 191 }} $(touch CANARY)"
REASON = "{{ lookup('pipe', 'touch CANARY') }} $(touch CANARY) `touch CANARY` <script>alert(1)</script> <img src=x>"
# Python's own hook says what reaches syslog, in every process of the run that is Python: the modules are.
HOOK = """
import sys
def seen(event, arguments):
    if event == "syslog.syslog":
        with open({path!r}, "a", encoding="utf-8", errors="replace") as file:
            file.write(repr(arguments) + "\\n")
sys.addaudithook(seen)
"""


@dataclass
class Told:
    """What a run told, and where."""

    bench: Bench
    ran: Ran
    canary: Path
    log: Path
    syslog: Path
    commands: set[bytes] = field(default_factory=set)
    reports: dict[str, str] = field(default_factory=dict)

    def places(self) -> dict[str, bytes]:
        """Return everything that was written, by where; of the store all but the copies of the settings."""
        found = {"output": self.ran.output.encode(errors="replace"), "commands": b"\n".join(self.commands)}
        found |= {f"report {name}": text.encode() for name, text in self.reports.items()}
        for folder in (self.bench.records, self.bench.folder / "xdg", self.bench.sample.state, self.log.parent):
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.suffix != ".env":
                    found[str(path.relative_to(self.bench.folder))] = path.read_bytes()
        return found


def watch(stop: threading.Event, commands: set[bytes]) -> None:
    """Collect the command lines of all processes until told to stop."""
    while not stop.is_set():
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                commands.add(path.read_bytes())
            except OSError:
                continue
        stop.wait(0.01)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """The run, its reports, and the command lines of all processes meanwhile."""
    bench = Bench(tmp_path_factory.mktemp("told"))
    sample = bench.sample
    known = profile(sample)
    known["rollback_alembic"][0]["environment"] = {"SHOP_DSN": f"host=db user=shop key={DSN}"}
    known["rollback_checks"][0]["headers"] = {"Authorization": f"Bearer {TOKEN}"}
    bench.hosts = bench.profile("secrets", **known)
    log, syslog = bench.folder / "log" / "ansible.log", bench.folder / "log" / "syslog"
    hook = bench.folder / "hook" / "sitecustomize.py"
    for folder in (log.parent, hook.parent):
        folder.mkdir()
    hook.write_text(HOOK.format(path=str(syslog)), encoding="utf-8")
    bench.prove_checkpoint()
    sample.deploy_bad()
    (sample.app / "NEWS").write_text("more\n", encoding="ascii")
    canary = bench.folder / "canary"
    publish(sample.app, SUBJECT.replace("CANARY", str(canary)))
    commands: set[bytes] = set()
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(stop, commands))
    watcher.start()
    loud = {"ANSIBLE_VERBOSITY": "3", "ANSIBLE_LOG_PATH": str(log), "PYTHONPATH": str(hook.parent)}
    words = ["--reason", REASON.replace("CANARY", str(canary)), "--accept-data-loss-since", bench.taken, "--yes"]
    try:
        ran = bench.rollbackctl(
            "run", "3", "shop", "-i", str(bench.hosts), *words, env={**loud, **passed("PYTHONPATH")}
        )
    finally:
        stop.set()
        watcher.join()
    made = Told(bench, ran, canary, log, syslog, commands)
    assert ran.record.get("outcome") == "done", f"{ran.said}\n{ran.output}\n{log.read_text()[-3000:]}"
    run = ran.record["run"]
    made.reports = {form: bench.rollbackctl("report", run, form).output for form in ("--html", "--markdown")}
    made.reports["text"] = bench.rollbackctl("report", run).output
    yield made
    sample.remove()


def passed(*names: str) -> dict[str, str]:
    """Return what makes the wrapper hand these variables on to ansible-playbook."""
    return {"ROLLBACKCTL_PASS_ENV": ",".join(names)}


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_is_told_anywhere(told: Told, secret: str) -> None:
    found = [where for where, content in told.places().items() if secret.encode() in content]
    # The database holds no setting; the settings' own copies are looked at below.
    assert found == []


def test_the_places_that_were_looked_through_are_the_ones_that_are_written(told: Told) -> None:
    """An empty place would prove nothing."""
    places = told.places()
    assert b"TASK" in places[str(told.log.relative_to(told.bench.folder))], "verbose, and logged"
    assert b"Rollback | Bring every component" in places[str(told.log.relative_to(told.bench.folder))]
    assert any(b"ansible-playbook" in command for command in told.commands)
    assert any(b"alembic" in command for command in told.commands)
    assert len([where for where in places if where.endswith(".json")]) > 5
    copies = [path for path in told.bench.sample.state.rglob("*.env") if API_KEY.encode() in path.read_bytes()]
    assert copies, "the settings were kept, and this search finds what is in them"


def test_modules_do_not_write_to_syslog(told: Told) -> None:
    """What is proven for ours is first shown for one of Ansible's own, so that the hook is known to see it."""
    assert not told.syslog.exists(), told.syslog.read_text(encoding="utf-8")[:1000]
    env = told.bench.environment(PYTHONPATH=str(told.bench.folder / "hook"))
    argv = ["ansible", "localhost", "-m", "ansible.builtin.ping", "-e", f"ansible_python_interpreter={BIN / 'python'}"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Invoked with" in told.syslog.read_text(encoding="utf-8")
    told.syslog.unlink()


def test_the_state_store_is_its_owners_alone(told: Told) -> None:
    """Folders 0700, files 0600; records and reports are no wider."""
    state = told.bench.sample.state
    for path in (state, *state.rglob("*"), *told.bench.records.rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o600
        assert path.lstat().st_mode & 0o777 == wanted, f"{path}: {path.lstat().st_mode & 0o777:o}"


def test_the_reason_stays_text(told: Told) -> None:
    """In the record and in the history of the code as it was typed; nothing of it was run."""
    reason = REASON.replace("CANARY", str(told.canary))
    assert told.ran.record["reason"] == reason
    log = subprocess.run(
        ["git", "-C", str(told.bench.sample.app), "log", "-1", "--format=%B"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert reason in log.stdout
    assert not told.canary.exists()
    assert "1337" not in told.reports["--html"], "the subject's template was not run either"


class Tags(HTMLParser):
    """Collects the tags of a page, with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += data


def test_no_tag_of_a_reason_or_a_commit_is_live_in_the_report(told: Told) -> None:
    page = Tags(told.reports["--html"])
    assert not page.tags & {"script", "img", "iframe", "object", "embed", "form"}
    assert [name for name, _ in page.attributes if name.startswith("on")] == []
    assert [
        value for name, value in page.attributes if name in {"src", "href"} and not str(value).startswith("#")
    ] == []
    assert "<script>alert(1)</script>" in page.words, "it is shown as what it is"
    assert "<script>alert(2)</script>" in page.words
    # In Markdown a code span shows what it holds; outside of one nothing of it may stand as it is.
    assert "<script>" not in re.sub(r"(`+).*?\1", "", told.reports["--markdown"]).replace("\\<script", "")

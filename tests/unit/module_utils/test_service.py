# SPDX-License-Identifier: GPL-3.0-or-later
"""restart_service against a real supervisord, and against commands of a real daemon."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.component import BETWEEN, LIVE, TARGET, Entry, Finding, Place, Version
from ansible.module_utils.rollbackctl.errors import DeadlineExceeded, Refused, StepFailed
from ansible.module_utils.rollbackctl.service import ServiceDriver

SUPERVISORD = Path(sys.executable).with_name("supervisord")
PASSWORD = "canary-7c21"
CONFIGURATION = f"""
[unix_http_server]
file=%(here)s/s
username=ops
password={PASSWORD}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://%(here)s/s ; as supervisorctl reads it
username=ops
password={PASSWORD}
[supervisord]
nodaemon=true
logfile=%(here)s/supervisord.log
pidfile=%(here)s/supervisord.pid
[program:web]
command={sys.executable} -c "import time; time.sleep(600)"
startsecs=0
[program:broken]
command={sys.executable} -c "raise SystemExit(3)"
autostart=false
startsecs=1
startretries=0
stderr_logfile=%(here)s/broken.log
[program:briefly]
command={sys.executable} -c "import time; time.sleep(0.3)"
autostart=false
autorestart=false
startsecs=0
[program:parent]
command={sys.executable} -c "import subprocess,sys,time; subprocess.Popen([sys.executable,'-c','import time; time.sleep(600)']); time.sleep(600)"
autostart=false
startsecs=0
stopasgroup=false
[program:stubborn]
command={sys.executable} -c "import signal,time; signal.signal(signal.SIGTERM,signal.SIG_IGN); print(1,flush=True); time.sleep(600)"
autostart=false
startsecs=0
stopwaitsecs=600
stdout_logfile=%(here)s/stubborn.log
"""  # noqa: E501 - a configuration file has the lines it has

Make = Callable[..., ServiceDriver]


def listens(path: Path) -> bool:
    """Say whether somebody does: supervisord gives its socket a name first, and listens then."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked, contextlib.suppress(OSError):
        asked.connect(str(path))
        return True
    return False


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("sv")
    configuration = folder / "c.conf"
    configuration.write_text(CONFIGURATION)
    with subprocess.Popen(
        [SUPERVISORD, "-c", configuration], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        end = time.monotonic() + 30
        while not listens(folder / "s"):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        yield configuration
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:  # the stubborn program
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def make(supervisor: Path, tmp_path: Path) -> Make:
    work = tmp_path / "work"
    work.mkdir()

    def build(program: str = "web", **options: Any) -> ServiceDriver:
        place = Place(run="rb-1", work=options.pop("work", work))
        base = {"name": "svc", "manager": "supervisor", "program": program, "configuration": str(supervisor)}
        patience = {"stop_timeout": 10, "start_timeout": 10, "settle": 0.2, "fence": False}
        return ServiceDriver({**base, **patience, **options}, place)

    return build


def entry_of(live: Version, target: Version, action: str = "follow") -> Entry:
    return Entry("svc", "restart_service", "application", live, target, action, Finding())


def running(driver: ServiceDriver) -> Version:
    driver.open()
    return driver.live(exact=True)


def test_a_restart_is_read_back_as_a_later_start(make: Make, tmp_path: Path) -> None:
    driver = make()
    live = running(driver)
    entry = entry_of(live, driver.record(tmp_path))
    assert driver.state(entry, opened=False)[0] == LIVE
    driver.apply(entry.target)
    state, reading = driver.state(entry, opened=False)
    assert state == TARGET
    assert reading.identity["state"] == "RUNNING"
    assert reading.identity["started"] != live.identity["started"]
    assert PASSWORD not in str(reading)


def test_it_is_restarted_once_per_run_and_target(make: Make, tmp_path: Path) -> None:
    driver = make()
    running(driver)
    target = driver.record(tmp_path)
    driver.apply(target)
    first = driver.live(exact=True).identity["started"]
    make().apply(target)  # a resumed run, in another process
    assert driver.live(exact=True).identity["started"] == first


def test_undo_of_the_same_run_restarts_again_even_when_only_files_had_changed(make: Make, tmp_path: Path) -> None:
    driver = make()
    running(driver)
    checkpoint = Version(driver.record(tmp_path).identity, "", taken="2026-11-21T09:00:00Z")
    captured = Version(checkpoint.identity, "", taken="2026-11-21T09:30:00Z")
    driver.apply(checkpoint)
    first = driver.live(exact=True).identity["started"]
    driver.apply(captured)
    assert driver.live(exact=True).identity["started"] != first
    assert driver.state(entry_of(captured, captured), opened=True)[0] == TARGET


def test_a_restart_by_somebody_else_before_ours_does_not_count(make: Make, tmp_path: Path) -> None:
    driver = make()
    entry = entry_of(running(driver), driver.record(tmp_path))
    driver.manager.stop()
    driver._wait(driver._down, 10, "stop")
    driver.open()  # a crash loop looks like this
    assert driver.state(entry, opened=False)[0] == LIVE


KILLED = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from rollbackctl.component import Place, Version
from rollbackctl.service import ServiceDriver
options, target, work, what = map(json.loads, sys.argv[2:])
driver = ServiceDriver(options, Place(work=Path(work)))
for step in what:
    getattr(driver, step)(*([Version.from_dict(target)] if step == "apply" else []))
"""


def kill_at(driver: ServiceDriver, failpoint: str, target: Version, *what: str) -> None:
    """Do something in another process that is killed (SIGKILL) at a failpoint."""
    module_utils = Path(__file__).resolve().parents[3] / "plugins" / "module_utils"
    told = (driver.options, target.to_dict(), str(driver.place.work), what)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(module_utils), *map(json.dumps, told)],
        env={**os.environ, "ROLLBACKCTL_FAILPOINT": f"{failpoint}:kill"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


AFTER_THE_KILL = {
    "restart_service.restart.before": (LIVE, "RUNNING"),
    "restart_service.stop.before": (BETWEEN, "RUNNING"),
    "restart_service.stop.after": (BETWEEN, "STOPPED"),
    "restart_service.start.before": (BETWEEN, "STOPPED"),
    "restart_service.start.after": (TARGET, "RUNNING"),
    "restart_service.restart.after": (TARGET, "RUNNING"),
}


@pytest.mark.parametrize(
    "failpoint", [name for name in ServiceDriver.failpoints if ".close." not in name and ".open." not in name]
)
def test_killed_anywhere_in_a_restart_it_is_finished_by_going_on(make: Make, failpoint: str) -> None:
    driver = make()
    live = running(driver)
    entry = entry_of(live, driver.resolve(live))
    kill_at(driver, failpoint, entry.target, "apply")
    if failpoint == "restart_service.start.after":
        driver._wait(driver._up, 20, "start")
    state, reading = driver.state(entry, opened=False)
    assert (state, reading.identity["state"]) == AFTER_THE_KILL[failpoint]
    driver.apply(entry.target)
    state, reading = driver.state(entry, opened=False)
    assert state == TARGET
    assert reading.identity["started"] != live.identity["started"]


FENCE = [name for name in ServiceDriver.failpoints if ".restart." not in name]


@pytest.mark.parametrize("failpoint", FENCE)
def test_killed_anywhere_in_the_fence_it_closes_and_opens_by_going_on(make: Make, failpoint: str) -> None:
    driver = make()
    live = running(driver)
    entry = entry_of(live, driver.resolve(live))
    kill_at(driver, failpoint, entry.target, "close", "open")
    driver.close()
    assert driver.closed()
    driver.open()
    state, reading = driver.state(entry, opened=True)
    assert state == TARGET
    assert reading.identity["started"] != live.identity["started"]


def test_a_stopped_service_is_started(make: Make, tmp_path: Path) -> None:
    driver = make()
    running(driver)
    target = driver.record(tmp_path)
    driver.close()
    entry = entry_of(target, target)
    assert driver.state(entry, opened=False)[0] == BETWEEN
    driver.apply(target)
    assert driver.state(entry, opened=False)[0] == TARGET


def test_a_target_that_was_stopped_is_stopped(make: Make) -> None:
    driver = make()
    live = running(driver)
    stopped = Version({"state": "STOPPED", "started": ""}, "stopped")
    driver.apply(stopped)
    assert driver.state(entry_of(live, stopped), opened=False)[0] == TARGET


def test_what_the_plan_leaves_alone_needs_no_restart(make: Make) -> None:
    driver = make(work=None)
    live = running(driver)
    assert driver.state(entry_of(live, live, "none"), opened=False)[0] == TARGET


def test_a_program_that_cannot_start_fails_and_names_its_log_not_its_content(make: Make) -> None:
    with pytest.raises(StepFailed, match="does not start") as caught:
        make("broken").apply(Version({"state": "RUNNING", "started": ""}, "running"))
    assert caught.value.next_step.endswith("broken.log")


def test_a_program_that_ends_right_after_its_start_fails(make: Make) -> None:
    with pytest.raises(StepFailed, match="ended again within 5 s"):
        make("briefly", settle=5).apply(Version({"state": "RUNNING", "started": ""}, "running"))


def test_undo_of_a_release_that_had_failed_does_not_insist(make: Make) -> None:
    driver = make("broken")
    failed = Version({"state": "FAILED", "started": ""}, "failed")
    driver.apply(failed)
    assert driver.state(entry_of(failed, failed), opened=False)[0] == TARGET


def test_the_fence_closes_with_children_and_opens(make: Make) -> None:
    driver = make("web")
    running(driver)
    assert not driver.closed()
    driver.close()
    driver.close()
    assert driver.closed()
    driver.open()
    driver.open()
    assert not driver.closed()


def test_what_a_fence_stopped_and_started_counts_as_restarted(make: Make) -> None:
    driver = make("web")
    live = running(driver)
    entry = entry_of(live, driver.resolve(live))
    driver.close()
    assert driver.state(entry, opened=False)[0] == BETWEEN
    driver.open()
    assert make("web").state(entry, opened=True)[0] == TARGET
    first = driver.live(exact=True).identity["started"]
    driver.apply(entry.live)  # the undo of that run
    assert driver.live(exact=True).identity["started"] != first
    driver.close()  # and the run is resumed
    driver.place.work.joinpath("fence.json").unlink()  # type: ignore[union-attr]
    driver.open()
    assert driver.state(entry, opened=True)[0] == LIVE


def test_a_fence_around_a_service_that_was_down_counts_too(make: Make) -> None:
    driver = make("web")
    running(driver)
    make("web", work=None).close()
    live = driver.live(exact=True)
    driver.close()
    driver.open()
    assert driver.state(entry_of(live, driver.resolve(live)), opened=True)[0] == TARGET


def test_a_fence_is_not_closed_while_a_child_lives(make: Make) -> None:
    driver = make("parent", stop_timeout=1)
    running(driver)
    end = time.monotonic() + 20
    while len(children := _children(driver)) < 1:
        assert time.monotonic() < end
    with pytest.raises(StepFailed, match="processes it had started still run") as caught:
        driver.close()
    assert str(children[0]) in caught.value.message
    assert not make("parent").closed()  # known to another process of the run, too
    os.kill(children[0], signal.SIGKILL)
    driver.close()
    assert make("parent").closed()


def _children(driver: ServiceDriver) -> list[int]:
    pid = driver.manager.read().pids[0]
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_stop_that_takes_too_long_says_so(make: Make, supervisor: Path) -> None:
    driver = make("stubborn", stop_timeout=0.5)
    running(driver)
    end = time.monotonic() + 20
    while not (supervisor.parent / "stubborn.log").read_text():
        assert time.monotonic() < end
    with pytest.raises(DeadlineExceeded, match=r"did not stop it within 0.5 s; it reads as STOPPING"):
        driver.close()
    os.kill(driver.manager.read().pids[0], signal.SIGKILL)
    driver._wait(driver._down, 20, "stop")


def test_the_fence_of_a_service_whose_process_is_unknown_is_a_problem(make: Make, tmp_path: Path) -> None:
    always = {"start": ["true"], "stop": ["true"], "status": ["true"]}
    driver = make(manager="command", fence=True, **always)
    problems = driver.check(driver.live(exact=True), driver.record(tmp_path)).problems
    assert len(problems) == 1
    assert "pid_file" in problems[0]


def test_check_mode_reads_without_a_place(make: Make, tmp_path: Path) -> None:
    driver = make(work=None)
    live = running(driver)
    finding = driver.check(live, driver.resolve("running"))
    assert finding.problems == ()
    assert finding.worst_seconds == pytest.approx(30.2)
    assert list(tmp_path.joinpath("work").iterdir()) == []


def test_an_unknown_program_is_refused_with_those_there_are(make: Make) -> None:
    with pytest.raises(Refused, match=r"no program 'shop'.*Known:.*briefly.*web"):
        make("shop").live(exact=True)


def test_an_unknown_target_is_refused(make: Make) -> None:
    with pytest.raises(Refused, match="Known: running"):
        make().resolve("v1.4")


def test_what_had_failed_is_to_run_again(make: Make) -> None:
    driver = make("broken", work=None)
    assert driver.resolve(driver.live(exact=True)).identity["state"] == "RUNNING"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"manager": "upstart"}, "Known: supervisor, systemd, pm2, command"),
        ({"manager": "command"}, "needs start, stop, status"),
        ({"configuration": None}, "needs configuration or server_url"),
        ({"program": "--all"}, "cannot be the name"),
        ({"program": "a:b:c"}, "cannot be the name"),
        ({"manager": "pm2", "program": "all"}, "cannot be the name"),
        ({"manager": "pm2", "program": "0"}, "cannot be the name"),
        ({"manager": "systemd", "program": "-H"}, "cannot be the name"),
        ({"configuration": "/nonexistent/c.conf"}, "cannot be read: No such file"),
        ({"server_url": "ftp://x"}, "is not the address"),
    ],
)
def test_a_wrong_profile_is_refused(make: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        make(**options)


def test_no_supervisord_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="does not answer: No such file"):
        make(server_url=f"unix://{tmp_path}/none").live(exact=True)


def test_a_wrong_password_is_refused_without_showing_it(make: Make, supervisor: Path) -> None:
    with pytest.raises(Refused, match="another username and password"):
        make(server_url=f"unix://{supervisor.parent}/s").live(exact=True)
    other = supervisor.with_name("other.conf")
    other.write_text(CONFIGURATION.replace(PASSWORD, "wrong-5a3f"))
    driver = make(configuration=str(other))
    with pytest.raises(Refused) as caught:
        driver.live(exact=True)
    assert "wrong-5a3f" not in caught.value.message + repr(driver.manager.address)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[supervisord]\n", "says nowhere how to reach"),
        (f"password={PASSWORD}\n", "not a configuration of supervisor: MissingSectionHeaderError"),
    ],
)
def test_an_unusable_configuration_is_refused(make: Make, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.conf"
    path.write_text(text)
    with pytest.raises(Refused, match=message) as caught:
        make(configuration=str(path))
    assert PASSWORD not in caught.value.message


DAEMON = """
import os, signal, sys
pid_file, what = sys.argv[1:]
pid = int(open(pid_file).read()) if os.path.exists(pid_file) else 0
def lives():
    try: os.kill(pid, 0); return pid > 0
    except OSError: return False
if what == "status": sys.exit(0 if lives() else 3)
if what == "stop":
    if lives(): os.kill(pid, signal.SIGTERM)
    sys.exit(0)
if lives() or os.fork(): sys.exit(0)
os.setsid()
if os.fork(): os._exit(0)
with open(pid_file + ".new", "w") as f: f.write(str(os.getpid()))
os.replace(pid_file + ".new", pid_file)
signal.alarm(120)
signal.pause()
"""


def test_a_service_with_its_own_commands(make: Make, tmp_path: Path) -> None:
    script, pid_file = tmp_path / "daemon.py", tmp_path / "daemon.pid"
    script.write_text(DAEMON)
    words = {what: [sys.executable, str(script), str(pid_file), what] for what in ("start", "stop", "status")}
    driver = make(manager="command", pid_file=str(pid_file), fence=True, **words)
    live = running(driver)
    entry = entry_of(live, driver.record(tmp_path))
    driver.apply(entry.target)
    state, reading = driver.state(entry, opened=False)
    assert state == TARGET
    assert reading.identity["started"] != live.identity["started"]
    driver.close()
    assert driver.closed()


def test_a_stale_pid_file_names_nobody(make: Make, tmp_path: Path) -> None:
    pid_file = tmp_path / "stale.pid"
    with subprocess.Popen(["true"]) as process:
        process.wait()
    pid_file.write_text(str(process.pid))
    words = {"start": ["true"], "stop": ["true"], "status": ["false"]}
    assert make(manager="command", pid_file=str(pid_file), **words).live(exact=True).identity["state"] == "STOPPED"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"start": ["false"]}, "false ended with exit code 1"),
        ({"start": ["sleep", "30"]}, "did not end within 0.3 s"),
        ({"start": ["/nonexistent/start"]}, "cannot be run: No such file"),
        ({"start": ["true"]}, "did not start it within 0.3 s"),
    ],
)
def test_a_start_command_that_does_not_start_fails(make: Make, words: dict[str, Any], message: str) -> None:
    driver = make(
        manager="command", start_timeout=0.3, stop_timeout=0.3, **{"stop": ["true"], "status": ["false"], **words}
    )
    with pytest.raises((StepFailed, Refused), match=message):
        driver.apply(Version({"state": "RUNNING", "started": ""}, "running"))

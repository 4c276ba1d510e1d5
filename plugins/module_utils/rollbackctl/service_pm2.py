# SPDX-License-Identifier: GPL-3.0-or-later
"""pm2, spoken to by its commands: whose it is, where it lives, and what it says.

Any command of pm2 starts its daemon when there is none, `pm2 jlist` too; so it is looked for first, as pm2 itself does
it. What `pm2 jlist` prints is never shown: it holds the whole environment of every process, secrets included.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import Refused, StepFailed
from .service_managers import output_of, run
from .service_reading import FAILED, RUNNING, STARTING, STOPPED, STOPPING, Reading

DAEMON_SECONDS = 5.0
# What pm2 and node need; the rest of our environment is none of their business.
_INHERITED = ("LANG", "TMPDIR")
# pm2/constants.js: the states of a process.
_PM2_STATES = {
    "online": RUNNING,
    "launching": STARTING,
    "waiting restart": STARTING,
    "one-launch-status": STARTING,
    "stopping": STOPPING,
    "stopped": STOPPED,
    "errored": FAILED,
}
# Of several processes under one name the worst one speaks for all.
_WORST_FIRST = (FAILED, STOPPED, STOPPING, STARTING, RUNNING)


@dataclasses.dataclass(frozen=True)
class Daemon:
    """One daemon of pm2.

    home: its folder (PM2_HOME). user: whose it is; None is whoever we are. program: the command.
    """

    home: Path
    user: pwd.struct_passwd | None = None
    program: str = "pm2"

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Daemon:
        """Return the daemon that a component's options mean: pm2_home, pm2_user, pm2_program.

        :raises Refused: there is no such user, or we may not act as that one.
        """
        name = str(options.get("pm2_user") or "")
        user = None
        if name:
            try:
                user = pwd.getpwnam(name)
            except KeyError:
                raise Refused(
                    f"pm2_user: there is no user {name!r} on this host. Nothing was changed.",
                    "Correct pm2_user in the profile.",
                ) from None
            if os.geteuid() not in {0, user.pw_uid}:
                raise Refused(
                    f"pm2_user: only root can act as {name}. Nothing was changed.",
                    f"Connect as root or as {name} (ansible_user, or ansible_become and ansible_become_user).",
                )
        if options.get("pm2_home"):
            home = Path(str(options["pm2_home"]))
        elif user is None and os.environ.get("PM2_HOME"):
            home = Path(os.environ["PM2_HOME"])
        else:
            home = Path(user.pw_dir if user else Path.home()) / ".pm2"
        return cls(home, user, str(options.get("pm2_program") or "pm2"))

    def how(self) -> dict[str, Any]:
        """Return how its command is run: environment, and as whom."""
        person = self.user or pwd.getpwuid(os.geteuid())
        path = os.environ.get("PATH", os.defpath)
        if os.path.isabs(self.program):  # node is beside it, where nvm installed both
            path = f"{os.path.dirname(self.program)}{os.pathsep}{path}"
        env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        env |= {"HOME": person.pw_dir, "USER": person.pw_name, "LOGNAME": person.pw_name, "PATH": path, "LC_ALL": "C"}
        how: dict[str, Any] = {"env": {**env, "PM2_HOME": str(self.home)}, "cwd": "/"}
        if self.user is not None and os.geteuid() != self.user.pw_uid:
            groups = os.getgrouplist(self.user.pw_name, self.user.pw_gid)
            how |= {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": groups}
        return how

    def absence(self) -> tuple[str, str]:
        """Return why no daemon answers in its folder and what to type; two empty texts when one does."""
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        line.settimeout(DAEMON_SECONDS)
        try:
            line.connect(str(self.home / "rpc.sock"))
        except OSError as exc:
            why = exc.strerror or str(exc)
        else:
            return "", ""
        finally:
            line.close()
        next_step = "Correct pm2_home and pm2_user in the profile, or bring it back: "
        as_whom = f"sudo -u {self.user.pw_name} " if self.user is not None else ""
        return (
            f"no daemon of pm2 answers in {self.home} ({why}), and looking must not start one",
            f"{next_step}{as_whom}env PM2_HOME={self.home} {self.program} resurrect",
        )


class Pm2:
    """One application of pm2; in cluster mode it has several processes."""

    def __init__(self, application: str, timeout: float, daemon: Daemon) -> None:
        """Take the application's name (checked by the caller), the patience in seconds, and whose daemon it is."""
        self.application = application
        self.timeout = timeout
        self.daemon = daemon

    def read(self) -> Reading:
        """Read the state of all of the application's processes.

        :raises Refused: no pm2, no daemon, or it does not know the application.
        """
        why, next_step = self.daemon.absence()
        if why:
            raise Refused(f"{why[0].upper()}{why[1:]}.", next_step)
        return parse_pm2(self.application, output_of([self.daemon.program, "jlist", "--silent"], **self.daemon.how()))

    def stop(self) -> None:
        """Stop the application (pm2 hands on what follows `--` to the script: the name comes without)."""
        self._tell("stop")

    def start(self) -> None:
        """Start the application, which pm2 knows by name."""
        self._tell("start")

    def _tell(self, word: str) -> None:
        why, next_step = self.daemon.absence()
        if why:
            raise StepFailed(f"{self.application} cannot be told to {word}: {why}.", next_step)
        run([self.daemon.program, word, self.application, "--silent"], self.timeout, **self.daemon.how())


def parse_pm2(application: str, text: str) -> Reading:
    """Return the reading that `pm2 jlist` printed; lines before the list are pm2's remarks.

    :raises Refused: not a list, or the application is not in it.
    """
    start = re.search(r"^\[(?=\s*[\]{])", text, re.MULTILINE)
    try:
        listed: list[dict[str, Any]] = json.JSONDecoder().raw_decode(text[start.start() :])[0] if start else []
    except ValueError as exc:
        raise Refused("`pm2 jlist` printed no list of processes.", "Try it by hand: pm2 list") from exc
    mine = [entry for entry in listed if entry.get("name") == application]
    if not mine:
        known = sorted({str(entry.get("name")) for entry in listed})
        raise Refused(f"pm2 has no application {application!r}. Known: {', '.join(known) or 'none'}.")
    states = [_PM2_STATES.get(str(entry["pm2_env"].get("status")), FAILED) for entry in mine]
    state = min(states, key=_WORST_FIRST.index)
    pids = tuple(int(entry["pid"]) for entry in mine if entry.get("pid"))
    # pm_uptime: when this start of the process was, milliseconds since 1970.
    started = ",".join(f"{entry['pm2_env'].get('pm_uptime')}:{entry.get('pid')}" for entry in mine)
    return Reading(state, pids, started if pids else "", str(mine[0]["pm2_env"].get("pm_err_log_path", "")))

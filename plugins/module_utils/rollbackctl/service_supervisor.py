# SPDX-License-Identifier: GPL-3.0-or-later
"""supervisord, spoken to in its own XML-RPC: http://supervisord.org/api.html. No text of supervisorctl is parsed.

The address and the credentials come from supervisor's own configuration file, so no profile has to repeat a password.
"""

from __future__ import annotations

import base64
import configparser
import dataclasses
import http.client
import os
import re
import socket
import xmlrpc.client
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import Refused, StepFailed
from .service_reading import FAILED, RUNNING, STARTING, STOPPED, STOPPING, Reading, process_key

ANSWER_SECONDS = 10.0
# http://supervisord.org/api.html#xml-rpc-error-conditions and supervisor/xmlrpc.py, class Faults
BAD_NAME, ALREADY_STARTED, NOT_RUNNING = 10, 60, 70
STATES = {
    "RUNNING": RUNNING,
    "STARTING": STARTING,
    "BACKOFF": STARTING,  # it ended too early and is about to be started again
    "STOPPING": STOPPING,
    "STOPPED": STOPPED,
    "EXITED": FAILED,
    "FATAL": FAILED,
    "UNKNOWN": FAILED,
}


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a supervisord listens; the credentials never leave this object.

    url: unix:///path/to/socket or http://host:port.
    """

    url: str
    username: str = ""
    password: str = dataclasses.field(default="", repr=False)

    def headers(self) -> list[tuple[str, str]]:
        """Return what a request must carry to be let in."""
        if not self.username:
            return []
        token = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        return [("Authorization", f"Basic {token}")]


def read_address(configuration: Path) -> Address:
    """Return how supervisorctl would reach the supervisord of a configuration file.

    :raises Refused: unreadable, or it names no address.
    """
    # As supervisor reads it (supervisor/options.py, UnhosedConfigParser).
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    try:
        parser.read_string(configuration.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "it is not UTF-8 text"
        raise Refused(f"{configuration}: supervisor's configuration cannot be read: {reason}.") from exc
    except configparser.Error as exc:  # its message would quote the line, which may hold a password
        raise Refused(f"{configuration} is not a configuration of supervisor: {type(exc).__name__}.") from exc
    values = {"here": str(configuration.parent), **{f"ENV_{key}": value for key, value in os.environ.items()}}

    def setting(section: str, key: str) -> str:
        return _expand(parser.get(section, key, fallback="").strip(), values)

    url = setting("supervisorctl", "serverurl")
    if not url and setting("unix_http_server", "file"):
        url = "unix://" + setting("unix_http_server", "file")
    if not url:
        raise Refused(
            f"{configuration} says nowhere how to reach supervisord: no serverurl in [supervisorctl], no file in "
            "[unix_http_server]. Nothing was changed.",
            "Add one of them, or name server_url in the profile.",
        )
    section = "supervisorctl" if setting("supervisorctl", "username") else "unix_http_server"
    return Address(url, setting(section, "username"), setting(section, "password"))


def _expand(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"%\((\w+)\)s", lambda match: values.get(match.group(1), match.group(0)), text)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self.path = path

    def connect(self) -> None:
        """Connect to the socket instead of to a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(self.path)


class _Transport(xmlrpc.client.Transport):
    """Carries XML-RPC to an address, with a deadline for each answer."""

    def __init__(self, address: Address) -> None:
        super().__init__(headers=address.headers())
        self.address = address

    def make_connection(self, host: Any) -> http.client.HTTPConnection:  # noqa: ARG002 - the address knows
        """Return a fresh connection: supervisord may have been restarted since the last one."""
        kind, _, rest = self.address.url.partition("://")
        if kind == "unix":
            return _UnixConnection(rest)
        return http.client.HTTPConnection(rest.rstrip("/"), timeout=ANSWER_SECONDS)


class Supervisor:
    """One program of one supervisord."""

    def __init__(self, address: Address, program: str) -> None:
        """Take the address and the program, "name" or "group:name" (checked by the caller)."""
        if not re.fullmatch(r"unix:///[^\s]+|http://[A-Za-z0-9.\-\[\]:]+/?", address.url):
            raise Refused(
                f"server_url {address.url!r} is not the address of a supervisord. Nothing was changed.",
                "Write unix:///path/to/supervisor.sock or http://127.0.0.1:9001.",
            )
        self.address = address
        self.program = program

    def _call(self, method: str, *arguments: Any) -> Any:
        proxy = xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=_Transport(self.address))
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.ProtocolError as exc:
            why = "it wants another username and password" if exc.errcode == 401 else f"it answered HTTP {exc.errcode}"
            raise Refused(f"supervisord at {self.address.url} does not let us in: {why}.") from exc
        except (OSError, http.client.HTTPException) as exc:
            reason = getattr(exc, "strerror", None) or type(exc).__name__
            raise Refused(
                f"supervisord at {self.address.url} does not answer: {reason}.",
                "Start supervisord, or correct server_url or configuration in the profile.",
            ) from exc

    def read(self) -> Reading:
        """Read the program's state.

        :raises Refused: no supervisord, or it has no such program; the message lists those it has.
        """
        try:
            info: dict[str, Any] = self._call("getProcessInfo", self.program)
        except xmlrpc.client.Fault as exc:
            if exc.faultCode != BAD_NAME:
                raise Refused(f"supervisord cannot tell the state of {self.program}: {exc.faultString}.") from exc
            known = [_full_name(entry) for entry in self._call("getAllProcessInfo")]
            raise Refused(
                f"supervisord has no program {self.program!r}. Known: {', '.join(known) or 'none'}.",
                "Correct `program` in the profile.",
            ) from exc
        pid = int(info["pid"])
        key = process_key(pid) if pid else ""
        return Reading(
            state=STATES.get(info["statename"], FAILED),
            pids=(pid,) if pid else (),
            started=key,
            log=info.get("stderr_logfile") or info.get("stdout_logfile") or "",
        )

    def stop(self) -> None:
        """Ask for a stop, without waiting for it.

        :raises StepFailed: supervisord says no.
        """
        self._ask("stopProcess", NOT_RUNNING)

    def start(self) -> None:
        """Ask for a start, without waiting for it.

        :raises StepFailed: supervisord says no.
        """
        self._ask("startProcess", ALREADY_STARTED)

    def _ask(self, method: str, already: int) -> None:
        try:
            self._call(method, self.program, False)  # noqa: FBT003 - XML-RPC has no named arguments; this is `wait`
        except xmlrpc.client.Fault as exc:
            if exc.faultCode != already:
                raise StepFailed(f"supervisord refused {method} of {self.program}: {exc.faultString}.") from exc


def _full_name(info: Mapping[str, Any]) -> str:
    group, name = str(info["group"]), str(info["name"])
    return name if group == name else f"{group}:{name}"

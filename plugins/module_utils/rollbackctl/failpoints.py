# SPDX-License-Identifier: GPL-3.0-or-later
"""Named places where a test can stop a changing step, to prove that stopping there does no harm.

Without the environment variable ROLLBACKCTL_FAILPOINT a failpoint costs one dictionary look-up. Its value is
``name:action``, where action is one of

* ``kill``: SIGKILL to this process, as the out-of-memory killer or a power cut would;
* ``term``: SIGTERM to this process;
* ``fail``: an OSError, as a full disk or a lost connection would give;
* ``pause=PATH``: create PATH and wait (60 seconds at most) until somebody removes it.
"""

from __future__ import annotations

import errno
import os
import signal
import time

VARIABLE = "ROLLBACKCTL_FAILPOINT"
PAUSE_SECONDS = 60.0


def failpoint(name: str) -> None:
    """Do what ROLLBACKCTL_FAILPOINT asks for at the place called name; nothing when it names another place.

    :raises OSError: for the action ``fail``.
    """
    wanted, _, action = os.environ.get(VARIABLE, "").partition(":")
    if wanted != name:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "term":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PAUSE_SECONDS)
    elif action == "fail":
        raise OSError(errno.EIO, "failpoint", name)
    elif action.startswith("pause="):
        _pause(action[len("pause=") :])


def _pause(path: str) -> None:
    with open(path, "w", encoding="utf-8") as mark:
        mark.write(str(os.getpid()))
    deadline = time.monotonic() + PAUSE_SECONDS
    while os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.02)

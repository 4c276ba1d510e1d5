# SPDX-License-Identifier: GPL-3.0-or-later
"""Output that nobody takes must not end a run: a pipe whose reader has gone, a full disk, a closed terminal.

What a run tells is in its record as well; a service that is left behind its fence because a line could not be shown is
worse than a line that is not shown. For processes on the controller; modules write no output of their own.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any, Callable


def be_patient() -> list[OSError]:
    """Let nothing that this process writes to stdout or stderr fail; return the list to which each failure is added.

    The layer below the text is changed in place: others (Ansible, rich) hold on to the streams that they found.
    """
    failures: list[OSError] = []
    for stream in (sys.stdout, sys.stderr):
        buffer: Any = getattr(stream, "buffer", None)
        if buffer is not None:
            buffer.write = partial(_try, failures, buffer.write)
            buffer.flush = partial(_try, failures, buffer.flush)
    return failures


def _try(failures: list[OSError], do: Callable[..., Any], *content: bytes) -> int:
    try:
        do(*content)
    except OSError as error:
        del failures[:-1]  # the first and the last say it all
        failures.append(error)
    return len(content[0]) if content else 0

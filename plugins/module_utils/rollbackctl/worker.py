# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker process of Ansible's owes to the controller that started it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_the_controller() -> None:
    """Ask the kernel for SIGKILL when the parent ends, prctl(2); a parent that has ended already is noticed.

    Nothing that changes a service or keeps its lease alive may outlive the controller, and a signal to the controller's
    process group does not reach a worker, which is a session of its own. That the parent is process 1 says nothing: in
    a container the controller may be just that.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    controller = multiprocessing.parent_process()
    if controller is not None and os.getppid() != controller.pid:
        os.kill(os.getpid(), signal.SIGKILL)

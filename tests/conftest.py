# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets tests import what Ansible finds by its search paths: modules, action plugins and the shared Python.

`ansible.module_utils.rollbackctl` is put together per task from the `module_utils` setting; here its folder is added to
the package's path, once (https://docs.ansible.com/projects/ansible/latest/dev_guide/developing_module_utilities.html).
Modules and plugins are importable as `library.NAME` and `plugins.action.NAME`: pytest's `pythonpath` in pyproject.toml.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from ansible import module_utils

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"

module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background by a shell: what tests start and interrupt would inherit that it is to be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # likewise, by nohup

# The lab's Kubernetes cluster, for the tests that ask for it.
pytest_plugins = ["tests.support.kube"]


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture
def ansible_env() -> dict[str, str]:
    """The environment a test starts `ansible-playbook` in: this project's, and nothing of the caller's own Ansible."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}
    env["PATH"] = f"{BIN}{os.pathsep}{env.get('PATH', os.defpath)}"
    env["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    env["ANSIBLE_NOCOLOR"] = "1"
    return env

# SPDX-License-Identifier: GPL-3.0-or-later
"""As whom the project's code runs: env.py and migrations do what their owner wrote, so they get his rights and no more.

As root we become the one user to whom the code belongs, or else the one who may change the database's folder; the copy
that is migrated is made, and put in place, with the same user's rights.
"""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Mapping
from typing import Any

from .errors import Refused
from .safe_path import Owner, user_name, worker


def runs_as(options: Mapping[str, Any]) -> Owner:
    """Return as whom the project of a component runs, from its options.

    :raises Refused: its parts belong to several users and none is named, or root would run what others can change.
    """
    if os.geteuid() != 0:
        return Owner.named(os.geteuid(), os.getegid())
    name, owners = options["name"], _owners(options)
    named = str(options.get("user") or "")
    if named:
        try:
            entry = pwd.getpwnam(named)
        except KeyError:
            raise Refused(f"{name}: there is no user {named}. Nothing was changed.", "Correct 'user'.") from None
        if entry.pw_uid == 0 and owners:
            raise Refused(f"{name}: {_said(owners)}: root does not run it. Nothing was changed.", "Correct 'user'.")
        return Owner.named(entry.pw_uid, entry.pw_gid)
    if len(owners) > 1:
        raise Refused(
            f"{name}: the project's parts belong to several users: {_said(owners)}. Nothing was changed.",
            "Set the component's 'user' to the one whom the application runs as.",
        )
    for uid, path in owners.items():
        return Owner.named(uid, os.stat(path).st_gid)
    return worker(os.path.realpath(str(options["database"])))


def _owners(options: Mapping[str, Any]) -> dict[int, str]:
    """Return everybody but root who can change what is run, each with one path that shows it."""
    project, python = str(options["project"]), str(options["python"])
    config = os.path.join(project, str(options.get("config") or "alembic.ini"))
    places = [
        project,
        config,
        os.path.join(project, "pyproject.toml"),
        os.path.dirname(os.path.dirname(python)),
        python,
    ]
    found: dict[int, str] = {}
    for path in places:
        if os.path.lexists(path):
            for uid in (os.lstat(path).st_uid, os.stat(path).st_uid, worker(path).uid):
                found.setdefault(uid, path)
    found.pop(0, None)
    return found


def _said(owners: Mapping[int, str]) -> str:
    return ", ".join(f"{path} is {user_name(uid)}'s" for uid, path in sorted(owners.items()))


def cannot_write(owner: Owner, database: str) -> str:
    """Return why this user could not migrate the database; empty when he could. Nothing is left behind."""
    if not owner.drop:
        return ""
    folder = os.path.dirname(database)
    try:
        with owner.acting():
            os.close(os.open(database, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return (
            f"env.py runs as {user_name(owner.uid)}, who may not write {database} and its directory: {error.strerror}. "
            "Set the component's 'user' to the one whom the application runs as, or give him the right."
        )
    return ""

# SPDX-License-Identifier: GPL-3.0-or-later
"""Which driver knows which role's components: what a read-back of a whole service needs. A new role adds one line."""

from __future__ import annotations

from typing import Any, Mapping

from .alembic import AlembicDriver
from .component import Driver, Place
from .env_file import EnvFileDriver
from .files import FilesDriver
from .git import GitDriver
from .service import ServiceDriver
from .sqlite import SqliteDriver

DRIVERS: dict[str, type[Driver]] = {
    "restore_env": EnvFileDriver,
    "restore_files": FilesDriver,
    "restore_sqlite": SqliteDriver,
    "restart_service": ServiceDriver,
    "rollback_alembic": AlembicDriver,
    "rollback_git": GitDriver,
}


def driver(role: str, options: Mapping[str, Any], place: Place) -> Driver:
    """Return the driver of one component.

    :raises KeyError: no driver is registered for the role.
    """
    return DRIVERS[role](options, place)

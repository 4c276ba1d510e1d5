# SPDX-License-Identifier: GPL-3.0-or-later
"""Which driver knows which role's components: what a read-back of a whole service needs. A new role adds one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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


def drivers_of(
    roles: Sequence[Mapping[str, Any]], place: Place, known: Mapping[str, type[Driver]] | None = None
) -> list[Driver]:
    """Return the drivers of a service's components, in order.

    :param roles: a list of {"role": name, "components": [options, ...]}.
    :param known: which driver knows which role; DRIVERS by default.
    :raises KeyError: no driver is registered for a role.
    """
    table = DRIVERS if known is None else known
    drivers = [table[item["role"]](options, place) for item in roles for options in item["components"]]
    for driver in drivers:
        driver.siblings = {other.name: other for other in drivers}
    return drivers

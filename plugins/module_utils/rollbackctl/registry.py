# SPDX-License-Identifier: GPL-3.0-or-later
"""Which driver knows which role's components: what a read-back of a whole service needs. A new role adds one line."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import Any

from .component import Driver, Place

# Imports stand in functions: Ansible ships the files all the same, and a call loads what its profile names.


def _alembic() -> type[Driver]:
    from .alembic import AlembicDriver  # noqa: PLC0415

    return AlembicDriver


def _env() -> type[Driver]:
    from .env_file import EnvFileDriver  # noqa: PLC0415

    return EnvFileDriver


def _files() -> type[Driver]:
    from .files import FilesDriver  # noqa: PLC0415

    return FilesDriver


def _git() -> type[Driver]:
    from .git import GitDriver  # noqa: PLC0415

    return GitDriver


def _service() -> type[Driver]:
    from .service import ServiceDriver  # noqa: PLC0415

    return ServiceDriver


def _sqlite() -> type[Driver]:
    from .sqlite import SqliteDriver  # noqa: PLC0415

    return SqliteDriver


class Drivers(UserDict[str, type[Driver]]):
    """Drivers by role. One may stand there as a function that returns it, which is asked when somebody wants it."""

    def __init__(self, loaders: Mapping[str, Any]) -> None:
        """Take drivers, or what loads them, by role."""
        super().__init__()
        self.data.update(loaders)

    def __getitem__(self, role: str) -> type[Driver]:
        """Return a role's driver.

        :raises KeyError: none is registered.
        """
        known: Any = self.data[role]
        return known if isinstance(known, type) else known()


DRIVERS = Drivers({
    "restore_env": _env,
    "restore_files": _files,
    "restore_sqlite": _sqlite,
    "restart_service": _service,
    "rollback_alembic": _alembic,
    "rollback_git": _git,
})  # fmt: skip


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

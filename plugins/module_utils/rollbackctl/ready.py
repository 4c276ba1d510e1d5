# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a service could be put back in an incident: asked while there is none, when a checkpoint is taken."""

from __future__ import annotations

from collections.abc import Iterable

from .component import Driver
from .errors import Refused


def require_ready(drivers: Iterable[Driver]) -> None:
    """Stop when a component could not be put back in an incident.

    :raises Refused: naming all that stands in the way.
    """
    problems = [problem for driver in drivers for problem in driver.ready()]
    if problems:
        raise Refused(
            f"A rollback would not work now: {' '.join(problems)} Nothing was recorded.",
            "Correct the profile or the project, then take the checkpoint again.",
        )

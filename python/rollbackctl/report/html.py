# SPDX-License-Identifier: GPL-3.0-or-later
"""The report as one self-contained HTML page: no script, no remote asset, every text escaped."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from . import text
from .definitions import Report


def render(report: Report) -> str:
    """Return the page."""
    environment = Environment(
        loader=PackageLoader("rollbackctl.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # A loop control or an `include` of another file is not needed: one page, one template.
        extensions=[],
    )
    environment.filters["duration"] = text.duration
    environment.filters["moment"] = text.moment
    environment.filters["clock"] = text.clock
    return environment.get_template("report.html.j2").render(report=report, count=text.count)

# SPDX-License-Identifier: GPL-3.0-or-later
"""What the wrapper itself can fail at; everything else is in the run record."""

from __future__ import annotations


class WrapperError(Exception):
    """Base class; the text says what is wrong and what to do, in plain words."""


class ProjectMissingError(WrapperError):
    """The playbooks are nowhere to be found."""


class RecordMissingError(WrapperError):
    """There is no such record."""

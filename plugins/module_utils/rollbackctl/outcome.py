# SPDX-License-Identifier: GPL-3.0-or-later
"""The words a run can end in, and the wrapper's exit code for each."""

from __future__ import annotations

DONE = "done"
ALREADY = "already"
REFUSED = "refused"
RESTORED = "restored"
RESUMABLE = "resumable"
UNKNOWN = "unknown"
INTERRUPTED = "interrupted"

EXIT_CODES = {DONE: 0, ALREADY: 0, REFUSED: 2, RESTORED: 3, RESUMABLE: 4, UNKNOWN: 5, INTERRUPTED: 5}
EXIT_OVER_BUDGET = 6

MEANINGS = {
    DONE: "done and proven",
    ALREADY: "already there, verified; nothing was changed",
    REFUSED: "refused; nothing was changed",
    RESTORED: "failed, and put back to the state before the run",
    RESUMABLE: "stopped in a safe state; the run can be resumed",
    UNKNOWN: "the state could not be proven; an operator is needed",
    INTERRUPTED: "the controller ended before the run did",
}

# What a success of a run in check mode means; nothing was proven.
CHECKED = "checked, this would work; nothing was changed"

# Several services end one run: the run's word is the one that needs a person most.
_WORST_FIRST = (UNKNOWN, INTERRUPTED, RESUMABLE, RESTORED, REFUSED, DONE, ALREADY)


def worst(outcomes: list[str]) -> str:
    """Return the outcome of a run from those of its services; without any service nothing ran: refused."""
    for word in _WORST_FIRST:
        if word in outcomes:
            return word
    return REFUSED


def exit_code(outcome: str, *, over_strict_budget: bool = False) -> int:
    """Return the wrapper's exit code; being over a strict budget matters only for a run that succeeded."""
    code = EXIT_CODES[outcome]
    return EXIT_OVER_BUDGET if code == 0 and over_strict_budget else code

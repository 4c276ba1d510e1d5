# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception family. Every message is written for a person who was woken up by it.

RollbackError
+-- Refused            a check said no; nothing was changed by this step
|   +-- LeaseHeld      another run holds the service
+-- StepFailed         a change was begun and did not end as planned
|   +-- StateOther     somebody else changed the component: stop
|   +-- DeadlineExceeded
|   +-- AwaitingSomebody  the step did its part; a person must do the next
+-- JournalDamaged     what a run did is not known
+-- Interrupted        the run was asked to stop at a step boundary
"""

from __future__ import annotations


class RollbackError(Exception):
    """Base class.

    :param message: what is wrong, what was expected, in plain words.
    :param next_step: what to type next; empty when the caller knows better.
    """

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    @property
    def said(self) -> str:
        """What is wrong and what to type, in one line."""
        return f"{self.message} {self.next_step}".strip()


class Refused(RollbackError):
    """A check failed before any change: the target is missing, a backup is damaged, the place is wrong."""


class LeaseHeld(Refused):
    """Another run holds the lease or the kernel lock of this service."""


class StepFailed(RollbackError):
    """A changing step did not end as planned; the state must be read back before anything else is done."""


class StateOther(StepFailed):
    """A component is neither what the plan saw nor the target: somebody else changed it."""


class DeadlineExceeded(StepFailed):
    """A step took longer than its deadline; whether it took effect is unknown until it is read back."""


class AwaitingSomebody(StepFailed):
    """The step did its part and a person must do the next (merge a branch); what nobody changed is not taken back."""


class Interrupted(RollbackError):
    """The controller received a stop signal; work ends at this step boundary."""


class JournalDamaged(RollbackError):
    """An event of a run's journal cannot be read, and others follow it: nobody knows what it said.

    where: the file and line, or the object and key.
    """

    def __init__(self, where: str, aside: str) -> None:
        """aside: the command that sets the run aside, so that the service can be rolled back without it."""
        super().__init__(
            f"The journal is damaged: {where} cannot be read, and events follow it. What the run did is not known.",
            f"Restore it from a backup. Without one: look at the service, set the run aside, start anew:  {aside}",
        )
        self.where = where

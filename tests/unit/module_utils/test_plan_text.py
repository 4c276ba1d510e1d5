# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan and the end of a run as people read them, at 80 columns."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.rollbackctl import outcome
from ansible.module_utils.rollbackctl.plan_text import ending_lines, plan_lines

SINCE = "2026-11-21T09:12:40Z"
RUN = "rb-20261121-093015-4f2a"


def entry(name: str, layer: str, action: str, live: str, target: str, **finding: Any) -> dict[str, Any]:
    found = {"seconds": 1.0, "worst_seconds": 60.0, "notes": [], "loss": None, **finding}
    texts = {"live": {"text": live}, "target": {"text": target}}
    return {"name": name, "role": "a_role", "layer": layer, "action": action, **texts, "finding": found}


def service(problems: tuple[str, ...] = (), **plan: Any) -> dict[str, Any]:
    entries = [
        entry("shop-schema", "schema", "by:shop-db", "revision 0004", "revision 0003"),
        entry(
            "shop-db", "data", "change", "200 rows", "backup of 2026-11-21T09:12:40Z, 188 rows, revision 0003, whole",
            loss={"since": SINCE, "text": "12 rows of orders"}, notes=["open now: python (pid 7)"],
        ),
        entry("shop-env", "configuration", "change", "3 variables", "3 variables", notes=["changes API_KEY, MODE."]),
        entry("shop-static", "application", "none", "2 files", "2 files"),
        entry("shop-web", "application", "follow", "running", "running, started anew"),
    ]  # fmt: skip
    made: dict[str, Any] = {
        "id": RUN, "hash": "9b74c9897bac770f", "checkpoint": "cp-1", "data_loss_since": SINCE, "seconds": 2.0,
        "worst_seconds": 120.0, "fence": True, "undoes": "", "entries": entries,
        "notes": ["shop-db: open now: python (pid 7)", "Left as it is: shop-mail (not part of level 3)."],
    }  # fmt: skip
    return {"plan": {**made, **plan}, "problems": list(problems)}


def shown(found: dict[str, Any], kind: str = "rollback") -> str:
    return "\n".join(line.text for line in plan_lines("shop", found, kind))


PLAN = """\
shop: to checkpoint cp-1, plan 9b74c9897bac
  component    action
  shop-schema  brought along by shop-db (schema)
               from   revision 0004
               to     revision 0003
  shop-db      change (data), about 1 s, at most 1 min
               from   200 rows
               to     backup of 2026-11-21T09:12:40Z, 188 rows, revision 0003,
                      whole
               note   open now: python (pid 7)
  shop-env     change (configuration), about 1 s, at most 1 min
               from   3 variables
               to     3 variables
               note   changes API_KEY, MODE.
  shop-static  already there (application)
               is     2 files
  shop-web     restart (application), about 1 s, at most 1 min
               from   running
               to     running, started anew
  Left as it is: shop-mail (not part of level 3).
  What was written after 21 Nov 2026, 09:12:40 UTC is not in the target.
  - 12 rows of orders
  Takes about 2 s, at most 2 min; nobody can write meanwhile (fence)."""


def test_a_plan() -> None:
    assert shown(service()) == PLAN


def test_a_refused_plan_says_its_problems_first_and_not_that_nothing_is_lost() -> None:
    said = shown(
        service(
            ('shop-db: there is no such backup. Name one of them: -e \'{"rollback_to": {"shop-db": "/b/x"}}\'',),
            data_loss_since="",
        )
    )
    lines = said.splitlines()
    assert lines[1] == "  - shop-db: there is no such backup. Name one of them:"
    assert lines[2] == """    -e '{"rollback_to": {"shop-db": "/b/x"}}'"""  # a command stays on one line
    assert "is lost" not in said


def test_a_plan_without_loss_says_so() -> None:
    assert "\n  Nothing that was written is lost.\n" in shown(service(data_loss_since=""))


def test_what_a_finalize_removes() -> None:
    kept = [entry("shop-db", "data", "remove", "200 rows", "nothing: the way back is removed")]
    said = shown(service(entries=kept, undoes=RUN, data_loss_since="", notes=[]), "finalize")
    assert (
        said
        == f"""\
shop: what run {RUN} kept, plan 9b74c9897bac
  component  action
  shop-db    removed for good (data)
             from   200 rows
             to     nothing: the way back is removed
  After this, run {RUN} cannot be taken back."""
    )


def test_texts_of_a_record_cannot_drive_a_terminal() -> None:
    said = shown(service(("\x1b[2J",), notes=["a\x07b"]))
    assert "\x1b" not in said
    assert "\x07" not in said


def document(**more: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "run": RUN, "kind": "rollback", "level": 3, "outcome": "done", "message": "done and proven", "next": "",
        "seconds": 6.9, "services": {"shop": {"outcome": "done"}},
    }  # fmt: skip
    return {**base, **more}


def ended(found: dict[str, Any]) -> str:
    return "\n".join(line.text for line in ending_lines(found, "/records/x.json"))


def test_the_end_of_a_run() -> None:
    assert (
        ended(document())
        == f"""\
Done and proven
  run      {RUN} (rollback level 3, 6.9 s)
  record   /records/x.json
  report   rollbackctl report {RUN}
  next     rollbackctl undo {RUN} --reason 'it was the wrong thing'
  next     some days later, which removes what was kept:
           rollbackctl finalize {RUN}"""
    )


def test_the_end_of_a_refused_run() -> None:
    refused = document(outcome="refused", message="Refused, nothing was changed: shop-db: no space", next="make room")
    assert (
        ended(refused)
        == f"""\
Refused; nothing was changed
  run      {RUN} (rollback level 3, 6.9 s)
  because  shop-db: no space
  record   /records/x.json
  report   rollbackctl report {RUN}
  next     make room"""
    )


def test_each_command_of_what_follows_stands_on_a_line_of_its_own() -> None:
    following = f"rollbackctl resume {RUN}\nor, back to where it was:\nrollbackctl undo {RUN}"
    said = ended(document(outcome="resumable", next=following)).splitlines()
    assert said[-3:] == [
        f"  next     rollbackctl resume {RUN}",
        "           or, back to where it was:",
        f"           rollbackctl undo {RUN}",
    ]
    said = ended(document(outcome="unknown", next=f"Log in again, then: rollbackctl resume {RUN}")).splitlines()
    assert said[-2:] == ["  next     Log in again, then:", f"           rollbackctl resume {RUN}"]


def test_what_a_success_does_not_say_stands_beside_it() -> None:
    both = {
        "shop": {"outcome": "done", "message": "No check."},
        "pay": {"outcome": "done", "message": "done and proven"},
    }
    assert "  shop: done and proven\n  but      No check.\n  pay: done and proven\n" in ended(document(services=both))


def test_nothing_that_was_only_looked_at_is_called_proven() -> None:
    both = {name: {"outcome": "done", "message": outcome.CHECKED} for name in ("shop", "pay")}
    said = ended(document(check_mode=True, services=both))
    assert said.count("hecked, this would work; nothing was changed\n") == 3
    assert "proven" not in said
    assert "  but " not in said


def test_the_end_of_a_look_and_of_several_services() -> None:
    assert ended(document(check_mode=True)).startswith("Checked, this would work; nothing was changed\n")
    both = document(outcome="unknown", services={"shop": {"outcome": "done"}, "pay": {"outcome": "unknown"}})
    said = ended(both)
    assert "  shop: done and proven\n  pay: the state could not be proven; an operator is needed\n" in said

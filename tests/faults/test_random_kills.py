# SPDX-License-Identifier: GPL-3.0-or-later
"""Module processes are killed at random moments, again and again, until somebody gets through.

Each seed is one broken shop. A run is begun; whichever module is at work at a random moment is killed, alone or with
all that it started; sometimes its controller lives on and takes back; then another controller goes on, and may be
killed as well. Seeds are printed: FAULTS_SEED=<seed> repeats one.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.faults import outside
from tests.faults.cases import Case
from tests.faults.conftest import THOROUGH
from tests.faults.harness import Died, Killer
from tests.faults.shop import SCENARIOS, Bench

KILLS = int(os.environ.get("FAULTS_KILLS", "60"))
SEED = os.environ.get("FAULTS_SEED", "")
BUDGET_SECONDS = 60.0  # of the short way
# Side by side when there is time for all of it: each lane has its share of the kills, and seeds that no other has.
LANES = 4 if THOROUGH and not SEED else 1
# Starting alembic takes a second, a dozen times a run: it has its turn when there is time for it.
WEIGHTS = {"data": 4, "restore": 4, "online": 2, "damaged": 1, "downgrade": 1, "staged": 1}


@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("lane", range(LANES))
def test_random_kills(bench: Bench, table: list[tuple[str, ...]], lane: int, *, thorough: bool) -> None:
    began, kills, seeds = time.monotonic(), 0, 0
    usual: dict[str, float] = {}
    for seed in [int(SEED)] if SEED else range(1 + lane, 100_000, LANES):
        late = not thorough and time.monotonic() - began > BUDGET_SECONDS
        if kills >= KILLS / LANES or late:
            break
        print(f"seed {seed} ({kills} kills so far)", flush=True)
        kills += shop_of_a_seed(bench, seed, usual, thorough=thorough)
        seeds += 1
    assert kills > 0
    last = 1 + lane + (seeds - 1) * LANES
    shops = f"seed {SEED}" if SEED else f"{seeds} shops: seeds {1 + lane} to {last} by {LANES}"
    row = (f"{kills} random moments", "kill", "any", "nothing but old or new", "by the rule", shops)
    table.append(row)


def shop_of_a_seed(bench: Bench, seed: int, usual: dict[str, float], *, thorough: bool) -> int:
    """Break one shop, kill and go on; return how often something was killed."""
    dice = random.Random(seed)
    names = [name for name in WEIGHTS if thorough or name not in {"downgrade", "staged"}]
    name = dice.choices(names, [WEIGHTS[name] for name in names])[0]
    case = Case(bench, next(scenario for scenario in SCENARIOS if scenario.name == name))
    if name not in usual:  # how long a run takes here and now
        began = time.monotonic()
        assert case.run().go()["outcome"] == "done"
        usual[name] = time.monotonic() - began
        case = Case(bench, case.scenario)
    run, kills = "", 0
    for _attempt in range(dice.randint(3, 9)):
        killer = Killer(dice.uniform(0.0, 0.7 * usual[name]), group=dice.random() < 0.5)
        controller = case.run(named=run, killer=killer, survives=dice.random() < 0.3, controller=f"controller{kills}")
        try:
            ending = controller.go()
        except Died as died:
            kills += 1
            case.parts()
            run = died.run if case.store.read_plan(died.run) is not None else ""
            if dice.random() < 0.5 and run:
                case.rule_eleven(died, armed=False)
            case.nothing_lost()
            if not run:
                case.lose_controller_if_any()
            continue
        kills += controller.died is not None
        case.parts()
        case.nothing_lost()
        # A controller that was refused (somebody is still at work on the service) has not made the run another one.
        begun = run or (controller.died.run if controller.died else str(controller.run["id"]))
        run = begun if case.store.read_plan(begun) is not None else ""
        if ending["outcome"] in {"done", "already"}:
            assert case.word() == outside.NEW, (seed, ending)
            break
        if ending["outcome"] == "restored":
            assert case.word() == outside.OLD, (seed, ending)
            run = ""  # whoever still wants it begins a new one
        else:
            assert ending["outcome"] in {"resumable", "refused", "unknown"}, (seed, ending)
    if run:
        case.go_on(run)
    else:
        case.lose_controller_if_any()
        ending = case.run(controller="last").go()
        assert ending["outcome"] in {"done", "already"}, f"seed {seed}: {ending}"
        assert case.word() == outside.NEW
    return kills

# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure, beside the usual way in the same run, and print one table.

run.py                        everything; on two cores well over an hour, nearly all of it for Kubernetes
run.py git sqlite             only these
run.py --json FILE            also write every single figure
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ansible import module_utils

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # this file is started by its path
module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))  # as tests/conftest.py does

from rich.console import Console  # noqa: E402 - after the paths above
from rich.table import Table  # noqa: E402 - the same

# Name -> where it is: its function yields a line per measurement.
BENCHES = {
    **{name: f"bench_{name}:bench" for name in ("start", "overhead", "git", "sqlite", "kubernetes")},
    "kubernetes_200": "bench_kubernetes:bench_most",
}
# Other work on the machine is in every figure; from here on it is said.
BUSY_LOAD_PER_CORE = 0.5
WIDTH = None if sys.stdout.isatty() else 160


def main() -> int:
    """Run the benchmarks that were named. Return 1 when one broke off; a bar that is not met is said and no error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join(BENCHES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(BENCHES))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; known: {', '.join(BENCHES)}")
    console = Console(highlight=False, width=WIDTH)
    machine = _machine()
    rows: list[dict[str, Any]] = []
    broken = []
    for name in options.names or BENCHES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        module, _, function = BENCHES[name].partition(":")
        try:
            for line in getattr(importlib.import_module(f"tests.benchmarks.{module}"), function)():
                rows.append({"bench": name, **line})  # noqa: PERF401 - what came before an error stays
        except Exception:  # noqa: BLE001 - what was measured before is shown all the same
            traceback.print_exc()
            broken.append(name)
    machine["load_after"] = os.getloadavg()[0]
    _show(console, rows, machine)
    if options.json:
        document = json.dumps({"machine": machine, "rows": rows}, indent=1, ensure_ascii=False)
        options.json.write_text(f"{document}\n", encoding="utf-8")
    if broken:
        console.print(f"Broke off, so lines are missing: {', '.join(broken)}.")
    return 1 if broken else 0


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count() or 1,
        "python": platform.python_version(),
        "ansible_core": version("ansible-core"),
        "load_before": os.getloadavg()[0],
    }


def _show(console: Console, rows: list[dict[str, Any]], machine: dict[str, Any]) -> None:
    table = Table(title="Medians, with the least and the most; the ratio is the usual way divided by ours")
    for name in ("what", "ours", "the usual way", "ratio", "bar", "met"):
        table.add_column(name, justify="right" if name == "ratio" else "left")
    for line in rows:
        table.add_row(
            line["name"],
            _times(line["ours_seconds"], line["ours_all"]),
            f"{_times(line['usual_seconds'], line['usual_all'])}\n{line['usual']}",
            f"{line['ratio']:.1f}",
            line["bar"] or "-",
            {None: "-", True: "yes", False: "NO"}[line["met"]],
        )
    console.print(table, markup=False)
    for line in rows:
        if line["note"]:
            console.print(f"{line['name']}: {line['note']}", markup=False)
    console.print(
        f"{machine['cores']} cores, Python {machine['python']}, ansible-core {machine['ansible_core']}, "
        f"load {machine['load_before']:.1f} before and {machine['load_after']:.1f} after."
    )
    if machine["load_before"] > BUSY_LOAD_PER_CORE * machine["cores"]:
        console.print("The machine had other work: absolute figures are too high, ratios are what counts.")


def _times(median: float, single: list[float]) -> str:
    """Return a median and, where there are several, the least and the most, in a unit that suits it."""
    unit, factor = ("ms", 1000.0) if median < 0.1 else ("s", 1.0)
    digits = 2 if median * factor < 10 else 1
    text = f"{median * factor:.{digits}f} {unit}"
    if len(single) > 1:
        text += f" ({min(single) * factor:.{digits}f} to {max(single) * factor:.{digits}f})"
    return text


if __name__ == "__main__":
    raise SystemExit(main())

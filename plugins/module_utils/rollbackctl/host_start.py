# SPDX-License-Identifier: GPL-3.0-or-later
"""Started on a host as `python3 -I -c THIS CODE'S-DIGEST`: answers one call (calls.py), which is on standard input,
with the code that an earlier call has left there (host_unpack.py). Ends with 90 where there is none, with 91 where
it is damaged or may be another's; nothing was done then.
"""

from __future__ import annotations

import os
import pwd
import stat
import sys

try:
    place = home = pwd.getpwuid(os.geteuid()).pw_dir
    for name in ("", ".cache", "rollbackctl", sys.argv[1]):
        place = os.path.join(place, name)
        found = os.stat(place) if place == home else os.lstat(place)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {0, os.geteuid()} or found.st_mode & 0o022:
            sys.exit(91)
    os.utime(place)
except (OSError, KeyError):
    sys.exit(90)
sys.path.insert(0, place)
try:
    from rollbackctl.calls import main  # type: ignore[import-untyped]
except Exception:  # noqa: BLE001 - whatever is wrong with it, it is sent again
    sys.exit(91)
main()

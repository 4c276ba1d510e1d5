#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Guess: a scheduler with a persistent job store keeps a job whose function the code of today does not have. After a
#        rollback it is not run, and when the newer release is back, so is the job.
# Real:  APScheduler 3.11.1 with SQLAlchemyJobStore deletes that row when it first reads the store, and only logs
#        'Unable to restore job "newer" -- removing it'. Going forward again does not bring the schedule back.
#        Seen:  before ['kept', 'newer']   with the older code ['kept']   with the newer code again ['kept']
# So:    a job store is data. Put its file or database into the profile (restore_sqlite), so that the copy kept before
#        the rollback holds the schedules and `undo` can bring them back.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" --quiet --disable-pip-version-check install apscheduler==3.11.1 sqlalchemy==2.0.44
cd "$here"
export PYTHONDONTWRITEBYTECODE=1

cat > jobs_of_the_store.py <<'PY'
import sys

from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler

scheduler = BackgroundScheduler(jobstores={"default": SQLAlchemyJobStore(url="sqlite:///jobs.db")}, timezone="UTC")
scheduler.start(paused=True)
if sys.argv[1:] == ["add"]:
    scheduler.add_job("tasks:kept", "interval", hours=1, id="kept")
    scheduler.add_job("tasks:newer", "interval", hours=1, id="newer")
print(sorted(job.id for job in scheduler.get_jobs()))
scheduler.shutdown()
PY
newer=$'def kept(): pass\ndef newer(): pass\n'
older=$'def kept(): pass\n'
printf '%s' "$newer" > tasks.py
before=$("$here/venv/bin/python" jobs_of_the_store.py add)
printf '%s' "$older" > tasks.py
back=$("$here/venv/bin/python" jobs_of_the_store.py 2> log)
printf '%s' "$newer" > tasks.py
forward=$("$here/venv/bin/python" jobs_of_the_store.py)
grep -o 'Unable to restore job.*' log
echo "before $before   with the older code $back   with the newer code again $forward"
[ "$before" = "['kept', 'newer']" ] && [ "$back" = "['kept']" ] && [ "$forward" = "['kept']" ]

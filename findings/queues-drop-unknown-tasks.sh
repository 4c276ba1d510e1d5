#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Guess: a worker of the older release that takes a task of the newer one from the queue fails it: with late
#        acknowledgement (Celery) or retries (Huey) it is tried again, at the latest once the newer release is back.
# Real:  Celery 5.5.3 with task_acks_late acknowledges a task of a name that it does not know and drops it; Huey 2.5.3
#        drops it whatever retries=3 says. Both log an error and go on; nothing is left in the queue.
#        Seen:  celery: 2 messages before, 0 after, 1 task ran   huey: 2 before, 0 after, 1 result
# So:    before older code is started, stop the workers of the queue or let it run dry; a rollback that starts old
#        workers on a filled queue loses what the newer release had queued.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" --quiet --disable-pip-version-check install celery==5.5.3 huey==2.5.3
cd "$here"
export PATH="$here/venv/bin:$PATH" PYTHONDONTWRITEBYTECODE=1 C_FORCE_ROOT=1

mkdir queue control
cat > older.py <<'PY'
from celery import Celery

app = Celery("shop", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control",
}
app.conf.task_acks_late = True
app.conf.task_reject_on_worker_lost = True


@app.task(name="shop.kept")
def kept():
    open("ran", "a").write("kept\n")
PY
{ cat older.py; printf '\n\n@app.task(name="shop.newer")\ndef newer():\n    open("ran", "a").write("newer\\n")\n'; } > newer.py
cp newer.py shop_celery.py
python -c 'import shop_celery as shop; shop.newer.delay(); shop.kept.delay()'
before=$(find queue -type f | wc -l)
cp older.py shop_celery.py
timeout --signal TERM 10 celery -A shop_celery worker -P solo --without-gossip --without-mingle > celery.log 2>&1 || true
after=$(find queue -type f | wc -l)
ran=$(cat ran)
grep -o 'Received unregistered task.*' celery.log
grep -o 'The message has been ignored and discarded.' celery.log

cat > older.py <<'PY'
from huey import SqliteHuey

queue = SqliteHuey(filename="huey.db")


@queue.task(retries=3)
def kept():
    return "kept"
PY
{ cat older.py; printf '\n\n@queue.task(retries=3)\ndef newer():\n    return "newer"\n'; } > newer.py
cp newer.py shop_huey.py
huey_before=$(python -c 'import shop_huey as shop; shop.newer(); shop.kept(); print(shop.queue.pending_count())')
cp older.py shop_huey.py
timeout --signal TERM 5 huey_consumer shop_huey.queue -w 1 > huey.log 2>&1 || true
cp newer.py shop_huey.py
huey_after=$(python -c 'import shop_huey as shop; print(shop.queue.pending_count(), shop.queue.scheduled_count(), shop.queue.result_count())')
grep -o 'HueyException:.*' huey.log | head -1
echo "celery: $before messages before, $after after, ran: $ran   huey: $huey_before before; pending, scheduled, results after: $huey_after"
[ "$before $after $ran" = "2 0 kept" ] && [ "$huey_before" = 2 ] && [ "$huey_after" = "0 0 1" ]

#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Guess: `supervisorctl status` ends with 3 unless every program runs, and `supervisorctl update`, which stops and starts
#        what a changed configuration asks for, fails when the program does not start.
# Real:  supervisor 4.3.0: BACKOFF (it failed to start and is tried again) counts among the running states, so `status`
#        exits 0 for it; and `update` exits 0 whatever becomes of what it started.
#        Seen:  update: exit 0   status: web BACKOFF can't find command, exit 0   restart web: exit 1
# So:    read the state's name, not the exit code; after a configuration was put back, `update` proves nothing.
set -euo pipefail
here=$(mktemp -d)
python3 -m venv "$here/venv"
"$here/venv/bin/pip" --quiet --disable-pip-version-check install supervisor==4.3.0 setuptools==80.9.0
cd "$here"
ctl() { venv/bin/supervisorctl -c supervisord.conf "$@"; }
trap 'ctl shutdown > /dev/null || true; rm -rf "$here"' EXIT
cat > supervisord.conf << 'INI'
[supervisord]
logfile = %(here)s/log
pidfile = %(here)s/pid
[unix_http_server]
file = %(here)s/control
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl = unix://%(here)s/control
[program:web]
command = /bin/sleep 600
startretries = 30
INI
venv/bin/supervisord -c supervisord.conf
for _ in $(seq 60); do ctl status web | grep -q RUNNING && break; sleep 0.5; done
sed -i 's#/bin/sleep#/bin/no-such-program#' supervisord.conf
update=0; ctl update || update=$?
for _ in $(seq 60); do ctl status web | grep -q BACKOFF && break; sleep 0.2; done
status=0; ctl status web > state || status=$?
restart=0; ctl restart web || restart=$?
cat state
echo "update: exit $update   status: exit $status   restart: exit $restart"
grep -q 'BACKOFF' state && [ "$update $status $restart" = "0 0 1" ]

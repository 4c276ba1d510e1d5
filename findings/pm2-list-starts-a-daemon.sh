#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Guess: `pm2 jlist` lists what runs, so it changes nothing, and with no daemon it says so.
#
# What really happens (pm2 7.0.4, node 20.20.2, 2026-12-01): with no daemon, every command of pm2 starts one first, also
# those that only read. It stays, under whoever asked, with PM2_HOME of whoever asked; it knows no application, and
# `pm2 jlist` prints [] with exit code 0. Asked as root for a service of another user, there are two daemons afterwards.
# Whether one runs is seen by connecting to $PM2_HOME/rpc.sock, which is what pm2 itself does. pm2.pid is no sign: it
# stays when the daemon is killed.
#
# Also seen here: an application's process carries one text in the place of its arguments ("node /path/app.js", the
# application's own arguments are gone), so looking for an argument in /proc/PID/cmdline finds nothing.
#
# Output: jlist with no daemon: exit code 0, answer [], daemons before 0, after 1
#         arguments of an application: 1 text: node FOLDER/app.js
#         after kill -9 of the daemon: pm2.pid is there, rpc.sock answers: no
set -euo pipefail

folder=$(mktemp -d)
export HOME=$folder PM2_HOME=$folder/home
pm2=$folder/node_modules/.bin/pm2
end() {
    [ ! -S "$PM2_HOME/rpc.sock" ] || "$pm2" kill --silent >/dev/null || true
    rm -rf "$folder"
}
trap end EXIT

npm install --silent --no-audit --no-fund --prefix "$folder" pm2@7.0.4 >/dev/null

answers() { node -e 'require("net").connect(process.argv[1]).on("connect", () => process.exit(0)).on("error", () => process.exit(1))' "$PM2_HOME/rpc.sock"; }
daemons() { answers && echo 1 || echo 0; }

before=$(daemons)
answer=$("$pm2" jlist --silent)
after=$(daemons)
echo "jlist with no daemon: exit code $?, answer $answer, daemons before $before, after $after"
[ "$before/$answer/$after" = "0/[]/1" ]

echo 'setInterval(() => {}, 1000)' >"$folder/app.js"
"$pm2" start "$folder/app.js" --name shop --silent -- --port 1 >/dev/null
app=$("$pm2" pid shop)
until grep -q "^node $folder/app.js" "/proc/$app/cmdline"; do sleep 0.1; done
title=$(tr -d '\0' <"/proc/$app/cmdline")
echo "arguments of an application: 1 text: ${title/$folder/FOLDER}"
[ "$title" = "node $folder/app.js" ]

daemon=$(cat "$PM2_HOME/pm2.pid")
kill -9 "$daemon" "$app"
while [ -e "/proc/$daemon" ]; do sleep 0.1; done
answers && sign=yes || sign=no
echo "after kill -9 of the daemon: pm2.pid is $([ -s "$PM2_HOME/pm2.pid" ] && echo there || echo gone), rpc.sock answers: $sign"
[ "$sign" = no ] && [ -s "$PM2_HOME/pm2.pid" ]
rm -f "$PM2_HOME/rpc.sock"

#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Guess: HUP makes gunicorn without --preload start new workers, which import everything anew: after the code was put
#        back, all of it is the old release.
# Real:  gunicorn 23.0.0: what gunicorn.conf.py imports is imported in the master, once. HUP runs the configuration file
#        again, but its imports come from the master's memory, and the new workers inherit them by fork. They run the
#        old release's code with the bad release's settings.
#        Seen:  before: code=bad settings=bad   after HUP: code=good settings=bad   after a restart: code=good settings=good
# So:    going back needs a restart, not a reload, and a check that compares what users get, not only a version.
set -euo pipefail
here=$(mktemp -d)
master=
trap '[ -z "$master" ] || kill "$master" 2> /dev/null || true; rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" --quiet --disable-pip-version-check install gunicorn==23.0.0
cd "$here"
export PYTHONDONTWRITEBYTECODE=1
mkdir shop
touch shop/__init__.py
release() {
  echo "RELEASE = '$1'" > shop/settings.py
  cat > shop/web.py << PY
from shop.settings import RELEASE


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"code=$1 settings={RELEASE}".encode()]
PY
}
cat > gunicorn.conf.py << 'PY'
from shop import settings

bind = "unix:web.sock"
workers = 1
raw_env = [f"RELEASE={settings.RELEASE}"]
PY
start() { rm -f web.sock; venv/bin/gunicorn shop.web:app 2>> log & master=$!; }
ask() { curl --silent --retry 40 --retry-delay 1 --retry-all-errors --max-time 2 --unix-socket web.sock http://shop/; }

release bad
start
before=$(ask)
release good
kill -HUP "$master"
for _ in $(seq 60); do
  after=$(ask)
  [ "$after" = "$before" ] || break
  sleep 0.5
done
kill "$master"; wait "$master" || true
start
restarted=$(ask)
echo "before: $before   after HUP: $after   after a restart: $restarted"
[ "$before" = "code=bad settings=bad" ] && [ "$after" = "code=good settings=bad" ] && [ "$restarted" = "code=good settings=good" ]

#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Starts, stops and asks the small service:  ctl.sh start|stop|status HOME DATABASE PYTHON
cd "$2" || exit 2

runs() {
  pid=$(cat service.pid 2>/dev/null) || return 1
  read -r stat 2>/dev/null <"/proc/$pid/stat" || return 1
  case ${stat##*) } in Z* | X*) return 1 ;; esac
  grep -q service.py "/proc/$pid/cmdline" 2>/dev/null
}

case $1 in
  status) runs || exit 3 ;;
  stop)
    ! runs || kill "$pid" 2>/dev/null
    while runs; do sleep 0.01; done
    ;;
  start)
    runs || setsid "$4" -I -S "$(dirname "$0")/service.py" "$2" "$3" </dev/null >/dev/null 2>>service.err &
    n=0
    until runs; do
      n=$((n + 1))
      [ $n -lt 500 ] || exit 1
      sleep 0.01
    done
    ;;
  *) exit 2 ;;
esac

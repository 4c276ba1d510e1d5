#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Guess: a migration tool that is told to go back over a migration without a way back refuses, as dbmate does ("requires
#        each migration to define a down block"), or at least goes on saying that it is applied.
# Real:  yoyo-migrations 9.0.0 (`rollback`) and goose 3.24.1 (`down`) exit 0, leave the table where it is, and write down
#        that the migration is not applied any more. The next `apply` then fails: the table exists already.
#        Seen:  yoyo: exit 0, listed as U(napplied), tables a b   goose: exit 0, Pending, tables a b
# So:    neither the exit code nor the tool's own table says what the schema is. Look at the schema before and after.
set -euo pipefail
here=$(mktemp -d)
trap 'chmod -R u+w "$here"; rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" --quiet --disable-pip-version-check install yoyo-migrations==9.0.0 setuptools==80.9.0
GOPATH="$here/go" GOFLAGS=-modcacherw go install \
  -tags 'no_postgres no_mysql no_clickhouse no_mssql no_vertica no_ydb no_libsql' \
  github.com/pressly/goose/v3/cmd/goose@v3.24.1 2> "$here/go.log"
cd "$here"
tables() {
  python3 -c 'import sqlite3, sys
print(*(n for (n,) in sqlite3.connect(sys.argv[1]).execute("SELECT name FROM sqlite_master WHERE name IN (?, ?)", ("a", "b"))))' "$1"
}

mkdir yoyo goose
echo 'CREATE TABLE a (id INTEGER);' > yoyo/0001.a.sql
echo 'CREATE TABLE b (id INTEGER);' > yoyo/0002.b.sql
venv/bin/yoyo apply --batch --database sqlite:///yoyo.db yoyo
venv/bin/yoyo rollback --batch --all --database sqlite:///yoyo.db yoyo
yoyo_code=$?
listed=$(venv/bin/yoyo list --batch --database sqlite:///yoyo.db yoyo | grep -c '^U ')
venv/bin/yoyo apply --batch --database sqlite:///yoyo.db yoyo 2>&1 | tail -1 | tee again || true
printf -- '-- +goose Up\nCREATE TABLE a (id INTEGER);\n' > goose/00001_a.sql
printf -- '-- +goose Up\nCREATE TABLE b (id INTEGER);\n' > goose/00002_b.sql
go/bin/goose -dir goose sqlite3 goose.db up 2> /dev/null
go/bin/goose -dir goose sqlite3 goose.db down 2> down.log
goose_code=$?
grep -o 'EMPTY.*sql' down.log
pending=$(go/bin/goose -dir goose sqlite3 goose.db status 2>&1 | grep -c Pending)
echo "yoyo: exit $yoyo_code, $listed unapplied, tables $(tables yoyo.db)   goose: exit $goose_code, $pending pending, tables $(tables goose.db)"
[ "$listed" = 2 ] && [ "$pending" = 1 ] && [ "$(tables yoyo.db)" = "a b" ] && [ "$(tables goose.db)" = "a b" ]
grep -q 'already exists' again

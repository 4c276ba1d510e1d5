#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Guess: readers of .env files in Python agree on plain lines: `NAME=` sets an empty value, `GREETING=two words` keeps its blank,
#        and what follows # after a closed quotation mark is a comment, as in a shell.
# Real:  honcho 2.0.0 does not set the variable of `NAME=` at all and glues words together; it, python-decouple and starlette
#        leave out `export NAME=...`.
#        django-environ 0.14.0, python-decouple 3.8 and starlette 1.10.0 take a comment after a quoted value for a part of the
#        value, quotation marks included; python-dotenv 1.2.4 and sh do not. None of them says a word.
#        Seen:  honcho       EMPTY unset, GREETING 'twowords', SENT unset, QUOTED 'secret'
#               the others   EMPTY '', GREETING 'two words'; QUOTED '"secret" # from the vault' in three of four
# So:    which value a service works with depends on who reads its file. A rollback that puts a .env file back byte for byte is
#        right with each of them; one that rewrites lines must not "tidy" them (no added comments, quotes only where there were some).
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" --quiet --disable-pip-version-check install \
  honcho==2.0.0 django-environ==0.14.0 python-decouple==3.8 starlette==1.10.0 python-dotenv==1.2.4
cd "$here"

cat > shop.env <<'ENV'
EMPTY=
GREETING=two words
export SENT=yes
QUOTED="secret" # from the vault
ENV
cat > read.py <<'PY'
import os

import decouple
import dotenv
import environ
from honcho.environ import parse
from starlette.config import Config


def django():
    before = set(os.environ)
    environ.Env.read_env("shop.env")
    return {name: os.environ.pop(name) for name in set(os.environ) - before}


found = {
    "honcho": parse(open("shop.env").read()),
    "django-environ": django(),
    "python-decouple": decouple.RepositoryEnv("shop.env").data,
    "starlette": Config("shop.env").file_values,
    "python-dotenv": dotenv.dotenv_values("shop.env"),
}
for reader, values in found.items():
    print(f"{reader:16}", {name: values.get(name, "unset") for name in ("EMPTY", "GREETING", "SENT", "QUOTED")})
assert "EMPTY" not in found["honcho"] and found["honcho"]["GREETING"] == "twowords" and "SENT" not in found["honcho"]
assert found["python-dotenv"]["QUOTED"] == found["honcho"]["QUOTED"] == "secret"
for reader in ("django-environ", "python-decouple", "starlette"):
    assert found[reader]["QUOTED"] == '"secret" # from the vault', reader
    assert ("SENT" in found[reader]) == (reader == "django-environ")
    assert found[reader]["EMPTY"] == "" and found[reader]["GREETING"] == "two words"
PY
venv/bin/python read.py

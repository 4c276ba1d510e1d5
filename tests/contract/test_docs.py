# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation agrees with the code: tables, links, examples, commands, and the smallest role, which is run."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from ansible.module_utils import rollbackctl as shared
from ansible.module_utils.rollbackctl import check_controller, controller, ledger, outcome, runs
from ansible.module_utils.rollbackctl.component import Driver
from ansible.module_utils.rollbackctl.phases import run_phase
from ansible.module_utils.rollbackctl.store import DirectoryStore
from rollbackctl.cli import build

from tests.contract.project import ROOT, component_roles, files, load, name
from tools import make_docs

PAGES = files("*.md", "docs/**/*.md", "roles/*/README.md")
RUN = "rb-20261121-093015-4f2a"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")
_SPAN = re.compile(r"`([^`\n]+)`")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return [found[2] for found in _FENCE.finditer(text) if found[1] == language]


def anchors(text: str) -> set[str]:
    """Return what GitHub makes of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_there_are_pages() -> None:
    assert len(PAGES) > 20


@pytest.mark.parametrize("page", make_docs.pages(), ids=name)
def test_what_is_made_from_the_code_is_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == make_docs.made(text), "type: .venv/bin/python tools/make_docs.py"


def test_every_made_part_is_shown() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in make_docs.pages())
    assert {part for part in make_docs.parts() if f"<!-- made: {part} -->" not in text} == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve(page: Path) -> None:
    dead = []
    for link in map("".join, _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            dead.append(link)
    assert dead == []


def test_the_readme_fits_on_one_screen_and_names_its_two_commands() -> None:
    text = read("README.md")
    assert len(text.splitlines()) <= 72
    assert re.findall(r"^make (\w+)", text, re.MULTILINE) == ["demo", "test"]


def test_the_readme_shows_the_profile_of_the_demo() -> None:
    shown = yaml.safe_load(blocks(read("README.md"), "yaml")[0])
    text = read("inventories/demo/host_vars/shop.yml").replace("{{ shop_root }}", "/srv/shop")
    text = text.replace("{{ ansible_playbook_python }}", "/srv/shop/venv/bin/python")
    demo = yaml.safe_load(text.replace("{{ shop_url }}", "http://127.0.0.1:8000"))
    assert shown == {key: value for key, value in demo.items() if not key.startswith("shop_")}


# -- examples ---------------------------------------------------------------------------------------------------------


def examples() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every example of a profile on any page."""
    for page in PAGES:
        for number, block in enumerate(blocks(page.read_text(encoding="utf-8"), "yaml")):
            document = yaml.safe_load(block)
            if isinstance(document, dict) and any(key.startswith(controller.OWN_PREFIXES) for key in document):
                yield f"{name(page)}-{number}", document


@pytest.mark.parametrize(("place", "document"), list(examples()), ids=[place for place, _ in examples()])
def test_examples_of_profiles_are_accepted(place: str, document: dict[str, Any]) -> None:
    wrong = controller.unknown_names(document, controller.known_names(str(ROOT / "roles")))
    for role in set(component_roles()) & set(document):
        specification = controller.role_options(str(ROOT / "roles" / role), "preflight")
        wrong += controller.validate(specification, {role: document[role]})[1]
    specification = controller.role_options(str(ROOT / "roles" / "run_guard"), "profile")
    given = {key: document[key] for key in specification if key in document}
    wrong += controller.validate({key: specification[key] for key in given}, given)[1]
    if "rollback_checks" in document:
        check_controller.read_checks(document["rollback_checks"])
    assert wrong == [], place


def command_lines() -> list[tuple[str, str]]:
    """Every command of ours that a page names: lines of blocks, and what stands in backticks."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [line for block in blocks(text, "") for line in block.splitlines()]
        lines += _SPAN.findall(_FENCE.sub("", text))
        found += [(name(page), line.partition(" #")[0].strip()) for line in lines]
    return [(page, line) for page, line in found if re.match(r"(rollbackctl|make) [a-z-]", line)]


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_commands_exist(page: str, line: str) -> None:
    program, *words = shlex.split(line)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)
        assert words[0] in targets, page
        return
    command: Any = typer.main.get_command(build())
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {flag for parameter in command.params for flag in parameter.opts} | {"--help", "--version"}
    unknown = [word for word in words if word.startswith("-") and word not in known]
    assert unknown == [], page
    assert not getattr(command, "commands", {}) or not words or words[0].startswith("-"), f"{page}: no such command"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = _SPAN.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    paths = [
        word for word in named if re.match(r"(playbooks|plugins|library|tests|docs|lab|tools|roles)/[\w./]+$", word)
    ]
    absent = [path for path in paths if not (ROOT / path).exists() and path not in PLANNED_BY_READER]
    assert absent == []


# What the reader of writing-a-role.md makes.
PLANNED_BY_READER = {
    "plugins/module_utils/rollbackctl/text_file.py",
    "roles/restore_text/meta/argument_specs.yml",
}


def test_every_outcome_is_explained() -> None:
    assert {f"## {word}" for word in outcome.EXIT_CODES} <= set(read("docs/outcomes.md").splitlines())


def test_messages_that_are_explained_are_said() -> None:
    said = re.findall(r"^\| `([^`]+)` \|", read("docs/outcomes.md").partition("## refused")[2], re.MULTILINE)
    source = "".join(path.read_text(encoding="utf-8") for path in files("plugins/**/*.py"))
    assert len(said) > 5
    assert [message for message in said if message not in source] == []


def test_pages_that_the_code_names_exist() -> None:
    sources = files("plugins/**/*.py", "python/**/*.py", "library/*.py", "playbooks/**/*.yml", "Makefile")
    named = {
        page
        for path in sources
        for page in re.findall(r"(?<![\w./-])docs/[\w./-]+\w", path.read_text(encoding="utf-8"))
    }
    assert named
    assert [page for page in sorted(named) if not (ROOT / page).exists()] == []


# -- the smallest role ------------------------------------------------------------------------------------------------


@pytest.fixture
def smallest(tmp_path: Path) -> type[Driver]:
    """The driver of writing-a-role.md, imported as if it stood where the page says."""
    page = read("docs/writing-a-role.md")
    path = tmp_path / "text_file.py"
    path.write_text(blocks(page, "python")[0], encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"{shared.__name__}.text_file", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    del sys.modules[spec.name]
    driver: type[Driver] = module.TextFileDriver
    return driver


class Example:
    """A service whose one component is a text file, run phase by phase as the playbooks do."""

    def __init__(self, folder: Path, driver: type[Driver]) -> None:
        self.file = folder / "motd"
        self.file.write_text("bad\n", encoding="utf-8")
        self.file.chmod(0o644)
        (folder / "good").mkdir()
        (folder / "good" / "motd-1.4").write_text("good\n", encoding="utf-8")
        specification = yaml.safe_load(blocks(read("docs/writing-a-role.md"), "yaml")[0])
        given = {"restore_text": [{"name": "motd", "path": str(self.file), "good": str(folder / "good")}]}
        checked, problems = controller.validate(specification["argument_specs"]["preflight"]["options"], given)
        assert problems == []
        self.roles = [{"role": "restore_text", "components": checked["restore_text"]}]
        self.drivers = {"restore_text": driver}
        self.run: dict[str, Any] = {
            "id": RUN,
            "kind": "rollback",
            "level": 2,
            "state": {"kind": "directory", "path": str(folder / "state")},
            "holder": "mira",
            "controller": "ops-1",
            "pid": 1,
            "lease_seconds": 60,
            "service": "shop",
            "reason": "a test",
        }

    def open(self, **to: str) -> None:
        self.run.update(runs.open_run(self.run, {}, {}, dry=False), to=to)

    def phase(self, phase: str, *, check_mode: bool = False) -> dict[str, Any]:
        params = {"phase": phase, "roles": self.roles, "run": self.run}
        return run_phase(params, check_mode=check_mode, drivers=self.drivers)

    def plan(self) -> list[str]:
        proposals = self.phase("preflight", check_mode=True)["rollbackctl"]["proposals"]
        problems: list[str] = runs.plan_run(self.run, {}, proposals, fences=False, dry=False)["problems"]
        return problems


def test_the_smallest_role_goes_back_and_forward_again(tmp_path: Path, smallest: type[Driver]) -> None:
    example = Example(tmp_path, smallest)
    example.open(motd="motd-1.4")
    assert example.plan() == []
    for phase in ("stage", "capture", "rollback", "verify"):
        result = example.phase(phase)
        assert not result.get("failed"), result
    assert example.file.read_text(encoding="utf-8") == "good\n"
    assert example.file.stat().st_mode & 0o777 == 0o644
    assert example.phase("rollback")["rollbackctl"]["steps"][0]["status"] == "already"
    assert not example.phase("undo").get("failed")
    assert example.file.read_text(encoding="utf-8") == "bad\n"


def test_the_smallest_role_refuses_what_does_not_exist(tmp_path: Path, smallest: type[Driver]) -> None:
    example = Example(tmp_path, smallest)
    example.open(motd="motd-9")
    assert ["does not exist. Known: motd-1.4" in problem for problem in example.plan()] == [True]
    assert example.file.read_text(encoding="utf-8") == "bad\n"


def test_the_smallest_role_does_not_use_what_has_changed_since_the_plan(tmp_path: Path, smallest: type[Driver]) -> None:
    example = Example(tmp_path, smallest)
    example.open(motd="motd-1.4")
    assert example.plan() == []
    (tmp_path / "good" / "motd-1.4").write_text("evil\n", encoding="utf-8")
    result = example.phase("rollback")
    assert result["failed"]
    assert "no longer what it was" in result["msg"]
    assert example.file.read_text(encoding="utf-8") == "bad\n"


def test_the_smallest_role_takes_a_checkpoint(tmp_path: Path, smallest: type[Driver]) -> None:
    example = Example(tmp_path, smallest)
    example.run["kind"] = "checkpoint"
    example.open()
    result = example.phase("checkpoint")
    assert not result.get("failed"), result
    kept = tmp_path / "state" / "checkpoints" / example.run["checkpoint"] / "motd" / "content"
    assert kept.read_text(encoding="utf-8") == "bad\n"


def test_the_smallest_role_can_be_adopted(tmp_path: Path, smallest: type[Driver]) -> None:
    example = Example(tmp_path, smallest)
    example.run["kind"] = "adopt"
    example.open(motd="motd-1.4")
    assert not example.phase("checkpoint").get("failed")
    store = DirectoryStore(str(tmp_path / "state"))
    ledger.finish_checkpoint(store, example.run, None)
    assert [(found["state"], list(found["components"])) for found in store.checkpoints()] == [("candidate", ["motd"])]


def test_the_smallest_role_names_its_failpoints_in_its_code(smallest: type[Driver]) -> None:
    code = blocks(read("docs/writing-a-role.md"), "python")[0]
    assert smallest.failpoints
    assert all(f'failpoint("{point}")' in code for point in smallest.failpoints)


def test_roles_shown_in_the_levels_table_are_those_of_the_playbooks() -> None:
    text = read("docs/levels-and-phases.md")
    for level in ("level1", "level2", "level3", "schema"):
        (row,) = [line for line in text.splitlines() if f"`rollback-{level}.yml`" in line and line.startswith("|")]
        shown = re.findall(r"`((?:restore|rollback|restart|stop)_\w+)`", row)
        roles = load(ROOT / "playbooks" / f"rollback-{level}.yml")[0]["vars"]["run_roles"]
        assert shown == roles[: len(shown)], level
        assert len(shown) == len(roles) or "then those of level" in row

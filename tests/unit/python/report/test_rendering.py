# SPDX-License-Identifier: GPL-3.0-or-later
"""The page, the Markdown and the terminal summary show what the record says, and nothing in it is live."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, RenderableType
from rollbackctl.report import Report, html, markdown, parse, terminal

from tests.unit.python import samples


class Page(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "path", "circle"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"path", "circle"}:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words += data


def in_terminal(made: RenderableType, *, width: int = 200, colour: bool = False) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=colour, color_system="standard" if colour else None
    )
    console.print(made)
    shown = console.file
    assert isinstance(shown, io.StringIO)
    return shown.getvalue()


RENDERERS: dict[str, Callable[[Report], str]] = {
    "html": lambda report: Page(html.render(report)).words,
    "markdown": markdown.render,
    "terminal": lambda report: in_terminal(terminal.render(report)),
}


@pytest.mark.parametrize("name", RENDERERS)
def test_every_form_says_what_matters(name: str) -> None:
    shown = re.sub(r"\s+", " ", RENDERERS[name](parse(samples.record())))
    for fact in (
        "Done and proven",
        "shop is back at checkpoint cp-20261121-091240-77aa",
        "less than 1 % of the budget of 15 min",
        "17,789 rows, schema a41c, digest 6f0c…",
        "412 rows of orders and 3 of customers were written since.",
        "closed for 2.6 s (09:30:18 to 09:30:21 UTC), opened by the run",
        "/var/lib/rollbackctl/runs/rb-20261121-093015-4f2a/kept/shop-env/.env",
        "code 9e1f0c2 with configuration 5c1e… and schema b2f8",
        "rollbackctl finalize rb-20261121-093015-4f2a",
        "200 in 34 ms through the proxy",
    ):
        assert fact in shown, fact


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize("name", RENDERERS)
def test_a_component_that_was_kept_has_no_target_and_is_not_waited_for(name: str, *, planned: bool) -> None:
    """Also one of which an undo read only that the run which it undoes had not changed it."""
    kept = samples.entry("shop-db", "restore_sqlite", "data", "18 rows", "backup of 09:12") | {"action": "keep"}
    other = samples.entry("shop-code", "rollback_git", "application", "9e1f0c2", "77aa012")
    steps = [
        samples.step("preflight", "shop-db", 0, 0.1, status="ok", text="live: 18 rows; this run leaves it alone"),
        samples.step("rollback", "shop-code", 1, 0.1, status="changed", read_back="77aa012"),
    ]
    plan = {"entries": [kept, other] if planned else [other]}
    shown = RENDERERS[name](parse(samples.record(services={"shop": samples.service(plan=plan, steps=steps)})))
    assert "shop-db" in shown
    assert "kept as it is" in shown
    assert "backup of 09:12" not in shown
    assert "not read" not in shown


@pytest.mark.parametrize("name", ["html", "markdown"])
def test_what_is_kept_says_who_why_and_when(name: str) -> None:
    shown = RENDERERS[name](parse(samples.record()))
    for fact in ("mira on ops-1", "v2.5.0 migration failed half way; checkout answers 500", "21 Nov 2026, 09:30:15"):
        assert fact in shown, fact


@pytest.mark.parametrize("name", ["html", "markdown"])
def test_what_the_plan_noted_is_kept(name: str) -> None:
    """Some of it is for later: what the next `kubectl apply` will keep, for one."""
    shown = re.sub(r"\s+", " ", RENDERERS[name](parse(samples.record())))
    assert "shop-db: 2 readers are connected; they wait at most 50 ms." in shown


@pytest.mark.parametrize("name", ["markdown", "terminal"])
def test_a_phase_over_its_budget_is_marked_and_no_other(name: str) -> None:
    """Five minutes for verifying, and it took one second more; the whole run was in time."""
    phases = [
        {"name": "rollback", "offset": 0.0, "seconds": 299.0, "budget_seconds": 300.0, "status": "ok"},
        {"name": "verify", "offset": 299.0, "seconds": 301.0, "budget_seconds": 300.0, "status": "ok"},
    ]
    late = samples.record(phases=phases, seconds=600.0, budget_seconds=900.0)
    shown = RENDERERS[name](parse(late)).lower()
    marked = [line for line in shown.splitlines() if "over budget" in line or "over its budget" in line]
    assert len(marked) == 1, shown
    assert "verify" in marked[0]
    in_time = samples.record(phases=[{**phases[1], "seconds": 299.0}], seconds=600.0, budget_seconds=900.0)
    assert "over" not in RENDERERS[name](parse(in_time)).lower().replace("recover", "")


@pytest.mark.parametrize("name", RENDERERS)
@pytest.mark.parametrize("sample", samples.SAMPLES)
def test_every_record_can_be_shown(name: str, sample: str) -> None:
    report = parse(samples.SAMPLES[sample]())
    assert report.headline in RENDERERS[name](report)


@pytest.mark.parametrize("name", RENDERERS)
def test_an_empty_record_can_be_shown(name: str) -> None:
    assert "The state could not be proven" in RENDERERS[name](parse({}))


def test_no_tag_of_a_record_is_live_on_the_page() -> None:
    page = Page(html.render(parse(samples.hostile())))
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "a", "link", "iframe", "object", "form"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.words
    assert "{{ 7*7 }}" in page.words


@pytest.mark.parametrize("sample", [*samples.SAMPLES.values(), samples.hostile])
def test_the_page_loads_nothing(sample: Callable[[], dict[str, object]]) -> None:
    page = Page(html.render(parse(sample())))
    loading = [
        attributes for _, attributes in page.tags if {"src", "href", "srcset", "data", "background"} & set(attributes)
    ]
    assert loading == []
    styles = " ".join(attributes.get("style") or "" for _, attributes in page.tags)
    assert "url(" not in styles
    policy = [attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes and tag == "meta"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]


def markdown_tokens(source: str) -> list[Token]:
    """What a Markdown viewer that lets HTML through would make of a text."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough").parse(source)
    return [inner for token in tokens for inner in (token, *(token.children or ()))]


def test_nothing_of_a_record_is_live_in_markdown() -> None:
    shown = markdown.render(parse(samples.hostile()))
    assert "\x1b" not in shown
    tokens = markdown_tokens(shown)
    assert {token.type for token in tokens} & {"html_inline", "html_block", "link_open", "image", "s_open"} == set()
    words = [token.content for token in tokens if token.type in {"text", "code_inline", "fence"}]
    assert any("onerror=alert(1)" in word for word in words)


@pytest.mark.parametrize("sample", [samples.record, samples.hostile])
def test_markdown_tables_keep_their_columns(sample: Callable[[], dict[str, object]]) -> None:
    tokens = [token.type for token in markdown_tokens(markdown.render(parse(sample())))]
    rows = " ".join(token for token in tokens if token in {"tr_open", "th_open", "td_open", "table_open"})
    tables = [table.split("tr_open") for table in rows.split("table_open")[1:]]
    assert len(tables) >= 4
    for _, head, *body in tables:
        assert {row.count("td_open") for row in body} == {head.count("th_open")}


@pytest.mark.parametrize(
    ("plain", "escaped"),
    [
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("0.1.0", "0.1.0"),
        ("a*b_c", r"a\*b\_c"),
        ("two\nlines", "two lines"),
        ("<b>&", "&lt;b&gt;&amp;"),
    ],
)
def test_markdown_escapes(plain: str, escaped: str) -> None:
    assert markdown.escape(plain) == escaped


@pytest.mark.parametrize(("plain", "span"), [("a", "`a`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("", "")])
def test_markdown_code(plain: str, span: str) -> None:
    assert markdown.code(plain) == span


def test_a_name_cannot_drive_the_terminal() -> None:
    report = parse(samples.record(message="[bold]x[/bold] [link=http://x]y[/link] \x1b]0;title\x07"))
    shown = in_terminal(terminal.render(report), colour=True)
    assert "\x1b]" not in shown
    assert "\x07" not in shown
    assert "[link=http://x]y[/link]" in shown


def test_the_plan_shows_live_target_loss_and_time() -> None:
    shown = in_terminal(terminal.plan(samples.record(), 80, str))
    for fact in ("9e1f0c2 v2.5.0", "4f2a91c v2.4.1", "is not in the target", "Takes about 7.5 s, at most 7 min"):
        assert fact in shown, fact

"""The report in a real browser, from its file: no request, no error, values on hover, narrow screens, accessibility."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cifar_cli.core.evaluation.report.answers import QUESTIONS
from cifar_cli.core.evaluation.report.config import ReportConfig
from cifar_cli.core.evaluation.report.report import report
from tests.core.evaluation.report import histories
from tests.core.evaluation.report.histories import write_run

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="there is no chromium on this machine (Debian: apt-get install chromium)"
    ),
]


@pytest.fixture(scope="module")
def pages(data_dir: Path, trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of one run, of two, and of one with heat maps."""
    folder = tmp_path_factory.mktemp("reports")
    runs = tuple(
        write_run(folder / name, history(), data_dir=data_dir)
        for name, history in (
            ("20261124-093000-null", histories.healthy),
            ("a-run-with-a-very-long-name-that-does-not-fit-a-narrow-screen", histories.overfitting),
        )
    )
    return {
        "one": report(ReportConfig(runs=runs[:1])).page,
        "two": report(ReportConfig(runs=runs)).page,
        "explained": report(ReportConfig(runs=(trained_run,), out=folder / "explained.html", explain=True)).page,
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Opened:
    """A page opened from its file, with what the browser said and asked for."""

    def __init__(self, browser: Any, path: Path, *, width: int = 1200, scheme: str = "light") -> None:
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        self.page = context.new_page()
        self.said: list[str] = []
        self.requested: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(path.resolve().as_uri())


@pytest.mark.slow
@pytest.mark.parametrize("which", ["one", "two", "explained"])
def test_the_page_opens_from_its_file_without_an_error_or_a_request(
    browser: Any, pages: dict[str, Path], which: str
) -> None:
    opened = Opened(browser, pages[which])
    assert opened.said == []
    assert [url for url in opened.requested if not url.startswith("data:")] == [pages[which].resolve().as_uri()]
    questions = opened.page.locator("section").first.locator("[data-question]")
    assert questions.count() == len(QUESTIONS)
    assert all(len(text) > 10 for text in questions.locator("dd:not(.rests)").all_inner_texts())


def test_hovering_a_point_shows_its_value(browser: Any, pages: dict[str, Path]) -> None:
    page = Opened(browser, pages["one"]).page
    page.locator("#run1-accuracy-points-1 .point").nth(4).hover(force=True)
    assert page.locator("#value").inner_text() == "validation, epoch 5: 77.48%"
    page.mouse.move(0, 0)
    page.locator("h1").hover()
    assert page.locator("#value").is_hidden()


def test_values_are_tooltips_without_scripts_too(browser: Any, pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["one"].resolve().as_uri())
    assert "validation, epoch 10: 79.87%" in page.content()


@pytest.mark.parametrize("which", ["one", "two", "explained"])
def test_nothing_overflows_a_narrow_screen(browser: Any, pages: dict[str, Path], which: str) -> None:
    page = Opened(browser, pages[which], width=390).page
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("which", "width"), [("one", 1200), ("two", 390), ("explained", 390)])
def test_axe_finds_no_serious_violation(
    browser: Any, pages: dict[str, Path], which: str, width: int, scheme: str
) -> None:
    from axe_core_python.sync_playwright import Axe

    page = Opened(browser, pages[which], width=width, scheme=scheme).page
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    found = Axe().run(page)
    assert found["passes"], "axe has run"
    serious = [
        (each["id"], each["nodes"][0]["html"])
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.slow
def test_the_keyboard_reaches_links_tables_and_values(browser: Any, pages: dict[str, Path]) -> None:
    page = Opened(browser, pages["one"]).page
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName + ' ' + (document.activeElement.ariaLabel || '')"))
    assert "A " in reached
    assert "SUMMARY " in reached
    assert any(each.startswith("DIV Confusion matrix") for each in reached)

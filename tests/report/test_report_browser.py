"""The report in a browser: it sorts, filters, has two themes, fits a phone, and says nothing on the console."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image

from benchmark import report
from benchmark.errors import UserError
from benchmark.report import screen
from tests.made_records import save, talking

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[2]
STREAMS = ("phantom8", "phantom_notes6", "phantom_retrieval6")
METHODS = ("er", "ewc", "independent_lora", "joint_lora", "zero_shot")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report on some of the committed records (classification, fusion, retrieval, tuned rows, single runs), and on
    made ones of a stream that mixes kinds."""
    results = tmp_path_factory.mktemp("results")
    for stream in STREAMS:
        for method in METHODS:
            for path in (ROOT / "results" / "runs" / stream / method).glob("*/*/run.json"):
                copy = results / path.relative_to(ROOT / "results")
                copy.parent.mkdir(parents=True)
                shutil.copy(path, copy)
    save(results, *(talking(method, f"0{place}") for place, method in enumerate(("ewc", "er"))))
    return report.build(results)[0].as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        screen.programs()
    except UserError as error:
        pytest.skip(f"the report was not opened in a browser: {error}")
    with screen.browser() as made:
        yield made


def opened(browser: Any, address: str, width: int = 1280, dark: bool = False) -> Any:
    """The page loaded anew at this width and under this preference of the system."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    browser.get("about:blank")
    browser.get(address)
    return browser


def column(browser: Any, place: int, board: str = "phantom8-board") -> list[str]:
    """The sorting values of a column's visible cells, from above."""
    script = """return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)]
        .filter((row) => row.checkVisibility()).map((row) => row.cells[arguments[1]].dataset.v)"""
    return browser.execute_script(script, board, place)


def key(name: str) -> int:
    return next(place for place, each in enumerate(report.COLUMNS) if each.key == name)


def press(browser: Any, selector: str) -> None:
    browser.execute_script(
        "document.querySelector(arguments[0]).scrollIntoView({block: 'center', inline: 'center'})", selector
    )
    browser.find_element("css selector", selector).click()


def test_its_first_screen_is_a_picture(browser: Any, address: str) -> None:
    picture = Image.open(io.BytesIO(screen.first_screen(Path(unquote(urlsplit(address).path)))))
    assert picture.size == (1280, 960) and len(picture.convert("RGB").getcolors(10**6) or ()) > 20


def test_it_opens_without_a_word_and_without_the_network(browser: Any, address: str) -> None:
    opened(browser, address)
    assert browser.get_log("browser") == []
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    assert browser.execute_script("return document.querySelectorAll('table').length") > 40


def test_one_stream_at_a_time(browser: Any, address: str) -> None:
    opened(browser, address)
    shown = (
        "return [...document.querySelectorAll('section.stream')].filter((s) => s.checkVisibility()).map((s) => s.id)"
    )
    assert browser.execute_script(shown) == ["overall"]
    press(browser, 'nav a[href="#phantom8"]')
    assert browser.execute_script(shown) == ["phantom8"]
    current = browser.execute_script("return document.querySelector('nav [aria-current]').textContent")
    assert current == "phantom8"
    press(browser, "#phantom8-board tbody a")  # a method's name opens its part of the page
    assert browser.execute_script("return document.querySelector(location.hash).open")
    assert browser.execute_script("return document.querySelector(location.hash + ' .heat td').checkVisibility()")


def test_sorting(browser: Any, address: str) -> None:
    opened(browser, f"{address}#phantom8")
    place = key("last_acc_mean")
    header = f"#phantom8-board th:nth-child({place + 1})"
    before = column(browser, place)
    press(browser, f"{header} button")
    values = [float(value) for value in column(browser, place)]
    assert values == sorted(values, reverse=True) and sorted(map(float, before)) == sorted(values)
    assert browser.execute_script(f"return document.querySelector('{header}').ariaSort") == "descending"
    browser.find_element("css selector", f"{header} button").send_keys("\ue007")  # Enter: by keyboard it turns round
    assert [float(value) for value in column(browser, place)] == values[::-1]
    assert browser.execute_script(f"return document.querySelector('{header}').ariaSort") == "ascending"
    press(browser, f"#phantom8-board th:nth-child({key('rank') + 1}) button")
    ranks = column(browser, key("rank"))
    ranked = [float(rank) for rank in ranks if rank]
    assert ranked == sorted(ranked) and ranks[len(ranked) :] == [""] * (len(ranks) - len(ranked))  # without one: below
    press(browser, "#phantom8-board th:first-child button")
    assert column(browser, 0) == sorted(column(browser, 0))


def test_filters(browser: Any, address: str) -> None:
    from selenium.webdriver.support.ui import Select

    opened(browser, f"{address}#phantom_notes6")
    board, form = "phantom_notes6-board", 'form[data-table="phantom_notes6-board"]'
    assert set(column(browser, key("protocol"), board)) == {"given"}

    def choose(name: str, value: str) -> None:
        Select(browser.find_element("css selector", f"{form} [name={name}]")).select_by_visible_text(value)

    choose("protocol", "both")
    both = column(browser, key("protocol"), board)
    assert both.count("given") == both.count("hidden") > 5
    choose("group", "joint")
    assert set(column(browser, 0, board)) == {"joint_lora"}
    browser.find_element("css selector", f"{form} [name=text]").send_keys("inputs=image")
    assert len(column(browser, 0, board)) == 2
    said = browser.execute_script(f"return document.querySelector('{form} output').textContent")
    assert said == f"2 of {len(both)} rows"


@pytest.mark.parametrize("where", ["overall", *STREAMS, "mixed"])
def test_it_fits_a_phone(browser: Any, address: str, where: str) -> None:
    """No part is wider than 390 px, opened or closed; wide tables scroll in their own frame."""
    opened(browser, f"{address}#{where}", width=390)
    for _ in ("closed", "open"):
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
        browser.execute_script("document.querySelectorAll('details').forEach((each) => { each.open = true; })")


def test_light_and_dark(browser: Any, address: str) -> None:
    """The system's theme until the button is pressed; text keeps a contrast of 4.5 to 1 on its background in both."""
    colours = """const probe = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        return [...document.querySelectorAll('h2, .lead .muted, figcaption, .heat td:not(.none), .board td, .stale')]
            .filter((each) => each.checkVisibility()).map((each) => {
            const behind = (node) => {
                const colour = getComputedStyle(node).backgroundColor;
                return /, 0\\)$/.test(colour) && node.parentElement ? behind(node.parentElement) : colour; };
            return [getComputedStyle(each).color, behind(each)].map((colour) => {
                probe.fillStyle = colour; probe.fillRect(0, 0, 1, 1);
                return [...probe.getImageData(0, 0, 1, 1).data]; });
        })"""
    for dark in (False, True):
        opened(browser, f"{address}#overall", dark=dark)
        for _ in ("the system's", "the other"):
            found = browser.execute_script(colours)
            assert len(found) > 30 and min(contrast(*pair) for pair in found) > 4.5
            assert (luminance(found[0][1]) < 0.2) == dark
            press(browser, "#theme")
            dark = not dark
        browser.execute_script("localStorage.clear()")
    opened(browser, f"{address}#phantom8", dark=True)
    ink = "return getComputedStyle(document.querySelector('#phantom8 figure svg text')).fill"
    assert luminance([int(part) for part in browser.execute_script(ink)[4:-1].split(",")]) > 0.6  # figures too
    assert browser.get_log("browser") == []


def luminance(colour: list[int]) -> float:
    """WCAG 2's relative luminance of sRGB bytes."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[int], other: list[int]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)

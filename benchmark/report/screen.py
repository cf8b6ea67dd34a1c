"""What a page shows first, as a picture: by headless Chromium, which selenium steers."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from benchmark.errors import UserError
from benchmark.report.pictures import small_png

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
COLOURS = 64
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--hide-scrollbars",
)  # fmt: skip


def programs() -> tuple[str, str]:
    """Where Chromium and its driver are.

    Raises:
        UserError: one of them is not there, or selenium is not.
    """
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        lacking = "chromium" if program is None else "chromedriver"
        raise UserError(f"{lacking} is not on the PATH: install Chromium and its chromedriver")
    if find_spec("selenium") is None:
        raise UserError('selenium is not installed: pip install "mbil-bench[dev]"')
    return program, driver


@contextmanager
def browser() -> Iterator[Any]:
    """A Chromium without a window.

    Raises:
        UserError: see :func:`programs`.
    """
    program, driver = programs()
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    told = webdriver.ChromeOptions()
    told.binary_location = program
    with TemporaryDirectory() as profile:
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            told.add_argument(option)
        told.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        made = webdriver.Chrome(options=told, service=Service(driver))
        try:
            yield made
        finally:
            made.quit()


def first_screen(page: Path, width: int = 1280, height: int = 960) -> bytes:
    """A PNG of the page's first screen, light, so many pixels wide and high.

    Raises:
        UserError: see :func:`programs`.
    """
    with browser() as chromium:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "light"}]
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        chromium.get(page.absolute().as_uri())
        pixels = chromium.get_screenshot_as_png()
    return small_png(Image.open(io.BytesIO(pixels)).convert("RGB"), COLOURS)

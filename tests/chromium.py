"""A headless Chromium for tests alone: Debian's browser and driver, an empty profile, no word to anybody."""

from __future__ import annotations

import base64
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

#: Nothing is looked up, fetched or reported but what a test asks for.
_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-dev-shm-usage "
    "--disable-background-networking --disable-component-update --disable-sync --disable-extensions "
    "--disable-default-apps --hide-scrollbars --force-color-profile=srgb --lang=en"
)


@contextlib.contextmanager
def browser(*, width: int = 1280, height: int = 1000, dark: bool = False) -> Iterator[webdriver.Chrome]:
    """A window of that many pixels until the block ends; the test is skipped where none can open here."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium with its driver on this machine (Debian: apt-get install chromium chromium-driver)")
    profile = Path(tempfile.mkdtemp(prefix="chromium-"))
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS.split(), f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    if dark:
        options.add_argument("--force-dark-mode")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(executable_path=driver))
    try:
        # Headless Chromium has no system to ask about light and dark.
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        yield window
    finally:
        window.quit()
        shutil.rmtree(profile, ignore_errors=True)


def picture(window: webdriver.Chrome, file: Path) -> None:
    """The whole page as a PNG."""
    shot = window.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png"})
    file.write_bytes(base64.b64decode(shot["data"]))

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The page in a headless Chromium, as a person at a desk or with a phone has it."""

import contextlib
import os
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


SIZES = {"desk": (1280, 900), "phone": (390, 844)}
SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)  # fmt: skip


def missing() -> str | None:
    """What is missing for a browser, None where it is all there."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "needs selenium: pip install -e '.[dev]'"
    if chromium() and shutil.which("chromedriver"):
        return None
    return "needs chromium and chromedriver: make browser"


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.contextmanager
def opened(profile: Path) -> Iterator[Any]:
    """A window of the browser; `profile` is a folder for its files."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium()
    for switch in (*SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    downloads = {"behavior": "allow", "downloadPath": str(profile / "downloads")}
    try:
        window.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
        window.downloads = profile / "downloads"
        yield window
    finally:
        window.quit()


class Browser:
    """
    The page in a window.

    Args:
        window: By `opened`.
        address (`str`): Of the server.
        name (`str`): "desk" or "phone", then "light" or "dark": "desk-light".
        seconds (`float`): For which things are waited for.
    """

    def __init__(self, window: Any, address: str, name: str, seconds: float = 30):
        from selenium.webdriver.support.ui import WebDriverWait

        self.window, self.address, self.name, self.downloads = window, address, name, window.downloads
        self.patience = WebDriverWait(window, seconds, poll_frequency=0.05)
        self.size, theme = name.split("-")
        self.resize(SIZES[self.size][1])
        window.get(f"{address}/?__theme={theme}")
        self.wait(lambda: self.all("#tab-about-button, #card, button[role=tab]"))

    def resize(self, height: int) -> None:
        self.window.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {
                "width": SIZES[self.size][0],
                "height": height,
                "deviceScaleFactor": 1,
                "mobile": self.size == "phone",
            },
        )

    def all(self, selector: str) -> list:
        return self.window.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.wait(lambda: self.all(selector))[0]

    def wait(self, condition: Callable[[], Any]) -> Any:
        return self.patience.until(lambda _: condition())

    def run(self, script: str, *arguments: Any) -> Any:
        return self.window.execute_script(script, *arguments)

    def click(self, selector: str) -> None:
        element = self.one(selector)
        self.wait(element.is_displayed)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def tab(self, name: str) -> None:
        next(tab for tab in self.all("button[role=tab]") if tab.text == name).click()
        self.wait(lambda: self.one(f"#tab-{name.lower()}").is_displayed())

    def choose(self, group: str, text: str) -> None:
        """One of a group of radio buttons or check boxes, by its text."""
        label = next(label for label in self.all(f"{group} label") if label.text == text)
        self.run("arguments[0].scrollIntoView({block: 'center'})", label)
        label.click()

    def upload(self, selector: str, path: Path) -> None:
        self.all(f"{selector} input[type=file]")[0].send_keys(str(path))
        self.wait(lambda: self.all(f"{selector} img"))

    def addresses(self, selector: str, width: int) -> list[str]:
        """Of a gallery's pictures that the browser shows and that have this width."""
        script = (
            "return [...document.querySelectorAll(arguments[0])]"
            ".filter(i => i.complete && i.naturalWidth == arguments[1]).map(i => i.src)"
        )
        return self.run(script, f"{selector} img", width)

    def pictures(self, selector: str, count: int, width: int = 16) -> list[np.ndarray]:
        """Pixels of a gallery's pictures once the browser shows them, read through it."""
        addresses = self.wait(lambda: len(found := self.addresses(selector, width)) == count and found)
        assert all(address.endswith(".png") for address in addresses)
        return [np.asarray(Image.open(urllib.request.urlopen(address))) for address in addresses]

    def captions(self, selector: str) -> list[str]:
        return self.run(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent.trim())",
            f"{selector} .caption-label",
        )

    def box(self, element: Any) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, in pixels of the window."""
        box = self.run("return arguments[0].getBoundingClientRect()", element)
        return box["left"], box["top"], box["right"], box["bottom"]

    def is_cut_off(self, element: Any) -> bool:
        """Whether some of it is hidden, by itself or beyond the window's sides."""
        left, _, right, _ = self.box(element)
        overflows = self.run("const e = arguments[0]; return e.scrollWidth > e.clientWidth + 1", element)
        return overflows or left < 0 or right > self.run("return document.documentElement.clientWidth")

    def is_in_window(self, element: Any) -> bool:
        _, top, _, bottom = self.box(element)
        return top >= 0 and bottom <= self.run("return innerHeight")

    def drag(self, element: Any, *places: tuple[float, float]) -> None:
        """Press at the first place of an element, move over the others, let go. Places are shares of its sides."""
        from selenium.webdriver.common.action_chains import ActionChains

        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        left, top, right, bottom = self.box(element)
        chain = ActionChains(self.window, duration=50)
        offsets = [((x - 0.5) * (right - left), (y - 0.5) * (bottom - top)) for x, y in places]
        chain.move_to_element_with_offset(element, *map(round, offsets[0])).click_and_hold()
        for x, y in offsets[1:]:
            chain.move_to_element_with_offset(element, round(x), round(y))
        chain.release().perform()

    def hover(self, element: Any, x: float, y: float) -> None:
        """Point at a place of an element, in shares of its sides."""
        from selenium.webdriver.common.action_chains import ActionChains

        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        left, top, right, bottom = self.box(element)
        offset = (round((x - 0.5) * (right - left)), round((y - 0.5) * (bottom - top)))
        ActionChains(self.window, duration=50).move_to_element_with_offset(element, *offset).perform()

    def problems(self) -> list[dict]:
        """What the browser complained of since it was last asked."""
        return [entry for entry in self.window.get_log("browser") if entry["level"] == "SEVERE"]

    def screenshot(self, name: str, folder: str | Path | None = None, whole: bool = True) -> None:
        """A picture of the page, of all of it or of the window, in `folder` or $FQGAN_SCREENSHOTS, if there is one."""
        folder = folder or os.environ.get("FQGAN_SCREENSHOTS")
        if not folder:
            return
        if whole:
            self.resize(self.run("return document.documentElement.scrollHeight"))
        time.sleep(1)
        self.window.save_screenshot(str(Path(folder) / f"{self.name}-{name}.png"))
        if whole:
            self.resize(SIZES[self.size][1])

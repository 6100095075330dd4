# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The page in a real browser, on a desk and on a phone, by day and by night: what is seen, and what clicks do.

With $FQGAN_SCREENSHOTS, a folder, pictures of the page are left there.
"""

import io
import os
import shutil
import time
import urllib.request
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import file_data, make_picture, slowed, wait_for


pytest.importorskip("gradio", reason="the Space needs gradio: pip install -e '.[space]'")
pytestmark = pytest.mark.browser

SIZES = {"desk": (1280, 900), "phone": (390, 844)}


class Browser:
    """Headless Chromium, with the page open."""

    def __init__(self, window, address: str, name: str):
        from selenium.webdriver.support.ui import WebDriverWait

        self.window = window
        self.address = address
        self.name = name
        self.patience = WebDriverWait(window, 20)

    def all(self, selector: str) -> list:
        return self.window.find_elements("css selector", selector)

    def wait(self, condition):
        return self.patience.until(lambda _: condition())

    def run(self, script: str, *arguments):
        return self.window.execute_script(script, *arguments)

    def click(self, selector: str) -> None:
        [element] = self.wait(lambda: self.all(selector))
        self.wait(element.is_displayed)
        element.click()

    def tab(self, name: str) -> None:
        next(tab for tab in self.all("button[role=tab]") if tab.text == name).click()
        self.wait(lambda: self.all(f"#{name.lower()}")[0].is_displayed())

    def pictures(self, selector: str, count: int) -> list[np.ndarray]:
        """Pixels of a gallery's pictures once the browser shows them, read through it."""
        script = (
            "return [...document.querySelectorAll(arguments[0])].filter(i => i.complete && i.naturalWidth == 16)"
            ".map(i => i.src)"
        )
        addresses = self.wait(lambda: len(found := self.run(script, f"{selector} img")) == count and found)
        assert all(address.endswith(".png") for address in addresses)
        return [np.asarray(Image.open(urllib.request.urlopen(address))) for address in addresses]

    def captions(self, selector: str) -> list[str]:
        return [element.text for element in self.all(f"{selector} .caption-label")]

    def box(self, element) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, in pixels of the window."""
        box = self.run("return arguments[0].getBoundingClientRect()", element)
        return box["left"], box["top"], box["right"], box["bottom"]

    def is_cut_off(self, element) -> bool:
        """Whether some of it is hidden, by itself or beyond the window's sides."""
        left, _, right, _ = self.box(element)
        overflows = self.run("const e = arguments[0]; return e.scrollWidth > e.clientWidth + 1", element)
        return overflows or left < 0 or right > self.run("return document.documentElement.clientWidth")

    def screenshot(self, name: str) -> None:
        if folder := os.environ.get("FQGAN_SCREENSHOTS"):
            time.sleep(1)
            self.window.save_screenshot(str(Path(folder) / f"{self.name}-{name}.png"))


@pytest.fixture(scope="module")
def drivers():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    return webdriver, chromium, driver


@pytest.fixture(params=["desk-light", "desk-dark", "phone-light", "phone-dark"])
def browser(request, drivers, server, tmp_path):
    webdriver, chromium, driver = drivers
    size, theme = request.param.split("-")
    width, height = SIZES[size]
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        window.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"},
        )
        window.get(f"{server.address}/?__theme={theme}")
        browser = Browser(window, server.address, request.param)
        browser.wait(lambda: browser.all("#generate"))
        yield browser
        assert [entry for entry in window.get_log("browser") if entry["level"] == "SEVERE"] == []
    finally:
        window.quit()


def assert_gallery_is_whole(browser: Browser, selector: str, count: int) -> None:
    """Each picture is a square in the window, with its whole caption below it."""
    pictures = browser.all(f"{selector} .thumbnail-lg > img")
    captions = browser.all(f"{selector} .caption-label")
    assert len(pictures) == len(captions) == count
    for picture, caption in zip(pictures, captions, strict=True):
        left, top, right, bottom = browser.box(picture)
        assert abs((right - left) - (bottom - top)) < 2
        assert browser.box(caption)[1] >= bottom - 1
        assert not browser.is_cut_off(picture) and not browser.is_cut_off(caption)
    assert not browser.run("const e = document.documentElement; return e.scrollWidth > e.clientWidth")


def is_in_window(browser: Browser, element) -> bool:
    _, top, _, bottom = browser.box(element)
    return top >= 0 and bottom <= browser.run("return innerHeight")


def test_generate(browser, handlers, space):
    from selenium.webdriver.common.keys import Keys

    # The class by a part of its name.
    field = browser.wait(lambda: browser.all("#class input"))[0]
    field.click()
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys("golden")
    [choice] = browser.wait(lambda: browser.all("[role=option]"))
    assert choice.text.strip().endswith("2 · golden retriever")
    field.send_keys(Keys.ENTER)

    # While the seed is random it can't be typed in, but is shown.
    seed, random = browser.all("#seed input")[0], browser.all("#random input")[0]
    assert random.is_selected() and not seed.is_enabled()
    browser.screenshot("start")
    browser.click("#generate")
    images = browser.pictures("#images", 4)
    first = int(seed.get_attribute("value"))
    assert not seed.is_enabled()
    expected = [(first + i) % (space.MAX_SEED + 1) for i in range(4)]
    assert browser.captions("#images") == [f"seed {number}" for number in expected]
    again = handlers.generate(2, 4, 2.0, 1.0, 0, 1.0, first, False)[0]
    for image, (other, _) in zip(images, again, strict=True):
        np.testing.assert_array_equal(image, np.asarray(other))
    browser.wait(lambda: is_in_window(browser, browser.all("#images .caption-label")[0]))
    assert_gallery_is_whole(browser, "#images", 4)
    browser.screenshot("generated")

    # The longest seed, and one that an image showed.
    random.click()
    browser.wait(seed.is_enabled)
    for number, others in ((space.MAX_SEED, range(3)), (0, range(1, 4))):
        seed.send_keys(Keys.CONTROL, "a")
        seed.send_keys(str(number))
        browser.click("#generate")
        browser.wait(lambda n=number, o=others: browser.captions("#images") == [f"seed {i}" for i in (n, *o)])
        assert_gallery_is_whole(browser, "#images", 4)
        browser.screenshot(f"seed-{number}")
    random.click()
    browser.wait(lambda: not seed.is_enabled())

    loaded = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in loaded if not name.startswith((browser.address, "data:", "blob:"))] == []


def test_tokenize(browser, handlers, temporary_files, tmp_path):
    browser.tab("Tokenize")
    path = temporary_files / uuid.uuid4().hex / "photograph.png"
    path.parent.mkdir()
    make_picture(300, 200).save(path)
    browser.all("#picture input[type=file]")[0].send_keys(str(path))
    browser.wait(lambda: browser.all("#picture img"))
    browser.click("#tokenize")
    expected, rows = handlers.tokenize(file_data(str(path)))
    for picture, (other, _) in zip(browser.pictures("#decoded", 4), expected, strict=True):
        np.testing.assert_array_equal(picture, np.asarray(other))
    assert browser.captions("#decoded") == ["original", "all codebooks", "visual", "semantic"]
    assert_gallery_is_whole(browser, "#decoded", 4)
    browser.wait(lambda: is_in_window(browser, browser.all("#decoded .caption-label")[0]))
    browser.screenshot("tokenized")

    shown = [text for row in rows for text in row if text]
    browser.wait(lambda: browser.all("#table")[0].text.split("\n")[-len(shown) :] == shown)
    browser.run("scrollTo(0, document.body.scrollHeight)")
    browser.screenshot("table")
    cells = browser.run(
        "return [...document.querySelectorAll('#table *')].filter(e => !e.children.length && e.textContent.trim())"
    )
    cells = [cell for cell in cells if cell.is_displayed()]
    assert [cell.text for cell in cells][-len(shown) :] == shown
    assert [cell.text for cell in cells if browser.is_cut_off(cell)] == []
    table = browser.box(browser.all("#table")[0])
    assert all(browser.box(cell)[2] <= table[2] for cell in cells)


def test_example(browser, handlers, space, temporary_files):
    browser.tab("Tokenize")
    browser.click("#example")
    browser.wait(lambda: browser.all("#picture img"))
    browser.screenshot("example")
    browser.click("#tokenize")
    path = temporary_files / uuid.uuid4().hex / "a.png"
    path.parent.mkdir()
    shutil.copy(space.EXAMPLE, path)
    expected, _ = handlers.tokenize(file_data(str(path)))
    for picture, (other, _) in zip(browser.pictures("#decoded", 4), expected, strict=True):
        np.testing.assert_array_equal(picture, np.asarray(other))
    browser.screenshot("example-tokenized")


def test_an_error_says_what_is_wrong_and_goes_away(browser):
    browser.tab("Tokenize")
    browser.click("#tokenize")
    browser.wait(lambda: any("Upload a picture first" in toast.text for toast in browser.all(".toast-body")))
    browser.screenshot("error")
    browser.click(".toast-close")
    browser.wait(lambda: not browser.all(".toast-body"))
    assert not any(element.is_displayed() for element in browser.all(".error"))
    assert "Error" not in browser.all("body")[0].text
    browser.screenshot("after-the-error")


def test_stop(browser, pipeline):
    with slowed(pipeline, 0.3) as steps:
        browser.click("#generate")
        wait_for(lambda: len(steps) > 2)
        time.sleep(1)  # of scrolling
        progress = browser.run(
            "return [...document.querySelectorAll('#images *')]"
            ".find(e => !e.children.length && e.textContent.includes('Generating'))"
        )
        assert is_in_window(browser, progress) and is_in_window(browser, browser.all("#stop")[0])
        browser.screenshot("generating")
        browser.click("#stop")
        time.sleep(1)
        number = len(steps)
        browser.screenshot("stopped")
        time.sleep(1)
        assert len(steps) == number < 16
    assert not any(element.is_displayed() for element in browser.all("#images .progress-text, #images .error"))
    browser.click("#generate")
    browser.pictures("#images", 4)


def test_thumbs_of_sliders_stand_out(browser):
    """The thumb has an outline in the colour of the track's filled part, and so is no white disc on white."""
    slider = browser.all("input[type=range]")[0]
    browser.run("arguments[0].scrollIntoView()", slider)
    left, top, right, bottom = (round(number) for number in browser.box(slider))
    screenshot = Image.open(io.BytesIO(browser.window.get_screenshot_as_png())).convert("RGB")
    pixels = np.asarray(screenshot.crop((left, top - 8, right, bottom + 8))).astype(int)
    track = pixels[len(pixels) // 2, 6]
    heights = (np.abs(pixels - track).sum(-1) < 60).sum(0)  # of what has its colour, in each column
    assert heights.max() > heights[6], heights

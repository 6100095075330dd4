# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The report of an analysis in a real browser, from a file: on a desk and on a phone, by day and by night.

With $FQGAN_SCREENSHOTS, a folder, pictures of the page are left there.
"""

import os
import shutil
from pathlib import Path

import pytest
import tiny


pytest.importorskip("datasets")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytestmark = pytest.mark.browser

SIZES = {"desk": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def report(image_dir, cache_dir, network_dir, tmp_path_factory) -> Path:
    from fqgan_hf.evaluation.analyze import analyze

    folder = tmp_path_factory.mktemp("analysis")
    tiny.tokenizer(3, feature_dims=(None, 16, 16)).save_pretrained(folder / "model")
    analyze(
        folder / "model", image_dir, folder / "out", features=network_dir, device="cpu",
        show_progress=False, cache_dir=str(cache_dir),
    )  # fmt: skip
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield window
    window.quit()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_report_is_whole(report, window, size, theme):
    width, height = SIZES[size]
    window.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"},
    )
    window.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    )
    window.get(report.as_uri())
    run = window.execute_script
    if folder := os.environ.get("FQGAN_SCREENSHOTS"):
        _screenshot(window, Path(folder, f"analysis-{size}-{theme}.png"), width)
    assert run("return innerWidth") == width
    assert run("const e = document.documentElement; return e.scrollWidth <= e.clientWidth")
    pictures = run("return [...document.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight, i.width])")
    assert len(pictures) == 10
    assert all(complete and wide > 0 and high > 0 and 0 < shown <= width for complete, wide, high, shown in pictures)
    # What is wider than the window scrolls in a box of its own; nothing else reaches beyond it.
    beyond = run(
        "return [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll'))"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert beyond == []
    boxes = run("return [...document.querySelectorAll('.scroll')].map(e => [e.scrollWidth, e.clientWidth])")
    assert boxes and (size == "desk") == all(whole <= seen for whole, seen in boxes)
    page, ink = (_lightness(run(f"return getComputedStyle(document.body).{name}")) for name in ("background", "color"))
    assert (page > ink) == (theme == "light") and abs(page - ink) > 150
    assert (
        run("return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))")
        == []
    )
    assert window.get_log("browser") == []


def _lightness(color: str) -> float:
    """Mean of red, green and blue in `rgb(1, 2, 3) ...`."""
    return sum(int(number) for number in color[color.index("(") + 1 : color.index(")")].split(",")[:3]) / 3


def _screenshot(window, path: Path, width: int) -> None:
    """The whole page, however long."""
    import base64

    height = window.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    found = window.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    path.write_bytes(base64.b64decode(found["data"]))

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures of every tab of the Space, at a desk and on a phone, by day and by night: those of docs/images/.

    python tests/spaces_demo/screenshots.py --pipeline spaces_demo/pipeline --output_dir docs/images

Needs a browser (`make browser`). The pipeline should know classes or prompts and have several codebooks.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from browsing import Browser, opened
from PIL import Image


REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path.append(str(REPOSITORY / "benchmarks"))

from space import started  # noqa: E402


SECONDS = 120
COLOURS = 256
GAP = 24
CLASSES = ("7", "3")
PROMPTS = ("woman astronaut: medium skin tone", "grinning face")


def finished(browser: Browser, selector: str, number: int) -> None:
    browser.wait(lambda: len(found := browser.captions(selector)) == number and not any("%" in one for one in found))
    time.sleep(1)


def ask_for(browser: Browser, number: int, prefix: str = "") -> None:
    """Choose a class or write a prompt, by what the model knows."""
    from selenium.webdriver.common.keys import Keys

    by_class = browser.all(f"#{prefix}class")
    field = browser.one(f"#{prefix}class input" if by_class else f"#{prefix}prompt textarea")
    browser.run("arguments[0].scrollIntoView({block: 'center'})", field)
    field.click()
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys((CLASSES if by_class else PROMPTS)[number])
    time.sleep(0.5)
    if by_class:
        field.send_keys(Keys.ENTER)


def generate(browser: Browser, number: int = 0) -> None:
    ask_for(browser, number)
    if browser.one("#random input").is_selected():
        browser.click("#random input")
    browser.click("#generate")
    finished(browser, "#images", 4)


def taken(browser: Browser, tab: str, *selectors: str) -> None:
    """A tab with a generated picture in its inputs."""
    generate(browser)
    browser.tab(tab)
    for selector in selectors:
        browser.click(f"{selector}-from-images")
        browser.wait(lambda found=selector: browser.all(f"{found} img"))


def tokenize(browser: Browser) -> None:
    taken(browser, "Tokenize", "#picture")
    browser.click("#tokenize")
    finished(browser, "#decoded", 3)
    browser.hover(browser.one("#tokens .frame"), 0.6, 0.4)


def mix(browser: Browser) -> None:
    taken(browser, "Mix", "#picture-a")
    browser.tab("Generate")
    generate(browser, 1)
    browser.tab("Mix")
    browser.click("#picture-b-from-images")
    browser.wait(lambda: browser.all("#picture-b img"))
    browser.click("#mix")
    finished(browser, "#mixed", 4)


def edit(browser: Browser) -> None:
    taken(browser, "Edit", "#edited")
    browser.wait(lambda: browser.all("#mask .painter.has-picture"))
    browser.drag(browser.one("#mask canvas.paint"), (0.1, 0.6), (0.9, 0.6), (0.9, 0.9), (0.1, 0.9))
    ask_for(browser, 0, "edit-")
    browser.click("#edit-random input")
    browser.click("#edit")
    finished(browser, "#edits", 4)


def about(browser: Browser) -> None:
    browser.tab("About")


TABS: dict[str, Callable[[Browser], None]] = {
    "generate": generate,
    "tokenize": tokenize,
    "mix": mix,
    "edit": edit,
    "about": about,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, default=Path("spaces_demo/pipeline"))
    parser.add_argument("--output_dir", type=Path, default=Path("docs/images"))
    parser.add_argument("--tabs", nargs="+", choices=TABS, default=list(TABS))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    with started(options.pipeline.resolve(), folder / "log") as space, opened(folder / "profile") as window:
        for number, name in enumerate(options.tabs):
            themes = ("light", "dark") if number % 2 == 0 else ("dark", "light")
            shots = []
            for size, theme in zip(("desk", "phone"), themes, strict=True):
                browser = Browser(window, f"http://{space[0]}", f"{size}-{theme}", SECONDS)
                TABS[name](browser)
                browser.screenshot(name, folder)
                shots.append(folder / f"{browser.name}-{name}.png")
            beside(shots, options.output_dir / f"space-{name}.png")


def beside(paths: list[Path], path: Path) -> None:
    """The first picture, and beside it the others in pieces that are no higher, in one file of few colours."""
    first, *others = (Image.open(one).convert("RGB") for one in paths)
    pieces = [first]
    for picture in others:
        for top in range(0, picture.height, first.height):
            pieces.append(picture.crop((0, top, picture.width, min(top + first.height, picture.height))))
    whole = Image.new("RGB", (sum(piece.width + GAP for piece in pieces) - GAP, first.height), (148, 163, 184))
    left = 0
    for piece in pieces:
        whole.paste(piece, (left, 0))
        left += piece.width + GAP
    whole.quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path, whole.size, f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The page in a real browser, on a desk by day and on a phone by night: what is seen, and what clicks do.

With $FQGAN_SCREENSHOTS, a folder, pictures of the page are left there.
"""

import io
import time
from pathlib import Path

import browsing
import numpy as np
import pytest
import tiny
from browsing import Browser
from PIL import Image
from serving import Handlers, file_data, make_picture, slowed, wait_for


pytest.importorskip("gradio", reason="the Space needs gradio: pip install -e '.[space]'")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browsing.missing() is not None, reason=str(browsing.missing())),
]

TABS = ["Generate", "Tokenize", "Mix", "Edit", "About"]


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browsing.opened(tmp_path_factory.mktemp("profile")) as window:
        yield window


@pytest.fixture(params=["desk-light", "phone-dark"])
def browser(request, window, server):
    browser = Browser(window, server.address, request.param)
    yield browser
    assert browser.problems() == []


@pytest.fixture
def desk(window, server):
    """For what is the same on a phone."""
    browser = Browser(window, server.address, "desk-light")
    yield browser
    assert browser.problems() == []


@pytest.fixture
def photograph(tmp_path) -> Path:
    path = tmp_path / "photograph.png"
    make_picture(300, 200).save(path)
    return path


def uploaded(put, path: Path) -> dict:
    """As if it had been uploaded, for a handler that is called directly."""
    return file_data(put(path.read_bytes())["path"])


def assert_same(pictures: list[np.ndarray], expected) -> None:
    for picture, (other, _) in zip(pictures, expected, strict=True):
        np.testing.assert_array_equal(picture, np.asarray(other))


def assert_gallery_is_whole(browser: Browser, selector: str, count: int) -> None:
    """Each picture is a square in the window, with its whole caption below it."""
    pictures = browser.all(f"{selector} .thumbnail-lg > img")
    captions = browser.all(f"{selector} .caption-label")
    assert len(pictures) == len(captions) == count
    for picture, caption in zip(pictures, captions, strict=True):
        # It takes its place once the picture has its size.
        browser.wait(lambda one=caption, above=picture: browser.box(one)[1] >= browser.box(above)[3] - 1)
        left, top, right, bottom = browser.box(picture)
        assert abs((right - left) - (bottom - top)) < 2
        assert not browser.is_cut_off(picture) and not browser.is_cut_off(caption)


def test_generate(browser, handlers, controls):
    from selenium.webdriver.common.keys import Keys

    # The class by a part of its name.
    field = browser.one("#class input")
    field.click()
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys("golden")
    [choice] = browser.wait(lambda: browser.all("[role=option]"))
    assert choice.text.strip().endswith("2 · golden retriever")
    field.send_keys(Keys.ENTER)

    # While the seed is random it can't be typed in, but is shown.
    seed, random = browser.all("#seed input")[0], browser.all("#random input")[0]
    assert random.is_selected() and not seed.is_enabled()
    browser.click("#generate")
    images = browser.wait(lambda: is_finished(browser, "#images") and browser.pictures("#images", 4))
    first = int(seed.get_attribute("value"))
    assert not seed.is_enabled()
    expected = [(first + i) % (controls.MAX_SEED + 1) for i in range(4)]
    assert browser.captions("#images") == [f"seed {number}" for number in expected]
    assert_same(images, handlers.generate(num_images=4, seed=first)[0])
    browser.wait(lambda: browser.is_in_window(browser.all("#images .caption-label")[0]))
    assert_gallery_is_whole(browser, "#images", 4)
    browser.screenshot("generated")

    # The longest seed.
    random.click()
    browser.wait(seed.is_enabled)
    seed.send_keys(Keys.CONTROL, "a")
    seed.send_keys(str(controls.MAX_SEED))
    browser.click("#generate")
    browser.wait(lambda: browser.captions("#images") == [f"seed {i}" for i in (controls.MAX_SEED, *range(3))])
    assert_gallery_is_whole(browser, "#images", 4)

    # A scale for each codebook, which can be moved once they are used.
    browser.click("#guidance button")
    slider = browser.wait(lambda: browser.all("#guidance input[type=range]"))[0]
    assert not slider.is_enabled()
    browser.click("#guided input")
    browser.wait(slider.is_enabled)

    loaded = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in loaded if not name.startswith((browser.address, "data:", "blob:"))] == []


def is_finished(browser: Browser, selector: str) -> bool:
    captions = browser.captions(selector)
    return bool(captions) and not any("%" in caption for caption in captions)


def test_generate_from_a_drawn_map(window, launched, put, space):
    pipe = tiny.conditional_pipeline("map", kind="diffusion")
    with launched(model=pipe) as server:
        browser = Browser(window, server.address, "phone-light")
        browser.choose("#map", "label 3")
        brush = browser.one("#map .brush")
        browser.run("arguments[0].value = 1", brush)
        browser.drag(browser.one("#map canvas.paint"), (0.03, 0.53), (0.97, 0.53))  # all of row 9
        fix_seed(browser, "", 7)
        browser.click("#generate")
        images = browser.wait(lambda: is_finished(browser, "#images") and browser.pictures("#images", 4))
        labels = np.zeros((16, 16), np.uint8)
        labels[8] = 3
        given = {"map_picture": put(Image.fromarray(labels)), "num_images": 4, "num_steps": 10}
        assert_same(images, Handlers(space.build_app(pipe)).generate(**given)[0])
        assert browser.problems() == []


def test_rows_are_seen_to_arrive(browser, pipeline):
    with slowed(pipeline, 0.3) as steps:
        browser.click("#generate")
        browser.wait(lambda: any("%" in caption for caption in browser.captions("#images")))
        assert len(steps) < 14  # of 16 positions
        partial = browser.pictures("#images", 4)
        assert all(picture.shape[2] == 4 and (picture[..., 3] == 0).any() for picture in partial)
        shares = set()
        while not is_finished(browser, "#images"):
            shares |= {caption.partition("· ")[2] for caption in browser.captions("#images") if "%" in caption}
            time.sleep(0.1)
        assert len(shares) >= 3, shares
    assert all(picture.shape[2] == 3 for picture in browser.pictures("#images", 4))


def test_stop_frees_the_place(desk, pipeline):
    with slowed(pipeline, 0.3) as steps:
        desk.click("#generate")
        wait_for(lambda: len(steps) > 2)
        time.sleep(1)  # of scrolling
        assert desk.is_in_window(desk.one("#stop"))
        desk.click("#stop")
        time.sleep(1)
        number = len(steps)
        time.sleep(1)
        assert len(steps) == number < 16
    assert not any(element.is_displayed() for element in desk.all("#images .progress-text, #images .error"))
    desk.click("#generate")
    desk.wait(lambda: is_finished(desk, "#images"))


def test_tokenize(browser, handlers, put, photograph, tmp_path):
    from selenium.webdriver.common.keys import Keys

    browser.tab("Tokenize")
    browser.upload("#picture", photograph)
    browser.click("#tokenize")
    compared, expected, tokens, rows, file = handlers.tokenize(uploaded(put, photograph))
    assert_same(browser.pictures("#decoded", 3), expected)
    assert browser.captions("#decoded") == ["all codebooks", "visual", "semantic"]
    assert_gallery_is_whole(browser, "#decoded", 3)
    assert_same(browser.pictures("#compared", 2), [(image, "") for image in compared])

    shown = [text for row in rows for text in row if text]
    browser.wait(lambda: browser.all("#table")[0].text.split("\n")[-len(shown) :] == shown)

    # The codes of a cell, by the pointer and by the keys.
    frame, codes = browser.one("#tokens .frame"), browser.one("#tokens .codes")
    browser.hover(frame, 0.9, 0.4)
    visual, semantic = (grid[1][3] for grid in tokens["codes"])
    assert codes.text.startswith("Row 2, column 4")
    assert f"visual {visual}" in codes.text and f"semantic {semantic}" in codes.text
    frame.send_keys(Keys.ARROW_DOWN, Keys.ARROW_LEFT)
    assert codes.text.startswith("Row 3, column 3") and f"visual {tokens['codes'][0][2][2]}" in codes.text
    assert not browser.is_cut_off(codes)
    browser.screenshot("tokenized")

    # The codes as a file, and the file's picture.
    browser.click("#from-codes button")
    path = tmp_path / "codes.npy"
    path.write_bytes(Path(file).read_bytes())
    browser.one("#from-codes input[type=file]").send_keys(str(path))
    browser.wait(lambda: "unknown" in browser.all("#table")[0].text)
    assert_same(browser.pictures("#decoded", 3), expected)


def test_codes_can_be_downloaded(desk, put, handlers, photograph):
    desk.tab("Tokenize")
    assert not desk.one("#download-codes").is_enabled()
    desk.upload("#picture", photograph)
    desk.click("#tokenize")
    desk.pictures("#decoded", 3)
    desk.wait(desk.one("#download-codes").is_enabled)
    desk.click("#download-codes")
    path = desk.downloads / "codes.npy"
    wait_for(path.is_file)
    expected = handlers.tokenize(uploaded(put, photograph))[2]["codes"]
    assert np.load(path).tolist() == expected
    path.unlink()


def test_examples(desk, handlers, put, import_from_space):
    desk.tab("Tokenize")
    desk.click("#picture-example-landscape")
    desk.wait(lambda: desk.all("#picture img"))
    desk.click("#tokenize")
    path = import_from_space("sources").EXAMPLES["Landscape"]
    assert_same(desk.pictures("#decoded", 3), handlers.tokenize(uploaded(put, path))[1])


def test_camera(desk):
    desk.tab("Tokenize")
    desk.click("#picture [aria-label='Capture from camera']")
    desk.click("#picture [title='grant webcam access'] button")
    ready = "return (document.querySelector('#picture video') || {}).readyState >= 3"
    desk.wait(lambda: desk.run(ready))
    desk.click("#picture [aria-label='capture photo']")
    desk.wait(lambda: desk.all("#picture img[src]"))  # which it has once it is uploaded
    desk.click("#tokenize")
    assert len(desk.pictures("#decoded", 3)) == 3


def test_mix(browser, handlers, put, photograph, tmp_path):
    other = tmp_path / "other.png"
    make_picture(64, 64, seed=3).save(other)
    browser.tab("Mix")
    browser.upload("#picture-a", photograph)
    browser.upload("#picture-b", other)
    browser.choose("#taken", "visual")
    browser.choose("#taken", "semantic")
    browser.click("#mix")
    expected = handlers.call(
        "mix", picture_a=uploaded(put, photograph), picture_b=uploaded(put, other), taken=["visual"]
    )
    assert_same(browser.pictures("#mixed", 4), expected)
    assert browser.captions("#mixed") == [caption for _, caption in expected]
    assert_gallery_is_whole(browser, "#mixed", 4)
    browser.screenshot("mixed")


def test_edit_by_painting(browser, handlers, put, photograph):
    browser.tab("Edit")
    browser.upload("#edited", photograph)
    canvas = browser.one("#mask canvas.paint")
    browser.wait(lambda: browser.all("#mask .painter.has-picture"))
    # Three cells: right, then down.
    browser.drag(canvas, (0.4, 0.4), (0.6, 0.4), (0.6, 0.6))
    fix_seed(browser, "edit-", 7)
    browser.click("#edit")
    images = browser.wait(lambda: is_finished(browser, "#edits") and browser.pictures("#edits", 4))
    mask = np.zeros((4, 4), np.uint8)
    mask[1, 1] = mask[1, 2] = mask[2, 2] = 255
    assert_same(images, edited(handlers, put, photograph, mask=put(Image.fromarray(mask))))
    assert_gallery_is_whole(browser, "#edits", 4)
    browser.screenshot("edited")


def test_edit_with_the_keyboard(desk, handlers, put, photograph):
    from selenium.webdriver.common.keys import Keys

    desk.tab("Edit")
    desk.upload("#edited", photograph)
    desk.wait(lambda: desk.all("#mask .painter.has-picture"))
    canvas = desk.one("#mask canvas.paint")
    canvas.send_keys(Keys.ARROW_LEFT, Keys.SPACE)  # the cursor begins in the middle, at row 3 and column 3
    assert desk.one("#mask .said").text == "row 3, column 2: paint anew"
    canvas.send_keys(Keys.ARROW_UP, Keys.SPACE)
    desk.click("#mask .undo")
    fix_seed(desk, "edit-", 7)
    desk.click("#edit")
    images = desk.wait(lambda: is_finished(desk, "#edits") and desk.pictures("#edits", 4))
    mask = np.zeros((4, 4), np.uint8)
    mask[2, 1] = 255
    assert_same(images, edited(handlers, put, photograph, mask=put(Image.fromarray(mask))))


@pytest.mark.parametrize(
    ("way", "control", "given"),
    [
        ("Keep the top", "#rows", {"rows": 2}),
        ("Vary", "#strength", {"strength": 0.5}),
        ("Resample codebooks", "#kept", {"kept": ["semantic"]}),
    ],
)
def test_other_edits(desk, handlers, put, photograph, way, control, given):
    desk.tab("Edit")
    desk.upload("#edited", photograph)
    assert desk.one("#mask").is_displayed() and not desk.one(control).is_displayed()
    desk.choose("#way", way)
    desk.wait(lambda: desk.one(control).is_displayed() and not desk.one("#mask").is_displayed())
    fix_seed(desk, "edit-", 7)
    desk.click("#edit")
    images = desk.wait(lambda: is_finished(desk, "#edits") and desk.pictures("#edits", 4))
    assert_same(images, edited(handlers, put, photograph, way=way, **given))


def fix_seed(browser: Browser, prefix: str, seed: int) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.click(f"#{prefix}random input")
    field = browser.one(f"#{prefix}seed input")
    browser.wait(field.is_enabled)
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(str(seed))


def edited(handlers, put, photograph, **changes) -> list:
    given = {"way": "Paint", "mask": None, "rows": 2, "strength": 0.5, "kept": ["semantic"]}
    sampling = {
        "class_label": 0, "num_images": 4, "guidance_scale": 2.0, "seed": 7, "random_seed": False, "temperature": 1.0,
        "top_k": 0, "top_p": 1.0, "guide_codebooks": False,
    }  # fmt: skip
    return handlers.call("edit", picture=uploaded(put, photograph), **{**given, **sampling, **changes})[0]


def test_a_generated_picture_is_taken_on(desk):
    desk.tab("Edit")
    assert not desk.one(".from-images").is_displayed()
    desk.tab("Generate")
    desk.click("#generate")
    desk.wait(lambda: is_finished(desk, "#images") and desk.pictures("#images", 4))
    desk.tab("Edit")
    desk.click("#edited-from-images")
    taken = desk.pictures("#edited", 1)
    np.testing.assert_array_equal(taken[0], desk.pictures("#images", 4)[0])


def test_an_error_says_what_is_wrong_and_goes_away(browser):
    browser.tab("Tokenize")
    browser.click("#tokenize")
    browser.wait(lambda: any("The picture is missing" in toast.text for toast in browser.all(".toast-body")))
    browser.screenshot("error", whole=False)
    browser.click(".toast-close")
    browser.wait(lambda: not browser.all(".toast-body"))
    assert not any(element.is_displayed() for element in browser.all(".error"))
    assert "Error" not in browser.all("body")[0].text


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_fits(browser, tab):
    """All tabs can be seen; no text is cut off; nothing is wider than the window; every control has a name."""
    assert [one.text for one in browser.all("button[role=tab]") if one.is_displayed()] == TABS
    browser.tab(tab)
    browser.screenshot(f"tab-{tab.lower()}")
    assert not browser.run("const e = document.documentElement; return e.scrollWidth > e.clientWidth")
    texts = browser.all("h1, h2, h3, label > span, .caption-label, .widget-label, .widget-info, .lg, .sm, .note p")
    cut = [text.text for text in texts if text.is_displayed() and text.text and browser.is_cut_off(text)]
    assert cut == []
    kinds = ("button", "input:not([type=file])", "textarea", "canvas[tabindex]", "[role=application]")
    controls = browser.all(", ".join(f"{kind}:not([aria-hidden=true] *)" for kind in kinds))
    nameless = [
        control.get_attribute("outerHTML")[:200]
        for control in controls
        if control.is_displayed() and not control.accessible_name.strip()
    ]
    assert nameless == []


def test_about(desk):
    desk.tab("About")
    assert "FQGAN" in desk.one("#card").text


def test_thumbs_of_sliders_stand_out(desk):
    """The thumb has an outline in the colour of the track's filled part, and so is no white disc on white."""
    slider = desk.all("input[type=range]")[0]
    desk.run("arguments[0].scrollIntoView()", slider)
    left, top, right, bottom = (round(number) for number in desk.box(slider))
    screenshot = Image.open(io.BytesIO(desk.window.get_screenshot_as_png())).convert("RGB")
    pixels = np.asarray(screenshot.crop((left, top - 8, right, bottom + 8))).astype(int)
    track = pixels[len(pixels) // 2, 6]
    heights = (np.abs(pixels - track).sum(-1) < 60).sum(0)  # of what has its colour, in each column
    assert heights.max() > heights[6], heights

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The Space: its handlers called directly, over HTTP, as the Hub starts it, and by clicks in a real browser."""

import contextlib
import importlib.util
import io
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fqgan_hf import FARConfig, FARForImageGeneration, FARPipeline, FQGANImageProcessor, FQGANModel, FQGANPipeline


gr = pytest.importorskip("gradio", reason="the Space needs gradio: pip install -e '.[space]'")
gradio_client = pytest.importorskip("gradio_client")

NAMES = [
    "tench, Tinca tinca",
    "goldfish",
    "golden_retriever",
    "crane",
    "crane",
    *(f"animal {i}" for i in range(5, 10)),
]
# class_label, num_images, guidance_scale, temperature, top_k, top_p, seed, random_seed
GOOD = [2, 2, 2.0, 1.0, 0, 1.0, 7, False]
BAD = {
    "unknown name": (0, "goldfsh", "goldfish"),
    "ambiguous name": (0, "crane", r"\[3, 4\]"),
    "no class": (0, None, "Choose a class"),
    "empty class": (0, "", "Choose a class"),
    "class beyond the last": (0, 10, r"\[0, 9\]"),
    "negative class": (0, "-1", r"\[0, 9\]"),
    "class as a fraction": (0, 1.5, "Choose a class"),
    "class as a list": (0, [1, 2], "Choose a class"),
    "class as a truth value": (0, True, "class"),
    "no images": (1, 0, "between 1 and 8"),
    "nine images": (1, 9, "between 1 and 8"),
    "images as null": (1, None, "got None"),
    "one and a half images": (1, 1.5, "whole number"),
    "guidance as NaN": (2, math.nan, "guidance scale must be a number between"),
    "guidance too large": (2, 1e300, "between 0.0 and 10.0"),
    "guidance as text": (2, "2", "got '2'"),
    "temperature zero": (3, 0, "temperature"),
    "temperature infinite": (3, math.inf, "got inf"),
    "temperature as a truth value": (3, True, "got True"),
    "top-k beyond the codebook": (4, 33, "between 0 and 32"),
    "top-k as NaN": (4, math.nan, "got nan"),
    "top-p zero": (5, 0.0, "Top-p"),
    "top-p above one": (5, 1.01, "Top-p"),
    "seed as null": (6, None, "seed must be a whole number"),
    "seed as NaN": (6, math.nan, "seed must be a whole number"),
    "seed too large": (6, 2**31, "between 0 and 2,147,483,647"),
    "seed far too large": (6, 10**400, "between 0 and"),
    "seed negative": (6, -1, "between 0 and"),
    "random seed as null": (7, None, "true or false"),
}


def make_pipeline(num_codebooks: int = 2, size: int | None = 16, **processor) -> FARPipeline:
    torch.manual_seed(num_codebooks)
    vqmodel = FQGANModel(
        block_out_channels=(32, 32, 32), norm_num_groups=8, latent_channels=16, sample_size=16, layers_per_block=1,
        num_codebooks=num_codebooks, codebook_size=32, codebook_dim=4, adapter_num_layers=1, adapter_num_heads=2,
    ).eval()  # fmt: skip
    config = FARConfig(
        num_codebooks=num_codebooks, codebook_size=32, num_classes=10, grid_height=4, grid_width=4, hidden_size=32,
        num_hidden_layers=2, num_attention_heads=2, num_head_layers=1, id2label=dict(enumerate(NAMES)),
    )  # fmt: skip
    transformer = FARForImageGeneration(config).eval()
    for parameter in transformer.parameters():
        if parameter.ndim == 2:  # large weights, so that the class matters (new output matrices are zero)
            torch.nn.init.normal_(parameter, std=0.3)
    return FARPipeline(vqmodel, transformer, FQGANImageProcessor(size=size, multiple_of=4, **processor))


@pytest.fixture(scope="module", autouse=True)
def temporary_files(tmp_path_factory) -> Path:
    """Where Gradio keeps uploads and results."""
    folder = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def space(repository):
    """spaces_demo/app.py as a module: the folder is uploaded, not installed."""
    specification = importlib.util.spec_from_file_location("space_app", repository / "spaces_demo" / "app.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pipeline_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "pipeline"
    make_pipeline().save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def pipeline(space, pipeline_dir) -> FARPipeline:
    return space.load_pipeline(str(pipeline_dir), "cpu")


@pytest.fixture(scope="module")
def handlers(space, pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return space.Handlers(pipeline)


@pytest.fixture(scope="module")
def server(space, pipeline):
    """Address of the app, launched in this process on a free port."""
    app = space.build_app(pipeline)
    _, address, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **space.LAUNCH_OPTIONS)
    yield address.rstrip("/")
    app.close(verbose=False)


@pytest.fixture(scope="module")
def client(server, temporary_files):
    return gradio_client.Client(server, verbose=False, download_files=temporary_files / "client")


def photograph(width=40, height=24, seed=0) -> Image.Image:
    """Smooth random colours."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path) -> str:
    image.save(path)
    return str(path)


def pixels(images) -> list[np.ndarray]:
    images = [image[0] if isinstance(image, tuple) else image for image in images]
    return [np.asarray(image if isinstance(image, Image.Image) else Image.open(image)) for image in images]


def assert_same(images, expected) -> None:
    for image, other in zip(pixels(images), pixels(expected), strict=True):
        np.testing.assert_array_equal(image, other)


class TestGenerate:
    def test_every_image_says_the_seed_that_makes_it_alone(self, handlers):
        images, seed = handlers.generate(*GOOD)
        assert seed == 7 and [caption for _, caption in images] == ["seed 7", "seed 8"]
        assert [image.size for image, _ in images] == [(16, 16)] * 2
        assert not np.array_equal(*pixels(images))
        alone, _ = handlers.generate(2, 1, 2.0, 1.0, 0, 1.0, 8, False)
        assert_same(alone, images[1:])

    def test_random_seed_is_new_each_time_and_reproducible(self, handlers):
        # The seed's field may then hold anything.
        images, seed = handlers.generate(*GOOD[:6], None, True)
        assert handlers.generate(*GOOD[:6], None, True)[1] != seed
        assert_same(handlers.generate(*GOOD[:6], seed, False)[0], images)

    def test_is_what_the_pipeline_makes(self, handlers, pipeline):
        images, _ = handlers.generate("goldfish", 1, 3.0, 0.8, 5, 0.9, 11, False)
        expected = pipeline(
            [1], guidance_scale=3.0, temperature=0.8, top_k=5, top_p=0.9, generator=torch.Generator().manual_seed(11)
        ).images
        assert_same(images, expected)

    @pytest.mark.parametrize("label", ["2", " 2 ", "golden retriever", "Golden-Retriever"])
    def test_class_by_id_or_name(self, handlers, label):
        assert_same(handlers.generate(label, *GOOD[1:])[0], handlers.generate(*GOOD)[0])

    @pytest.mark.parametrize("case", BAD)
    def test_bad_arguments(self, handlers, case):
        position, value, message = BAD[case]
        arguments = [*GOOD]
        arguments[position] = value
        with pytest.raises(gr.Error, match=message) as caught:
            handlers.generate(*arguments)
        assert "\n" not in caught.value.message and len(caught.value.message) <= 300
        assert not caught.value.print_exception

    def test_largest_request(self, handlers):
        images, _ = handlers.generate(9, 8, 10.0, 2.0, 32, 0.05, 2**31 - 1, False)
        assert len(images) == 8


class TestTokenize:
    @pytest.mark.parametrize("num_codebooks", [1, 2, 3, 4])
    def test_every_number_of_codebooks(self, space, tmp_path, num_codebooks):
        pipeline = make_pipeline(num_codebooks)
        picture = photograph()
        images, table = space.Handlers(pipeline).tokenize(save(picture, tmp_path / "a.png"))

        tokenizer = FQGANPipeline(pipeline.vqmodel, pipeline.image_processor)
        codes = tokenizer.encode(picture)
        selections = [None] if num_codebooks == 1 else [None, *([k] for k in range(num_codebooks))]
        expected = [tokenizer.decode(codes, codebooks=selection).images[0] for selection in selections]
        original = pipeline.image_processor.postprocess(pipeline.image_processor(picture)["pixel_values"])
        assert_same(images, original + expected)

        captions = {
            1: ["reconstruction"],
            2: ["all codebooks", "visual", "semantic"],
            3: ["all codebooks", "visual", "semantic mid", "semantic high"],
            4: ["all codebooks", *(f"codebook {k}" for k in (1, 2, 3, 4))],
        }[num_codebooks]
        assert [caption for _, caption in images] == ["original", *captions]
        assert [row[0] for row in table] == captions
        for image, row in zip(pixels(expected), table, strict=True):
            error = np.mean((image.astype(float) - pixels(original)[0]) ** 2)
            assert row[1] == f"{10 * np.log10(255**2 / error):.2f}"
        used = [f"{len(codes[0, k].unique())} of 32 at 16 positions" for k in range(num_codebooks)]
        assert [row[2] for row in table] == (used if num_codebooks == 1 else ["", *used])

    @pytest.mark.parametrize(
        ("mode", "name"),
        [("RGB", "a.jpg"), ("RGBA", "a.png"), ("P", "a.gif"), ("L", "a.bmp"), ("I;16", "a.png"), ("RGB", "a.webp")],
    )
    @pytest.mark.parametrize("size", [(40, 24), (5, 90), (1, 1)])
    def test_files_of_many_kinds(self, handlers, pipeline, tmp_path, mode, name, size):
        picture = photograph(*size)
        if mode == "I;16":
            picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
        path = save(picture.convert(mode) if mode != "I;16" else picture, tmp_path / name)
        images, _ = handlers.tokenize({"path": path})
        with Image.open(path) as image:
            expected = pipeline.image_processor.postprocess(pipeline.image_processor(image)["pixel_values"])
        assert images[0][0].size == (16, 16)
        assert_same(images[:1], expected)

    @pytest.mark.parametrize("processor", [{"size": None}, {"do_center_crop": False}, {"do_resize": False}])
    def test_whatever_the_processor_says_the_model_gets_its_own_size(self, space, tmp_path, processor):
        path = save(photograph(8, 200), tmp_path / "a.png")
        images, _ = space.Handlers(make_pipeline(**processor)).tokenize(path)
        assert {image.size for image, _ in images} == {(16, 16)}

    def test_pictures_beyond_max_pixels(self, space, tmp_path):
        handlers = space.Handlers(make_pipeline(max_pixels=1000))
        handlers.tokenize(save(photograph(40, 25), tmp_path / "a.png"))
        with pytest.raises(gr.Error, match="at most max_pixels = 1,000 pixels"):
            handlers.tokenize(save(photograph(40, 26), tmp_path / "a.png"))

    @pytest.mark.parametrize("case", ["nothing", "no path", "text", "svg", "eps", "truncated", "missing", "bomb"])
    def test_bad_files(self, handlers, tmp_path, case, monkeypatch):
        path = tmp_path / "picture.png"
        message = "JPEG.* that can be read"
        if case == "text":
            path.write_text("no picture")
        elif case == "svg":
            path.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
        elif case == "eps":
            photograph().save(path, "EPS")
        elif case == "truncated":
            data = io.BytesIO()
            photograph(200, 200).save(data, "PNG")
            path.write_bytes(data.getvalue()[:2000])
            message = "readable image"
        elif case == "bomb":
            photograph(30, 30).save(path)
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        picture = {"nothing": None, "no path": {"path": None}}.get(case, {"path": str(path)})
        if case in ("nothing", "no path"):
            message = "Upload a picture first"
        with pytest.raises(gr.Error, match=message) as caught:
            handlers.tokenize(picture)
        assert str(tmp_path) not in caught.value.message


class TestPage:
    def test_classes_are_found_by_name_and_by_id(self, space, pipeline):
        assert space.label_choices(pipeline)[2:4] == [("2 · golden retriever", 2), ("3 · crane", 3)]
        nameless = make_pipeline()
        nameless.transformer.config.id2label = {label: f"LABEL_{label}" for label in range(10)}
        assert space.label_choices(nameless)[:2] == [("class 0", 0), ("class 1", 1)]

    def test_heading_tells_the_model(self, space, pipeline):
        text = space.describe(pipeline)
        assert "16×16 image as 4×4 positions with 2 codes, one from each codebook of 32" in text
        assert "10 classes" in text

    def test_queue(self, space, server, client):
        with urllib.request.urlopen(f"{server}/config") as answer:
            config = json.load(answer)
        assert {entry["api_name"] for entry in config["dependencies"]} == {"generate", "tokenize"}
        assert config["enable_queue"] and config["max_file_size"] == 20 * 1024**2

    def test_one_call_at_a_time_and_a_full_queue_says_so(self, space, pipeline, temporary_files, monkeypatch):
        go, lock, running, most = threading.Event(), threading.Lock(), 0, 0

        def slow(self, *arguments):
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            assert go.wait(60)
            with lock:
                running -= 1
            return original(self, *arguments)

        original = space.Handlers._generate
        monkeypatch.setattr(space.Handlers, "_generate", slow)
        monkeypatch.setattr(space, "MAX_WAITING", 2)
        app = space.build_app(pipeline)
        _, address, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
        try:
            client = gradio_client.Client(address, verbose=False, download_files=temporary_files / "client")
            jobs = [client.submit(*GOOD, api_name="/generate")]
            wait_for(lambda: running == 1)
            jobs += [client.submit(*GOOD, api_name="/generate") for _ in range(5)]
            wait_for(lambda: sum(job.done() for job in jobs) == 3)
            full = [job.exception() for job in jobs if job.done()]
            assert all("full" in str(error).lower() for error in full)
            go.set()
            assert sum(job.exception() is None for job in jobs) == 3
            assert most == 1
        finally:
            go.set()
            app.close(verbose=False)


class TestOverHTTP:
    def test_generate_gives_png_of_the_very_pixels(self, client, handlers):
        images, seed = client.predict(*GOOD, api_name="/generate")
        assert seed == 7 and [image["caption"] for image in images] == ["seed 7", "seed 8"]
        assert all(image["image"].endswith(".png") for image in images)
        assert_same([image["image"] for image in images], handlers.generate(*GOOD)[0])

    def test_tokenize(self, client, handlers, tmp_path):
        path = save(photograph(), tmp_path / "a.png")
        images, table = client.predict(gradio_client.handle_file(path), api_name="/tokenize")
        expected, rows = handlers.tokenize(path)
        assert_same([image["image"] for image in images], expected)
        assert [image["caption"] for image in images] == [caption for _, caption in expected]
        assert table["headers"] == ["Decoded from", "PSNR (dB)", "Different codes used"] and table["data"] == rows

    @pytest.mark.parametrize("case", [case for case in BAD if "infinite" not in case])
    def test_bad_arguments_arrive_as_their_messages(self, server, case):
        position, value, message = BAD[case]
        arguments = [*GOOD]
        arguments[position] = value
        error = call(server, "generate", arguments)
        assert re.search(message, error["error"]), error

    def test_arguments_too_few_and_too_many(self, server):
        assert "error" in call(server, "generate", GOOD[:3])
        images, seed = call(server, "generate", [*GOOD, "more", None])
        assert seed == 7 and len(images) == 2

    def test_no_picture(self, client):
        with pytest.raises(gradio_client.exceptions.AppError, match="Upload a picture first"):
            client.predict(None, api_name="/tokenize")

    def test_damaged_picture(self, client, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\nand no more")
        with pytest.raises(gradio_client.exceptions.AppError, match="JPEG.* that can be read"):
            client.predict(gradio_client.handle_file(str(path)), api_name="/tokenize")

    @pytest.mark.parametrize("field", ["path", "url"])
    def test_files_of_the_server_stay_there(self, server, pipeline_dir, repository, tmp_path, field):
        secret = save(photograph(), tmp_path / "secret.png")
        picture = {"path": secret, "meta": {"_type": "gradio.FileData"}}
        if field == "url":
            picture = {"path": "a.png", "url": f"file://{secret}", "meta": {"_type": "gradio.FileData"}}
        assert "error" in call(server, "tokenize", [picture])


def call(server: str, name: str, data: list):
    """What the address answers to raw JSON: the outputs, or the error. NaN and nulls are sent as they are."""
    request = urllib.request.Request(
        f"{server}/gradio_api/call/{name}",
        data=json.dumps({"data": data}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{server}/gradio_api/call/{name}/{event}", timeout=60) as answer:
        lines = answer.read().decode().strip().splitlines()
    kind, content = lines[-2].removeprefix("event: "), json.loads(lines[-1].removeprefix("data: "))
    assert kind in ("complete", "error"), lines
    return content


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


class TestMain:
    def test_no_model(self, space, capsys, monkeypatch):
        monkeypatch.delenv("FQGAN_PIPELINE", raising=False)
        with pytest.raises(SystemExit) as caught:
            space.main([])
        assert caught.value.code == 2
        assert "set FQGAN_PIPELINE" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("name", "message"),
        [("no/such/folder", "there is no folder"), ("nobody/nothing", "cannot load the model"), ("", "model_index")],
    )
    def test_model_that_cannot_be_loaded(self, space, tmp_path, monkeypatch, name, message):
        monkeypatch.setenv("FQGAN_PIPELINE", name or str(tmp_path))
        with pytest.raises(SystemExit, match=message) as caught:
            space.main([])
        assert "\n" not in caught.value.code

    def test_pipeline_without_a_generator(self, space, tmp_path):
        pipeline = make_pipeline()
        FQGANPipeline(pipeline.vqmodel, pipeline.image_processor).save_pretrained(str(tmp_path))
        with pytest.raises(SystemExit, match="cannot load the model.*transformer"):
            space.main(["--pipeline", str(tmp_path)])


@contextlib.contextmanager
def started(command: list[str], cwd: Path, port: int, log: Path, **environment):
    """A server in a process of its own, once it answers."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    with open(log, "w") as output:
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# Stands in for ZeroGPU's package: calls cross a process there, so that everything must survive pickling.
SPACES = """
import functools, json, os, pickle, sys

def log(**entry):
    with open(os.environ["SPACES_LOG"], "a") as file:
        file.write(json.dumps(entry) + "\\n")

log(torch_came_first="torch" in sys.modules)

def GPU(task=None, *, duration=60):
    if task is None:
        return functools.partial(GPU, duration=duration)
    log(decorated=task.__name__, duration=duration)

    @functools.wraps(task)
    def wrapper(*args, **kwargs):
        args, kwargs = pickle.loads(pickle.dumps((args, kwargs)))
        result = pickle.dumps(task(*args, **kwargs))
        log(called=task.__name__)
        return pickle.loads(result)

    return wrapper
"""


class TestOnTheHub:
    def test_as_uploaded_on_zerogpu(self, repository, pipeline_dir, tmp_path):
        """The layout of README.md's recipe, started as the Hub does, with a stand-in for the package `spaces`."""
        folder = tmp_path / "space"
        shutil.copytree(repository / "spaces_demo", folder)
        for name in ("fqgan_hf", "modeling"):
            shutil.copytree(repository / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "spaces.py").write_text(SPACES)
        port, log = free_port(), tmp_path / "spaces.jsonl"
        environment = {"FQGAN_PIPELINE": str(pipeline_dir), "GRADIO_SERVER_PORT": str(port), "SPACES_LOG": str(log)}
        with started([sys.executable, "app.py"], folder, port, tmp_path / "server.log", **environment) as address:
            client = gradio_client.Client(address, verbose=False, download_files=tmp_path / "client")
            images, _ = client.predict(*GOOD, api_name="/generate")
            picture = gradio_client.handle_file(save(photograph(), tmp_path / "a.png"))
            decoded, _ = client.predict(picture, api_name="/tokenize")
        assert len(images) == 2 and len(decoded) == 4
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        assert entries == [
            {"torch_came_first": False},
            {"decorated": "_generate", "duration": 21},
            {"decorated": "_reconstruct", "duration": 20},
            {"called": "_generate"},
            {"called": "_reconstruct"},
        ]

    def test_header(self, repository):
        yaml = pytest.importorskip("yaml")
        _, header, _ = (repository / "spaces_demo" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        header = yaml.safe_load(header)
        assert header["sdk"] == "gradio" and (repository / "spaces_demo" / header["app_file"]).is_file()
        assert header["sdk_version"].split(".")[0] == gr.__version__.split(".")[0]
        assert len(header["short_description"]) <= 60  # the Hub refuses more
        assert {header["colorFrom"], header["colorTo"]} <= {
            "red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray",
        }  # fmt: skip

    def test_requirements_are_those_of_the_package(self, repository):
        lines = (repository / "spaces_demo" / "requirements.txt").read_text().splitlines()
        wanted = [line for line in requires("fqgan-hf") if "extra ==" not in line]
        assert [normal(line) for line in lines if not line.startswith("#")] == [normal(line) for line in wanted]


def normal(requirement: str) -> tuple[str, str]:
    from packaging.requirements import Requirement

    parsed = Requirement(requirement)
    return parsed.name, str(parsed.specifier)


@pytest.fixture
def browser(tmp_path):
    """Headless Chromium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--window-size=1280,900",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield window
    window.quit()


@pytest.mark.browser
def test_clicks(browser, repository, pipeline_dir, handlers, tmp_path):
    """A visitor generates, mistakes are answered, and a picture comes back from every codebook, on the pixel."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def all_of(selector):
        return browser.find_elements(By.CSS_SELECTOR, selector)

    def wait(condition):
        return WebDriverWait(browser, 60).until(lambda _: condition())

    def pictures(selector, count):
        """Pictures of a gallery once the browser shows them, read through it."""
        script = (
            "return [...document.querySelectorAll(arguments[0])].filter(i => i.complete && i.naturalWidth == 16)"
            ".map(i => i.src)"
        )
        addresses = wait(lambda: len(found := browser.execute_script(script, f"{selector} img")) == count and found)
        assert all(address.endswith(".png") for address in addresses)
        return [Image.open(urllib.request.urlopen(address)) for address in addresses]

    def captions(selector):
        return [element.text for element in all_of(f"{selector} .caption-label")]

    def screenshot(name):
        if folder := os.environ.get("FQGAN_SCREENSHOTS"):
            time.sleep(1)
            browser.save_screenshot(str(Path(folder) / f"{name}.png"))

    port = free_port()
    command = [sys.executable, "spaces_demo/app.py", "--pipeline", str(pipeline_dir), "--port", str(port)]
    with started(command, repository, port, tmp_path / "server.log") as address:
        browser.get(address)
        wait(lambda: all_of("#generate"))

        # The class by a part of its name.
        field = wait(lambda: all_of("#class input"))[0]
        field.click()
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys("golden")
        [choice] = wait(lambda: all_of("[role=option]"))
        assert choice.text.strip().endswith("2 · golden retriever")
        field.send_keys(Keys.ENTER)
        all_of("#generate")[0].click()
        images = pictures("#images", 4)
        seed = int(all_of("#seed input")[0].get_attribute("value"))
        assert captions("#images") == [f"seed {seed + i}" for i in range(4)]
        assert_same(images, handlers.generate(2, 4, 2.0, 1.0, 0, 1.0, seed, False)[0])
        screenshot("generate")

        next(tab for tab in all_of("button[role=tab]") if tab.text == "Tokenize").click()
        wait(lambda: all_of("#tokenize")[0].is_displayed())
        all_of("#tokenize")[0].click()
        wait(lambda: any("Upload a picture first" in toast.text for toast in all_of(".toast-body")))
        path = save(photograph(300, 200), tmp_path / "photograph.png")
        all_of("#picture input[type=file]")[0].send_keys(path)
        wait(lambda: all_of("#picture img"))
        all_of("#tokenize")[0].click()
        expected, rows = handlers.tokenize(path)
        assert_same(pictures("#decoded", 4), expected)
        assert captions("#decoded") == ["original", "all codebooks", "visual", "semantic"]
        shown = [text for row in rows for text in row if text]
        wait(lambda: all_of("#table")[0].text.split("\n")[-len(shown) :] == shown)
        screenshot("tokenize")

        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert [name for name in loaded if not name.startswith((address, "data:", "blob:"))] == []
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []

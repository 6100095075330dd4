# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The Space: its handlers called directly, over HTTP, its command, and as the Hub starts it."""

import io
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from serving import GOOD, Handlers, Server, file_data, free_port, make_picture, make_pipeline, started, wait_for

from fqgan_hf import FQGANPipeline
from fqgan_hf.hub.space import write_space


gr = pytest.importorskip("gradio", reason="the Space needs gradio: pip install -e '.[space]'")
gradio_client = pytest.importorskip("gradio_client")

BAD = {
    "unknown name": ("class_label", "goldfsh", "goldfish"),
    "ambiguous name": ("class_label", "crane", r"\[3, 4\]"),
    "no class": ("class_label", None, "Choose a class"),
    "empty class": ("class_label", "", "Choose a class"),
    "class beyond the last": ("class_label", 10, r"\[0, 9\]"),
    "negative class": ("class_label", "-1", r"\[0, 9\]"),
    "class as a fraction": ("class_label", 1.5, "Choose a class"),
    "class as a list": ("class_label", [1, 2], "Choose a class|Class must be a single value, got a list"),
    "class as a truth value": ("class_label", True, "class"),
    "no images": ("num_images", 0, "between 1 and 8"),
    "nine images": ("num_images", 9, "between 1 and 8"),
    "images as null": ("num_images", None, "got None"),
    "one and a half images": ("num_images", 1.5, "whole number"),
    "guidance as NaN": ("guidance_scale", math.nan, "guidance scale must be a number between"),
    "guidance too large": ("guidance_scale", 1e300, "between 0.0 and 10.0"),
    "guidance as text": ("guidance_scale", "2", "got '2'"),
    "temperature zero": ("temperature", 0, "temperature"),
    "temperature infinite": ("temperature", math.inf, "got inf"),
    "temperature as a truth value": ("temperature", True, "got True"),
    "top-k beyond the codebook": ("top_k", 33, "between 0 and 32"),
    "top-k as NaN": ("top_k", math.nan, "got nan"),
    "top-p zero": ("top_p", 0.0, "Top-p"),
    "top-p above one": ("top_p", 1.01, "Top-p"),
    "seed as null": ("seed", None, "seed must be a whole number"),
    "seed as NaN": ("seed", math.nan, "seed must be a whole number"),
    "seed too large": ("seed", 2**31, "between 0 and 2,147,483,647"),
    "seed far too large": ("seed", 10**400, "between 0 and"),
    "seed negative": ("seed", -1, "between 0 and"),
    "random seed as null": ("random_seed", None, "true or false"),
    "switch of the codebooks as a number": ("guide_codebooks", 1, "true or false, got 1"),
}


@pytest.fixture(scope="module")
def client(server, temporary_files):
    return gradio_client.Client(server.address, verbose=False, download_files=temporary_files / "client")


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
        images, seed = handlers.generate()
        assert seed == 7 and [caption for _, caption in images] == ["seed 7", "seed 8"]
        assert [image.size for image, _ in images] == [(16, 16)] * 2
        assert not np.array_equal(*pixels(images))
        alone, _ = handlers.generate(num_images=1, seed=8)
        assert_same(alone, images[1:])

    def test_random_seed_is_new_each_time_and_reproducible(self, handlers):
        # The seed's field may then hold anything.
        images, seed = handlers.generate(seed=None, random_seed=True)
        assert handlers.generate(seed=None, random_seed=True)[1] != seed
        assert_same(handlers.generate(seed=seed)[0], images)

    def test_is_what_the_pipeline_makes(self, handlers, pipeline):
        changes = {"guidance_scale": 3.0, "temperature": 0.8, "top_k": 5, "top_p": 0.9}
        images, _ = handlers.generate(class_label="goldfish", num_images=1, seed=11, **changes)
        expected = pipeline([1], generator=torch.Generator().manual_seed(11), **changes).images
        assert_same(images, expected)

    def test_guidance_of_each_codebook(self, handlers, pipeline):
        of_codebooks = {"guidance_visual": 4.0, "guidance_semantic": 0.5}
        assert_same(handlers.generate(**of_codebooks)[0], handlers.generate()[0])  # not unless it is switched on
        images, _ = handlers.generate(num_images=1, seed=11, guide_codebooks=True, **of_codebooks)
        generator = torch.Generator().manual_seed(11)
        assert_same(images, pipeline([2], guidance_scale=[4.0, 0.5], generator=generator).images)

    @pytest.mark.parametrize("label", ["2", " 2 ", "golden retriever", "Golden-Retriever"])
    def test_class_by_id_or_name(self, handlers, label):
        assert_same(handlers.generate(class_label=label)[0], handlers.generate()[0])

    @pytest.mark.parametrize("case", BAD)
    def test_bad_arguments(self, handlers, case):
        name, value, message = BAD[case]
        with pytest.raises(gr.Error, match=message) as caught:
            handlers.generate(**{name: value})
        assert "\n" not in caught.value.message and len(caught.value.message) <= 300
        assert not caught.value.print_exception

    def test_largest_request_shows_seeds_that_can_be_typed_in(self, handlers, controls):
        extreme = {"class_label": 9, "guidance_scale": 10.0, "temperature": 2.0, "top_k": 32, "top_p": 0.05}
        images, seed = handlers.generate(**extreme, num_images=8, seed=controls.MAX_SEED)
        seeds = [int(caption.removeprefix("seed ")) for _, caption in images]
        assert seeds == [controls.MAX_SEED, *range(7)] and seed == controls.MAX_SEED
        alone, _ = handlers.generate(**extreme, num_images=1, seed=seeds[1])
        assert_same(alone, images[1:2])


class TestTokenize:
    @pytest.mark.parametrize("num_codebooks", [1, 2, 3, 4])
    def test_every_number_of_codebooks(self, space, put, num_codebooks):
        pipeline = make_pipeline(num_codebooks)
        picture = make_picture()
        compared, images, tokens, table, file = Handlers(space.build_app(pipeline)).tokenize(put(picture))

        tokenizer = FQGANPipeline(pipeline.vqmodel, pipeline.image_processor)
        codes = tokenizer.encode(picture)
        selections = [None] if num_codebooks == 1 else [None, *([k] for k in range(num_codebooks))]
        expected = [tokenizer.decode(codes, codebooks=selection).images[0] for selection in selections]
        original = pipeline.image_processor.postprocess(pipeline.image_processor(picture)["pixel_values"])
        assert_same(images, expected)
        assert_same(compared, original + expected[:1])
        np.testing.assert_array_equal(np.load(file), codes[0])
        assert np.load(file).dtype == np.uint16 and tokens["codes"] == codes[0].tolist()

        captions = {
            1: ["reconstruction"],
            2: ["all codebooks", "visual", "semantic"],
            3: ["all codebooks", "visual", "semantic (mid)", "semantic (high)"],
            4: ["all codebooks", *(f"codebook {k}" for k in (1, 2, 3, 4))],
        }[num_codebooks]
        assert [caption for _, caption in images] == captions == [row[0] for row in table]
        for image, row in zip(pixels(expected), table, strict=True):
            error = np.mean((image.astype(float) - pixels(original)[0]) ** 2)
            assert row[1] == f"{10 * np.log10(255**2 / error):.2f}"
        used = [f"{len(codes[0, k].unique())} of 32 at 16 positions" for k in range(num_codebooks)]
        assert [row[2] for row in table] == (used if num_codebooks == 1 else ["", *used])

    @pytest.mark.parametrize(
        ("mode", "name"),
        [("RGB", "a.jpg"), ("RGBA", "a.png"), ("P", "a.gif"), ("L", "a.png"), ("I;16", "a.png"), ("RGB", "a.webp")],
    )
    @pytest.mark.parametrize("size", [(40, 24), (5, 90), (1, 1)])
    def test_files_of_many_kinds(self, handlers, pipeline, put, mode, name, size):
        picture = make_picture(*size)
        if mode == "I;16":
            picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
        uploaded = put(picture.convert(mode) if mode != "I;16" else picture, name)
        (original, _), *_ = handlers.tokenize(uploaded)
        with Image.open(uploaded["path"]) as image:
            expected = pipeline.image_processor.postprocess(pipeline.image_processor(image)["pixel_values"])
        assert original.size == (16, 16)
        assert_same([original], expected)

    @pytest.mark.parametrize("processor", [{"size": None}, {"do_center_crop": False}, {"do_resize": False}])
    def test_whatever_the_processor_says_the_model_gets_its_own_size(self, space, put, processor):
        handlers = Handlers(space.build_app(make_pipeline(**processor)))
        compared, images, *_ = handlers.tokenize(put(make_picture(8, 200)))
        assert {image.size for image in (*compared, *(image for image, _ in images))} == {(16, 16)}

    def test_pictures_beyond_max_pixels(self, space, put):
        handlers = Handlers(space.build_app(make_pipeline(max_pixels=1000)))
        handlers.tokenize(put(make_picture(40, 25)))
        with pytest.raises(gr.Error, match="at most 1,000 pixels, got 40 x 26 = 1,040"):
            handlers.tokenize(put(make_picture(40, 26)))

    @pytest.mark.parametrize("case", ["nothing", "text", "svg", "eps", "tiff", "truncated", "missing", "bomb"])
    def test_bad_files(self, handlers, put, case, monkeypatch):
        message = "must be a JPEG.* that can be read"
        picture = put(b"no picture")
        path = Path(picture["path"])
        if case == "nothing":
            picture, message = None, "The picture is missing: upload one"
        elif case == "svg":
            path.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
        elif case in ("eps", "tiff"):
            make_picture().save(path, case)
        elif case == "truncated":
            data = io.BytesIO()
            make_picture(200, 200).save(data, "PNG")
            path.write_bytes(data.getvalue()[:2000])
            message = "readable image"
        elif case == "missing":
            path.unlink()
            message = "upload it again"
        elif case == "bomb":
            make_picture(30, 30).save(path)
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
            message = "at most 64,000,000 pixels, got far more"
        with pytest.raises(gr.Error, match=message) as caught:
            handlers.tokenize(picture)
        assert str(path.parent) not in caught.value.message


class TestPage:
    def test_classes_are_found_by_name_and_by_id(self, controls, import_from_space, pipeline):
        model = import_from_space("model").Model
        assert controls.label_choices(model(pipeline))[2:4] == [("2 · golden retriever", 2), ("3 · crane", 3)]
        nameless = make_pipeline()
        nameless.transformer.config.id2label = {label: f"LABEL_{label}" for label in range(10)}
        assert controls.label_choices(model(nameless))[:2] == [("class 0", 0), ("class 1", 1)]

    def test_heading_tells_the_model(self, space, import_from_space, pipeline):
        text = space.describe(import_from_space("model").Model(pipeline))
        assert "16×16 image as 4×4 positions with 2 codes, one from each codebook of 32" in text
        assert text.endswith("; FAR generates these codes for any of 10 classes.")

    def test_queue(self, server):
        config = json.loads(server.request("GET", "/config")[1])
        public = {entry["api_name"] for entry in config["dependencies"] if entry["api_visibility"] != "private"}
        assert public == {"generate", "tokenize", "decode", "mix", "edit", "about"}
        assert config["enable_queue"] and config["max_file_size"] == 20 * 1024**2

    def test_example_outlives_the_uploads(self, server, put):
        """What was handed out is deleted after a time: here, at once."""
        config = json.loads(server.request("GET", "/config")[1])
        [icon] = [
            block["props"]["icon"]
            for block in config["components"]
            if block["props"].get("elem_id") == "picture-example-landscape"
        ]
        upload = server.uploaded(b"some picture")
        server.app.storage.sweep(age=-1)
        assert server.request("GET", icon["url"].removeprefix(server.address))[0] == 200
        assert len(server.call("tokenize", [file_data(icon["path"])])[1]) == 3
        assert "upload it again" in server.call("tokenize", [file_data(upload)])["error"]

    def test_one_call_at_a_time_and_a_full_queue_says_so(
        self, space, import_from_space, pipeline, temporary_files, monkeypatch
    ):
        go, lock, running, most = threading.Event(), threading.Lock(), 0, 0

        def slow(self, *arguments, **options):
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            assert go.wait(60)
            with lock:
                running -= 1
            return original(self, *arguments, **options)

        model = import_from_space("model").Model
        original = model.generate
        monkeypatch.setattr(model, "generate", slow)
        monkeypatch.setattr(space, "MAX_WAITING", 2)
        app = space.build_app(pipeline)
        _, address, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
        try:
            client = gradio_client.Client(address, verbose=False, download_files=temporary_files / "client")
            jobs = [client.submit(**GOOD, api_name="/generate")]
            wait_for(lambda: running == 1)
            jobs += [client.submit(**GOOD, api_name="/generate") for _ in range(5)]
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
        images, seed = client.predict(**GOOD, api_name="/generate")
        assert seed == 7 and [image["caption"] for image in images] == ["seed 7", "seed 8"]
        assert all(image["image"].endswith(".png") for image in images)
        assert_same([image["image"] for image in images], handlers.generate()[0])

    def test_tokenize(self, client, handlers, put, tmp_path):
        path = save(make_picture(), tmp_path / "a.png")
        compared, images, tokens, table, file = client.predict(gradio_client.handle_file(path), api_name="/tokenize")
        both, expected, codes, rows, other = handlers.tokenize(put(make_picture()))
        assert_same(compared, both)
        assert_same([image["image"] for image in images], expected)
        assert [image["caption"] for image in images] == [caption for _, caption in expected]
        assert tokens == codes and Path(file).read_bytes() == Path(other).read_bytes()
        assert table["headers"] == ["Decoded from", "PSNR (dB)", "Different codes used"] and table["data"] == rows

    @pytest.mark.parametrize("case", [case for case in BAD if "infinite" not in case])
    def test_bad_arguments_arrive_as_their_messages(self, server, case):
        name, value, message = BAD[case]
        error = server.call("generate", list({**GOOD, name: value}.values()))
        assert re.search(message, error["error"]), error

    def test_arguments_too_few_and_too_many(self, server):
        message = server.call("generate", Server.GOOD[:3])["error"]
        assert message.startswith("Values are needed for Class, Images, Guidance scale") and "got 3 of 11" in message
        images, seed = server.call("generate", [*Server.GOOD, "more", None])
        assert seed == 7 and len(images) == 2

    def test_no_picture(self, client):
        with pytest.raises(gradio_client.exceptions.AppError, match="The picture is missing"):
            client.predict(None, api_name="/tokenize")

    def test_damaged_picture(self, client, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\nand no more")
        with pytest.raises(gradio_client.exceptions.AppError, match="JPEG.* that can be read"):
            client.predict(gradio_client.handle_file(str(path)), api_name="/tokenize")


@pytest.fixture(scope="module")
def app(import_from_space):
    return import_from_space("app")


class TestCommand:
    """Ends with one line and a status."""

    def run(self, app, capsys, *arguments) -> tuple[int, str]:
        try:
            status = app.main(list(arguments))
        except SystemExit as caught:  # argparse's way
            status = caught.code
        output, errors = capsys.readouterr()
        assert output == "" and errors.startswith("app.py: error: ") and errors.count("\n") == 1, errors
        return status, errors

    def test_no_model_named_and_none_beside_it(self, app, capsys, monkeypatch, tmp_path):
        monkeypatch.delenv("FQGAN_PIPELINE", raising=False)
        monkeypatch.setattr(app, "EMBEDDED", str(tmp_path / "pipeline"))
        status, line = self.run(app, capsys)
        assert status == 1 and f"there is no folder {tmp_path / 'pipeline'}" in line

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("--port", "99999", "between 1 and 65535, got '99999'"),
            ("--port", "0", "between 1 and 65535, got '0'"),
            ("--port", "80a", "between 1 and 65535, got '80a'"),
            ("--device", "gpu", '"cuda:1", ... or "mps", got \'gpu\''),
            ("--colour", "red", "unrecognized arguments"),
        ],
    )
    def test_wrong_usage(self, app, capsys, option, value, message):
        status, line = self.run(app, capsys, "--pipeline", "x/y", option, value)
        assert status == 2 and message in line

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("no/such/folder", "there is no folder no/such/folder"),
            ("nobody/nothing", "nobody/nothing cannot be downloaded: "),
            ("", "holds neither model_index.json"),
        ],
    )
    def test_no_pipeline(self, app, capsys, tmp_path, monkeypatch, name, message):
        monkeypatch.setenv("FQGAN_PIPELINE", name or str(tmp_path))
        status, line = self.run(app, capsys)
        assert status == 1 and message in line

    def test_generator_without_a_tokenizer(self, app, capsys, pipeline_dir):
        status, line = self.run(app, capsys, "--pipeline", str(pipeline_dir / "transformer"))
        assert status == 1 and "is a generator and reads no images: give a tokenizer or a pipeline" in line

    def test_damaged_pipeline(self, app, capsys, pipeline_dir, tmp_path):
        folder = tmp_path / "damaged"
        shutil.copytree(pipeline_dir, folder)
        with open(folder / "transformer" / "model.safetensors", "r+b") as file:
            file.truncate(1000)
        status, line = self.run(app, capsys, "--pipeline", str(folder))
        assert status == 1 and f"'{folder}' cannot be loaded as FARPipeline: " in line

    def test_device_that_is_not_here(self, app, capsys, pipeline_dir):
        status, line = self.run(app, capsys, "--pipeline", str(pipeline_dir), "--device", "cuda:63")
        assert status == 1 and "--device cuda:63 cannot be used here" in line

    def test_port_in_use(self, app, capsys, pipeline_dir, server):
        port = server.address.rpartition(":")[2]
        status, line = self.run(app, capsys, "--pipeline", str(pipeline_dir), "--port", port)
        assert status == 1 and f"cannot listen on --port {port}" in line

    def test_host_that_does_not_exist(self, app, capsys, pipeline_dir):
        status, line = self.run(app, capsys, "--pipeline", str(pipeline_dir), "--host", "nowhere.invalid")
        assert status == 1 and "cannot listen on --host nowhere.invalid" in line

    def test_answers_before_the_libraries_are_loaded(self, repository):
        code = (
            "import runpy, sys\n"
            "sys.argv[1:] = ['--port', '0']\n"
            "try: runpy.run_path('spaces_demo/app.py', run_name='__main__')\n"
            "except SystemExit as end: print(end.code, {'torch', 'gradio', 'diffusers'} & set(sys.modules))"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=60)
        assert done.stdout == "2 set()\n", done

    def test_interrupt_while_it_computes(self, repository, tmp_path, slow_pipeline_dir):
        port, log = free_port(), tmp_path / "server.log"
        command = [sys.executable, "spaces_demo/app.py", "--pipeline", str(slow_pipeline_dir), "--port", str(port)]
        with started(command, repository, port, log) as process:
            wait_for(lambda: "Running on" in log.read_text())
            Server(f"http://127.0.0.1:{port}").post("/gradio_api/call/generate", {"data": [2, 8, *Server.GOOD[2:]]})
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
        output = log.read_text()
        assert output.endswith("\napp.py: interrupted\n") and "Traceback" not in output


# Stands in for ZeroGPU's package: calls cross a process there, so that everything must survive pickling.
SPACES = """
import functools, inspect, json, os, pickle, sys

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

    @functools.wraps(task)
    def generator(*args, **kwargs):
        args, kwargs = pickle.loads(pickle.dumps((args, kwargs)))
        for result in task(*args, **kwargs):
            yield pickle.loads(pickle.dumps(result))
        log(called=task.__name__)

    return generator if inspect.isgeneratorfunction(task) else wrapper
"""


class TestOnTheHub:
    def test_as_uploaded_on_zerogpu(self, repository, pipeline_dir, tmp_path):
        """What `fqgan push-space` sends, started as the Hub does, with a stand-in for the package `spaces`."""
        folder = tmp_path / "space"
        folder.mkdir()
        write_space(folder, "org/digits")
        (folder / "spaces.py").write_text(SPACES)
        port, log = free_port(), tmp_path / "spaces.jsonl"
        environment = {"FQGAN_PIPELINE": str(pipeline_dir), "GRADIO_SERVER_PORT": str(port), "SPACES_LOG": str(log)}
        with started([sys.executable, "app.py"], folder, port, tmp_path / "server.log", **environment):
            client = gradio_client.Client(
                f"http://127.0.0.1:{port}", verbose=False, download_files=tmp_path / "client"
            )
            images, _ = client.predict(**GOOD, api_name="/generate")
            picture = gradio_client.handle_file(save(make_picture(), tmp_path / "a.png"))
            decoded = client.predict(picture, api_name="/tokenize")[1]
        assert len(images) == 2 and len(decoded) == 3
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        assert entries == [
            {"torch_came_first": False},
            {"decorated": "generate", "duration": 21},
            {"decorated": "encode", "duration": 20},
            {"decorated": "decode", "duration": 20},
            {"called": "generate"},
            {"called": "encode"},
            {"called": "decode"},
        ]

    def test_as_uploaded_without_a_model(self, tmp_path):
        """The pipeline that comes with this package goes along, and makes the pictures."""
        folder = tmp_path / "space"
        folder.mkdir()
        write_space(folder)
        port, environment = free_port(), {"FQGAN_PIPELINE": ""}
        environment["GRADIO_SERVER_PORT"] = str(port)
        with started([sys.executable, "app.py"], folder, port, tmp_path / "server.log", **environment):
            client = gradio_client.Client(
                f"http://127.0.0.1:{port}", verbose=False, download_files=tmp_path / "client"
            )
            pictures, _ = client.predict(prompt="smiling cat", num_images=2, api_name="/generate")
        first, second = (np.asarray(Image.open(one["image"])) for one in pictures)
        assert first.shape == (64, 64, 3) and first.std() > 20 and not np.array_equal(first, second)

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

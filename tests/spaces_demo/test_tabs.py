# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The Space with generators of every kind: what it offers follows from the model, and what it makes is the model's."""

import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from serving import GOOD, Handlers, file_data, make_picture, make_pipeline, slowed

from fqgan_hf import CardInfo, FQGANPipeline


gr = pytest.importorskip("gradio", reason="the Space needs gradio: pip install -e '.[space]'")
gradio_client = pytest.importorskip("gradio_client")

KINDS = ["far", "diffusion"]


def inputs_of(app, name: str) -> list[str]:
    endpoint = app.get_api_info()["named_endpoints"][f"/{name}"]
    return [parameter["parameter_name"] for parameter in endpoint["parameters"]]


def tabs_of(app) -> list[str]:
    return [block.label for block in app.blocks.values() if isinstance(block, gr.Tab)]


def arrays(images) -> list[np.ndarray]:
    return [np.asarray(image[0] if isinstance(image, tuple) else image) for image in images]


def assert_same(images, expected) -> None:
    for image, other in zip(arrays(images), arrays(expected), strict=True):
        np.testing.assert_array_equal(image, other)


def label_map(size: int = 16, num_labels: int = 5) -> np.ndarray:
    return np.random.default_rng(1).integers(0, num_labels, (size, size), dtype=np.uint8)


class TestGenerate:
    @pytest.mark.parametrize("kind", KINDS)
    def test_prompts(self, space, kind):
        pipe = tiny.conditional_pipeline("text", kind=kind)
        app = space.build_app(pipe)
        assert inputs_of(app, "generate")[:3] == ["prompt", "negative_prompt", "num_images"]
        assert ("num_steps" in inputs_of(app, "generate")) == (kind == "diffusion")
        given = {"prompt": "a red apple", "negative_prompt": "a green pear", "num_images": 1, "num_steps": 4}
        images, _ = Handlers(app).generate(**given)
        steps = {"num_inference_steps": 4} if kind == "diffusion" else {}
        expected = pipe(
            prompt="a red apple", negative_prompt="a green pear", generator=torch.Generator().manual_seed(7), **steps
        ).images
        assert_same(images, expected)
        # Nothing in particular is not the same as no words.
        images, _ = Handlers(app).generate(**{**given, "negative_prompt": ""})
        expected = pipe(prompt="a red apple", generator=torch.Generator().manual_seed(7), **steps).images
        assert_same(images, expected)

    def test_example_prompts_and_known_words(self, space, tmp_path):
        """From the model's card.json and its own text encoder; a frozen encoder knows too many words to list."""
        CardInfo(prompts=["a red apple", 'a "house"']).write(tmp_path)
        config = space.build_app(tiny.conditional_pipeline("text", text=None), tmp_path).get_config_file()
        parts = [part["props"] for part in config["components"]]
        (prompt,) = (part for part in parts if part.get("elem_id") == "prompt")
        assert prompt["value"] == "a red apple"
        assert {"a red apple", 'a "house"'} <= {str(part.get("value")) for part in parts}
        words, _ = (part["value"] for part in parts if "words" in (part.get("elem_classes") or []))
        assert words.startswith("a · apple · ")
        config = space.build_app(tiny.conditional_pipeline("text"), tmp_path / "nowhere").get_config_file()
        assert not any("words" in (part["props"].get("elem_classes") or []) for part in config["components"])

    @pytest.mark.parametrize(
        ("prompt", "message"),
        [
            ("", "must say something"),
            (None, "must be a text"),
            (5, "got 5"),
            ("a" * 1001, "at most 1,000 .* got 1,001"),
        ],
    )
    def test_bad_prompts(self, space, prompt, message):
        handlers = Handlers(space.build_app(tiny.conditional_pipeline("text")))
        with pytest.raises(gr.Error, match=message):
            handlers.generate(prompt=prompt, negative_prompt="")

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("form", ["values", "palette", "colours", "larger"])
    def test_maps_of_labels(self, space, put, import_from_space, kind, form):
        pipe = tiny.conditional_pipeline("map", kind=kind)
        labels = label_map()
        colours = np.array(import_from_space("widgets").palette(5), np.uint8)
        palette = Image.frombytes("P", (16, 16), labels.tobytes())
        palette.putpalette(list(range(15)))
        picture = {
            "values": lambda: Image.fromarray(labels),
            "palette": lambda: palette,
            "colours": lambda: Image.fromarray(colours[labels]),
            "larger": lambda: Image.fromarray(colours[labels]).resize((64, 64), Image.Resampling.NEAREST),
        }[form]()
        app = space.build_app(pipe)
        assert inputs_of(app, "generate")[:2] == ["map_picture", "num_images"]
        images, _ = Handlers(app).generate(map_picture=put(picture), num_images=1, num_steps=10)
        assert_same(images, pipe(map_image=labels, generator=torch.Generator().manual_seed(7)).images)

    def test_maps_that_are_pictures(self, space, put):
        pipe = tiny.conditional_pipeline("map", num_labels=None)
        images, _ = Handlers(space.build_app(pipe)).generate(map_picture=put(make_picture()), num_images=1)
        assert_same(images, pipe(map_image=make_picture(), generator=torch.Generator().manual_seed(7)).images)

    def test_missing_maps(self, space):
        with pytest.raises(gr.Error, match="The map is missing: upload one"):
            Handlers(space.build_app(tiny.conditional_pipeline("map"))).generate(map_picture=None)

    def test_several_conditions_have_a_scale_each(self, space, put):
        pipe = tiny.conditional_pipeline("class", "text", kind="diffusion")
        app = space.build_app(pipe)
        expected = ["class_label", "prompt", "negative_prompt", "num_images", "guidance_scale_class"]
        assert inputs_of(app, "generate")[:6] == [*expected, "guidance_scale_text"]
        given = {"prompt": "a house", "negative_prompt": "", "num_images": 1, "num_steps": 10}
        scales = {"guidance_scale_class": 1.5, "guidance_scale_text": 4.0}
        images, _ = Handlers(app).generate(**given, **scales)
        arguments = {"class_labels": [2], "prompt": "a house"}
        expected = pipe(
            **arguments, guidance_scale={"class": 1.5, "text": 4.0}, generator=torch.Generator().manual_seed(7)
        ).images
        assert_same(images, expected)
        with pytest.raises(gr.Error, match="The guidance scale of the text must be a number between 0.0 and 10.0"):
            Handlers(app).generate(**given, **{**scales, "guidance_scale_text": 11})

    @pytest.mark.parametrize(("steps", "message"), [(0, "between 1 and 10"), (11, "got 11"), (2.5, "whole number")])
    def test_bad_steps(self, space, steps, message):
        handlers = Handlers(space.build_app(tiny.conditional_pipeline("class", kind="diffusion")))
        with pytest.raises(gr.Error, match=message):
            handlers.generate(num_steps=steps)


class TestStreaming:
    def test_rows_appear_while_others_are_made(self, space, pipeline):
        handlers = Handlers(space.build_app(pipeline))
        with slowed(pipeline, 0.1):
            *partial, (images, seed) = handlers.steps("generate", **GOOD)
        assert len(partial) >= 2 and seed == 7
        shares = [int(captioned[0][1].removeprefix("seed 7 · ").removesuffix("%")) for captioned, _ in partial]
        assert shares == sorted(set(shares)) and shares[0] <= 25 and shares[-1] < 100
        heights = []
        for captioned, _ in partial:
            assert [caption.split(" · ")[0] for _, caption in captioned] == ["seed 7", "seed 8"]
            with Image.open(captioned[0][0]) as picture:
                heights.append((np.asarray(picture)[..., 3] > 0).any(1).sum())
        assert heights == sorted(heights) and 4 <= heights[0] < 16
        assert all(image.mode == "RGB" for image, _ in images)

    def test_steps_of_diffusion_appear(self, space):
        pipe = tiny.conditional_pipeline("class", kind="diffusion")
        *partial, _ = Handlers(space.build_app(pipe)).steps("generate", **GOOD, num_steps=10)
        assert "10%" in partial[0][0][0][1]  # after the first step

    def test_showing_changes_nothing(self, handlers, pipeline):
        expected, _ = handlers.generate()
        with slowed(pipeline, 0.1):
            images, _ = handlers.generate()
        assert_same(images, expected)

    def test_parts_arrive_over_http(self, server, pipeline):
        with slowed(pipeline, 0.1):
            status, answer = server.post("/gradio_api/call/generate", {"data": list(GOOD.values())})
            event = json.loads(answer)["event_id"]
            status, answer = server.request("GET", f"/gradio_api/call/generate/{event}")
        events = [line for line in answer.decode().splitlines() if line.startswith("event: ")]
        assert events.count("event: generating") >= 2 and events[-1] == "event: complete"

    def test_partial_pictures_are_deleted_soon(self, space, pipeline, monkeypatch, import_from_space):
        app = space.build_app(pipeline)
        with slowed(pipeline, 0.1):
            *partial, _ = Handlers(app).steps("generate", **GOOD)
        paths = [path for captioned, _ in partial for path, _ in captioned]
        assert len(app.storage.replaced) == len(paths)
        app.storage.sweep()
        with Image.open(paths[0]):
            pass  # a browser may still ask for it
        monkeypatch.setattr(import_from_space("storage").time, "time", lambda: 1e12)
        app.storage.sweep(age=math.inf)
        for path in paths:
            assert not Path(path).exists()
        assert not app.storage.replaced


class TestEdit:
    @pytest.fixture(params=KINDS)
    def pipe(self, request):
        return tiny.conditional_pipeline("class", kind=request.param)

    def edit(self, space, pipe, put, **changes):
        given = {
            "picture": put(make_picture(16, 16)), "way": "Paint", "mask": None, "rows": 2, "strength": 0.5,
            "kept": ["semantic"], **GOOD, "num_images": 1, "num_steps": 10,
        }  # fmt: skip
        images, seed = Handlers(space.build_app(pipe)).call("edit", **{**given, **changes})
        assert seed == 7 and images[0][1] == "seed 7"
        return images

    def expected(self, pipe, **arguments):
        return pipe([2], image=make_picture(16, 16), generator=torch.Generator().manual_seed(7), **arguments).images

    @pytest.mark.parametrize("side", [4, 16])
    def test_paint(self, space, pipe, put, side):
        """In the size of the codes' grid, as the page sends it, or of the picture."""
        mask = np.zeros((side, side), np.uint8)
        mask[side // 4 : side // 2, : side // 2] = 255
        images = self.edit(space, pipe, put, mask=put(Image.fromarray(mask)))
        whole = Image.fromarray(mask).resize((16, 16), Image.Resampling.NEAREST)
        assert_same(images, self.expected(pipe, mask_image=whole))

    def test_keep_the_top(self, space, pipe, put):
        mask = np.full((16, 16), 255, np.uint8)
        mask[:12] = 0
        images = self.edit(space, pipe, put, way="Keep the top", rows=3)
        assert_same(images, self.expected(pipe, mask_image=Image.fromarray(mask)))

    def test_vary(self, space, pipe, put):
        assert_same(self.edit(space, pipe, put, way="Vary", strength=0.3), self.expected(pipe, strength=0.3))

    def test_resample_codebooks(self, space, pipe, put):
        images = self.edit(space, pipe, put, way="Resample codebooks", kept=["codebook 2"])
        assert_same(images, self.expected(pipe, keep_codebooks=[1]))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"picture": None}, "The picture is missing"),
            ({"way": "Erase"}, "must be one of Paint, Keep the top, Vary, Resample codebooks, got 'Erase'"),
            ({"way": ["Paint"]}, "What to do must be one of"),
            ({}, "the mask is empty"),
            ({"way": "Keep the top", "rows": 4}, "between 1 and 3, got 4"),
            ({"way": "Vary", "strength": 0}, "between 0.05 and 0.95"),
            ({"way": "Resample codebooks", "kept": []}, "leave others, got none"),
            ({"way": "Resample codebooks", "kept": ["codebook 1", "codebook 2"]}, "leave others, got all"),
            ({"way": "Resample codebooks", "kept": ["colour"]}, "must be a list of some of codebook 1, codebook 2"),
            ({"way": "Resample codebooks", "kept": "semantic"}, "must be a list of some of"),
        ],
    )
    def test_bad_arguments(self, space, put, changes, message):
        with pytest.raises(gr.Error, match=message):
            self.edit(space, tiny.conditional_pipeline("class"), put, **changes)

    @pytest.mark.parametrize("value", [0, 255])
    def test_masks_that_change_nothing_or_all(self, space, put, value):
        mask = put(Image.new("L", (4, 4), value))
        with pytest.raises(gr.Error, match="must be white where the picture is painted anew and black elsewhere"):
            self.edit(space, tiny.conditional_pipeline("class"), put, mask=mask)

    def test_the_picture_shows_where_nothing_is_known_yet(self, space, pipeline, put):
        handlers, picture = Handlers(space.build_app(pipeline)), make_picture(16, 16)
        given = {"picture": put(picture), "way": "Keep the top", "mask": None, "rows": 1, "strength": 0.5, "kept": []}
        with slowed(pipeline, 0.1):
            *partial, _ = handlers.steps("edit", **given, **GOOD)
        with Image.open(partial[0][0][0][0]) as shown:
            np.testing.assert_array_equal(np.asarray(shown.convert("RGB"))[-4:], np.asarray(picture)[-4:])


class TestMix:
    def test_is_what_the_pipeline_mixes(self, handlers, pipeline, put):
        a, b = make_picture(seed=1), make_picture(seed=2)
        images = handlers.call("mix", picture_a=put(a), picture_b=put(b), taken=["semantic"])
        tokenizer = FQGANPipeline(pipeline.vqmodel, pipeline.image_processor)
        mixed = [tokenizer.mix(one, other, take="semantic").images[0] for one, other in ((a, b), (b, a))]
        for image, other in zip(arrays(images), arrays([*tokenizer([a, b]).images, *mixed]), strict=True):
            assert np.abs(image.astype(int) - other).max() <= 1  # a batch of another size rounds differently
        assert [caption for _, caption in images] == [
            "A", "B", "A with the semantic codes of B", "B with the semantic codes of A",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("taken", "message"),
        [
            ([], "got none"), (["visual", "semantic"], "got all"), (["colour"], "must be a list of some of"),
            ("semantic", "must be a list"), (None, "must be a list"), ([["semantic"]], "must be a list"),
        ],
    )  # fmt: skip
    def test_bad_choices(self, handlers, put, taken, message):
        with pytest.raises(gr.Error, match=message):
            handlers.call("mix", picture_a=put(make_picture()), picture_b=put(make_picture()), taken=taken)

    @pytest.mark.parametrize("letter", ["a", "b"])
    def test_missing_pictures(self, handlers, put, letter):
        pictures = {"picture_a": put(make_picture()), "picture_b": put(make_picture()), f"picture_{letter}": None}
        with pytest.raises(gr.Error, match=f"Picture {letter.upper()} is missing"):
            handlers.call("mix", **pictures, taken=["visual"])


def npy(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def header(shape: str, descr: str = "'<u2'") -> bytes:
    """A .npy file that says so, and holds nothing."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


GRID = np.arange(32).reshape(2, 4, 4)
BAD_CODES = {
    "no codes": (None, "The codes are missing"),
    "text": (b"codes", "must be a .npy file"),
    "nothing": (b"", "must be a .npy file"),
    "head only": (b"\x93NUMPY", "must be a .npy file"),
    "pickle": (npy(np.array([{}], object), allow_pickle=True), "object of shape"),
    "a type with code in it": (header("(2, 4, 4)", "__import__('os').getpid()"), "must be a .npy file"),
    "floats": (npy(GRID.astype(float)), "got float64 of shape"),
    "truth values": (npy(GRID > 3), "got bool of shape"),
    "complex": (npy(GRID.astype(complex)), "got complex128"),
    "other codebooks": (npy(GRID[:1]), r"must be whole numbers of shape \(2, height, width\)"),
    "flat": (npy(GRID.reshape(2, 16)), r"of shape \(2, 16\)"),
    "two images": (npy(np.stack([GRID, GRID])), r"of shape \(2, 2, 4, 4\)"),
    "too large": (npy(np.zeros((2, 5, 5), np.uint16)), "each side at most 4"),
    "no rows": (npy(np.zeros((2, 0, 4), np.uint16)), "each side at most 4"),
    "negative": (npy(GRID - 1), r"in \[0, 31\], got -1 to 30"),
    "beyond the codebook": (npy(GRID + 1), r"in \[0, 31\], got 1 to 32"),
    "columns first": (npy(np.asfortranarray(GRID)), "in C order"),
    "cut off": (npy(GRID)[:-3], "must hold 32 numbers after its header: it is damaged"),
    "more behind": (npy(GRID) + b"more", "it is damaged"),
    "claims much": (header("(2, 4, 1000000000000)"), "each side at most 4"),
    "claims and lacks": (header("(2, 4, 4)"), "it is damaged"),
    "negative shape": (header("(2, -4, -4)"), "each side at most 4"),
    "endless header": (b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b"{" * 9999, "must be a .npy file"),
    "deep header": (header("(" * 60 + ")" * 50), "must be a .npy file"),
    "npz": (b"PK\x03\x04" + bytes(100), "must be a .npy file"),
}


class TestCodes:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, ">i4"])
    def test_codes_come_back_as_the_picture(self, handlers, pipeline, put, dtype):
        original = handlers.tokenize(put(make_picture()))
        codes = np.load(original[4])
        compared, images, tokens, table, file = handlers.call("decode", codes=put(npy(codes.astype(dtype)), "a.npy"))
        assert_same(images, original[1])
        assert compared is None and tokens["codes"] == codes.tolist()
        assert [row[1] for row in table] == ["unknown"] * 3 and [row[2] for row in table] == [
            row[2] for row in original[3]
        ]
        np.testing.assert_array_equal(np.load(file), codes)

    def test_smaller_grids(self, handlers, put):
        images = handlers.call("decode", codes=put(npy(GRID[:, :2, :3]), "a.npy"))[1]
        assert {image.size for image, _ in images} == {(12, 8)}

    @pytest.mark.parametrize("case", BAD_CODES)
    def test_bad_files(self, handlers, put, case):
        content, message = BAD_CODES[case]
        with pytest.raises(gr.Error, match=message):
            handlers.call("decode", codes=None if content is None else put(content, "a.npy"))


class TestPage:
    def test_tabs_are_what_the_model_can_do(self, space, pipeline):
        assert tabs_of(space.build_app(pipeline)) == ["Generate", "Tokenize", "Mix", "Edit", "About"]
        assert tabs_of(space.build_app(make_pipeline(1))) == ["Generate", "Tokenize", "Edit", "About"]
        tokenizer = FQGANPipeline(pipeline.vqmodel, pipeline.image_processor)
        assert tabs_of(space.build_app(tokenizer)) == ["Tokenize", "Mix", "About"]

    def test_one_codebook_cannot_be_resampled(self, space):
        app = space.build_app(make_pipeline(1))
        assert "kept" not in inputs_of(app, "edit") and "guide_codebooks" not in inputs_of(app, "generate")
        [way] = [block for block in app.blocks.values() if getattr(block, "elem_id", None) == "way"]
        assert [value for _, value in way.choices] == ["Paint", "Keep the top", "Vary"]

    def test_tokenizer_alone(self, space, pipeline, put):
        app = space.build_app(FQGANPipeline(pipeline.vqmodel, pipeline.image_processor))
        assert len(Handlers(app).tokenize(put(make_picture()))[1]) == 3
        named = app.get_api_info()["named_endpoints"]
        assert set(named) == {"/tokenize", "/decode", "/mix", "/about"}

    @pytest.mark.parametrize("conditions", [("class",), ("text",), ("map",), ("class", "text", "map")])
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_argument_is_documented(self, space, conditions, kind):
        app = space.build_app(tiny.conditional_pipeline(*conditions, kind=kind))
        for name, endpoint in app.get_api_info()["named_endpoints"].items():
            assert endpoint["description"], name
            for parameter in endpoint["parameters"]:
                assert parameter["python_type"]["description"], (name, parameter["parameter_name"])

    @pytest.mark.parametrize("size", [32, 512])
    def test_sizes(self, space, put, size):
        pipe = make_pipeline(size=size, grid=size // 4)
        handlers = Handlers(space.build_app(pipe))
        compared, images, *_ = handlers.tokenize(put(make_picture(60, 90)))
        assert {image.size for image in (*compared, *(image for image, _ in images))} == {(size, size)}


class TestAbout:
    def test_folder(self, space, pipeline, pipeline_dir, tmp_path):
        folder = tmp_path / "demo" / "pipeline"
        shutil.copytree(pipeline_dir, folder)
        (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# Digits\n\nText. ![samples](samples.png)\n")
        report = {"tokenizer": {"psnr": 24.5, "training_steps": 6}, "generator": {"guidance_scale": 2.0, "fid": 1.25}}
        (folder.parent / "report.json").write_text(json.dumps(report))
        (folder / "evaluation").mkdir()
        (folder / "evaluation" / "other.json").write_text("[1]")
        about = Handlers(space.build_app(pipeline, folder))
        [fn] = [fn for fn in about.app.fns.values() if fn.api_name == "about"]
        told = fn.fn()
        assert told["card"].strip() == "# Digits\n\nText."
        assert told["figures"] == [["tokenizer", "PSNR (dB)", "24.5"], ["generator", "fid", "1.25"]]
        assert ["Tokenizer", "codebook size", "32"] in told["facts"]
        assert ["Generator", "conditions", "class"] in told["facts"]

    def test_results_of_evaluate(self, import_from_space, tmp_path, repository):
        about = import_from_space("tab_about")
        (tmp_path / "evaluation").mkdir()
        result = {
            "format_version": 1, "kind": "generation", "figures": {"frechet_distance": 3.25, "usage": [0.5, 0.75]},
            "protocol": {
                "network": {"name": "inception-v3-compat"}, "num_images": 5000,
                "reference": {"resolution": 32, "num_images": 5000, "source": "digits"},
            },
            "subject": {}, "environment": {},
        }  # fmt: skip
        (tmp_path / "evaluation" / "a.json").write_text(json.dumps(result))
        rows = about.measured(tmp_path)
        assert [row[1:] for row in rows] == [["FID", "3.25"], ["codebook usage", "0.5, 0.75"]]
        assert rows[0][0].startswith("5,000 samples beside 5,000 images of digits")

    def test_without_a_folder_the_card_is_rendered(self, space, pipeline):
        about = Handlers(space.build_app(pipeline))
        [fn] = [fn for fn in about.app.fns.values() if fn.api_name == "about"]
        assert "FQGAN" in fn.fn()["card"] and not fn.fn()["card"].startswith("---") and fn.fn()["facts"] == []


@pytest.fixture(scope="module")
def client(server, temporary_files):
    return gradio_client.Client(server.address, verbose=False, download_files=temporary_files / "client")


class TestOverHTTP:
    def save(self, image, path) -> dict:
        image.save(path)
        return gradio_client.handle_file(str(path))

    def test_mix(self, client, handlers, put, tmp_path):
        files = [self.save(make_picture(seed=n), tmp_path / f"{n}.png") for n in (1, 2)]
        images = client.predict(picture_a=files[0], picture_b=files[1], taken=["visual"], api_name="/mix")
        expected = handlers.call(
            "mix", picture_a=put(make_picture(seed=1)), picture_b=put(make_picture(seed=2)), taken=["visual"]
        )
        assert_same([Image.open(image["image"]) for image in images], expected)

    def test_edit(self, client, tmp_path):
        picture = self.save(make_picture(), tmp_path / "a.png")
        mask = self.save(Image.new("L", (8, 4), 0), tmp_path / "mask.png")
        with pytest.raises(gradio_client.exceptions.AppError, match="nothing would be generated"):
            client.predict(picture=picture, mask=mask, class_label=1, api_name="/edit")
        images, seed = client.predict(
            picture=picture, way="Vary", seed=7, random_seed=False, num_images=2, api_name="/edit"
        )
        assert seed == 7 and [image["caption"] for image in images] == ["seed 7", "seed 8"]
        assert all(image["image"].endswith(".png") for image in images)

    def test_codes_there_and_back(self, client, tmp_path):
        file = client.predict(self.save(make_picture(), tmp_path / "a.png"), api_name="/tokenize")[4]
        compared, images, *_ = client.predict(gradio_client.handle_file(file), api_name="/decode")
        assert compared is None and [image["caption"] for image in images] == ["all codebooks", "visual", "semantic"]

    def test_about(self, client):
        assert "FQGAN" in client.predict(api_name="/about")["card"]

    @pytest.mark.parametrize("name", ["decode", "mix", "edit"])
    def test_files_of_the_server(self, server, name):
        data = {
            "decode": [{"path": "/etc/passwd"}], "mix": [{"path": "/etc/passwd"}] * 2 + [["visual"]],
            "edit": [{"path": "/etc/passwd"}, "Paint", {"path": "/etc/passwd"}, 1, 0.5, [], *GOOD.values()],
        }[name]  # fmt: skip
        answer = server.call(name, data)
        assert "must be a file that was uploaded here" in answer["error"] and "root:" not in json.dumps(answer)

    def test_a_file_among_the_choices(self, server):
        upload = file_data(server.uploaded(b"x"))
        answer = server.call("mix", [upload, upload, [file_data("/etc/passwd")]])
        assert "must be a list of choices, got a list" in answer["error"]

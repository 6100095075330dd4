# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The Space's page, and what its buttons do with a pipeline."""

import io
import math
import re
import secrets
from pathlib import Path
from typing import Any


try:
    import spaces  # ZeroGPU hardware has it; it must come before anything that may start CUDA
except ImportError:
    spaces = None

import gradio as gr
import numpy as np
import torch
from gradio.processing_utils import save_file_to_cache
from guard import Limit, Page, read_upload, user_error
from PIL import Image

from fqgan_hf import FARPipeline
from fqgan_hf.evaluation.codebooks import CodebookUsage
from fqgan_hf.evaluation.metrics import psnr
from fqgan_hf.hub.facts import codebook_names


# What the page offers, and all that the handlers accept. `top_k` goes up to the codebook's size.
MAX_IMAGES = 8
MAX_SEED = 2**31 - 1
GUIDANCE_SCALES = (0.0, 10.0)
TEMPERATURES = (0.1, 2.0)
TOP_PS = (0.05, 1.0)

# Others that Pillow reads start programs (EPS), take gigabytes for a kilobyte (BMP) or are scarcely tested against
# hostile files. A JPEG may have any number of scans of a few bytes, each of which passes over the whole picture.
FILE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MAX_SCANS = 100

MAX_WAITING = 32  # visitors in the queue; the next one is told that it is full
FILES_KEPT_SECONDS = 3600
LAUNCH_OPTIONS: dict[str, Any] = {
    "theme": gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=["system-ui", "sans-serif"]),
    "css_paths": Path(__file__).with_name("page.css"),
    "footer_links": ["api", "gradio"],
    "ssr_mode": False,
}
EXAMPLE = Path(__file__).with_name("example.png")

# The handlers see what was sent as it was sent, so that every mistake gets their clear answer. One model: one call at
# a time, whichever button it came from.
CALL = {"preprocess": False, "concurrency_limit": 1, "concurrency_id": "model"}
# What the page does by itself is nothing to call from a program.
BEHIND_THE_SCENES = {"api_visibility": "private", "show_progress": "hidden"}

# Phones show one column, in which progress and results come below the fold. (Listeners to a click wait for each other:
# this one has to come first.)
SHOW = "() => document.querySelector('{}').scrollIntoView({{block: 'nearest', behavior: 'smooth'}})"


def check_number(name: str, value: Any, minimum: float, maximum: float, whole: bool = False) -> Any:
    """A number from the page or from anybody who calls the address behind it; NaN is in no range."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not minimum <= value <= maximum or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise user_error(f"{name} must be {kind} between {minimum:,} and {maximum:,}, got {value!r:.40}")
    return int(value) if whole else float(value)


class Handlers:
    """
    What the buttons do.

    On ZeroGPU the two functions that use the model run in a process of their own, which holds the GPU only that long:
    nothing but plain numbers, arrays and pictures goes in and out, and errors are `gr.Error`, of which alone the
    message survives.

    Args:
        pipeline ([`FARPipeline`]): Tokenizer and generator.
    """

    def __init__(self, pipeline: FARPipeline):
        self.pipeline = pipeline
        config = pipeline.vqmodel.config
        self.names = codebook_names(config.num_codebooks, config.feature_dims)
        self.top_ks = (0, config.codebook_size)
        # Whatever the processor's own settings: at a photograph's full size the model would run out of memory.
        size = pipeline.image_processor.size or config.sample_size
        self.fit = {"size": size, "do_resize": True, "do_center_crop": True}
        if spaces is not None:
            # Upper limits: the first call also carries the weights to the GPU.
            seconds = 20 + pipeline.transformer.config.num_positions // 10
            self._generate = spaces.GPU(duration=seconds)(self._generate)
            self._reconstruct = spaces.GPU(duration=20)(self._reconstruct)

    def generate(
        self, class_label, num_images, guidance_scale, temperature, top_k, top_p, seed, random_seed, *, limit=None
    ) -> tuple[list[tuple[Image.Image, str]], int]:
        """
        Images of one class, each with the seed that makes it alone, and the first of these seeds.

        Args:
            class_label (`int` or `str`): Id or name.
            num_images (`int`): In [1, 8].
            guidance_scale, temperature, top_p (`float`), top_k (`int`): One value for all codebooks.
            seed (`int`):
                Image i is made by a generator seeded with `seed + i`, which goes on at 0 after the largest. Not read
                with `random_seed`. The exception to the seed rule of `image_generator`: here every image shows its
                own seed, and typing it in makes that image alone.
            random_seed (`bool`): Draw a seed.
            limit ([`Limit`], *optional*): Checked after each position.

        Raises:
            gr.Error: For any argument that is missing, of the wrong type or out of range.
        """
        label = self._check_label(class_label)
        count = check_number("The number of images", num_images, 1, MAX_IMAGES, whole=True)
        sampling = {
            "guidance_scale": check_number("The guidance scale", guidance_scale, *GUIDANCE_SCALES),
            "temperature": check_number("The temperature", temperature, *TEMPERATURES),
            "top_k": check_number("Top-k", top_k, *self.top_ks, whole=True),
            "top_p": check_number("Top-p", top_p, *TOP_PS),
        }
        if not isinstance(random_seed, bool):
            raise user_error(f"Random seed must be true or false, got {random_seed!r:.40}")
        seed = secrets.randbelow(MAX_SEED + 1) if random_seed else check_number("The seed", seed, 0, MAX_SEED, True)
        seeds = [(seed + i) % (MAX_SEED + 1) for i in range(count)]
        images = self._generate(label, seeds, sampling, limit)
        return [(image, f"seed {seed}") for image, seed in zip(images, seeds, strict=True)], seed

    def tokenize(
        self, picture: dict[str, str] | None, *, limit: Limit | None = None
    ) -> tuple[list[tuple[Image.Image, str]], list[list[str]]]:
        """
        A picture, its reconstruction from all codes and from each codebook's alone; and a table about them.

        Args:
            picture (`dict`): The uploaded file, as Gradio describes it.
            limit ([`Limit`], *optional*): Checked before each step of the model.

        Returns:
            Pictures with captions, and rows of what was decoded, its PSNR, and how many different codes it has.

        Raises:
            gr.Error: If there is no picture, or it can't be read or is too large.
        """
        if picture is None:
            raise user_error("Upload a picture first")
        original = self._read(picture["path"])
        num_codebooks, codebook_size = len(self.names), self.pipeline.vqmodel.config.codebook_size
        samples, codes = map(torch.from_numpy, self._reconstruct(original.numpy(), limit))
        used = CodebookUsage(num_codebooks, codebook_size).update(codes).num_used.tolist()
        used = [f"{number:,} of {codebook_size:,} at {codes[0, 0].numel():,} positions" for number in used]
        captions = ["all codebooks", *self.names]
        if num_codebooks == 1:
            captions = ["reconstruction"]
        else:
            used.insert(0, "")
        quality = psnr(original.expand_as(samples), samples).tolist()
        quality = [f"{decibels:.2f}" if math.isfinite(decibels) else "no error" for decibels in quality]
        pictures = self.pipeline.image_processor.postprocess(torch.cat([original, samples]))
        return (
            list(zip(pictures, ["original", *captions], strict=True)),
            [list(row) for row in zip(captions, quality, used, strict=True)],
        )

    def _check_label(self, label: Any) -> int:
        if isinstance(label, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", label):
            label = int(label)
        if not isinstance(label, (int, str)) or label == "":
            raise user_error(f"Choose a class: an id or a name, got {label!r:.40}")
        try:
            return self.pipeline.get_label_ids(label)[0]
        except ValueError as error:
            raise user_error(error) from error

    def _read(self, path: str) -> torch.Tensor:
        """An uploaded picture -> pixels `(1, 3, H, W)`."""
        content = read_upload(path)
        try:
            image = Image.open(io.BytesIO(content), formats=FILE_FORMATS)
        except Exception as error:  # Pillow raises whatever a damaged header leads it to
            raise user_error(f"The picture must be a {', '.join(FILE_FORMATS)} file that can be read") from error
        num_scans = content.count(b"\xff\xda")
        if image.format in ("JPEG", "MPO") and num_scans > MAX_SCANS:
            raise user_error(f"The JPEG must have at most {MAX_SCANS} scans, got {num_scans:,}")
        try:
            with image:
                return self.pipeline.image_processor(image, **self.fit)["pixel_values"]
        except ValueError as error:
            raise user_error(error) from error

    def _generate(
        self, label: int, seeds: list[int], sampling: dict[str, float], limit: Limit | None
    ) -> list[Image.Image]:
        progress = gr.Progress()

        def on_position(pipeline, step, timestep, tensors):
            if limit is not None:
                limit.check()
            progress((step + 1, pipeline.num_timesteps), desc="Generating", unit="positions")
            return {}

        try:
            return self.pipeline(
                label,
                num_images_per_label=len(seeds),
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                callback_on_step_end=on_position,
                **sampling,
            ).images
        except ValueError as error:
            raise user_error(error) from error

    @torch.no_grad()
    def _reconstruct(self, pixel_values: np.ndarray, limit: Limit | None) -> tuple[np.ndarray, np.ndarray]:
        """Pixels `(1, 3, H, W)` -> samples from all codebooks and from each alone, codes `(1, K, h, w)`."""
        model = self.pipeline.vqmodel
        codes = model.encode(torch.from_numpy(pixel_values).to(model.device, model.dtype)).codes
        samples = []
        for selection in [None] if len(self.names) == 1 else [None, *([k] for k in range(len(self.names)))]:
            if limit is not None:
                limit.check()
            samples.append(model.decode_codes(codes, codebooks=selection).sample)
        return torch.cat(samples).float().cpu().numpy(), codes.cpu().numpy()


def label_choices(pipeline: FARPipeline) -> list[tuple[str, int]]:
    """Every class as "7 · seven" with its id: typing either part finds it."""
    config = pipeline.transformer.config
    names = {int(key): name for key, name in (config.id2label or {}).items()}
    choices = []
    for label in range(config.num_classes):
        # transformers invents LABEL_0, LABEL_1, ... for a configuration without names.
        name = names.get(label, f"LABEL_{label}")
        name = f"class {label}" if name == f"LABEL_{label}" else f"{label} · {name.replace('_', ' ')}"
        choices.append((name, label))
    return choices


def describe(pipeline: FARPipeline) -> str:
    """The page's heading, in Markdown."""
    tokenizer, generator = pipeline.vqmodel.config, pipeline.transformer.config
    count = tokenizer.num_codebooks
    codes = "one code" if count == 1 else f"{count} codes, one from each codebook"
    return (
        "# Factorized image codes\n"
        f"[FQGAN](https://arxiv.org/abs/2411.16681) writes a {tokenizer.sample_size}×{tokenizer.sample_size} image as "
        f"{generator.grid_height}×{generator.grid_width} positions with {codes} of {tokenizer.codebook_size:,}; "
        f"FAR generates these codes for any of {generator.num_classes:,} classes."
    )


def build_app(pipeline: FARPipeline) -> Page:
    """
    The page, with its queue.

    Args:
        pipeline ([`FARPipeline`]): The model, on the device where it is to run. Its progress bar is switched off.

    Returns:
        [`Page`]: To be launched with `LAUNCH_OPTIONS`.
    """
    pipeline.set_progress_bar_config(disable=True)
    handlers = Handlers(pipeline)
    # Enlarged by the browser, small images would blur.
    pictures = ["pictures", "small"] if pipeline.vqmodel.config.sample_size < 128 else ["pictures"]
    with Page(
        title="FQGAN and FAR", analytics_enabled=False, delete_cache=(FILES_KEPT_SECONDS, FILES_KEPT_SECONDS)
    ) as app:
        gr.Markdown(describe(pipeline))
        with gr.Tab("Generate"), gr.Row():
            add_generate_tab(app, handlers, pictures)
        with gr.Tab("Tokenize"), gr.Row():
            add_tokenize_tab(app, handlers, pictures)
    # The queue can't be bypassed.
    return app.queue(api_open=False, max_size=MAX_WAITING, default_concurrency_limit=1)


def add_generate_tab(app: Page, handlers: Handlers, pictures: list[str]) -> None:
    with gr.Column(scale=2, min_width=320):
        label = gr.Dropdown(
            label_choices(handlers.pipeline),
            value=0,
            label="Class",
            info="Type a part of the name, or the id",
            elem_id="class",
        )
        num_images = gr.Slider(1, MAX_IMAGES, value=4, step=1, label="Images")
        guidance_scale = gr.Slider(
            *GUIDANCE_SCALES, value=2.0, step=0.1, label="Guidance scale", info="Fidelity to the class; 1: off"
        )
        with gr.Row(equal_height=True):
            seed = gr.Number(
                0, minimum=0, maximum=MAX_SEED, step=1, label="Seed", interactive=False, min_width=120, elem_id="seed"
            )
            random_seed = gr.Checkbox(True, label="Random", min_width=120, elem_id="random")
        with gr.Row():
            generate = gr.Button("Generate", variant="primary", scale=3, min_width=120, elem_id="generate")
            stop = gr.Button("Stop", min_width=80, elem_id="stop")
        with gr.Accordion("Sampling", open=False):
            temperature = gr.Slider(*TEMPERATURES, value=1.0, step=0.05, label="Temperature")
            top_k = gr.Slider(*handlers.top_ks, value=0, step=1, label="Top-k", info="0: all codes")
            top_p = gr.Slider(*TOP_PS, value=1.0, step=0.01, label="Top-p", info="1: all codes")
    with gr.Column(scale=5, min_width=320):
        images = gr.Gallery(
            show_label=False, format="png", columns=4, height="auto", object_fit="contain", interactive=False,
            elem_id="images", elem_classes=pictures,
        )  # fmt: skip
    generate.click(None, js=SHOW.format("#images"), **BEHIND_THE_SCENES)
    call = generate.click(
        app.bounded(handlers.generate),
        [label, num_images, guidance_scale, temperature, top_k, top_p, seed, random_seed],
        [images, seed],
        api_name="generate",
        show_progress_on=images,
        **CALL,
    )
    call.success(None, js=SHOW.format("#images"), **BEHIND_THE_SCENES)
    stop.click(None, cancels=call, **BEHIND_THE_SCENES)
    random_seed.change(
        None, random_seed, seed, js="random => ({__type__: 'update', interactive: !random})", **BEHIND_THE_SCENES
    )


def add_tokenize_tab(app: Page, handlers: Handlers, pictures: list[str]) -> None:
    num_codebooks = len(handlers.names)
    with gr.Column(scale=2, min_width=320):
        picture = gr.Image(
            label="Picture", format="png", type="filepath", sources=["upload", "clipboard"], height=320,
            elem_id="picture",
        )  # fmt: skip
        tokenize = gr.Button("Tokenize", variant="primary", elem_id="tokenize")
        example = gr.Button("Use the example picture", icon=EXAMPLE, size="sm", elem_id="example")
        # As if it had been uploaded, but not to be deleted.
        example_path = save_file_to_cache(EXAMPLE, picture.GRADIO_CACHE)
        app.upload_file_set.add(example_path)
        picture.keep_in_cache.add(example_path)
    with gr.Column(scale=5, min_width=320):
        decoded = gr.Gallery(
            show_label=False, format="png", columns=min(2 + num_codebooks, 5), height="auto", object_fit="contain",
            interactive=False, elem_id="decoded", elem_classes=pictures,
        )  # fmt: skip
        if num_codebooks > 1:
            gr.Markdown("Of one codebook alone: the codes of the others are replaced by their average.")
        table = gr.Dataframe(
            headers=["Decoded from", "PSNR (dB)", "Different codes used"], interactive=False, column_count=3,
            column_widths=["35%", "25%", "40%"], wrap=True, buttons=[], elem_id="table",
        )  # fmt: skip
    tokenize.click(None, js=SHOW.format("#decoded"), **BEHIND_THE_SCENES)
    call = tokenize.click(
        app.bounded(handlers.tokenize),
        picture,
        [decoded, table],
        api_name="tokenize",
        show_progress_on=decoded,
        **CALL,
    )
    call.success(None, js=SHOW.format("#decoded"), **BEHIND_THE_SCENES)
    example.click(lambda: example_path, None, picture, **BEHIND_THE_SCENES)

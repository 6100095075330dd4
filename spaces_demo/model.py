# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What the tabs do with a pipeline: generate with pictures of how far it is, encode, decode.

On ZeroGPU these functions run in a process of their own, which holds the GPU only that long: nothing but plain
numbers, arrays and pictures goes in and out, and errors are `gr.Error`, of which alone the message survives.

Shapes: B images, K codebooks, h w grid, T = h * w positions, H W pixels.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any


try:
    import spaces  # ZeroGPU hardware has it; it must come before anything that may start CUDA
except ImportError:
    spaces = None

import numpy as np
import torch
from guard import Limit, user_error
from PIL import Image

from fqgan_hf.hub.facts import codebook_names
from fqgan_hf.pipelines.pipeline_generator import GeneratorPipeline, decode_known


# Decoding what there is takes time from what is to come: at most a quarter of it. In a long call changes are slow.
PREVIEW_SECONDS = 0.3
PREVIEW_COSTS = 3
PREVIEW_SHARE = 1 / 20


class Model:
    """
    A pipeline as the page sees it.

    Args:
        pipeline (`GeneratorPipeline` or [`FQGANPipeline`]):
            Tokenizer with or without a generator, on the device where it is to run. Its progress bar is switched off.
        prompts (`Sequence[str]`): Examples of what a generator of prompts can be asked for.

    Attributes:
        names (`list[str]`): Of the codebooks.
        words (`list[str]`): All that a text encoder of the generator's own knows.
        conditions (`tuple[str, ...]`): Of the generator; empty where there is none.
        size (`tuple[int, int]`): Width and height of pictures as the generator, or the tokenizer, was trained for.
        grid (`tuple[int, int]`): Height and width of their codes.
    """

    def __init__(self, pipeline: Any, prompts: Sequence[str] = ()):
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline = pipeline
        self.vqmodel = pipeline.vqmodel
        config = self.vqmodel.config
        self.names = codebook_names(config.num_codebooks, config.feature_dims)
        self.generator = pipeline.transformer.config if isinstance(pipeline, GeneratorPipeline) else None
        self.conditions = tuple(self.generator.conditions) if self.generator else ()
        self.prompts, self.words = list(prompts), []
        if "text" in self.conditions and self.generator.text_vocab_size:
            tokenizer = pipeline.tokenizer
            self.words = sorted(tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens))
        self.is_diffusion = hasattr(pipeline, "scheduler")
        factor, side = self.vqmodel.downsample_factor, config.sample_size
        self.grid = (side // factor, side // factor)
        if self.generator:
            self.grid = (self.generator.grid_height, self.generator.grid_width)
        self.size = (self.grid[1] * factor, self.grid[0] * factor)
        self.max_pixels = pipeline.image_processor.max_pixels
        if spaces is not None:
            # Upper limits: the first call also carries the weights to the GPU.
            if self.generator:
                seconds = 20 + self.grid[0] * self.grid[1] // 10
                self.generate = spaces.GPU(duration=seconds)(self.generate)
            self.encode = spaces.GPU(duration=20)(self.encode)
            self.decode = spaces.GPU(duration=20)(self.decode)

    # ---- On the device ----

    def generate(
        self, arguments: dict[str, Any], seeds: Sequence[int], limit: Limit | None = None
    ) -> Iterator[tuple[list[Image.Image], float]]:
        """
        Images, one for each seed, and before them what there is of them.

        Args:
            arguments (`dict`): Of the pipeline.
            seeds (`Sequence[int]`): Of the images.
            limit ([`Limit`], *optional*): Checked after each position or step.

        Yields:
            `list[PIL.Image.Image]` and `float`: The images, transparent where nothing is known yet, and how much of
            the work is done, in (0, 1].

        Raises:
            gr.Error: The arguments do not fit, or the call has to end.
        """

        def run(show: Callable[[Any], None]) -> Any:
            preview = Preview(self, show, limit)
            try:
                images = self.pipeline(
                    **arguments,
                    num_images_per_label=len(seeds),
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                    callback_on_step_end=preview.on_step_end,
                    callback_on_step_end_tensor_inputs=["clean_codes" if self.is_diffusion else "codes"],
                ).images
            except ValueError as error:
                raise user_error(error) from error
            return images, 1.0

        yield from told_by(run)

    @torch.no_grad()
    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels `(B, 3, H, W)` in [-1, 1] -> codes `(B, K, h, w)`."""
        model = self.vqmodel
        return model.encode(torch.from_numpy(pixels).to(model.device, model.dtype)).codes.cpu().numpy()

    @torch.no_grad()
    def decode(
        self, codes: np.ndarray, selections: Sequence[list[int] | None], limit: Limit | None = None
    ) -> np.ndarray:
        """
        Codes -> pixels `(selections * B, 3, H, W)`, from some of the codebooks each time.

        Args:
            codes (`np.ndarray` of shape `(B, K, h, w)`).
            selections (`Sequence`): Codebooks to decode from; None for all of them.
            limit ([`Limit`], *optional*): Checked before each.
        """
        model, samples = self.vqmodel, []
        codes = torch.from_numpy(codes).to(model.device)
        for selection in selections:
            if limit is not None:
                limit.check()
            samples.append(model.decode_codes(codes, codebooks=selection).sample)
        return torch.cat(samples).float().cpu().numpy()

    # ---- Around it ----

    def pixels(self, picture: Image.Image) -> np.ndarray:
        """
        A picture of any size -> `(1, 3, H, W)` in [-1, 1], scaled and cut to what the model was trained for.

        Whatever the processor's own settings: at a photograph's full size the model would run out of memory.
        """
        size = {"height": self.size[1], "width": self.size[0]}
        try:
            fit = {"size": size, "do_resize": True, "do_center_crop": True}
            return self.pipeline.image_processor(picture, **fit)["pixel_values"].numpy()
        except ValueError as error:
            raise user_error(error) from error

    def pictures(self, pixels: np.ndarray) -> list[Image.Image]:
        """Pixels `(B, 3, H, W)` in [-1, 1] as pictures."""
        return self.pipeline.image_processor.postprocess(torch.from_numpy(pixels))

    def alone(self) -> list[list[int] | None]:
        """All codebooks, and where there are several each by itself, as `decode` takes them."""
        return [None, *([k] for k in range(len(self.names)))] if len(self.names) > 1 else [None]


class Preview:
    """
    The pipeline's callback: tells how far the images are, and stops them.

    Args:
        model ([`Model`]): Whose pipeline generates.
        show (`Callable`): Takes the pictures and how much is done.
        limit ([`Limit`], *optional*): Checked at each step.
    """

    def __init__(self, model: Model, show: Callable[[Any], None], limit: Limit | None):
        self.model, self.show, self.limit = model, show, limit
        self.begin = self.last = time.monotonic()
        self.pause = PREVIEW_SECONDS
        self.has_shown = False

    def on_step_end(self, pipeline: Any, step: int, timestep: int, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        if self.limit is not None:
            self.limit.check()
        if step + 1 < pipeline.num_timesteps and self._is_due(step):
            begin = time.monotonic()
            pictures = self._pictures(**tensors)
            self.show((pictures, (step + 1) / pipeline.num_timesteps))
            self.has_shown, self.last = True, time.monotonic()
            elapsed = self.last - self.begin
            self.pause = max(PREVIEW_SECONDS, PREVIEW_COSTS * (self.last - begin), PREVIEW_SHARE * elapsed)
        return {}

    def _is_due(self, step: int) -> bool:
        first = 0 if self.model.is_diffusion else self.model.grid[1] - 1  # a step, or a row
        return time.monotonic() - self.last >= self.pause or (step >= first and not self.has_shown)

    def _pictures(
        self, codes: torch.Tensor | None = None, clean_codes: torch.Tensor | None = None
    ) -> list[Image.Image]:
        """Of codes `(B, positions so far, K)`, or of the clean image as a step of diffusion drew it, `(B, T, K)`."""
        height, width = self.model.grid
        sequence = codes if clean_codes is None else clean_codes
        missing = height * width - sequence.shape[1]
        known = torch.nn.functional.pad(sequence, (0, 0, 0, missing), value=-1)
        samples = decode_known(self.model.vqmodel, known.transpose(1, 2).unflatten(2, self.model.grid))
        pictures = self.model.pipeline.image_processor.postprocess(samples)
        if missing:
            is_there = np.arange(height * width).reshape(height, width) < sequence.shape[1]
            alpha = Image.fromarray(is_there.astype(np.uint8) * 255).resize(self.model.size, Image.Resampling.NEAREST)
            for picture in pictures:
                picture.putalpha(alpha)
        return pictures


def told_by(run: Callable[[Callable[[Any], None]], Any]) -> Iterator[Any]:
    """
    What a function tells while it runs in a thread, and what it returns.

    Args:
        run (`Callable`): Takes a function to tell something with.
    """
    told: queue.SimpleQueue = queue.SimpleQueue()

    def work() -> None:
        try:
            told.put((run(lambda news: told.put((news, None, False))), None, True))
        except BaseException as error:
            told.put((None, error, True))

    threading.Thread(target=work, name="steps", daemon=True).start()
    is_last = False
    while not is_last:
        news, error, is_last = told.get()
        if error is not None:
            raise error
        yield news

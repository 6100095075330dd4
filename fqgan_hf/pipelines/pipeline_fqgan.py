# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Images -> codes -> images, through an FQGAN tokenizer."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils import replace_example_docstring

from fqgan_hf.evaluation.codebooks import CodebookUsage
from fqgan_hf.evaluation.metrics import psnr
from fqgan_hf.hub.facts import codebook_names
from fqgan_hf.hub.registration import LoadsItsKind, register_with_diffusers
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pipelines.mix import mix_codes, taken_codebooks
from fqgan_hf.pipelines.reconstruction import Reconstruction, reconstruction_captions


register_with_diffusers()

IMAGE_OUTPUT_TYPES = ("pil", "np", "pt")

SEQUENTIAL_OFFLOAD_MESSAGE = (
    "enable_sequential_cpu_offload() is not supported: code tables are read outside any module's forward, where their "
    "weights would be missing; use enable_model_cpu_offload()"
)

EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> from PIL import Image
        >>> from fqgan_hf import FQGANPipeline

        >>> pipe = FQGANPipeline.from_pretrained("outputs/demo/pipeline")
        >>> photo = Image.open("photo.jpg")

        >>> pipe(photo).images[0].save("reconstruction.png")
        >>> pipe(photo, codebooks=[0]).images[0].save("first_codebook_only.png")

        >>> codes = pipe.encode(photo)  # (1, num_codebooks, height / f, width / f)
        >>> same_reconstruction = pipe.decode(codes).images[0]

        >>> result = pipe.reconstruct(photo)[0]  # all codebooks, and each alone
        >>> print(result.psnr, dict(zip(result.captions, result.pictures)))

        >>> # the photo, but for its semantic codes, which are the drawing's
        >>> pipe.mix(photo, Image.open("drawing.png"), take="semantic").images[0].save("mixture.png")
        ```
"""


class FQGANPipeline(LoadsItsKind, DiffusionPipeline):
    """
    Tokenize and reconstruct images.

    Args:
        vqmodel ([`FQGANModel`]): The tokenizer.
        image_processor ([`FQGANImageProcessor`]): Turns images of any kind into its pixels, and back.

    Raises:
        ValueError: The tokenizer is one of label maps.
    """

    model_cpu_offload_seq = "vqmodel"

    def __init__(self, vqmodel: FQGANModel, image_processor: FQGANImageProcessor):
        super().__init__()
        if getattr(getattr(vqmodel, "config", None), "num_labels", None) is not None:
            raise ValueError(
                f"vqmodel must be a tokenizer of pictures, got one of label maps of {vqmodel.config.num_labels} "
                "labels: its encode_labels and decode_labels take and give label maps"
            )
        self.register_modules(vqmodel=vqmodel, image_processor=image_processor)

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        images: Any,
        codebooks: list[int] | None = None,
        size: int | dict[str, int] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """
        Reconstruct images from their codes.

        Args:
            images (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them):
                What [`FQGANImageProcessor`] takes.
            codebooks (`list[int]`, *optional*): Decode from these codebooks only; all by default.
            size (`int` or `dict`, *optional*):
                Size to process at, in place of the image processor's own: of the shorter side, or
                `{"height": h, "width": w}`.
            output_type (`str`, defaults to `"pil"`):
                `"pil"`; `"np"`, an array `(batch, height, width, 3)` in [0, 1]; or `"pt"`, a tensor
                `(batch, 3, height, width)` in [0, 1].
            return_dict (`bool`, defaults to `True`): Return an [`ImagePipelineOutput`] rather than a tuple.

        Examples:

        Returns:
            [`ImagePipelineOutput`], or a tuple of the images alone.

        Raises:
            ValueError: For arguments that are out of range or do not fit, before any computation.
        """
        self._check_decoding(codebooks, output_type)
        codes = self._encode(images, size)
        output = ImagePipelineOutput(images=self._decode(codes, codebooks, output_type))
        self.maybe_free_model_hooks()
        return output if return_dict else (output.images,)

    @torch.no_grad()
    def encode(self, images: Any, size: int | dict[str, int] | None = None) -> torch.Tensor:
        """
        Images to codes.

        Args:
            images, size: See [`~FQGANPipeline.__call__`].

        Returns:
            `torch.LongTensor` of shape `(batch, num_codebooks, height / f, width / f)`.
        """
        codes = self._encode(images, size)
        self.maybe_free_model_hooks()
        return codes

    @torch.no_grad()
    def decode(
        self,
        codes: torch.Tensor,
        codebooks: list[int] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """
        Codes to images.

        Args:
            codes (`torch.LongTensor` of shape `(batch, num_codebooks, height, width)`): In [0, codebook_size).
            codebooks, output_type, return_dict: See [`~FQGANPipeline.__call__`].

        Returns:
            [`ImagePipelineOutput`], or a tuple of the images alone.
        """
        self._check_decoding(codebooks, output_type)
        if not isinstance(codes, torch.Tensor):
            raise ValueError(f"codes must be a torch.Tensor (batch, num_codebooks, height, width), got {codes!r:.80}")
        output = ImagePipelineOutput(images=self._decode(codes, codebooks, output_type))
        self.maybe_free_model_hooks()
        return output if return_dict else (output.images,)

    @torch.no_grad()
    def reconstruct(self, images: Any, size: int | dict[str, int] | None = None) -> list[Reconstruction]:
        """
        Reconstruct images from all of their codes and from each codebook alone: `fqgan reconstruct` from Python.

        Args:
            images, size: See [`~FQGANPipeline.__call__`]. A list may hold images of different sizes: each is processed
                by itself.

        Returns:
            `list[Reconstruction]`: One per image, with its pictures, their captions, PSNR and codes.

        Raises:
            ValueError: For images that cannot be read, or a size that the tokenizer cannot encode.
        """
        names = codebook_names(self.vqmodel.config.num_codebooks, self.vqmodel.config.feature_dims)
        pixels = (
            pixel_values
            for image in (images if isinstance(images, (list, tuple)) else [images])
            for pixel_values in self._process(image, size).split(1)
        )
        results = [self._reconstruct(pixel_values, names) for pixel_values in pixels]
        self.maybe_free_model_hooks()
        return results

    @torch.no_grad()
    def mix(
        self,
        image_a: Any,
        image_b: Any,
        take: str | int | Sequence[str | int],
        size: int | dict[str, int] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """
        Codebook swap: decode image a's codes with those of image b in the codebooks `take`. `fqgan mix` from Python.

        Args:
            image_a: What [`~FQGANPipeline.__call__`] takes: gives the codes of all other codebooks.
            image_b: As many images, of the same size once they are processed: gives the codes of `take`.
            take (`str`, `int` or a sequence of them):
                Names of codebooks, such as "semantic", or their ids; see
                [`~fqgan_hf.pipelines.mix.taken_codebooks`].
            size, output_type, return_dict: See [`~FQGANPipeline.__call__`].

        Returns:
            [`ImagePipelineOutput`], or a tuple of the images alone.

        Raises:
            ValueError: `take` names no codebook of this tokenizer, or all; there is only one; or the images do not
                become code grids of one size.
        """
        config = self.vqmodel.config
        taken = taken_codebooks(take, codebook_names(config.num_codebooks, config.feature_dims))
        self._check_decoding(None, output_type)
        codes = mix_codes(self._encode(image_a, size), self._encode(image_b, size), taken)
        output = ImagePipelineOutput(images=self._decode(codes, None, output_type))
        self.maybe_free_model_hooks()
        return output if return_dict else (output.images,)

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None):
        """Not supported: raises `NotImplementedError`."""
        raise NotImplementedError(SEQUENTIAL_OFFLOAD_MESSAGE)

    def _check_decoding(self, codebooks: list[int] | None, output_type: str) -> None:
        num_codebooks = self.vqmodel.config.num_codebooks
        if codebooks is not None and (not codebooks or any(k not in range(num_codebooks) for k in codebooks)):
            raise ValueError(f"codebooks must be a list of indices in [0, {num_codebooks - 1}], got {codebooks}")
        if output_type not in IMAGE_OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {IMAGE_OUTPUT_TYPES}, got {output_type!r}")

    def _process(self, images: Any, size: int | dict[str, int] | None) -> torch.Tensor:
        """Images of any kind -> pixels `(B, 3, H, W)` in [-1, 1], on the CPU."""
        arguments = {} if size is None else {"size": size}
        return self.image_processor(images, **arguments)["pixel_values"]

    def _encode(self, images: Any, size: int | dict[str, int] | None) -> torch.Tensor:
        """Images of any kind -> codes `(B, K, h, w)`."""
        pixel_values = self._process(images, size)
        return self.vqmodel.encode(pixel_values.to(self._execution_device, self.vqmodel.dtype)).codes

    def _decode(self, codes: torch.Tensor, codebooks: list[int] | None, output_type: str) -> Any:
        samples = self.vqmodel.decode_codes(codes, codebooks=codebooks).sample
        return self.image_processor.postprocess(samples, output_type=output_type)

    def _reconstruct(self, pixel_values: torch.Tensor, names: list[str]) -> Reconstruction:
        """Pixels `(1, 3, H, W)` of one image -> what its codes say, together and codebook by codebook."""
        model, config = self.vqmodel, self.vqmodel.config
        codes = model.encode(pixel_values.to(self._execution_device, model.dtype)).codes
        selections = [None, *([k] for k in range(config.num_codebooks))] if config.num_codebooks > 1 else [None]
        samples = [model.decode_codes(codes, codebooks=selection).sample.float().cpu() for selection in selections]
        return Reconstruction(
            pictures=self.image_processor.postprocess(torch.cat([pixel_values, *samples])),
            captions=reconstruction_captions(names),
            psnr=psnr(pixel_values, samples[0]).item(),
            codes=codes.cpu(),
            usage=CodebookUsage(config.num_codebooks, config.codebook_size).update(codes),
        )

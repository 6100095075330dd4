# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Images -> codes -> images, through an FQGAN tokenizer."""

from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils import replace_example_docstring

from fqgan_hf.hub.registration import register_with_diffusers
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_fqgan import FQGANModel


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
        ```
"""


class FQGANPipeline(DiffusionPipeline):
    """
    Tokenize and reconstruct images.

    Args:
        vqmodel ([`FQGANModel`]): The tokenizer.
        image_processor ([`FQGANImageProcessor`]): Turns images of any kind into its pixels, and back.
    """

    model_cpu_offload_seq = "vqmodel"

    def __init__(self, vqmodel: FQGANModel, image_processor: FQGANImageProcessor):
        super().__init__()
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

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None):
        """Not supported: raises `NotImplementedError`."""
        raise NotImplementedError(SEQUENTIAL_OFFLOAD_MESSAGE)

    def _check_decoding(self, codebooks, output_type) -> None:
        num_codebooks = self.vqmodel.config.num_codebooks
        if codebooks is not None and (not codebooks or any(k not in range(num_codebooks) for k in codebooks)):
            raise ValueError(f"codebooks must be a list of indices in [0, {num_codebooks - 1}], got {codebooks}")
        if output_type not in IMAGE_OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {IMAGE_OUTPUT_TYPES}, got {output_type!r}")

    def _encode(self, images, size) -> torch.Tensor:
        arguments = {} if size is None else {"size": size}
        pixel_values = self.image_processor(images, **arguments)["pixel_values"]
        return self.vqmodel.encode(pixel_values.to(self._execution_device, self.vqmodel.dtype)).codes

    def _decode(self, codes, codebooks, output_type):
        samples = self.vqmodel.decode_codes(codes, codebooks=codebooks).sample
        return self.image_processor.postprocess(samples, output_type=output_type)

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Editing an image by its codes: which of them stay, and which are generated anew.

    edit = read_edit(vqmodel, image_processor, grid, num_rows, image=photo, mask_image=mask)    # all checks, no work
    known = edit.known_codes(vqmodel, device, num_images, generator, per_codebook=True)         # -1: to be generated

In-painting and out-painting keep what a mask leaves black, variations keep a random share, and either may keep the
codes of some codebooks everywhere: the same layout with another look.

Shapes: B rows of a call, K codebooks, h w grid, T = h * w positions, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from fqgan_hf.hub.facts import codebook_names
from fqgan_hf.modeling.code_layout import grid_to_sequence
from fqgan_hf.modeling.code_sampling import draw_uniforms
from fqgan_hf.modeling.configuration_checks import is_finite_number
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pipelines.mix import taken_codebooks


@dataclass(frozen=True)
class Edit:
    """
    What of which images is to be generated anew.

    Args:
        pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`): In [-1, 1].
        is_free (`torch.BoolTensor` of shape `(B, T, K)`): Codes that may be generated.
        strength (`float`): Share of them that is, in (0, 1].
    """

    pixel_values: torch.Tensor
    is_free: torch.Tensor
    strength: float

    def known_codes(
        self,
        vqmodel: FQGANModel,
        device: torch.device,
        num_images: int,
        generator: torch.Generator | list[torch.Generator] | None,
        per_codebook: bool,
    ) -> torch.Tensor:
        """
        The images' codes `(B * num_images, T, K)`, -1 where they are to be generated.

        Args:
            vqmodel: Encodes the images.
            device: Where it computes.
            num_images: Images of each row.
            generator: Chooses what is generated where `strength` is below 1; it is not drawn from otherwise.
            per_codebook: Choose codes, of each codebook by itself, rather than whole positions.
        """
        codes = grid_to_sequence(vqmodel.encode(self.pixel_values.to(device, vqmodel.dtype)).codes)
        codes = codes.repeat_interleave(num_images, dim=0)
        is_free = self.is_free.to(codes.device).repeat_interleave(num_images, dim=0)
        if self.strength < 1.0:
            batch, positions, codebooks = codes.shape
            drawn = draw_uniforms(generator, (batch, positions, codebooks if per_codebook else 1), codes.device)
            # They are where there is float64, which need not be where the codes are.
            is_free = chosen_share(is_free.to(drawn.device), drawn.expand(codes.shape), self.strength).to(codes.device)
        return codes.masked_fill(is_free, -1)


def chosen_share(is_free: torch.Tensor, uniforms: torch.Tensor, share: float) -> torch.Tensor:
    """
    A random share of the free codes, in each image and codebook at least one of those that there are.

    Args:
        is_free (`torch.BoolTensor` of shape `(B, T, K)`).
        uniforms (`torch.Tensor` of shape `(B, T, K)`): The codes with the least ones are chosen.
        share (`float`): In (0, 1].
    """
    counts = (is_free.sum(dim=1, keepdim=True).double() * share + 1e-9).floor().clamp(min=1)  # 0.29 of 100: 29
    ranks = uniforms.masked_fill(~is_free, 2.0).argsort(dim=1, stable=True).argsort(dim=1)
    return is_free & (ranks < counts)


def read_edit(
    vqmodel: FQGANModel,
    image_processor: FQGANImageProcessor,
    grid: tuple[int, int],
    num_rows: int,
    image: Any = None,
    mask_image: Any = None,
    strength: float = 1.0,
    keep_codebooks: str | int | Sequence[str | int] | None = None,
) -> Edit | None:
    """
    Check the arguments of an edit.

    Args:
        vqmodel, image_processor: Of the pipeline.
        grid (`tuple[int, int]`): Height and width of the codes to generate.
        num_rows (`int`): B.
        image, mask_image, strength, keep_codebooks: As pipelines take them.

    Returns:
        The edit, or None where no image is given.

    Raises:
        ValueError: Something does not fit, or everything or nothing would stay as it is.
    """
    is_share = is_finite_number(strength) and 0.0 < strength <= 1.0
    if not is_share:
        raise ValueError(f"strength must be in (0, 1], got {strength!r}")
    changes = {
        "mask_image": mask_image is not None,
        "strength": strength < 1,
        "keep_codebooks": keep_codebooks is not None,
    }
    if image is None:
        given = [name for name, is_given in changes.items() if is_given]
        if given:
            raise ValueError(f"image must be given with {given[0]}: it is what is edited")
        return None
    if not any(changes.values()):
        raise ValueError(
            "image has no effect by itself: give a mask_image, a strength below 1 or keep_codebooks, which say what "
            "of it stays"
        )
    config, factor = vqmodel.config, vqmodel.downsample_factor
    is_free = torch.ones(1, grid[0] * grid[1], config.num_codebooks, dtype=torch.bool)
    if keep_codebooks is not None:
        names = codebook_names(config.num_codebooks, config.feature_dims)
        is_free[:, :, taken_codebooks(keep_codebooks, names, "keep_codebooks")] = False
    size = {"height": grid[0] * factor, "width": grid[1] * factor}
    pixel_values = _processed(image_processor, "image", image, size, num_rows)
    if mask_image is not None:
        is_free = is_free & _cells_to_generate(image_processor, image, mask_image, size, num_rows, factor)
    is_free = is_free.expand(num_rows, -1, -1)
    return Edit(pixel_values, is_free, float(strength))


def _processed(
    image_processor: FQGANImageProcessor, name: str, images: Any, size: dict[str, int], num_rows: int
) -> torch.Tensor:
    """Pixels `(num_rows, 3, H, W)` of one image for all rows, or of one for each."""
    try:
        pixel_values = image_processor(images, size=size)["pixel_values"]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if len(pixel_values) not in (1, num_rows):
        raise ValueError(f"{name} must be one, or one per label, prompt or map, {num_rows}, got {len(pixel_values)}")
    if tuple(pixel_values.shape[2:]) != (size["height"], size["width"]):  # by settings of the processor
        raise ValueError(
            f"{name} must come out as {size['height']} x {size['width']} (height x width), got "
            f"{' x '.join(map(str, pixel_values.shape[2:]))}"
        )
    return pixel_values.expand(num_rows, -1, -1, -1)


def _cells_to_generate(
    image_processor: FQGANImageProcessor, image: Any, mask_image: Any, size: dict[str, int], num_rows: int, factor: int
) -> torch.Tensor:
    """Cells `(num_rows, T, 1)` of the grid with a white pixel."""
    images, masks = _listed(image), [_as_picture(mask) for mask in _listed(mask_image)]
    for number, mask in enumerate(masks):
        expected = _size_of(images[min(number, len(images) - 1)])
        if _size_of(mask) != expected:
            raise ValueError(
                f"mask_image must have the size of its image, {expected[0]} x {expected[1]} (width x height), got "
                f"{_size_of(mask)[0]} x {_size_of(mask)[1]}"
            )
    # Scaled and cut as the image is; 0.5 grey counts as white.
    white = _processed(image_processor, "mask_image", masks, size, num_rows)[:, :1] >= 0
    cells = F.max_pool2d(white.float(), factor) > 0
    for row in cells:
        if row.all() or not row.any():
            found = "white in every cell: nothing would be kept" if row.all() else "black: nothing would be generated"
            raise ValueError(
                f"mask_image must be white where the image is to be generated and black elsewhere, it is {found}"
            )
    return cells.flatten(1)[..., None]


def _listed(images: Any) -> list[Any]:
    """Single pictures; a batch is a list, an array `(B, H, W, C)` or a tensor `(B, C, H, W)`."""
    if isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4:
        return list(images)
    return [images]


def _as_picture(mask: Any) -> Any:
    """A mask as the image processor reads pictures, which takes no booleans."""
    if isinstance(mask, np.ndarray) and mask.dtype == bool:
        return mask.astype(np.uint8) * 255
    if isinstance(mask, torch.Tensor) and mask.dtype == torch.bool:
        return mask.to(torch.uint8) * 255
    return mask


def _size_of(picture: Any) -> tuple[int, int]:
    """Width and height of a picture as it is meant to be seen."""
    if isinstance(picture, Image.Image):
        return ImageOps.exif_transpose(picture).size
    shape = tuple(getattr(picture, "shape", ()))
    if len(shape) == 3:
        shape = shape[1:] if isinstance(picture, torch.Tensor) else shape[:2]
    return shape[::-1]

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Images to the tokenizer's pixels and back.

Anything that holds a picture goes in (PIL images, NumPy arrays, tensors, lists of them), `(B, 3, H, W)` float32 in
[-1, 1] comes out, with `H` and `W` divisible by the tokenizer's downsampling factor; `postprocess` goes the other way.

Shapes: B batch, C channels (1 grey, 3 RGB, 4 RGBA), H W pixels.
"""

import os
from operator import index
from typing import Any, BinaryIO

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import PIL_INTERPOLATION
from PIL import Image, ImageOps
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging


logger = logging.get_logger(__name__)

# Pillow's own threshold for a suspected decompression bomb: a quarter of a gibibyte as 24-bit RGB.
DEFAULT_MAX_PIXELS = 89_478_485

# Pillow knows more formats, some of which start other programs (EPS) or are scarcely tested against hostile files.
FILE_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF", "HEIF")

# Float arithmetic on the caller's side may carry a value just past its bounds.
_RANGE_TOLERANCE = 1e-6

# Of a float picture: how far it may exceed a range and still be of it, and how much of a larger range it must fill.
_OVERSHOOT = 0.01
_LEAST_FILLED = 0.05

# What `from_pretrained` hands to `__init__` beside the settings.
_SERVICE_KEYS = {"image_processor_type", "feature_extractor_type", "processor_class", "auto_map"}


class FQGANImageProcessorKwargs(ImagesKwargs, total=False):
    """What `from_pretrained` may override beside the library's own names."""

    multiple_of: int
    max_pixels: int


def _check_pixels(width: int, height: int, max_pixels: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"{name} must have at least one pixel, got {width} x {height} (width x height)")
    if width * height > max_pixels:
        raise ValueError(
            f"{name} must have at most max_pixels = {max_pixels:,} pixels, got {width} x {height} = {width * height:,}"
        )


def _deep_to_8_bit(image: Image.Image, name: str) -> Image.Image:
    """Integer ("I", "I;16", ...) or float ("F") greyscale -> mode "L", scaled: Pillow itself would clip at 255."""
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} (mode {image.mode}) must hold finite values, got NaN or infinity")
    low, high = values.min(), values.max()
    if image.mode == "F":
        # A float image carries no range: the smallest usual one that holds its values is taken. Filters overshoot a
        # little. What fills next to nothing of a range is rather a brighter picture in another one.
        limit = next((limit for limit in (1, 255, 65535) if high <= limit * (1 + _OVERSHOOT)), None)
        is_clear = limit == 1 or (limit is not None and high >= limit * _LEAST_FILLED)
        accepted = "[0, 1], [0, 255] or [0, 65535]"
    else:
        limit, is_clear, accepted = 65535, low >= 0 and high <= 65535, "[0, 65535]"
    if not is_clear or low < -limit * _OVERSHOOT:
        raise ValueError(f"{name} (mode {image.mode}) must hold values in {accepted}, got [{low:g}, {high:g}]")
    grey = np.rint((values.astype(np.float32) / limit).clip(0, 1) * 255).astype(np.uint8)
    if isinstance(transparent := image.info.get("transparency"), int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)


def _upright_rgb(image: Image.Image, max_pixels: int, name: str) -> Image.Image:
    """Any PIL image -> a decoded RGB one, turned upright, transparency on white."""
    _check_pixels(*image.size, max_pixels, name)  # known from the header: nothing is decoded yet
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ... on damaged files
        raise ValueError(f"{name} must be a readable image, could not decode it: {error}") from error
    try:
        image = ImageOps.exif_transpose(image)
    except Exception as error:
        logger.warning(f"{name}: damaged EXIF data ignored ({error})")
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_to_8_bit(image, name).convert("RGB")
    if image.has_transparency_data:
        if image.mode == "La":  # Pillow has no direct way from premultiplied grey to RGBA
            image = image.convert("LA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image.convert("RGBA"))
    return image.convert("RGB")


def load_image(
    path_or_file: str | os.PathLike | BinaryIO | Image.Image, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Image.Image:
    """Read one picture as it is meant to be seen: upright, RGB, 8 bits per channel.

    The EXIF orientation is applied, transparency is laid on white, greyscale, palette and CMYK become RGB (CMYK
    without its colour profile), 16-bit and float greyscale is scaled to 8 bits, and an animation gives its first
    frame.

    Args:
        path_or_file (`str`, `os.PathLike`, binary file object or `PIL.Image.Image`):
            The picture. A PIL image gives its current frame, which is the first one after opening. Mode "I" is read as
            [0, 65535]; mode "F" as the smallest of [0, 1], [0, 255] and [0, 65535] that holds its values. Filters
            may have overshot it by one percent; one that would come out nearly black is refused.
        max_pixels (`int`, defaults to 89,478,485):
            Largest accepted width x height, checked from the header before anything is decoded. Pillow's own limit of
            twice `PIL.Image.MAX_IMAGE_PIXELS` stays in force above it.

    Returns:
        `PIL.Image.Image`: a new image of mode RGB.

    Raises:
        ValueError: not an image in one of the accepted formats, damaged, of zero size, or larger than `max_pixels`.
        OSError: the file cannot be opened (`FileNotFoundError` if there is none).
    """
    max_pixels = _positive_int(max_pixels, "max_pixels")
    if isinstance(path_or_file, Image.Image):
        return _upright_rgb(path_or_file, max_pixels, "path_or_file")
    if isinstance(path_or_file, (str, os.PathLike)):
        with open(path_or_file, "rb") as file:
            return _read(file, max_pixels, f"path_or_file {os.fspath(path_or_file)!r}")
    if hasattr(path_or_file, "read"):
        return _read(path_or_file, max_pixels, "path_or_file")
    raise ValueError(
        f"path_or_file must be a path, a binary file object or a PIL image, got {type(path_or_file).__name__}"
    )


def _read(file: BinaryIO, max_pixels: int, name: str) -> Image.Image:
    Image.init()  # fills Image.OPEN with the formats of this build of Pillow
    formats = [name for name in FILE_FORMATS if name in Image.OPEN]
    try:
        image = Image.open(file, formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name} must have at most max_pixels = {max_pixels:,} pixels: {error}") from error
    except Exception as error:  # an unknown format, or a header damaged in any way
        raise ValueError(f"{name} must be an image file ({', '.join(formats)}), could not read it: {error}") from error
    with image:
        return _upright_rgb(image, max_pixels, name)


def _positive_int(value: Any, name: str, accepted: str = "a positive integer") -> int:
    try:
        number = index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"{name} must be {accepted}, got {value!r}")
    return number


def _check_settings(
    size: Any, do_resize: Any, do_center_crop: Any, max_pixels: Any, resample: Any, multiple_of: Any
) -> dict[str, Any]:
    """The processor's settings in the form in which they are stored, or an error that names the wrong one."""
    multiple_of = _positive_int(multiple_of, "multiple_of")
    for name, value in (("do_resize", do_resize), ("do_center_crop", do_center_crop)):
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r}")
    if isinstance(size, dict):
        if set(size) != {"height", "width"}:
            raise ValueError(f'size must have the keys "height" and "width", got {sorted(size)}')
        size = {name: _positive_int(size[name], f'size["{name}"]') for name in ("height", "width")}
        sides = tuple(size.values())
    else:
        if size is not None:
            size = _positive_int(size, "size", 'None, a positive integer or {"height": ..., "width": ...}')
        sides = () if size is None else (size,)
    if any(side % multiple_of for side in sides):
        raise ValueError(f"size must be divisible by multiple_of = {multiple_of}, got {size}")
    if isinstance(resample, int):  # Pillow's constants are integers
        resample = next((name for name, value in PIL_INTERPOLATION.items() if value == resample), resample)
    if not isinstance(resample, str) or resample not in PIL_INTERPOLATION:
        raise ValueError(f"resample must be one of {', '.join(PIL_INTERPOLATION)}, got {resample!r}")
    max_pixels = _positive_int(max_pixels, "max_pixels")
    if sides and sides[0] * sides[-1] > max_pixels:
        raise ValueError(f"size must have at most max_pixels = {max_pixels:,} pixels, got {size}")
    return {
        "size": size,
        "do_resize": do_resize,
        "do_center_crop": do_center_crop,
        "max_pixels": max_pixels,
        "resample": resample,
        "multiple_of": multiple_of,
    }


def _channels_last(image: np.ndarray | torch.Tensor, name: str) -> np.ndarray:
    """One array or tensor -> a NumPy array (H, W, C) of C = 1, 3 or 4 channels."""
    if isinstance(image, np.ndarray):
        image = np.asarray(image)  # a subclass may have axes of its own mind: np.matrix has two, whatever is asked
    channel_axis, order = (0, "(C, H, W)") if isinstance(image, torch.Tensor) else (-1, "(H, W, C)")
    accepted = f"must have shape (H, W) or {order} with C = 1, 3 or 4"
    shape = tuple(image.shape)
    if image.ndim == 2:
        image = image[..., None] if channel_axis == -1 else image[None]
    if image.ndim != 3 or image.shape[channel_axis] not in (1, 3, 4):
        raise ValueError(f"{name} {accepted}, got {shape}")
    if isinstance(image, torch.Tensor):
        image = image.detach().permute(1, 2, 0).cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    return image


def _array_to_planes(array: np.ndarray, max_pixels: int, name: str) -> list[Image.Image]:
    """(H, W, C) uint8 -> one RGB image; uint16 or float -> three "F" images in [0, 1], which keep the precision."""
    _check_pixels(array.shape[1], array.shape[0], max_pixels, name)
    if array.dtype.kind == "u" and array.dtype.itemsize == 1:
        return [_upright_rgb(Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array), max_pixels, name)]
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = array.astype(np.float32) / 65535
    elif array.dtype.kind != "f":
        raise ValueError(f"{name} must be of type uint8, uint16 or float, got {array.dtype}")
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):  # min and max carry NaN on
        raise ValueError(f"{name} must hold finite values, got NaN or infinity")
    if low < -_RANGE_TOLERANCE or high > 1 + _RANGE_TOLERANCE:
        is_signed = low < 0 and low >= -1 and high <= 1
        hint = "map [-1, 1] there with x / 2 + 0.5" if is_signed else "8-bit values belong in a uint8 array"
        raise ValueError(f"{name} must hold floats in [0, 1] ({hint}), got values in [{low:g}, {high:g}]")
    array = array.astype(np.float32).clip(0, 1)
    if array.shape[-1] == 4:
        alpha = array[..., 3:]
        array = array[..., :3] * alpha + (1 - alpha)
    array = np.broadcast_to(array, (*array.shape[:2], 3))
    return [Image.fromarray(np.ascontiguousarray(array[..., channel])) for channel in range(3)]


def _center_crop(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


class FQGANImageProcessor(BaseImageProcessor):
    """Prepares images for [`FQGANModel`] and turns its samples back into images.

    Pictures are taken as they are meant to be seen (see [`load_image`]), cut to a size the tokenizer can encode, and
    scaled to [-1, 1].

    Args:
        size (`int` or `dict`, *optional*):
            `None`: every image keeps its own size, cropped around its centre to a multiple of `multiple_of`. An `int`:
            the shorter side becomes this, and the centre square is kept. `{"height": h, "width": w}`: the image is
            scaled to cover h x w, and the centre is kept. Must be divisible by `multiple_of`.
        do_resize (`bool`, defaults to `True`):
            Scale to `size`, up or down, antialiased. When `False`, only crop; an image smaller than `size` is an
            error.
        do_center_crop (`bool`, defaults to `True`):
            When `False`, nothing is cut off: with an `int` the longer side is scaled along (to the nearest multiple of
            `multiple_of`), with height and width the image is stretched to them, and with neither resizing nor `size`
            the image has to be divisible already.
        max_pixels (`int`, defaults to 89,478,485):
            Largest accepted width x height of an image, checked before it is decoded.
        resample (`str` or `PIL.Image.Resampling`, defaults to `"lanczos"`):
            Filter: `"lanczos"`, `"bicubic"`, `"bilinear"` (or `"linear"`), `"nearest"` (which alone does not
            antialias).
        multiple_of (`int`, defaults to 16):
            What height and width must be divisible by: the tokenizer's `downsample_factor`.

    Raises:
        ValueError: a setting is unknown, of the wrong type or out of range.
    """

    model_input_names = ["pixel_values"]
    valid_kwargs = FQGANImageProcessorKwargs

    def __init__(
        self,
        size: int | dict[str, int] | None = None,
        do_resize: bool = True,
        do_center_crop: bool = True,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        resample: str = "lanczos",
        multiple_of: int = 16,
        **kwargs: Any,
    ):
        settings = _check_settings(size, do_resize, do_center_crop, max_pixels, resample, multiple_of)
        unknown = [key for key in kwargs if key not in _SERVICE_KEYS and not key.startswith("_")]
        if unknown:
            raise ValueError(f"unknown settings {unknown}, accepted are {', '.join(settings)}")
        kwargs.pop("image_processor_type", None)  # written anew by `to_dict`
        super().__init__(**settings, **kwargs)

    def preprocess(
        self,
        images: Any,
        size: int | dict[str, int] | None = None,
        do_resize: bool | None = None,
        do_center_crop: bool | None = None,
        max_pixels: int | None = None,
        resample: str | None = None,
        multiple_of: int | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Images of any kind -> the tokenizer's input. Settings left at `None` are the processor's own.

        Args:
            images: One picture, or a list or tuple of them (kinds may be mixed), each

                - a `PIL.Image.Image` of any mode,
                - a `numpy.ndarray` **(H, W) or (H, W, C)**, or a batch **(B, H, W, C)**,
                - a `torch.Tensor` **(H, W) or (C, H, W)**, or a batch **(B, C, H, W)**, on any device,

                with C = 1 (grey), 3 (RGB) or 4 (RGBA, laid on white), of type uint8 [0, 255], uint16 [0, 65535] or
                floating point [0, 1]. Files are read with [`load_image`].
            size, do_resize, do_center_crop, max_pixels, resample, multiple_of: see the class.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"` (or `None`) for torch, `"np"` for NumPy.

        Returns:
            `BatchFeature` with `pixel_values` of shape **(B, 3, H, W)**, float32 in **[-1, 1]**, on the CPU, detached.

        Raises:
            ValueError: an image is empty, damaged, too large or too small, or of a shape, type or value range not
                accepted; or the images come out with different sizes.
        """
        overrides = {
            "size": size,
            "do_resize": do_resize,
            "do_center_crop": do_center_crop,
            "max_pixels": max_pixels,
            "resample": resample,
            "multiple_of": multiple_of,
        }
        settings = _check_settings(**{k: getattr(self, k) if v is None else v for k, v in overrides.items()})
        if return_tensors not in (None, "pt", "np"):
            raise ValueError(f'return_tensors must be "pt", "np" or None, got {return_tensors!r}')
        pixels = [self._to_pixels(image, settings, name) for name, image in self._named_images(images)]
        sizes = sorted({array.shape[:2] for array in pixels})
        if len(sizes) > 1:
            raise ValueError(
                f"images must come out with one (height, width) to form a batch, got {sizes}: pass size=, "
                "or one image at a time"
            )
        pixel_values = VaeImageProcessor.normalize(VaeImageProcessor.numpy_to_pt(np.stack(pixels))).contiguous()
        return BatchFeature({"pixel_values": pixel_values.numpy() if return_tensors == "np" else pixel_values})

    @staticmethod
    def _named_images(images: Any) -> list[tuple[str, object]]:
        """The single images in the argument, each with the name that error messages give it."""
        is_batch = isinstance(images, (list, tuple)) or (
            isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4
        )
        if not is_batch:
            return [("images", images)]
        if len(images) == 0:
            raise ValueError(f"images must hold at least one image, got an empty {type(images).__name__}")
        return [(f"images[{position}]", image) for position, image in enumerate(images)]

    def _to_pixels(self, image: Any, settings: dict[str, Any], name: str) -> np.ndarray:
        """One image -> (H, W, 3) float32 in [0, 1]."""
        max_pixels = settings["max_pixels"]
        if isinstance(image, Image.Image):
            planes = [_upright_rgb(image, max_pixels, name)]
        elif isinstance(image, (np.ndarray, torch.Tensor)):
            planes = _array_to_planes(_channels_last(image, name), max_pixels, name)
        else:
            hint = " (read files with load_image)" if isinstance(image, (str, os.PathLike)) else ""
            raise ValueError(
                f"{name} must be a PIL image, NumPy array or torch tensor{hint}, got {type(image).__name__}"
            )
        planes = [self._fit(plane, settings, name) for plane in planes]
        if len(planes) == 1:
            return VaeImageProcessor.pil_to_numpy(planes)[0]
        return np.stack([np.asarray(plane) for plane in planes], axis=-1).clip(0, 1)  # Lanczos overshoots

    @staticmethod
    def _fit(image: Image.Image, settings: dict, name: str) -> Image.Image:
        """Resize and crop one image (or one channel of it) as the settings say."""
        size, multiple_of = settings["size"], settings["multiple_of"]
        do_resize, do_center_crop = settings["do_resize"], settings["do_center_crop"]
        resample = PIL_INTERPOLATION[settings["resample"]]
        shape = f"{image.width} x {image.height} (width x height)"
        if size is None or not (do_resize or do_center_crop):
            if min(image.size) < multiple_of:
                raise ValueError(
                    f"{name} must be at least {multiple_of} pixels on each side, got {shape}; or pass size="
                )
            width, height = (side - side % multiple_of for side in image.size)
            if (width, height) != image.size and not do_center_crop:
                raise ValueError(
                    f"{name} must have sides divisible by {multiple_of} when do_center_crop is False, got {shape}"
                )
            return _center_crop(image, width, height)
        height, width = (size["height"], size["width"]) if isinstance(size, dict) else (size, size)
        if not do_resize:
            if image.width < width or image.height < height:
                raise ValueError(f"{name} must be at least {width} x {height} when do_resize is False, got {shape}")
            return _center_crop(image, width, height)
        if do_center_crop:
            # One pass over the region that is kept: a 1 x 100,000 image never becomes 256 x 25,600,000.
            return ImageOps.fit(image, (width, height), method=resample)
        if not isinstance(size, dict):
            scale = size / min(image.size)
            width, height = (max(size, round(side * scale / multiple_of) * multiple_of) for side in image.size)
            _check_pixels(width, height, settings["max_pixels"], f"{name} after resizing")
        return image.resize((width, height), resample=resample)

    def postprocess(
        self, samples: torch.Tensor, output_type: str = "pil"
    ) -> list[Image.Image] | np.ndarray | torch.Tensor:
        """The tokenizer's output -> images.

        Args:
            samples (`torch.Tensor` of shape **(B, 3, H, W)**): pixels in [-1, 1], any floating type and device; values
                outside are clamped.
            output_type (`str`, defaults to `"pil"`): `"pil"`, `"np"` or `"pt"`.

        Returns:
            `"pil"`: B RGB images, rounded to the nearest of the 256 levels; `"np"`: float32 **(B, H, W, 3)** in
            [0, 1]; `"pt"`: float32 **(B, 3, H, W)** in [0, 1] on the device of `samples`.

        Raises:
            ValueError: unknown `output_type`; `samples` of another shape or type, or with NaN or infinity.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f'output_type must be "pil", "np" or "pt", got {output_type!r}')
        if not isinstance(samples, torch.Tensor) or not samples.is_floating_point():
            kind = samples.dtype if isinstance(samples, torch.Tensor) else type(samples).__name__
            raise ValueError(f"samples must be a floating-point torch tensor, got {kind}")
        if samples.ndim != 4 or samples.shape[1] != 3:
            raise ValueError(f"samples must have shape (B, 3, H, W), got {tuple(samples.shape)}")
        samples = samples.detach().float()
        if not samples.isfinite().all():
            raise ValueError("samples must hold finite values, got NaN or infinity")
        images = VaeImageProcessor.denormalize(samples)
        if output_type == "pt":
            return images
        images = VaeImageProcessor.pt_to_numpy(images)
        return images if output_type == "np" else VaeImageProcessor.numpy_to_pil(images)

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""FQGANImageProcessor: every kind of picture in, [-1, 1] out, and back; what is refused, and how.

Run with `pytest tests/modeling/test_image_processing_fqgan.py`.
"""

import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps

from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor, load_image


RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def to_8_bit(pixel_values: torch.Tensor) -> np.ndarray:
    """(B, 3, H, W) in [-1, 1] -> (B, H, W, 3) uint8, written out independently of `postprocess`."""
    return ((pixel_values.double() + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def photo(height: int, width: int) -> np.ndarray:
    """Smooth colours, which resizing in 8 bits and in floats treats alike."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [127 + 100 * np.sin(x / 9), 127 + 100 * np.cos(y / 7), 127 + 100 * np.sin((x + y) / 11)]
    return np.stack(planes, axis=-1).round().astype(np.uint8)


def png(width: int, height: int, bit_depth: int, color_type: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG file from its parts, for what Pillow reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture
def processor() -> FQGANImageProcessor:
    return FQGANImageProcessor()


class TestLoadImage:
    def test_exif_rotation_is_applied(self, tmp_path):
        upright = Image.new("RGB", (48, 32), RED)
        upright.paste(BLUE, (0, 0, 24, 32))  # left half blue
        turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
        for orientation, stored_as in turns.items():
            exif = Image.Exif()
            exif[0x0112] = orientation
            path = tmp_path / f"{orientation}.jpg"
            upright.transpose(stored_as).save(path, quality=95, exif=exif)
            image = load_image(path)
            assert image.size == (48, 32)
            left, right = np.asarray(image)[16, 4], np.asarray(image)[16, 44]
            assert left[2] > 240 and left[0] < 15, orientation
            assert right[0] > 240 and right[2] < 15, orientation
            assert image.getexif().get(0x0112) in (None, 1)  # else the next reader would turn it again

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
    def test_damaged_exif_does_not_lose_the_image(self, tmp_path):
        path = tmp_path / "damaged.jpg"
        Image.new("RGB", (20, 10), RED).save(path, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f garbage")
        assert load_image(path).size == (20, 10)

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_alpha_is_laid_on_white(self, tmp_path, mode):
        image = Image.new("RGBA", (3, 1))
        for x, alpha in enumerate((0, 128, 255)):
            image.putpixel((x, 0), (0, 0, 0, alpha))
        path = tmp_path / "alpha.png"
        image.convert(mode).save(path)
        pixels = np.asarray(load_image(path))[0].astype(int)
        assert pixels[0].tolist() == [255, 255, 255]
        assert np.abs(pixels[1] - 127).max() <= 1
        assert pixels[2].tolist() == [0, 0, 0]

    def test_colour_under_full_transparency_does_not_show(self, tmp_path):
        path = tmp_path / "hidden.png"
        Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(path)
        assert np.asarray(load_image(path)).min() == 255

    @pytest.mark.parametrize("mode", ["La", "RGBa"])
    def test_premultiplied_alpha(self, mode):
        image = Image.new("RGBA", (1, 1), (0, 0, 0, 128)).convert("LA" if mode == "La" else "RGBA").convert(mode)
        assert np.abs(np.asarray(load_image(image)).astype(int) - 127).max() <= 1

    def test_palette(self, tmp_path):
        picture = Image.new("P", (3, 1))
        picture.putpalette([*RED, *GREEN, *BLUE])
        picture.putdata([0, 1, 2])
        picture.save(tmp_path / "opaque.png")
        picture.save(tmp_path / "index.png", transparency=1)
        picture.save(tmp_path / "bytes.png", transparency=bytes([255, 255, 0]))
        assert np.asarray(load_image(tmp_path / "opaque.png"))[0].tolist() == [list(RED), list(GREEN), list(BLUE)]
        assert np.asarray(load_image(tmp_path / "index.png"))[0].tolist() == [list(RED), list(WHITE), list(BLUE)]
        assert np.asarray(load_image(tmp_path / "bytes.png"))[0].tolist() == [list(RED), list(GREEN), list(WHITE)]

    def test_greyscale_and_bilevel(self, tmp_path):
        Image.new("L", (4, 4), 77).save(tmp_path / "grey.png")
        Image.new("1", (4, 4), 1).save(tmp_path / "bilevel.png")
        assert np.asarray(load_image(tmp_path / "grey.png"))[0, 0].tolist() == [77, 77, 77]
        assert np.asarray(load_image(tmp_path / "bilevel.png"))[0, 0].tolist() == [255, 255, 255]

    def test_cmyk_jpeg(self, tmp_path):
        path = tmp_path / "cmyk.jpg"
        Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=95)
        assert Image.open(path).mode == "CMYK"
        red, green, blue = np.asarray(load_image(path))[8, 8].astype(int)
        assert red > 240 and green < 15 and blue < 15

    @pytest.mark.parametrize("name", ["deep.png", "deep.tiff"])
    def test_16_bit_greyscale_is_scaled(self, tmp_path, name):
        values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
        Image.fromarray(values).save(tmp_path / name)
        assert Image.open(tmp_path / name).mode.startswith("I;16")
        image = np.asarray(load_image(tmp_path / name))
        assert np.array_equal(image[..., 0].flatten(), np.arange(256))
        assert np.array_equal(image[..., 0], image[..., 2])

    def test_16_bit_rounds_to_the_nearest_level(self):
        image = Image.fromarray(np.array([[128, 129, 65535 - 129, 65535 - 128]], dtype=np.uint16))
        assert np.asarray(load_image(image))[0, :, 0].tolist() == [0, 1, 254, 255]

    def test_16_bit_png_with_a_transparent_value(self, tmp_path):
        rows = b"\x00" + np.array([0, 1000], dtype=">u2").tobytes()
        chunk = struct.pack(">I", 2) + b"tRNS" + struct.pack(">H", 1000)
        path = tmp_path / "transparent.png"
        path.write_bytes(png(2, 1, 16, 0, rows, chunk + struct.pack(">I", zlib.crc32(chunk[4:]))))
        assert np.asarray(load_image(path))[0, :, 0].tolist() == [0, 255]

    def test_16_bit_colour_png(self, tmp_path):
        path = tmp_path / "deep.png"
        path.write_bytes(png(1, 1, 16, 2, b"\x00" + np.array([65535, 32896, 0], dtype=">u2").tobytes()))
        assert np.asarray(load_image(path))[0, 0].tolist() == [255, 128, 0]

    def test_32_bit_integers_are_read_as_16_bit(self, tmp_path):
        path = tmp_path / "integers.tiff"
        Image.fromarray(np.array([[0, 32896, 65535]], dtype=np.int32)).save(path)
        assert Image.open(path).mode == "I"
        assert np.asarray(load_image(path))[0, :, 0].tolist() == [0, 128, 255]

    @pytest.mark.parametrize("limit", [1, 255, 65535])
    def test_float_tiff(self, tmp_path, limit):
        path = tmp_path / "float.tiff"
        Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32) * limit).save(path)
        assert Image.open(path).mode == "F"
        assert np.asarray(load_image(path))[0, :, 0].tolist() == [0, 128, 255]

    @pytest.mark.parametrize("limit", [1, 255, 65535])
    def test_float_tiff_that_a_filter_overshot(self, tmp_path, limit):
        """One value of 1.0001 made the whole picture black: its range was taken for [0, 255]."""
        path = tmp_path / "float.tiff"
        Image.fromarray(np.array([[-0.001, 0, 0.5, 1, 1.0001]], dtype=np.float32) * limit).save(path)
        assert np.asarray(load_image(path))[0, :, 0].tolist() == [0, 0, 128, 255, 255]

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (np.array([[-5, 10]], dtype=np.int32), "mode I.*in \\[0, 65535\\], got \\[-5, 10\\]"),
            (np.array([[0, 70000]], dtype=np.int32), "mode I.*got \\[0, 70000\\]"),
            (np.array([[-0.5, 0.5]], dtype=np.float32), "mode F.*got \\[-0.5, 0.5\\]"),
            (np.array([[0.0, np.nan]], dtype=np.float32), "finite"),
            (np.array([[0.0, 1.5]], dtype=np.float32), "mode F.*got \\[0, 1.5\\]"),
            (np.array([[0.0, 1023]], dtype=np.float32), "mode F.*got \\[0, 1023\\]"),
        ],
    )
    def test_values_without_a_known_scale_are_refused(self, values, message):
        with pytest.raises(ValueError, match=message):
            load_image(Image.fromarray(values))

    @pytest.mark.parametrize("name", ["moving.gif", "moving.webp", "moving.png"])
    def test_first_frame_of_an_animation(self, tmp_path, name):
        frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN, BLUE)]
        lossless = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=50, **lossless)
        assert Image.open(tmp_path / name).n_frames == 3
        image = load_image(tmp_path / name)
        assert image.mode == "RGB" and image.getpixel((4, 4)) == RED

    def test_file_objects_strings_and_pil_images(self, tmp_path):
        path = tmp_path / "picture.png"
        Image.fromarray(noise(5, 7)).save(path)
        expected = noise(5, 7)
        with open(path, "rb") as file:
            assert np.array_equal(np.asarray(load_image(file)), expected)
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(load_image(image)), expected)
        assert np.array_equal(np.asarray(load_image(str(path))), expected)
        assert np.array_equal(np.asarray(load_image(io.BytesIO(path.read_bytes()))), expected)

    def test_the_input_is_left_alone(self):
        original = Image.fromarray(noise(4, 4))
        load_image(original).paste(RED, (0, 0, 4, 4))
        assert np.array_equal(np.asarray(original), noise(4, 4))

    def test_a_header_bomb_is_refused_before_decoding(self, tmp_path):
        path = tmp_path / "bomb.png"
        path.write_bytes(png(50_000, 50_000, 8, 2, b""))  # 2.5 gigapixels in a hundred bytes
        with pytest.raises(ValueError, match="max_pixels"):
            load_image(path)

    def test_max_pixels_is_checked_on_the_header_alone(self, tmp_path):
        # There are no pixel data: had decoding come first, the message would be another.
        path = tmp_path / "hollow.png"
        path.write_bytes(png(1000, 800, 8, 2, b""))
        with pytest.raises(ValueError, match=r"at most max_pixels = 700,000 pixels, got 1000 x 800 = 800,000"):
            load_image(path, max_pixels=700_000)
        with pytest.raises(ValueError, match="could not decode"):
            load_image(path, max_pixels=800_000)

    def test_max_pixels_is_inclusive(self):
        assert load_image(Image.new("RGB", (10, 10)), max_pixels=100).size == (10, 10)
        with pytest.raises(ValueError, match="max_pixels = 99"):
            load_image(Image.new("RGB", (10, 10)), max_pixels=99)

    def test_truncated_file(self, tmp_path):
        path = tmp_path / "cut.jpg"
        Image.fromarray(noise(64, 64)).save(path)
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(ValueError, match=r"cut\.jpg.*could not decode it.*truncated"):
            load_image(path)
        with Image.open(path) as image, pytest.raises(ValueError, match="images must be a readable image"):
            FQGANImageProcessor()(image)

    @pytest.mark.parametrize("content", [b"", b"not an image at all", b"\x89PNG\r\n\x1a\n"])
    def test_no_image_file(self, tmp_path, content):
        path = tmp_path / "text.png"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"text\.png' must be an image file \(JPEG"):
            load_image(path)

    def test_formats_that_start_programs_are_not_read(self, tmp_path):
        path = tmp_path / "drawing.eps"
        Image.new("RGB", (4, 4)).save(path)
        with pytest.raises(ValueError, match="must be an image file"):
            load_image(path)

    def test_missing_file_and_wrong_arguments(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere.png"):
            load_image(tmp_path / "nowhere.png")
        with pytest.raises(ValueError, match="path_or_file must be a path.*got int"):
            load_image(3)
        with pytest.raises(ValueError, match="at least one pixel, got 0 x 5"):
            load_image(Image.new("RGB", (0, 5)))
        with pytest.raises(ValueError, match="max_pixels must be a positive integer, got 0"):
            load_image(Image.new("RGB", (5, 5)), max_pixels=0)


class TestInputs:
    def test_all_kinds_give_the_same_pixels(self, processor):
        array = noise(32, 48)
        tensor = torch.from_numpy(array).permute(2, 0, 1)
        kinds = [
            Image.fromarray(array),
            array,
            array.astype(np.uint16) * 257,
            array.astype(np.float32) / 255,
            array.astype(np.float64) / 255,
            tensor,
            tensor.float() / 255,
            (tensor.to(torch.int32) * 257).to(torch.uint16),
        ]
        pixel_values = processor(kinds).pixel_values
        assert pixel_values.shape == (len(kinds), 3, 32, 48)
        assert pixel_values.dtype == torch.float32
        expected = torch.from_numpy(array).permute(2, 0, 1) / 127.5 - 1
        assert (pixel_values - expected).abs().max() < 1e-6
        assert pixel_values.min() == -1 and pixel_values.max() == 1

    def test_batches_and_single_images(self, processor):
        batch = np.stack([noise(16, 16, seed=seed) for seed in range(3)])
        expected = processor(list(batch)).pixel_values
        assert torch.equal(processor(batch).pixel_values, expected)
        assert torch.equal(processor(torch.from_numpy(batch).permute(0, 3, 1, 2)).pixel_values, expected)
        assert torch.equal(processor(tuple(batch)).pixel_values, expected)
        assert torch.equal(processor(batch[0]).pixel_values, expected[:1])

    def test_half_precision_and_gradients(self, processor):
        tensor = torch.linspace(0, 1, 256).reshape(1, 16, 16).expand(3, 16, 16)
        exact = processor(tensor).pixel_values
        for dtype in (torch.bfloat16, torch.float16):
            assert (processor(tensor.to(dtype)).pixel_values - exact).abs().max() < 2**-7
        assert not processor(tensor.clone().requires_grad_()).pixel_values.requires_grad

    def test_grey_and_alpha_arrays(self, processor):
        grey = noise(16, 16, 1)
        for image in (grey, grey[..., 0], torch.from_numpy(grey[..., 0]), grey.astype(np.float32) / 255):
            assert np.array_equal(to_8_bit(processor(image).pixel_values)[0], grey.repeat(3, axis=-1))
        clear = np.zeros((16, 16, 4), dtype=np.uint8)
        half = clear.copy()
        half[..., 3] = 128
        for scale in (1, 1 / 255):
            dtype = np.uint8 if scale == 1 else np.float32
            assert to_8_bit(processor((clear * scale).astype(dtype)).pixel_values).min() == 255
            assert np.abs(to_8_bit(processor((half * scale).astype(dtype)).pixel_values).astype(int) - 127).max() <= 1

    @pytest.mark.parametrize("kind", [np.matrix, np.ma.MaskedArray, np.memmap], ids=lambda kind: kind.__name__)
    def test_kinds_of_arrays(self, processor, kind, tmp_path):
        """np.matrix stays two-dimensional whatever is asked of it: its pixels went to where no memory was."""
        grey = noise(16, 16, 1)[..., 0]
        image = grey.view(kind)
        if kind is np.memmap:
            image = np.memmap(tmp_path / "image", grey.dtype, "w+", shape=grey.shape)
            image[:] = grey
        assert torch.equal(processor(image).pixel_values, processor(grey).pixel_values)

    def test_16_bit_arrays_keep_their_precision(self, processor):
        ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) + 30000  # within one 8-bit level
        assert len(processor(ramp).pixel_values[0, 0].unique()) == 256

    def test_numpy_output(self, processor):
        values = processor(noise(16, 16), return_tensors="np")["pixel_values"]
        assert isinstance(values, np.ndarray) and values.shape == (1, 3, 16, 16) and values.dtype == np.float32

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            ([], "images must hold at least one image, got an empty list"),
            (np.zeros((0, 16, 16, 3), np.uint8), "images must hold at least one image"),
            ("photo.jpg", r"images must be a PIL image.*load_image.*got str"),
            ([None], r"images\[0\] must be a PIL image.*got NoneType"),
            ([[Image.new("RGB", (16, 16))]], r"images\[0\] must be a PIL image.*got list"),
            (np.zeros((16, 16, 2), np.uint8), r"images must have shape .*C = 1, 3 or 4, got \(16, 16, 2\)"),
            (torch.zeros(16, 16, 3), r"\(C, H, W\) with C = 1, 3 or 4, got \(16, 16, 3\)"),
            (np.zeros((3, 16, 16), np.uint8), r"\(H, W, C\) with C = 1, 3 or 4, got \(3, 16, 16\)"),
            (torch.zeros(2, 5, 16, 16), r"images\[0\] must have shape .*got \(5, 16, 16\)"),
            (torch.zeros(16), r"must have shape .*got \(16,\)"),
            ([np.zeros((1, 16, 16, 3), np.uint8)], r"images\[0\] must have shape .*got \(1, 16, 16, 3\)"),
            (np.zeros((16, 16, 3), np.int64), "type uint8, uint16 or float, got int64"),
            (torch.zeros(3, 16, 16, dtype=torch.bool), "type uint8, uint16 or float, got bool"),
            (np.full((16, 16, 3), np.nan), "images must hold finite values"),
            (np.full((16, 16, 3), np.inf, np.float32), "images must hold finite values"),
            (torch.rand(3, 16, 16) * 2 - 1, r"floats in \[0, 1\] \(map \[-1, 1\] there.*got values in \[-"),
            (np.full((16, 16, 3), 200.0), r"8-bit values belong in a uint8 array\), got values in \[200, 200\]"),
            (np.zeros((16, 0, 3), np.uint8), "at least one pixel, got 0 x 16"),
            (Image.new("RGB", (15, 100)), r"at least 16 pixels on each side, got 15 x 100 \(width x height\)"),
            ([noise(16, 16), noise(32, 16)], r"one \(height, width\).*\[\(16, 16\), \(32, 16\)\]: pass size="),
            ([noise(16, 16), noise(8, 8)], r"images\[1\] must be at least 16 pixels"),
        ],
    )
    def test_bad_images_are_refused_by_name(self, processor, images, message):
        with pytest.raises(ValueError, match=message):
            processor(images)

    def test_too_large(self):
        processor = FQGANImageProcessor(max_pixels=1000)
        for image in (Image.new("RGB", (40, 32)), noise(32, 40), torch.zeros(3, 32, 40)):
            with pytest.raises(ValueError, match=r"images must have at most max_pixels = 1,000 pixels, got 40 x 32"):
                processor(image)
        assert processor(Image.new("RGB", (40, 32)), max_pixels=2000).pixel_values.shape == (1, 3, 32, 32)


class TestGeometry:
    @pytest.mark.parametrize("kind", [Image.fromarray, lambda array: array, lambda array: array / np.float32(255)])
    def test_own_size_is_cropped_around_the_centre(self, processor, kind):
        array = noise(37, 50)
        pixels = to_8_bit(processor(kind(array)).pixel_values)[0]
        assert np.array_equal(pixels, array[2:34, 1:49])

    def test_multiple_of(self):
        array = noise(37, 50)
        assert FQGANImageProcessor(multiple_of=8)(array).pixel_values.shape == (1, 3, 32, 48)
        assert FQGANImageProcessor(multiple_of=1)(array).pixel_values.shape == (1, 3, 37, 50)

    @pytest.mark.parametrize("height_width", [(96, 144), (144, 96), (64, 64), (32, 40)])
    def test_shorter_side_to_size_then_centre(self, height_width):
        image = Image.fromarray(photo(*height_width))
        scale = 48 / min(height_width)  # chosen so that sides and margins come out whole
        size = tuple(int(side * scale) for side in image.size)
        left, top = (size[0] - 48) // 2, (size[1] - 48) // 2
        expected = np.asarray(image.resize(size, Image.Resampling.LANCZOS))[top : top + 48, left : left + 48]
        assert np.array_equal(to_8_bit(FQGANImageProcessor(size=48)(image).pixel_values)[0], expected)

    def test_the_kept_part_is_exactly_central(self):
        image = Image.fromarray(photo(90, 131))
        pixel_values = FQGANImageProcessor(size=48)([image, ImageOps.mirror(image)]).pixel_values
        assert (pixel_values[0] - pixel_values[1].flip(-1)).abs().max() * 127.5 < 1.5

    def test_height_and_width_cover_the_target(self):
        image = Image.new("RGB", (200, 100), RED)
        ImageDraw.Draw(image).rectangle((60, 0, 139, 99), fill=BLUE)  # the central 80 x 100
        processor = FQGANImageProcessor(size={"height": 80, "width": 64})
        pixels = to_8_bit(processor(image).pixel_values)[0]
        assert pixels.shape == (80, 64, 3)
        assert np.abs(pixels[:, 2:-2].astype(int) - BLUE).max() <= 1  # 64 : 80 of a height of 100 is 80 wide

    def test_no_crop_stretches_or_scales_along(self):
        image = Image.fromarray(photo(60, 100))
        assert FQGANImageProcessor(size=32, do_center_crop=False)(image).pixel_values.shape == (1, 3, 32, 48)
        stretched = FQGANImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)(image).pixel_values
        expected = np.asarray(image.resize((32, 32), Image.Resampling.LANCZOS))
        assert np.array_equal(to_8_bit(stretched)[0], expected)

    def test_no_resize_only_crops(self):
        array = noise(40, 40)
        processor = FQGANImageProcessor(size=32, do_resize=False)
        assert np.array_equal(to_8_bit(processor(array).pixel_values)[0], array[4:36, 4:36])
        with pytest.raises(ValueError, match=r"at least 32 x 32 when do_resize is False, got 40 x 20"):
            processor(array[:20])

    def test_neither_resize_nor_crop_asks_for_divisible_sides(self):
        processor = FQGANImageProcessor(do_center_crop=False)
        assert processor(noise(32, 48)).pixel_values.shape == (1, 3, 32, 48)
        with pytest.raises(ValueError, match=r"divisible by 16 when do_center_crop is False, got 40 x 32"):
            processor(noise(32, 40))

    def test_downscaling_is_antialiased(self):
        stripes = np.zeros((256, 256, 3), dtype=np.uint8)
        stripes[:, ::2] = 255  # any filter that skips pixels sees black or white, not grey
        for resample in ("lanczos", "bicubic", "bilinear"):
            for image in (Image.fromarray(stripes), stripes / np.float32(255)):
                inner = to_8_bit(FQGANImageProcessor(size=32, resample=resample)(image).pixel_values)[0, :, 2:-2]
                assert np.abs(inner.astype(int) - 127).max() <= 3
        nearest = to_8_bit(FQGANImageProcessor(size=32, resample="nearest")(stripes).pixel_values)
        assert set(np.unique(nearest)) <= {0, 255}

    def test_floats_are_resized_like_8_bit_images(self):
        array = photo(70, 90)
        pixel_values = FQGANImageProcessor(size=32)([Image.fromarray(array), array / np.float32(255)]).pixel_values
        assert (pixel_values[0] - pixel_values[1]).abs().max() * 127.5 < 1.5  # two roundings at most

    def test_overshoot_stays_in_range(self):
        edge = np.zeros((40, 40, 3), dtype=np.float32)
        edge[:, 20:] = 1
        pixel_values = FQGANImageProcessor(size=160)(edge).pixel_values
        assert pixel_values.min() == -1 and pixel_values.max() == 1

    def test_different_sizes_form_a_batch_with_size(self):
        images = [noise(20, 90), Image.new("L", (300, 200)), torch.rand(3, 33, 31)]
        assert FQGANImageProcessor(size=32)(images).pixel_values.shape == (3, 3, 32, 32)

    def test_extreme_aspect_ratio_costs_no_memory(self):
        strip = Image.new("RGB", (1, 60_000), RED)
        assert FQGANImageProcessor(size=32)(strip).pixel_values.shape == (1, 3, 32, 32)
        with pytest.raises(ValueError, match="images after resizing must have at most max_pixels"):
            FQGANImageProcessor(size=64, do_center_crop=False)(strip)

    def test_call_overrides_the_settings_and_leaves_them(self):
        processor = FQGANImageProcessor(size=32)
        assert processor(noise(50, 50), size=48).pixel_values.shape == (1, 3, 48, 48)
        assert processor(noise(50, 50)).pixel_values.shape == (1, 3, 32, 32)
        with pytest.raises(ValueError, match="size must be divisible by multiple_of = 16, got 40"):
            processor(noise(50, 50), size=40)


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"size": 100}, "size must be divisible by multiple_of = 16, got 100"),
            ({"size": 0}, "size must be None, a positive integer or .*, got 0"),
            ({"size": 16_000}, "size must have at most max_pixels = 89,478,485 pixels, got 16000"),
            ({"size": {"height": 10**9, "width": 16}}, "size must have at most max_pixels"),
            ({"size": [32, 32]}, r"size must be None, a positive integer or .*got \[32, 32\]"),
            ({"size": {"shortest_edge": 32}}, 'size must have the keys "height" and "width"'),
            ({"size": {"height": 32, "width": 2.5}}, r'size\["width"\] must be a positive integer, got 2.5'),
            ({"resample": "sinc"}, "resample must be one of .*lanczos.*got 'sinc'"),
            ({"max_pixels": None}, "max_pixels must be a positive integer, got None"),
            ({"multiple_of": 0}, "multiple_of must be a positive integer, got 0"),
            ({"do_resize": "no"}, "do_resize must be True or False, got 'no'"),
            ({"do_normalize": False}, r"unknown settings \['do_normalize'\], accepted are size"),
        ],
    )
    def test_bad_settings_are_refused(self, settings, message):
        with pytest.raises(ValueError, match=message):
            FQGANImageProcessor(**settings)

    def test_pillow_constant_as_filter(self):
        assert FQGANImageProcessor(resample=Image.Resampling.BICUBIC).resample == "bicubic"

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"size": 64, "do_center_crop": False, "resample": "bicubic", "max_pixels": 12345},
            {"size": {"height": 24, "width": 40}, "do_resize": False, "multiple_of": 8},
        ],
    )
    def test_save_and_load(self, tmp_path, settings):
        processor = FQGANImageProcessor(**settings)
        processor.save_pretrained(tmp_path)
        stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
        assert stored["image_processor_type"] == "FQGANImageProcessor"
        loaded = FQGANImageProcessor.from_pretrained(tmp_path)
        assert loaded.to_dict() == processor.to_dict()
        for name, value in settings.items():
            assert getattr(loaded, name) == value

    def test_load_with_overrides(self, tmp_path):
        FQGANImageProcessor(size=64).save_pretrained(tmp_path)
        loaded = FQGANImageProcessor.from_pretrained(tmp_path, size=24, multiple_of=8, max_pixels=999)
        assert (loaded.size, loaded.multiple_of, loaded.max_pixels) == (24, 8, 999)
        with pytest.raises(ValueError, match="unknown settings"):
            FQGANImageProcessor.from_pretrained(tmp_path, image_mean=[0.5, 0.5, 0.5])


class TestPostprocess:
    def test_every_level_survives_the_round_trip(self, processor):
        levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=-1)
        pixel_values = processor(levels).pixel_values
        assert np.array_equal(np.asarray(processor.postprocess(pixel_values)[0]), levels)
        assert np.array_equal((processor.postprocess(pixel_values, "np")[0] * 255).round(), levels)
        assert torch.allclose(processor(processor.postprocess(pixel_values, "pt")).pixel_values, pixel_values)

    def test_rounds_to_the_nearest_level(self, processor):
        # Truncation would give one less for everything just below a level.
        below, above = ((torch.tensor([99.6, 100.4]) / 127.5) - 1).tolist()
        samples = torch.tensor([below, above, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
        assert processor.postprocess(samples)[0].getpixel((0, 0)) == (100, 100, 128)

    def test_clamps(self, processor):
        samples = torch.tensor([-7.0, 0.5, 7.0]).view(1, 3, 1, 1)
        assert processor.postprocess(samples)[0].getpixel((0, 0)) == (0, 191, 255)
        assert processor.postprocess(samples, "np").tolist() == [[[[0.0, 0.75, 1.0]]]]
        assert processor.postprocess(samples, "pt").flatten().tolist() == [0.0, 0.75, 1.0]

    def test_layouts_and_types(self, processor):
        samples = torch.rand(2, 3, 4, 5) * 2 - 1
        images, array, tensor = (processor.postprocess(samples, kind) for kind in ("pil", "np", "pt"))
        assert [image.size for image in images] == [(5, 4)] * 2 and images[0].mode == "RGB"
        assert array.shape == (2, 4, 5, 3) and array.dtype == np.float32
        assert tensor.shape == (2, 3, 4, 5) and tensor.dtype == torch.float32
        assert np.allclose(array.transpose(0, 3, 1, 2), tensor.numpy())
        assert torch.allclose(tensor, samples / 2 + 0.5)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_other_precisions(self, processor, dtype):
        samples = (torch.rand(1, 3, 8, 8) * 2 - 1).to(dtype).requires_grad_()
        exact = to_8_bit(samples.detach())[0]
        assert np.abs(np.asarray(processor.postprocess(samples)[0]).astype(int) - exact).max() <= 1
        assert processor.postprocess(samples, "np").dtype == np.float32
        assert processor.postprocess(samples, "pt").dtype == torch.float32

    @pytest.mark.parametrize(
        ("samples", "output_type", "message"),
        [
            (torch.zeros(1, 3, 4, 4), "latent", "output_type must be .*, got 'latent'"),
            (torch.zeros(1, 3, 4, 4), "PIL", "output_type must be .*, got 'PIL'"),
            (torch.zeros(3, 4, 4), "pil", r"samples must have shape \(B, 3, H, W\), got \(3, 4, 4\)"),
            (torch.zeros(1, 4, 4, 4), "pil", r"got \(1, 4, 4, 4\)"),
            (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "pil", "floating-point torch tensor, got torch.uint8"),
            (np.zeros((1, 3, 4, 4)), "pil", "floating-point torch tensor, got ndarray"),
            (torch.full((1, 3, 4, 4), torch.nan), "pil", "samples must hold finite values"),
        ],
    )
    def test_refusals(self, processor, samples, output_type, message):
        with pytest.raises(ValueError, match=message):
            processor.postprocess(samples, output_type)


@pytest.mark.gpu
def test_cuda_tensors(processor):
    samples = (torch.rand(2, 3, 16, 16, device="cuda") * 2 - 1).bfloat16()
    images = processor.postprocess(samples, "pt")
    assert images.device.type == "cuda"
    pixel_values = processor(images).pixel_values
    assert pixel_values.device.type == "cpu"
    assert torch.allclose(pixel_values, samples.float().cpu(), atol=1e-6)
    assert len(processor.postprocess(samples)) == 2


# A machine with neither torchvision nor this package: only the pushed files are there.
REMOTE_CODE = """
import sys

sys.modules["torchvision"] = sys.modules["fqgan_hf"] = None  # importing them fails as if they were not installed

import numpy as np
from transformers import AutoImageProcessor

processor = AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules."), type(processor).__module__
print(processor.size, processor(np.full((40, 40, 3), 255, np.uint8)).pixel_values.mean().item())
processor.save_pretrained(sys.argv[2])
"""


def test_remote_code_without_torchvision(tmp_path, monkeypatch):
    monkeypatch.setattr(FQGANImageProcessor, "_auto_class", "AutoImageProcessor")  # what pushing does
    pushed, saved_again = tmp_path / "pushed", tmp_path / "again"
    FQGANImageProcessor(size=32).save_pretrained(pushed)
    assert sorted(file.name for file in pushed.iterdir()) == ["image_processing_fqgan.py", "preprocessor_config.json"]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_MODULES_CACHE", None)
    result = subprocess.run(
        [sys.executable, "-c", REMOTE_CODE, pushed, saved_again],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["32", "1.0"]
    # Saved by a machine that loaded it as remote code, it still says where its class is.
    config = json.loads((saved_again / "preprocessor_config.json").read_text())
    assert re.fullmatch(r".*image_processing_fqgan\.FQGANImageProcessor", config["auto_map"]["AutoImageProcessor"])
    assert FQGANImageProcessor.from_pretrained(saved_again).size == 32

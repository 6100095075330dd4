# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Grids of pictures with captions."""

import numpy as np
import pytest
from PIL import Image

from fqgan_hf.evaluation.pictures import image_grid


class TestImageGrid:
    def test_small_pictures_are_enlarged_without_smoothing(self):
        tiny = Image.new("RGB", (8, 8), "red")
        tiny.putpixel((0, 0), (0, 0, 255))
        grid = image_grid([[tiny]], min_cell_size=96, padding=4)
        assert grid.size == (96 + 8, 96 + 8)
        inner = np.asarray(grid)[4:100, 4:100]
        assert (inner[:12, :12] == (0, 0, 255)).all()
        assert (inner[12:] == (255, 0, 0)).all() and (inner[:12, 12:] == (255, 0, 0)).all()
        assert np.asarray(image_grid([[tiny]], min_cell_size=1, padding=4)).shape == (16, 16, 3)

    def test_large_pictures_are_pasted_unchanged_in_order(self):
        colors = [["red", "lime", "blue"], ["yellow", "cyan", "magenta"]]
        grid = image_grid([[Image.new("RGB", (100, 50), color) for color in row] for row in colors], padding=10)
        assert grid.size == (3 * 100 + 4 * 10, 2 * 50 + 3 * 10)
        for row, names in enumerate(colors):
            for column, name in enumerate(names):
                left, top = 10 + column * 110, 10 + row * 60
                cell = grid.crop((left, top, left + 100, top + 50))
                assert cell.getcolors() == [(5000, Image.new("RGB", (1, 1), name).getpixel((0, 0)))]

    def test_captions_take_room_and_leave_the_pictures_alone(self):
        rows = [[Image.new("RGB", (64, 64), "red")] * 2] * 2
        plain = image_grid(rows, min_cell_size=64)
        columns, sides = ["original", "both codebooks of the model"], ["photograph", "drawing"]
        labelled = image_grid(rows, columns, sides, title="Reconstructions", min_cell_size=64)
        assert labelled.width > plain.width and labelled.height > plain.height

        def count(image, color):
            return int((np.asarray(image) == color).all(axis=-1).sum())

        assert count(labelled, (255, 0, 0)) == count(plain, (255, 0, 0)) == 4 * 64 * 64
        for change in ({"column_captions": None}, {"row_captions": None}, {"title": None}):
            arguments = {"column_captions": columns, "row_captions": sides, "title": "Reconstructions", **change}
            fewer = image_grid(rows, **arguments, min_cell_size=64)
            assert count(fewer, (0x22, 0x22, 0x22)) < count(labelled, (0x22, 0x22, 0x22))

    def test_text_stays_inside(self):
        """No caption is cut off at a border, however long it is next to its picture."""
        rows = [[Image.new("RGB", (16, 16), "red")] * 2]
        grid = image_grid(rows, ["internationalisation", "b"], ["gjpqy\n" * 3], "A title " * 12, min_cell_size=1)
        pixels = np.asarray(grid)
        for border in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
            assert (border == 255).all()

    def test_mixed_modes_sizes_and_gaps(self):
        rows = [
            [Image.new("L", (120, 100), 40), None, Image.new("RGBA", (100, 130), "blue")],
            [Image.new("P", (100, 100))],
        ]
        grid = image_grid(rows, ["a", "b", "c"], ["x", "y"])
        assert grid.mode == "RGB"
        assert grid.width > 120 + 100 and grid.height > 130 + 100

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"rows": []}, "rows must hold at least one image"),
            ({"rows": [[None], []]}, "rows must hold at least one image"),
            ({"rows": [[np.zeros((4, 4))]]}, "rows must hold PIL images .*got ndarray"),
            ({"rows": [[Image.new("RGB", (0, 4))]]}, r"got an image of size \(0, 4\)"),
            (
                {"rows": [[Image.new("L", (4, 4))]], "column_captions": ["a", "b"]},
                "column_captions must be a list of 1",
            ),
            ({"rows": [[Image.new("L", (4, 4))]] * 2, "row_captions": "ab"}, "row_captions must be a list of 2"),
            ({"rows": [[Image.new("L", (4, 4))]], "padding": -1}, "padding must be an integer of at least 0, got -1"),
            (
                {"rows": [[Image.new("L", (4, 4))]], "min_cell_size": 0},
                "min_cell_size must be an integer of at least 1",
            ),
        ],
    )
    def test_bad_input_is_named(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            image_grid(**arguments)

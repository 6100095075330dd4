# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a data set tells of an image besides its class: captions, and a map.

    conditions = ImageConditions(images, caption_columns=["caption", "keywords"], map_column="map", num_labels=13)
    conditions.check()
    captions, map_image = conditions.read(0, images[0][0].size)

Maps are label maps, or RGB pictures such as depth, edges, or the image itself in a low resolution.
"""

from collections.abc import Sequence
from functools import partial

import datasets
from PIL import Image

from fqgan_hf.evaluation.images import LabelledImages, UnreadableImageError, check_sample, find_image_column
from fqgan_hf.evaluation.label_images import load_label_map
from fqgan_hf.modeling.image_processing_fqgan import load_image


class ImageConditions:
    """
    Captions and maps of a set of images.

    Args:
        images ([`LabelledImages`]): The images.
        caption_columns (`Sequence[str]`): Columns of texts, or of lists of texts. None of them: no captions.
        map_column (`str`, *optional*): A column of pictures as large as the images. Without it there are no maps.
        num_labels (`int`, *optional*): Maps are label maps with labels in [0, num_labels); otherwise they are RGB.

    Raises:
        ValueError: There is no such column, or it holds something else.
    """

    def __init__(
        self,
        images: LabelledImages,
        caption_columns: Sequence[str] = (),
        map_column: str | None = None,
        num_labels: int | None = None,
    ):
        self.images = images
        self.caption_columns = list(caption_columns)
        self.map_column = map_column
        _check_caption_columns(images.dataset, self.caption_columns)
        self.texts = images.dataset.select_columns(self.caption_columns) if self.caption_columns else None
        self.maps = None
        if map_column is not None:
            find_image_column(images.dataset, map_column, "map_column")
            read = load_image if num_labels is None else partial(load_label_map, num_labels=num_labels)
            self.maps = LabelledImages(images.dataset, map_column, None, images.source, images.root, read=read)

    @property
    def columns(self) -> list[str]:
        """All columns that are read, captions first."""
        return [*self.caption_columns, *([] if self.map_column is None else [self.map_column])]

    def captions(self, index: int) -> list[str]:
        """
        The captions of an image, column by column, each once; none where there are no columns of captions.

        Raises:
            UnreadableImageError: It has none, and should.
        """
        if self.texts is None:
            return []
        row = self.texts[index]
        texts = (text for column in self.caption_columns for text in _as_texts(row[column]))
        captions = list(dict.fromkeys(filter(None, map(str.strip, texts))))
        if not captions:
            raise UnreadableImageError(
                f"image {self.images.name(index)!r} has no caption in {', '.join(self.caption_columns)}"
            )
        return captions

    def map(self, index: int, size: tuple[int, int]) -> Image.Image | None:
        """
        The map of an image, as `load_label_map` or `load_image` gives it; None where there are no maps.

        Args:
            index (`int`): Number of the image.
            size (`tuple[int, int]`): Width and height of the image.

        Raises:
            UnreadableImageError: It cannot be read, has another size, or holds labels out of range.
        """
        if self.maps is None:
            return None
        name = self.images.name(index)
        try:
            picture, _ = self.maps[index]
        except UnreadableImageError as error:
            reason = error.__cause__ or error
            raise UnreadableImageError(f"{self.map_column} of image {name!r} cannot be read: {reason}") from error
        if picture.size != size:
            raise UnreadableImageError(
                f"{self.map_column} of image {name!r} must have the size of the image, {size[0]} x {size[1]} pixels, "
                f"got {picture.width} x {picture.height}"
            )
        return picture

    def read(self, index: int, size: tuple[int, int]) -> tuple[list[str], Image.Image | None]:
        """Captions and map of an image: see `captions` and `map`."""
        return self.captions(index), self.map(index, size)

    def check(self) -> None:
        """
        Find what does not fit before any work, as far as `check_sample` sees it; the rest is found where it is read.

        Raises:
            UnreadableImageError: See `captions` and `map`.
        """
        check_sample(self.images, self._check)

    def _check(self, index: int) -> None:
        self.read(index, self.images[index][0].size if self.maps is not None else (0, 0))


def _as_texts(value: str | list[str] | None) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for text in value or () if text is not None]


def _check_caption_columns(dataset: datasets.Dataset, columns: Sequence[str]) -> None:
    text_columns = [name for name, feature in dataset.features.items() if _is_text(feature)]
    for column in columns:
        if column not in text_columns:
            raise ValueError(f"caption_column must be among the columns of texts {text_columns}, got {column!r}")
    if len(set(columns)) < len(columns):
        raise ValueError(f"caption_column must name each column once, got {list(columns)}")


def _is_text(feature: object) -> bool:
    """Whether a feature of `datasets` is one of texts, or of lists of texts."""
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        feature = feature.feature
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")

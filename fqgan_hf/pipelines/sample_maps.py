# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The maps of `fqgan sample`: all of them checked before any model is loaded, each decoded where an image needs it.

    maps = SamplingMaps.describe(folder, config, [Image.open("map.png"), *read_maps(Path("maps"))])
    maps[0], len(maps), maps.described
    pipe(map_image=maps.in_turn([0, 1, 2, 3])[:2])

Maps of files are kept as the bytes of their files, which are a fraction of their pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256 as new_sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fqgan_hf.evaluation.label_images import load_label_map
from fqgan_hf.files import read_json
from fqgan_hf.modeling.configuration_generator import GeneratorConfig
from fqgan_hf.modeling.image_processing_fqgan import load_image
from fqgan_hf.pipelines.conditions import LABEL_MODES
from fqgan_hf.pipelines.generation_files import MapFile


@dataclass(frozen=True)
class SamplingMaps(Sequence):
    """
    Maps that a generator reads, as pictures that its pipeline takes.

    Args:
        given (`Sequence[PIL.Image.Image | MapFile]`): At least one.
        num_labels (`int`, *optional*): They are label maps with labels in [0, num_labels); otherwise pictures.
        size (`tuple[int, int]`): Width and height of label maps, in pixels. Pictures are scaled and cropped.
        sha256 (`str`): Over sizes and pixels of all of them, whatever files or pictures these came in.
    """

    given: Sequence[Image.Image | MapFile]
    num_labels: int | None
    size: tuple[int, int]
    sha256: str = ""

    @classmethod
    def describe(cls, folder: Path, config: GeneratorConfig, given: Sequence[Image.Image | MapFile]) -> "SamplingMaps":
        """
        Check maps, each of which is decoded once.

        Args:
            folder (`Path`): Of the pipeline; its map tokenizer says which maps there may be.
            config ([`GeneratorConfig`]): Of its generator, which reads maps.
            given (`Sequence[PIL.Image.Image | MapFile]`): See [`SamplingMaps`].

        Raises:
            ValueError: There is none, one is no picture, or a label map of another size or with labels out of range.
        """
        _check_pictures(given)
        tokenizer = folder / "map_vqmodel" / "config.json"
        if not tokenizer.is_file():
            raise ValueError(
                f"map_vqmodel must be a component of the pipeline for maps to be given, {folder} has none"
            )
        settings = read_json(tokenizer)
        factor = 2 ** (len(settings["block_out_channels"]) - 1)
        size = config.map_grid_width * factor, config.map_grid_height * factor
        maps = cls(list(given), settings.get("num_labels"), size)
        digest = new_sha256()
        for picture in maps:
            values = np.asarray(picture).astype(np.uint8 if maps.num_labels is None else "<i8")
            digest.update(f"{picture.width}x{picture.height}\n".encode() + values.tobytes())
        return replace(maps, sha256=digest.hexdigest())

    @property
    def described(self) -> dict[str, Any]:
        """What a manifest says of them."""
        return {"number": len(self), "sha256": self.sha256}

    def in_turn(self, indices: Sequence[int]) -> "MapsInTurn":
        """The maps of images, by the numbers of these."""
        return MapsInTurn(self, indices)

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, index: int) -> Image.Image:
        one = self.given[index]
        name = f"--maps: {one.name}" if isinstance(one, MapFile) else f"maps[{index}]"
        try:
            picture = self._picture(one)
            if self.num_labels is not None and picture.size != self.size:
                raise ValueError(
                    f"it must have {self.size[0]} x {self.size[1]} pixels (width x height), as the generator reads "
                    f"maps, got {picture.width} x {picture.height}"
                )
        except ValueError as error:
            raise ValueError(f"{name}: {str(error).replace('path_or_file', 'it')}") from error
        return picture

    def _picture(self, one: Image.Image | MapFile) -> Image.Image:
        stored = BytesIO(one.content) if isinstance(one, MapFile) else one
        if self.num_labels is None:
            return load_image(stored)
        if isinstance(one, MapFile):
            return load_label_map(stored, self.num_labels)
        _check_labels(one, self.num_labels)
        return one


class MapsInTurn(Sequence):
    """
    `maps[i % len(maps)]` of some images, each decoded when it is asked for.

    Args:
        maps ([`SamplingMaps`]): All there are.
        indices (`Sequence[int]`): Numbers of the images.
    """

    def __init__(self, maps: SamplingMaps, indices: Sequence[int]):
        self.maps, self.indices = maps, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        return self.maps[self.indices[place] % len(self.maps)]


def _check_pictures(given: Any) -> None:
    """Raise `ValueError` unless these are pictures, and at least one."""
    is_list = isinstance(given, Sequence) and not isinstance(given, (str, bytes, MapFile))
    if not is_list or not given:
        raise ValueError(f"maps must be a non-empty list of PIL images, got {given!r:.80}")
    if wrong := [one for one in given if not isinstance(one, (Image.Image, MapFile))]:
        raise ValueError(f"maps must be PIL images, got {wrong[0]!r:.80}")


def _check_labels(picture: Image.Image, num_labels: int) -> None:
    """Raise `ValueError` for a picture from Python that is no label map."""
    if picture.mode not in LABEL_MODES:
        raise ValueError(f"a label map must have one of the modes {', '.join(LABEL_MODES)}, got mode {picture.mode}")
    least, most = (int(value) for value in (np.min(picture), np.max(picture)))
    if least < 0 or most >= num_labels:
        raise ValueError(f"labels must be in [0, {num_labels - 1}], got {most if least >= 0 else least}")

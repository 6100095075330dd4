# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The manifest of a store of codes: what they are, and which shards hold them. See `fqgan_hf.codes.store`."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fqgan_hf.files import MANIFEST, read_json


if TYPE_CHECKING:
    from fqgan_hf.evaluation.images import LabelledImages
    from fqgan_hf.modeling.modeling_fqgan import FQGANModel


@dataclass
class MapCodes:
    """
    What the map codes of a store are: those of a map of each image, view by view as the image's own.

    Args:
        tokenizer (`str`): Name or path of the map tokenizer.
        tokenizer_fingerprint (`str`): Its `fingerprint()`.
        num_codebooks, codebook_size (`int`): Its Km and Vm.
        grid (`list[int]`): Height and width of the grid of a map's codes.
    """

    tokenizer: str
    tokenizer_fingerprint: str
    num_codebooks: int
    codebook_size: int
    grid: list[int]

    @classmethod
    def describe(cls, model: "FQGANModel", tokenizer: str, resolution: int) -> "MapCodes":
        """Of the codes that a map tokenizer gives for maps of `resolution` pixels along each side."""
        size, config = model.grid_size(resolution, resolution), model.config
        return cls(tokenizer, model.fingerprint(), config.num_codebooks, config.codebook_size, list(size))


@dataclass
class CodesManifest:
    """
    What a store of codes is.

    Args:
        tokenizer (`str`): Name or path of the tokenizer that made the codes.
        tokenizer_fingerprint (`str`): Its `fingerprint()`.
        num_codebooks, codebook_size (`int`): K and V.
        grid (`list[int]`, *optional*): Height and width of the code grid; None where every row has its own.
        resolution (`int`, *optional*): Side of the crops, in pixels; None as above.
        crop (`str`): How images were cut, one of training's `CROPS`; `"native"` where they keep their size.
        views (`list[str]`): Name of each view of an image, in order.
        source (`str`): Where the images came from.
        shard_size (`int`): Images per shard.
        num_rows (`int`): Images in all, whether or not they could be read.
        id2label (`dict[str, str]`): Class id to name.
        shards (`list[dict]`): `file`, `rows` and `sha256` of each shard, in the order of the images.
        skipped (`list[str]`): Ids of the images that could not be read and have no row.
        stochastic (`bool`): Whether codes were drawn from the tokenizer's distribution rather than its likeliest ones.
        seed (`int`, *optional*): Where they were, what the draws follow from.
        images_fingerprint (`str`, *optional*): What other images do not have; `fqgan encode` notes it.
        captions (`bool`): Whether each row has captions.
        map ([`MapCodes`], *optional*): What the map codes are, where rows have them.
        condition_columns (`list[str]`, *optional*): The columns of the data that captions and maps come from.
    """

    tokenizer: str
    tokenizer_fingerprint: str
    num_codebooks: int
    codebook_size: int
    grid: list[int] | None
    resolution: int | None
    crop: str
    views: list[str]
    source: str
    shard_size: int
    num_rows: int
    id2label: dict[str, str]
    shards: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    format_version: int = 1
    stochastic: bool = False
    seed: int | None = None
    images_fingerprint: str | None = None
    captions: bool = False
    map: MapCodes | None = None
    condition_columns: list[str] | None = None

    @classmethod
    def describe(
        cls,
        model: "FQGANModel",
        images: "LabelledImages",
        *,
        tokenizer: str,
        crop: str,
        views: list[str],
        resolution: int | None,
        shard_size: int = 0,
        seed: int | None = None,
        images_fingerprint: str | None = None,
    ) -> "CodesManifest":
        """
        The manifest of the codes that a tokenizer gives for views of images, whether they are stored or not; with a
        seed, of codes that are drawn from its distribution.
        """
        return cls(
            tokenizer=tokenizer,
            tokenizer_fingerprint=model.fingerprint(),
            num_codebooks=model.config.num_codebooks,
            codebook_size=model.config.codebook_size,
            grid=None if resolution is None else list(model.grid_size(resolution, resolution)),
            resolution=resolution,
            crop=crop,
            views=views,
            source=images.source,
            shard_size=shard_size,
            num_rows=len(images),
            id2label={str(i): name for i, name in enumerate(images.label_names)},
            stochastic=seed is not None,
            seed=seed,
            images_fingerprint=images_fingerprint,
        )

    def with_conditions(
        self, captions: bool, map_codes: MapCodes | None, condition_columns: list[str]
    ) -> "CodesManifest":
        """The manifest of the same codes with captions, map codes or both beside them; see the class."""
        return replace(self, captions=captions, map=map_codes, condition_columns=condition_columns)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of one row's codes, `(views, num_codebooks, height, width)`; only where all rows have one."""
        assert self.grid is not None, "each row has a grid of its own"
        return (len(self.views), self.num_codebooks, *self.grid)

    @property
    def map_shape(self) -> tuple[int, int, int, int]:
        """Shape of one row's map codes, `(views, map.num_codebooks, height, width)`; only where there are any."""
        assert self.map is not None, "there are no map codes"
        return (len(self.views), self.map.num_codebooks, *self.map.grid)

    def content(self) -> dict[str, Any]:
        """What is stored. Without what a field was added for, it is what it was before there was that field."""
        content = asdict(self)
        if not self.stochastic:
            del content["stochastic"], content["seed"]
        for name in ("images_fingerprint", "map", "condition_columns"):
            if content[name] is None:
                del content[name]
        if not self.captions:
            del content["captions"]
        return content

    def identity(self) -> bytes:
        """What all shards of one extraction have in common; a shard carries it in its metadata."""
        content = self.content()
        for name in ("shards", "skipped", "tokenizer"):  # the fingerprint says which tokenizer; its path may change
            del content[name]
        if self.map is not None:
            del content["map"]["tokenizer"]
        return json.dumps(content, sort_keys=True).encode()

    def content_fingerprint(self) -> str:
        """Hex digest of the hashes of all shards."""
        return hashlib.sha256("".join(shard["sha256"] for shard in self.shards).encode()).hexdigest()

    @classmethod
    def load(cls, folder: str | Path, any_size: bool = False) -> "CodesManifest":
        """
        Read the manifest of `folder`.

        Args:
            folder (`str` or `Path`): A store of codes.
            any_size (`bool`): Accept grids that differ from row to row, too.

        Raises:
            FileNotFoundError: There is none: no codes, or an extraction that has not ended.
            ValueError: Of another version, damaged, or of grids that differ.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(
                f"codes_dir must be a folder written by extract_codes, got {str(folder)!r}: no {MANIFEST} "
                "(an extraction that was stopped continues when it is run again)"
            )
        manifest = cls.parse(read_json(path), path)
        num_found = sum(shard["rows"] for shard in manifest.shards) + len(manifest.skipped)
        if not manifest.shards:
            raise ValueError(f"{path} is damaged: shards must be files with their rows and SHA-256, got none")
        if num_found != manifest.num_rows:
            raise ValueError(f"{path} is damaged: num_rows is {manifest.num_rows}, and its shards hold {num_found}")
        if manifest.grid is None and not any_size:
            raise ValueError(
                f"{path} is of codes whose grid differs from image to image (`fqgan encode --size native`), and a "
                "generator needs one grid: encode with another --size"
            )
        return manifest

    @classmethod
    def parse(cls, content: dict[str, Any], source: str | Path) -> "CodesManifest":
        """
        A manifest from its `content()`, or from its `identity()`, where nothing is said of shards.

        Args:
            content (`dict`): As it was read, from a place that may be damaged.
            source (`str` or `Path`): That place, for the messages.

        Raises:
            ValueError: Of another version, or damaged.
        """
        if content.get("format_version", 1) != 1:
            raise ValueError(f"{source}: format_version must be 1, got {content['format_version']!r}")
        required = [entry.name for entry in fields(cls) if entry.default is entry.default_factory is MISSING]
        wrong = [name for name in required if name not in content]
        wrong += [name for name in content if name not in {entry.name for entry in fields(cls)}]
        if wrong:
            raise ValueError(f"{source} is not a manifest of codes: see {', '.join(wrong[:5])}")
        manifest = cls(**{**content, "map": _parse_map(content.get("map"), source)})
        for name, accepted, fits in manifest._rules():
            value = getattr(manifest, name)
            if not fits(value):
                raise ValueError(f"{source} is damaged: {name} must be {accepted}, got {_shortened(value)}")
        if manifest.stochastic is (manifest.seed is None):
            raise ValueError(f"{source} is damaged: seed must be there where stochastic is true, and only there")
        if (manifest.grid is None) is not (manifest.resolution is None):
            raise ValueError(f"{source} is damaged: grid and resolution must both be there, or neither")
        return manifest

    @staticmethod
    def _rules() -> Iterator[tuple[str, str, Callable[[Any], bool]]]:
        """What each value of a stored manifest must be: its name, the words for it, and the test of it."""
        for name in ("tokenizer", "tokenizer_fingerprint", "crop", "source"):
            yield name, "a text", _is_text
        for name in ("num_codebooks", "shard_size", "num_rows"):
            yield name, "a whole number of at least 1", _is_count
        yield "resolution", "a whole number of at least 1", lambda value: value is None or _is_count(value)
        yield "codebook_size", "a whole number in [1, 65536]", _is_codebook_size
        yield "grid", "two whole numbers of at least 1", _is_grid
        yield "views", "a list of names", lambda value: _all(value, _is_text) and value
        yield "skipped", "a list of names", lambda value: _all(value, _is_text)
        yield "stochastic", "true or false", lambda value: isinstance(value, bool)
        yield "seed", "a whole number of at least 0", lambda value: value is None or type(value) is int and value >= 0
        yield "id2label", 'names under "0", "1" and so on', _is_naming
        yield "shards", "a list of files with their rows and SHA-256", lambda value: _all(value, _is_shard)
        yield "images_fingerprint", "a text", lambda value: value is None or _is_text(value)
        yield "captions", "true or false", lambda value: isinstance(value, bool)
        yield "condition_columns", "a list of names", lambda value: value is None or _all(value, _is_text)


def check_can_draw(config: Mapping[str, Any]) -> None:
    """Raise `ValueError` for the configuration of a tokenizer that has no distribution to draw codes from."""
    kind = config.get("quantizer_type", "nearest")
    if kind == "nearest":
        raise ValueError(
            f"stochastic needs a tokenizer with a quantizer of type 'gumbel' or 'regularized', got {kind!r}: it has "
            "no distribution to draw codes from"
        )


def _parse_map(content: Any, source: str | Path) -> MapCodes | None:
    """What a stored manifest says of map codes; raises `ValueError` if it is damaged."""
    if content is None:
        return None
    rules = {
        "tokenizer": ("a text", _is_text),
        "tokenizer_fingerprint": ("a text", _is_text),
        "num_codebooks": ("a whole number of at least 1", _is_count),
        "codebook_size": ("a whole number in [1, 65536]", _is_codebook_size),
        "grid": ("two whole numbers of at least 1", lambda value: value is not None and _is_grid(value)),
    }
    if isinstance(content, dict):
        content = {"tokenizer": "", **content}  # which an identity does not name
    if not isinstance(content, dict) or content.keys() != rules.keys():
        raise ValueError(f"{source} is damaged: map must have {', '.join(rules)}, got {_shortened(content)}")
    for name, (accepted, fits) in rules.items():
        if not fits(content[name]):
            raise ValueError(f"{source} is damaged: {name} of map must be {accepted}, got {_shortened(content[name])}")
    return MapCodes(**content)


def _is_codebook_size(value: Any) -> bool:
    return _is_count(value) and value <= 2**16


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_grid(value: Any) -> bool:
    return value is None or (_all(value, _is_count) and len(value) == 2)


def _is_naming(value: Any) -> bool:
    numbers = {str(i) for i in range(len(value))} if isinstance(value, dict) and value else None
    return numbers is not None and value.keys() == numbers and all(map(_is_text, value.values()))


def _all(value: Any, test: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(test, value))


def _is_shard(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"file", "rows", "sha256"}
        and isinstance(value["file"], str)
        and re.fullmatch(r"shard-\d+\.parquet", value["file"], re.ASCII) is not None
        and type(value["rows"]) is int
        and value["rows"] >= 0
        and isinstance(value["sha256"], str)
    )


def _shortened(value: Any) -> str:
    """What a value is, in a few words."""
    text = type(value).__name__ if isinstance(value, (dict, list)) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

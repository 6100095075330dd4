# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a command says to generate, in words and files -> what pipelines take, checked before any model is loaded.

    request = read_request(folder, prompts=["a red apple"], images=[Path("photo.png")], masks=[Path("mask.png")])
    images = generate_images(pipe, request.repeated(4), seed=0, arguments=request.arguments)

Importing this file costs nothing: pictures are read once everything else is right.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fqgan_hf.evaluation.data_folder import IMAGE_SUFFIXES
from fqgan_hf.files import read_json
from fqgan_hf.hub.facts import folder_kind
from fqgan_hf.pipelines.labels import read_labels


@dataclass(frozen=True)
class GenerationRequest:
    """
    What a pipeline is to generate.

    Args:
        given (`dict[str, list]`): By argument of the pipeline one value for each row of images.
        captions (`list[str]`): Of the rows.
        arguments (`dict`): What else the pipeline is called with.
    """

    given: dict[str, list]
    captions: list[str]
    arguments: dict[str, Any] = field(default_factory=dict)

    def repeated(self, number: int) -> dict[str, list]:
        """`given` for `number` images of each row, which come one after another."""
        return {name: [value for value in values for _ in range(number)] for name, values in self.given.items()}


def read_request(
    folder: Path,
    class_labels: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    maps: Sequence[Path] | None = None,
    images: Sequence[Path] | None = None,
    masks: Sequence[Path] | None = None,
    **arguments: Any,
) -> GenerationRequest:
    """
    What is asked of a pipeline, checked as far as its configurations tell.

    Args:
        folder (`Path`): Of the pipeline.
        class_labels (`Sequence[str]`, *optional*): Ids or names.
        prompts (`Sequence[str]`, *optional*): One for each row of images.
        maps (`Sequence[Path]`, *optional*): Picture files, one for each row.
        images, masks (`Sequence[Path]`, *optional*): Picture files, one for all rows or one for each.
        **arguments: What else the pipeline is called with; None for what is not given.

    Raises:
        ValueError: The generator does not know what is given, lacks something, or numbers differ.
        FileNotFoundError: There is no such file.
    """
    arguments = {name: value for name, value in arguments.items() if value is not None}
    _check_conditions(folder, {"class_labels": class_labels, "prompt": prompts, "map": maps}, arguments)
    if "num_inference_steps" in arguments and "scheduler" not in folder_kind(folder).components:
        raise ValueError("--steps cannot be given: this generator makes codes one position after another")
    given: dict[str, list] = {}
    captions: list[list[str]] = []
    if class_labels is not None:
        given["class_labels"], names = read_labels(folder, class_labels)
        captions.append(names)
    if prompts is not None:
        given["prompt"] = list(prompts)
        captions.append(list(prompts))
    if maps is not None:
        given["map_image"] = list(maps)
        captions.append([path.name for path in maps])
    numbers = {name: len(values) for name, values in given.items()}
    if len(set(numbers.values())) > 1:
        raise ValueError(f"{', '.join(numbers)} must be equally many, got {', '.join(map(str, numbers.values()))}")
    num_rows = next(iter(numbers.values()))
    for name, paths in (("image", images), ("mask_image", masks)):
        if paths is not None:
            if len(paths) not in (1, num_rows):
                raise ValueError(f"--{name.removesuffix('_image')} must be one file, or {num_rows}, got {len(paths)}")
            given[name] = list(paths) * (num_rows if len(paths) == 1 else 1)
    _read_pictures(folder, given)
    return GenerationRequest(given, [", ".join(parts) for parts in zip(*captions, strict=True)], arguments)


def _check_conditions(folder: Path, given: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Raise `ValueError` for conditions that the generator does not know, or lacks."""
    conditions = read_json(folder / "transformer" / "config.json").get("conditions", ["class"])
    trained_for = f"this generator was trained for {', '.join(map(str, conditions))}"
    for option, condition in (("class_labels", "class"), ("prompt", "text"), ("map", "map")):
        if given[option] is not None and condition not in conditions:
            raise ValueError(f"--{option} cannot be given: {trained_for}")
        if given[option] is None and condition in conditions:
            raise ValueError(f"--{option} must be given: {trained_for}")
    if "negative_prompt" in arguments and "text" not in conditions:
        raise ValueError(f"--negative_prompt cannot be given: {trained_for}")


def _read_pictures(folder: Path, given: dict[str, list]) -> None:
    """Exchange the paths of picture files for pictures, each file read once."""
    paths = {name: list(dict.fromkeys(given[name])) for name in ("map_image", "image", "mask_image") if name in given}
    missing = [path for group in paths.values() for path in group if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"there is no file {missing[0]}")
    if not paths:
        return
    from fqgan_hf.evaluation.label_images import load_label_map
    from fqgan_hf.modeling.image_processing_fqgan import load_image

    num_labels = None
    if "map_image" in given:
        num_labels = read_json(folder / "map_vqmodel" / "config.json").get("num_labels")
    for name, group in paths.items():
        is_labels = name == "map_image" and num_labels is not None
        try:
            pictures = {path: load_label_map(path, num_labels) if is_labels else load_image(path) for path in group}
        except ValueError as error:
            raise ValueError(f"--{name.removesuffix('_image')}: {error}") from error
        given[name] = [pictures[path] for path in given[name]]


# ---- Of many images -------------------------------------------------------------------------------------------------


class MapFile(NamedTuple):
    """
    A map as it is stored, not decoded.

    Args:
        name (`str`): Of its file, or its row in one.
        content (`bytes`): Of a picture file.
    """

    name: str
    content: bytes


def read_prompts(path: Path, column: str | None = None) -> list[str]:
    """
    Prompts of a file: of a text file one per line, of a parquet file those of a column.

    Args:
        path (`Path`): Text in UTF-8, or `.parquet`.
        column (`str`, *optional*): Of a parquet file, by default "caption"; lists of texts give their first.

    Raises:
        ValueError: There is no such column, or no prompt.
        FileNotFoundError: There is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".parquet":
        prompts = _texts(path, column or "caption")
    elif column is not None:
        raise ValueError(f"a column can be chosen of a parquet file only, got {path}")
    else:
        prompts = path.read_text(encoding="utf-8").splitlines()
    prompts = [prompt.strip() for prompt in prompts if prompt and prompt.strip()]
    if not prompts:
        raise ValueError(f"{path} holds no prompt")
    return prompts


def read_maps(source: Path, column: str | None = None) -> list[MapFile]:
    """
    Maps of a folder, in the order of their names, or of a column of a parquet file.

    Args:
        source (`Path`): A folder of picture files, whose other files and folders do not count, or `.parquet`.
        column (`str`, *optional*): Of a parquet file, by default "map": pictures as `datasets` writes them.

    Raises:
        ValueError: There is no such column, or no map.
        FileNotFoundError: There is no such file or folder, or a row names a file that is not there.
    """
    if not source.exists():
        raise FileNotFoundError(f"--maps: there is no file or folder {source}")
    if source.is_file() and source.suffix == ".parquet":
        maps = _stored_pictures(source, column or "map")
    elif not source.is_dir():
        raise ValueError(f"--maps must be a folder of picture files or a .parquet file, got the file {source}")
    elif column is not None:
        raise ValueError(f"--map_column can be chosen of a parquet file only, got the folder {source}")
    else:
        paths = (path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != ".")
        maps = [MapFile(str(path), path.read_bytes()) for path in sorted(paths)]
    if not maps:
        raise ValueError(f"--maps: {source} holds no map")
    return maps


def _texts(path: Path, column: str) -> list[str | None]:
    values = _parquet_column(path, column, "prompts").to_pylist()
    values = [value[0] if isinstance(value, list) and value else value for value in values]
    wrong = [value for value in values if value is not None and not isinstance(value, str)]
    if wrong:
        raise ValueError(f"column {column!r} of {path} must hold texts, got {wrong[0]!r:.80}")
    return values


def _stored_pictures(path: Path, column: str) -> list[MapFile]:
    maps = []
    for number, row in enumerate(_parquet_column(path, column, "maps").to_pylist()):
        name = f"row {number} of {path}"
        if row is not None and (not isinstance(row, dict) or not row.keys() & {"bytes", "path"}):
            raise ValueError(
                f"--maps: column {column!r} of {path} must hold pictures as `datasets` writes them, got {row!r:.80}"
            )
        content, file = (row or {}).get("bytes"), (row or {}).get("path")
        if content is None and file is None:
            raise ValueError(f"--maps: {name} holds no map")
        if content is None and not Path(file).is_file():
            raise FileNotFoundError(f"--maps: {name} names the file {file}, which is not there")
        maps.append(MapFile(name, Path(file).read_bytes() if content is None else content))
    return maps


def _parquet_column(path: Path, column: str, what: str) -> Any:
    """A column of a parquet file, as pyarrow has it."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(f"{what} of a parquet file need pyarrow: pip install pyarrow") from error
    names = pq.read_schema(path).names
    if column not in names:
        raise ValueError(f"{path} must have a column {column!r}, it has {', '.join(names)}")
    return pq.read_table(path, columns=[column])[column]

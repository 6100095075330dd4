# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a published folder holds.

    export(model, "folder")     weights, configuration, code files and model card, as they would be pushed

Importing this file costs nothing: torch, diffusers and the models load with the first call that needs them.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fqgan_hf.files import check_writable, staged_folder
from fqgan_hf.hub.card_info import CardInfo
from fqgan_hf.hub.cards import render_card
from fqgan_hf.hub.kinds import ModelKind, kind_named, kind_of
from fqgan_hf.hub.self_contained import PATTERNS, check_self_contained, make_self_contained
from fqgan_hf.hub.variants import weight_patterns


if TYPE_CHECKING:
    from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor


HANDLER = "handler.py"  # which Inference Endpoints call


def export(
    obj: Any,
    directory: str | Path,
    *,
    repo_id: str | None = None,
    card: CardInfo | None = None,
    write_card: bool = True,
    image_processor: "FQGANImageProcessor | None" = None,
    parts: Mapping[str, Any] | None = None,
    variant: str | None = None,
    max_shard_size: int | str | None = None,
    self_contained: bool = False,
    files: Mapping[str, Path] | None = None,
    card_variant: str | None = None,
    card_variants: Iterable[str] = (),
) -> Path:
    """
    Write the folder that would be pushed: weights, configuration, the code files of the classes, and a model card.

    A pipeline's folder also has `handler.py`, by which Inference Endpoints serve it.

    The models then load where this package is not installed:

    - `transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)` gives the generator (for a pipeline's
      folder with `subfolder="transformer"`),
    - `diffusers.AutoModel.from_pretrained(folder, trust_remote_code=True)` gives the tokenizer.

    Pipelines need this package, `FARPipeline.from_pretrained(folder)`, unless they are `self_contained`: then
    `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` does without.

    Args:
        obj: What to write: a model or a pipeline of ours, such as [`FQGANModel`] or [`FARPipeline`].
        directory (`str` or `Path`): Created if missing.
        repo_id (`str`, *optional*): Name that the card's examples load. Default: the folder's name.
        card (`CardInfo`, *optional*): What the card says beyond what the object itself tells.
        write_card (`bool`): False leaves a README.md and a card.json that are already there as they are.
        image_processor (`FQGANImageProcessor`, *optional*):
            Saved beside a tokenizer. Default: one that resizes and crops to the trained size.
        parts (`Mapping[str, Any]`, *optional*):
            What else is needed, saved in subfolders: the scheduler or the text tokenizer of a generator.
        variant (`str`, *optional*): Puts the weights into files of that name (`model.<variant>.safetensors`).
        max_shard_size (`int` or `str`, *optional*): Bytes (or "2GB") after which weights are split over files.
        self_contained (`bool`): Give a pipeline's folder source files of its own for all of its classes.
        files (`Mapping[str, Path]`, *optional*): More files, by their paths in the folder: pictures, results.
        card_variant, card_variants: `variant` and `variants` of [`~fqgan_hf.hub.cards.render_card`].

    Returns:
        `Path`: The directory. It appears complete or not at all; one that is there keeps its other files, but for
        weights of the same variant under other names, which a loader would prefer.

    Raises:
        ValueError: If `obj` is no class of ours that has a card.
        OSError: If the directory cannot be written.
    """
    kind = kind_of(obj)
    check_self_contained(kind, self_contained)
    directory = Path(directory)
    if directory.is_file():
        raise ValueError(f"directory must be a folder, got the file {directory}")
    check_writable(directory / "config.json")
    with staged_folder(directory) as staging:
        save_arguments = {"variant": variant, "max_shard_size": max_shard_size}
        # diffusers takes no Path where it means to split the name, and transformers no None for a size.
        obj.save_pretrained(str(staging), **{k: v for k, v in save_arguments.items() if v is not None})
        for name, part in (parts or {}).items():
            part.save_pretrained(str(staging / name))
        _complete_folder(staging, obj, kind, image_processor)
        if self_contained:
            make_self_contained(staging, kind)
        if variant is not None:
            _drop_dtype(staging)
        for name, source in (files or {}).items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, staging / name)
        if write_card:
            text = render_card(
                obj, repo_id or directory.resolve().name, card, card_variant, card_variants, self_contained
            )
            (staging / "README.md").write_text(text, encoding="utf-8")
            (card or CardInfo()).write(staging)
        for pattern in (*weight_files_of(obj, variant), *PATTERNS):
            for stale in directory.glob(pattern):
                if not (staging / stale.relative_to(directory)).exists():
                    stale.unlink()
    return directory


def _complete_folder(folder: Path, obj: Any, kind: ModelKind, image_processor: "FQGANImageProcessor | None") -> None:
    """What `save_pretrained` left out: a tokenizer's image processor, the code files, and where loaders find them."""
    parts = [(name, part_kind) for name, part_kind, _ in kind.parts(obj)]
    if kind.role == "tokenizer" and obj.config.get("num_labels") is None:  # label maps are no pictures
        if image_processor is None:
            from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor

            size, factor = obj.config.sample_size, obj.downsample_factor
            image_processor = FQGANImageProcessor(size=size, multiple_of=factor)
        image_processor.save_pretrained(str(folder))
        parts.append(("", kind_named(type(image_processor).__name__)))
    for name, part_kind in parts:
        # diffusers' AutoModel reads no code for a pipeline's component, and a tokenizer's entry would only warn.
        if part_kind.auto_class and (name == "" or part_kind.role != "tokenizer"):
            _write_auto_map(folder / name / part_kind.config_file, part_kind)
    for source in _code_files({part_kind for _, part_kind in parts}):
        shutil.copyfile(source, folder / source.name)
    if kind.role == "pipeline":
        shutil.copyfile(Path(__file__).with_name(HANDLER), folder / HANDLER)
    for path in (folder / "model_index.json", *(folder / name / part_kind.config_file for name, part_kind in parts)):
        _drop_local_path(path)


def _write_auto_map(path: Path, kind: ModelKind) -> None:
    """Name the code files in a configuration. Done here, not by `register_for_auto_class`, which is global."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["auto_map"] = kind.auto_map
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _drop_local_path(path: Path) -> None:
    """diffusers records where a model was loaded from: a folder of this machine means nothing to others."""
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _drop_dtype(folder: Path) -> None:
    """
    transformers loads weights as the type that `config.json` names, those without a variant's name included. Left out,
    each file's own type counts.
    """
    for path in (folder / "config.json", *folder.glob("*/config.json")):
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("dtype", None) is not None:
                path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _code_files(kinds: set[ModelKind]) -> list[Path]:
    """Files of `modeling/` that define the classes, with everything they import from one another."""
    from transformers.dynamic_module_utils import get_relative_import_files

    import fqgan_hf.modeling

    folder = Path(fqgan_hf.modeling.__file__).parent
    files = {folder / f"{kind.code_name}.py" for kind in kinds}
    return sorted(files | {Path(path) for file in files for path in get_relative_import_files(file)})


def weight_files_of(obj: Any, variant: str | None) -> list[str]:
    """Patterns of the names that the weight files of a variant may have, wherever an object has weights."""
    return [
        pattern
        for name, kind, _ in kind_of(obj).parts(obj)
        if kind.weights_stem
        for pattern in weight_patterns(name, kind.weights_stem, variant)
    ]

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Exchange with the Hub: what a published folder holds, and how it gets there.

    export(model, "folder")     weights, configuration, code files and model card, as they would be pushed
    push_to_hub(model, "org/name")

Importing this file costs nothing: torch, diffusers and the models load with the first call that needs them.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fqgan_hf.files import check_writable, scratch_folder, staged_folder
from fqgan_hf.hub.cards import CardInfo, render_card
from fqgan_hf.hub.kinds import ModelKind, kind_named, kind_of


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

    from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor


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
) -> Path:
    """
    Write the folder that would be pushed: weights, configuration, the code files of the classes, and a model card.

    The models then load where this package is not installed:

    - `transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)` gives the generator (for a pipeline's
      folder with `subfolder="transformer"`),
    - `diffusers.AutoModel.from_pretrained(folder, trust_remote_code=True)` gives the tokenizer.

    Pipelines need this package: `FARPipeline.from_pretrained(folder)`.

    Args:
        obj: What to write: a model or a pipeline of ours, such as [`FQGANModel`] or [`FARPipeline`].
        directory (`str` or `Path`): Created if missing.
        repo_id (`str`, *optional*): Name that the card's examples load. Default: the folder's name.
        card (`CardInfo`, *optional*): What the card says beyond what the object itself tells.
        write_card (`bool`): False leaves a README.md that is already there as it is.
        image_processor (`FQGANImageProcessor`, *optional*):
            Saved beside a tokenizer. Default: one that resizes and crops to the trained size.
        parts (`Mapping[str, Any]`, *optional*):
            What else is needed, saved in subfolders: the scheduler or the text tokenizer of a generator.
        variant (`str`, *optional*): Puts the weights into files of that name (`model.<variant>.safetensors`).
        max_shard_size (`int` or `str`, *optional*): Bytes (or "2GB") after which weights are split over files.

    Returns:
        `Path`: The directory. It appears complete or not at all; one that is there keeps its other files, but for
        weights of the same variant under other names, which a loader would prefer.

    Raises:
        ValueError: If `obj` is no class of ours that has a card.
        OSError: If the directory cannot be written.
    """
    kind = kind_of(obj)
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
        if write_card:
            text = render_card(obj, repo_id or directory.resolve().name, card)
            (staging / "README.md").write_text(text, encoding="utf-8")
        for pattern in _weight_patterns(obj, variant):
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
    for path in (folder / "model_index.json", *(folder / name / part_kind.config_file for name, part_kind in parts)):
        _drop_local_path(path)


def push_to_hub(
    obj: Any,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    card: CardInfo | None = None,
    write_card: bool = True,
    image_processor: "FQGANImageProcessor | None" = None,
    parts: Mapping[str, Any] | None = None,
    variant: str | None = None,
    max_shard_size: int | str | None = None,
) -> "CommitInfo":
    """
    Publish a model or a pipeline: save, write the card, create the repository, upload everything in one commit.

    Weight files of the same variant that an earlier push left behind under other names (one file then, shards now)
    are deleted in that commit: loaders would prefer them. A push that fails leaves no empty repository behind.

    Args:
        obj, card, image_processor, parts, variant, max_shard_size: See [`export`].
        repo_id (`str`): "org/name", or "name" for the namespace of the token's owner.
        private (`bool`, *optional*): For a new repository; None follows the owner's default.
        token (`str` or `bool`, *optional*): Default: the token stored by `hf auth login`.
        commit_message (`str`, *optional*): Default: "Upload <class>".
        revision (`str`, *optional*): Branch to commit to.
        create_pr (`bool`): Open a pull request rather than commit.
        write_card (`bool`): False keeps the card that the repository has.

    Returns:
        `huggingface_hub.CommitInfo`: With the commit's address.

    Raises:
        ValueError: If `obj` can't be exported or `repo_id` is no valid name; nothing has been sent then.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    kind = kind_of(obj)
    validate_repo_id(repo_id)
    api = HfApi(token=token)
    if "/" not in repo_id:
        repo_id = f"{api.whoami()['name']}/{repo_id}"
    with scratch_folder("push") as folder:
        export(
            obj,
            folder,
            repo_id=repo_id,
            card=card,
            write_card=write_card,
            image_processor=image_processor,
            parts=parts,
            variant=variant,
            max_shard_size=max_shard_size,
        )
        with _repository(api, repo_id, private):
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or f"Upload {kind}",
                revision=revision,
                create_pr=create_pr,
                delete_patterns=_weight_patterns(obj, variant),
            )


@contextmanager
def _repository(api: "HfApi", repo_id: str, private: bool | None) -> Iterator[None]:
    """A repository to upload to. Where it had to be created and the upload fails, it goes again, if it is empty."""
    is_new = not api.repo_exists(repo_id)
    api.create_repo(repo_id, private=private, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(Exception):  # what went wrong is to be seen, not that this did, too
            if is_new and not set(api.list_repo_files(repo_id)) - {".gitattributes"}:
                api.delete_repo(repo_id)
        raise


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


def _code_files(kinds: set[ModelKind]) -> list[Path]:
    """Files of `modeling/` that define the classes, with everything they import from one another."""
    from transformers.dynamic_module_utils import get_relative_import_files

    import fqgan_hf.modeling

    folder = Path(fqgan_hf.modeling.__file__).parent
    files = {folder / f"{kind.code_name}.py" for kind in kinds}
    return sorted(files | {Path(path) for file in files for path in get_relative_import_files(file)})


def _weight_patterns(obj: Any, variant: str | None) -> list[str]:
    """Names that the weight files of a variant may have, wherever an object has weights."""
    suffix = f".{variant}" if variant else ""
    return [
        f"{name}/{pattern}" if name else pattern
        for name, kind, _ in kind_of(obj).parts(obj)
        if (stem := kind.weights_stem)
        for pattern in (
            f"{stem}{suffix}.safetensors",
            f"{stem}{suffix}-?????-of-?????.safetensors",
            f"{stem}.safetensors.index{suffix}.json",
        )
    ]

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Exchange with the Hub: what a published folder holds, how it gets there, how diffusers finds our classes.

    register_with_diffusers()   so that `model_index.json` says ["fqgan_hf", "FQGANModel"] and loads again
    export(model, "folder")     weights, configuration, code files and model card, as they would be pushed
    push_to_hub(model, "org/name")

Importing this file costs nothing: torch, diffusers and the models load with the first call that needs them.
"""

import importlib.abc
import importlib.util
import json
import math
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fqgan_hf.files import check_writable, scratch_folder, staged_folder


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

    from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor

# Component class -> (auto class, modeling file that defines the class).
COMPONENTS = {
    "FQGANModel": ("AutoModel", "modeling_fqgan"),
    "FARForImageGeneration": ("AutoModel", "modeling_far"),
    "FQGANImageProcessor": ("AutoImageProcessor", "image_processing_fqgan"),
}
CONFIG_CODE = {"FARForImageGeneration": {"AutoConfig": "configuration_far.FARConfig"}}
CARD_TEMPLATES = {
    "FQGANModel": "fqgan.md",
    "FARForImageGeneration": "far.md",
    "FARPipeline": "far_pipeline.md",
    "FQGANPipeline": "fqgan_pipeline.md",
}
PIPELINES = ("FARPipeline", "FQGANPipeline")

_TABLES = "diffusers.pipelines.pipeline_loading_utils"
_ALIAS = "_fqgan_hf"


# --------------------------------------------------------------------------------------------------------------------
# diffusers' tables


def register_with_diffusers() -> None:
    """
    Make diffusers save and load our classes as members of the library "fqgan_hf".

    Three things follow once the package has been imported:

    - pipelines write `["fqgan_hf", "FQGANModel"]` into `model_index.json` (left alone, diffusers writes the module's
      path, which it then refuses to load from the Hub);
    - components are found again, from folders and from the Hub, without remote code;
    - `DiffusionPipeline.from_pretrained` finds `FARPipeline` by the `_class_name` of such a folder. diffusers looks
      that name up in its own namespace only, so the two pipelines are offered there, and imported on first use.

    The tables are internal to diffusers: a test and the upper bound in setup.py watch over them. diffusers itself is
    not imported here; if it has not been yet, its tables are filled in when it is.
    """
    if _TABLES in sys.modules:
        _fill_tables(sys.modules[_TABLES])
    elif not any(isinstance(finder, _FillTablesOnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _FillTablesOnImport())


class _FillTablesOnImport(importlib.abc.MetaPathFinder):
    """Waits for diffusers' module of tables, steps aside for its import, then fills the tables."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != _TABLES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        execute = spec.loader.exec_module

        def execute_and_fill(module):
            execute(module)
            _fill_tables(module)

        spec.loader.exec_module = execute_and_fill
        return spec


def _fill_tables(tables) -> None:
    methods = {name: ["save_pretrained", "from_pretrained"] for name in COMPONENTS}
    tables.LOADABLE_CLASSES["fqgan_hf"] = methods
    tables.ALL_IMPORTABLE_CLASSES.update(methods)

    # diffusers' lazy namespace resolves a class by the submodule said to hold it; this package poses as one.
    class_to_module = getattr(sys.modules["diffusers"], "_class_to_module", None)
    if class_to_module is not None:
        sys.modules[f"diffusers.{_ALIAS}"] = importlib.import_module("fqgan_hf")
        for name in PIPELINES:
            class_to_module.setdefault(name, _ALIAS)


# --------------------------------------------------------------------------------------------------------------------
# Folders as they go to the Hub


@dataclass
class CardInfo:
    """
    What a model card tells that the weights and the configuration can't.

    Args:
        title (`str`, *optional*): Heading of the card. Default: the repository's name.
        license (`str`): License of the *weights*, as the Hub spells it ("apache-2.0", "cc-by-nc-4.0").
        datasets (`list[str]`): Training data, by Hub id where there is one (only ids go into the front matter).
        training (`str`): How the model was trained, in Markdown.
        metrics (`dict[str, float]`): Measured figures by name, e.g. `{"rFID": 0.94, "PSNR": 22.02}`.
        evaluation_dataset (`str`, *optional*): What the metrics were measured on. Required with `metrics`.
        limitations (`str`): What the model should not be used for, in Markdown.
        base_model (`str`, *optional*): Hub id of the checkpoint this one was made from.
        tags (`list[str]`): More tags for the Hub.
    """

    title: str | None = None
    license: str = "apache-2.0"
    datasets: list[str] = field(default_factory=list)
    training: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    evaluation_dataset: str | None = None
    limitations: str = ""
    base_model: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.metrics = {name: float(value) for name, value in self.metrics.items()}
        for name, value in self.metrics.items():
            if not math.isfinite(value):
                raise ValueError(f"metrics must be finite numbers, got {name} = {value}")
        if self.metrics and not self.evaluation_dataset:
            raise ValueError("evaluation_dataset must name what the metrics were measured on, got None")


def export(
    obj: Any,
    directory: str | Path,
    *,
    repo_id: str | None = None,
    card: CardInfo | None = None,
    write_card: bool = True,
    image_processor: "FQGANImageProcessor | None" = None,
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
        obj (`FQGANModel`, `FARForImageGeneration`, `FARPipeline` or `FQGANPipeline`): What to write.
        directory (`str` or `Path`): Created if missing.
        repo_id (`str`, *optional*): Name that the card's examples load. Default: the folder's name.
        card (`CardInfo`, *optional*): What the card says beyond what the object itself tells.
        write_card (`bool`): False leaves a README.md that is already there as it is.
        image_processor (`FQGANImageProcessor`, *optional*):
            Saved beside a tokenizer. Default: one that resizes and crops to the trained size.
        variant (`str`, *optional*): Puts the weights into files of that name (`model.<variant>.safetensors`).
        max_shard_size (`int` or `str`, *optional*): Bytes (or "2GB") after which weights are split over files.

    Returns:
        `Path`: The directory. It appears complete or not at all; one that is there keeps its other files, but for
        weights of the same variant under other names, which a loader would prefer.

    Raises:
        ValueError: If `obj` is none of the four classes.
        OSError: If the directory cannot be written.
    """
    kind = _kind(obj)
    directory = Path(directory)
    if directory.is_file():
        raise ValueError(f"directory must be a folder, got the file {directory}")
    check_writable(directory / "config.json")
    with staged_folder(directory) as staging:
        save_arguments = {"variant": variant, "max_shard_size": max_shard_size}
        # diffusers takes no Path where it means to split the name, and transformers no None for a size.
        obj.save_pretrained(str(staging), **{k: v for k, v in save_arguments.items() if v is not None})
        _complete_folder(staging, obj, kind, image_processor)
        if write_card:
            text = render_card(obj, repo_id or directory.resolve().name, card)
            (staging / "README.md").write_text(text, encoding="utf-8")
        for pattern in _weight_patterns(obj, variant):
            for stale in directory.glob(pattern):
                if not (staging / stale.relative_to(directory)).exists():
                    stale.unlink()
    return directory


def _complete_folder(folder: Path, obj: Any, kind: str, image_processor: "FQGANImageProcessor | None") -> None:
    """What `save_pretrained` left out: a tokenizer's image processor, the code files, and where loaders find them."""
    if kind in PIPELINES:
        components = {name: type(component).__name__ for name, component in obj.components.items()}
    else:
        components = {"": kind}
        if kind == "FQGANModel":
            if image_processor is None:
                from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor

                size, factor = obj.config.sample_size, obj.downsample_factor
                image_processor = FQGANImageProcessor(size=size, multiple_of=factor)
            image_processor.save_pretrained(str(folder))
            _write_auto_map(folder / "preprocessor_config.json", "FQGANImageProcessor")
    for part, class_name in components.items():
        # diffusers' AutoModel reads no code for a pipeline's component, and a tokenizer's entry would only warn.
        if class_name == "FQGANModel" and part:
            continue
        file = "preprocessor_config.json" if class_name == "FQGANImageProcessor" else "config.json"
        _write_auto_map(folder / part / file, class_name)
    exported = {*components.values(), *(["FQGANImageProcessor"] if kind == "FQGANModel" else [])}
    for source in _code_files(exported):
        shutil.copyfile(source, folder / source.name)
    for path in [folder / "model_index.json", *(folder / part / "config.json" for part in components)]:
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
    variant: str | None = None,
    max_shard_size: int | str | None = None,
) -> "CommitInfo":
    """
    Publish a model or a pipeline: save, write the card, create the repository, upload everything in one commit.

    Weight files of the same variant that an earlier push left behind under other names (one file then, shards now)
    are deleted in that commit: loaders would prefer them. A push that fails leaves no empty repository behind.

    Args:
        obj, card, image_processor, variant, max_shard_size: See [`export`].
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

    kind = _kind(obj)
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


def render_card(obj: Any, repo_id: str, info: CardInfo | None = None) -> str:
    """
    The model card of `obj` as it would be published, front matter included.

    Args:
        obj: As for [`export`].
        repo_id (`str`): Name that the card's examples load.
        info (`CardInfo`, *optional*): What the object itself doesn't tell.

    Returns:
        `str`: Markdown.
    """
    from huggingface_hub import EvalResult, ModelCardData
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    import fqgan_hf

    kind = _kind(obj)
    info = info or CardInfo()
    title = info.title or repo_id.split("/")[-1]
    generates = kind in ("FARForImageGeneration", "FARPipeline")
    # The Hub's ready-made snippets for "diffusers" don't import this package and would fail: name it instead.
    library = "transformers" if kind == "FARForImageGeneration" else "fqgan-hf"
    tags = ["fqgan", "far", "class-conditional"] if generates else ["fqgan", "image-tokenizer", "vector-quantization"]
    data = ModelCardData(
        license=info.license,
        library_name=library,
        pipeline_tag="unconditional-image-generation" if generates else "image-to-image",
        tags=[*tags, "diffusers", *info.tags] if kind != "FARForImageGeneration" else [*tags, *info.tags],
        datasets=[name for name in info.datasets if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)] or None,
        base_model=info.base_model,
        model_name=title,
        eval_results=[
            EvalResult(
                task_type="unconditional-image-generation" if generates else "image-to-image",
                dataset_type=_slug(info.evaluation_dataset),
                dataset_name=info.evaluation_dataset,
                metric_type=_slug(name),
                metric_name=name,
                metric_value=value,
            )
            for name, value in info.metrics.items()
        ]
        or None,
    )
    models = {"FQGANModel": "tokenizer", "FARForImageGeneration": "generator"}
    parts = {models[kind]: obj} if kind in models else {"tokenizer": obj.vqmodel}
    if kind == "FARPipeline":
        parts["generator"] = obj.transformer

    folders = [Path(base) / "model_cards" for base in fqgan_hf.__path__]
    environment = Environment(
        loader=FileSystemLoader(folders),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(CARD_TEMPLATES[kind]).render(
        card_data=data.to_yaml(),
        title=title,
        repo_id=repo_id,
        info=info,
        version=fqgan_hf.__version__,
        **{name: _FACTS[name](model) for name, model in parts.items()},
    )


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_").lower()


def _tokenizer_facts(model) -> dict[str, Any]:
    config = model.config
    return {
        "parameters": model.num_parameters(),
        "num_codebooks": config.num_codebooks,
        "codebook_size": config.codebook_size,
        "codebook_dim": config.codebook_dim,
        "sample_size": config.sample_size,
        "downsample_factor": model.downsample_factor,
        "grid": model.grid_size(config.sample_size, config.sample_size),
        "feature_dims": [width for width in config.feature_dims or () if width],
        "fingerprint": model.fingerprint(),
    }


def _generator_facts(model) -> dict[str, Any]:
    config = model.config
    names = (
        "num_codebooks", "codebook_size", "num_classes", "grid_height", "grid_width", "hidden_size",
        "num_hidden_layers", "num_attention_heads", "head_type", "num_head_layers", "tokenizer_fingerprint",
    )  # fmt: skip
    return {"parameters": model.num_parameters(), **{name: getattr(config, name) for name in names}}


_FACTS = {"tokenizer": _tokenizer_facts, "generator": _generator_facts}


def _kind(obj: Any) -> str:
    # By name: a model that came as remote code has a class of its own, and no other class has these names.
    kind = type(obj).__name__
    if kind not in CARD_TEMPLATES:
        raise ValueError(f"only {', '.join(CARD_TEMPLATES)} can be exported, got {kind}")
    return kind


def _write_auto_map(path: Path, class_name: str) -> None:
    """Name the code files in a configuration. Done here, not by `register_for_auto_class`, which is global."""
    auto_class, module = COMPONENTS[class_name]
    content = json.loads(path.read_text(encoding="utf-8"))
    content["auto_map"] = {**CONFIG_CODE.get(class_name, {}), auto_class: f"{module}.{class_name}"}
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _drop_local_path(path: Path) -> None:
    """diffusers records where a model was loaded from: a folder of this machine means nothing to others."""
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _code_files(class_names: set[str]) -> list[Path]:
    """Files of `modeling/` that define the classes, with everything they import from one another."""
    from transformers.dynamic_module_utils import get_relative_import_files

    import fqgan_hf.modeling

    folder = Path(fqgan_hf.modeling.__file__).parent
    files = {folder / f"{COMPONENTS[name][1]}.py" for name in class_names}
    return sorted(files | {Path(path) for file in files for path in get_relative_import_files(file)})


def _weight_patterns(obj: Any, variant: str | None) -> list[str]:
    suffix = f".{variant}" if variant else ""
    folders = [f"{name}/" for name in obj.components] if _kind(obj) in PIPELINES else [""]
    return [
        folder + pattern
        for folder in folders
        for stem in ("model", "diffusion_pytorch_model")
        for pattern in (
            f"{stem}{suffix}.safetensors",
            f"{stem}{suffix}-?????-of-?????.safetensors",
            f"{stem}.safetensors.index{suffix}.json",
        )
    ]

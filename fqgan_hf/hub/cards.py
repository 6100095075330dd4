# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Model cards: what the object itself tells, and what [`CardInfo`] adds, in the templates of `model_cards/`."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fqgan_hf.hub.card_info import CONVERTED_LICENSE, CardInfo, slug
from fqgan_hf.hub.facts import condition_facts, quantizer_facts
from fqgan_hf.hub.kinds import ModelKind, kind_of
from fqgan_hf.hub.variants import VARIANTS


def render_card(
    obj: Any,
    repo_id: str,
    info: CardInfo | None = None,
    variant: str | None = None,
    variants: Iterable[str] = (),
    self_contained: bool = False,
) -> str:
    """
    The model card of `obj` as it would be published, front matter included.

    Args:
        obj: A model or a pipeline of ours that has a card; see [`~fqgan_hf.hub.kinds`].
        repo_id (`str`): Name that the card's examples load.
        info (`CardInfo`, *optional*): What the object itself doesn't tell.
        variant (`str`, *optional*): The variant that the examples must name, in a repository of no other weights.
        variants (`Iterable[str]`): All variants that the repository has besides.
        self_contained (`bool`): Whether a pipeline loads without this package.

    Returns:
        `str`: Markdown.

    Raises:
        ValueError: `obj` is of another class.
    """
    from huggingface_hub import EvalResult, ModelCardData
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    import fqgan_hf

    kind = kind_of(obj)
    info = info or CardInfo()
    title = info.title or repo_id.split("/")[-1]
    is_transformers = kind.model_type is not None
    facts = _facts_of(kind, obj)
    task, tags = _task_and_tags(kind, facts)
    data = ModelCardData(
        license=info.license,
        # The Hub's ready-made snippets for "diffusers" don't import this package and would fail: name it instead.
        library_name="transformers" if is_transformers else "fqgan-hf",
        pipeline_tag=task,
        tags=[*tags, *([] if is_transformers else ["diffusers"]), *info.tags],
        datasets=[name for name in info.datasets if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)] or None,
        base_model=info.base_model,
        widget=[{"text": prompt} for prompt in info.prompts] or None,
        model_name=title,
        eval_results=[
            EvalResult(
                task_type="image-to-image" if found.kind == "reconstruction" else task,
                dataset_type=slug(found.dataset),
                dataset_name=found.dataset,
                metric_type=slug(name),
                metric_name=name,
                metric_value=value,
            )
            for found in info.all_evaluations
            for name, value in found.metrics.items()
        ]
        or None,
    )
    folders = [Path(base) / "model_cards" for base in fqgan_hf.__path__]
    environment = Environment(
        loader=FileSystemLoader(folders),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(kind.card).render(
        card_data=data.to_yaml(),
        title=title,
        repo_id=repo_id,
        info=info,
        is_published=info.converted_from is not None and info.license == CONVERTED_LICENSE,
        variant_argument=f', variant="{variant}"' if variant else "",
        variants={name: VARIANTS.get(name, name) for name in variants if name != variant},
        self_contained=self_contained,
        dtype_argument="dtype" if is_transformers else "torch_dtype",
        version=fqgan_hf.__version__,
        **facts,
    )


# By what a generator is given: the Hub's task, a tag, how the card calls it, and what its examples pass.
CONDITIONS = {
    "class": ("unconditional-image-generation", "class-conditional", "a class", "class_labels=[0]"),
    "text": ("text-to-image", "text-to-image", "a prompt", 'prompt="a red apple"'),
    "map": ("image-to-image", "map-to-image", "a map", 'map_image=Image.open("map.png")'),
}


def _facts_of(kind: ModelKind, obj: Any) -> dict[str, dict[str, Any]]:
    """What templates read: `tokenizer`, `generator` and `map_tokenizer`, as far as the object has them."""
    names = {"": kind.role, "vqmodel": "tokenizer", "transformer": "generator", "map_vqmodel": "map_tokenizer"}
    return {
        names[name]: _FACTS[part_kind.role](part)
        for name, part_kind, part in kind.parts(obj)
        if part_kind.role in _FACTS
    }


def _task_and_tags(kind: ModelKind, facts: dict[str, dict[str, Any]]) -> tuple[str, list[str]]:
    """The Hub's name of what a model does, and our tags."""
    if "generator" not in facts:
        task, tags = "image-to-image", ["fqgan", "image-tokenizer", "vector-quantization"]
    else:
        generator = facts["generator"]
        given = [CONDITIONS[name] for name in ("text", "map", "class") if name in generator["conditions"]]
        task = given[0][0]
        method = ["far"] if generator["model_type"] == "far" else ["code-diffusion", "discrete-diffusion"]
        tags = ["fqgan", *method, *(tag for _, tag, _, _ in given)]
    if facts.get("tokenizer", {}).get("quantizer_type") == "regularized":
        tags.append("reg-vq")
    return task, tags


def _tokenizer_facts(model: Any) -> dict[str, Any]:
    """What `_tokenizer.md` shows."""
    config = model.config
    return {
        "parameters": model.num_parameters(),
        "num_codebooks": config.num_codebooks,
        "codebook_size": config.codebook_size,
        "codebook_dim": config.codebook_dim,
        **quantizer_facts(config),
        "num_labels": config.num_labels,
        "sample_size": config.sample_size,
        "downsample_factor": model.downsample_factor,
        "grid": model.grid_size(config.sample_size, config.sample_size),
        "feature_dims": [width for width in config.feature_dims or () if width],
        "fingerprint": model.fingerprint(),
    }


def _generator_facts(model: Any) -> dict[str, Any]:
    """What `_generator.md` shows."""
    config = model.config
    names = (
        "model_type", "num_codebooks", "codebook_size", "grid_height", "grid_width", "hidden_size",
        "num_hidden_layers", "num_attention_heads", "head_type", "num_head_layers", "tokenizer_fingerprint",
        "text_vocab_size", "text_hidden_size", "map_grid_height", "map_grid_width",
    )  # fmt: skip
    given = [CONDITIONS[name] for name in config.conditions]
    return {
        "class_name": type(model).__name__,
        "parameters": model.num_parameters(),
        **{name: getattr(config, name) for name in names},
        **condition_facts(config.to_dict()),
        "given": " and ".join(words for _, _, words, _ in given),
        "arguments": ", ".join(argument for _, _, _, argument in given),
        "num_train_timesteps": getattr(config, "num_train_timesteps", None),
        "time_conditioning": getattr(config, "time_conditioning", None),
    }


_FACTS = {"tokenizer": _tokenizer_facts, "generator": _generator_facts}

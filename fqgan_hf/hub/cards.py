# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Model cards: what the object itself tells, and what [`CardInfo`] adds, in the templates of `model_cards/`."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fqgan_hf.evaluation_results import described_protocol, load_result, titled_figures
from fqgan_hf.hub.facts import condition_facts, quantizer_facts
from fqgan_hf.hub.kinds import ModelKind, kind_of


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

    @classmethod
    def from_evaluation(cls, result: str | Path | dict[str, Any], **more: Any) -> "CardInfo":
        """
        With the figures of a result of `fqgan evaluate`, under the names of their protocol.

        Args:
            result (`str`, `Path` or `dict`): The file, or what is in it.
            **more: The rest, such as `training` and `license`.

        Raises:
            ValueError: It is no such result.
        """
        result = result if isinstance(result, dict) else load_result(result)
        metrics = {}
        for title, value in titled_figures(result).items():
            values = value if isinstance(value, list) else [value]
            for k, number in enumerate(values):
                metrics[f"{title} ({k})" if len(values) > 1 else title] = number
        return cls(metrics=metrics, evaluation_dataset=described_protocol(result), **more)


def render_card(obj: Any, repo_id: str, info: CardInfo | None = None) -> str:
    """
    The model card of `obj` as it would be published, front matter included.

    Args:
        obj: A model or a pipeline of ours that has a card; see [`~fqgan_hf.hub.kinds`].
        repo_id (`str`): Name that the card's examples load.
        info (`CardInfo`, *optional*): What the object itself doesn't tell.

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
        model_name=title,
        eval_results=[
            EvalResult(
                task_type=task,
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


def _slug(name: str) -> str:
    """A name as the front matter's types are spelled: "rFID (50k)" is "rfid_50k"."""
    return re.sub(r"\W+", "_", name).strip("_").lower()


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

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a model folder holds, read from its configurations and the headers of its weights; no model is loaded."""

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fqgan_hf.failures import first_line
from fqgan_hf.files import read_json
from fqgan_hf.hub.resolve import resolve_folder


# Published configurations by what tells them apart: (num_codebooks, block_out_channels).
TOKENIZER_PRESETS = {
    (1, (128, 128, 256, 256, 512)): "vqgan-f16",
    (2, (128, 128, 256, 256, 512)): "fqgan-dual-f16",
    (3, (128, 128, 256, 256, 512)): "fqgan-triple-f16",
    (2, (128, 256, 256, 512)): "fqgan-dual-f8",
    (3, (128, 256, 256, 512)): "fqgan-triple-f8",
}
# (hidden_size, num_hidden_layers, num_attention_heads, num_head_layers)
GENERATOR_PRESETS = {(1024, 24, 16, 3): "far-base", (1280, 36, 20, 4): "far-large"}


def folder_kind(folder: Path) -> str:
    """
    What a folder holds: "FARPipeline", "FQGANPipeline", "FQGANModel" or "FARForImageGeneration".

    Raises:
        ValueError: If it is none of them.
    """
    kind = None
    if (folder / "model_index.json").is_file():
        kind = read_json(folder / "model_index.json").get("_class_name")
        kind = kind[-1] if isinstance(kind, list) else kind  # ["file", "class"] where the folder carries its own code
    elif (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        kind = "FARForImageGeneration" if config.get("model_type") == "far" else config.get("_class_name")
    else:
        raise ValueError(f"{folder} holds neither model_index.json nor config.json: no model, no pipeline")
    if kind not in ("FARPipeline", "FQGANPipeline", "FQGANModel", "FARForImageGeneration"):
        raise ValueError(f"{folder} holds a {kind or 'model of unknown kind'}, which this package does not know")
    return kind


def codebook_names(num_codebooks: int, feature_dims: Sequence[int | None] | None = None) -> list[str]:
    """
    Names of K codebooks in their canonical order, after what they were trained for.

    A codebook is semantic if a feature head taught it a vision network's features, and visual if another one was
    taught and it was not. Where nothing was taught, nothing tells the codebooks apart, and they are numbered.

    Args:
        num_codebooks (`int`): K, at least 1.
        feature_dims (`Sequence[int | None]`, *optional*):
            Of length K: the tokenizer's configuration's widths of its feature heads, None for a codebook without one.

    Returns:
        `list[str]`: K different names, such as "visual" and "semantic"; or "visual", "semantic (mid)" and
        "semantic (high)", whose teachers were layers of one network; "codebook" if K is 1.
    """
    if num_codebooks == 1:
        return ["codebook"]
    taught = [bool(width) for width in feature_dims or [None] * num_codebooks]
    if not any(taught):
        return [f"codebook {k + 1}" for k in range(num_codebooks)]
    if taught == [False, True, True]:
        return ["visual", "semantic (mid)", "semantic (high)"]
    words = ["semantic" if is_taught else "visual" for is_taught in taught]
    return [f"{word} {words[: k + 1].count(word)}" if words.count(word) > 1 else word for k, word in enumerate(words)]


def collect_facts(model: str | Path) -> dict[str, Any]:
    """
    What a tokenizer, a generator or a pipeline is: `fqgan info` from Python.

    Read from its configurations and the headers of its weights; no model is loaded.

    Args:
        model (`str` or `Path`): A folder or a Hub id.

    Raises:
        FileNotFoundError: See `resolve_folder`; or there are no weights.
        ValueError: It holds nothing that this package knows, or is damaged.
    """
    folder = resolve_folder(model)
    kind = folder_kind(folder)
    if kind == "FQGANModel":
        return tokenizer_facts(folder)
    if kind == "FARForImageGeneration":
        return generator_facts(folder)
    facts = {"kind": f"pipeline ({kind})", "vqmodel": tokenizer_facts(folder / "vqmodel")}
    if kind == "FARPipeline":
        facts["transformer"] = generator_facts(folder / "transformer")
        trained_on = facts["transformer"]["tokenizer_fingerprint"]
        facts["belong_together"] = None if trained_on is None else trained_on == facts["vqmodel"]["fingerprint"]
    return facts


def tokenizer_facts(folder: Path) -> dict[str, Any]:
    """Facts of an `FQGANModel` folder."""
    import torch

    from fqgan_hf import FQGANModel
    from fqgan_hf.modeling.quantizer_fqgan import FactorizedQuantizer

    with torch.device("meta"):
        model = FQGANModel.from_config(FQGANModel.load_config(str(folder)))
    config = model.config
    weights = weight_facts(folder)
    quantizer = FactorizedQuantizer(config.num_codebooks, config.codebook_size, config.codebook_dim)
    with torch.no_grad():
        quantizer.embedding.copy_(read_tensor(folder, "quantizer.embedding"))
    parameters = sum(p.numel() for p in model.parameters())
    heads = sum(p.numel() for p in model.feature_heads.parameters())
    preset = TOKENIZER_PRESETS.get((config.num_codebooks, tuple(config.block_out_channels)))
    is_published = (config.codebook_size, config.codebook_dim, config.latent_channels) == (16384, 8, 256)
    return {
        "kind": "tokenizer (FQGANModel)",
        "preset": preset if is_published else None,
        "num_codebooks": config.num_codebooks,
        "codebooks": codebook_names(config.num_codebooks, config.feature_dims),
        "codebook_size": config.codebook_size,
        "codebook_dim": config.codebook_dim,
        "downsample_factor": model.downsample_factor,
        "sample_size": config.sample_size,
        "grid": list(model.grid_size(config.sample_size, config.sample_size)),
        "feature_dims": list(config.feature_dims) if config.feature_dims else None,
        "parameters": parameters,
        "parameters_without_feature_heads": parameters - heads,
        "fingerprint": quantizer.fingerprint(),
        **weights,
    }


def generator_facts(folder: Path) -> dict[str, Any]:
    """Facts of a `FARForImageGeneration` folder."""
    import torch

    from fqgan_hf import FARConfig, FARForImageGeneration

    config = FARConfig.from_pretrained(str(folder))
    with torch.device("meta"):
        model = FARForImageGeneration(config)
    shape = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.num_head_layers)
    names = [name for key, name in sorted((config.id2label or {}).items()) if name != f"LABEL_{key}"]
    return {
        "kind": "generator (FARForImageGeneration)",
        "preset": GENERATOR_PRESETS.get(shape) if config.head_type == "ar" else None,
        "num_codebooks": config.num_codebooks,
        "codebook_size": config.codebook_size,
        "grid": [config.grid_height, config.grid_width],
        "num_classes": config.num_classes,
        "class_names": names[:3] + (["..."] if len(names) > 3 else []) if names else None,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "head_type": config.head_type,
        "num_head_layers": config.num_head_layers if config.head_type == "ar" else None,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokenizer_fingerprint": config.tokenizer_fingerprint,
        **weight_facts(folder),
    }


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one model's folder; raises `FileNotFoundError` if there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds a configuration but no weights (*.safetensors)")
    return files


@contextmanager
def open_weights(path: Path):
    """`safetensors.safe_open`, with the file's name in its errors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as weights:
            yield weights
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {first_line(error)}") from error


def weight_facts(folder: Path) -> dict[str, Any]:
    """Number types and size of the weights, from the files' headers."""
    dtypes, size = set(), 0
    for path in weight_files(folder):
        size += path.stat().st_size
        with open_weights(path) as weights:
            dtypes.update(weights.get_slice(name).get_dtype() for name in weights.keys())  # noqa: SIM118
    return {"dtype": sorted(dtypes), "weights_bytes": size}


def read_tensor(folder: Path, name: str):
    """One tensor of a model's weights; raises `ValueError` if none of the files has it."""
    for path in weight_files(folder):
        with open_weights(path) as weights:
            if name in weights.keys():  # noqa: SIM118
                return weights.get_tensor(name)
    raise ValueError(f"the weights in {folder} lack {name}")


def format_facts(facts: dict[str, Any], indent: int = 0) -> list[str]:
    """Aligned lines of `name  value`, with sections for a pipeline's components."""
    lines = []
    plain = {name: value for name, value in facts.items() if value is not None and not isinstance(value, dict)}
    plain = {name.removesuffix("_bytes"): value for name, value in plain.items()}
    width = max(len(name) for name in plain)
    for name, value in plain.items():
        lines.append(f"{' ' * indent}{name.replace('_', ' '):<{width}}  {format_value(name, value)}")
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += ["", f"{name}:", *format_facts(value, indent + 2)]
    return lines


def format_value(name: str, value: Any) -> str:
    """A fact for people: grids as 16x16, counts with their millions, sizes in MB."""
    if name == "grid":
        return "x".join(map(str, value)) + f" = {value[0] * value[1]} positions"
    if name.startswith("parameters"):
        return f"{value:,} ({value / 1e6:.1f} M)"
    if name == "weights":
        return f"{value / 1e6:.1f} MB"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if name == "class_names":  # a name may hold commas
        return "; ".join(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a model folder holds, read from its configurations and the headers of its weights; no model is loaded.

It needs no library, so that `fqgan info` answers at once.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fqgan_hf.files import read_json
from fqgan_hf.hub.config_fields import config_fields
from fqgan_hf.hub.kinds import ModelKind, kind_in_config, kind_named
from fqgan_hf.hub.resolve import resolve_folder
from fqgan_hf.modeling import checkpoint_files
from fqgan_hf.modeling.checkpoint_files import FLOATING, StoredTensor, read_header
from fqgan_hf.modeling.configuration_checks import check_label_names


# Configurations of our presets by what tells them apart: (num_codebooks, block_out_channels).
TOKENIZER_PRESETS = {
    (1, (128, 128, 256, 256, 512)): "vqgan-f16",
    (2, (128, 128, 256, 256, 512)): "fqgan-dual-f16",
    (3, (128, 128, 256, 256, 512)): "fqgan-triple-f16",
    (2, (128, 256, 256, 512)): "fqgan-dual-f8",
    (3, (128, 256, 256, 512)): "fqgan-triple-f8",
}
# Those of regularized quantizers also by (codebook_size, token_logits).
REGULARIZED_PRESETS = {
    (1, (128, 128, 256, 256, 512), 1024, "linear"): "regvq-f16",
    (2, (128, 128, 256, 256, 512), 16384, "cosine"): "regfq-dual-f16",
}
# Of FAR (hidden_size, num_hidden_layers, num_attention_heads, num_head_layers)
GENERATOR_PRESETS = {(1024, 24, 16, 3): "far-base", (1280, 36, 20, 4): "far-large"}

SIGN_OF_BYTE = bytes(byte >> 7 for byte in range(256))


def folder_kind(folder: Path) -> ModelKind:
    """
    What kind of model or pipeline a folder holds, by its `model_index.json` or `config.json`.

    Raises:
        ValueError: It holds neither, or something that this package does not know.
    """
    for name in ("model_index.json", "config.json"):
        if (folder / name).is_file():
            config = read_json(folder / name)
            kind = kind_in_config(config)
            if kind is not None and kind.config_file == name:
                return kind
            named = config.get("_class_name") or "model of unknown kind"
            raise ValueError(f"{folder} holds a {named!s:.80}, which this package does not know")
    raise ValueError(f"{folder} holds neither model_index.json nor config.json: no model, no pipeline")


def codebook_names(num_codebooks: int, feature_dims: Sequence[int | None] | None = None) -> list[str]:
    """
    Names of K codebooks in their canonical order, after what they were trained for.

    A codebook is semantic if a feature head taught it a vision network's features, and visual if another one was
    taught and it was not. Where nothing was taught, nothing tells the codebooks apart, and they are numbered.

    Args:
        num_codebooks (`int`): K, at least 1.
        feature_dims (`Sequence[int | None]`, *optional*):
            Of length K: `feature_dims` of the tokenizer's configuration, None for a codebook that was not taught.

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
    return folder_facts(resolve_folder(model))


def folder_facts(folder: Path) -> dict[str, Any]:
    """[`collect_facts`] of a local folder."""
    kind = folder_kind(folder)
    if kind.role != "pipeline":
        return _FACTS[kind.role](folder)
    facts: dict[str, Any] = {"kind": f"pipeline ({kind})"}
    for part, class_name in kind.components.items():
        if (role := kind_named(class_name).role) in _FACTS:
            facts[part] = _FACTS[role](folder / part)
    present = [name for name in kind.optional if (folder / name).is_dir()]
    for name in present:
        if kind.optional[name]:
            facts[name] = _FACTS[kind_named(kind.optional[name]).role](folder / name)
        else:
            facts[name] = _library_class(folder, name)
    if kind.generates:
        generator = facts["transformer"]
        facts["belong_together"] = _same(generator["tokenizer_fingerprint"], facts["vqmodel"]["fingerprint"])
        if "map_vqmodel" in present:
            trained_on = generator["map_tokenizer_fingerprint"]
            facts["maps_belong_together"] = _same(trained_on, facts["map_vqmodel"]["fingerprint"])
    return facts


def _same(trained_on: str | None, fingerprint: str) -> bool | None:
    """Whether a generator was trained on the codes of a tokenizer; None where that was not recorded."""
    return None if trained_on is None else trained_on == fingerprint


def _library_class(folder: Path, name: str) -> str:
    """The name of a component's class, where that is a library's."""
    entry = read_json(folder / "model_index.json").get(name)
    return str(entry[-1]) if isinstance(entry, list) and entry else "unknown"


def tokenizer_facts(folder: Path) -> dict[str, Any]:
    """Facts of an `FQGANModel` folder; raises `ValueError` if it is damaged or holds something else."""
    kind, config, tensors = _open_model(folder, "tokenizer")
    embedding = tensors.get("quantizer.embedding")
    shape = (config["num_codebooks"], config["codebook_size"], config["codebook_dim"])
    if embedding is None or embedding.shape != shape or embedding.dtype not in FLOATING:
        found = f"{embedding.dtype} {embedding.shape}" if embedding else "none"
        raise ValueError(f"the weights in {folder} must have codebooks of shape {shape}, got {found}")
    factor = 2 ** max(len(config["block_out_channels"]) - 1, 0)
    if config["sample_size"] < 1 or config["sample_size"] % factor:
        raise ValueError(f"{folder}: sample_size must be a multiple of {factor}, got {config['sample_size']}")
    grid = config["sample_size"] // factor
    parameters = sum(tensor.numel for tensor in tensors.values())
    heads = sum(tensor.numel for name, tensor in tensors.items() if name.startswith("feature_heads."))
    return {
        "kind": f"tokenizer ({kind})",
        "images": f"label maps of {config['num_labels']} labels" if config["num_labels"] else None,
        "preset": _tokenizer_preset(config),
        "num_codebooks": config["num_codebooks"],
        "codebooks": codebook_names(config["num_codebooks"], config["feature_dims"]),
        "codebook_size": config["codebook_size"],
        "codebook_dim": config["codebook_dim"],
        **quantizer_facts(config),
        "downsample_factor": factor,
        "sample_size": config["sample_size"],
        "grid": [grid, grid],
        "feature_dims": config["feature_dims"] or None,
        "parameters": parameters,
        "parameters_without_feature_heads": parameters - heads,
        "fingerprint": _fingerprint(embedding),
        **_weight_facts(tensors),
    }


def quantizer_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """
    Which quantizer a tokenizer has: `quantizer_type`, and what of the rest means something to it, None elsewhere.

    Args:
        config (`Mapping`): Of the tokenizer.
    """
    kind = config["quantizer_type"]
    return {
        "quantizer_type": kind,
        "token_logits": None if kind == "nearest" else config["token_logits"],
        "mask_ratio": config["mask_ratio"] if kind == "regularized" else None,
    }


def _tokenizer_preset(config: Mapping[str, Any]) -> str | None:
    """The published configuration that this one is, if any."""
    kind, trunk = config["quantizer_type"], (config["num_codebooks"], tuple(config["block_out_channels"]))
    if (config["codebook_dim"], config["latent_channels"]) != (8, 256):
        return None
    if kind == "nearest":
        return TOKENIZER_PRESETS.get(trunk) if config["codebook_size"] == 16384 else None
    preset = REGULARIZED_PRESETS.get((*trunk, config["codebook_size"], config["token_logits"]))
    return preset if kind == "regularized" else None


def generator_facts(folder: Path) -> dict[str, Any]:
    """Facts of the folder of a generator; raises `ValueError` if it is damaged or holds something else."""
    kind, config, tensors = _open_model(folder, "generator")
    shape = tuple(config[f"num_{name}"] for name in ("hidden_layers", "attention_heads", "head_layers"))
    has_head, is_far = config["head_type"] == "ar", kind.model_type == "far"
    return {
        "kind": f"generator ({kind})",
        "preset": GENERATOR_PRESETS.get((config["hidden_size"], *shape)) if has_head and is_far else None,
        "num_codebooks": config["num_codebooks"],
        "codebook_size": config["codebook_size"],
        "grid": [config["grid_height"], config["grid_width"]],
        **condition_facts(config),
        "class_names": _first_class_names(config, folder / kind.config_file),
        "num_train_timesteps": config.get("num_train_timesteps"),
        "time_conditioning": config.get("time_conditioning"),
        "hidden_size": config["hidden_size"],
        "num_hidden_layers": config["num_hidden_layers"],
        "num_attention_heads": config["num_attention_heads"],
        "head_type": config["head_type"],
        "num_head_layers": config["num_head_layers"] if has_head else None,
        "parameters": sum(tensor.numel for tensor in tensors.values()),
        "tokenizer_fingerprint": config["tokenizer_fingerprint"],
        **_weight_facts(tensors),
    }


def condition_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """
    What a generator is given, in words for people; None for what it does not know.

    Args:
        config (`Mapping`): Of the generator.
    """
    names = list(config["conditions"])
    text = maps = None
    if "text" in names:
        size, layers = config["text_vocab_size"], config["num_text_layers"]
        encoder = f"states of a frozen text encoder, {config['text_hidden_size']} wide"
        if size is not None:
            encoder = f"a text encoder of its own, {layers} layers, vocabulary {size}"
        text = f"{config['num_text_tokens']} tokens, {encoder}"
    if "map" in names:
        grid = [config[f"map_{side}"] or config[side] for side in ("grid_height", "grid_width")]
        maps = f"{config['map_num_codebooks']} of {config['map_codebook_size']} codes at {grid[0]}x{grid[1]} positions"
    return {
        "conditions": names,
        "num_classes": config["num_classes"] if "class" in names else None,
        "text": text,
        "map": maps,
        "map_tokenizer_fingerprint": config["map_tokenizer_fingerprint"],
    }


def scheduler_facts(folder: Path) -> dict[str, Any]:
    """Facts of a `CodeDiffusionScheduler` folder."""
    content = read_json(folder / kind_named("CodeDiffusionScheduler").config_file)
    return {name: content.get(name) for name in ("num_train_timesteps", "transition", "sampling")}


_FACTS = {"tokenizer": tokenizer_facts, "generator": generator_facts, "scheduler": scheduler_facts}


def weight_files(folder: Path) -> list[Path]:
    """
    The files that a model's weights are loaded from; those of a variant where a folder holds nothing else.

    Raises:
        FileNotFoundError: There are none.
        ValueError: There are two sets of them, or the index that names them is damaged.
    """
    stem = folder_kind(folder).weights_stem
    names = rf"{stem}(?:\.([^.]+))?\.safetensors|{stem}\.safetensors\.index(?:\.([^.]+))?\.json"
    found = [re.fullmatch(names, path.name) for path in folder.iterdir() if "-of-" not in path.name]  # no shards
    variants = sorted({match[1] or match[2] or "" for match in found if match})  # "" comes first
    return checkpoint_files.weight_files(folder, stem, variants[0] if variants else None)


def _open_model(folder: Path, role: str) -> tuple[ModelKind, dict[str, Any], dict[str, StoredTensor]]:
    """Kind and configuration of a model, and what the headers of its weights say."""
    kind = folder_kind(folder)
    if kind.role != role:
        raise ValueError(f"{folder} must hold a {role}, got a {kind}")
    tensors: dict[str, StoredTensor] = {}
    for path in weight_files(folder):
        tensors |= read_header(path)
    return kind, _read_config(folder / kind.config_file, kind), tensors


def _read_config(path: Path, kind: ModelKind) -> dict[str, Any]:
    """The settings of a `config.json`, with the class's defaults where it has none, and its class names."""
    content = read_json(path)
    config = {"id2label": content.get("id2label")}
    for name, field in config_fields(kind.class_name).items():
        value = content.get(name, field.default)
        if name in content and not field.accepts(value):
            raise ValueError(f"{path}: {name} must be of type {field.type}, got {value!r:.80}")
        config[name] = list(value) if isinstance(value, tuple) else value
    return config


def _first_class_names(config: Mapping[str, Any], path: Path) -> list[str] | None:
    """Three names, and "..." if there are more; transformers makes up those like LABEL_7."""
    id2label = config["id2label"] if "class" in config["conditions"] else None
    try:
        check_label_names(id2label)
        names = {int(key): name for key, name in (id2label or {}).items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    names = [names[key] for key in sorted(names) if names[key] != f"LABEL_{key}"]
    return names[:3] + (["..."] if len(names) > 3 else []) or None


def _weight_facts(tensors: dict[str, StoredTensor]) -> dict[str, Any]:
    """Number types of the weights, and the size of their files."""
    files = {tensor.path for tensor in tensors.values()}
    return {
        "dtype": sorted({tensor.dtype for tensor in tensors.values()}),
        "weights_bytes": sum(path.stat().st_size for path in files),
    }


def _fingerprint(embedding: StoredTensor) -> str:
    """`FactorizedQuantizer.fingerprint` of codebooks in a file: the sign is the top bit of a number's last byte."""
    digest = hashlib.sha256(repr(embedding.shape).encode())
    width = FLOATING[embedding.dtype]
    for block in embedding.blocks():
        digest.update(block[width - 1 :: width].translate(SIGN_OF_BYTE))
    return digest.hexdigest()


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

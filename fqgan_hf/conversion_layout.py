# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The layout of the published FQGAN and FAR checkpoints beside ours: one table a model, walked in both directions.

tokenizer_entries(config), generator_entries(config)    every tensor: our names, published names, transform
walk_table(entries, state, to_ours=True)                the tensors under the other names
tokenizer_config(state), generator_config(state)        our configuration, from published keys and shapes
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from fqgan_hf.modeling.configuration_far import FARConfig


# Published suffixes of the codebooks in canonical order, by number of codebooks.
CODEBOOK_SUFFIXES = {2: ("vis", "sem"), 3: ("vis", "sem_mid", "sem_high")}
ADAPTER_NAMES = {
    2: ("visual_head", "semantic_head"),
    3: ("visual_head", "semantic_head_mid", "semantic_head_high"),
}
FEATURE_HEAD_NAMES = {2: (None, "feat_pred_head"), 3: (None, "mid_sem_feat_pred", "high_sem_feat_pred")}

StateDict = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Transform:
    """How published tensors become ours, and back; each function maps as many tensors as the entry has names."""

    to_ours: Callable[..., tuple[torch.Tensor, ...]]
    to_published: Callable[..., tuple[torch.Tensor, ...]]


IDENTITY = Transform(lambda x: (x,), lambda x: (x,))
CONV_TO_LINEAR = Transform(lambda x: (x[:, :, 0, 0],), lambda x: (x[:, :, None, None],))
SPLIT_QKV = Transform(lambda x: x.chunk(3), lambda *qkv: (torch.cat(qkv),))
STACK = Transform(lambda *xs: (torch.stack(xs),), lambda x: x.unbind(0))

# (our names, published names, transform)
Entry = tuple[tuple[str, ...], tuple[str, ...], Transform]


# ---- The tables ----------------------------------------------------------------------------------------------------


def tokenizer_entries(config) -> Iterator[Entry]:
    """Every tensor of an `FQGANModel` (its `config`) beside its published name."""
    num_codebooks, levels = config.num_codebooks, len(config.block_out_channels)

    def weight_and_bias(ours, published, transform=IDENTITY, bias_transform=IDENTITY):
        yield (f"{ours}.weight",), (f"{published}.weight",), transform
        yield (f"{ours}.bias",), (f"{published}.bias",), bias_transform

    def resnet(ours, published, has_shortcut):
        for name in ("norm1", "conv1", "norm2", "conv2"):
            yield from weight_and_bias(f"{ours}.{name}", f"{published}.{name}")
        if has_shortcut:
            yield from weight_and_bias(f"{ours}.conv_shortcut", f"{published}.nin_shortcut")

    def attention(ours, published):
        yield from weight_and_bias(f"{ours}.group_norm", f"{published}.norm")
        for name, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
            yield from weight_and_bias(f"{ours}.{name}", f"{published}.{theirs}", CONV_TO_LINEAR)

    def mid_block(ours, published):
        yield from resnet(f"{ours}.resnets.0", f"{published}.0", False)
        yield from attention(f"{ours}.attentions.0", f"{published}.1")
        yield from resnet(f"{ours}.resnets.1", f"{published}.2", False)

    def level_blocks(ours, published, level, in_channels, out_channels, num_layers, has_attention):
        for i in range(num_layers):
            shortcut = i == 0 and in_channels != out_channels
            yield from resnet(f"{ours}.{level}.resnets.{i}", f"{published}.{level}.res.{i}", shortcut)
            if has_attention:
                yield from attention(f"{ours}.{level}.attentions.{i}", f"{published}.{level}.attn.{i}")

    def transformer(ours, published, num_layers):
        yield (f"{ours}.position_embedding",), (f"{published}.positional_embedding",), IDENTITY
        yield from weight_and_bias(f"{ours}.norm_in", f"{published}.ln_pre")
        for i in range(num_layers):
            block, theirs = f"{ours}.blocks.{i}", f"{published}.transformer.{i}"
            yield from weight_and_bias(f"{block}.norm1", f"{theirs}.ln_1")
            for kind in ("weight", "bias"):
                names = tuple(f"{block}.attn1.{name}.{kind}" for name in ("to_q", "to_k", "to_v"))
                yield names, (f"{theirs}.attn.in_proj_{kind}",), SPLIT_QKV
            yield from weight_and_bias(f"{block}.attn1.to_out.0", f"{theirs}.attn.out_proj")
            yield from weight_and_bias(f"{block}.norm3", f"{theirs}.ln_2")
            yield from weight_and_bias(f"{block}.ff.net.0.proj", f"{theirs}.mlp.c_fc")
            yield from weight_and_bias(f"{block}.ff.net.2", f"{theirs}.mlp.c_proj")
        yield from weight_and_bias(f"{ours}.norm_out", f"{published}.ln_post")

    channels = list(config.block_out_channels)
    yield from weight_and_bias("encoder.conv_in", "encoder.conv_in")
    for level, (before, after) in enumerate(zip([channels[0]] + channels, channels, strict=False)):
        is_last = level == levels - 1
        yield from level_blocks(
            "encoder.down_blocks", "encoder.conv_blocks", level, before, after, config.layers_per_block, is_last
        )
        if not is_last:
            ours, published = f"encoder.down_blocks.{level}.downsamplers.0", f"encoder.conv_blocks.{level}.downsample"
            yield from weight_and_bias(f"{ours}.conv", f"{published}.conv")
    yield from mid_block("encoder.mid_block", "encoder.mid")

    suffixes = CODEBOOK_SUFFIXES[num_codebooks]
    for k, suffix in enumerate(suffixes):
        if config.adapter_num_layers:
            adapter = f"encoder.{ADAPTER_NAMES[num_codebooks][k]}.0"
            yield from transformer(f"branches.{k}.adapter", adapter, config.adapter_num_layers)
        yield from weight_and_bias(f"branches.{k}.conv_norm_out", f"encoder.norm_out_{suffix}")
        yield from weight_and_bias(f"branches.{k}.conv_out", f"encoder.conv_out_{suffix}")
        yield from weight_and_bias(f"branches.{k}.quant_conv", f"quant_conv_{suffix}")
    yield ("quantizer.embedding",), tuple(f"quantize_{suffix}.embedding.weight" for suffix in suffixes), STACK
    yield from weight_and_bias("post_quant_conv", "post_quant_conv")

    for k, width in enumerate(config.feature_dims or ()):
        if width:
            ours, published = f"feature_heads.{k}", FEATURE_HEAD_NAMES[num_codebooks][k]
            yield (f"{ours}.class_embedding",), (f"{published}.class_embedding",), IDENTITY
            yield from weight_and_bias(f"{ours}.upscale.0", f"{published}.upscale.0")
            yield from weight_and_bias(f"{ours}.upscale.2", f"{published}.upscale.2")
            yield from transformer(f"{ours}.transformer", published, config.feature_num_layers)

    yield from weight_and_bias("decoder.conv_in", "decoder.conv_in")
    yield from mid_block("decoder.mid_block", "decoder.mid")
    reverse = channels[::-1]
    for level, (before, after) in enumerate(zip([reverse[0]] + reverse, reverse, strict=False)):
        yield from level_blocks(
            "decoder.up_blocks", "decoder.conv_blocks", level, before, after, config.layers_per_block + 1, level == 0
        )
        if level < levels - 1:
            ours, published = f"decoder.up_blocks.{level}.upsamplers.0", f"decoder.conv_blocks.{level}.upsample"
            yield from weight_and_bias(f"{ours}.conv", f"{published}.conv")
    yield from weight_and_bias("decoder.conv_norm_out", "decoder.norm_out")
    yield from weight_and_bias("decoder.conv_out", "decoder.conv_out")


def generator_entries(config: FARConfig) -> Iterator[Entry]:
    """Every tensor of a `FARForImageGeneration` beside its published name."""
    if config.head_type != "ar":
        raise ValueError(f"the published layout exists for head_type 'ar' only, got {config.head_type!r}")
    codebooks = range(1, config.num_codebooks + 1)
    rotary_layout = Transform(
        lambda x: (_reorder_rotary(x, config, to_half_split=True),),
        lambda x: (_reorder_rotary(x, config, to_half_split=False),),
    )
    yield ("class_embedding.weight",), ("cls_embedding.embedding_table.weight",), IDENTITY
    split = Transform(lambda *xs: (torch.cat(xs),), lambda x: x.chunk(config.num_codebooks))
    yield ("code_embedding.weight",), tuple(f"tok_embeddings_{k}.weight" for k in codebooks), split
    for kind in ("weight", "bias"):
        yield (f"aggregation.{kind}",), (f"aggregation_layer.{kind}",), IDENTITY
    blocks = [(f"layers.{i}", f"layers.{i}") for i in range(config.num_hidden_layers)]
    blocks += [(f"head.layers.{i}", f"ar_head.{i}") for i in range(config.num_head_layers)]
    gate_up = Transform(lambda gate, up: (torch.cat([gate, up]),), lambda x: x.chunk(2))
    for ours, published in blocks:
        yield (f"{ours}.self_attn.qkv_proj.weight",), (f"{published}.attention.wqkv.weight",), rotary_layout
        yield (f"{ours}.self_attn.o_proj.weight",), (f"{published}.attention.wo.weight",), IDENTITY
        names = (f"{published}.feed_forward.w1.weight", f"{published}.feed_forward.w3.weight")
        yield (f"{ours}.mlp.gate_up_proj.weight",), names, gate_up
        yield (f"{ours}.mlp.down_proj.weight",), (f"{published}.feed_forward.w2.weight",), IDENTITY
        yield (f"{ours}.input_layernorm.weight",), (f"{published}.attention_norm.weight",), IDENTITY
        yield (f"{ours}.post_attention_layernorm.weight",), (f"{published}.ffn_norm.weight",), IDENTITY
    yield ("norm.weight",), ("norm.weight",), IDENTITY
    for k in codebooks:
        yield (f"lm_heads.{k - 1}.weight",), (f"output_{k}.weight",), IDENTITY


def _reorder_rotary(qkv: torch.Tensor, config: FARConfig, to_half_split: bool) -> torch.Tensor:
    """Rows of the fused q and k projections: published rotary pairs are (2i, 2i + 1), ours (i, i + head_dim / 2)."""
    key_values = config.num_key_value_heads * config.head_dim
    query_key, value = qkv.split([qkv.shape[0] - key_values, key_values])
    shape = (-1, config.head_dim // 2, 2) if to_half_split else (-1, 2, config.head_dim // 2)
    return torch.cat([query_key.unflatten(0, shape).transpose(1, 2).flatten(0, 2), value])


# ---- Walking them --------------------------------------------------------------------------------------------------


def walk_table(entries: Iterable[Entry], source: StateDict, to_ours: bool) -> StateDict:
    """
    Tensors under their other names: a table, walked in one direction.

    Args:
        entries (`Iterable[Entry]`): `tokenizer_entries` or `generator_entries`.
        source (`dict[str, torch.Tensor]`): A whole state dict, published or ours.
        to_ours (`bool`): Whether it is published.

    Raises:
        ValueError: A tensor is missing, is in no entry of the table, or has a shape that its transform cannot take.
    """
    result, used, missing = {}, set(), []
    for ours, published, transform in entries:
        inputs, outputs = (published, ours) if to_ours else (ours, published)
        absent = [name for name in inputs if name not in source]
        if absent:
            missing += absent
            continue
        used.update(inputs)
        function = transform.to_ours if to_ours else transform.to_published
        try:
            tensors = zip(outputs, function(*(source[name] for name in inputs)), strict=True)
            result.update((name, tensor.contiguous()) for name, tensor in tensors)
        except (RuntimeError, IndexError, ValueError) as error:  # from a view or a concatenation that is not possible
            shapes = ", ".join(f"{name} {tuple(source[name].shape)}" for name in inputs)
            raise ValueError(f"checkpoint has tensors of unexpected shape: {shapes}") from error
    unknown = sorted(set(source) - used)
    if missing or unknown:
        parts = [f"{len(keys)} {kind} keys: {', '.join(keys[:5])}" for kind, keys in
                 (("missing", missing), ("unknown", unknown)) if keys]  # fmt: skip
        raise ValueError(f"checkpoint does not have the expected layout ({'; '.join(parts)})")
    return result


# ---- Configurations, from keys and shapes ---------------------------------------------------------------------------


def _count(state: StateDict, pattern: str) -> int:
    """Number of indices that `pattern` (with one group) finds among the keys."""
    found = {int(match.group(1)) for key in state if (match := re.match(pattern, key))}
    return len(found)


def _require(state: StateDict, *names: str) -> None:
    absent = [name for name in names if name not in state]
    if absent:
        raise ValueError(
            f"checkpoint does not have the expected layout ({len(absent)} missing keys: {', '.join(absent)})"
        )


def _shape(state: StateDict, name: str, num_dimensions: int) -> tuple[int, ...]:
    """Shape of a tensor that must be there, with so many dimensions."""
    _require(state, name)
    shape = tuple(state[name].shape)
    if len(shape) != num_dimensions:
        raise ValueError(
            f"checkpoint has tensors of unexpected shape: {name} {shape} instead of {num_dimensions} dimensions"
        )
    return shape


def tokenizer_config(state: StateDict, **overrides) -> dict:
    """The configuration of a published tokenizer, from its keys and shapes; `overrides` win (heads leave no trace)."""
    num_codebooks = len([key for key in state if re.fullmatch(r"quantize_\w+\.embedding\.weight", key)])
    if num_codebooks not in CODEBOOK_SUFFIXES:
        raise ValueError(
            f"a published tokenizer has 2 or 3 codebooks, found {num_codebooks} (quantize_*.embedding.weight)"
        )
    suffixes = CODEBOOK_SUFFIXES[num_codebooks]
    adapters = ADAPTER_NAMES[num_codebooks]
    levels = _count(state, r"encoder\.conv_blocks\.(\d{1,9})\.")
    last_convs = [f"encoder.conv_blocks.{i}.res.0.conv1.weight" for i in range(levels)]
    codebook_size, codebook_dim = _shape(state, f"quantize_{suffixes[0]}.embedding.weight", 2)
    num_positions = _shape(state, f"encoder.{adapters[0]}.0.positional_embedding", 2)[0]
    grid = round(num_positions**0.5)
    heads = FEATURE_HEAD_NAMES[num_codebooks]
    widths = [
        _shape(state, f"{head}.class_embedding", 2)[-1] if f"{head}.class_embedding" in state else None
        for head in heads
    ]
    config = {
        "in_channels": _shape(state, "encoder.conv_in.weight", 4)[1],
        "out_channels": _shape(state, "decoder.conv_out.weight", 4)[0],
        "block_out_channels": tuple(_shape(state, name, 4)[0] for name in last_convs),
        "layers_per_block": _count(state, r"encoder\.conv_blocks\.0\.res\.(\d{1,9})\."),
        "latent_channels": _shape(state, "post_quant_conv.weight", 4)[0],
        "sample_size": grid * 2 ** max(levels - 1, 0),
        "num_codebooks": num_codebooks,
        "codebook_size": codebook_size,
        "codebook_dim": codebook_dim,
        "adapter_num_layers": _count(state, rf"encoder\.{adapters[0]}\.0\.transformer\.(\d{{1,9}})\."),
    }
    if any(widths):
        config["feature_dims"] = tuple(widths)
        head = next(head for head, width in zip(heads, widths, strict=True) if width)
        config["feature_num_layers"] = _count(state, rf"{head}\.transformer\.(\d{{1,9}})\.")
    return config | overrides


def generator_config(state: StateDict, **overrides) -> dict:
    """The configuration of a published generator, from its keys and shapes.

    Shapes tell neither the attention heads (64 channels each in every published size, and assumed) nor the grid
    (16x16 assumed): give `num_attention_heads`, `grid_height`, `grid_width` where they differ.
    """
    num_codebooks = _count(state, r"tok_embeddings_(\d{1,9})\.weight")
    codebook_size, hidden_size = _shape(state, "tok_embeddings_1.weight", 2)
    heads = overrides.get("num_attention_heads") or max(1, hidden_size // 64)
    qkv_rows = _shape(state, "layers.0.attention.wqkv.weight", 2)[0]
    return {
        "num_codebooks": num_codebooks,
        "codebook_size": codebook_size,
        "num_classes": _shape(state, "cls_embedding.embedding_table.weight", 2)[0] - 1,
        "hidden_size": hidden_size,
        "intermediate_size": _shape(state, "layers.0.feed_forward.w1.weight", 2)[0],
        "num_hidden_layers": _count(state, r"layers\.(\d{1,9})\."),
        "num_attention_heads": heads,
        "num_key_value_heads": (qkv_rows - hidden_size) // 2 // max(1, hidden_size // heads),
        "num_head_layers": _count(state, r"ar_head\.(\d{1,9})\."),
    } | overrides

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of the published FQGAN and FAR code to this package's form, and back.

    convert_checkpoint("published.pt", "folder")        `fqgan convert published.pt folder`
    convert_to_original("folder", "published.pt")       `fqgan convert --to-original folder published.pt`

What a file holds is found from its keys and shapes, by the tables of `conversion_layout.py`. Pickles are read by
torch's restricted unpickler only.
"""

import argparse
import difflib
import os
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fqgan_hf.conversion_layout import (
    CODEBOOK_SUFFIXES,
    StateDict,
    generator_config,
    generator_entries,
    tokenizer_config,
    tokenizer_entries,
    walk_table,
)
from fqgan_hf.files import atomic_path, check_writable, sha256, staged_folder
from fqgan_hf.hub.card_info import CONVERTED_LICENSE, CardInfo
from fqgan_hf.hub.kinds import kind_in_config
from fqgan_hf.modeling import configuration_fqgan, configuration_generator
from fqgan_hf.modeling.configuration_checks import check_setting
from fqgan_hf.modeling.configuration_far import FARConfig
from fqgan_hf.modeling.image_processing_fqgan import FQGANImageProcessor
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.modeling_fqgan import FQGANModel


WRAPPER_KEYS = ("ema", "model", "state_dict")

# What may be given beside a checkpoint. Shapes tell the rest, and are right.
GENERATOR_SETTINGS = {*configuration_generator.SETTINGS, "id2label", "tokenizer_fingerprint"}
TOKENIZER_SETTINGS = {*configuration_fqgan.SETTINGS, "act_fn"}


def load_published_state_dict(path: str | os.PathLike) -> StateDict:
    """
    Read a published checkpoint without running code that it may carry.

    Args:
        path: A torch file holding the state dict itself, or a dict with it under `ema`, else `model`, else
            `state_dict`; or a safetensors file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no readable checkpoint, holds pickled objects other than tensors, containers and
            `argparse.Namespace`, or no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint must be a file, got {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _check_archive(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        reason = str(error).strip().splitlines()
        unsafe = re.search(r"Unsupported (?:global|class|operand)[^\n]*|GLOBAL \S+", str(error))
        detail = unsafe.group(0) if unsafe else (reason[0] if reason else type(error).__name__)
        raise ValueError(
            f"checkpoint {path} was refused: it must be a whole torch or safetensors file that holds tensors, plain "
            f"containers and argparse.Namespace only ({detail})"
        ) from None
    for key in WRAPPER_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    is_state = isinstance(content, dict) and content and all(isinstance(key, str) for key in content)
    if not is_state or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(
            f"checkpoint {path} must be a state dict or hold one under {', '.join(map(repr, WRAPPER_KEYS))}, "
            f"got {type(content).__name__}"
        )
    prefixes = ("module.", "_orig_mod.")
    while any(all(key.startswith(prefix) for key in content) for prefix in prefixes):
        content = {key.split(".", 1)[1]: value for key, value in content.items()}
    return content


def _check_archive(path: Path) -> None:
    """Raise `ValueError` for a torch file whose parts fail their checksums: `torch.load` reads none."""
    if not zipfile.is_zipfile(path):
        return  # the format before torch 1.6, without checksums
    with zipfile.ZipFile(path) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise ValueError("it has compressed parts, which torch does not write")
        if damaged := archive.testzip():
            raise ValueError(f"the checksum of its part {damaged} is wrong: it was damaged")


# ---- From published to ours -----------------------------------------------------------------------------------------


def check_overrides(names: Iterable[str], known: set[str] = GENERATOR_SETTINGS | TOKENIZER_SETTINGS) -> None:
    """Raise `ValueError` for a setting that does not exist, with the nearest one that does."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"there is no setting {name} (the nearest is {near}), accepted are {sorted(known)}")


def convert_state_dict(state: StateDict, **overrides) -> FQGANModel | FARForImageGeneration:
    """
    A model from a published state dict (fp32, evaluation mode).

    Args:
        state: Published names and tensors, tokenizer or generator.
        **overrides: Configuration values that shapes do not tell, e.g. `num_attention_heads=4`.

    Raises:
        ValueError: If keys are missing, unknown or of other shapes, each named.
    """
    # Usage statistics of the published quantizer and its rotary table are not weights.
    state = {k: v for k, v in state.items() if not k.endswith(".codebook_used") and k != "freqs_cis"}
    is_generator = any(key.startswith("tok_embeddings_") for key in state)
    if not is_generator and not any(key.startswith("quantize_") for key in state):
        raise ValueError(
            "checkpoint is neither a published tokenizer (quantize_*.embedding.weight) nor a published generator "
            f"(tok_embeddings_*.weight); its first keys are {', '.join(sorted(state)[:3])}"
        )
    check_overrides(overrides, GENERATOR_SETTINGS if is_generator else TOKENIZER_SETTINGS)
    for name, setting in (configuration_generator if is_generator else configuration_fqgan).SETTINGS.items():
        if name in overrides:
            check_setting(name, overrides[name], setting)
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be of a floating type, got {tensor.dtype}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} must hold finite values, got NaN or infinity")

    with torch.device("meta"):  # nothing is allocated before all shapes are known to fit
        if is_generator:
            model = FARForImageGeneration(FARConfig(**generator_config(state, **overrides)))
            entries = list(generator_entries(model.config))
        else:
            model = FQGANModel(**tokenizer_config(state, **overrides))
            entries = list(tokenizer_entries(model.config))
    # Copies: parts of one tensor would share its storage, which safetensors does not write.
    ours = walk_table(entries, state, to_ours=True)
    converted = {name: torch.empty(tensor.shape).copy_(tensor) for name, tensor in ours.items()}
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    published = {name: " and ".join(theirs) for names, theirs, _ in entries for name in names}
    wrong = [
        f"{published[name]}: {tuple(tensor.shape)} instead of {tuple(expected[name])} in {name}"
        for name, tensor in converted.items()
        if tensor.shape != expected[name]
    ]
    if wrong:
        raise ValueError(f"checkpoint has tensors of unexpected shape: {'; '.join(wrong[:5])}")
    model.load_state_dict(converted, assign=True)
    return model.eval()


def convert_checkpoint(
    path: str | os.PathLike, output_dir: str | os.PathLike, force: bool = False, **overrides
) -> FQGANModel | FARForImageGeneration:
    """
    Convert a published checkpoint file to a `from_pretrained` folder.

    Args:
        path: See `load_published_state_dict`.
        output_dir: Created if need be. It appears complete or not at all.
        force (`bool`):
            Let files of the same names in `output_dir` be replaced: `config.json`, the weights, a tokenizer's
            `preprocessor_config.json`, and `card.json`, which says where the weights come from and under which
            licence. Other files there stay.
        **overrides: See `convert_state_dict`.

    Returns:
        The model.

    Raises:
        FileExistsError: The folder holds something, without `force`; or `force` would replace the checkpoint itself or
            leave weights beside the new ones that a loader could take for them.
        ValueError: See `load_published_state_dict` and `convert_state_dict`.
    """
    path, output_dir = Path(path), Path(output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise FileExistsError(f"output_dir must be a folder, got the file {output_dir}")
    if output_dir.is_dir() and any(output_dir.iterdir()) and not force:
        raise FileExistsError(f"{output_dir} is there already and not empty: choose another folder, or --force")
    check_overrides(overrides)
    check_writable(output_dir / "config.json")
    model = convert_state_dict(load_published_state_dict(path), **overrides)
    with staged_folder(output_dir) as staging:
        try:
            model.save_pretrained(str(staging))
            if isinstance(model, FQGANModel):
                size, factor = model.config.sample_size, model.downsample_factor
                FQGANImageProcessor(size=size, multiple_of=factor).save_pretrained(str(staging))
            source = f"the checkpoint `{path.name}` (SHA-256 `{sha256(path)}`)"
            CardInfo(license=CONVERTED_LICENSE, converted_from=source).write(staging)
        except SafetensorError as error:
            raise OSError(f"{output_dir} cannot be written: {error}") from error
        _check_replaced(path, staging, output_dir)
    return model


def _check_replaced(source: Path, staging: Path, output_dir: Path) -> None:
    """Raise `FileExistsError` where the files of `staging` in `output_dir` would destroy something or be confused."""
    for path in staging.iterdir():
        target = output_dir / path.name
        if target.exists() and target.samefile(source):
            raise FileExistsError(f"{target} would replace the checkpoint itself: choose another folder")
    stems = {path.name.split(".")[0].split("-")[0] for path in staging.glob("*.safetensors")}
    for stem in stems:
        for other in (f"{stem}.safetensors", f"{stem}.safetensors.index.json"):
            if (output_dir / other).exists() and not (staging / other).exists():
                raise FileExistsError(
                    f"{output_dir / other} would stay beside the new weights and be loaded in their place: remove it, "
                    "or choose another folder"
                )


# ---- And back -------------------------------------------------------------------------------------------------------


def to_published_state_dict(model: FQGANModel | FARForImageGeneration) -> StateDict:
    """
    The model's tensors under their published names.

    Args:
        model: A tokenizer or a generator.

    Raises:
        ValueError: If the published layout cannot hold it: K other than 2 and 3, a head other than `"ar"`.
    """
    if isinstance(model, FARForImageGeneration):
        entries = generator_entries(model.config)
    else:
        num_codebooks = model.config.num_codebooks
        if num_codebooks not in CODEBOOK_SUFFIXES:
            raise ValueError(f"the published layout exists for 2 and 3 codebooks, got {num_codebooks}")
        if not model.config.adapter_num_layers:
            raise ValueError("the published layout has adapters, got adapter_num_layers = 0")
        if (model.config.feature_dims or [None])[0]:
            raise ValueError("the published layout has no feature head on the visual codebook (feature_dims[0])")
        entries = tokenizer_entries(model.config)
    return walk_table(entries, model.state_dict(), to_ours=False)


def convert_to_original(model_dir: str | os.PathLike, path: str | os.PathLike) -> None:
    """
    Write a model in the published layout, `{"model": state dict}` as a torch file.

    Args:
        model_dir: A directory or Hub id with an `FQGANModel` or a `FARForImageGeneration`.
        path: The file to write; it appears complete or not at all.

    Raises:
        FileExistsError: It is a folder, or a file of the model itself.
        ValueError: The published layout cannot hold the model.
    """
    path = Path(path)
    if path.is_dir():
        raise FileExistsError(f"path must be a file, got the folder {path}")
    if Path(model_dir).is_dir() and path.resolve().parent == Path(model_dir).resolve() and path.exists():
        raise FileExistsError(f"{path} is a part of the model itself: choose another file")
    check_writable(path)
    model = load_any_model(model_dir)
    with atomic_path(path) as temporary:
        try:
            torch.save({"model": to_published_state_dict(model)}, temporary)
        except RuntimeError as error:  # how torch tells of a full disk
            raise OSError(f"{path} cannot be written: {error}") from error


def load_any_model(model_dir: str | os.PathLike, **kwargs) -> FQGANModel | FARForImageGeneration:
    """
    Load a tokenizer or a generator, whichever `config.json` says it is.

    Args:
        model_dir: A directory or Hub id.
        **kwargs: See `from_pretrained`.

    Raises:
        ValueError: If it is neither.
    """
    kind = kind_in_config(FQGANModel.load_config(str(model_dir)))
    if kind is None or kind.weights_stem is None:
        raise ValueError(f"{model_dir} must hold a tokenizer or a generator, its config.json says neither")
    return kind.load_class().from_pretrained(str(model_dir), **kwargs)

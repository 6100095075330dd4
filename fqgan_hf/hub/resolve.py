# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""From what a person names, a folder or a Hub id, to a local folder; and the pipeline that comes with this package."""

import re
from pathlib import Path

from fqgan_hf.failures import first_line


# What commands use when no model is named: what `fqgan demo` leaves behind.
DEMO_PIPELINE = "outputs/demo/pipeline"

# In the folder of the Space: makes pictures from words, without a training and without the Hub.
EMBEDDED_PIPELINE = "pipeline"

# All that loading a model or telling what it is reads.
MODEL_FILES = ["*.json", "*.safetensors", "*/*.json", "*/*.safetensors", "tokenizer/*"]


def resolve_folder(reference: str | Path) -> Path:
    """
    The local folder of a model or pipeline, downloaded first if `reference` is a Hub id.

    Args:
        reference (`str` or `Path`): A folder, or an id of the form "user/name".

    Returns:
        `Path`: The folder.

    Raises:
        FileNotFoundError: If there is no such folder and it cannot be a Hub id.
        ValueError: If it is a file.
        OSError: If it cannot be downloaded.
    """
    path, reference = Path(reference).expanduser(), str(reference)
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{reference} is a file, not a model folder (`fqgan convert` reads published checkpoints)")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", reference):
        hint = " (`fqgan demo` makes it; --model names another)" if reference == DEMO_PIPELINE else ""
        raise FileNotFoundError(f"there is no folder {reference}, and it is no Hub id of the form user/name{hint}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(reference, allow_patterns=MODEL_FILES))
    except (OSError, ValueError) as error:  # few of its messages name the repository
        raise OSError(f"{reference} cannot be downloaded: {first_line(error)}") from error


def space_folder() -> Path:
    """
    The folder `spaces_demo`, installed or in a checkout.

    Raises:
        FileNotFoundError: It is not there.
    """
    import fqgan_hf

    for base in fqgan_hf.__path__:
        if (folder := Path(base) / "spaces_demo").is_dir():
            return folder.resolve()
    raise FileNotFoundError("the folder spaces_demo of this package is not there: is it installed as a whole?")


def embedded_pipeline() -> Path:
    """
    The pipeline that comes with this package: small pictures of emoji from words.

    Raises:
        FileNotFoundError: It is not there.
    """
    folder = space_folder() / EMBEDDED_PIPELINE
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(f"the pipeline that comes with this package is not in {folder}: name another model")
    return folder

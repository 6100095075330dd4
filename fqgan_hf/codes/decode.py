# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Codes in files to pictures: `fqgan decode` from Python.

    decode_to_folder("codes.parquet", "pictures", model="user/fqgan-dual-f16")

What can be wrong is looked for here, before any weights are loaded; the work is in `decoding`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fqgan_hf.codes.encode import check_at_least, check_libraries
from fqgan_hf.files import check_writable
from fqgan_hf.hub.facts import folder_facts
from fqgan_hf.pipelines.inference import resolve_tokenizer


if TYPE_CHECKING:
    from fqgan_hf.codes.code_files import CodeFile


SETTINGS = "decoding.json"


@dataclass(frozen=True)
class DecodedCodes:
    """
    What became of codes.

    Args:
        output_dir (`Path`): Holds a PNG file for each view of each row.
        num_pictures (`int`): In all.
        num_kept (`int`): That were there already.
    """

    output_dir: Path
    num_pictures: int
    num_kept: int


def decode_to_folder(
    codes: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    *,
    model: str | Path,
    codebooks: Sequence[int] | None = None,
    batch_size: int = 16,
    device: str = "auto",
) -> DecodedCodes:
    """
    Write a picture for every row of codes, or what of them is missing.

    All processes of an `accelerate launch` call it with the same arguments and share the work. Stopped anywhere, the
    same call goes on: pictures that are there are complete, and `decoding.json` says what they were made of.

    Args:
        codes (`str`, `Path` or a list of them): Files and folders; see `fqgan_hf.codes.code_files.open_codes`.
        output_dir (`str` or `Path`): Gets the pictures, called after the ids of the rows; those of several files or
            folders of codes in a subfolder each.
        model (`str` or `Path`): The tokenizer that made the codes, or a pipeline that has it: a folder or a Hub id.
        codebooks (`Sequence[int]`, *optional*): Decode from these codebooks only, 0 is the first; by default all.
        batch_size (`int`): Pictures at a time in each process.
        device (`str`): See [`~fqgan_hf.pipelines.inference.choose_device`].

    Returns:
        [`DecodedCodes`]

    Raises:
        ValueError: Codes are of another tokenizer or damaged, or `output_dir` holds pictures of something else.
        FileNotFoundError: There are no such codes, or no such model.
        OSError: `output_dir` cannot be written.
    """
    sources, output_dir = [codes] if isinstance(codes, (str, Path)) else list(codes), Path(output_dir)
    check_at_least(1, batch_size=batch_size)
    folder, facts = check_decoding(sources, output_dir, model, codebooks)
    from fqgan_hf.codes.code_files import open_codes
    from fqgan_hf.codes.decoding import decode_files

    opened = [open_codes(source) for source in sources]
    for file in opened:
        check_tokenizer(file, model, facts)
    num_pictures, num_kept = decode_files(
        opened, output_dir, folder, model_name=str(model), codebooks=codebooks, batch_size=batch_size, device=device
    )
    return DecodedCodes(output_dir, num_pictures, num_kept)


def check_decoding(
    sources: Sequence[str | Path], output_dir: Path, model: str | Path, codebooks: Sequence[int] | None
) -> tuple[Path, dict[str, Any]]:
    """
    Find what would end `decode_to_folder`, as far as it can be found without opening codes, and without torch.

    Args:
        sources, output_dir, model, codebooks: See there.

    Returns:
        The folder of the tokenizer, or of the pipeline that has it, and the facts of the tokenizer.

    Raises:
        ValueError, OSError, ImportError: The message names the argument.
    """
    if not sources:
        raise ValueError("codes must name at least one file or folder, got none")
    for source in sources:
        if not Path(source).exists():
            raise FileNotFoundError(f"codes: there is no file or folder {source}")
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"output_dir must be a folder, got the file {output_dir}")
    check_writable(output_dir / SETTINGS)
    check_libraries()
    folder = resolve_tokenizer(model)
    facts = folder_facts(folder)
    facts = facts.get("vqmodel", facts)
    num_codebooks = facts["num_codebooks"]
    if codebooks is not None and (not codebooks or any(k not in range(num_codebooks) for k in codebooks)):
        raise ValueError(f"codebooks must be in [0, {num_codebooks - 1}], got {list(codebooks)}")
    return folder, facts


def check_tokenizer(codes: "CodeFile", model: str | Path, facts: dict[str, Any]) -> None:
    """
    Make sure that a tokenizer made some codes.

    Args:
        codes ([`CodeFile`]): The codes.
        model (`str` or `Path`): What the user calls the tokenizer.
        facts (`dict`): Of it; see [`~fqgan_hf.hub.facts.tokenizer_facts`].

    Raises:
        ValueError: Another one did.
    """
    manifest = codes.manifest
    for name, number in (("num_codebooks", manifest.num_codebooks), ("codebook_size", manifest.codebook_size)):
        if number != facts[name]:
            raise ValueError(
                f"{codes.path} holds codes of another tokenizer: {name} {number}, of {model} {facts[name]}"
            )
    if manifest.tokenizer_fingerprint != facts["fingerprint"]:
        maker = f"{manifest.tokenizer} with fingerprint" if manifest.tokenizer else "one with fingerprint"
        raise ValueError(
            f"{codes.path} holds codes of another tokenizer: {maker} {manifest.tokenizer_fingerprint[:16]}... made "
            f"them, {model} has {facts['fingerprint'][:16]}..."
        )

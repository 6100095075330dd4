# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Images to codes in files: `fqgan encode` from Python.

    encode_images("photos", "codes.parquet", model="user/fqgan-dual-f16", size="native", check=True)

What can be wrong is looked for here, before torch is imported; the work is in `encoding`.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fqgan_hf.evaluation.image_source import check_source
from fqgan_hf.files import MANIFEST, check_writable
from fqgan_hf.hub.facts import folder_facts
from fqgan_hf.pipelines.inference import resolve_tokenizer


if TYPE_CHECKING:
    from fqgan_hf.codes.round_trip import RoundTrip


NATIVE = "native"
FILE_SUFFIXES = (".parquet", ".npz", ".safetensors")
MAX_CODEBOOK_SIZE = 2**16  # codes are stored in 16 bits


@dataclass(frozen=True)
class EncodedImages:
    """
    What became of images.

    Args:
        out (`Path`): A file, or the folder of a store.
        num_images (`int`): With codes.
        skipped (`list[str]`): Ids of images that could not be read.
        grid (`list[int]`, *optional*): Height and width of each image's codes; None where they differ.
        num_codebooks, codebook_size (`int`): K and V.
        check ([`RoundTrip`], *optional*): What the codes have kept, where that was asked for.
    """

    out: Path
    num_images: int
    skipped: list[str]
    grid: list[int] | None
    num_codebooks: int
    codebook_size: int
    check: "RoundTrip | None" = None


def encode_images(
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path,
    size: int | str | None = None,
    batch_size: int = 16,
    shard_size: int = 1000,
    device: str = "auto",
    check: bool = False,
    skip_bad_images: bool = False,
    num_workers: int = 0,
    split: str | None = None,
    **image_options: Any,
) -> EncodedImages:
    """
    Write the codes of images into a file or a folder, or what of them is missing.

    All processes of an `accelerate launch` call it with the same arguments and share the work. Stopped anywhere, the
    same call goes on, and the files are those of a run that was not stopped.

    Args:
        images (`str`, `Path` or a list of them): Picture files and folders of pictures; or one set with labels, see
            [`~fqgan_hf.evaluation.image_sets.open_image_set`]: a folder (a subfolder per class), parquet or
            webdataset files in a folder, an .npz file, a folder of `fqgan sample`, a dataset with a split.
        out (`str` or `Path`): A file in .parquet, .npz or .safetensors (see `fqgan_hf.codes.code_files`), or a folder
            (see `fqgan_hf.codes.store`), which train_far reads.
        model (`str` or `Path`): A tokenizer or a pipeline that has one: a folder or a Hub id.
        size (`int` or `"native"`, *optional*): Scale the shorter side to this many pixels and crop the middle; by
            default to the tokenizer's `sample_size`. `"native"`: every image keeps its size, up to what exceeds a
            multiple of the downsampling factor.
        batch_size (`int`): Images at a time in each process.
        shard_size (`int`): Images per shard: what a process takes at a time, and loses when it is stopped.
        device (`str`): See [`~fqgan_hf.pipelines.inference.choose_device`].
        check (`bool`): Also decode the codes and measure what they have kept.
        skip_bad_images (`bool`): Leave out images that cannot be read, up to one in a hundred.
        num_workers (`int`): Processes that decode images, for each process.
        split (`str`, *optional*), **image_options: Of a dataset; see `open_image_set`.

    Returns:
        [`EncodedImages`]

    Raises:
        ValueError: An argument does not fit, `out` holds codes of something else, or an image cannot be read.
        FileNotFoundError: There is no such image or model.
        OSError: `out` cannot be written.
    """
    sources, out = [images] if isinstance(images, (str, Path)) else list(images), Path(out)
    check_at_least(1, batch_size=batch_size, shard_size=shard_size)
    check_at_least(0, num_workers=num_workers)
    folder, resolution = check_encoding(sources, out, model, size, split)
    from fqgan_hf.codes.encoding import encode_sources

    return encode_sources(
        sources,
        out,
        folder,
        resolution,
        model_name=str(model),
        batch_size=batch_size,
        shard_size=shard_size,
        device=device,
        check=check,
        skip_bad_images=skip_bad_images,
        num_workers=num_workers,
        split=split,
        **image_options,
    )


def check_encoding(
    sources: Sequence[str | Path], out: Path, model: str | Path, size: int | str | None, split: str | None
) -> tuple[Path, int | None]:
    """
    Find what would end `encode_images`, without torch.

    Args:
        sources, out, model, size, split: See there.

    Returns:
        The folder of the tokenizer, and the side of the crops in pixels, None where images keep their own size.

    Raises:
        ValueError, OSError, ImportError: The message names the argument.
    """
    _check_sources(sources, split)
    _check_out(out, sources)
    check_libraries()
    folder = resolve_tokenizer(model)
    return folder, _resolution(size, folder)


def check_at_least(least: int, **arguments: int) -> None:
    """Raise `ValueError` for an argument that is less."""
    for name, value in arguments.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def check_libraries() -> None:
    """Raise `ImportError` where the libraries that read and write codes are not installed."""
    for name in ("datasets", "pyarrow"):
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"codes in files need the package {name}: pip install 'fqgan-hf[train]'")


def check_storable(codebook_size: int) -> None:
    """Raise `ValueError` for codebooks too large for the 16 bits of a stored code."""
    if codebook_size > MAX_CODEBOOK_SIZE:
        raise ValueError(
            f"codes are stored in 16 bits: codebook_size must be at most {MAX_CODEBOOK_SIZE}, got {codebook_size}"
        )


def is_single_file(out: Path) -> bool:
    """Whether codes go into one file rather than into the folder of a store."""
    return out.suffix in FILE_SUFFIXES and not out.is_dir()


def _check_sources(sources: Sequence[str | Path], split: str | None) -> None:
    """Raise `ValueError` or `FileNotFoundError` for what can be no images."""
    if not sources:
        raise ValueError("images must name at least one file or folder, got none")
    if split is not None:
        if len(sources) > 1:
            raise ValueError(f"split belongs to one dataset, got {len(sources)} names")
        check_source(sources[0], split, "images")
        return
    for source in map(Path, sources):
        if not source.exists():
            raise FileNotFoundError(f"images: there is no file or folder {source} (a dataset needs a split, too)")


def _check_out(out: Path, sources: Sequence[str | Path]) -> None:
    """Raise `ValueError` or `OSError` for what codes cannot be written to."""
    if out.suffix and out.suffix not in FILE_SUFFIXES and not out.is_dir():
        raise ValueError(f"out must end in {', '.join(FILE_SUFFIXES)} or be a folder, got {str(out)!r}")
    if out.is_file() and not is_single_file(out):
        raise ValueError(f"out must end in {', '.join(FILE_SUFFIXES)} or be a folder, got the file {str(out)!r}")
    for source in map(Path, sources):
        if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            raise ValueError(f"out {out} is in {source}: there it would be taken for images, choose another place")
        if out.exists() and source.exists() and out.samefile(source):
            raise ValueError(f"out {out} is one of the images: it would be overwritten")
    check_writable(out if is_single_file(out) else out / MANIFEST)


def _resolution(size: int | str | None, folder: Path) -> int | None:
    """Side of the crops in pixels, None where there are none; raises `ValueError` if the tokenizer cannot do it."""
    facts = folder_facts(folder)
    facts = facts.get("vqmodel", facts)
    check_storable(facts["codebook_size"])
    if size == NATIVE:
        return None
    size = facts["sample_size"] if size is None else size
    factor = facts["downsample_factor"]
    if not isinstance(size, int) or size < factor or size % factor:
        raise ValueError(f'size must be "{NATIVE}" or divisible by the downsampling factor {factor}, got {size!r}')
    return size

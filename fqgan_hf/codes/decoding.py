# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The work of `decode`, when all that could be checked without weights is checked.

The rows of all files, one after another, are cut into batches, of which each process takes every n-th. A batch holds
the same rows whatever is there already, so that a picture is the same whoever makes it and when.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

from accelerate import PartialState
from PIL import Image
from tqdm.auto import tqdm

from fqgan_hf.codes.code_files import CodeFile, CodeRows, content_hash
from fqgan_hf.codes.decode import SETTINGS
from fqgan_hf.codes.names import picture_names, safe_part
from fqgan_hf.codes.round_trip import by_grid
from fqgan_hf.evaluation.pictures import save_image
from fqgan_hf.files import read_json, write_json
from fqgan_hf.hub.facts import weight_files
from fqgan_hf.pipelines.inference import load_tokenizer
from fqgan_hf.pipelines.pipeline_fqgan import FQGANPipeline
from fqgan_hf.pipelines.sample_run import digest
from fqgan_hf.pipelines.sharing import joined_processes, own_folder


WRITING_THREADS = 4  # PNG is compressed beside the model's work


def decode_files(
    files: Sequence[CodeFile],
    output_dir: Path,
    folder: Path,
    *,
    model_name: str,
    codebooks: Sequence[int] | None,
    batch_size: int,
    device: str,
) -> tuple[int, int]:
    """
    See [`~fqgan_hf.codes.decode.decode_to_folder`].

    Args:
        files (`Sequence[CodeFile]`): Of the tokenizer in `folder`.
        output_dir, codebooks, batch_size, device: See there.
        folder (`Path`): Of the tokenizer, or of a pipeline that has one.
        model_name (`str`): What the user calls it.

    Returns:
        `tuple[int, int]`: How many pictures there are, and how many there were before.
    """
    names = _names(files, batch_size)
    codebooks = None if codebooks is None else sorted(set(codebooks))
    with joined_processes(device) as (state, device):

        def claim() -> None:
            _claim(output_dir, names, _settings(files, folder, model_name, codebooks))

        with own_folder(state, output_dir, "decodes", claim):
            missing = {name for name in names if not (output_dir / name).exists()}
            state.wait_for_everyone()  # nobody begins before all know what is missing
            if missing:
                pipe = load_tokenizer(folder, device)
                pipe.vqmodel.enable_slicing()  # grids may be of any size
                _write(pipe, state, files, names, missing, output_dir, codebooks, batch_size)
            state.wait_for_everyone()
    return len(names), len(names) - len(missing)


def _names(files: Sequence[CodeFile], batch_size: int) -> list[str]:
    """The picture of every view of every row, in order. This reads all codes, and raises for those that are none."""
    folders = _subfolders(files)
    names = []
    for file, subfolder in zip(files, folders, strict=True):
        ids = [name for rows in file.batches(max(batch_size, 1024)) for name in rows.ids]
        names += [f"{subfolder}{name}" for name in picture_names(ids, file.manifest.views)]
    return names


def _subfolders(files: Sequence[CodeFile]) -> list[str]:
    """Where the pictures of each file go: a folder of its own where there are several."""
    if len(files) == 1:
        return [""]
    paths = [file.path.resolve() for file in files]  # "." has no name
    folders = [f"{safe_part(path.stem if path.is_file() else path.name) or 'codes'}/" for path in paths]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ValueError(f"codes: files and folders must differ in their names, got several called {folder[:-1]}")
    return folders


def _settings(files: Sequence[CodeFile], folder: Path, model_name: str, codebooks: list[int] | None) -> dict[str, Any]:
    """What the pictures follow from."""
    tokenizer = folder / "vqmodel" if (folder / "model_index.json").is_file() else folder
    return {
        "format_version": 1,
        "tokenizer": model_name,
        "tokenizer_sha256": digest(weight_files(tokenizer), tokenizer),
        "codebooks": codebooks,
        "codes_sha256": [content_hash(file) for file in files],
    }


def _claim(folder: Path, names: Sequence[str], settings: dict[str, Any]) -> None:
    """Note what the pictures of a folder follow from; raise `ValueError` where there are pictures of other codes."""
    path = folder / SETTINGS
    if path.is_file():
        found = read_json(path)
        changed = [name for name in settings if name != "tokenizer" and found.get(name) != settings[name]]
        if changed:
            raise ValueError(
                f"output_dir {folder} holds pictures of other codes, or decoded otherwise ({', '.join(changed)} "
                "differ): choose another folder"
            )
    elif there := next((name for name in names if (folder / name).exists()), None):
        raise ValueError(f"output_dir {folder} holds {there} already, and no {SETTINGS}: choose another folder")
    else:
        write_json(path, settings)


def _batches(files: Sequence[CodeFile], names: Sequence[str], batch_size: int) -> Iterator[tuple[CodeRows, list[str]]]:
    """Rows, and the names of their pictures, row by row and view by view."""
    start = 0
    for file in files:
        num_views = len(file.manifest.views)
        for rows in file.batches(batch_size):
            end = start + len(rows.ids) * num_views
            yield rows, list(names[start:end])
            start = end


def _write(
    pipe: FQGANPipeline,
    state: PartialState,
    files: Sequence[CodeFile],
    names: Sequence[str],
    missing: set[str],
    output_dir: Path,
    codebooks: list[int] | None,
    batch_size: int,
) -> None:
    """Write what this process is to write of the missing pictures."""
    bar = tqdm(desc="decoding", unit="picture", total=len(names), disable=not state.is_local_main_process)
    with bar, ThreadPoolExecutor(WRITING_THREADS) as pool:
        written: list[Future] = []
        for number, (rows, pictures) in zip(count(), _batches(files, names, batch_size)):
            if number % state.num_processes == state.process_index and not missing.isdisjoint(pictures):
                for future in written:  # of the batch before: no more than two are in memory
                    future.result()
                decoded = zip(pictures, _decode(pipe, rows, codebooks), strict=True)
                written = [
                    pool.submit(save_image, image, output_dir / name) for name, image in decoded if name in missing
                ]
            bar.update(len(pictures))
        for future in written:
            future.result()


def _decode(pipe: FQGANPipeline, rows: CodeRows, codebooks: list[int] | None) -> list[Image.Image]:
    """The pictures of rows, row by row and view by view."""
    grids = [view for grid in rows.grids for view in grid]
    images: dict[int, Image.Image] = {}
    for places, codes in by_grid(grids):
        images |= zip(places, pipe.decode(codes, codebooks=codebooks).images, strict=True)
    return [images[place] for place in range(len(grids))]

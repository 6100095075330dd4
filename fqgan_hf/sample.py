# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Many images of a pipeline in shards, by any number of processes, stopped and continued at will: `fqgan sample`.

    samples/settings.json          what the images follow from; there from the start, until the manifest has it
    samples/shard-00000/           png: 00000000.png, ... and metadata.csv (file_name, index, label, class_name)
    samples/shard-00000.npz        npz: arr_0 (N, H, W, 3) uint8 and arr_1 (N,) int64 labels
    samples/shard-00000.parquet    parquet: image, index and label, as `datasets` reads them
    samples/manifest.json          the settings, and rows and SHA-256 of each shard; written last

Image i has class `class_labels[i % len(class_labels)]` and random numbers of its own, which follow from the seed and
i. A shard holds the images of a range and appears complete or not at all. A process takes its batches from the list
of its missing images, whatever shards they belong to, so that every batch is full; all images have the same length
and end together. The last batch repeats its last image to have the shape of the others.

Where `shard_size` is a multiple of `batch_size`, a batch holds the same images whoever computes it, so one machine
writes the same bytes with any number of processes and interruptions. Otherwise, and between batch sizes, dtypes or
machines, only the random numbers are the same: sums of other shapes may round differently and tip a code over.
"""

import csv
import io
import json
import os
import reprlib
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from hashlib import sha256 as new_sha256
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from tqdm import tqdm

from fqgan_hf.facts import tokenizer_facts, weight_files
from fqgan_hf.files import MANIFEST, fsync, read_json, sha256, write_json
from fqgan_hf.labels import class_names, resolve_labels
from fqgan_hf.modeling.configuration_far import FARConfig
from fqgan_hf.pipeline_far import FARPipeline


SETTINGS = "settings.json"
ENCODING_THREADS = 4  # PNG is compressed beside the model's work


@dataclass(frozen=True, kw_only=True)
class SamplingRun:
    """
    What the files of a run follow from; two runs with the same values write the same images.

    Args:
        model (`str`): Name or path of the pipeline; may change, since `weights_sha256` says what it is.
        weights_sha256 (`str`): `digest` of the pipeline's weights.
        tokenizer_fingerprint (`str`): Of its tokenizer.
        num (`int`): Images, at least 1.
        class_labels (`list[int]`): Class ids, taken in turn: for `num` divisible by their number each as often.
        label_names (`list[str]`): Name of every class of the model, by id.
        seed (`int`): At least 0.
        guidance_scale, temperature, top_k, top_p (`list`): One value, or one a codebook.
        guidance_schedule (`str`): See [`FARPipeline`].
        greedy (`bool`): The likeliest code everywhere.
        dtype (`str`): `"float32"`, `"bfloat16"` or `"float16"`, of all weights and activations.
        quantization (`str`, *optional*): See [`~fqgan_hf.optimization.optimize`].
        format (`str`): `"png"`, `"npz"` or `"parquet"`.
        shard_size (`int`): Images a shard, at least 1; also what a process loses at most when it is stopped.

    Raises:
        ValueError: A number or the format is out of range.
        ImportError: The format needs a library that is not installed.
    """

    model: str
    weights_sha256: str
    tokenizer_fingerprint: str
    num: int
    class_labels: list[int]
    label_names: list[str]
    seed: int
    guidance_scale: list[float]
    temperature: list[float]
    top_k: list[int]
    top_p: list[float]
    guidance_schedule: str
    greedy: bool
    dtype: str
    quantization: str | None
    format: str
    shard_size: int

    def __post_init__(self):
        for name, least in (("num", 1), ("shard_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.format == "parquet" and not (find_spec("datasets") and find_spec("pyarrow")):
            raise ImportError("format parquet needs datasets and pyarrow: pip install datasets")

    @classmethod
    def describe(cls, folder: Path, class_labels: Sequence[int | str] | None = None, **settings: Any) -> "SamplingRun":
        """
        Of a pipeline's folder; reads its configurations and hashes its weights, but loads no model.

        Args:
            folder (`Path`): A saved [`FARPipeline`].
            class_labels (`Sequence[int | str]`, *optional*): Ids or names; all classes without it.
            **settings: The other values of a [`SamplingRun`].

        Raises:
            ValueError: For an unknown label, and as [`SamplingRun`] does.
            FileNotFoundError: The folder lacks weights.
        """
        config = FARConfig.from_pretrained(str(folder / "transformer"))
        names = class_names(config.id2label)
        labels = range(config.num_classes) if class_labels is None else class_labels
        run = cls(
            class_labels=resolve_labels(labels, config.num_classes, names),
            label_names=[names.get(i, str(i)) for i in range(config.num_classes)],
            tokenizer_fingerprint=tokenizer_facts(folder / "vqmodel")["fingerprint"],
            weights_sha256="",
            **settings,
        )
        weights = [path for part in ("vqmodel", "transformer") for path in weight_files(folder / part)]
        return replace(run, weights_sha256=digest(weights, folder))  # last, since it reads gigabytes

    @property
    def shards(self) -> list[range]:
        """The images of each shard."""
        return [range(i, min(i + self.shard_size, self.num)) for i in range(0, self.num, self.shard_size)]

    def shard_name(self, number: int) -> str:
        return f"shard-{number:05d}{FORMATS[self.format][0]}"

    def label(self, index: int) -> int:
        """Class id of an image."""
        return self.class_labels[index % len(self.class_labels)]

    def generator(self, index: int) -> torch.Generator:
        """
        The random numbers of an image.

        A CPU generator reads 32 bits of its seed. Counting from a place that `seed` is hashed to, no two of fewer
        than 2^32 images of a run share one, and runs with neighbouring seeds have nothing in common.
        """
        start = int(np.random.SeedSequence(self.seed).generate_state(1)[0])
        return torch.Generator().manual_seed((start + index) % 2**32)

    def sampling(self) -> dict[str, Any]:
        """Arguments of the pipeline."""
        per_codebook = {name: getattr(self, name) for name in ("guidance_scale", "temperature", "top_k", "top_p")}
        return {
            **{name: values[0] if len(values) == 1 else values for name, values in per_codebook.items()},
            "guidance_schedule": self.guidance_schedule,
            "do_sample": not self.greedy,
        }


# ---- The folder -----------------------------------------------------------------------------------------------------


def digest(files: Iterable[Path], folder: Path) -> str:
    """SHA-256 of the listing that `sha256sum` prints of files, named by their paths in `folder` and sorted by them."""
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    return new_sha256("".join(f"{sha256(folder / name)}  {name}\n" for name in names).encode()).hexdigest()


def missing_shards(folder: Path, run: SamplingRun) -> list[int]:
    """Numbers of the shards that are still to be written."""
    return [number for number in range(len(run.shards)) if not (folder / run.shard_name(number)).exists()]


def open_folder(folder: Path, run: SamplingRun) -> None:
    """
    Make the folder of a run, or find that what it holds belongs to the same run. For one process.

    Raises:
        ValueError: It holds images of other settings, which are named, or of unknown ones; or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir must be a folder, got the file {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("shard-*.tmp"):  # of a run that was stopped
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    settings = json.loads(json.dumps(asdict(run)))
    if any(folder.glob("shard-*")):
        known = next((folder / name for name in (MANIFEST, SETTINGS) if (folder / name).is_file()), None)
        if known is None:
            raise ValueError(f"output_dir {folder} holds shards but no {SETTINGS}: choose another folder")
        found = read_json(known)
        differences = [
            f"{name} was {reprlib.repr(found.get(name))} and is now {reprlib.repr(value)}"
            for name, value in settings.items()
            if name != "model" and found.get(name) != value
        ]
        if differences:
            raise ValueError(
                f"output_dir {folder} holds images of other settings, choose another folder: {'; '.join(differences)}"
            )
    if missing_shards(folder, run):
        write_json(folder / SETTINGS, settings)
        (folder / MANIFEST).unlink(missing_ok=True)


def close_folder(folder: Path, run: SamplingRun) -> None:
    """Unless it is there, write the manifest with the hashes of all shards: they are complete. For one process."""
    if (folder / MANIFEST).exists():
        return
    shards = []
    for number, indices in enumerate(run.shards):
        path = folder / run.shard_name(number)
        content = digest(path.iterdir(), path) if path.is_dir() else sha256(path)
        shards.append({"file": path.name, "rows": len(indices), "sha256": content})
    write_json(folder / MANIFEST, {**asdict(run), "shards": shards})
    (folder / SETTINGS).unlink(missing_ok=True)


# ---- The formats ----------------------------------------------------------------------------------------------------


def to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def write_png(path: Path, images: list[bytes], indices: range, run: SamplingRun) -> None:
    path.mkdir()
    for index, image in zip(indices, images, strict=True):
        (path / f"{index:08d}.png").write_bytes(image)
    with open(path / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file_name", "index", "label", "class_name"])
        writer.writerows([f"{i:08d}.png", i, run.label(i), run.label_names[run.label(i)]] for i in indices)


def write_npz(path: Path, images: list[np.ndarray], indices: range, run: SamplingRun) -> None:
    labels = np.array([run.label(i) for i in indices], dtype=np.int64)
    with open(path, "wb") as file:  # given a name, savez would add .npz to it
        np.savez(file, arr_0=np.stack(images), arr_1=labels)


def write_parquet(path: Path, images: list[bytes], indices: range, run: SamplingRun) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features, Value
    from datasets import Image as ImageFeature

    repeated = {name for name, count in Counter(run.label_names).items() if count > 1}  # ClassLabel refuses them
    names = [f"{name} ({i})" if name in repeated else name for i, name in enumerate(run.label_names)]
    schema = Features(
        {"image": ImageFeature(), "index": Value("int64"), "label": ClassLabel(names=names)}
    ).arrow_schema
    columns = {
        "image": [{"bytes": image, "path": f"{i:08d}.png"} for i, image in zip(indices, images, strict=True)],
        "index": list(indices),
        "label": [run.label(i) for i in indices],
    }
    # PNG is compressed already; small row groups let a reader take a part.
    pq.write_table(pa.table(columns, schema=schema), path, compression="none", row_group_size=100)


# Ending of a shard's name; how an image is kept until its shard is full; how the shard is written.
FORMATS = {
    "png": ("", to_png, write_png),
    "npz": (".npz", np.asarray, write_npz),
    "parquet": (".parquet", to_png, write_parquet),
}


def write_shard(path: Path, images: list, indices: range, run: SamplingRun) -> None:
    """Write the images of a range; `path` appears only when it is complete."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    FORMATS[run.format][2](temporary, images, indices, run)
    for part in (*temporary.glob("*"), temporary):  # a file has no parts
        fsync(part)
    temporary.replace(path)
    fsync(path.parent)


# ---- The work -------------------------------------------------------------------------------------------------------


def deal_shards(folder: Path, run: SamplingRun, state: PartialState) -> tuple[list[int], list[int]]:
    """
    Open the folder and share out what it lacks; every process calls this before any of them writes.

    Args:
        folder (`Path`): Shared by all processes.
        run (`SamplingRun`): The same in all of them.
        state (`PartialState`): Of this process.

    Returns:
        `tuple[list[int], list[int]]`: Numbers of the shards that this process is to write, and of all missing ones.

    Raises:
        ValueError: See `open_folder`.
    """
    if state.is_main_process:
        open_folder(folder, run)
    missing = missing_shards(folder, run)
    state.wait_for_everyone()
    return missing[state.process_index :: state.num_processes], missing


def generate_batches(
    pipe: FARPipeline, run: SamplingRun, indices: Sequence[int], batch_size: int
) -> Iterator[list[Image.Image]]:
    """The images of `indices` in their order, in batches of one shape."""
    for start in range(0, len(indices), batch_size):
        batch = indices[start : start + batch_size]
        padded = [*batch, *[batch[-1]] * (batch_size - len(batch))]
        labels, generators = [run.label(i) for i in padded], [run.generator(i) for i in padded]
        yield pipe(labels, generator=generators, **run.sampling()).images[: len(batch)]


def sample(
    pipe: FARPipeline,
    run: SamplingRun,
    folder: Path,
    mine: Sequence[int],
    missing: Sequence[int],
    batch_size: int,
    show_progress: bool = True,
) -> None:
    """
    Write the shards of this process, then wait until those of the others are there.

    Args:
        pipe ([`FARPipeline`]): The pipeline that `run` describes, on its device.
        run (`SamplingRun`), folder (`Path`): As given to `deal_shards`.
        mine, missing (`Sequence[int]`): What `deal_shards` gave.
        batch_size (`int`): Images at a time.
        show_progress (`bool`): A bar over all images; those of other processes count when their shard is there.
    """
    keep, shards = FORMATS[run.format][1], run.shards
    indices = [i for number in mine for i in shards[number]]
    others = set(missing) - set(mine)
    num_missing = sum(len(shards[number]) for number in missing)
    pipe.set_progress_bar_config(disable=True)

    def arrived() -> int:
        """Images of other processes whose shards have appeared since the last call."""
        there = {number for number in others if (folder / run.shard_name(number)).exists()}
        others.difference_update(there)
        return sum(len(shards[number]) for number in there)

    bar = tqdm(
        desc="sampling", unit="image", total=run.num, initial=run.num - num_missing, smoothing=0,
        disable=not show_progress,
    )  # fmt: skip
    with bar, ThreadPoolExecutor(ENCODING_THREADS) as pool:

        def images() -> Iterator[Future]:
            for batch in generate_batches(pipe, run, indices, min(batch_size, run.num)):
                bar.update(len(batch) + arrived())
                yield from [pool.submit(keep, image) for image in batch]

        finished = images()
        for number in mine:
            shard = list(islice(finished, len(shards[number])))
            write_shard(folder / run.shard_name(number), [image.result() for image in shard], shards[number], run)
        while others:
            time.sleep(0.2)
            bar.update(arrived())

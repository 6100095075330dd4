# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Many images of a pipeline in shards, by any number of processes, stopped and continued at will: `fqgan sample`.

    samples/settings.json          what the images follow from; there before the first image, until the manifest has it
    samples/shard-00000/           png: 00000000.png, ... and metadata.csv (file_name, index, label, class_name)
    samples/shard-00000.npz        npz: arr_0 (N, H, W, 3) uint8 and arr_1 (N,) int64 labels
    samples/shard-00000.parquet    parquet: image, index and label, as `datasets` reads them
    samples/manifest.json          the settings, and rows, bytes and SHA-256 of each shard; written last

Image i has class `class_labels[i % len(class_labels)]` and random numbers of its own, which follow from the seed and
i. A shard holds the images of a range and appears complete or not at all. A process takes its batches from the list
of its missing images, whatever shards they belong to, so that every batch is full; all images have the same length
and end together. The last batch repeats its last image to have the shape of the others.

Where `shard_size` is a multiple of `batch_size`, a batch holds the same images whoever computes it, so one machine
writes the same bytes with any number of processes and interruptions. Otherwise, and between batch sizes, dtypes or
machines, only the random numbers are the same: sums of other shapes may round differently and tip a code over.

One run at a time writes to a folder. An equal one waits for it and then finds nothing left to do, or more to do if it
asks for more images; one with other settings is refused.
"""

import csv
import io
import json
import re
import reprlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256 as new_sha256
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from PIL import Image
from tqdm import tqdm

from fqgan_hf.files import MANIFEST, atomic_path, locked_folder, read_json, remove, sha256, write_json
from fqgan_hf.hub.facts import tokenizer_facts, weight_files
from fqgan_hf.modeling.configuration_far import FARConfig
from fqgan_hf.pipelines.labels import class_names, resolve_labels
from fqgan_hf.pipelines.pipeline_far import FARPipeline


SETTINGS = "settings.json"
ENCODING_THREADS = 4  # PNG is compressed beside the model's work
MAX_IMAGES = 2**32  # beyond it two images would share their random numbers
MAX_SHARDS = 100_000  # as many as their names can count


@dataclass(frozen=True, kw_only=True)
class SamplingRun:
    """
    What the files of a run follow from; two runs with the same values write the same images.

    Args:
        model (`str`): Name or path of the pipeline; may change, since `weights_sha256` says what it is.
        weights_sha256 (`str`): `digest` of the pipeline's weights.
        tokenizer_fingerprint (`str`): Of its tokenizer.
        num (`int`): Images, at least 1. May be raised later: an image does not depend on how many there are.
        class_labels (`list[int]`): Class ids, taken in turn: for `num` divisible by their number each as often.
        label_names (`list[str]`): Name of every class of the model, by id.
        seed (`int`): At least 0.
        guidance_scale, temperature, top_k, top_p (`list`): One value, or one a codebook.
        guidance_schedule (`str`): See [`FARPipeline`].
        greedy (`bool`): The likeliest code everywhere.
        dtype (`str`): `"float32"`, `"bfloat16"` or `"float16"`, of all weights and activations.
        quantization (`str`, *optional*): See [`~fqgan_hf.kernels.optimization.optimize`].
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
        if self.num > MAX_IMAGES:
            raise ValueError(f"num must be at most {MAX_IMAGES:,}, got {self.num}")
        if self.num_shards > MAX_SHARDS:
            raise ValueError(
                f"shard_size must be at least {-(-self.num // MAX_SHARDS)} for {self.num:,} images, which would fill "
                f"{self.num_shards:,} shards, got {self.shard_size}"
            )
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
        for name in ("guidance_scale", "temperature", "top_k", "top_p"):
            if len(settings[name]) not in (1, config.num_codebooks):
                raise ValueError(
                    f"{name} must be one value or {config.num_codebooks} (one per codebook), got {settings[name]}"
                )
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
    def num_shards(self) -> int:
        return -(-self.num // self.shard_size)

    @property
    def shards(self) -> list[range]:
        """The images of each shard."""
        return [range(i, min(i + self.shard_size, self.num)) for i in range(0, self.num, self.shard_size)]

    def shard_name(self, number: int) -> str:
        return f"shard-{number:05d}{FORMATS[self.format].suffix}"

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


def is_complete(path: Path, num_images: int, run: SamplingRun) -> bool:
    """
    Whether a shard is there with all its images: the last one of a run that asked for fewer may lack some.

    Raises:
        ValueError: It is not what was written.
    """
    if not path.exists():
        return False
    try:
        return FORMATS[run.format].count(path) >= num_images
    except Exception as error:  # zip files and parquet files can be damaged in many ways
        raise ValueError(f"{path} is damaged: {error}; remove it to have it made again") from error


def missing_shards(folder: Path, run: SamplingRun) -> list[int]:
    """Numbers of the shards that are still to be written."""
    return [
        number
        for number, indices in enumerate(run.shards)
        if not is_complete(folder / run.shard_name(number), len(indices), run)
    ]


def found_settings(folder: Path) -> dict[str, Any] | None:
    """
    What the images in a folder were made with; None where nothing says so.

    Raises:
        ValueError: A file is damaged, or of something else than `fqgan sample`.
    """
    for name in (SETTINGS, MANIFEST):  # while there are both, the manifest is the older one
        if (folder / name).is_file():
            found = read_json(folder / name)
            if "weights_sha256" not in found:
                raise ValueError(f"output_dir {folder} holds a {name} that is not of `fqgan sample`")
            return found
    return None


def check_same_settings(folder: Path, run: SamplingRun, found: dict[str, Any] | None) -> None:
    """Raise `ValueError`, with all differences, unless images of `run` may stand beside what was `found`."""
    if found is None:
        if any(folder.glob("shard-*")):
            raise ValueError(f"output_dir {folder} holds shards but no {SETTINGS}: choose another folder")
        return
    differences = [
        f"{name} was {reprlib.repr(found.get(name))} and is now {reprlib.repr(value)}"
        for name, value in as_json(run).items()
        if found.get(name) != value and name not in ("model", "num")
    ]
    if not isinstance(found.get("num"), int) or found["num"] > run.num:
        differences.append(f"num was {found.get('num')} and is now {run.num} (it may be raised)")
    if differences:
        raise ValueError(
            f"output_dir {folder} holds images of other settings, choose another folder: {'; '.join(differences)}"
        )


def as_json(run: SamplingRun) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(run)))


def shard_content(path: Path) -> dict[str, Any]:
    """Size and hash of a shard, as the manifest has them."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    content = digest(files, path) if path.is_dir() else sha256(path)
    return {"bytes": sum(file.stat().st_size for file in files), "sha256": content}


def check_shards(folder: Path, hashes: bool) -> None:
    """
    Raise `ValueError` for shards that are there and not what the manifest, if there is one, says was written.

    Args:
        folder (`Path`): Of the run.
        hashes (`bool`): Compare the content, too, which reads all of it.
    """
    if not (folder / MANIFEST).is_file():
        return
    shards = read_json(folder / MANIFEST).get("shards")
    if not isinstance(shards, list) or not all(isinstance(s, dict) and isinstance(s.get("file"), str) for s in shards):
        raise ValueError(f"{folder / MANIFEST} is damaged: it must list the shards")
    damaged = []
    for shard in shards:
        path = folder / Path(shard["file"]).name
        if not path.exists():
            continue
        if hashes:
            found = shard_content(path)
        else:
            files = path.iterdir() if path.is_dir() else [path]
            found = {"bytes": sum(file.stat().st_size for file in files)}
        if any(shard.get(name, value) != value for name, value in found.items()):
            damaged.append(path.name)
    if damaged:
        raise ValueError(
            f"output_dir {folder} is damaged, these shards are not what was written: {', '.join(damaged[:5])}; "
            "remove them to have them made again"
        )


@contextmanager
def claimed_folder(folder: Path, run: SamplingRun, verify: bool = False) -> Iterator[None]:
    """
    The folder of a run, for this run alone: made, or found to hold images of the same run. For one process.

    Args:
        folder (`Path`): Created if missing.
        run (`SamplingRun`): Written there before anything else.
        verify (`bool`): Compare the hashes of all shards with the manifest, where there is one.

    Raises:
        ValueError: It holds images of other settings, which are named, or of unknown ones; it is damaged; or it is a
            file.
        OSError: It cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir must be a folder, got the file {folder}")
    told = []

    def while_waiting() -> None:
        if (found := found_settings(folder)) is not None:
            check_same_settings(folder, run, found)
        if not told:
            told.append(True)
            print(f"another process samples into {folder}: waiting for it", file=sys.stderr, flush=True)

    with locked_folder(folder, "samples", while_waiting):
        # Settings without an image bind nobody.
        has_shards = any(folder.glob("shard-*"))
        found = found_settings(folder)
        if has_shards:
            check_same_settings(folder, run, found)
        remove_leftovers(folder)
        missing = missing_shards(folder, run)
        # What is added to is hashed anew at the end: then is no time to find that it was changed.
        check_shards(folder, hashes=verify or bool(missing))
        if missing:
            write_json(folder / SETTINGS, as_json(run))
            (folder / MANIFEST).unlink(missing_ok=True)
        yield


def remove_leftovers(folder: Path) -> None:
    """Remove what a run of ours that was killed was writing: of shards, settings and manifest."""
    names = rf"\.(shard-\d{{5}}(\.\w+)?|{re.escape(SETTINGS)}|{re.escape(MANIFEST)})\.\w+\.tmp"
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(names, path.name):
            remove(path)


def close_folder(folder: Path, run: SamplingRun) -> None:
    """Unless it is there, write the manifest with the hashes of all shards: they are complete. For one process."""
    if not (folder / MANIFEST).exists():
        shards = []
        for number, indices in enumerate(run.shards):
            path = folder / run.shard_name(number)
            shards.append({"file": path.name, "rows": len(indices), **shard_content(path)})
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


def count_png(path: Path) -> int:
    return sum(1 for _ in path.glob("*.png"))


def count_npz(path: Path) -> int:
    with np.load(path) as arrays:
        return len(arrays["arr_1"])


def count_parquet(path: Path) -> int:
    import pyarrow.parquet as pq

    return pq.read_metadata(path).num_rows


class Format(NamedTuple):
    """
    A kind of shard.

    Args:
        suffix (`str`): Ending of its name.
        keep (`Callable`): How an image is kept until its shard is full.
        write (`Callable`): Writes images to a path.
        count (`Callable`): Number of images that a path holds.
    """

    suffix: str
    keep: Callable[[Image.Image], Any]
    write: Callable[[Path, list, range, SamplingRun], None]
    count: Callable[[Path], int]


FORMATS = {
    "png": Format("", to_png, write_png, count_png),
    "npz": Format(".npz", np.asarray, write_npz, count_npz),
    "parquet": Format(".parquet", to_png, write_parquet, count_parquet),
}


# ---- The work -------------------------------------------------------------------------------------------------------


@contextmanager
def dealt_folder(
    folder: Path, run: SamplingRun, state: PartialState, verify: bool = False
) -> Iterator[tuple[list[int], list[int]]]:
    """
    The folder of a run, with what it lacks shared out; at the end, when nothing is missing, its manifest is written.

    Args:
        folder (`Path`): Shared by all processes.
        run (`SamplingRun`): The same in all of them.
        state (`PartialState`): Of this process.
        verify (`bool`): See `claimed_folder`.

    Yields:
        `tuple[list[int], list[int]]`: Numbers of the shards that this process is to write, and of all missing ones.

    Raises:
        ValueError, OSError: See `claimed_folder`; in every process.
    """
    with ExitStack() as stack:
        failure = [None]
        if state.is_main_process:
            try:
                stack.enter_context(claimed_folder(folder, run, verify))
            except (ValueError, OSError) as error:
                failure = [error]
        broadcast_object_list(failure)  # the other processes wait here
        if failure[0] is not None:
            raise failure[0]
        missing = missing_shards(folder, run)
        state.wait_for_everyone()
        yield missing[state.process_index :: state.num_processes], missing
        if state.is_main_process:
            close_folder(folder, run)


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
        run (`SamplingRun`), folder (`Path`): As given to `dealt_folder`.
        mine, missing (`Sequence[int]`): What `dealt_folder` gave.
        batch_size (`int`): Images at a time.
        show_progress (`bool`): A bar over all images; those of other processes count when their shard is there.
    """
    shard_format, shards = FORMATS[run.format], run.shards
    indices = [i for number in mine for i in shards[number]]
    others = set(missing) - set(mine)
    num_missing = sum(len(shards[number]) for number in missing)
    pipe.set_progress_bar_config(disable=True)

    def arrived() -> int:
        """Images of other processes whose shards have appeared since the last call."""
        there = {n for n in others if is_complete(folder / run.shard_name(n), len(shards[n]), run)}
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
                yield from [pool.submit(shard_format.keep, image) for image in batch]

        finished = images()
        for number in mine:
            shard = list(islice(finished, len(shards[number])))
            with atomic_path(folder / run.shard_name(number)) as path:
                shard_format.write(path, [image.result() for image in shard], shards[number], run)
        while others:
            time.sleep(0.2)
            bar.update(arrived())

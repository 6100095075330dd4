# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""How fast the presets train on this machine, and whether the data keep up with the step.

    python benchmarks/training_throughput.py
    python benchmarks/training_throughput.py --presets digits-fqgan digits-far --steps 50 --output_dir outputs/bench
    python benchmarks/training_throughput.py --presets vqgan-f16 regvq-f16 --perceptual_model FOLDER

Each preset runs as it is, by the training script itself, in a process of its own, for `--steps` steps after `--warmup`
that do not count, or for `--max_seconds`. Images and codes are made up here, of the preset's sizes: speed does not
depend on what they show. Networks that the presets take from elsewhere, LPIPS, VGG-19 and teachers, are left out, and
the discriminator plays from the first step; `--perceptual_model` puts a local vision model in the place of LPIPS and
VGG-19, for the perceptual and the contrastive losses that a preset has. Presets for 256 pixels are meant for GPUs;
without one they train on `--large_batch_size` images per step. With `--output_dir` the figures go to
`training_throughput.json` and `.md` there.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import accelerate
import datasets
import diffusers
import numpy as np
import torch
import transformers
from measure import machine, write_results
from PIL import Image

from fqgan_hf.codes.manifest import CodesManifest
from fqgan_hf.codes.store import finish, shard_name, write_shard
from fqgan_hf.files import atomic_path
from fqgan_hf.training import train_far, train_fqgan
from fqgan_hf.training.ablation.report import NOTES
from fqgan_hf.training.common.arguments import PRESETS, load_model_config, parse_arguments, preset_names
from fqgan_hf.training.common.costs import readable
from fqgan_hf.training.data.crops import CROPS
from fqgan_hf.training.far import loop as generator_training
from fqgan_hf.training.fqgan import loop as tokenizer_training


# The script, its options, and the module whose loop it runs.
SCRIPTS = {
    "train_fqgan": (train_fqgan, train_fqgan.TrainFQGANArguments, tokenizer_training),
    "train_far": (train_far, train_far.TrainFARArguments, generator_training),
}
SMALL, LARGE = 32, 256  # pixels
NUM_IMAGES = {SMALL: 2000, LARGE: 100}
NUM_CLASSES = 10
MEMORY_SHARE = 0.8  # of the free memory; beyond it a preset does not fit
FOREVER = 10**9  # steps between checkpoints


# ---- One preset, in a process of its own ----------------------------------------------------------------------------


class FinishedError(Exception):
    """Enough steps."""


class Watch:
    """
    Stands between the data and the loop of a training script: reads the clocks, and ends the run.

    Args:
        warmup, steps (`int`): Steps that do not count, and those that do.
        max_seconds (`float`): Time from the first step on, after which the steps so far must do.

    Attributes:
        asked (`list`): Wall and CPU seconds at which the loop asked for each batch.
        came (`list`): Those at which it got it.
        flops (`float`): Operations per image, as the script counts them.
    """

    def __init__(self, warmup: int, steps: int, max_seconds: float):
        self.warmup, self.steps, self.max_seconds = warmup, steps, max_seconds
        self.asked: list[tuple[float, float]] = []
        self.came: list[tuple[float, float]] = []
        self.flops = 0.0

    def batches(self, original: Callable[..., Iterable]) -> Callable[..., Iterator]:
        def watched(*args) -> Iterator:
            source = iter(original(*args))
            while True:
                self.asked.append(self._clocks())
                late = self.asked[-1][0] - self.asked[0][0] > self.max_seconds
                if len(self.asked) > self.warmup + (1 if late else self.steps):
                    raise FinishedError
                item = next(source)
                self.came.append(self._clocks())
                yield item

        return watched

    def costs(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args):
            flops = original(*args)
            self.flops = flops[1] if isinstance(flops, tuple) else flops
            return flops

        return watched

    @staticmethod
    def _clocks() -> tuple[float, float]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def seconds(self, clock: int) -> tuple[list[float], list[float]]:
        """Of each step that counts, and of it waiting for data; `clock` 0 for elapsed, 1 for processor time."""
        asked = [reading[clock] for reading in self.asked[self.warmup :]]
        came = [reading[clock] for reading in self.came[self.warmup :]]
        steps = [after - before for before, after in zip(asked, asked[1:], strict=False)]
        return steps, [after - before for before, after in zip(asked, came, strict=False)]


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Train by a script and say how fast it was."""
    limit, meminfo = 0, Path("/proc/meminfo")
    if meminfo.is_file() and not torch.cuda.is_available():
        free = 1024 * int(meminfo.read_text().split("MemAvailable:")[1].split()[0])
        limit = int(MEMORY_SHARE * free)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # so that torch says so, and nobody else is ended
    script, arguments_class, loop = SCRIPTS[job["script"]]
    args = parse_arguments(arguments_class, job["words"])
    watch = Watch(job["warmup"], job["steps"], job["max_seconds"])
    loop.training_batches = watch.batches(loop.training_batches)
    loop.flops_per_image = watch.costs(loop.flops_per_image)
    try:
        script.main(job["words"])
    except FinishedError:
        pass
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error):
            return {"missing": f"does not fit into {readable(limit, 'B')}" if limit else str(error)}
        raise
    (wall, wait), (cpu, cpu_wait) = watch.seconds(0), watch.seconds(1)
    batch, step, cpu_step = args.train_batch_size, statistics.median(wall), statistics.median(cpu)
    return {
        "batch_size": batch,
        "mixed_precision": args.mixed_precision or "no",
        "steps": len(wall),
        "seconds_per_step": step,
        "seconds_spread": [min(wall), max(wall)],
        "cpu_seconds_per_step": cpu_step,
        "images_per_second": batch / step,
        "images_per_cpu_second": batch / cpu_step,
        "positions_per_image": job["positions"],
        "tokens_per_second": job["positions"] * batch / step if job["script"] == "train_far" else None,
        "data_seconds_per_step": statistics.median(wait),
        "data_images_per_cpu_second": batch / statistics.median(cpu_wait),
        "flops_per_image": watch.flops,
        "flops_per_cpu_second": watch.flops * batch / cpu_step,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_device_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }


# ---- Data -----------------------------------------------------------------------------------------------------------


def make_images(folder: Path, size: int) -> None:
    """Smooth noise: pictures of the size for 32 pixels, JPEG of 500x375 for 256, as ImageNet's are on average."""
    rng = np.random.default_rng(0)
    for i in range(NUM_IMAGES[size]):
        path = folder / f"class-{i % NUM_CLASSES}" / f"{i:05d}{'.png' if size == SMALL else '.jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        small.resize((size, size) if size == SMALL else (500, 375), Image.Resampling.BICUBIC).save(path)


def grid_side(config: dict[str, Any]) -> int:
    """Of a tokenizer's code grid at the size that it is trained for."""
    return config["sample_size"] // 2 ** (len(config["block_out_channels"]) - 1)


def make_codes(folder: Path, config: dict[str, Any]) -> None:
    """A store of random codes such as the tokenizer with this configuration makes."""
    size, side = config["sample_size"], grid_side(config)
    crop, number = ("flip", 10_000) if size == SMALL else ("ten-crop", 2000)
    manifest = CodesManifest(
        tokenizer="none",
        tokenizer_fingerprint="0" * 64,
        num_codebooks=config["num_codebooks"],
        codebook_size=config["codebook_size"],
        grid=[side, side],
        resolution=size,
        crop=crop,
        views=CROPS[crop][0],
        source="random",
        shard_size=number,
        num_rows=number,
        id2label={str(i): str(i) for i in range(NUM_CLASSES if size == SMALL else 1000)},
    )
    folder.mkdir(parents=True)
    codes = torch.randint(config["codebook_size"], (number, *manifest.shape))
    labels = [i % len(manifest.id2label) for i in range(number)]
    write_shard(folder / shard_name(0), manifest, [str(i) for i in range(number)], labels, codes)
    finish(folder, manifest)


def tokenizer_of(preset: str) -> dict[str, Any]:
    """Configuration of the tokenizer whose codes a generator's preset is for."""
    path = PRESETS / f"{preset.removesuffix('far')}fqgan.json"
    return load_model_config(str(path if path.is_file() else PRESETS / "fqgan-dual-f16.json"))


# ---- All presets ----------------------------------------------------------------------------------------------------


def prepare(preset: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What to run for a preset, with its data in place."""
    is_generator = "block_out_channels" not in load_model_config(str(PRESETS / f"{preset}.json"))
    config = tokenizer_of(preset) if is_generator else load_model_config(str(PRESETS / f"{preset}.json"))
    size = config["sample_size"]
    words = ["--config", preset, "--output_dir", str(folder / preset), "--cache_dir", str(folder / "cache")]
    words += ["--max_train_steps", str(args.warmup + args.steps + 1), "--checkpointing_steps", str(FOREVER)]
    words += ["--dataloader_num_workers", str(args.dataloader_num_workers)]
    if args.mixed_precision is not None:
        words += ["--mixed_precision", args.mixed_precision]
    if size == LARGE and not torch.cuda.is_available():
        words += ["--train_batch_size", str(args.large_batch_size)]
    if is_generator:
        data = folder / f"codes-{preset}"
        make_codes(data, config)
        words += ["--codes_dir", str(data)]
    else:
        data = folder / f"images-{size}"
        if not data.is_dir():
            make_images(data, size)
        words += ["--train_data_dir", str(data), "--teachers", "none", "--disc_start", "0", *perceptual_words(args)]
    job = {name: getattr(args, name) for name in ("warmup", "steps", "max_seconds")}
    script = "train_far" if is_generator else "train_fqgan"
    return {**job, "script": script, "words": words, "positions": grid_side(config) ** 2}


def perceptual_words(args: argparse.Namespace) -> list[str]:
    """Options of the losses on feature maps: of the network that was given, or none of these losses."""
    if args.perceptual_model is None:
        return [word for name in ("perceptual", "contrastive", "pcl") for word in (f"--{name}_weight", "0")]
    layers = ["--perceptual_layers", *args.perceptual_layers] if args.perceptual_layers else []
    return ["--perceptual_model", args.perceptual_model, *layers]


def run(preset: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Figures of a preset, or the reason why there are none."""
    job = prepare(preset, args, folder)
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    output, log = folder / f"{preset}.json", folder / f"{preset}.log"
    command = [sys.executable, __file__, "--measure", json.dumps(job), str(output)]
    figures: dict[str, Any] = {"preset": preset, "script": job["script"]}
    with open(log, "w", encoding="utf-8") as file:
        # Importing and building come before the first step, and a step may be under way when the time is up.
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        patience = 3 * args.max_seconds + 120
        try:
            code = process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return {**figures, "missing": f"start and {args.warmup + 1} steps take more than {patience:.0f} s"}
    if code:
        raise ChildProcessError(f"{preset} ended with exit code {code}:\n{log.read_text()[-2000:]}")
    return {**figures, **json.loads(output.read_text())}


def table(rows: Sequence[dict[str, Any]], script: str) -> list[str]:
    """Markdown of the presets of one script."""
    is_generator = script == "train_far"
    columns = ["preset", "batch", "precision", "s per step", "CPU s per step", "images/s"]
    columns += ["tokens/s"] * is_generator
    columns += ["FLOP per image", "FLOP/s", "images per CPU s", "FLOP per CPU s", "data alone: images per CPU s"]
    columns += ["peak memory"]
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for row in rows:
        if row["script"] != script:
            continue
        if "missing" in row:
            lines.append(f"| `{row['preset']}` | {row['missing']} |{' |' * (len(columns) - 2)}")
            continue
        low, high = row["seconds_spread"]
        cells = [
            f"`{row['preset']}`",
            row["batch_size"],
            {"no": "fp32"}.get(row["mixed_precision"], row["mixed_precision"]),
        ]
        cells += [f"{row['seconds_per_step']:.3g} ({low:.3g} to {high:.3g})", f"{row['cpu_seconds_per_step']:.3g}"]
        cells += [f"{row['images_per_second']:.3g}"]
        if is_generator:
            cells.append(f"{row['tokens_per_second']:,.0f}")
        cells += [readable(row["flops_per_image"]), readable(row["flops_per_image"] * row["images_per_second"])]
        cells += [f"{row['images_per_cpu_second']:.3g}", readable(row["flops_per_cpu_second"])]
        cells += [f"{row['data_images_per_cpu_second']:,.0f}"]
        cells += [readable(row["peak_device_bytes"] or row["peak_memory_bytes"], "B")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def report(results: dict[str, Any]) -> list[str]:
    """The figures as a document."""
    where = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = ["# Training throughput", "", "## Tokenizers", "", *table(results["presets"], "train_fqgan")]
    network = results["perceptual_model"]
    without = "LPIPS, VGG-19 and teachers" if network is None else f"teachers, with {network} for LPIPS and VGG-19"
    lines += ["", f"Without {without}, which come on top; a discriminator plays from the first step.", ""]
    lines += ["## Generators", "", *table(results["presets"], "train_far")]
    lines += ["", "From a store of codes. A token is one position, of as many codes as there are codebooks.", ""]
    lines += [
        "## Setting",
        "",
        f"- **machine**: {where.get('accelerator', where['processor'] + ', ' + where['instructions'])}, "
        f"{where['cores']} cores, {where['threads']} thread{'s' * (where['threads'] > 1)}, "
        f"{where['memory_gib']} GiB; {where['date']}; load average before: {where['load_average']}",
        f"- **software**: Python {where['python']}, torch {where['torch']}, {versions}",
        f"- **measured**: up to {results['steps']} steps after {results['warmup']} that do not count, as many as end "
        f"within {results['max_seconds']:g} s; medians, in brackets the fastest and the slowest step. CPU seconds are "
        "those of the process, whatever else the machine does meanwhile",
        "- **FLOP**: multiplications and additions of matrix products and convolutions, counted, not measured",
        "- **data**: made up, of real sizes; read, decoded and augmented by the training process itself",
        "",
        "```",
        results["command"],
        "```",
    ]
    return lines


def write(results: dict[str, Any], path: Path) -> None:
    """The document, whose notes stay, and its figures beside it as JSON."""
    write_results(path.with_suffix(".json"), results)
    notes = path.read_text(encoding="utf-8").partition(NOTES)[2] if path.is_file() else ""
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join([*report(results), "", NOTES]) + (notes or "\n"), encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=preset_names(), choices=preset_names(), metavar="PRESET")
    parser.add_argument("--steps", type=int, default=20, help="steps that count")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--max_seconds", type=float, default=120, help="time for the steps of one preset")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--large_batch_size", type=int, default=1, help="without a GPU, of presets for 256 pixels")
    parser.add_argument("--mixed_precision", choices=["no", "fp16", "bf16"], help="by default the preset's")
    parser.add_argument("--dataloader_num_workers", type=int, default=0, help="processes that prepare the data")
    parser.add_argument("--perceptual_model", help="vision model in the place of LPIPS and VGG-19, a local folder")
    parser.add_argument("--perceptual_layers", nargs="+", metavar="NAME", help="its layers; else its hidden states")
    parser.add_argument("--output_dir", help="folder for training_throughput.json and .md")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    for name, least in (("steps", 1), ("warmup", 0), ("threads", 1), ("large_batch_size", 1)):
        if getattr(args, name) < least:
            parser.error(f"{name} must be at least {least}, got {getattr(args, name)}")
    torch.set_num_threads(args.threads)
    results: dict[str, Any] = {"machine": machine()}
    results["versions"] = {
        module.__name__: module.__version__ for module in (accelerate, datasets, diffusers, transformers)
    }
    results |= {name: getattr(args, name) for name in ("steps", "warmup", "max_seconds", "perceptual_model")}
    results["command"] = " ".join(["python benchmarks/training_throughput.py", *argv])
    results["presets"] = []
    with tempfile.TemporaryDirectory() as folder:
        for preset in args.presets:
            results["presets"].append(run(preset, args, Path(folder)))
            print(json.dumps(results["presets"][-1]), flush=True)
            if args.output_dir is not None:  # each time: a preset can take minutes
                write(results, Path(args.output_dir, "training_throughput.md"))
    print("\n".join(report(results)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        write_results(sys.argv[3], measure(json.loads(sys.argv[2])))
    else:
        main()

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What `fqgan evaluate` costs besides its network: share of the time, and memory at two numbers of images.

    python benchmarks/evaluation.py --output_dir outputs/bench

Each row is a process of its own, as a user starts it: random images of 32 pixels from an .npz file, beside others, by
a network of random weights with as many features as Inception has (2,048) and far less work per image than that. The
network's own memory is what the process holds after one batch.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from measure import machine, write_results
from transformers import RegNetConfig, RegNetForImageClassification, ViTImageProcessor


NUM_FEATURES = 2048


def save_network(folder: Path) -> None:
    """A classifier of random weights with 2,048 features."""
    torch.manual_seed(0)
    config = RegNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256, NUM_FEATURES], depths=[1, 2, 2, 1], groups_width=64,
        id2label={i: str(i) for i in range(10)},
    )  # fmt: skip
    RegNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def save_images(path: Path, number: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)
    np.savez(path, arr_0=pixels, arr_1=np.arange(number) % 10)


def measure(folder: Path, number: int) -> dict:
    """The cost that `fqgan evaluate` reports of judging so many images beside as many."""
    for seed, name in enumerate(("reference", "samples")):
        save_images(folder / f"{name}-{number}.npz", number, seed)
    words = ["evaluate", "--reference", f"reference-{number}.npz", "--samples", f"samples-{number}.npz"]
    words += ["--features", "network", "--out", f"result-{number}.json", "--device", "cpu"]
    subprocess.run([sys.executable, "-m", "fqgan_hf.cli", *words], cwd=folder, check=True)
    cost = json.loads((folder / f"result-{number}.json").read_text())["cost"]
    return {"num_images": number, **cost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--numbers", nargs="+", type=int, default=[1000, 10_000, 50_000])
    parser.add_argument("--output_dir", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        save_network(Path(scratch, "network"))
        rows = [measure(Path(scratch), number) for number in arguments.numbers]
    print("| images | seconds | of the network, % | memory above the network's, MB |\n| ---: | ---: | ---: | ---: |")
    for row in rows:
        share, memory = 100 * row["network_share"], row["peak_memory_above_networks_mb"]
        print(f"| {row['num_images']:,} | {row['seconds']:.0f} | {share:.1f} | {memory:.0f} |")
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    write_results(arguments.output_dir / "evaluation_cost.json", {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What `fqgan evaluate` costs besides its network: share of the time, and memory at several numbers of images.

    python benchmarks/evaluation.py --output_dir outputs/bench

Each row is a process of its own: random images of 32 pixels from an .npz file, beside others. `small` is a network
with as many features as Inception (2,048) and far less work per image; `inception` is Inception itself. Both have
random weights, which cost what others cost. The network's own memory is what the process holds after one batch.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from measure import machine, write_results
from transformers import RegNetConfig, RegNetForImageClassification, ViTImageProcessor

from fqgan_hf.files import read_json


NUM_FEATURES = 2048
# `fqgan`, for which other weights than the published ones are Inception's.
WITH_RANDOM_INCEPTION = """
import sys
from fqgan_hf import cli
from fqgan_hf.evaluation import features
from fqgan_hf.files import sha256
from pathlib import Path
features.INCEPTION_SHA256 = sha256(Path("inception.pth"))
sys.exit(cli.main(sys.argv[1:]))
"""


def save_small_network(folder: Path) -> None:
    """A classifier of random weights with 2,048 features."""
    torch.manual_seed(0)
    config = RegNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256, NUM_FEATURES], depths=[1, 2, 2, 1], groups_width=64,
        id2label={i: str(i) for i in range(10)},
    )  # fmt: skip
    RegNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def save_inception(path: Path) -> None:
    """Random weights of Inception in the file that torch-fidelity reads."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    torch.manual_seed(0)
    network = module.FeatureExtractorInceptionV3
    load, module.load_state_dict_from_url = network.load_state_dict, lambda *args, **kwargs: None
    network.load_state_dict = lambda *args: None
    try:
        torch.save(network("inception-v3-compat", ["2048"]).state_dict(), path)
    finally:
        network.load_state_dict = load


def save_images(path: Path, number: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    np.savez(path, arr_0=rng.integers(0, 256, (number, 32, 32, 3), dtype=np.uint8), arr_1=np.arange(number) % 10)


def measure(folder: Path, network: str, number: int) -> dict:
    """The cost that `fqgan evaluate` reports of judging so many images beside as many."""
    for seed, name in enumerate(("reference", "samples")):
        save_images(folder / f"{name}.npz", number, seed)
    words = ["evaluate", "--reference", "reference.npz", "--samples", "samples.npz", "--device", "cpu"]
    words += ["--features", network, "--out", "result.json"]
    if network == "inception":
        words += ["--inception_weights", "inception.pth"]
    subprocess.run([sys.executable, "-c", WITH_RANDOM_INCEPTION, *words], cwd=folder, check=True)
    return {"network": network, "num_images": number, **read_json(folder / "result.json")["cost"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", nargs="*", type=int, default=[1000, 10_000, 50_000], help="numbers of images")
    parser.add_argument("--inception", nargs="*", type=int, default=[1000], help="numbers of images")
    parser.add_argument("--output_dir", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_small_network(folder / "small")
        save_inception(folder / "inception.pth")
        rows = [measure(folder, "small", number) for number in arguments.small]
        rows += [measure(folder, "inception", number) for number in arguments.inception]
    print("| network | images | seconds | of the network, % | memory above the network's, MB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        share, memory = 100 * row["network_share"], row["peak_memory_above_networks_mb"]
        print(f"| {row['network']} | {row['num_images']:,} | {row['seconds']:.0f} | {share:.1f} | {memory:.0f} |")
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    write_results(arguments.output_dir / "evaluation_cost.json", {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What less precision costs in the pictures: Frechet distance and class consistency, beside fp32, over seeds.

    python benchmarks/quality.py --tokenizer outputs/cifar10/tokenizer --generator outputs/cifar10/generator \
        --dataset_name path/to/cifar10 --feature_extractor path/to/cifar10-net

A seed gives every variant the same random numbers, so differences are taken seed by seed.
"""

import argparse
import statistics
from pathlib import Path

import torch
from measure import machine, write_results

from fqgan_hf import FARPipeline, optimize
from fqgan_hf.evaluation.evaluate import Reference, evaluate_generator
from fqgan_hf.evaluation.features import FeatureNetwork
from fqgan_hf.evaluation.image_source import ImageDataArguments
from fqgan_hf.evaluation.images import load_images
from fqgan_hf.modeling.code_sampling import SamplingSettings
from fqgan_hf.pipelines.inference import image_generator, join_pipeline


VARIANTS = {
    "fp32, not optimized": None,
    "fp32": {},
    "bf16": {"dtype": torch.bfloat16},
    "int8": {"quantization": "int8"},
    "int8, bf16 between": {"quantization": "int8", "dtype": torch.bfloat16},
}


def share_of_equal_codes(
    pipe: FARPipeline, reference: FARPipeline, num_images: int, settings: SamplingSettings
) -> float:
    """Share of codes that two pipelines draw alike at the first position, which follows from the class alone."""
    labels = [i % pipe.transformer.config.num_classes for i in range(num_images)]
    first = [
        p.transformer.generate(
            class_labels=labels,
            generator=[image_generator(0, i) for i in range(num_images)],
            callback_on_position=lambda *_: True,
            **settings.arguments(),
        )
        for p in (pipe, reference)
    ]
    return (first[0] == first[1]).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="Folder of the tokenizer.")
    parser.add_argument("--generator", required=True, help="Folder of the generator.")
    parser.add_argument("--dataset_name", required=True, help="Dataset with the held-out images.")
    parser.add_argument("--split", default="test")
    parser.add_argument("--feature_extractor", required=True, help="Vision network that judges the images.")
    parser.add_argument("--num_images", type=int, default=2000, help="Held-out and generated images.")
    parser.add_argument("--guidance_scale", type=float, default=1.75)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output_dir", type=Path, metavar="DIR", help="where precision_quality.json goes")
    args = parser.parse_args()

    settings = SamplingSettings(guidance_scale=args.guidance_scale)
    plain = join_pipeline(args.tokenizer, args.generator)
    network = FeatureNetwork(args.feature_extractor)
    data = ImageDataArguments(dataset_name=args.dataset_name, split=args.split, max_train_samples=args.num_images)
    reference = Reference.measure(load_images(data), network, resolution=plain.vqmodel.config.sample_size)

    figures = {}
    titles = ("Frechet distance", 24), ("minus fp32", 18), ("class consistency, %", 22), ("minus fp32", 16)
    print(f"{'':22}" + "".join(f"{title:>{width}}" for title, width in titles) + f"{'codes equal':>14}")
    for name, variant in VARIANTS.items():
        pipe = join_pipeline(args.tokenizer, args.generator)
        if variant is not None:
            optimize(pipe, **variant)
        runs = [
            evaluate_generator(pipe, reference, network, num_images=args.num_images, seed=seed, settings=settings)[0]
            for seed in args.seeds
        ]
        distances = [run["frechet_distance"] for run in runs]
        shares = [100 * run["class_consistency"] for run in runs]
        figures[name] = {
            "frechet_distance": distances,
            "class_consistency": [share / 100 for share in shares],
            "first_codes_equal": share_of_equal_codes(pipe, plain, args.num_images, settings),
        }
        base = figures["fp32, not optimized"]
        columns = [
            spread(distances, 3),
            spread([a - b for a, b in zip(distances, base["frechet_distance"], strict=True)], 3),
            spread(shares, 1),
            spread([a - 100 * b for a, b in zip(shares, base["class_consistency"], strict=True)], 1),
        ]
        equal = f"{100 * figures[name]['first_codes_equal']:.1f} %"
        print(f"{name:22}{columns[0]:>24}{columns[1]:>18}{columns[2]:>22}{columns[3]:>16}{equal:>14}", flush=True)
    if args.output_dir:
        setting = {key: getattr(args, key) for key in ("num_images", "guidance_scale", "seeds", "split")}
        write_results(
            args.output_dir / "precision_quality.json", {"machine": machine(), "setting": setting, "variants": figures}
        )


def spread(values: list[float], digits: int) -> str:
    """Mean ± sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


if __name__ == "__main__":
    main()

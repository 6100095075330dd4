# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Evaluate a tokenizer, and the generator on top of it, on held-out images, with any image network as the judge.

    python -m fqgan_hf.training.evaluation --tokenizer outputs/fqgan --generator outputs/far \
        --dataset_name path/to/cifar10 --split test --feature_extractor path/to/network --output_file metrics.json

The network gives the features of the Frechet distance and, where it classifies into the classes of the data, the
accuracy on reconstructions and the class consistency of samples. Figures of different networks or of different numbers
of images are not comparable, and none of them is an FID, which means one particular Inception network.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from fqgan_hf.evaluation.image_source import ImageDataArguments
from fqgan_hf.failures import leave
from fqgan_hf.files import write_json
from fqgan_hf.option_checks import check_at_least, check_seed, option
from fqgan_hf.training.common.arguments import parse_arguments, run_script
from fqgan_hf.training.common.preflight import check_images, check_model, check_output_file, check_picture_file


NUM_SHOWN = 8  # images of each class in the grid


@dataclass(kw_only=True)
class EvaluationArguments(ImageDataArguments):
    """Options of this script."""

    tokenizer: str = field(metadata={"help": "Folder or Hub name of the tokenizer."})
    feature_extractor: str = field(metadata={"help": "Folder or Hub name of the network that gives the features."})
    output_file: str = field(metadata={"help": "JSON file for the figures."})
    config: str | None = option(None, "YAML file of options; the command line wins over it.")
    generator: str | None = option(None, "Folder or Hub name of the generator, to evaluate what it generates as well.")
    split: str = option("test", "Split of --dataset_name with the held-out images.")
    batch_size: int = option(100, "Images in one forward pass.")
    num_generated_images: int = option(5000, "Images to generate, the same number of each class.")
    guidance_scale: float = option(2.0, "Classifier-free guidance when generating.")
    top_k: int = option(0, "Sample among the k likeliest codes; 0 means all.")
    seed: int = option(0, "Seed of the generated images.")
    sample_grid: str | None = option(None, "Picture file for the first eight images of each class, unselected.")

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, 1, "batch_size", "num_generated_images")
        check_at_least(self, 0, "guidance_scale", "top_k")
        check_seed("seed", self.seed)


def check(args: EvaluationArguments) -> None:
    """Find what would end the run, in no time."""
    check_output_file(args.output_file, "output_file")
    if args.sample_grid is not None:
        check_picture_file(args.sample_grid, "sample_grid")
    check_images(args)
    check_model("tokenizer", args.tokenizer, "FQGANModel")
    if args.generator is not None:
        check_model("generator", args.generator, "FARForImageGeneration")
    check_model("feature_extractor", args.feature_extractor)


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(EvaluationArguments, argv)
    check(args)
    # Not before: torch and the libraries over it take seconds to import.
    from fqgan_hf.evaluation.evaluate import evaluate
    from fqgan_hf.evaluation.images import load_images
    from fqgan_hf.evaluation.pictures import image_grid, save_image
    from fqgan_hf.modeling.code_sampling import SamplingSettings

    figures, shown = evaluate(
        load_images(args),
        args.tokenizer,
        args.feature_extractor,
        args.generator,
        resolution=args.resolution,
        num_generated_images=args.num_generated_images,
        seed=args.seed,
        batch_size=args.batch_size,
        settings=SamplingSettings(guidance_scale=args.guidance_scale, top_k=args.top_k),
        num_shown=NUM_SHOWN if args.sample_grid is not None else 0,
    )
    if shown:
        grid = image_grid(list(shown.values()), row_captions=list(shown), min_cell_size=64, padding=4)
        save_image(grid, args.sample_grid)
    write_json(Path(args.output_file), figures)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    leave(run_script(main))

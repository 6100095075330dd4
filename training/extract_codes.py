# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Turn images into the codes that FAR is trained on, once, with a trained tokenizer.

    accelerate launch -m fqgan_hf.training.extract_codes --tokenizer outputs/fqgan --train_data_dir images/ \
        --crop ten-crop --output_dir outputs/codes

Writes parquet shards and `manifest.json` (see `fqgan_hf.codes.store`). The rows do not depend on the number of
processes; a run that was stopped continues where it was when it is started again. With --stochastic the codes are
drawn from a regularized tokenizer's distribution, as its training drew them.
"""

from dataclasses import dataclass, field
from pathlib import Path

from fqgan_hf.codes.manifest import check_can_draw
from fqgan_hf.evaluation.image_source import ImageDataArguments
from fqgan_hf.failures import leave
from fqgan_hf.files import read_json
from fqgan_hf.option_checks import check_at_least, check_seed, option
from fqgan_hf.training.common.arguments import CropName, parse_arguments, run_script
from fqgan_hf.training.common.preflight import check_images, check_model, check_output_dir


@dataclass(kw_only=True)
class ExtractCodesArguments(ImageDataArguments):
    """Options of this script."""

    tokenizer: str = field(metadata={"help": "Folder or Hub name of the trained tokenizer."})
    output_dir: str = field(metadata={"help": "Folder for the codes."})
    config: str | None = option(None, "YAML file of options, or the name of a preset; the command line wins over it.")
    crop: CropName = option(
        "flip",
        "Views of each image; training picks one at random. `shift`, for small drawings: shifted in eight directions, "
        "too. Images whose caption tells left from right are never mirrored.",
    )
    caption_column: list[str] | None = option(
        None,
        "Columns of captions, each of texts or of lists of texts, such as keywords. The store keeps all of them, and "
        "training picks one at random.",
    )
    map_column: str | None = option(
        None,
        "Column of maps, as large as the images and cut like them, whose codes the store keeps beside those of the "
        "images: label maps (grey or palette) for a tokenizer of label maps, pictures for any other.",
    )
    map_tokenizer: str | None = option(None, "Folder or Hub name of the tokenizer that encodes the maps.")
    batch_size: int = option(64, "Images per process in one forward pass.")
    shard_size: int = option(10000, "Images per file, and the most that is lost when a run is stopped.")
    stochastic: bool = option(
        False,
        "Draw the codes at the positions that training draws (the share mask_ratio of them), so that a generator "
        "learns what the tokenizer's distribution gives. Ours: the Reg-VQ paper does not say it.",
    )
    seed: int | None = option(
        None, "With --stochastic, 0 by default: an image's draws follow from it and the number of image and view."
    )

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, 1, "batch_size", "shard_size")
        if (self.map_column is None) != (self.map_tokenizer is None):
            raise ValueError(
                "map_column and map_tokenizer belong together, "
                f"got map_column={self.map_column!r} and map_tokenizer={self.map_tokenizer!r}"
            )
        if self.seed is not None:
            check_seed("seed", self.seed)
            if not self.stochastic:
                raise ValueError(f"seed needs --stochastic: nothing else is drawn, got {self.seed}")
        elif self.stochastic:
            self.seed = 0


def check(args: ExtractCodesArguments) -> None:
    """Find what would end the run, before anything is imported for it."""
    check_output_dir(args.output_dir)
    check_images(args)
    check_model("tokenizer", args.tokenizer, "FQGANModel")
    if args.map_tokenizer is not None:
        check_model("map_tokenizer", args.map_tokenizer, "FQGANModel")
    if args.stochastic and Path(args.tokenizer).is_dir():  # one on the Hub is not asked yet
        check_can_draw(read_json(Path(args.tokenizer, "config.json")))


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(ExtractCodesArguments, argv)
    check(args)
    # Not before: torch and the libraries over it take seconds to import.
    from fqgan_hf.training.data.code_extraction import extract

    extract(args)


if __name__ == "__main__":
    leave(run_script(main))

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Train a FAR generator on the codes that `extract_codes` wrote.

    accelerate launch -m fqgan_hf.training.train_far --codes_dir outputs/codes --tokenizer outputs/fqgan \
        --output_dir outputs/far --train_batch_size 32 --mixed_precision bf16

`python -m fqgan_hf.training.train_far` does the same on one device; `--config digits-far` supplies the options of a
preset; `--on_the_fly --train_data_dir images/` encodes images during training, without a store of codes. The result
in `output_dir` loads with `FARForImageGeneration.from_pretrained`; beside it are `metrics.jsonl` (one line every
--logging_steps), `losses.png`, `samples/` (with --sample_steps) and `checkpoint-*` (to resume from with
--resume_from_checkpoint latest).

`--conditions text --train_text_encoder` trains on captions in place of classes, `--conditions map` on maps; the store
of codes must have them (`extract_codes --caption_column`, `--map_column`).
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from fqgan_hf.failures import leave
from fqgan_hf.option_checks import option
from fqgan_hf.training.common.arguments import parse_arguments, run_script
from fqgan_hf.training.far.arguments import GeneratorArguments, check_generator


@dataclass(kw_only=True)
class TrainFARArguments(GeneratorArguments):
    """Options of this script; defaults are the published recipe, for a global batch of 256."""

    head: Literal["ar", "linear", "mlp"] | None = option(None, "Overrides head_type of the model configuration.")


def check(args: TrainFARArguments) -> None:
    """Find what would end the run, before anything is imported for it."""
    check_generator(args, "FARForImageGeneration")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(TrainFARArguments, argv)
    check(args)
    # Not before: torch and the libraries over it take seconds to import.
    from fqgan_hf.training.common.launch import run_training
    from fqgan_hf.training.far.loop import train_generator
    from fqgan_hf.training.far.model import build_far

    run_training(args, partial(train_generator, build_model=build_far))


if __name__ == "__main__":
    leave(run_script(main))

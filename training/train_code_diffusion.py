# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Train a discrete diffusion generator on the codes that `extract_codes` wrote.

    accelerate launch -m fqgan_hf.training.train_code_diffusion --codes_dir outputs/codes --tokenizer outputs/fqgan \
        --output_dir outputs/code-diffusion --train_batch_size 32 --mixed_precision bf16

Its options, and what it leaves in `output_dir`, are those of `train_far`; beside the model, which loads with
`CodeDiffusionTransformer.from_pretrained`, there is `scheduler/`, with which it makes a `CodeDiffusionPipeline`.
Validation gives an upper bound of the cross-entropy in nats per position, to be read against that of a FAR.

`--conditions text --text_encoder openai/clip-vit-base-patch32` trains on the captions of the codes in place of their
classes.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from fqgan_hf.failures import leave
from fqgan_hf.option_checks import check_at_least, option
from fqgan_hf.training.common.arguments import parse_arguments, run_script
from fqgan_hf.training.far.arguments import GeneratorArguments, check_generator


@dataclass(kw_only=True)
class TrainCodeDiffusionArguments(GeneratorArguments):
    """Options of this script; defaults are those of VQ-Diffusion, as far as they do not depend on the data."""

    adam_beta2: float = option(0.96, "Decay of the second moment.")
    adam_weight_decay: float = option(0.045, "Decoupled weight decay of matrices.")
    learning_rate: float = option(4.5e-4, "Peak learning rate.")
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = option(
        "constant_with_warmup", "Schedule of the rate."
    )
    lr_warmup_steps: int = option(1000, "Warm-up steps of the schedule.")
    use_ema: bool = option(True, "Keep an exponential moving average of the weights, and validate and save that.")
    ema_decay: float = option(
        0.9996, "Decay of the average at each step; 0.99 at every 25th, as published, comes to the same."
    )

    head: Literal["ar", "linear", "mlp"] | None = option(None, "Overrides head_type of the model configuration.")
    time_conditioning: Literal["adaln", "none"] | None = option(
        None, "Overrides time_conditioning of the model configuration: whether the network is told the time."
    )
    num_train_timesteps: int | None = option(
        None, "Overrides num_train_timesteps of the model configuration: steps of the diffusion."
    )
    transition: Literal["mask-uniform", "absorbing"] | None = option(
        None,
        "What noise does to a code: mask it or replace it by any code, or mask it only, in even steps. By default as "
        "the scheduler of the pretrained model has it, or else mask-uniform.",
    )
    gamma_cum_end: float | None = option(
        None,
        "Of mask-uniform, the probability that a code is masked at the last time: 0.99999 as in the published code, "
        "where hardly a code is replaced, or 0.9 as in the paper. By default as the scheduler of the pretrained model "
        "has it, or else 0.99999.",
    )
    auxiliary_weight: float = option(
        5e-4, "Weight of the cross-entropy of the clean codes, besides the variational bound."
    )

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, 1, "num_train_timesteps")
        check_at_least(self, 0, "auxiliary_weight")
        if self.gamma_cum_end is not None and self.transition == "absorbing":
            raise ValueError("gamma_cum_end needs --transition mask-uniform: with absorbing all codes end masked")
        if self.gamma_cum_end is not None and not 0 < self.gamma_cum_end < 1:
            raise ValueError(f"gamma_cum_end must be in (0, 1), got {self.gamma_cum_end}")


def check(args: TrainCodeDiffusionArguments) -> None:
    """Find what would end the run, before anything is imported for it."""
    check_generator(args, "CodeDiffusionTransformer")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(TrainCodeDiffusionArguments, argv)
    check(args)
    # Not before: torch and the libraries over it take seconds to import.
    from fqgan_hf.training.code_diffusion.model import build_code_diffusion
    from fqgan_hf.training.common.launch import run_training
    from fqgan_hf.training.far.loop import train_generator

    run_training(args, partial(train_generator, build_model=build_code_diffusion))


if __name__ == "__main__":
    leave(run_script(main))

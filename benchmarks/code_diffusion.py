# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Discrete diffusion over codes: a step beside its arithmetic floor, and an image over its steps beside FAR.

    python benchmarks/code_diffusion.py --threads 1 --batch_sizes 1 8 --output_dir docs/results

Both generators have the same width, layers, head and codes (16x16 positions of two codebooks), random weights and
guidance 2.0 (two rows per image), after `optimize`. All run in turns in one process.

    step    backbone, head and scheduler: what one of `num_inference_steps` costs
    floor   the matrix products of such a step alone, of the same shapes on random numbers, and its attention
    FAR     all 256 positions, one after another
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import interleaved, machine, write_results
from torch import nn

from fqgan_hf import FARConfig, FARForImageGeneration, optimize
from fqgan_hf.kernels.packed_linear import PackedLinear
from fqgan_hf.modeling.conditioning import guidance_prefix
from fqgan_hf.modeling.configuration_code_diffusion import CodeDiffusionConfig
from fqgan_hf.modeling.modeling_code_diffusion import CodeDiffusionTransformer
from fqgan_hf.modeling.scheduling_code_diffusion import CodeDiffusionScheduler


SIZES = {
    "codebook_size": 1024,
    "num_classes": 10,
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_head_layers": 2,
}
GUIDANCE = 2.0


class DiffusionStep:
    """One sampling step of a batch, at the chain's middle, as a pipeline makes it."""

    def __init__(self, model: CodeDiffusionTransformer, batch_size: int):
        config = model.config
        self.model, self.scheduler = model, CodeDiffusionScheduler(config.codebook_size)
        self.scheduler.set_timesteps(50)
        conditions = model.embed_conditions(class_labels=torch.ones(batch_size, dtype=torch.long))
        self.prefix = guidance_prefix(conditions, 1)
        self.weights = torch.full((1, config.num_codebooks), GUIDANCE)
        shape = (batch_size, config.num_positions, config.num_codebooks)
        codes = torch.randint(config.codebook_size, shape)
        self.codes = torch.where(torch.rand(shape) < 0.5, config.codebook_size, codes)

    @torch.no_grad()
    def __call__(self) -> None:
        timestep = self.scheduler.timesteps[25]
        uniforms = self.scheduler.draw_uniforms(tuple(self.codes.shape), None, self.codes.device)
        times = timestep.expand(2 * len(self.codes))
        hidden_states = self.model.backbone(self.codes.repeat(2, 1, 1), times, self.prefix)
        draw = self.scheduler.draw_codes
        codes, scores = self.model.sample_codes(hidden_states, draw, uniforms[..., 0], weights=self.weights)
        self.scheduler.step_from_codes(codes, scores, timestep, self.codes, uniforms=uniforms[..., 1])


def products_of(step: DiffusionStep) -> list[tuple[int, int, int]]:
    """(rows, inputs, outputs) of every matrix product of a step, seen by hooks."""
    found, handles = [], []

    def note(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        found.append((inputs[0].numel() // inputs[0].shape[-1], inputs[0].shape[-1], output.shape[-1]))

    for module in step.model.modules():
        if isinstance(module, (nn.Linear, PackedLinear)):
            handles.append(module.register_forward_hook(note))
    step()
    for handle in handles:
        handle.remove()
    return found


def floor_of(step: DiffusionStep) -> Callable[[], None]:
    """The products of a step and the backbone's attention, on random numbers, and nothing else."""
    config, rows = step.model.config, 2 * len(step.codes)
    products = products_of(step)
    inputs = {shape: torch.randn(shape[0], shape[1]) for shape in set(products)}
    weights = [torch.randn(shape[2], shape[1]) for shape in products]
    length = config.num_positions + step.prefix.length
    states = torch.randn(3, rows, config.num_attention_heads, length, config.head_dim)

    @torch.no_grad()
    def run() -> None:
        for shape, weight in zip(products, weights, strict=True):
            F.linear(inputs[shape], weight)
        for _ in range(config.num_hidden_layers):
            F.scaled_dot_product_attention(*states)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads.")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8], help="Images at a time.")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 50, 25, 10, 8], help="Steps of an image.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output_dir", type=Path, metavar="DIR", help="where code_diffusion_speed.json goes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    diffusion = optimize(CodeDiffusionTransformer(CodeDiffusionConfig(**SIZES)))
    far = optimize(FARForImageGeneration(FARConfig(**SIZES)))

    runs = []
    for batch_size in args.batch_sizes:
        step = DiffusionStep(diffusion, batch_size)
        sample = partial(far.generate, class_labels=[1] * batch_size, guidance_scale=GUIDANCE)
        timings = interleaved({"step": step, "floor": floor_of(step), "FAR": sample}, args.rounds)
        times_floor = timings["floor"].speedup_over(timings["step"])
        of_far = timings["step"].speedup_over(timings["FAR"])  # steps in the time of one image of FAR
        run = {"batch_size": batch_size, "step_times_floor": times_floor, "steps_in_the_time_of_far": of_far}
        run |= {name: timing.summary() for name, timing in timings.items()}
        runs.append(run)
        per_image = {name: timing.median() / batch_size for name, timing in timings.items()}
        print(f"\nbatch {batch_size}: a step takes {1e3 * timings['step'].median():.0f} ms, {times_floor:.2f} x floor")
        print(f"FAR, an image: {per_image['FAR']:.2f} s = {of_far:.0f} steps of diffusion")
        for number in args.steps:
            print(f"{number:4} steps, an image: {number * per_image['step']:.2f} s", flush=True)
    if args.output_dir:
        setting = {**SIZES, "grid": [16, 16], "num_codebooks": 2, "guidance_scale": GUIDANCE}
        report = {"machine": machine(), "setting": setting, "rounds": args.rounds, "runs": runs}
        write_results(args.output_dir / "code_diffusion_speed.json", report)


if __name__ == "__main__":
    main()

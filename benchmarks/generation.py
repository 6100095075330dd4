# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Sampling codes: seconds per position of FAR-Base, plain and optimized, beside its peers and the memory's limit.

    python benchmarks/generation.py --threads 1 2 --batch_sizes 1 8 --output_dir docs/results

All run in turns in one process, with random weights and guidance 2.0 (two rows per image). What is timed is a window
of positions in the middle of the image, where the attended prefix has its mean length.

    generate()      the same model as transformers' generation loop runs it, one code per step, plain `nn.Linear`
    position loop   what `generate` takes by itself: a position at once, guidance before the output matrices
    compiled        the same after `model.compile()`, whose half minute at the first call does not count; if asked for
    fp32, bf16, int8   after `optimize(model)`, with `dtype=torch.bfloat16`, with `quantization="int8"`
    Llama           transformers' Llama with as many bytes to read a step, by its own `generate()`
    floor           bytes of the weights read a position / bandwidth at which these weights are read by a sum over
                    them, measured for each model in the same run: no sampler is faster
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from measure import Timing, bar_chart, machine, read_bandwidth, write_results
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessorList, StoppingCriteria
from transformers.initialization import no_init_weights

from fqgan_hf import FARConfig, FARForImageGeneration, optimize
from fqgan_hf.kernels.packed_linear import PackedLinear


VARIANTS = {
    "position loop": None,
    "compiled": "compile",
    "fp32": {},
    "bf16": {"dtype": torch.bfloat16},
    "int8": {"quantization": "int8"},
    "int8, bf16 between": {"quantization": "int8", "dtype": torch.bfloat16},
}
REFERENCE = "generate()"


def random_weights(model_class, config, device):
    """A model with small random weights: default initialization would take longer than the measurement."""
    with no_init_weights():
        model = model_class(config).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.uniform_(-0.02, 0.02)
    return model.to(device)


def weights_read_a_position(config: FARConfig) -> int:
    """Entries of all matrices, those of the head counted once for each of the K steps that reads them."""
    head_dims = config.num_attention_heads + 2 * config.num_key_value_heads
    attention = config.hidden_size * config.head_dim * (head_dims + config.num_attention_heads)
    layer = attention + 3 * config.hidden_size * config.intermediate_size
    outputs = config.num_codebooks * config.hidden_size * config.codebook_size
    aggregation = config.num_codebooks * config.hidden_size**2
    steps = config.num_codebooks * config.num_head_layers
    return (config.num_hidden_layers + steps) * layer + outputs + aggregation


def matrices(model) -> list[torch.Tensor] | None:
    """The weights of all linear layers as they lie in memory; None where oneDNN hides them."""
    packed = [module.packed_weight for module in model.modules() if isinstance(module, PackedLinear)]
    plain = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
    return None if any(weight.is_mkldnn for weight in packed) else packed + plain


class Clock:
    """Reads both clocks at each position; the differences after the first are the cost of one."""

    def __init__(self):
        self.readings = []

    def __call__(self, *_):
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.readings.append((time.perf_counter(), time.process_time()))
        return False

    def add_to(self, timing: Timing) -> None:
        positions = len(self.readings) - 1
        wall, cpu = (last - first for first, last in zip(self.readings[0], self.readings[-1], strict=True))
        timing.wall.append(wall / positions)
        timing.cpu.append(cpu / positions)


class ClockCriteria(StoppingCriteria):
    """The clock as the library calls one."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def __call__(self, input_ids, scores, **kwargs):
        self.clock()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def run_far(model, batch_size: int, window: range, by_library: bool, clock: Clock) -> None:
    codebooks, size = model.config.num_codebooks, model.config.codebook_size
    prefix = torch.randint(size, (batch_size, window.start, codebooks), generator=torch.Generator().manual_seed(0))
    model.generate(
        class_labels=[1] * batch_size,
        guidance_scale=2.0,
        prefix_codes=prefix,
        return_dict_in_generate=by_library,
        callback_on_position=lambda position, codes: clock() or position + 1 == window.stop,
    )


def run_llama(model, batch_size: int, window: range, clock: Clock) -> None:
    prompt = torch.ones(2 * batch_size, window.start, dtype=torch.long, device=model.device)
    model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=True,
        top_k=0,
        min_new_tokens=len(window),
        max_new_tokens=len(window),
        stopping_criteria=[ClockCriteria(clock)],
        logits_processor=LogitsProcessorList(),
    )


def measure(models: dict, batch_size: int, window: range, rounds: int) -> dict[str, Timing]:
    """Seconds a position, every model in turn, `rounds` times after a first that does not count."""
    timings = {name: Timing() for name in models}
    for round_number in range(-1, rounds):
        for name, run in models.items():
            clock = Clock()
            # The first round is short: it only loads code and, on a GPU, compiles.
            run(batch_size, window if round_number >= 0 else window[:3], clock=clock)
            if round_number >= 0:
                clock.add_to(timings[name])
    return timings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads, one run for each.")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8], help="Images at a time.")
    parser.add_argument("--positions", type=int, default=16, help="Length of the window that is timed.")
    parser.add_argument("--rounds", type=int, default=3)
    default = [name for name in VARIANTS if name != "compiled"]
    parser.add_argument("--variants", nargs="+", default=default, choices=list(VARIANTS), help="default: %(default)s")
    parser.add_argument("--no_llama", action="store_true", help="Leave the Llama peer out.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output_dir", type=Path, metavar="DIR", help="where generation_speed.json and .png go")
    args = parser.parse_args()

    config = FARConfig.base()
    weights = weights_read_a_position(config)
    start = (config.num_positions - args.positions) // 2
    window = range(start, start + args.positions)

    plain = random_weights(FARForImageGeneration, config, args.device)
    models, weights_of = {REFERENCE: partial(run_far, plain, by_library=True)}, {REFERENCE: matrices(plain)}
    for name in args.variants:
        settings = VARIANTS[name]
        if args.device != "cpu" and "int8" in name:
            continue
        model = plain
        if settings is not None:
            model = random_weights(FARForImageGeneration, config, args.device)
            model.compile(fullgraph=True) if settings == "compile" else optimize(model, **settings)
        models[name], weights_of[name] = partial(run_far, model, by_library=False), matrices(model)
    if not args.no_llama:
        llama = LlamaConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers + config.num_codebooks * config.num_head_layers,
            num_attention_heads=config.num_attention_heads,
            vocab_size=config.num_codebooks * config.codebook_size,
            bos_token_id=1,
            eos_token_id=2,
        )
        model = random_weights(LlamaForCausalLM, llama, args.device)
        models["Llama"], weights_of["Llama"] = partial(run_llama, model), matrices(model)

    runs = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        bandwidths = {name: read_bandwidth(found) for name, found in weights_of.items() if found}
        for batch_size in args.batch_sizes:
            timings = measure(models, batch_size, window, args.rounds)
            run = {"threads": threads, "batch_size": batch_size, "models": {}}
            title = f"batch {batch_size}, {threads} thread{'s' if threads > 1 else ''}"
            print(f"\n{title}: a position in ms, and how many times faster than {REFERENCE}")
            print(f"{weights / 1e6:.0f} M weights a position")
            print(f"{'':20}{'CPU':>8}{'':>8}{'wall':>8}{'':>8}{'GB/s':>8}{'floor':>8}{'x floor':>8}")
            for name, timing in timings.items():
                run["models"][name] = timing.summary(timings[REFERENCE])
                row = f"{name:20}"
                for clock in ("cpu", "wall"):
                    ratio = timing.speedup_over(timings[REFERENCE], clock)
                    row += f"{timing.median(clock) * 1e3:8.1f}{ratio:7.2f}x"
                if name in bandwidths:
                    width = weights_of[name][0].element_size()
                    floor = weights * width / bandwidths[name]
                    of_floor = {"read_bandwidth": bandwidths[name], "floor_seconds": floor}
                    run["models"][name] |= of_floor | {"times_floor": timing.median() / floor}
                    row += f"{bandwidths[name] / 1e9:8.1f}{floor * 1e3:8.1f}{timing.median() / floor:8.2f}"
                print(row, flush=True)
            runs.append(run)
    if args.output_dir:
        setting = {"model": "FAR-Base", "guidance_scale": 2.0, "window": [window.start, window.stop]}
        report = {"machine": machine(), "setting": setting, "rounds": args.rounds, "runs": runs}
        write_results(args.output_dir / "generation_speed.json", report)
        draw(args.output_dir / "generation_speed.png", runs)


def draw(path: Path, runs: list[dict]) -> None:
    """Milliseconds a position, a panel for each number of threads and images."""
    panels, limits = {}, {}
    for run in runs:
        panel = f"batch {run['batch_size']}, threads {run['threads']}"
        panels[panel] = {name: 1e3 * found["wall_seconds"] for name, found in run["models"].items()}
        limits[panel] = {
            name: 1e3 * found["floor_seconds"] for name, found in run["models"].items() if "floor_seconds" in found
        }
    bar_chart(path, panels, "FAR-Base, guidance 2.0: one position (red: reading its weights)", "ms, wall", limits)


if __name__ == "__main__":
    main()

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Tokenizer speed on the CPU: encode, decode and codebook lookup beside diffusers and vector-quantize-pytorch.

    python benchmarks/tokenizer.py --threads 2 --output_dir docs/results

One run in turns (see measure.py), random weights, images of 256 x 256, f = 16, 16384 codes of 8 dimensions:

    diffusers VQModel   fp32, contiguous, as it comes: the same blocks and widths, one codebook, no adapters
    FQGAN, K = 1        one codebook, no adapters either: the architecture of VQModel, so the ratio is the code's
    FQGAN, K = 2        the published dual tokenizer: two adapters of six transformer blocks and two lookups more

and in a table of its own, K = 1 with the quantizer of Reg-VQ, by linear and by cosine logits, beside the nearest code.

Encoding is pixels to codes, decoding is codes to pixels. The floor is the model's arithmetic at the speed of one
large convolution in the same dtype. Prints Markdown tables; `--output_dir` also receives tokenizer_speed.json. With
`--model` and `--images` the last table, on what half precision changes, is that of a trained tokenizer. On a machine
that has other work to do only the processor's clock (CPU s) means anything, and best so with one thread.
"""

import argparse
import importlib.metadata
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import VQModel
from measure import Timing, interleaved, machine, peak_extra_memory, write_results
from torch.utils.flop_counter import FlopCounterMode

from fqgan_hf import FQGANImageProcessor, FQGANModel, optimize
from fqgan_hf.evaluation.metrics import psnr
from fqgan_hf.kernels.cpu_kernels import adopt_kernels, kernels_available
from fqgan_hf.modeling.quantizer_fqgan import FactorizedQuantizer


SIZE, GRID, CODES, DIM = 256, 16, 16384, 8
VQMODEL = "diffusers VQModel, fp32"
VECTOR_QUANTIZE = "vector-quantize-pytorch"
FORMATS = {
    "fp32": None,
    "fp32 optimized": torch.float32,
    "bf16 optimized": torch.bfloat16,
    "fp16 optimized": torch.float16,
}
QUANTIZERS = {
    "nearest": {"quantizer_type": "nearest"},
    "regularized, linear logits": {"quantizer_type": "regularized", "token_logits": "linear"},
    "regularized, cosine logits": {"quantizer_type": "regularized", "token_logits": "cosine"},
}
QUANTIZER_SIZES = (1024, 16384)
LOOKUP_BATCHES = (1, 4, 16)
MEMORY_BATCH = 64

LOOKUP_SETUP = """
import torch
import torch.nn.functional as F
torch.set_grad_enabled(False)
from tokenizer import naive_lookup, optimized_lookup, our_lookup, peer_lookup
lookup = {lookup}(torch.nn.functional.normalize(torch.randn({codes}, {dim}), dim=-1))
lookup(torch.randn(1, 16, {dim}))
z = torch.randn({batch}, {positions}, {dim})
"""
SLICING_SETUP = """
import torch
torch.set_grad_enabled(False)
from fqgan_hf import FQGANModel
model = FQGANModel().eval().to(memory_format=torch.channels_last)
model.enable_slicing()
model(torch.zeros(1, 3, 64, 64))
pixels = torch.rand({batch}, 3, 128, 128) * 2 - 1
"""


def vqmodel() -> VQModel:
    """diffusers' own model with the blocks and widths of `FQGANModel`'s defaults."""
    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * 4 + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 128, 256, 256, 512),
        layers_per_block=2,
        latent_channels=256,
        num_vq_embeddings=CODES,
        vq_embed_dim=DIM,
    ).eval()


def encode_vqmodel(model: VQModel, pixels: torch.Tensor) -> torch.Tensor:
    return model.quantize(model.encode(pixels).latents)[2][2]


def decode_vqmodel(model: VQModel, codes: torch.Tensor) -> torch.Tensor:
    latents = model.quantize.get_codebook_entry(codes, (len(codes) // GRID**2, GRID, GRID, DIM))
    return model.decode(latents, force_not_quantize=True).sample


def measure_models(batch: int, rounds: int, formats: list[str]) -> dict[str, dict[str, Timing]]:
    """Timings of `encode` and `decode` for each variant; all models are held at once, up to 0.5 GB each."""
    pixels = torch.rand(batch, 3, SIZE, SIZE) * 2 - 1
    peer = vqmodel()
    functions = {
        ("encode", VQMODEL): partial(encode_vqmodel, peer, pixels),
        ("decode", VQMODEL): partial(decode_vqmodel, peer, torch.randint(0, CODES, (batch * GRID**2,))),
    }
    # Plain fp32 is shown for the published model only: one row less, a third of a minute less.
    for num_codebooks, names in ((1, formats[1:]), (2, formats)):
        for name in names:
            dtype = FORMATS[name]
            model = FQGANModel(num_codebooks=num_codebooks).eval()
            if dtype is not None:
                optimize(model, dtype)
            codes = torch.randint(0, CODES, (batch, num_codebooks, GRID, GRID))
            variant = f"FQGAN, K = {num_codebooks}, {name}"
            functions["encode", variant] = partial(model.encode, pixels.to(model.dtype))
            functions["decode", variant] = partial(model.decode_codes, codes)
    timings = interleaved(functions, rounds, warmup=0)  # seconds each: what the first call prepares is lost in them
    return {task: {name: t for (of, name), t in timings.items() if of == task} for task in ("encode", "decode")}


def measure_quantizers(batch: int, rounds: int) -> dict[str, dict[str, Timing]]:
    """Timings of `encode`, all of it, with each quantizer after `optimize`, by codebook size."""
    pixels = torch.rand(batch, 3, SIZE, SIZE) * 2 - 1
    found = {}
    for size in QUANTIZER_SIZES:
        models = {
            name: optimize(FQGANModel(num_codebooks=1, codebook_size=size, **settings).eval())
            for name, settings in QUANTIZERS.items()
        }
        functions = {name: partial(model.encode, pixels) for name, model in models.items()}
        found[str(size)] = interleaved(functions, rounds)
    return found


def convolution_speed(dtype: torch.dtype) -> float:
    """Floating-point operations in a second of processor time of one large channels_last convolution, best of five."""
    channels, side = 256, 64
    conv = torch.nn.Conv2d(channels, channels, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)
    maps = torch.randn(4, channels, side, side, dtype=dtype).to(memory_format=torch.channels_last)
    seconds = min(interleaved({"": lambda: conv(maps)}, rounds=5)[""].cpu)
    return 2 * 4 * side**2 * 9 * channels**2 / seconds


def operations(num_codebooks: int, batch: int) -> dict[str, int]:
    """Floating-point operations of the trunk, adapters and decoder, as their layers define them."""
    with torch.device("meta"):
        model = FQGANModel(num_codebooks=num_codebooks)
        with FlopCounterMode(display=False) as encode:
            model.encode_features(torch.empty(batch, 3, SIZE, SIZE))
        with FlopCounterMode(display=False) as decode:
            model.decode(torch.empty(batch, num_codebooks * DIM, GRID, GRID), force_not_quantize=True)
    return {"encode": encode.get_total_flops(), "decode": decode.get_total_flops()}


def our_lookup(codebook: torch.Tensor, optimized: bool = False):
    quantizer = FactorizedQuantizer(1, *codebook.shape)
    quantizer.embedding.data = codebook[None]
    if optimized and kernels_available():
        adopt_kernels(quantizer)

    def lookup(z):
        batch, positions, dim = z.shape
        return quantizer(z.transpose(1, 2).reshape(batch, 1, dim, positions, 1)).codes.flatten(1)

    return lookup


def optimized_lookup(codebook: torch.Tensor):
    return our_lookup(codebook, optimized=True)


def peer_lookup(codebook: torch.Tensor):
    from vector_quantize_pytorch import VectorQuantize

    quantizer = VectorQuantize(dim=codebook.shape[1], codebook_size=len(codebook), use_cosine_sim=True).eval()
    quantizer._codebook.embed.copy_(codebook[None])
    return lambda z: quantizer(z)[1]


def naive_lookup(codebook: torch.Tensor):
    def lookup(z):
        codes = torch.cdist(F.normalize(z, dim=-1), codebook).argmin(-1)
        F.embedding(codes, codebook)
        return codes

    return lookup


def lookups() -> dict:
    """What can be measured here, by name: ours first."""
    found = {
        "FactorizedQuantizer": our_lookup,
        "FactorizedQuantizer, optimized": optimized_lookup,
        VECTOR_QUANTIZE: peer_lookup,
        "torch.cdist": naive_lookup,
    }
    try:
        importlib.metadata.version(VECTOR_QUANTIZE)
    except importlib.metadata.PackageNotFoundError:
        print(f"skipped: {VECTOR_QUANTIZE} is not installed (pip install {VECTOR_QUANTIZE})\n")
        del found[VECTOR_QUANTIZE]
    return found


def measure_lookups(rounds: int, threads: int) -> dict[str, dict]:
    """Seconds at each batch, the share of codes equal to those of exact arithmetic, and peak memory."""
    codebook = F.normalize(torch.randn(CODES, DIM), dim=-1)
    functions = {name: build(codebook) for name, build in lookups().items()}
    report: dict[str, dict] = {name: {} for name in functions}
    for batch in LOOKUP_BATCHES:
        z = torch.randn(batch, GRID**2, DIM)
        exact = torch.cat([(image.double() @ codebook.double().T).argmax(-1)[None] for image in z])
        timings = interleaved({name: partial(run, z) for name, run in functions.items()}, rounds, warmup=2)
        for name, run in functions.items():
            reference = timings.get(VECTOR_QUANTIZE)
            equal = (run(z) == exact).float().mean().item()
            report[name][f"batch_{batch}"] = timings[name].summary(reference) | {"equal_codes": equal}
    for name, build in lookups().items():
        setup = LOOKUP_SETUP.format(lookup=build.__name__, codes=CODES, dim=DIM, batch=MEMORY_BATCH, positions=GRID**2)
        report[name]["peak_extra_memory"] = peak_extra_memory(setup, "lookup(z)", threads)
    return report


def half_precision(model_dir: str | None, images: str | None) -> dict:
    """Codes and reconstructions of fp16 and bf16 beside fp32, all from the same images."""
    if images:
        from datasets import load_dataset

        pictures = load_dataset(images, split="train")[:64]["image"]
    model = FQGANModel.from_pretrained(model_dir) if model_dir else FQGANModel(sample_size=64)
    size = model.config.sample_size
    if images:
        pixels = FQGANImageProcessor(size=size)(pictures)["pixel_values"]
    else:
        pixels = F.interpolate(torch.rand(16, 3, 8, 8), (size, size), mode="bicubic").clamp(0, 1) * 2 - 1
    model.eval().to(memory_format=torch.channels_last)
    expected = model.encode(pixels).codes
    reconstruction = model.decode_codes(expected).sample
    report = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        half = FQGANModel.from_config(model.config)
        half.load_state_dict(model.state_dict())
        half.eval().to(dtype).to(memory_format=torch.channels_last)
        codes = half.encode(pixels.to(dtype)).codes
        same_codes = half.decode_codes(expected).sample.float()
        own_codes = half.decode_codes(codes).sample.float()
        report[name] = {
            "equal_codes": (codes == expected).float().mean().item(),
            "psnr_to_fp32_same_codes_db": psnr(reconstruction.clamp(-1, 1), same_codes).mean().item(),
            "psnr_to_images_db": psnr(pixels, own_codes).mean().item(),
            "psnr_of_fp32_to_images_db": psnr(pixels, reconstruction).mean().item(),
        }
    return report


def models_table(timings: dict[str, dict[str, Timing]], batch: int, speeds: dict[str, float]) -> tuple[list, dict]:
    """Lines to print and the same for JSON."""
    lines, report = [], {}
    work = {num_codebooks: operations(num_codebooks, batch) for num_codebooks in (1, 2)}
    for task, found in timings.items():
        lines += [
            f"| {task}, batch {batch} | wall s | CPU s | x VQModel, wall | x VQModel, CPU | floor / CPU s |",
            "|---|---|---|---|---|---|",
        ]
        report[task] = {}
        for name, timing in found.items():
            dtype = next(dtype for dtype in speeds if dtype in name)
            floor = work[2 if "K = 2" in name else 1][task] / speeds[dtype]
            summary = timing.summary(found[VQMODEL]) | {"floor_cpu_seconds": floor}
            report[task][name] = summary
            lines.append(
                f"| {name} | {summary['wall_seconds']:.2f} | {summary['cpu_seconds']:.2f} | "
                f"{summary['wall_speedup']:.2f} | {summary['cpu_speedup']:.2f} | "
                f"{floor / summary['cpu_seconds']:.2f} |"
            )
        lines.append("")
    return lines, report


def quantizer_table(timings: dict[str, dict[str, Timing]], batch: int) -> tuple[list[str], dict]:
    """Lines to print and the same for JSON; the ratio is how many times as long as the nearest code's it takes."""
    lines = [f"| encode, batch {batch}, K = 1, fp32 optimized | codes | CPU s | x nearest, CPU |", "|---|---|---|---|"]
    report: dict[str, dict] = {}
    for size, found in timings.items():
        report[size] = {name: timing.summary(found["nearest"]) for name, timing in found.items()}
        for name, summary in report[size].items():
            lines.append(f"| {name} | {size} | {summary['cpu_seconds']:.2f} | {1 / summary['cpu_speedup']:.3f} |")
    return [*lines, ""], report


def lookup_table(report: dict[str, dict]) -> list[str]:
    batches = [f"batch {batch}: CPU ms, x peer, equal codes" for batch in LOOKUP_BATCHES]
    lines = [
        f"| lookup, {CODES} x {DIM} | {' | '.join(batches)} | peak extra MiB at batch {MEMORY_BATCH} |",
        "|---" * (len(batches) + 2) + "|",
    ]
    for name, found in report.items():
        cells = []
        for batch in LOOKUP_BATCHES:
            entry = found[f"batch_{batch}"]
            times = f"{entry['cpu_speedup']:.1f}x" if "cpu_speedup" in entry else "-"
            cells.append(f"{1000 * entry['cpu_seconds']:.1f}, {times}, {entry['equal_codes']:.2%}")
        memory = found["peak_extra_memory"]
        cells.append("-" if memory is None else f"{memory / 2**20:.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines + [""]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: torch's own choice")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the models; lookups take three times as many")
    parser.add_argument("--batch", type=int, default=4, help="images that are encoded and decoded at a time")
    parser.add_argument("--fp16", action="store_true", help="also time fp16, which few CPUs multiply natively")
    parser.add_argument("--model", metavar="DIR", help="tokenizer of the half-precision table; random weights else")
    parser.add_argument("--images", metavar="DIR", help="pictures or parquet files for it; soft random images else")
    parser.add_argument("--output_dir", type=Path, metavar="DIR", help="where tokenizer_speed.json is written")
    arguments = parser.parse_args()
    for name in ("threads", "rounds", "batch"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    results: dict = {"machine": machine(), "batch": arguments.batch, "rounds": arguments.rounds}
    print(" ".join(f"{name} {value}," for name, value in results["machine"].items()).rstrip(",") + "\n")
    formats = [name for name in FORMATS if arguments.fp16 or not name.startswith("fp16")]
    speeds = {name.split()[0]: convolution_speed(FORMATS[name] or torch.float32) for name in formats}
    results["convolution_operations_per_cpu_second"] = speeds
    words = ", ".join(f"{dtype} {speed / 1e9:.0f} GFLOP" for dtype, speed in speeds.items())
    print(f"One large convolution, a second of processor time: {words}\n")

    lines, results["models"] = models_table(
        measure_models(arguments.batch, arguments.rounds, formats), arguments.batch, speeds
    )
    print("\n".join(lines), flush=True)
    lines, results["quantizers"] = quantizer_table(
        measure_quantizers(arguments.batch, 3 * arguments.rounds), arguments.batch
    )
    print("\n".join(lines), flush=True)
    results["lookup"] = measure_lookups(3 * arguments.rounds, arguments.threads)
    print("\n".join(lookup_table(results["lookup"])), flush=True)

    results["slicing_peak_extra_memory"] = {
        batch: peak_extra_memory(SLICING_SETUP.format(batch=batch), "model(pixels)", arguments.threads)
        for batch in (16, 32)
    }
    print("| reconstruction with slicing, 128 x 128 | peak extra MiB |\n|---|---|")
    for batch, memory in results["slicing_peak_extra_memory"].items():
        print(f"| batch {batch} | {'-' if memory is None else f'{memory / 2**20:.0f}'} |")

    results["half_precision"] = half_precision(arguments.model, arguments.images)
    print("\n| beside fp32 | equal codes | PSNR to fp32, same codes | PSNR to the images (fp32) |\n|---|---|---|---|")
    for name, found in results["half_precision"].items():
        print(
            f"| {name} | {found['equal_codes']:.2%} | {found['psnr_to_fp32_same_codes_db']:.1f} dB | "
            f"{found['psnr_to_images_db']:.2f} dB ({found['psnr_of_fp32_to_images_db']:.2f}) |"
        )
    if arguments.output_dir:
        write_results(arguments.output_dir / "tokenizer_speed.json", results)


if __name__ == "__main__":
    main()

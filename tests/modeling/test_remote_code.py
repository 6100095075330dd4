# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The code files that travel with a checkpoint, in a process where this package does not exist."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from fqgan_hf import FARConfig, FARForImageGeneration, FARPipeline, FQGANImageProcessor
from fqgan_hf.hub import export as hub


SCRIPT = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] in ("fqgan_hf", "modeling", "training"):
            raise ModuleNotFoundError(f"No module named {fullname!r}")

# Before the finder of an editable installation.
sys.meta_path.insert(0, Absent())
for name in ("fqgan_hf", "fqgan_hf.modeling", "modeling"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{name} must not be importable here")

import diffusers, torch, transformers
from pathlib import Path
from safetensors.torch import load_file, save_file

torch.set_num_threads(int(sys.argv[1]))
pixel_values = load_file("pixels.safetensors")["pixel_values"]
results = {}
for folder in sorted(Path("exported").iterdir(), key=lambda path: path.name):
    k = folder.name
    generator = transformers.AutoModel.from_pretrained(folder / "generator", trust_remote_code=True)
    assert type(generator).__module__.startswith("transformers_modules"), type(generator)
    config = transformers.AutoConfig.from_pretrained(folder / "generator", trust_remote_code=True)
    assert type(config).__module__.startswith("transformers_modules"), type(config)
    assert config.num_codebooks == generator.config.num_codebooks == int(k)
    codes = generator.generate(class_labels=[3, 5], guidance_scale=2.0, generator=torch.Generator().manual_seed(1))
    results[f"{k}.generated"] = codes

    tokenizer = diffusers.AutoModel.from_pretrained(str(folder / "tokenizer"), trust_remote_code=True)
    assert type(tokenizer).__module__.startswith("diffusers_modules"), type(tokenizer)
    assert type(tokenizer).__name__ == "FQGANModel"
    with torch.no_grad():
        results[f"{k}.encoded"] = tokenizer.encode(pixel_values).codes
        grid = codes.transpose(1, 2).unflatten(2, (4, 4))
        results[f"{k}.decoded"] = tokenizer.decode_codes(grid).sample.contiguous()

    processor = transformers.AutoImageProcessor.from_pretrained(folder / "tokenizer", trust_remote_code=True)
    assert type(processor).__module__.startswith("transformers_modules"), type(processor)
    images = processor.postprocess(results[f"{k}.decoded"])
    results[f"{k}.pixels"] = processor(images)["pixel_values"].contiguous()

part = transformers.AutoModel.from_pretrained("pipeline", subfolder="transformer", trust_remote_code=True)
results["pipeline.generated"] = part.generate(class_labels=[3], generator=torch.Generator().manual_seed(1))
save_file(results, "results.safetensors")
"""


def make_models(num_codebooks):
    """Of one and of four codebooks with the quantizer of Reg-VQ."""
    torch.manual_seed(num_codebooks)
    quantizer = {1: {"quantizer_type": "regularized"}, 4: {"quantizer_type": "gumbel", "token_logits": "cosine"}}
    return tiny.tokenizer(num_codebooks, **quantizer.get(num_codebooks, {})), tiny.generator(num_codebooks)


@torch.no_grad()
def test_same_results_without_the_package(tmp_path):
    """Exported folders alone give the same codes and pixels, for every number of codebooks."""
    pixel_values = torch.rand(2, 3, 16, 16) * 2 - 1
    save_file({"pixel_values": pixel_values}, tmp_path / "pixels.safetensors")
    expected = {}
    for k in (1, 2, 3, 4):
        vqmodel, transformer = make_models(k)
        processor = FQGANImageProcessor(size=16, multiple_of=4)
        hub.export(vqmodel, tmp_path / "exported" / str(k) / "tokenizer", image_processor=processor)
        hub.export(transformer, tmp_path / "exported" / str(k) / "generator")
        codes = transformer.generate(
            class_labels=[3, 5], guidance_scale=2.0, generator=torch.Generator().manual_seed(1)
        )
        expected[f"{k}.generated"] = codes
        expected[f"{k}.encoded"] = vqmodel.encode(pixel_values).codes
        expected[f"{k}.decoded"] = vqmodel.decode_codes(codes.transpose(1, 2).unflatten(2, (4, 4))).sample
        expected[f"{k}.pixels"] = processor(processor.postprocess(expected[f"{k}.decoded"]))["pixel_values"]
    hub.export(FARPipeline(vqmodel, transformer, processor), tmp_path / "pipeline")
    expected["pipeline.generated"] = transformer.generate(class_labels=[3], generator=torch.Generator().manual_seed(1))

    result = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT, str(torch.get_num_threads())],
        # A fresh HF_HOME: remote code is copied there before it is imported.
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    results = load_file(tmp_path / "results.safetensors")
    assert set(results) == set(expected)
    for name in expected:
        assert torch.equal(results[name], expected[name]), name


def test_code_runs_only_when_trusted(tmp_path):
    """Without `trust_remote_code=True` diffusers refuses the tokenizer's code rather than load something else."""
    import diffusers

    hub.export(make_models(2)[0], tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        diffusers.AutoModel.from_pretrained(str(tmp_path))


def test_auto_classes_know_far_where_the_package_is_installed(tmp_path):
    """With the package imported, the auto classes give its own classes, for saved and for exported folders."""
    from transformers import AutoConfig, AutoModel

    _, transformer = make_models(2)
    transformer.save_pretrained(tmp_path / "saved")
    hub.export(transformer, tmp_path / "exported")
    for folder in (tmp_path / "saved", tmp_path / "exported"):
        assert type(AutoConfig.from_pretrained(folder)) is FARConfig
        reloaded = AutoModel.from_pretrained(folder)
        assert type(reloaded) is FARForImageGeneration
        assert torch.equal(reloaded.lm_heads[0].weight, transformer.lm_heads[0].weight)


def test_code_files_are_what_the_loaders_follow():
    """Single-dot imports of files in the same folder; diffusers copies what the tokenizer imports, but no deeper."""
    from diffusers.utils.dynamic_modules_utils import get_relative_imports
    from transformers.dynamic_module_utils import get_relative_import_files

    import fqgan_hf.modeling

    folder = Path(fqgan_hf.modeling.__file__).parent
    for path in folder.glob("*.py"):
        if path.name == "__init__.py":
            continue
        for module in get_relative_imports(path):
            assert (folder / f"{module}.py").is_file(), f"{path.name} imports .{module}"
    tokenizer = folder / "modeling_fqgan.py"
    direct = {f"{module}.py" for module in get_relative_imports(tokenizer)}
    assert {Path(path).name for path in get_relative_import_files(tokenizer)} == direct

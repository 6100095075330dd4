# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Where this package is not installed: self-contained pipelines and `AutoModel`, each in a fresh process, give the
same images as the package, from the newest commit, a pinned one and the cache."""

import json

import pytest
import tiny
import torch
from fresh import WITHOUT_PACKAGE, run_python
from safetensors.torch import load_file

import fqgan_hf
from fqgan_hf import FARPipeline, FQGANPipeline, collect_facts, export, load_pipeline, push_to_hub


SEED = 'output_type="pt", generator=torch.Generator().manual_seed(1)'
CALLS = {
    "org/far": f"pipe([3, 5], {SEED}).images",
    "org/diffusion": f'pipe(prompt=["a red apple"], map_image=[torch.arange(256).reshape(16, 16) % 5], {SEED}).images',
    "org/pictures": f"pipe(map_image=[torch.arange(768).reshape(3, 16, 16) / 768], {SEED}).images",
    "org/fqgan": 'pipe(torch.arange(768).reshape(3, 16, 16) / 768, output_type="pt").images',
}
# Those that load a single model's class by its code files.
MODELS = {
    "org/far-generator": ("transformers.AutoModel", "model.generate(class_labels=[3], generator=generator)"),
    "org/diffusion-generator": ("transformers.AutoModel", "torch.tensor([model.num_parameters()])"),
    "org/tokenizer": ("diffusers.AutoModel", "model.encode(torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16)).codes"),
}

LOAD = """
import json, logging, sys
import diffusers, torch, transformers
from huggingface_hub import snapshot_download
from safetensors.torch import save_file

calls, models, pinned, is_offline = json.loads(sys.argv[1])
logged = []
handler = logging.Handler()
handler.emit = lambda record: logged.append(record.getMessage())
logging.getLogger("diffusers").addHandler(handler)
results = {}

def images(pipe, call):
    pipe.set_progress_bar_config(disable=True)
    return eval(call, {"pipe": pipe, "torch": torch}).contiguous()

pipes = {}
for repo, call in calls.items():
    # Offline diffusers asks the Hub for the commit of a pipeline's code, unless it is given a folder.
    place = snapshot_download(repo, local_files_only=True) if is_offline else repo
    pipes[repo] = diffusers.DiffusionPipeline.from_pretrained(place, trust_remote_code=True)
    assert type(pipes[repo]).__module__.startswith("diffusers_modules."), type(pipes[repo])
    results[repo] = images(pipes[repo], call)
for name, (repo, revision) in pinned.items():
    pipe = diffusers.DiffusionPipeline.from_pretrained(repo, revision=revision, trust_remote_code=True)
    results[name] = images(pipe, calls[repo])
    results[f"{repo} again"] = images(pipes[repo], calls[repo])  # another version of the code came in between
    again = diffusers.DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)
    assert type(again) is type(pipes[repo]) is not type(pipe)
    assert type(again.vqmodel) is type(pipes[repo].vqmodel)
for repo, (loader, call) in models.items():
    library, _, loader = loader.partition(".")
    place = snapshot_download(repo, local_files_only=True) if is_offline and library == "diffusers" else repo
    model = getattr(sys.modules[library], loader).from_pretrained(place, trust_remote_code=True)
    with torch.no_grad():
        results[repo] = eval(call, {"model": model, "torch": torch, "generator": torch.Generator().manual_seed(1)})
for repo in (*calls, *models):
    if not is_offline:
        snapshot_download(repo)
assert not any("Expected types" in message for message in logged), logged
save_file(results, "results.safetensors")
"""


def make_objects():
    torch.manual_seed(0)
    far = tiny.pipeline(2)
    diffusion = tiny.conditional_pipeline("text", "map", kind="diffusion")
    return {
        "org/far": far,
        "org/diffusion": diffusion,
        "org/pictures": tiny.conditional_pipeline("map", num_labels=None),
        "org/fqgan": FQGANPipeline(far.vqmodel, far.image_processor),
        "org/far-generator": far.transformer,
        "org/diffusion-generator": diffusion.transformer,
        "org/tokenizer": far.vqmodel,
    }


def expected_results(objects):
    results = {name: eval(call, {"pipe": objects[name], "torch": torch}) for name, call in CALLS.items()}
    for name, (_, call) in MODELS.items():
        with torch.no_grad():
            scope = {"model": objects[name], "torch": torch, "generator": torch.Generator().manual_seed(1)}
            results[name] = eval(call, scope)
    return results


def test_the_same_images_without_the_package(fake, tmp_path, monkeypatch):
    objects = make_objects()
    older = tiny.pipeline(2)
    with monkeypatch.context() as patch:
        patch.setattr(fqgan_hf, "__version__", "0.0.9")  # whose code is another
        push_to_hub(older, "org/far", self_contained=True)
    pinned = {"org/far at its first commit": ("org/far", fake.repositories["org/far"].branches["main"])}
    for name, obj in objects.items():
        push_to_hub(obj, name, self_contained=name in CALLS)
    expected = expected_results(objects)
    expected |= {"org/far at its first commit": eval(CALLS["org/far"], {"pipe": older, "torch": torch})}
    expected |= {"org/far again": expected["org/far"]}
    first, second = (commit for commit in fake.commits if commit.repo_id == "org/far")
    code = {name for name in first.added if name.endswith(".py") and name not in second.added}
    assert len(code) == 4 and set(second.deleted) == code, "the files of the earlier version go"

    environment = fake.environment(tmp_path / "loader")
    for pins, offline in ((pinned, False), ({}, True)):
        words = json.dumps([CALLS, MODELS, pins, offline])
        settings = {**environment, **({"HF_HUB_OFFLINE": "1"} if offline else {})}
        run_python(WITHOUT_PACKAGE + LOAD, settings, tmp_path, words)
        results = load_file(tmp_path / "results.safetensors")
        (tmp_path / "results.safetensors").unlink()
        assert set(expected) - set(results) == ({*pinned, "org/far again"} if offline else set())
        for name, result in results.items():
            assert torch.equal(result, expected[name]), (name, offline)


@pytest.mark.parametrize("name", ["org/far", "org/fqgan"])
def test_with_the_package_no_code_of_the_folder_runs(name, tmp_path):
    pipe = make_objects()[name]
    export(pipe, tmp_path / "out", self_contained=True)
    loaded = type(pipe).from_pretrained(str(tmp_path / "out"))
    assert type(loaded) is type(pipe) and type(loaded.vqmodel) is fqgan_hf.FQGANModel
    call = CALLS[name]
    assert torch.equal(*(eval(call, {"pipe": one, "torch": torch}) for one in (loaded, pipe)))
    assert collect_facts(tmp_path / "out")["kind"] == f"pipeline ({type(pipe).__name__})"
    if isinstance(pipe, FARPipeline):
        assert type(load_pipeline(tmp_path / "out")) is FARPipeline
    export(pipe, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*/*.py")) and not list((tmp_path / "out").glob("pipeline_*.py"))


def test_only_pipelines(tmp_path):
    with pytest.raises(
        ValueError, match="self_contained must be False for a FQGANModel: a tokenizer loads by its code"
    ):
        export(tiny.tokenizer(), tmp_path / "out", self_contained=True)
    assert not (tmp_path / "out").exists()

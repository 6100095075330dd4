# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Folders and cards as they go to the Hub, and the way there and back over HTTP."""

import json
import re
import sys
from pathlib import Path

import pytest
import tiny
import torch
from fakehub import FakeHub
from fresh import WITHOUT_PACKAGE, run_python
from huggingface_hub import ModelCard

import fqgan_hf
import fqgan_hf.modeling
from fqgan_hf import (
    CodeDiffusionScheduler,
    FARForImageGeneration,
    FARPipeline,
    FQGANImageProcessor,
    FQGANModel,
    collect_facts,
    export,
)
from fqgan_hf.hub import registration
from fqgan_hf.hub.facts import format_facts
from fqgan_hf.hub.kinds import KINDS


CODE = {
    "tokenizer": {"modeling_fqgan.py", "image_processing_fqgan.py"},
    "generator": {"configuration_far.py", "modeling_far.py"},
    "diffusion": {"configuration_code_diffusion.py", "modeling_code_diffusion.py", "scheduling_code_diffusion.py"},
}


def make_models(num_codebooks=2):
    pipe = make_pipeline(num_codebooks)
    return pipe.vqmodel, pipe.transformer


def make_pipeline(num_codebooks=2):
    torch.manual_seed(0)
    return tiny.pipeline(num_codebooks, id2label={i: f"digit_{i}" for i in range(10)})


def data_files(folder: Path) -> set[str]:
    """Everything in a folder but its code."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".py"}


def assert_code_is_whole(folder: Path, *parts: str) -> None:
    """The classes' files are there, as they are in the package, with every file that they import, and nothing else."""
    present = {path.name for path in folder.glob("*.py")}
    wanted = set().union(*(CODE[part] for part in parts))
    reachable = set()
    while wanted:
        name = wanted.pop()
        reachable.add(name)
        source = (Path(fqgan_hf.modeling.__file__).parent / name).read_text(encoding="utf-8")
        assert (folder / name).read_text(encoding="utf-8") == source
        wanted |= {
            f"{module}.py" for module in re.findall(r"^ *from \.(\w+) import", source, re.MULTILINE)
        } - reachable
    assert present - {"handler.py"} == reachable


class TestExport:
    @pytest.mark.parametrize("num_codebooks", [1, 2, 3, 4])
    def test_tokenizer(self, tmp_path, num_codebooks):
        vqmodel, _ = make_models(num_codebooks)
        assert export(vqmodel, tmp_path / "out") == tmp_path / "out"
        assert data_files(tmp_path / "out") == {
            "config.json", "diffusion_pytorch_model.safetensors", "preprocessor_config.json", "README.md",
            "card.json",
        }  # fmt: skip
        assert_code_is_whole(tmp_path / "out", "tokenizer")
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert config["auto_map"] == {"AutoModel": "modeling_fqgan.FQGANModel"}
        reloaded = FQGANModel.from_pretrained(tmp_path / "out")
        assert reloaded.fingerprint() == vqmodel.fingerprint()
        processor = FQGANImageProcessor.from_pretrained(tmp_path / "out")
        assert (processor.size, processor.multiple_of) == (16, 4)

    def test_generator(self, tmp_path):
        _, transformer = make_models()
        export(transformer, tmp_path)
        assert data_files(tmp_path) == {
            "config.json", "generation_config.json", "model.safetensors", "README.md", "card.json",
        }  # fmt: skip
        assert_code_is_whole(tmp_path, "generator")
        assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {
            "AutoConfig": "configuration_far.FARConfig",
            "AutoModel": "modeling_far.FARForImageGeneration",
        }
        assert transformer._auto_class is None, "exporting must not register classes globally"

    def test_pipeline_carries_all_code_and_no_local_path(self, tmp_path):
        make_pipeline().save_pretrained(str(tmp_path / "saved"))
        pipe = FARPipeline.from_pretrained(tmp_path / "saved")
        export(pipe, tmp_path / "out")
        assert {name for name in data_files(tmp_path / "out") if "/" not in name} == {
            "model_index.json", "README.md", "card.json",
        }  # fmt: skip
        assert_code_is_whole(tmp_path / "out", "tokenizer", "generator")
        assert "auto_map" not in json.loads((tmp_path / "out/vqmodel/config.json").read_text())
        for path in (tmp_path / "out").rglob("*.json"):
            assert str(tmp_path) not in path.read_text(), path

    def test_pipeline_of_diffusion_with_its_conditions(self, tmp_path):
        pipe = tiny.conditional_pipeline("text", "map", kind="diffusion")
        export(pipe, tmp_path)
        assert_code_is_whole(tmp_path, "tokenizer", "diffusion")
        folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
        assert folders == set(pipe.components)
        config = json.loads((tmp_path / "transformer" / "config.json").read_text())
        assert config["auto_map"]["AutoModel"] == "modeling_code_diffusion.CodeDiffusionTransformer"
        assert "auto_map" not in json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
        facts = collect_facts(tmp_path)
        assert facts["belong_together"] is facts["maps_belong_together"] is True
        assert (facts["text_encoder"], facts["scheduler"]["sampling"]) == ("CLIPTextModel", "ancestral")
        assert facts["map_vqmodel"]["images"] == "label maps of 5 labels"
        assert facts["transformer"]["conditions"] == ["text", "map"]
        assert facts["transformer"]["text"] == "8 tokens, states of a frozen text encoder, 16 wide"
        assert facts["transformer"]["map"] == "1 of 16 codes at 4x4 positions"
        assert "conditions" in "".join(format_facts(facts))

    def test_parts_beside_a_generator(self, tmp_path):
        pipe = tiny.conditional_pipeline("text", kind="diffusion", text=None)
        export(pipe.transformer, tmp_path, parts={"scheduler": pipe.scheduler, "tokenizer": pipe.tokenizer})
        scheduler = CodeDiffusionScheduler.from_pretrained(tmp_path, subfolder="scheduler")
        assert scheduler.config.codebook_size == pipe.scheduler.config.codebook_size
        assert (tmp_path / "tokenizer" / "tokenizer.json").is_file()

    def test_card_can_be_left_alone(self, tmp_path):
        (tmp_path / "README.md").write_text("my own words")
        export(make_models()[0], tmp_path, write_card=False)
        assert (tmp_path / "README.md").read_text() == "my own words"

    def test_variant_and_shards(self, tmp_path):
        export(make_models()[1], tmp_path, variant="bf16", max_shard_size="100KB")
        assert "model.safetensors.index.bf16.json" in data_files(tmp_path)
        FARForImageGeneration.from_pretrained(tmp_path, variant="bf16")

    def test_refuses_other_objects(self, tmp_path):
        with pytest.raises(ValueError, match="only FQGANModel, .* can be exported, got Linear"):
            export(torch.nn.Linear(1, 1), tmp_path / "out")
        assert not (tmp_path / "out").exists()
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match="directory must be a folder, got the file"):
            export(make_models()[0], tmp_path / "file")


class TestExportInPlace:
    def test_other_files_stay_and_stale_weights_go(self, tmp_path):
        tokenizer, generator = make_models()
        export(generator, tmp_path, max_shard_size="100KB")
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / "diffusion_pytorch_model.fp16.safetensors").write_text("another variant's")
        export(generator, tmp_path)
        FARForImageGeneration.from_pretrained(tmp_path)
        assert data_files(tmp_path) == {
            "config.json", "generation_config.json", "model.safetensors", "README.md", "notes.txt", "card.json",
            "diffusion_pytorch_model.fp16.safetensors",
        }  # fmt: skip

    def test_nothing_is_half_written(self, tmp_path, monkeypatch):
        export(make_models()[0], tmp_path)
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        monkeypatch.setattr("fqgan_hf.hub.export.render_card", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(make_models(3)[0], tmp_path)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


class TestRegistration:
    def test_tables_know_our_classes(self):
        """The tables are internal to diffusers; this fails when a new version has moved them."""
        from diffusers.pipelines import pipeline_loading_utils as tables

        names = [kind.class_name for kind in KINDS if kind.role != "pipeline"]
        assert len(names) == 5
        for name in names:
            assert tables.LOADABLE_CLASSES["fqgan_hf"][name] == ["save_pretrained", "from_pretrained"]
            assert tables.ALL_IMPORTABLE_CLASSES[name] == ["save_pretrained", "from_pretrained"]

    def test_pipelines_are_in_diffusers_namespace(self):
        import diffusers

        assert diffusers.FARPipeline is fqgan_hf.FARPipeline
        assert diffusers.FQGANPipeline is fqgan_hf.FQGANPipeline

    def test_registering_again_changes_nothing(self):
        from diffusers.pipelines import pipeline_loading_utils as tables

        before = {name: dict(classes) for name, classes in tables.LOADABLE_CLASSES.items()}
        registration.register_with_diffusers()
        assert before == tables.LOADABLE_CLASSES
        assert not any(isinstance(finder, registration._FillTablesOnImport) for finder in sys.meta_path)


PUSH = """
import torch
from fqgan_hf import FARForImageGeneration, FARPipeline
from fqgan_hf import CardInfo, push_to_hub

pipe = FARPipeline.from_pretrained("pipeline")
push_to_hub(pipe, "org/pipeline", private=True, card=CardInfo(license="mit"), max_shard_size="100KB")
push_to_hub(pipe, "org/pipeline", write_card=False, commit_message="one file again")
push_to_hub(pipe.vqmodel, "org/tokenizer")
push_to_hub(pipe.transformer, "generator")
for bad, name in ((object(), "org/bad"), (pipe, "no good name")):
    try:
        push_to_hub(bad, name)
    except ValueError as error:
        print(error)
"""

LOAD = """
import torch
import fqgan_hf
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

def images(pipe):
    pipe.set_progress_bar_config(disable=True)
    output = pipe(["digit 3", 5], output_type="pt", generator=torch.Generator().manual_seed(1))
    return output.images.contiguous()

results = {
    "by_class": images(fqgan_hf.FARPipeline.from_pretrained("org/pipeline")),
    "by_name_of_class": images(DiffusionPipeline.from_pretrained("org/pipeline")),
}
pipe = fqgan_hf.FARPipeline(
    fqgan_hf.FQGANModel.from_pretrained("org/tokenizer"),
    fqgan_hf.FARForImageGeneration.from_pretrained("tester/generator"),
    fqgan_hf.FQGANImageProcessor.from_pretrained("org/tokenizer"),
)
results["by_parts"] = images(pipe)
save_file(results, "images.safetensors")
"""


LOAD_WITHOUT_PACKAGE = """
import diffusers, torch, transformers
from safetensors.torch import save_file

codes = {}
for name, subfolder in (("tester/generator", ""), ("org/pipeline", "transformer")):
    generator = transformers.AutoModel.from_pretrained(name, subfolder=subfolder, trust_remote_code=True)
    codes[name] = generator.generate(
        class_labels=[3, 5], guidance_scale=2.0, generator=torch.Generator().manual_seed(1)
    )
tokenizer = diffusers.AutoModel.from_pretrained("org/tokenizer", trust_remote_code=True)
with torch.no_grad():
    codes["org/tokenizer"] = tokenizer.encode(torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16)).codes
save_file(codes, "codes.safetensors")
"""


def test_push_and_reload_by_name(tmp_path):
    """A pipeline and its parts go to a Hub; fresh processes load them by name, with and without this package."""
    from safetensors.torch import load_file

    pipe = make_pipeline()
    pipe.save_pretrained(str(tmp_path / "pipeline"))
    expected = pipe([3, 5], output_type="pt", generator=torch.Generator().manual_seed(1)).images
    expected_codes = pipe.transformer.generate([3, 5], guidance_scale=2.0, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected_grid = pipe.vqmodel.encode(torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16)).codes

    with FakeHub() as fake:
        messages = run_python(PUSH, fake.environment(tmp_path / "pusher"), tmp_path).splitlines()
        run_python(LOAD, fake.environment(tmp_path / "loader"), tmp_path)
        run_python(WITHOUT_PACKAGE + LOAD_WITHOUT_PACKAGE, fake.environment(tmp_path / "other loader"), tmp_path)

    assert messages[0].endswith("can be exported, got object")
    assert "no good name" in messages[1]
    assert fake.unknown == []
    assert set(fake.repositories) == {"org/pipeline", "org/tokenizer", "tester/generator"}
    assert fake.repositories["org/pipeline"].private
    assert not fake.repositories["org/tokenizer"].private

    sharded, single, *_ = fake.commits
    assert len(fake.commits) == 4, "one commit a push"
    assert sharded.summary == "Upload FARPipeline"
    assert single.summary == "one file again"
    shards = {path for path in sharded.added if "-of-" in path}
    assert len(shards) >= 4 and any(path.startswith("vqmodel/") for path in shards)
    assert set(single.deleted) == shards | {path for path in sharded.added if "index.json" in path} - {
        "model_index.json"
    }
    card = fake.files("org/pipeline")["README.md"].decode()
    assert ModelCard(card).data.license == "mit", "the second push left the card alone"
    assert 'FARPipeline.from_pretrained("org/pipeline")' in card
    assert 'from_pretrained("tester/generator")' in fake.files("tester/generator")["README.md"].decode()

    for name, images in load_file(tmp_path / "images.safetensors").items():
        torch.testing.assert_close(images, expected, rtol=0, atol=1e-5, msg=name)
    codes = load_file(tmp_path / "codes.safetensors")
    assert torch.equal(codes.pop("org/tokenizer"), expected_grid)
    assert len(codes) == 2 and all(torch.equal(c, expected_codes) for c in codes.values())


def test_a_tokenizer_of_label_maps_has_no_image_processor(tmp_path):
    export(tiny.map_tokenizer(5), tmp_path / "maps")
    export(tiny.map_tokenizer(None), tmp_path / "pictures")
    assert not (tmp_path / "maps" / "preprocessor_config.json").exists()
    assert (tmp_path / "pictures" / "preprocessor_config.json").exists()
    assert FQGANModel.from_pretrained(tmp_path / "maps").config.num_labels == 5

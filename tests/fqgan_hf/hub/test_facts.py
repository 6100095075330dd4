# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What folders hold, told without the libraries: equal to what the loaded models say, and quick."""

import json
import random
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import fqgan_hf
from fqgan_hf import FARConfig, FARPipeline, FQGANImageProcessor, FQGANModel, FQGANPipeline
from fqgan_hf.hub.config_fields import config_fields
from fqgan_hf.hub.facts import (
    REGULARIZED_PRESETS,
    TOKENIZER_PRESETS,
    codebook_names,
    collect_facts,
    folder_kind,
    format_facts,
    tokenizer_facts,
    weight_files,
)
from fqgan_hf.hub.kinds import KINDS, kind_in_config, kind_named, kind_of
from fqgan_hf.modeling.checkpoint_files import read_header


def make_tokenizer(num_codebooks=2, **config):
    torch.manual_seed(num_codebooks)
    return tiny.tokenizer(num_codebooks, **config)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    tokenizer = make_tokenizer(feature_dims=(None, 16))
    generator = tiny.generator(num_classes=5, tokenizer_fingerprint=tokenizer.fingerprint())
    FARPipeline(tokenizer, generator, FQGANImageProcessor(size=16, multiple_of=4)).save_pretrained(str(folder))
    return folder


class TestCodebookNames:
    @pytest.mark.parametrize(
        ("num_codebooks", "feature_dims", "names"),
        [
            (1, None, ["codebook"]),
            (1, [768], ["codebook"]),
            (2, None, ["codebook 1", "codebook 2"]),
            (2, [None, None], ["codebook 1", "codebook 2"]),
            (2, [None, 768], ["visual", "semantic"]),
            (2, [768, 768], ["semantic 1", "semantic 2"]),
            (3, None, ["codebook 1", "codebook 2", "codebook 3"]),
            (3, [None, 768, 768], ["visual", "semantic (mid)", "semantic (high)"]),
            (3, [None, None, 768], ["visual 1", "visual 2", "semantic"]),
            (4, [None, 8, 8, 8], ["visual", "semantic 1", "semantic 2", "semantic 3"]),
        ],
    )
    def test_they_follow_what_was_trained(self, num_codebooks, feature_dims, names):
        assert codebook_names(num_codebooks, feature_dims) == names


class TestEqualToTheLoadedModel:
    @pytest.mark.parametrize("num_codebooks", [1, 2, 3])
    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
    def test_tokenizer(self, num_codebooks, dtype, tmp_path):
        model = make_tokenizer(num_codebooks, feature_dims=(None, 16, 24)[:num_codebooks]).to(getattr(torch, dtype))
        model.save_pretrained(tmp_path)
        facts = tokenizer_facts(tmp_path)
        heads = sum(parameter.numel() for parameter in model.feature_heads.parameters())
        assert facts["parameters"] == model.num_parameters()
        assert facts["parameters_without_feature_heads"] == model.num_parameters() - heads
        assert facts["fingerprint"] == model.fingerprint()
        assert facts["grid"] == list(model.grid_size(16, 16))
        assert facts["downsample_factor"] == model.downsample_factor
        assert facts["dtype"] == [dtype.upper().replace("FLOAT", "F")]
        assert facts["weights_bytes"] == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))

    @pytest.mark.parametrize(
        ("settings", "quantizer", "words"),
        [
            ({}, ("nearest", None, None), ["quantizer type nearest"]),
            (
                {"quantizer_type": "gumbel", "token_logits": "cosine"},
                ("gumbel", "cosine", None),
                ["quantizer type gumbel", "token logits cosine"],
            ),
            (
                {"quantizer_type": "regularized", "mask_ratio": 0.25},
                ("regularized", "linear", 0.25),
                ["quantizer type regularized", "token logits linear", "mask ratio 0.25"],
            ),
        ],
    )
    def test_quantizer(self, settings, quantizer, words, tmp_path):
        model = make_tokenizer(**settings)
        model.save_pretrained(tmp_path)
        facts = tokenizer_facts(tmp_path)
        assert (facts["quantizer_type"], facts["token_logits"], facts["mask_ratio"]) == quantizer
        assert facts["parameters"] == model.num_parameters() and facts["fingerprint"] == model.fingerprint()
        lines = [" ".join(line.split()) for line in format_facts(facts)]
        assert [line for line in lines if re.match("quantizer|token|mask", line)] == words

    @pytest.mark.parametrize("preset", [*TOKENIZER_PRESETS.values(), *REGULARIZED_PRESETS.values()])
    def test_presets_are_recognized(self, preset, repository, tmp_path):
        config = json.loads((repository / "training" / "configs" / f"{preset}.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config))
        shape = [config[name] for name in ("num_codebooks", "codebook_size", "codebook_dim")]
        save_file({"quantizer.embedding": torch.zeros(shape)}, tmp_path / "diffusion_pytorch_model.safetensors")
        assert tokenizer_facts(tmp_path)["preset"] == preset
        for change in ({"mask_ratio": 0.2}, {"codebook_dim": 4}, {"quantizer_type": "gumbel"}):
            (tmp_path / "config.json").write_text(json.dumps(config | change))
            shape[2] = (config | change)["codebook_dim"]
            save_file({"quantizer.embedding": torch.zeros(shape)}, tmp_path / "diffusion_pytorch_model.safetensors")
            assert (tokenizer_facts(tmp_path)["preset"] == preset) == ("mask_ratio" in change)

    def test_the_fingerprint_knows_signs_of_zero(self, tmp_path):
        model = make_tokenizer()
        with torch.no_grad():
            model.quantizer.embedding[0, :3] = torch.tensor([[0.0, -0.0, 1e-45, -1e-45]])
        model.save_pretrained(tmp_path)
        assert tokenizer_facts(tmp_path)["fingerprint"] == model.fingerprint()

    @pytest.mark.parametrize("head", ["ar", "linear", "mlp"])
    def test_generator(self, head, tmp_path):
        model = tiny.generator(
            num_classes=5, head_type=head, grid_width=6, id2label={0: "a, b", 1: "c", 2: "d", 3: "e", 4: "LABEL_4"}
        )
        model.save_pretrained(str(tmp_path))
        facts = collect_facts(tmp_path)
        assert facts["parameters"] == model.num_parameters()
        assert facts["grid"] == [4, 6] and facts["num_classes"] == 5
        assert facts["num_head_layers"] == (1 if head == "ar" else None)
        assert facts["class_names"] == ["a, b", "c", "d", "..."]
        assert facts["tokenizer_fingerprint"] is None

    def test_shards_and_variants(self, tmp_path):
        model = make_tokenizer()
        model.save_pretrained(tmp_path / "one")
        model.save_pretrained(tmp_path / "many", max_shard_size="50KB")
        model.save_pretrained(tmp_path / "variant", variant="fp16")
        model.save_pretrained(tmp_path / "shards of a variant", variant="fp16", max_shard_size="50KB")
        one = tokenizer_facts(tmp_path / "one")
        for name in ("many", "variant", "shards of a variant"):
            facts = tokenizer_facts(tmp_path / name)
            assert facts | {"weights_bytes": 0} == one | {"weights_bytes": 0}
        assert len(weight_files(tmp_path / "many")) > 2
        # What a loader would take: not the variant beside it.
        shutil.copy(next((tmp_path / "variant").glob("*.safetensors")), tmp_path / "one")
        assert [path.name for path in weight_files(tmp_path / "one")] == ["diffusion_pytorch_model.safetensors"]

    def test_settings_that_the_configuration_lacks_have_their_defaults(self, tmp_path):
        config = {"_class_name": "FQGANModel", "codebook_size": 32, "codebook_dim": 4, "block_out_channels": [8, 8]}
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file({"quantizer.embedding": torch.ones(2, 32, 4)}, tmp_path / "diffusion_pytorch_model.safetensors")
        facts = tokenizer_facts(tmp_path)
        default = FQGANModel.load_config(tmp_path)
        with torch.device("meta"):
            model = FQGANModel.from_config({**default, "norm_num_groups": 4})
        for name in ("num_codebooks", "sample_size"):
            assert facts[name] == getattr(model.config, name)

    def test_defaults_are_those_of_the_classes(self):
        fields = config_fields("FARForImageGeneration")
        config = FARConfig()
        assert {name: field.default for name, field in fields.items() if field.default is not None} == {
            name: getattr(config, name) for name, field in fields.items() if field.default is not None
        }
        assert len(fields) > 15
        fields = config_fields("FQGANModel")
        with torch.device("meta"):
            config = FQGANModel(block_out_channels=(32, 32)).config
        assert [name for name in fields if name not in config] == []
        assert fields["codebook_size"].default == config.codebook_size

    def test_pipelines(self, pipeline, tmp_path):
        facts = collect_facts(pipeline)
        assert facts["kind"] == "pipeline (FARPipeline)" and facts["belong_together"] is True
        assert facts["vqmodel"] == tokenizer_facts(pipeline / "vqmodel")
        assert facts["vqmodel"]["codebooks"] == ["visual", "semantic"]
        config = pipeline / "transformer" / "config.json"
        shutil.copytree(pipeline, tmp_path / "other")
        content = json.loads(config.read_text()) | {"tokenizer_fingerprint": "0" * 64}
        (tmp_path / "other" / "transformer" / "config.json").write_text(json.dumps(content))
        assert collect_facts(tmp_path / "other")["belong_together"] is False
        FQGANPipeline(make_tokenizer(), FQGANImageProcessor()).save_pretrained(str(tmp_path / "tokenizer"))
        facts = collect_facts(tmp_path / "tokenizer")
        assert facts["kind"] == "pipeline (FQGANPipeline)" and set(facts) == {"kind", "vqmodel"}


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads memory from Linux's /proc")
def test_it_takes_no_library_little_time_and_little_memory(pipeline):
    """6 s and 970 MB, when torch was imported for it."""
    code = """
import pathlib, sys
from fqgan_hf.cli import main
main(["info", sys.argv[1]])
assert not {"torch", "transformers", "diffusers", "numpy", "safetensors"} & set(sys.modules)
print(pathlib.Path("/proc/self/status").read_text())
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, "-c", code, str(pipeline)], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    # Processor time: the clock on the wall measures whatever else the machine does.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.7
    # Not `ru_maxrss`, which counts what the process was forked from.
    kilobytes = int(re.search(r"VmHWM:\s+(\d+) kB", result.stdout)[1])
    assert kilobytes < 150 * 1024


class TestDamage:
    @pytest.fixture
    def weights(self, pipeline, tmp_path):
        shutil.copytree(pipeline / "vqmodel", tmp_path / "model")
        return tmp_path / "model" / "diffusion_pytorch_model.safetensors"

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: b"",
            lambda data: data[:7],
            lambda data: data[:500],
            lambda data: data[:-1],
            lambda data: data + b"\0",
            lambda data: b"\xff" * 8 + data[8:],
            lambda data: (2**62).to_bytes(8, "little") + data[8:],
            lambda data: data[:8] + b"\xff" + data[9:],
            lambda data: (2).to_bytes(8, "little") + b"[]",
            lambda data: data.replace(b'"F32"', b'"F31"', 1),
            lambda data: data.replace(b'"F32"', b'"F64"', 1),
            lambda data: data.replace(b'"shape":[', b'"shape":"', 1),
            lambda data: data.replace(b'"shape"', b'"SHAPE"', 1),
            lambda data: data.replace(b'"data_offsets":[0', b'"data_offsets":[1', 1),
            lambda data: (14).to_bytes(8, "little") + b'{"a":{"b":[]}}',
            lambda data: (60_000).to_bytes(8, "little") + b'{"a":' + b"[" * 59_995,
        ],
    )
    def test_of_headers_is_named(self, weights, damage):
        data = weights.read_bytes()
        weights.write_bytes(damage(data))
        assert weights.read_bytes() != data
        with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors is damaged: "):
            collect_facts(weights.parent)

    def test_a_shape_without_end_is_refused_at_once(self, tmp_path):
        shape = ",".join(["281474976710655"] * 100_000)
        header = f'{{"a":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,0]}}}}'.encode()
        (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(ValueError, match="is damaged: a tensor of shape"):
            read_header(tmp_path / "a.safetensors")

    def test_headers_are_read_as_the_library_reads_them(self, weights):
        expected = {name: (tuple(tensor.shape), tensor.numel()) for name, tensor in load_file(weights).items()}
        header = read_header(weights)
        assert {name: (tensor.shape, tensor.numel) for name, tensor in header.items()} == expected
        bias = header["decoder.conv_out.bias"]
        assert b"".join(bias.blocks(5)) == load_file(weights)["decoder.conv_out.bias"].numpy().tobytes()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"num_codebooks": 3}, r"must have codebooks of shape \(3, 32, 4\), got F32 \(2, 32, 4\)"),
            ({"codebook_size": "32"}, "codebook_size must be of type int, got '32'"),
            ({"num_codebooks": 10**9}, "must have codebooks of shape"),
            ({"feature_dims": 3}, "feature_dims must be of type"),
            ({"sample_size": 18}, "sample_size must be a multiple of 4, got 18"),
            ({"sample_size": 0}, "sample_size must be a multiple of 4, got 0"),
            ({"_class_name": "AutoencoderKL"}, "holds a AutoencoderKL, which this package does not know"),
            ({"_class_name": ["x"]}, "which this package does not know"),
            ({"_class_name": {}}, "holds a model of unknown kind"),
            ({"_class_name": "FARPipeline"}, "holds a FARPipeline, which this package does not know"),
        ],
    )
    def test_of_configurations_is_named(self, weights, change, message):
        path = weights.parent / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(ValueError, match=message):
            collect_facts(weights.parent)

    def test_of_class_names_is_named(self, pipeline, tmp_path):
        shutil.copytree(pipeline / "transformer", tmp_path / "model")
        path = tmp_path / "model" / "config.json"
        content = json.loads(path.read_text())
        for id2label in ([1], {"a": "b"}, {"1": 2}, {"1" * 5000: "x"}):
            path.write_text(json.dumps(content | {"id2label": id2label}))
            with pytest.raises(ValueError, match=r"config\.json: "):
                collect_facts(path.parent)

    def test_hostile_folders_end_in_facts_or_one_kind_of_error(self, pipeline, tmp_path):
        """A fixed seed's choice of changed values, names and bytes; a defect would be another error, or take long."""
        rng = random.Random(0)
        values = [None, True, -1, 0, 3, 1e308, 10**20, "", "x", [], [1], ["x"], {}, {"a": 1}, [0] * 100, 0.5]
        files = ["model_index.json", "vqmodel/config.json", "transformer/config.json"]
        files += ["vqmodel/diffusion_pytorch_model.safetensors", "transformer/model.safetensors"]
        folder, told = tmp_path / "pipeline", 0
        shutil.copytree(pipeline, folder)
        for _ in range(400):
            name = rng.choice(files)
            data = (pipeline / name).read_bytes()
            if name.endswith(".json"):
                content = json.loads(data)
                content[rng.choice(list(content))] = rng.choice(values)
                damaged = json.dumps(content).encode()
            else:
                place = rng.randrange(min(len(data), 3000))
                damaged = (
                    data[:place] + rng.choice([b"", b"\0", b"9", b"[", b"\xff" * 4, b'"a":1,']) + data[place + 1 :]
                )
            (folder / name).write_bytes(damaged)
            try:
                json.dumps(collect_facts(folder))
                told += 1
            except (ValueError, OSError) as error:
                assert str(error)
            finally:
                (folder / name).write_bytes(data)
        assert 0 < told < 400

    def test_another_role_is_named(self, pipeline):
        with pytest.raises(ValueError, match="must hold a tokenizer, got a FARForImageGeneration"):
            tokenizer_facts(pipeline / "transformer")

    def test_weights_that_lack_are_named(self, weights):
        tensors = load_file(weights)
        del tensors["quantizer.embedding"]
        save_file(tensors, weights)
        with pytest.raises(ValueError, match="must have codebooks of shape .* got none"):
            collect_facts(weights.parent)
        weights.unlink()
        with pytest.raises(FileNotFoundError, match="holds no weights"):
            collect_facts(weights.parent)


class TestKinds:
    @pytest.mark.parametrize("kind", KINDS, ids=str)
    def test_the_table_is_right(self, kind):
        cls = kind.load_class()
        assert cls is getattr(fqgan_hf, kind.class_name)
        assert cls.__module__ == kind.module
        assert all(kind_named(name).role != "pipeline" for name in kind.components.values())
        if kind.card:
            folders = [Path(place) / "model_cards" / kind.card for place in fqgan_hf.__path__]
            assert any(path.is_file() for path in folders)
        if kind.config_class:
            assert cls.config_class.__name__ == kind.config_class.split(".")[1]
            assert cls.config_class.model_type == kind.model_type
        if kind.role == "pipeline":
            assert set(cls._get_signature_keys(cls)[0]) == {*kind.components, *kind.optional}
            assert set(cls._optional_components) == set(kind.optional)

    def test_every_kind_of_folder_is_known(self, pipeline):
        assert folder_kind(pipeline).class_name == "FARPipeline"
        assert folder_kind(pipeline / "vqmodel").class_name == "FQGANModel"
        assert folder_kind(pipeline / "transformer").class_name == "FARForImageGeneration"
        with pytest.raises(ValueError, match=r"holds neither model_index\.json nor config\.json"):
            folder_kind(pipeline / "image_processor")

    def test_configurations_that_carry_code(self):
        assert kind_in_config({"_class_name": ["pipeline", "FARPipeline"]}) is kind_named("FARPipeline")
        assert kind_in_config({"_class_name": []}) is kind_in_config({"model_type": ["far"]}) is None

    def test_what_cannot_be_published(self):
        assert kind_of(make_tokenizer()).role == "tokenizer"
        with pytest.raises(ValueError, match="only FQGANModel, .*FQGANPipeline can be exported, got Linear"):
            kind_of(torch.nn.Linear(1, 1))
        with pytest.raises(ValueError, match="can be exported, got FQGANImageProcessor"):
            kind_of(FQGANImageProcessor())

    def test_which_kinds_generate(self):
        assert {kind.class_name for kind in KINDS if kind.generates} == {
            "FARForImageGeneration", "FARPipeline", "CodeDiffusionTransformer", "CodeDiffusionPipeline",
        }  # fmt: skip

    def test_no_other_file_lists_the_kinds(self):
        """Two of the names in quotes in one file are a copy of the table."""
        root = Path(fqgan_hf.__file__).parent.parent
        sources = [
            path for folder in ("fqgan_hf", "training", "spaces_demo") for path in (root / folder).rglob("*.py")
        ]
        copies = []
        for path in sources:
            text = path.read_text(encoding="utf-8")
            if path.name != "kinds.py" and sum(f'"{kind}": ' in text or f'("{kind}", ' in text for kind in KINDS) > 1:
                copies.append(path.name)
        assert copies == []

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""FARPipeline: class labels to images, with tiny random models."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tiny
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from PIL import Image

import fqgan_hf
from fqgan_hf import FARPipeline, FQGANImageProcessor
from fqgan_hf.pipelines.labels import resolve_labels


NAMES = {
    0: "tench, Tinca tinca", 1: "goldfish", 2: "golden_retriever", 3: "Labrador retriever", 4: "crane", 5: "crane",
    6: "maillot", 7: "maillot, tank suit", 8: "jack-o'-lantern", 9: "T-shirt",
}  # fmt: skip


def make_pipeline(num_codebooks=2):
    torch.manual_seed(num_codebooks)
    return tiny.pipeline(num_codebooks, id2label=NAMES)


@pytest.fixture
def pipe():
    return make_pipeline()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def codes_of(pipe, labels, **arguments):
    return pipe(labels, output_type="codes", **{"generator": seeded(), **arguments}).images


class TestOutputs:
    @pytest.mark.parametrize("num_codebooks", [1, 2, 3, 4])
    def test_every_output_type_shows_the_same_image(self, num_codebooks):
        pipe = make_pipeline(num_codebooks)
        codes = codes_of(pipe, [3, 5])
        assert codes.shape == (2, num_codebooks, 4, 4) and codes.dtype == torch.long
        assert codes.min() >= 0 and codes.max() < 32
        with torch.no_grad():
            sample = pipe.vqmodel.decode_codes(codes).sample
        expected = (sample / 2 + 0.5).clamp(0, 1)

        pt = pipe([3, 5], output_type="pt", generator=seeded()).images
        torch.testing.assert_close(pt, expected)
        array = pipe([3, 5], output_type="np", generator=seeded()).images
        np.testing.assert_allclose(array, expected.permute(0, 2, 3, 1).numpy(), atol=1e-6)
        output = pipe([3, 5], generator=seeded())
        assert isinstance(output, ImagePipelineOutput)
        assert all(isinstance(image, Image.Image) and image.size == (16, 16) for image in output.images)
        np.testing.assert_allclose(np.stack(output.images) / 255, array, atol=0.51 / 255)

    def test_tuple(self, pipe):
        (images,) = pipe([1], return_dict=False)
        assert len(images) == 1

    def test_bfloat16(self, pipe):
        pipe.to(torch.bfloat16)
        images = pipe([1, 2], output_type="np").images
        assert images.shape == (2, 16, 16, 3) and images.dtype == np.float32

    def test_documented_defaults_hold_whatever_the_generation_config_says(self, pipe):
        expected = codes_of(pipe, [1])
        pipe.transformer.generation_config.update(top_k=1, temperature=0.1, guidance_scale=5.0, do_sample=False)
        assert torch.equal(codes_of(pipe, [1]), expected)


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "expected"),
        [
            (7, [7]),
            ([7, 1], [7, 1]),
            ((7, 1), [7, 1]),
            (range(2), [0, 1]),
            (torch.tensor([7, 1]), [7, 1]),
            (torch.tensor(7), [7]),
            (np.array([7, 1]), [7, 1]),
            (np.array(7), [7]),
            (np.int64(7), [7]),
            ([torch.tensor(7), np.int32(1)], [7, 1]),
            ("goldfish", [1]),
            ("Golden Retriever", [2]),
            ("golden-retriever ", [2]),
            (["LABRADOR_RETRIEVER", 1], [3, 1]),
            ("Tinca tinca", [0]),
            ("tench", [0]),
            ("tench, tinca tinca", [0]),
            ("maillot", [6]),  # the whole name of one class, a synonym of another
            ("tank suit", [7]),
            ("jack o' lantern", [8]),
            ("t shirt", [9]),
        ],
    )
    def test_accepted(self, pipe, labels, expected):
        assert pipe.get_label_ids(labels) == expected

    def test_a_bare_string_is_one_label(self, pipe):
        assert len(pipe("goldfish").images) == 1
        assert torch.equal(codes_of(pipe, "goldfish"), codes_of(pipe, [1]))

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([10], r"class_labels must be in \[0, 9\], got 10"),
            (-1, r"class_labels must be in \[0, 9\], got -1"),
            ([1.0], "class_labels must be integers or names, got 1.0 of type float"),
            (1.5, "class_labels must be integers or names, got 1.5 of type float"),
            (np.float32(1), "class_labels must be integers or names"),
            (True, "class_labels must be integers or names, got True of type bool"),
            ([False], "class_labels must be integers or names, got False of type bool"),
            ([np.bool_(True)], "class_labels must be integers or names"),
            ([[1, 2]], "class_labels must be integers or names, got \\[1, 2\\] of type list"),
            ([None], "class_labels must be integers or names, got None"),
            (None, "class_labels must be given: this generator was trained for class"),
            ({"goldfish": 1}, "class_labels must be class ids or names"),
            ([], "class_labels must hold at least one label"),
            (torch.tensor([1.0]), "class_labels as a tensor must hold integers in one dimension, got torch.float32"),
            (torch.tensor([True]), "class_labels as a tensor must hold integers in one dimension, got torch.bool"),
            (torch.tensor([[1]]), r"class_labels as a tensor must hold integers .* of shape \(1, 1\)"),
            ("golden retreiver", r"no class is named 'golden retreiver'; did you mean 'golden retriever' \(2\)"),
            ("zzz", "no class is named 'zzz' and no name comes near it"),
            ("", "no class is named ''"),
            ("3", "no class is named '3'; pass an id as an integer, not as a string"),
            ("crane", r"2 classes are named 'crane': pass one of the ids \[4, 5\]"),
        ],
    )
    def test_refused(self, pipe, labels, message):
        with pytest.raises(ValueError, match=message):
            pipe(labels)

    @pytest.mark.parametrize("id2label", [None, {}, {0: "LABEL_0", 1: "LABEL_1"}])
    def test_without_names(self, pipe, id2label):
        pipe.transformer.config.id2label = id2label
        with pytest.raises(ValueError, match=r"this model has no class names .* pass an id in \[0, 9\]"):
            pipe("LABEL_0")
        assert pipe.get_label_ids(0) == [0]

    def test_names_from_json_have_string_keys(self):
        assert resolve_labels("goldfish", 2, {"0": "tench", "1": "goldfish"}) == [1]

    def test_names_of_classes_that_do_not_exist(self):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\], got 7"):
            resolve_labels("goldfish", 2, {7: "goldfish"})


class TestSampling:
    def test_same_call_same_codes(self, pipe):
        assert torch.equal(codes_of(pipe, [1, 2]), codes_of(pipe, [1, 2]))
        assert not torch.equal(codes_of(pipe, [1, 2]), codes_of(pipe, [1, 2], generator=seeded(1)))

    def test_images_of_a_label_come_together(self, pipe):
        generators = [seeded(i) for i in range(4)]
        codes = codes_of(pipe, [1, 2], num_images_per_label=2, generator=generators)
        for i, label in enumerate([1, 1, 2, 2]):
            assert torch.equal(codes[i : i + 1], codes_of(pipe, [label], generator=[seeded(i)])), i

    def test_settings_reach_the_generator(self, pipe):
        base = codes_of(pipe, [1, 2])
        for changed in (
            {"guidance_scale": 6.0},
            {"guidance_scale": [2.0, 6.0]},
            {"temperature": 3.0},
            {"temperature": [1.0, 3.0]},
            {"top_k": [0, 2]},
            {"top_p": 0.2},
            {"guidance_scale": 6.0, "guidance_schedule": "linear"},
            {"guidance_scale": 6.0, "guidance_schedule": "power-cosine", "guidance_power": 1.0},
            {"guidance_scale": 6.0, "guidance_interval": (0.5, 1.0)},
        ):
            assert not torch.equal(base, codes_of(pipe, [1, 2], **changed)), changed
        greedy = codes_of(pipe, [1, 2], do_sample=False)
        assert torch.equal(greedy, codes_of(pipe, [1, 2], top_k=1))
        assert torch.equal(base, codes_of(pipe, [1, 2], guidance_scale=[2.0, 2.0], temperature=[1.0, 1.0]))

    def test_default_guidance_is_two(self, pipe):
        expected = pipe.transformer.generate(class_labels=[1], guidance_scale=2.0, generator=seeded())
        assert torch.equal(codes_of(pipe, [1])[0].flatten(1).T, expected[0])

    def test_prefix(self, pipe):
        codes = codes_of(pipe, [1, 2])
        rows = codes[:, :, :2]
        continued = codes_of(pipe, [1, 2], prefix_codes=rows, generator=seeded(1))
        assert torch.equal(continued[:, :, :2], rows)
        assert not torch.equal(continued, codes)
        sequence = codes.flatten(2).transpose(1, 2)[:, :8]
        assert torch.equal(continued, codes_of(pipe, [1, 2], prefix_codes=sequence, generator=seeded(1)))
        odd = codes_of(pipe, [1, 2], prefix_codes=sequence[:, :5], num_images_per_label=2)
        assert torch.equal(odd.flatten(2)[::2, :, :5], sequence[:, :5].transpose(1, 2))
        assert torch.equal(odd.flatten(2)[1::2, :, :5], sequence[:, :5].transpose(1, 2))


class TestBadInputs:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"output_type": "jpeg"}, r"output_type must be one of \('pil', 'np', 'pt', 'codes'\), got 'jpeg'"),
            ({"num_images_per_label": 0}, "num_images_per_label must be an integer of at least 1, got 0"),
            ({"num_images_per_label": 1.5}, "num_images_per_label must be an integer of at least 1, got 1.5"),
            ({"num_images_per_label": True}, "num_images_per_label must be an integer of at least 1, got True"),
            ({"generator": [seeded()]}, "generator must be .* list of 2, got 1"),
            ({"generator": [seeded()] * 2, "num_images_per_label": 2}, "generator must be .* list of 4, got 2"),
            ({"generator": 0}, "generator must be a torch.Generator or a list of them, got 0"),
            ({"guidance_scale": [1.0, 2.0, 3.0]}, "guidance_scale must be one value or 2 values"),
            ({"guidance_schedule": "cubic"}, "guidance_schedule must be one of .* got 'cubic'"),
            ({"guidance_interval": (0.5, 0.2)}, "guidance_interval must be"),
            ({"temperature": 0}, "temperature must be .* above 0, got 0"),
            ({"top_k": -1}, "top_k must be .* got -1"),
            ({"top_p": 0.0}, "top_p must be .* got 0.0"),
            ({"callback_on_step_end": 3}, "callback_on_step_end must be callable, got 3"),
            (
                {"callback_on_step_end_tensor_inputs": ["latents"]},
                r"callback_on_step_end_tensor_inputs must be a list of names among \['codes'\], got \['latents'\]",
            ),
            ({"prefix_codes": [[1, 2]]}, "prefix_codes must be a tensor of shape .* got list"),
            ({"prefix_codes": torch.zeros(2, 2)}, r"prefix_codes must be a tensor of shape .* got \(2, 2\)"),
            (
                {"prefix_codes": torch.zeros(2, 2, 1, 3, dtype=torch.long)},
                r"prefix_codes must have shape \(2, 2, rows, 4\): whole rows from the top, got \(2, 2, 1, 3\)",
            ),
            ({"prefix_codes": torch.zeros(1, 1, 2, dtype=torch.long)}, "prefix_codes must be integers of shape"),
            ({"prefix_codes": torch.zeros(2, 2, 4, 4, dtype=torch.long)}, "prefix_codes must be integers of shape"),
            ({"prefix_codes": torch.full((2, 1, 2), 32)}, r"prefix_codes must be in \[0, 31\], got 32"),
        ],
    )
    def test_refused_before_any_computation(self, pipe, arguments, message):
        ran = []
        for module in (pipe.transformer.class_embedding, pipe.vqmodel.post_quant_conv):
            module.register_forward_pre_hook(lambda *_: ran.append(1))
        with pytest.raises(ValueError, match=message):
            pipe([1, 2], **arguments)
        assert not ran
        pipe([1, 2])
        assert ran


class TestPairs:
    @pytest.mark.parametrize(
        ("tokenizer", "generator", "message"),
        [
            ({"num_codebooks": 2}, {"num_codebooks": 3}, "num_codebooks 2 and 3$"),
            ({"codebook_size": 16}, {}, "codebook_size 16 and 32$"),
            ({"sample_size": 32}, {}, r"grid \(height, width; sample_size 32 / 4\) \(8, 8\) and \(4, 4\)$"),
            ({}, {"grid_width": 8}, r"grid .* \(4, 4\) and \(4, 8\)$"),
            ({}, {"tokenizer_fingerprint": "ab" * 32}, r"fingerprint [0-9a-f]{16}... and tokenizer_fingerprint abab"),
            ({"codebook_size": 16}, {"num_codebooks": 1}, "num_codebooks 2 and 1; codebook_size 16 and 32$"),
        ],
    )
    def test_refused(self, tokenizer, generator, message):
        with pytest.raises(ValueError, match="do not belong together .*" + message):
            FARPipeline(tiny.tokenizer(**tokenizer), tiny.generator(**generator), FQGANImageProcessor(size=16))

    def test_fingerprint_survives_half_precision(self):
        vqmodel = tiny.tokenizer()
        transformer = tiny.generator(tokenizer_fingerprint=vqmodel.fingerprint())
        FARPipeline(vqmodel.to(torch.bfloat16), transformer, FQGANImageProcessor(size=16))

    def test_a_component_replaced_later_is_checked_too(self, pipe):
        pipe.vqmodel = tiny.tokenizer()  # other codebooks
        with pytest.raises(ValueError, match="do not belong together .*fingerprint"):
            pipe([1])


class TestCallback:
    def test_is_called_after_every_position(self, pipe):
        calls = []

        def callback(pipe, step, timestep, callback_kwargs):
            calls.append((step, timestep, tuple(callback_kwargs["codes"].shape)))
            return callback_kwargs

        codes = codes_of(pipe, [1, 2], callback_on_step_end=callback)
        assert calls == [(t, t, (2, t + 1, 2)) for t in range(16)]
        assert pipe.num_timesteps == 16
        assert torch.equal(codes, codes_of(pipe, [1, 2])), "a callback that changes nothing changes nothing"

        calls.clear()
        codes_of(pipe, [1, 2], prefix_codes=codes[:, :, :3], callback_on_step_end=callback)
        assert calls == [(t, 12 + t, (2, 13 + t, 2)) for t in range(4)]
        assert pipe.num_timesteps == 4

    def test_tensor_inputs_can_be_left_out(self, pipe):
        seen = []
        pipe(
            [1],
            callback_on_step_end=lambda pipe, step, timestep, kwargs: seen.append(kwargs),
            callback_on_step_end_tensor_inputs=[],
        )
        assert seen == [{}] * 16

    @pytest.mark.parametrize("num_codebooks", [1, 3])
    def test_generation_goes_on_from_changed_codes(self, num_codebooks):
        pipe = make_pipeline(num_codebooks)

        def callback(pipe, step, timestep, callback_kwargs):
            codes = callback_kwargs["codes"].clone()
            if step == 5:
                codes[:, -1] = (codes[:, -1] + 1) % 32
            return {"codes": codes}

        plain = codes_of(pipe, [1, 2], do_sample=False).flatten(2)
        changed = codes_of(pipe, [1, 2], do_sample=False, callback_on_step_end=callback).flatten(2)
        assert torch.equal(changed[..., :5], plain[..., :5])
        assert torch.equal(changed[..., 5], (plain[..., 5] + 1) % 32)
        prefix = changed[..., :6].transpose(1, 2)
        assert torch.equal(changed, codes_of(pipe, [1, 2], do_sample=False, prefix_codes=prefix).flatten(2))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda codes: codes[:, :1], "must be integers of shape"),
            (lambda codes: codes.float(), "must be integers of shape"),
            (lambda codes: codes.flip(1) + 1, "differ from those given at the last position only"),
            (lambda codes: torch.cat([codes[:, :-1], codes[:, -1:] * 0 + 32], 1), r"must be in \[0, 31\], got 32"),
        ],
    )
    def test_changes_that_cannot_be_taken_over(self, pipe, change, message):
        def callback(pipe, step, timestep, callback_kwargs):
            return {"codes": change(callback_kwargs["codes"])} if step == 2 else {}

        with pytest.raises(ValueError, match=message):
            pipe([1], callback_on_step_end=callback)

    def test_interrupt(self, pipe):
        def callback(pipe, step, timestep, callback_kwargs):
            pipe._interrupt = step == 5
            return {}

        whole = codes_of(pipe, [1, 2])
        codes = codes_of(pipe, [1, 2], callback_on_step_end=callback)
        assert pipe.interrupt
        assert torch.equal(codes.flatten(2)[..., :6], whole.flatten(2)[..., :6])
        assert (codes.flatten(2)[..., 6:] == -1).all()

        images = pipe([1, 2], output_type="pt", generator=seeded(), callback_on_step_end=callback).images
        means = pipe.vqmodel.quantizer.normalized_codebooks().mean(1)
        with torch.no_grad():
            latents = pipe.vqmodel.codes_to_latents(whole).unflatten(1, (2, 4)).flatten(3)
            latents[..., 6:] = means[None, :, :, None]
            expected = pipe.vqmodel.decode(latents.reshape(2, 8, 4, 4), force_not_quantize=True).sample
        torch.testing.assert_close(images, (expected / 2 + 0.5).clamp(0, 1))

        assert torch.equal(codes_of(pipe, [1, 2]), whole), "the next call runs to its end"
        assert not pipe.interrupt

    def test_progress_bar_counts_positions(self, pipe, capsys):
        pipe([1])
        assert capsys.readouterr().err == ""
        pipe.set_progress_bar_config(desc="drawing")
        pipe([1], prefix_codes=torch.zeros(1, 2, 1, 4, dtype=torch.long))
        error_stream = capsys.readouterr().err
        assert "drawing" in error_stream and "12/12" in error_stream


class TestOffload:
    def test_models_are_brought_in_when_their_turn_comes(self, pipe):
        """`generate` and `decode_codes` do not pass through `forward`, where accelerate waits."""
        pytest.importorskip("accelerate")
        expected = codes_of(pipe, [1])
        pipe.enable_model_cpu_offload(device="cpu")
        brought = []
        for name in ("transformer", "vqmodel"):
            hook = getattr(pipe, name)._hf_hook
            original = hook.pre_forward

            def pre_forward(module, *args, name=name, original=original, **kwargs):
                brought.append(name)
                return original(module, *args, **kwargs)

            hook.pre_forward = pre_forward
        events = []
        for name, module in (("transformer", pipe.transformer.class_embedding), ("vqmodel", pipe.vqmodel.quantizer)):
            module.register_forward_pre_hook(lambda *_, name=name: events.append((name, list(brought))))
        lookup = pipe.vqmodel.quantizer.lookup
        pipe.vqmodel.quantizer.lookup = lambda codes: (events.append(("vqmodel", list(brought))), lookup(codes))[1]
        codes = pipe([1], output_type="pt", generator=seeded()).images
        assert events[0] == ("transformer", ["transformer"])
        assert [event for event in events if event[0] == "vqmodel"][0] == ("vqmodel", ["transformer", "vqmodel"])
        assert codes.shape == (1, 3, 16, 16)
        assert torch.equal(codes_of(pipe, [1]), expected)

    def test_sequential_offload_is_refused(self, pipe):
        with pytest.raises(NotImplementedError, match="use enable_model_cpu_offload"):
            pipe.enable_sequential_cpu_offload(device="cpu")


FRESH = """
import sys
order = sys.argv[1]
if order == "diffusers first":
    from diffusers import DiffusionPipeline
    import fqgan_hf
else:
    import fqgan_hf
    from diffusers import DiffusionPipeline
import json, torch

torch.set_num_threads(int(sys.argv[2]))
result = {}
for name, load in (
    ("base class", lambda: DiffusionPipeline.from_pretrained("saved")),
    ("own class", lambda: fqgan_hf.FARPipeline.from_pretrained("saved")),
):
    pipe = load()
    assert type(pipe) is fqgan_hf.FARPipeline, type(pipe)
    pipe.set_progress_bar_config(disable=True)
    codes = pipe(["goldfish", 3], output_type="codes", generator=torch.Generator().manual_seed(0)).images
    result[name] = codes.tolist()
pipe.save_pretrained("saved again")
print(json.dumps(result))
"""


class TestSaving:
    def test_model_index_names_this_package(self, pipe, tmp_path):
        pipe.save_pretrained(str(tmp_path))
        index = json.loads((tmp_path / "model_index.json").read_text())
        assert {name: value for name, value in index.items() if not name.startswith("_")} == {
            "vqmodel": ["fqgan_hf", "FQGANModel"],
            "transformer": ["fqgan_hf", "FARForImageGeneration"],
            "image_processor": ["fqgan_hf", "FQGANImageProcessor"],
        }
        assert index["_class_name"] == "FARPipeline"

    @pytest.mark.parametrize("order", ["diffusers first", pytest.param("fqgan_hf first", marks=pytest.mark.slow)])
    def test_loads_in_a_fresh_process(self, pipe, tmp_path, order):
        pipe.save_pretrained(str(tmp_path / "saved"))
        expected = codes_of(pipe, ["goldfish", 3]).tolist()
        result = subprocess.run(
            [sys.executable, "-c", FRESH, order, str(torch.get_num_threads())],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr[-4000:]
        assert json.loads(result.stdout.splitlines()[-1]) == {"base class": expected, "own class": expected}
        saved, again = (
            json.loads((tmp_path / name / "model_index.json").read_text()) for name in ("saved", "saved again")
        )
        again.pop("_name_or_path", None)
        assert again == saved

    @pytest.mark.parametrize("num_codebooks", [1, 4])
    def test_round_trip(self, tmp_path, num_codebooks):
        pipe = make_pipeline(num_codebooks)
        pipe.save_pretrained(str(tmp_path))
        reloaded = FARPipeline.from_pretrained(tmp_path)
        reloaded.set_progress_bar_config(disable=True)
        assert reloaded.transformer.config.id2label == NAMES
        assert torch.equal(codes_of(reloaded, ["tench"]), codes_of(pipe, [0]))

    def test_component_override(self, pipe, tmp_path):
        pipe.save_pretrained(str(tmp_path))
        processor = FQGANImageProcessor(size=32)
        reloaded = FARPipeline.from_pretrained(tmp_path, image_processor=processor, torch_dtype=torch.bfloat16)
        assert reloaded.image_processor is processor
        assert reloaded.vqmodel.dtype == reloaded.transformer.dtype == torch.bfloat16
        with pytest.raises(ValueError, match="do not belong together"):
            FARPipeline.from_pretrained(tmp_path, vqmodel=tiny.tokenizer())

    def test_from_pipe(self, pipe):
        tokenizer = fqgan_hf.FQGANPipeline.from_pipe(pipe)
        assert tokenizer.vqmodel is pipe.vqmodel
        assert type(DiffusionPipeline.from_pipe) is type(FARPipeline.from_pipe)
        again = FARPipeline.from_pipe(tokenizer, transformer=pipe.transformer)
        assert again.transformer is pipe.transformer and again.vqmodel is pipe.vqmodel

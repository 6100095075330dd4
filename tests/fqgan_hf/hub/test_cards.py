# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Model cards: metadata, figures, pictures and notices; their examples run as printed."""

import json
import re

import jinja2
import pytest
import tiny
import torch
from fresh import WITHOUT_PACKAGE, run_python
from huggingface_hub import ModelCard
from PIL import Image

from fqgan_hf import CardInfo, FARPipeline, FQGANPipeline, export, push_to_hub
from fqgan_hf.hub import cards
from fqgan_hf.hub.card_info import EvaluationFigures
from fqgan_hf.hub.cards import render_card


def make_pipeline(num_codebooks=2):
    torch.manual_seed(0)
    return tiny.pipeline(num_codebooks, id2label={i: f"digit_{i}" for i in range(10)})


class TestCard:
    def test_every_snippet_runs(self, fake, tmp_path):
        """As printed, each by itself, with what was pushed and a photo; without the package where it does without."""
        for name, obj in {**self.objects(), **self.conditional_objects()}.items():
            push_to_hub(obj, f"org/{name.removesuffix('.md')}")  # diffusers runs no code of a name with a dot
        push_to_hub(self.objects()["far_pipeline.md"], "org/self_contained", self_contained=True, variant="bf16")
        push_to_hub(self.objects()["fqgan_pipeline.md"], "org/self_contained_tokenizer", self_contained=True)
        torch.manual_seed(0)
        pipe = tiny.conditional_pipeline("text", "map", kind="diffusion", num_codebooks=3)
        paths = tmp_path / "path" / "to" / "the"
        export(pipe.vqmodel, paths / "tokenizer")
        export(pipe.map_vqmodel, paths / "map" / "tokenizer")
        pipe.scheduler.save_pretrained(str(paths / "scheduler"))
        for part in (pipe.tokenizer, pipe.text_encoder):
            part.save_pretrained(str(paths / "text" / "encoder"))
        pipe.tokenizer.save_pretrained(str(paths / "text" / "tokenizer"))
        Image.effect_mandelbrot((40, 30), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(tmp_path / "photo.jpg")
        Image.new("L", (16, 16), 4).save(tmp_path / "map.png")

        cards = [fake.files(repo)["README.md"].decode() for repo in fake.repositories]
        snippets = [snippet for card in cards for snippet in re.findall(r"```python\n(.*?)```", card, re.DOTALL)]
        alone = [snippet for snippet in snippets if "import" in snippet and "from fqgan_hf" not in snippet]
        assert (len(snippets), len(alone)) == (20, 9)
        script = "import json, sys\nfor snippet in json.loads(sys.argv[1]):\n    print(snippet)\n    exec(snippet, {})"
        environment = fake.environment(tmp_path / "loader")
        run_python(script, environment, tmp_path, json.dumps([one for one in snippets if one not in alone]))
        run_python(WITHOUT_PACKAGE + script, environment, tmp_path, json.dumps(alone))

    def conditional_objects(self):
        torch.manual_seed(0)
        texts = tiny.conditional_pipeline("text", "map", kind="diffusion", num_codebooks=3)
        config = {"conditions": ["class", "text"], "text_vocab_size": 17, "num_text_tokens": 8}
        both = FARPipeline(
            texts.vqmodel, tiny.generator(3, **config), texts.image_processor, tokenizer=texts.tokenizer
        )
        return {
            "diffusion_of_text_and_map": texts.transformer,
            "pipeline_of_text_and_map": texts,
            "far_of_class_and_text": both.transformer,
            "pipeline_of_class_and_text": both,
            "map_tokenizer": texts.map_vqmodel,
        }

    def objects(self):
        pipe = make_pipeline(3)
        return {
            "fqgan.md": pipe.vqmodel,
            "far.md": pipe.transformer,
            "far_pipeline.md": pipe,
            "fqgan_pipeline.md": FQGANPipeline(pipe.vqmodel, pipe.image_processor),
        }

    def test_every_kind_parses_with_license_tags_and_figures(self):
        info = CardInfo(
            license="cc-by-nc-4.0",
            datasets=["org/digits", "scikit-learn's digits"],
            metrics={"rFID": torch.tensor(0.5), "PSNR": 22},
            evaluation_dataset="held-out digits",
            training="Forty epochs.",
            tags=["digits"],
            prompts=["a red apple"],
        )
        for template, obj in self.objects().items():
            text = render_card(obj, "org/name", info)
            card = ModelCard(text)
            assert card.data.license == "cc-by-nc-4.0", template
            assert card.data.to_dict()["widget"] == [{"text": "a red apple"}]
            assert {"fqgan", "digits"} <= set(card.data.tags)
            assert card.data.datasets == ["org/digits"], "the front matter takes ids only"
            assert [(r.metric_name, r.metric_value) for r in card.data.eval_results] == [("rFID", 0.5), ("PSNR", 22.0)]
            for part in ("scikit-learn's digits", "Forty epochs.", "| rFID | 0.5 |", '"org/name"', "3 of 32"):
                assert part in text, (template, part)
            assert "\n\n\n" not in text and "{{" not in text

    def test_tells_what_a_generator_is_given(self):
        objects = self.conditional_objects()
        expected = {
            "diffusion_of_text_and_map": ("text-to-image", {"code-diffusion", "text-to-image", "map-to-image"}),
            "pipeline_of_text_and_map": ("text-to-image", {"code-diffusion", "text-to-image", "map-to-image"}),
            "far_of_class_and_text": ("text-to-image", {"far", "text-to-image", "class-conditional"}),
            "map_tokenizer": ("image-to-image", {"image-tokenizer"}),
        }
        for name, (task, tags) in expected.items():
            text = render_card(objects[name], "org/name")
            data = ModelCard(text).data
            assert data.pipeline_tag == task and tags <= set(data.tags), name
            assert "\n\n\n" not in text and "{{" not in text, name
        text = render_card(objects["pipeline_of_text_and_map"], "org/name")
        for part in (
            "from a prompt and a map", "| prompts | 8 tokens, states of a frozen text encoder, 16 wide |",
            "| maps | 1 of 16 codes at 4x4 positions of label maps with 5 labels |",
            "`map.png`: 16x16 pixels (width x height) whose values are labels from 0 to 4", "2111.14822",
        ):  # fmt: skip
            assert part in text
        assert "classes" not in text

    def test_no_example_that_diffusers_would_not_run(self):
        """It cannot import code files from a repository whose name has a dot."""
        for obj in (self.objects()["fqgan.md"], tiny.map_tokenizer()):
            with_dot, without = (render_card(obj, name) for name in ("org/name-v1.0", "org/name"))
            assert "trust_remote_code" in without and "trust_remote_code" not in with_dot
            assert "\n\n\n" not in with_dot + without

    def test_says_so_when_nothing_is_known(self):
        text = render_card(self.objects()["far.md"], "org/name")
        assert "Nothing was recorded about the training" in text
        assert "No figures were recorded" in text
        assert ModelCard(text).data.eval_results is None

    def test_names_the_fingerprints(self):
        pipe = self.objects()["far_pipeline.md"]
        assert render_card(pipe, "org/name").count(pipe.vqmodel.fingerprint()[:16]) == 2

    @pytest.mark.parametrize(
        ("settings", "row"),
        [
            ({}, "| quantizer | nearest code |"),
            (
                {"quantizer_type": "regularized", "mask_ratio": 0.4},
                "| quantizer | regularized, linear logits, sampled at 40 % of the positions in training |",
            ),
            (
                {"quantizer_type": "gumbel", "token_logits": "cosine"},
                "| quantizer | Gumbel, cosine logits, sampled everywhere in training |",
            ),
        ],
    )
    def test_says_which_quantizer_and_cites_its_paper(self, settings, row):
        pipe = tiny.pipeline(2, tokenizer_settings=settings)
        kind = settings.get("quantizer_type", "nearest")
        for obj in (pipe.vqmodel, FQGANPipeline(pipe.vqmodel, pipe.image_processor), pipe):
            text = render_card(obj, "org/name")
            assert text.splitlines().count(row) == 1
            assert "arXiv:2411.16681" in text and ("arXiv:2303.06424" in text) == (kind != "nearest")
            assert ("reg-vq" in ModelCard(text).data.tags) == (kind == "regularized")
            assert "\n\n\n" not in text and text.endswith(".\n")
        assert "2303.06424" not in render_card(pipe.transformer, "org/name"), "it does not know its tokenizer's"

    def test_undefined_variables_raise(self, monkeypatch):
        facts = {"conditions": ["class"], "model_type": "far", "given": "a class"}
        monkeypatch.setitem(cards._FACTS, "generator", lambda model: facts)
        with pytest.raises(jinja2.UndefinedError, match="class_name"):
            render_card(self.objects()["far.md"], "org/name")

    def test_metrics_need_a_dataset_and_finite_values(self):
        with pytest.raises(ValueError, match="evaluation_dataset must name"):
            CardInfo(metrics={"FID": 1.0})
        with pytest.raises(ValueError, match="metrics must be finite numbers, got FID = nan"):
            CardInfo(metrics={"FID": float("nan")}, evaluation_dataset="digits")


class TestCardInfo:
    FULL = CardInfo(
        title="Digits", license="mit", datasets=["org/digits"], training="Forty epochs.", cost="Two hours on 2 cores.",
        metrics={"PSNR": 22}, evaluation_dataset="held-out digits",
        evaluations=[EvaluationFigures("samples", {"FID": 3.5}, "generation", "evaluation/a.json")],
        images=["images/samples.png"], limitations="None.", base_model="org/base", tags=["digits"],
    )  # fmt: skip

    def test_is_kept_beside_the_model(self, tmp_path):
        assert CardInfo.read(tmp_path) == CardInfo()
        for info in (CardInfo(), self.FULL):
            info.write(tmp_path)
            assert CardInfo.read(tmp_path) == info
        export(make_pipeline(), tmp_path / "out", card=self.FULL)
        assert CardInfo.read(tmp_path / "out") == self.FULL

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("[]", "must hold a JSON object"),
            ("{}", "format_version must be 1, got None"),
            ('{"format_version": 1, "licence": "mit"}', "'licence' is nothing that a card tells"),
            ('{"format_version": 1, "images": "a.png"}', "images must be of type list"),
            ('{"format_version": 1, "title": 3}', "title must be of type str"),
            ('{"format_version": 1, "metrics": {"FID": "low"}}', "metrics must be of type dict"),
            ('{"format_version": 1, "license": "My Own"}', "license must be a name as the Hub spells it"),
            (
                '{"format_version": 1, "images": ["../../secret.png"]}',
                "files must lie in the folder, got '../../secret",
            ),
            ('{"format_version": 1, "evaluations": [{"metrics": {}}]}', "dataset must be given"),
            ('{"format_version": 1, "evaluations": [{"dataset": "a", "metrics": {"x": Infinity}}]}', "must be finite"),
        ],
    )
    def test_a_damaged_file_is_refused(self, content, message, tmp_path):
        (tmp_path / "card.json").write_text(content)
        with pytest.raises(ValueError, match="card.json") as caught:
            CardInfo.read(tmp_path)
        assert message in str(caught.value)

    def test_pictures_cost_and_several_evaluations(self):
        text = render_card(make_pipeline(), "org/name", self.FULL)
        assert "![samples](images/samples.png)" in text and "Cost: Two hours on 2 cores." in text
        assert "Measured on samples ([protocol and all figures](evaluation/a.json)):" in text
        assert "| FID | 3.5 |" in text and "Measured on held-out digits:" in text
        data = ModelCard(text).data
        assert {(r.dataset_name, r.metric_name, r.metric_value) for r in data.eval_results} == {
            ("held-out digits", "PSNR", 22.0), ("samples", "FID", 3.5),
        }  # fmt: skip
        assert "\n\n\n" not in text and "{{" not in text

    def test_converted_weights_keep_their_licence(self):
        pipe = make_pipeline()
        info = CardInfo(license="cc-by-nc-4.0", converted_from="the checkpoint `vq_ds16.pt`")
        for obj in (pipe.vqmodel, pipe.transformer, pipe, FQGANPipeline(pipe.vqmodel, pipe.image_processor)):
            text = render_card(obj, "org/name", info)
            assert ModelCard(text).data.license == "cc-by-nc-4.0"
            assert (
                "from the checkpoint `vq_ds16.pt`. The authors of FQGAN publish their weights under CC BY-NC 4.0"
                in text
            )
            assert "\n\n\n" not in text
        assert "BY-NC" not in render_card(pipe, "org/name", CardInfo(converted_from="mine", license="mit"))

    def test_examples_name_the_variant_where_there_are_no_other_weights(self):
        text = render_card(make_pipeline(), "org/name", None, "bf16", ["bf16"])
        assert text.count('from_pretrained("org/name", variant="bf16"') == 2 and "also weights" not in text
        text = render_card(make_pipeline(), "org/name", None, None, ["bf16"])
        assert 'from_pretrained("org/name")' in text
        assert (
            'There are also weights in bfloat16: load them with `variant="bf16", torch_dtype=torch.bfloat16`.' in text
        )

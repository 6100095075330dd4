# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a resumed run may change: each option takes effect, is refused by name, or does not matter."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from accelerate.utils import load as load_pickle
from PIL import Image

from fqgan_hf.files import MANIFEST
from fqgan_hf.hub.config_fields import config_fields
from fqgan_hf.training.common.resuming import ON_RESUME, OnResume, check_resumable, read_checkpoint, recorded_options
from fqgan_hf.training.extract_codes import main as extract_codes
from fqgan_hf.training.train_code_diffusion import TrainCodeDiffusionArguments
from fqgan_hf.training.train_far import TrainFARArguments
from fqgan_hf.training.train_far import main as train_far
from fqgan_hf.training.train_fqgan import TrainFQGANArguments
from fqgan_hf.training.train_fqgan import main as train_fqgan

from ..run_server import RunServer


OPTIONS = {"disc_start": 1, "checkpointing_steps": 2, "lr_scheduler": "cosine", "max_train_steps": 4}


@pytest.fixture(scope="module")
def finished(tokenizer_options, tmp_path_factory):
    """A run with checkpoints at 2 and 4 of 4 steps."""
    folder = tmp_path_factory.mktemp("finished")
    train_fqgan(tokenizer_options(folder, **OPTIONS))
    return folder


@pytest.fixture
def resumed(finished, tokenizer_options, tmp_path):
    """Trains on from step 2 of `finished` with some options changed, in a folder that it gives back."""

    def run(**changes):
        if not (tmp_path / "checkpoint-2").exists():
            shutil.copytree(finished / "checkpoint-2", tmp_path / "checkpoint-2")
        AcceleratorState._reset_state(reset_partial_state=True)
        train_fqgan(tokenizer_options(tmp_path, **{**OPTIONS, "resume_from_checkpoint": "latest", **changes}))
        return tmp_path

    return run


def test_every_option_has_a_meaning():
    scripts = (TrainFQGANArguments, TrainFARArguments, TrainCodeDiffusionArguments)
    names = {option.name for options in scripts for option in fields(options)}
    assert names == set(ON_RESUME)
    # A token has no place in a checkpoint.
    assert ON_RESUME["hub_token"] is OnResume.NO_MATTER


def optimizers(folder, step):
    for name in ("optimizer.bin", "optimizer_1.bin"):
        yield load_pickle(str(folder / f"checkpoint-{step}" / name), weights_only=True)


def test_optimizer_and_schedule_are_those_of_the_new_options(resumed, read_metrics, caplog):
    changes = {
        "learning_rate": 5e-4, "disc_learning_rate": 2e-4, "adam_beta1": 0.5, "adam_beta2": 0.8, "adam_epsilon": 1e-5,
        "adam_weight_decay": 0.3, "lr_scheduler": "linear", "lr_warmup_steps": 1, "max_train_steps": 6,
        "max_grad_norm": 0.01,
    }  # fmt: skip
    folder = resumed(**changes)
    # The discriminator begins a step later than the tokenizer, and its schedule with it.
    for state, rate, steps in zip(optimizers(folder, 4), (5e-4, 2e-4), (4, 3), strict=True):
        for group, decay in zip(state["param_groups"], (0.3, 0.0), strict=True):
            assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.5, 0.8), 1e-5, decay)
            assert group["initial_lr"] == rate
            assert group["lr"] == pytest.approx(rate * (6 - steps) / (6 - 1)), "linear, after a step of warm-up"
        assert {float(moments["step"]) for moments in state["state"].values()} == {steps}, "moments go on"
    rates = {record["step"]: record["learning_rate"] for record in read_metrics(folder)}
    assert rates == pytest.approx({step: 5e-4 * (6 - step) / 5 for step in (3, 4, 5, 6)})
    for name, value in changes.items():
        assert f"{name} was " in caplog.text and f"is {value!r} from step 2 on" in caplog.text


def test_unchanged_options_are_not_told_of(resumed, finished, caplog):
    folder = resumed(logging_steps=1, dataloader_num_workers=1)
    assert "is now" not in caplog.text and "Going on" not in caplog.text
    for one, other in zip(optimizers(folder, 4), optimizers(finished, 4), strict=True):
        assert one["param_groups"] == other["param_groups"]


def test_each_parameter_of_the_optimizer_changes_what_is_learned(resumed, finished):
    """One at a time: none of them is overridden by what the checkpoint holds."""
    weights = (finished / "diffusion_pytorch_model.safetensors").read_bytes()
    for name, value in (("adam_beta1", 0.5), ("adam_epsilon", 0.1), ("learning_rate", 9e-4)):
        folder = resumed(**{name: value})
        assert (folder / "diffusion_pytorch_model.safetensors").read_bytes() != weights, name
        shutil.rmtree(folder / "checkpoint-4")
    folder = resumed()
    assert (folder / "diffusion_pytorch_model.safetensors").read_bytes() == weights


# Another value for each option that must stay. `mixed_precision` and what a stream needs have tests of their own.
OTHER = {
    "seed": 1, "resolution": 8, "split": "test", "image_column": "image", "label_column": "label",
    "max_train_samples": 20, "validation_fraction": 0.1, "streaming": True, "streaming_samples": 24,
    "streaming_buffer_size": 5, "use_ema": True, "teachers": "a/b", "disc_type": "stylegan", "disc_channels": 16,
    "disc_num_layers": 1, "disc_norm": "group",
}  # fmt: skip
# Those of label maps, which a run on pictures cannot have: see fqgan/test_label_maps.py.
OF_LABEL_MAPS = {"label_map_column", "num_labels"}


def test_what_must_stay_is_refused_by_name(resumed):
    ours = {option.name for option in fields(TrainFQGANArguments)}
    must_stay = {name for name, meaning in ON_RESUME.items() if meaning is OnResume.MUST_STAY and name in ours}
    assert must_stay == {*OTHER, *OF_LABEL_MAPS, "mixed_precision"}
    for name, value in OTHER.items():
        changes = {name: value, "streaming": True} if name == "streaming_samples" else {name: value}
        with pytest.raises(
            ValueError, match=f"cannot resume from .*checkpoint-2: ({name}|streaming) was .* and is now"
        ):
            resumed(**changes)


@pytest.mark.parametrize("name", ["disc_weight", "representation_weight"])
def test_a_weight_may_change_but_not_be_switched_off(name, resumed):
    with pytest.raises(ValueError, match=f"{name} was 0.5 and is now 0.0: it may change, but not to 0 or from 0"):
        resumed(**{name: 0})
    resumed(**{name: 0.25})


def test_precision_is_compared_as_it_is_in_the_end(resumed):
    """`no` is what accelerate takes where nothing is said."""
    with pytest.raises(ValueError, match="precision was 'no' and is now 'bf16'"):
        resumed(mixed_precision="bf16")
    resumed(mixed_precision="no")


def test_another_model_is_refused_by_its_field(resumed, tokenizer_config, tmp_path_factory):
    config = json.loads(tokenizer_config(2).read_text())
    path = tmp_path_factory.mktemp("other") / "config.json"
    path.write_text(json.dumps({**config, "entropy_temperature": 0.5}))
    with pytest.raises(ValueError, match=r"entropy_temperature of the model was 0\.01 and is now 0\.5"):
        resumed(model_config_name_or_path=path)
    copy = path.with_name("copy.json")
    copy.write_text(json.dumps(config))
    resumed(model_config_name_or_path=copy)


def test_an_end_before_the_checkpoint_is_refused(resumed):
    with pytest.raises(ValueError, match=r"max_train_steps must be at least 2, the steps done in .*, got 1"):
        resumed(max_train_steps=1)


def test_other_images_of_the_same_number_are_refused(resumed, image_folder, tmp_path_factory):
    """A copy elsewhere is the same data; with one picture replaced it is not."""
    folder = tmp_path_factory.mktemp("copy") / "data"
    shutil.copytree(image_folder, folder)
    resumed(train_data_dir=folder, max_train_steps=3)
    (path, *_) = sorted(folder.rglob("*.png"))
    Image.new("RGB", (30, 30)).save(path)
    with pytest.raises(ValueError, match=f"its data, '{image_folder.name}', had other files .* than 'data' has now"):
        resumed(train_data_dir=folder)


def test_other_images_in_a_stream_are_refused(image_folder, tokenizer_options, tmp_path):
    changes = {"streaming": True, "streaming_samples": 24, "max_train_steps": 1, "checkpointing_steps": 1}
    train_fqgan(tokenizer_options(tmp_path / "out", **changes))
    shutil.copytree(image_folder, tmp_path / "data")
    (path, *_) = sorted((tmp_path / "data").rglob("*.png"))
    path.rename(path.with_name("other.png"))
    changes |= {"resume_from_checkpoint": "latest", "max_train_steps": 2, "train_data_dir": tmp_path / "data"}
    with pytest.raises(ValueError, match="its data, .*, had other files"):
        train_fqgan(tokenizer_options(tmp_path / "out", **changes))


def test_other_codes_of_the_same_number_are_refused(
    finished, image_folder, generator_config, cache_dir, to_command, tmp_path
):
    for name, crop in (("codes", "flip"), ("others", "plain")):
        options = {"tokenizer": finished, "train_data_dir": image_folder, "crop": crop, "cache_dir": cache_dir}
        extract_codes(to_command({**options, "output_dir": tmp_path / name}))
    options = {
        "codes_dir": tmp_path / "codes", "cache_dir": cache_dir, "model_config_name_or_path": generator_config,
        "output_dir": tmp_path / "out", "train_batch_size": 5, "max_train_steps": 2, "checkpointing_steps": 1,
    }  # fmt: skip
    train_far(to_command(options))
    changes = {"resume_from_checkpoint": "latest", "max_train_steps": 3}
    with pytest.raises(ValueError, match="its data, .*, had other files"):
        train_far(to_command({**options, **changes, "codes_dir": tmp_path / "others"}))
    with pytest.raises(ValueError, match="head_type of the model was 'ar' and is now 'mlp'"):
        train_far(to_command({**options, **changes, "head": "mlp"}))
    with pytest.raises(ValueError, match="on_the_fly was False and is now True"):
        changes |= {"codes_dir": None, "train_data_dir": image_folder, "tokenizer": finished}
        train_far([*to_command({**options, **changes}), "--on_the_fly"])
    shutil.move(tmp_path / "codes", tmp_path / "moved")
    changes = {"resume_from_checkpoint": "latest", "max_train_steps": 3, "codes_dir": tmp_path / "moved"}
    train_far(to_command({**options, **changes}))


def test_a_batch_divided_otherwise_is_the_same_step(tokenizer_options, read_metrics, tmp_path):
    """One batch of four or four of one: the same losses, and each step has all of its batches."""
    options = {**OPTIONS, "entropy_weight": 0, "disc_norm": "group", "max_train_steps": 5, "checkpointing_steps": 3}
    train_fqgan(tokenizer_options(tmp_path / "whole", **options))
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "divided" / "checkpoint-3")
    options |= {"train_batch_size": 1, "gradient_accumulation_steps": 4, "resume_from_checkpoint": "latest"}
    train_fqgan(tokenizer_options(tmp_path / "divided", **options))
    whole = [record for record in read_metrics(tmp_path / "whole") if record["step"] > 3]
    divided = read_metrics(tmp_path / "divided")
    assert [record["step"] for record in divided] == [4, 5]
    for one, other in zip(whole, divided, strict=True):
        for name in ("loss/total", "gradient_norm", "discriminator/gradient_norm"):
            assert other[name] == pytest.approx(one[name], rel=1e-3), name


@pytest.mark.slow
def test_more_processes_take_the_same_steps(tokenizer_options, read_metrics, tmp_path):
    options = {**OPTIONS, "entropy_weight": 0, "disc_norm": "group"}
    train_fqgan(tokenizer_options(tmp_path / "one", **options))
    shutil.copytree(tmp_path / "one" / "checkpoint-2", tmp_path / "two" / "checkpoint-2")
    words = tokenizer_options(tmp_path / "two", **options, train_batch_size=2, resume_from_checkpoint="latest")
    with RunServer(tmp_path) as server:
        for run in server.start("train_fqgan", words, 2):
            assert run.wait() == 0, run.output()
    for one, other in zip(read_metrics(tmp_path / "one")[2:], read_metrics(tmp_path / "two"), strict=True):
        assert other["loss/total"] == pytest.approx(one["loss/total"], rel=1e-3)


def forget_all_but_the_position(checkpoint):
    """What a checkpoint of the first versions says."""
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    kept = ("seed", "num_samples", "samples_per_step")
    manifest["state"] = {name: manifest["state"][name] for name in kept}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


def test_a_checkpoint_that_says_less_is_accepted_with_a_word(resumed, caplog):
    """As versions before wrote them."""
    folder = resumed(max_train_steps=3)
    forget_all_but_the_position(folder / "checkpoint-2")
    resumed(learning_rate=1e-5)
    for name in ("data", "options", "precision", "model"):
        assert caplog.text.count(f"checkpoint-2 has no record of its {name}, which cannot be compared") == 1
    with pytest.raises(ValueError, match="seed was 0 and is now 1"):
        resumed(seed=1)


def test_a_setting_that_the_model_did_not_have_then_is_not_compared():
    model = {"codebook_size": 32}
    manifest = {"state": {"model": model}}
    check_resumable(Path("checkpoint-1"), manifest, {"model": {**model, "quantizer_type": "nearest"}})
    with pytest.raises(ValueError, match="codebook_size of the model was 32 and is now 64"):
        check_resumable(Path("checkpoint-1"), manifest, {"model": {"codebook_size": 64}})


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"step": "2", "state": {}, "files": {}}', '{"step": 2, "state": [], "files": {}}',
     '{"step": 2, "state": {}, "files": {"a": 1}}', '{"step": 2, "state": {"options": 3, "seed": 0}, "files": {}}'],
)  # fmt: skip
def test_a_damaged_manifest_is_named(content, resumed):
    folder = resumed(max_train_steps=3)
    (folder / "checkpoint-2" / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"checkpoint-2/manifest\.json (is damaged|must hold a JSON object)"):
        resumed()


def test_a_checkpoint_of_something_else_does_not_fit(resumed):
    """Files as they were written, and no record of what they are of."""
    folder = resumed(max_train_steps=3)
    forget_all_but_the_position(folder / "checkpoint-2")
    with pytest.raises(ValueError, match="checkpoint-2 does not fit this run: "):
        resumed(disc_channels=16)


def test_fields_of_models_are_read_from_their_source():
    for name, some in (("FQGANModel", {"codebook_size", "feature_dims"}), ("FARForImageGeneration", {"rope_theta"})):
        assert some <= set(config_fields(name)) and "self" not in config_fields(name)


def test_comparison_needs_no_more_than_the_manifest(finished, tokenizer_options):
    args = TrainFQGANArguments(train_data_dir="/", output_dir="o", learning_rate=1e-3, train_batch_size=4)
    options = {**recorded_options(args), "disc_num_layers": 2, "disc_channels": 8}
    manifest = read_checkpoint(finished / "checkpoint-2")
    check_resumable(finished / "checkpoint-2", manifest, {"options": options})
    assert "hub_token" not in options

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The `fqgan` command: help, every error in one line with its exit status, and the subcommands on tiny models."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file

from fqgan_hf import FARConfig, FARForImageGeneration, FARPipeline, FQGANImageProcessor, FQGANModel, FQGANPipeline
from fqgan_hf.cli import COMMANDS, build_parser, main
from fqgan_hf.conversion import to_published_state_dict
from fqgan_hf.failures import first_line


def make_tokenizer(num_codebooks=2, **settings):
    torch.manual_seed(num_codebooks)
    return tiny.tokenizer(num_codebooks, **settings)


def make_generator(tokenizer, **settings):
    torch.manual_seed(0)
    defaults = {
        "num_classes": 4,
        "num_hidden_layers": 1,
        "tokenizer_fingerprint": tokenizer.fingerprint(),
        "id2label": {0: "tench, Tinca tinca", 1: "goldfish", 2: "golden retriever", 3: "crane"},
    }
    return tiny.generator(tokenizer.config.num_codebooks, **{**defaults, **settings})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a tokenizer, a generator, and both as a pipeline; and a photo."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = make_tokenizer(feature_dims=(None, 16), feature_num_layers=1, feature_num_heads=2)
    generator = make_generator(tokenizer)
    processor = FQGANImageProcessor(size=16, multiple_of=4)
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    processor.save_pretrained(str(folder / "tokenizer"))
    generator.save_pretrained(str(folder / "generator"))
    FARPipeline(tokenizer, generator, processor).save_pretrained(str(folder / "pipeline"))
    Image.effect_mandelbrot((40, 30), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(folder / "photo.png")
    return folder


@pytest.fixture
def fails(capsys):
    """Runs the command and gives its one line on stderr; the exit status must be the expected one."""

    def run(*argv, status=1):
        try:
            code = main([str(word) for word in argv])
        except SystemExit as exit_:
            code = exit_.code
        captured = capsys.readouterr()
        assert code == status, captured.err
        assert captured.err.count("\n") == 1, captured.err
        assert "Traceback" not in captured.err
        assert captured.out == ""
        return captured.err.strip()

    return run


# ---- Help ----


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_of_each_command_describes_it_and_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command.name, "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert command.description in text
    assert re.search(rf"examples:\n  fqgan {command.name} ", text)
    assert max(len(line) for line in text.splitlines()) <= 119


def test_the_examples_in_the_help_are_accepted():
    import shlex

    parser = build_parser()
    examples = [line for command in COMMANDS for line in command.examples.splitlines()]
    assert len(examples) >= len(COMMANDS)
    for example in examples:
        program, *words = shlex.split(example)
        assert program == "fqgan"
        parser.parse_args(words)


def test_main_help_lists_all_commands(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert command.name in text


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert re.fullmatch(r"fqgan-hf \d+\.\d+\S*\n", capsys.readouterr().out)


HEAVY = {"torch", "transformers", "diffusers", "datasets", "sklearn", "matplotlib", "accelerate"}


def loaded_by(*argv, cwd=None):
    """The libraries that a fresh process has imported when the command ends."""
    code = (
        "import sys\nfrom fqgan_hf.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", code, *map(str, argv)]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd)
    return set(result.stdout.splitlines()[-1].split()), result


@pytest.mark.parametrize("argv", [["--help"], *([command.name, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_loads_no_library_at_all(argv):
    loaded, result = loaded_by(*argv)
    assert result.stdout.startswith("usage: fqgan")
    assert loaded & (HEAVY | {"numpy", "PIL", "huggingface_hub", "safetensors", "tqdm"}) == set()


def test_cheap_errors_load_no_heavy_library(tmp_path):
    for argv in (["info", tmp_path / "absent"], ["reconstruct", "no.png", "--model", "x"], ["convert", "no.pt", "x"]):
        loaded, result = loaded_by(*argv)
        assert result.stderr.count("error: ") == 1
        assert loaded & HEAVY == set(), argv


@pytest.mark.parametrize("kind", ["tokenizer", "generator", "pipeline"])
def test_info_needs_no_heavy_library(kind, saved):
    """It took six seconds and 970 MB, to count numbers that stand in JSON and in headers."""
    loaded, result = loaded_by("info", kind, "--json", cwd=saved)
    assert '"parameters"' in result.stdout
    assert loaded & HEAVY == set()


# ---- Errors ----


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["generate", "--model", "x", "--class_labels", "1", "--guidance_scale", "high"], "--guidance_scale"),
        (["generate", "--model", "x", "--class_labels", "1", "--batch_size", "0"], "must be at least 1, got 0"),
        (["generate", "--model", "x", "--class_labels", "1", "--temperature", "0"], "must be above 0, got 0"),
        (
            ["generate", "--model", "x", "--class_labels", "1", "--guidance_scale", "nan"],
            "must be at least 0, got nan",
        ),
        (["generate", "--model", "x", "--class_labels", "1", "--top_p", "1.5"], "above 0 and at most 1, got 1.5"),
        (["generate", "--model", "x", "--class_labels", "1", "--top_k", "9" * 400 + "x"], "invalid int value"),
        (
            ["generate", "--model", "x", "--class_labels", "1", "--seed", "4294967296"],
            "must be at least 0 and at most 4,294,967,295, got 4294967296",  # was the same as 0
        ),
        (["demo", "--seed", "-1"], "must be at least 0"),
        (["reconstruct", "--model", "x"], "the following arguments are required: IMAGE"),
        (["info"], "the following arguments are required: model"),
        (["info", "x", "--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_status_2(argv, message, fails):
    line = fails(*argv, status=2)
    assert message in line
    assert line.startswith("fqgan")
    assert line.endswith("--help)")


def test_unknown_models(fails, tmp_path, saved):
    absent = tmp_path / "absent"
    assert fails("info", absent) == (
        f"fqgan info: error: there is no folder {absent}, and it is no Hub id of the form user/name"
    )
    assert "holds neither model_index.json nor config.json" in fails("info", tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    assert "holds a AutoencoderKL, which this package does not know" in fails("info", tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    assert "holds a model of unknown kind" in fails("info", tmp_path)
    (tmp_path / "config.json").write_text('{"hidden')
    assert "config.json is damaged" in fails("info", tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    assert "must hold a JSON object, got list" in fails("info", tmp_path)
    assert "is a file, not a model folder" in fails("info", saved / "photo.png")


def test_a_hub_id_that_cannot_be_reached_is_one_line(fails):
    line = fails("info", "nobody-has-this-name/nor-this-one")
    assert line.startswith("fqgan info: error: ")


def test_damaged_or_absent_weights(fails, tmp_path, saved):
    config = (saved / "tokenizer" / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    assert "holds no weights: there is no diffusion_pytorch_model.safetensors" in fails("info", tmp_path)
    weights = next((saved / "tokenizer").glob("*.safetensors")).read_bytes()
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "diffusion_pytorch_model.safetensors is damaged" in fails("info", tmp_path)
    fails("reconstruct", saved / "photo.png", "--model", tmp_path, "--out", tmp_path / "grid.png")
    assert not (tmp_path / "grid.png").exists()


def test_reconstruct_errors(fails, tmp_path, saved):
    out, model, photo = tmp_path / "grid.png", saved / "tokenizer", saved / "photo.png"
    assert "there is no file" in fails("reconstruct", tmp_path / "no.png", "--model", model, "--out", out)
    assert "--out must end in a picture format" in fails("reconstruct", photo, "--model", model, "--out", "grid.txt")
    assert "got the folder" in fails("reconstruct", photo, "--model", model, "--out", tmp_path)
    assert "is a generator" in fails("reconstruct", photo, "--model", saved / "generator", "--out", out)
    line = fails("reconstruct", photo, "--model", model, "--size", 18, "--out", out)
    assert "--size must be divisible by the downsampling factor 4, got 18" in line
    (tmp_path / "text.png").write_text("no picture")
    assert "must be an image file" in fails("reconstruct", tmp_path / "text.png", "--model", model, "--out", out)
    assert "--device" in fails("reconstruct", photo, "--model", model, "--device", "nonsense", "--out", out)
    assert not out.exists()


def test_generate_errors(fails, tmp_path, saved):
    def generate(*argv, model="pipeline"):
        return fails("generate", "--model", saved / model, "--out", tmp_path / "x.png", *argv)

    assert "one of --class_labels, --prompt and --map must be given" in generate()
    assert "must be a FARPipeline" in generate("--class_labels", 1, model="tokenizer")
    assert "class_labels must be in [0, 3], got 4" in generate("--class_labels", 4)
    assert "class_labels must be in [0, 3], got -1" in generate("--class_labels", -1)
    assert "did you mean 'goldfish'" in generate("--class_labels", "goldfihs")
    assert "must give at most 10,000 images" in generate("--class_labels", 1, "--num_images_per_label", 10**20)
    assert "guidance_scale" in generate("--class_labels", 1, "--guidance_scale", 1, 2, 3)
    occupied = tmp_path / "file"
    occupied.touch()
    line = fails("generate", "--model", saved / "pipeline", "--class_labels", 1, "--out", occupied)
    assert "--out must be a picture" in line
    assert not (tmp_path / "x.png").exists()


def test_pictures_that_cannot_be_written_are_refused_before_the_work(fails, saved, tmp_path):
    """They were found after it."""
    photo, model = saved / "photo.png", saved / "tokenizer"
    (tmp_path / "file").touch()
    for out, message in (
        (tmp_path / "file" / "a.png", "file is a file"),
        (f"{'x' * 300}.png", "File name too long"),
        ("/proc/a.png", "cannot be written"),
    ):
        assert message in fails("reconstruct", photo, "--model", model, "--out", out)
        assert message in fails("generate", "--model", saved / "pipeline", "--class_labels", 1, "--out", out)
        assert message in fails("convert", photo, Path(out).with_suffix(""))
    out = tmp_path / "a.jpg"
    # Of 96 pixels and a gap of 8: 631 columns are more than JPEG has, seen before the first is made.
    argv = ["--class_labels", 1, "--num_images_per_label", 631, "--batch_size", 1, "--out", out]
    assert "JPEG cannot hold a picture of 65" in fails("generate", "--model", saved / "pipeline", *argv)
    assert "ICO cannot hold a picture" in fails(
        "reconstruct", photo, "--model", model, "--out", out.with_suffix(".ico")
    )
    assert "XBM cannot hold a picture" in fails(
        "reconstruct", photo, "--model", model, "--out", out.with_suffix(".xbm")
    )
    assert os.listdir(tmp_path) == ["file"]


def test_an_input_is_not_overwritten(fails, saved, tmp_path):
    photo = tmp_path / "photo.png"
    before = (saved / "photo.png").read_bytes()
    photo.write_bytes(before)
    (tmp_path / "link.png").symlink_to(photo)
    for out in (photo, tmp_path / "link.png", tmp_path / "." / ".." / tmp_path.name / "photo.png"):
        line = fails("reconstruct", photo, "--model", saved / "tokenizer", "--out", out)
        assert "is one of the images: it would be overwritten" in line
    assert photo.read_bytes() == before


def test_one_bad_image_among_many_is_reported_and_the_others_are_done(saved, tmp_path, capsys):
    """It ended the command with nothing written."""
    (tmp_path / "bad.png").write_text("no picture")
    photos = [saved / "photo.png", tmp_path / "bad.png", saved / "photo.png"]
    words = ["reconstruct", *photos, "--model", saved / "tokenizer", "--out", tmp_path / "grid.png"]
    assert main([str(word) for word in words]) == 1
    captured = capsys.readouterr()
    assert captured.out.count("PSNR") == 2 and f"wrote {tmp_path / 'grid.png'}" in captured.out
    assert f"{tmp_path / 'bad.png'} is left out: " in captured.err
    assert captured.err.endswith("fqgan reconstruct: error: 1 of 3 images were left out: bad.png\n")
    with Image.open(tmp_path / "grid.png") as grid:
        assert 2 * 96 < grid.height < 3 * 96
    (tmp_path / "grid.png").unlink()
    words[1:4] = [tmp_path / "bad.png"] * 2
    assert main([str(word) for word in words]) == 1
    assert "none of 2 images could be read, nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "grid.png").exists()


def test_large_sizes_show_that_they_work(saved, tmp_path, capsys):
    """More than a hundred seconds passed without a sign of life."""
    argv = ["reconstruct", str(saved / "photo.png"), "--model", str(saved / "tokenizer"), "--size", "512"]
    assert main([*argv, "--out", str(tmp_path / "a.png")]) == 0
    shown = capsys.readouterr().err
    assert "at 512 pixels 16,384 positions attend to each other: that part takes 1,048,576 times as long" in shown
    assert re.search(r"reconstructing: +\d+%.* \d+/44 ", shown), shown
    assert "44/44" in shown, "the bar ends where it should: every block of every pass was counted"


def test_labels_with_spaces(saved, tmp_path, capsys):
    argv = ["--seed", 1, "--class_labels", " 2", "2 ", " Golden  retriever "]
    assert generate(saved, tmp_path / "out", *argv) == 0
    assert len(list((tmp_path / "out").glob("*_golden_retriever.png"))) == 3


def damaged(saved, tmp_path, part, change):
    """A copy of the pipeline with one file changed."""
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved / "pipeline", folder)
    path = folder / part
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | change if isinstance(change, dict) else change))
    else:
        path.write_bytes(change(path.read_bytes()))
    return folder


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("transformer/config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers must be an integer in"),
        ("transformer/config.json", {"num_hidden_layers": 2}, "not a complete FARForImageGeneration .* missing keys"),
        (
            "transformer/config.json",
            {"num_head_layers": 0, "head_type": "linear"},
            "unexpected keys, among them head.",
        ),
        ("transformer/config.json", {"codebook_size": 64}, "do not fit the configuration beside them"),
        ("transformer/config.json", {"hidden_size": "32"}, "hidden_size must be an integer in .*, got '32'"),
        ("transformer/config.json", {"num_classes": None}, "must give num_classes and id2label|num_classes must be"),
        ("transformer/config.json", [1], "config.json must hold a JSON object, got list"),
        ("transformer/model.safetensors", lambda data: data[:-10], "model.safetensors is damaged"),
        ("transformer/model.safetensors", lambda data: b"", "model.safetensors is damaged"),
        ("transformer/model.safetensors", lambda data: b"\xff" * 8 + data, "model.safetensors is damaged"),
        ("vqmodel/config.json", {"block_out_channels": 16}, "block_out_channels must be a list"),
        ("vqmodel/config.json", {"num_codebooks": 10**9}, "num_codebooks must be an integer in"),
        ("vqmodel/diffusion_pytorch_model.safetensors", lambda data: data[:100], "safetensors is damaged"),
        ("image_processor/preprocessor_config.json", {"size": 10**9}, "size must"),
        ("image_processor/preprocessor_config.json", {"size": "big"}, "size must be None, a positive integer"),
        ("model_index.json", {"transformer": 3}, "cannot be loaded as FARPipeline: "),
        ("model_index.json", {"vqmodel": ["fqgan_hf", "FARPipeline"]}, "."),
        ("model_index.json", {"vqmodel": ["os", "system"]}, "."),
    ],
)
def test_damaged_pipelines_are_one_line_that_names_what_is_wrong(part, change, message, saved, tmp_path, fails):
    folder = damaged(saved, tmp_path, part, change)
    line = fails("generate", "--model", folder, "--class_labels", 1, "--out", tmp_path / "a.png")
    assert re.search(message, line), line
    assert "look at the" not in line and "--debug shows where" not in line
    assert not (tmp_path / "a.png").exists()


def test_whole_numbers_in_a_configuration_are_numbers(saved, tmp_path):
    folder = damaged(saved, tmp_path, "transformer/config.json", {"rope_theta": 10000, "token_dropout": 0})
    assert main(["generate", "--model", str(folder), "--class_labels", "1", "--out", str(tmp_path / "a.png")]) == 0


def test_pickled_weights_are_refused_by_name(saved, tmp_path, fails):
    folder = shutil.copytree(saved / "generator", tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    pipeline = shutil.copytree(saved / "pipeline", tmp_path / "pipeline")
    shutil.rmtree(pipeline / "transformer")
    folder.rename(pipeline / "transformer")
    line = fails("generate", "--model", pipeline, "--class_labels", 1, "--out", tmp_path / "a.png")
    assert "pytorch_model.bin is a pickle, which is not loaded" in line


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("seconds", [0.0, 0.7, 1.5])
def test_ctrl_c_ends_the_demo_in_its_first_stage(seconds, tmp_path):
    """scikit-learn's fit took it for the wish to stop learning, and the demo went on with a judge half trained."""
    command = [sys.executable, "-m", "fqgan_hf.cli", "demo", "--quick", "--output_dir", str(tmp_path / "demo")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=usual_interrupts)
    assert process.stderr.readline().startswith("[1/6]")
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130, rest
    assert rest.strip().endswith("fqgan demo: interrupted") and "Traceback" not in rest
    assert not (tmp_path / "demo" / "training").exists(), "the next stage has not begun"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("command", ["generate", "sample", "reconstruct", "convert", "info"])
def test_ctrl_c_at_any_moment(command, saved, tmp_path):
    """Twelve moments from the first to the last second, most of which go into imports."""
    torch.save(to_published_state_dict(make_generator(make_tokenizer())), tmp_path / "a.pt")
    words = {
        "generate": ["--model", saved / "pipeline", "--class_labels", 1, "--out", tmp_path / "a.png"],
        "sample": ["--model", saved / "pipeline", "--num", 40, "--output_dir", tmp_path / "s"],
        "reconstruct": [saved / "photo.png", "--model", saved / "pipeline", "--out", tmp_path / "b.png"],
        "convert": [tmp_path / "a.pt", tmp_path / "c", "--force", "--set", "num_attention_heads=2", "grid_height=4",
                    "grid_width=4"],
        "info": [saved / "pipeline"],
    }[command]  # fmt: skip
    program = [sys.executable, "-m", "fqgan_hf.cli", command, *map(str, words)]
    started = time.monotonic()
    subprocess.run(program, check=True, capture_output=True)
    duration = time.monotonic() - started
    for moment in range(12):
        process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True, preexec_fn=usual_interrupts)
        time.sleep(0.3 + (duration - 0.3) * moment / 12)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
        assert process.returncode in (0, 130), (moment, errors)  # 0: it was done
        assert "Traceback" not in errors, (moment, errors)
        assert process.returncode == 0 or errors.endswith(f"fqgan {command}: interrupted\n")
    assert not list(tmp_path.glob(".*.tmp"))


def usual_interrupts():
    """A shell that starts tests in its background has them ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize(
    "argv",
    [
        ["generate", "--class_labels", "99"],
        ["generate", "--class_labels", "goldfihs"],
        ["generate", "--class_labels", "1", "--out", "/proc/a.png"],
        ["generate", "--class_labels", "1", "--temperature", "-1"],
        ["reconstruct", "no.png"],
        ["reconstruct", "photo.png", "--out", "a.txt"],
        ["sample", "--num", "4", "--output_dir", "photo.png"],
        ["convert", "no.pt", "out"],
        ["convert", "photo.png", "photo.png"],
    ],
    ids=" ".join,
)
def test_what_can_be_known_without_the_libraries_is_said_without_them(argv, saved):
    """Their import takes seven seconds."""
    model = [] if argv[0] == "convert" else ["--model", "pipeline"]
    loaded, result = loaded_by(*argv, *model, cwd=saved)
    assert result.stderr.count("\n") == 1 and ": error: " in result.stderr, result.stderr
    assert loaded & HEAVY == set()


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["info", str(tmp_path / "absent"), "--debug"])
    with pytest.raises(FileNotFoundError):
        main(["--debug", "info", str(tmp_path / "absent")])


def test_unexpected_errors_name_their_type(fails, monkeypatch, saved):
    monkeypatch.setattr("fqgan_hf.commands.info.collect_facts", lambda model: {}["nothing"])
    line = fails("info", saved / "tokenizer")
    assert line == "fqgan info: error: KeyError: 'nothing' (--debug shows where)"


def test_interrupt_exits_130(monkeypatch, saved, capsys):
    def interrupt(model):
        raise KeyboardInterrupt

    monkeypatch.setattr("fqgan_hf.commands.info.collect_facts", interrupt)
    assert main(["info", str(saved / "tokenizer")]) == 130
    assert capsys.readouterr().err.strip() == "fqgan info: interrupted"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_the_process_with_130(saved, tmp_path):
    command = [
        sys.executable, "-m", "fqgan_hf.cli", "generate", "--model", saved / "pipeline", "--class_labels", "1",
        "--num_images_per_label", "10000", "--batch_size", "1", "--out", tmp_path / "x",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # Where the tests run in a shell's background, the signal is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    shown = b""
    while b"generating" not in shown:  # the progress bar: it is at work
        chunk = os.read(process.stderr.fileno(), 4096)
        assert chunk, shown.decode()
        shown += chunk
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert rest.strip().endswith("fqgan generate: interrupted")
    assert "Traceback" not in rest


def test_a_reader_that_goes_away_is_no_error(saved):
    command = f"{sys.executable} -m fqgan_hf.cli info {saved / 'tokenizer'} | head -0"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert result.stderr == ""


def test_first_line_joins_and_shortens():
    assert first_line(ValueError("one\n\n  two ")) == "one two"
    assert first_line(ValueError("")) == "ValueError"
    assert len(first_line(ValueError("x" * 1000))) == 400


# ---- info ----


def test_info_of_a_tokenizer(saved, capsys):
    assert main(["info", str(saved / "tokenizer"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    model = FQGANModel.from_pretrained(str(saved / "tokenizer"))
    heads = sum(parameter.numel() for parameter in model.feature_heads.parameters())
    assert facts["kind"] == "tokenizer (FQGANModel)"
    assert (facts["num_codebooks"], facts["codebook_size"], facts["grid"]) == (2, 32, [4, 4])
    assert facts["codebooks"] == ["visual", "semantic"]
    assert facts["fingerprint"] == model.fingerprint()
    assert facts["parameters"] == model.num_parameters()
    assert heads > 0
    assert facts["parameters_without_feature_heads"] == model.num_parameters() - heads
    assert facts["dtype"] == ["F32"]
    assert facts["preset"] is None
    assert facts["feature_dims"] == [None, 16]


def test_info_of_a_pipeline_in_words(saved, capsys):
    assert main(["info", str(saved / "pipeline")]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^kind +pipeline \(FARPipeline\)$", text, re.MULTILINE)
    assert re.search(r"^belong together +yes$", text, re.MULTILINE)
    assert re.search(r"^  grid +4x4 = 16 positions$", text, re.MULTILINE)
    assert re.search(r"^  class names +tench, Tinca tinca; goldfish; golden retriever; ...$", text, re.MULTILINE)
    assert make_tokenizer().fingerprint() in text


def test_info_of_half_precision_and_of_a_generator(saved, tmp_path, capsys):
    make_tokenizer().bfloat16().save_pretrained(str(tmp_path / "half"))
    assert main(["info", str(tmp_path / "half"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["dtype"] == ["BF16"]
    assert facts["fingerprint"] == make_tokenizer().fingerprint()
    assert main(["info", str(saved / "generator"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    generator = FARForImageGeneration.from_pretrained(str(saved / "generator"))
    assert facts["parameters"] == generator.num_parameters()
    assert facts["tokenizer_fingerprint"] == make_tokenizer().fingerprint()


@pytest.mark.parametrize("name", ["base", "large"])
def test_info_knows_the_presets(name, tmp_path, capsys):
    config = getattr(FARConfig, name)()
    config.save_pretrained(str(tmp_path))
    with torch.device("meta"):
        model = FARForImageGeneration(config)
    header, end = {}, 0
    for key, tensor in model.state_dict().items():
        start, end = end, end + 4 * tensor.numel()
        header[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    with open(tmp_path / "model.safetensors", "wb") as file:  # gigabytes of holes after the header
        file.write(len(content).to_bytes(8, "little") + content)
        file.truncate(8 + len(content) + end)
    assert main(["info", str(tmp_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["preset"] == f"far-{name}"
    assert facts["parameters"] == model.num_parameters()
    assert round(facts["parameters"] / 1e6) == {"base": 417, "large": 901}[name]


# ---- reconstruct ----


@pytest.mark.parametrize("model", ["tokenizer", "pipeline"])
def test_reconstruct_writes_the_grid_and_prints_psnr_and_usage(model, saved, tmp_path, capsys):
    out = tmp_path / "deep" / "grid.png"
    photo = str(saved / "photo.png")
    assert main(["reconstruct", photo, "--model", str(saved / model), "--out", str(out), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    match = re.search(r"PSNR (\d+\.\d\d) dB, codes used of 32 at 16 positions: visual (\d+), semantic (\d+)", text)
    tokenizer = FQGANModel.from_pretrained(str(saved / "tokenizer"))
    pipe = FQGANPipeline(tokenizer, FQGANImageProcessor(size=16, multiple_of=4))
    (expected,) = pipe.reconstruct(Image.open(photo))
    assert float(match[1]) == round(expected.psnr, 2)
    assert [int(match[2]), int(match[3])] == [expected.codes[:, k].unique().numel() for k in range(2)]
    with Image.open(out) as grid:
        assert grid.width > 4 * 96  # original, both, two alone
    assert os.listdir(out.parent) == ["grid.png"]


def test_reconstruct_several_images_at_another_size(saved, tmp_path, capsys):
    Image.new("L", (50, 20), 77).save(tmp_path / "grey.png")
    photos = [str(saved / "photo.png"), str(tmp_path / "grey.png")]
    argv = ["--model", str(saved / "tokenizer"), "--size", "32", "--out", str(tmp_path / "grid.jpg")]
    assert main(["reconstruct", *photos, *argv]) == 0
    text = capsys.readouterr().out
    assert text.count("PSNR") == 2
    assert text.count("at 64 positions") == 2
    assert "together: codes used of 32 at 128 positions" in text


# ---- generate ----


def generate(saved, out, *argv):
    words = ["generate", "--model", saved / "pipeline", "--out", out, "--seed", 5, "--device", "cpu", *argv]
    return main([str(word) for word in words])


def test_generate_a_folder_of_images_by_id_and_name(saved, tmp_path, capsys):
    assert generate(saved, tmp_path / "out", "--class_labels", 3, "golden_retriever", "--num_images_per_label", 2) == 0
    names = ["0_crane.png", "1_crane.png", "2_golden_retriever.png", "3_golden_retriever.png"]
    assert sorted(os.listdir(tmp_path / "out")) == names
    assert "wrote 4 images" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / names[0]) as image:
        assert image.size == (16, 16)


def test_generated_images_do_not_depend_on_the_batch_size(saved, tmp_path):
    labels = ["--class_labels", 0, 1, 2, "--num_images_per_label", 2, "--guidance_scale", 2, 1.5]
    assert generate(saved, tmp_path / "a", *labels, "--batch_size", 6) == 0
    assert generate(saved, tmp_path / "b", *labels, "--batch_size", 4) == 0
    names = sorted(os.listdir(tmp_path / "a"))
    assert len(names) == 6
    images = [[Image.open(tmp_path / folder / name).convert("RGB").tobytes() for name in names] for folder in "ab"]
    assert images[0] == images[1]
    assert len(set(images[0])) > 1


def test_neighbouring_seeds_share_no_image(saved, tmp_path):
    """`--seed 1` repeated the images of `--seed 0`, shifted by one."""
    labels = ["--class_labels", 1, "--num_images_per_label", 6]
    images = {}
    for seed in (0, 1):
        assert generate(saved, tmp_path / str(seed), *labels, "--seed", seed) == 0
        images[seed] = [Image.open(path).tobytes() for path in sorted((tmp_path / str(seed)).iterdir())]
    assert len(set(images[0])) == len(set(images[1])) == 6
    assert set(images[0]) & set(images[1]) == set()


def test_generate_a_grid_and_print_a_random_seed(saved, tmp_path, capsys):
    argv = ["generate", "--model", str(saved / "pipeline"), "--class_labels", "1", "--out", str(tmp_path / "x.png")]
    assert main(argv) == 0
    seed = re.search(r"wrote .*x\.png \(seed (\d+)\)", capsys.readouterr().out)[1]
    first = (tmp_path / "x.png").read_bytes()
    assert main([*argv, "--seed", seed]) == 0
    assert (tmp_path / "x.png").read_bytes() == first


def test_greedy_needs_no_luck(saved, tmp_path):
    for name, seed in (("a.png", 1), ("b.png", 2)):
        argv = ["--class_labels", 2, "--greedy", "--seed", seed, "--guidance_scale", 1]
        assert generate(saved, tmp_path / name, *argv) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


# ---- convert ----


def test_convert_there_and_back(saved, tmp_path, capsys, fails):
    checkpoint, folder = tmp_path / "out.pt", tmp_path / "model"
    assert main(["convert", "--to-original", str(saved / "tokenizer"), str(checkpoint)]) == 0
    assert main(["convert", str(checkpoint), str(folder), "--set", "norm_num_groups=4", "adapter_num_heads=2",
                 "feature_num_heads=2"]) == 0  # fmt: skip
    assert "wrote" in capsys.readouterr().out
    weights = "diffusion_pytorch_model.safetensors"
    expected, converted = load_file(saved / "tokenizer" / weights), load_file(folder / weights)
    assert expected.keys() == converted.keys()
    assert all(torch.equal(expected[name], converted[name]) for name in expected)
    assert (
        main(["reconstruct", str(saved / "photo.png"), "--model", str(folder), "--out", str(tmp_path / "x.png")]) == 0
    )
    capsys.readouterr()

    # Nothing is overwritten unasked.
    assert "--force replaces the files that a conversion writes" in fails("convert", checkpoint, folder)
    assert "--force overwrites it" in fails("convert", "--to-original", saved / "tokenizer", checkpoint)
    (folder / "notes.txt").write_text("mine")
    (folder / "model.fp16.safetensors").write_text("of another model")
    overrides = ["--set", "norm_num_groups=4", "adapter_num_heads=2", "feature_num_heads=2"]
    assert main(["convert", str(checkpoint), str(folder), "--force", *overrides]) == 0
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "model.fp16.safetensors").read_text() == "of another model"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out.pt", "x.png"]


def test_convert_errors(fails, tmp_path, saved):
    target = tmp_path / "out"
    convert = ["convert", saved / "photo.png", target, "--set"]
    assert "no setting num_attention_head (the nearest is num_attention_heads)" in fails(
        *convert, "num_attention_head=4", "grid_heigth=4"
    )
    assert "--set gives grid_height twice" in fails(*convert, "grid_height=4", "grid_height=5")
    assert "there is no" in fails("convert", tmp_path / "absent.pt", target)
    assert "did you mean --to-original?" in fails("convert", saved / "tokenizer", target)
    assert "the target must be a folder" in fails("convert", saved / "photo.png", saved / "photo.png")
    assert "was refused" in fails("convert", saved / "photo.png", target)
    assert "source must be a model folder" in fails("convert", "--to-original", saved / "photo.png", target)
    assert "target must be a file" in fails("convert", "--to-original", saved / "tokenizer", tmp_path)
    assert "NAME=VALUE" in fails("convert", saved / "photo.png", target, "--set", "four")
    assert "--set" in fails("convert", "--to-original", saved / "tokenizer", target, "--set", "a=1")
    assert list(tmp_path.iterdir()) == []


def test_convert_does_not_run_a_pickle(fails, tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"model": Malicious()}, tmp_path / "evil.pt")
    assert "was refused" in fails("convert", tmp_path / "evil.pt", tmp_path / "out")
    assert os.listdir(tmp_path) == ["evil.pt"]


@pytest.mark.parity
def test_convert_a_published_checkpoint(shared_dir, tmp_path, capsys):
    source = shared_dir / "fixtures" / "official_far_dual_tiny.pt"
    overrides = ["num_attention_heads=4", "grid_height=4", "grid_width=4"]
    assert main(["convert", str(source), str(tmp_path / "far"), "--set", *overrides]) == 0
    assert "FARForImageGeneration" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "far"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["num_codebooks"], facts["codebook_size"], facts["num_classes"]) == (2, 128, 10)


def test_without_a_model_the_demo_pipeline_is_used(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 16)).save("photo.png")
    assert main(["reconstruct", "photo.png", "--out", "grid.png"]) == 1
    assert "`fqgan demo` makes it; --model names another" in capsys.readouterr().err

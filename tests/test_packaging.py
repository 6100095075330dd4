# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The package as a stranger gets it: sdist, wheel, `pip install .`, `pip install -e .`, each in a clean environment.

A full install of torch takes minutes and 5 GB, too much for every run. So the default tests install this package, with
pip, into virtual environments that hold the distributions of the core requirements and nothing else: the transitive
closure of the wheel's `Requires-Dist`, linked file by file from the environment that runs the tests. No path leads
back there, so a library that is used but not declared is missing, as it would be on a fresh machine, and torchvision
does not exist. `pip check` compares versions. The checks then run in an empty folder outside the repository.

Not covered that way: whether the index can serve what is declared. `pytest -m slow tests/test_packaging.py` does the
same checks after real installs, with all dependencies from the index (some minutes and 5 GB of disk each).
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCES = shutil.ignore_patterns(".*", "outputs", "runs", "build", "dist", "*.egg-info", "__pycache__")

# Runs in the clean environment, where it may use the core requirements only.
PROBE = """
import importlib, importlib.util, sys
from pathlib import Path

import fqgan_hf
heavy = {"torch", "transformers", "diffusers"} & set(sys.modules)
assert not heavy, f"import fqgan_hf alone loads {heavy}"
for name in ("torchvision", "datasets", "sklearn", "matplotlib", "gradio", "scipy", "pytest"):
    assert importlib.util.find_spec(name) is None, f"the environment is not clean: it has {name}"
for name in ("modeling", "training", "model_cards", "tests"):
    assert importlib.util.find_spec(name) is None, f"installs a top-level {name}"

import fqgan_hf.modeling, fqgan_hf.training
import torch
from diffusers import DiffusionPipeline
from transformers import AutoModel

home = Path(sys.argv[1])
for module in (fqgan_hf, fqgan_hf.modeling, fqgan_hf.training):
    assert home in Path(module.__file__).resolve().parents, f"{module.__file__} is not in {home}"
classes = {name: getattr(fqgan_hf, name) for name in fqgan_hf.__all__ if name[0].isupper()}
for name, cls in classes.items():
    assert cls is getattr(importlib.import_module(cls.__module__), name), f"two classes named {name}"
    assert cls.__module__.startswith("fqgan_hf."), cls.__module__

from fqgan_hf import FARConfig, FARForImageGeneration, FARPipeline, FQGANImageProcessor, FQGANModel
vqmodel = FQGANModel(
    block_out_channels=(8, 8), layers_per_block=1, latent_channels=8, norm_num_groups=4, sample_size=4,
    codebook_size=16, codebook_dim=4, adapter_num_layers=1, adapter_num_heads=2,
)
config = FARConfig(
    codebook_size=16, num_classes=3, grid_height=2, grid_width=2, hidden_size=16, num_hidden_layers=1,
    num_attention_heads=2, num_head_layers=1,
)
processor = FQGANImageProcessor(size=4, multiple_of=2)
transformer = FARForImageGeneration(config)
pipe = FARPipeline(vqmodel=vqmodel, transformer=transformer, image_processor=processor)
pipe.save_pretrained("pipeline")
pipe = DiffusionPipeline.from_pretrained("pipeline")
assert type(pipe) is FARPipeline, type(pipe)
assert type(AutoModel.from_pretrained("pipeline/transformer")) is FARForImageGeneration
pipe.set_progress_bar_config(disable=True)
image = pipe(class_labels=[1], generator=torch.Generator().manual_seed(0)).images[0]
assert image.size == (4, 4), image.size

from fqgan_hf import export
export(vqmodel, "published")
assert Path("published/README.md").is_file() and Path("published/modeling_fqgan.py").is_file()
assert importlib.util.find_spec("torchvision") is None
print("probe passed")
"""


# What there is below the package's name, installed or in a checkout: nothing else from the repository's root.
RESOLVE = """
import importlib.util, pkgutil
import fqgan_hf
listed = {module.name for module in pkgutil.iter_modules(fqgan_hf.__path__)}
assert {"cli", "hub", "modeling", "training"} <= listed, listed
for name in ("cli", "hub", "modeling", "training", "model_cards", "spaces_demo"):
    assert importlib.util.find_spec(f"fqgan_hf.{name}") is not None, name
for name in ("setup", "tests", "fqgan_hf", "benchmarks", "docs"):
    assert importlib.util.find_spec(f"fqgan_hf.{name}") is None and name not in listed, name
assert pkgutil.get_data("fqgan_hf.training", "configs/digits-fqgan.json")
print("resolved")
"""
# A process that is started anew finds functions by their modules' names.
SPAWN = """
import multiprocessing, runpy
from fqgan_hf.modeling.configuration_checks import is_finite_number
with multiprocessing.get_context("spawn").Pool(1) as pool:
    assert pool.apply(is_finite_number, (1.5,)) is True
print("spawned")
"""

# Requirements of extras that our code does not import itself, and who does.
IMPORTED_BY_OTHERS = {"tensorboard": "accelerate, for --report_to tensorboard", "torchvision": "lpips"}
# Folders that the libraries of an extra are for.
SERVES = {
    "train": ("fqgan_hf", "training"),
    "eval": ("fqgan_hf", "training"),
    "space": ("spaces_demo",),
    "bench": ("benchmarks",),
}
MODULE_OF = {
    "torch-fidelity": "torch_fidelity",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "vector-quantize-pytorch": "vector_quantize_pytorch",
}


class Environment:
    """A virtual environment, and a way to run things in it that nothing outside can influence."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder.parent / f"{folder.name}-work"  # empty, outside the repository
        self.work.mkdir()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.bin = folder / "bin"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.site_packages = folder / "lib" / version / "site-packages"

    def run(self, *command: str, cwd: Path | None = None, status: int = 0) -> str:
        own = {"PATH": f"{self.bin}:{os.environ['PATH']}", "HF_HOME": str(self.work / "hf"), "OMP_NUM_THREADS": "1"}
        return run([str(self.bin / command[0]), *command[1:]], cwd or self.work, own, status)

    def pip(self, *arguments: str, python_path: Path | None = None) -> str:
        """This environment has no pip of its own: the one that runs the tests works on it."""
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(self.bin / "python")]
        return run([*command, *arguments], self.work, {"PYTHONPATH": str(python_path)} if python_path else {})


def run(command: list[str], cwd: Path, environment: dict[str, str], status: int = 0) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**inherited, "PYTHONNOUSERSITE": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == status, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}"
    return done.stdout


def closure(requirements: list[str], extra: str = "") -> set[str]:
    """Names of all installed distributions that `requirements` lead to, whose markers hold here."""
    found: set[str] = set()
    pending = [(Requirement(requirement), extra) for requirement in requirements]
    seen: set[tuple[str, str]] = set()
    while pending:
        requirement, extra = pending.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        found.add(name)
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                pending += [(Requirement(entry), wanted) for entry in importlib.metadata.requires(name) or []]
    return found


def link_distributions(names: set[str], folder: Path) -> None:
    """Make exactly these distributions importable from `folder`, by links into the current environment."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(names):
        distribution = importlib.metadata.distribution(name)
        assert distribution.files, f"{name} lists no files: it can't be linked into a clean environment"
        for file in distribution.files:
            # Files below a shared namespace (nvidia/, google/) one by one, so that no neighbour comes along.
            path = PurePosixPath(file)
            if path.parts[0] in ("..", "__pycache__") or path.is_absolute() or path.suffix == ".pth":
                continue
            origin = Path(distribution.locate_file(path.parts[0]))
            depth = 1 if origin.is_file() or (origin / "__init__.py").is_file() or origin.suffix == ".dist-info" else 2
            target = folder.joinpath(*path.parts[:depth])
            if not target.is_symlink():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(distribution.locate_file(PurePosixPath(*path.parts[:depth])))


def requires_dist(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist")


def check_installed(environment: Environment, home: Path) -> None:
    """What a user may do first, from an empty folder: import, build, save, load and run models; the command's help."""
    (environment.work / "probe.py").write_text(PROBE, encoding="utf-8")
    assert "probe passed" in environment.run("python", "probe.py", str(home.resolve()))
    for command in (["fqgan"], ["python", "-m", "fqgan_hf.cli"]):
        assert "reconstruct" in environment.run(*command, "--help")
        assert "usage: " in environment.run(*command, "info", "--help")
    environment.run("fqgan", "no-such-command", status=2)
    assert "resolved" in environment.run("python", "-c", RESOLVE)
    assert "spawned" in environment.run("python", "-c", SPAWN)
    assert "usage: " in environment.run("python", "-m", "fqgan_hf.training.train_fqgan", "--help")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the sources: building leaves nothing in the checkout, and nothing stale there gets into a wheel."""
    folder = tmp_path_factory.mktemp("packaging") / "fqgan-hf"
    shutil.copytree(ROOT, folder, ignore=NOT_SOURCES)
    return folder


@pytest.fixture(scope="module")
def archives(source) -> tuple[Path, Path]:
    """The sdist, and the wheel built from that sdist rather than from the checkout."""
    dist = source.parent / "dist"
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(source)], source.parent, {})
    (sdist,) = dist.glob("*.tar.gz")
    (wheel,) = dist.glob("*.whl")
    return sdist, wheel


@pytest.fixture
def core_environment(archives, tmp_path) -> Environment:
    """An environment with the core requirements of the wheel and nothing else."""
    environment = Environment(tmp_path / "venv")
    link_distributions(closure(requires_dist(archives[1])), environment.site_packages)
    return environment


def test_wheel_contents(archives):
    with zipfile.ZipFile(archives[1]) as archive:
        names = set(archive.namelist())
    inside = {name for name in names if ".dist-info/" not in name}
    expected = {f"fqgan_hf/{path.relative_to(ROOT / 'fqgan_hf')}" for path in (ROOT / "fqgan_hf").rglob("*.py")}
    for folder, pattern in [("modeling", "*.py"), ("training", "*.py"), ("model_cards", "*.md")]:
        expected |= {f"fqgan_hf/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob(pattern)}
    expected |= {f"fqgan_hf/training/configs/{path.name}" for path in (ROOT / "training/configs").iterdir()}
    demo = ROOT / "spaces_demo"
    of_demo = [path for pattern in ("*", "pipeline/**/*") for path in demo.glob(pattern) if path.is_file()]
    expected |= {f"fqgan_hf/spaces_demo/{path.relative_to(demo)}" for path in of_demo}
    for pattern in ("*.html", "modules/*/README.md"):
        expected |= {str(path.relative_to(ROOT)) for path in (ROOT / "fqgan_hf" / "evaluation").glob(pattern)}
    assert inside == expected | {"fqgan_hf/py.typed", "fqgan_hf/kernels/cpu_kernels.cpp"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_sdist_holds_what_the_checkout_holds(archives):
    with tarfile.open(archives[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("benchmarks", "fqgan_hf", "modeling", "spaces_demo", "tests", "training"):
        assert {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py")} <= names
    assert {"fqgan_hf/kernels/cpu_kernels.cpp", "fqgan_hf/py.typed"} <= names
    for folder in ("model_cards", "training/configs"):
        assert {f"{folder}/{path.name}" for path in (ROOT / folder).iterdir()} <= names
    assert {"LICENSE", "README.md", "Makefile", "pyproject.toml", "setup.py"} <= names


def test_requirements(archives):
    requirements = [Requirement(entry) for entry in requires_dist(archives[1])]
    core = {canonicalize_name(entry.name) for entry in requirements if entry.marker is None}
    assert "torchvision" not in core
    assert "torchvision" not in closure(requires_dist(archives[1]))
    diffusers = next(entry for entry in requirements if entry.name == "diffusers")
    assert any(part.operator == "<" for part in diffusers.specifier), "an internal table of diffusers is used"
    extras = {
        extra: {entry.name for entry in requirements if entry.marker and entry.marker.evaluate({"extra": extra})}
        for extra in ("train", "eval", "space", "dev")
    }
    assert all(extras.values())
    assert extras["train"] | extras["eval"] | extras["space"] <= extras["dev"]


def test_what_extras_install_is_imported(archives):
    """A library that nothing imports would be installed for nothing."""
    requirements = [Requirement(entry) for entry in requires_dist(archives[1])]
    of_train = {entry.name for entry in requirements if entry.marker and entry.marker.evaluate({"extra": "train"})}
    for extra, folders in SERVES.items():
        sources = [path.read_text(encoding="utf-8") for folder in folders for path in (ROOT / folder).rglob("*.py")]
        wanted = {entry.name for entry in requirements if entry.marker and entry.marker.evaluate({"extra": extra})}
        if extra == "bench":
            wanted -= of_train
        assert wanted, extra
        for name in wanted - IMPORTED_BY_OTHERS.keys():
            statement = re.compile(rf"^\s*(import|from) {MODULE_OF.get(name, name)}\b", re.MULTILINE)
            assert any(map(statement.search, sources)), f"[{extra}] installs {name}, which {folders} do not import"


def test_a_checkout_that_is_not_installed(core_environment, source):
    for code, word in ((RESOLVE, "resolved"), (SPAWN, "spawned")):
        assert word in core_environment.run("python", "-c", code, cwd=source)
    # A second copy of every class would be made by this.
    assert "ModuleNotFoundError" in core_environment.run(
        "python", "-c", "import fqgan_hf.fqgan_hf", cwd=source, status=1
    )
    help_text = core_environment.run("python", "-m", "fqgan_hf.training.train_fqgan", "--help", cwd=source)
    assert "--train_data_dir" in help_text


def test_wheel_in_a_clean_environment(core_environment, archives):
    core_environment.pip("install", "--no-deps", "--no-index", str(archives[1]))
    core_environment.pip("check")
    check_installed(core_environment, home=core_environment.site_packages / "fqgan_hf")


@pytest.mark.parametrize("mode", ["default", pytest.param("strict", marks=pytest.mark.slow)])
def test_editable_install_in_a_clean_environment(core_environment, source, tmp_path, mode):
    link_distributions({"setuptools"}, tmp_path / "build-requirements")
    core_environment.pip(
        *("install", "--no-deps", "--no-index", "--no-build-isolation"),
        *("--config-settings", f"editable_mode={'strict' if mode == 'strict' else ''}"),
        *("--editable", str(source)),
        python_path=tmp_path / "build-requirements",
    )
    core_environment.pip("check")
    check_installed(core_environment, home=source)
    # From the root, `fqgan_hf/` there comes before the installed package.
    assert "reconstruct" in core_environment.run("python", "-m", "fqgan_hf.cli", "--help", cwd=source)
    core_environment.run("python", "-c", "import fqgan_hf.modeling.modeling_fqgan, fqgan_hf.training", cwd=source)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_full_install_from_the_index(archives, source, tmp_path, kind):
    environment = Environment(tmp_path / "venv")
    try:
        environment.pip("install", *([str(archives[1])] if kind == "wheel" else ["--editable", str(source)]))
        environment.pip("check")
        check_installed(environment, home=environment.site_packages / "fqgan_hf" if kind == "wheel" else source)
    finally:
        shutil.rmtree(environment.folder)  # 5 GB

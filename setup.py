# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Package definition. `modeling/` and `training/` sit at the root of the repository and install inside `fqgan_hf`."""

import re
from pathlib import Path

from setuptools import find_packages, setup


ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    source = (ROOT / "fqgan_hf" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"', source, re.MULTILINE)
    if match is None:
        raise RuntimeError("fqgan_hf/__init__.py defines no __version__")
    return match.group(1)


CORE = [
    "torch>=2.6",
    "transformers>=5.24,<6",
    # fqgan_hf/hub/registration.py writes into tables that are internal to diffusers: hence the upper bound.
    "diffusers>=0.41,<0.43",
    "accelerate>=1.10",
    "huggingface_hub>=1.3,<3",
    "safetensors>=0.5",
    "filelock>=3.12",
    "numpy>=2.0",
    "pillow>=11.0",
    "tqdm>=4.66",
    "jinja2>=3.1",
]

EXTRAS = {
    "train": [
        "datasets>=4.0",
        "matplotlib>=3.9",
        "pyarrow>=19.0",
        "pyyaml>=6.0",
        "scikit-learn>=1.5",
        "tokenizers>=0.20",
        "tensorboard>=2.18",  # accelerate's tracker for --report_to tensorboard
    ],
    # torchvision, which lpips imports, without bounds: pip finds the build that belongs to the installed torch.
    "eval": [
        "torchvision",
        "datasets>=4.0",
        "evaluate>=0.4.6",
        "lpips>=0.1.4",
        "matplotlib>=3.9",
        "pyarrow>=19.0",
        "scikit-learn>=1.5",
        "threadpoolctl>=3.0",
        "torch-fidelity>=0.4",
        "torchmetrics>=1.6",
    ],
    "space": ["gradio>=6.0,<7"],
}
SITE = ["furo>=2025.7", "myst-parser>=4.0", "sphinx>=8.1", "sphinx-copybutton>=0.5"]
TOOLS = [
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "ruff>=0.17,<0.18",
    "pre-commit>=4.0",
    "build>=1.2",
    "selenium>=4.20",
    "setuptools>=77",
    "twine>=6.0",
]
EXTRAS["dev"] = sorted({*TOOLS, *(requirement for extra in EXTRAS.values() for requirement in extra)})

EXTRAS["bench"] = [*EXTRAS["train"], "vector-quantize-pytorch>=1.32"]  # a peer, for benchmarks/ only
EXTRAS["docs"] = [*EXTRAS["eval"], *SITE]

PACKAGE_DIRS = {
    "fqgan_hf": "fqgan_hf",
    "fqgan_hf.modeling": "modeling",
    "fqgan_hf.training": "training",
    "fqgan_hf.model_cards": "model_cards",
    "fqgan_hf.spaces_demo": "spaces_demo",  # what `fqgan push-space` uploads
}

PACKAGES = [
    package
    for name, folder in PACKAGE_DIRS.items()
    for package in (name, *(f"{name}.{part}" for part in find_packages(folder)))
]

setup(
    name="fqgan-hf",
    version=read_version(),
    description="Factorized visual tokenizers and autoregressive image generation on diffusers and transformers",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=PACKAGES,
    package_dir=PACKAGE_DIRS,
    package_data={
        "fqgan_hf": ["py.typed"],
        "fqgan_hf.evaluation": ["*.html"],
        "fqgan_hf.evaluation.modules": ["*/*.py", "*/README.md"],  # folders that `evaluate` loads, no packages
        "fqgan_hf.kernels": ["cpu_kernels.cpp"],
        "fqgan_hf.training": ["configs/*.yaml", "configs/*.json"],
        "fqgan_hf.model_cards": ["*.md"],
        "fqgan_hf.spaces_demo": ["*", "pipeline/*", "pipeline/*/*"],
    },
    include_package_data=False,
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["fqgan = fqgan_hf.cli:program"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)

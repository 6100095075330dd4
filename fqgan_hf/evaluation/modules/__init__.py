# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Our figures as modules of the library `evaluate`; they load from this folder, without a network.

    frechet_distance = load_metric("frechet_distance")      # or evaluate.load(metric_path("frechet_distance"))
    frechet_distance.add_batch(predictions=features_of_samples, references=features_of_images)
    frechet_distance.compute()

A folder here is a module: the code, and a README.md that describes it. The figures themselves are computed by
`fqgan_hf.evaluation`, which is what `fqgan evaluate` uses and what large sets need: `evaluate` keeps all that it is
given on disk, and hands it over at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from evaluate import Metric

_FOLDER = Path(__file__).resolve().parent
METRICS = tuple(sorted(path.parent.name for path in _FOLDER.glob("*/README.md")))


def metric_path(name: str) -> str:
    """
    The folder of a module, as `evaluate.load` takes it.

    Args:
        name (`str`): One of `METRICS`.

    Raises:
        ValueError: There is no such module.
    """
    if name not in METRICS:
        raise ValueError(f"name must be one of {', '.join(METRICS)}, got {name!r}")
    return str(_FOLDER / name)


def load_metric(name: str, **settings: Any) -> "Metric":
    """
    A module, ready for `add_batch` and `compute`.

    Args:
        name (`str`): One of `METRICS`.
        **settings: Of `evaluate.load`, such as `num_process`, `process_id` and `experiment_id`.

    Raises:
        ValueError: There is no such module, or `keep_in_memory`, which `evaluate` cannot do with these inputs.
        ImportError: The library is not installed.
    """
    path = metric_path(name)
    if settings.get("keep_in_memory"):
        raise ValueError("keep_in_memory must be False: `evaluate` fails with it")
    try:
        import evaluate
    except ImportError as error:
        raise ImportError("load_metric needs the library evaluate: pip install 'fqgan-hf[eval]'") from error
    return evaluate.load(path, **settings)

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""A folder to the Hub: `fqgan push` from Python.

    push_folder("outputs/demo", "org/digits")       the pipeline of a demo, with its pictures and its report
    push_folder("outputs/fqgan", "org/tokenizer", evaluations=["evaluation.json"], variant="bf16")

Everything that can be checked is checked before a model is loaded, and everything is there before anything is sent.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fqgan_hf.evaluation_results import load_result
from fqgan_hf.files import read_json
from fqgan_hf.hub.card_info import CARD_FILE, CardInfo, EvaluationFigures, merged
from fqgan_hf.hub.facts import folder_facts, folder_kind
from fqgan_hf.hub.kinds import ModelKind, kind_named
from fqgan_hf.hub.push import PushPlan, check_access, check_names, push_to_hub
from fqgan_hf.hub.self_contained import check_self_contained
from fqgan_hf.hub.variants import check_variant, stored_variant, variant_of, widest
from fqgan_hf.modeling.checkpoint_files import read_header


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

PIPELINE = "pipeline"  # subfolder of a run's folder, as `fqgan demo` leaves it
RUN_PICTURES = ("samples.png", "reconstruction.png")
RUN_REPORT = "report.json"


@dataclass(frozen=True)
class Publication:
    """
    What a folder gives to publish.

    Args:
        folder (`Path`): Of the model or pipeline.
        kind (`ModelKind`): Its kind.
        card (`CardInfo`): What its card tells.
        files (`dict[str, Path]`): More files, by their paths in the repository.
        own_card (`Path`, *optional*): A README.md that this package did not write, and that stays as it is.
    """

    folder: Path
    kind: ModelKind
    card: CardInfo
    files: dict[str, Path]
    own_card: Path | None = None


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    variant: str | None = None,
    dtype: str | None = None,
    evaluations: Iterable[str | Path] = (),
    images: Iterable[str | Path] = (),
    license: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: int | str | None = None,
    self_contained: bool = False,
    dry_run: bool = False,
) -> "CommitInfo | PushPlan":
    """
    Publish a folder in one commit: model or pipeline, code files, card, results and pictures.

    Args:
        folder (`str` or `Path`): Of a tokenizer, a generator or a pipeline; or of a run, such as `fqgan demo`'s, whose
            subfolder `pipeline` is published with its pictures and its report.
        repo_id (`str`): "org/name", or "name" for the namespace of the token's owner.
        variant (`str`, *optional*): "bf16", "fp16" or "fp32": weights of that type, beside those without a variant.
        dtype (`str`, *optional*): Type of the weights, such as "bfloat16"; by default as they are.
        evaluations (`Iterable[str | Path]`): Results of `fqgan evaluate`, for the card and for `evaluation/`.
        images (`Iterable[str | Path]`): PNG files, for the card and for `images/`.
        license (`str`, *optional*): Of the weights, as the Hub spells it.
        private, token, commit_message, revision, create_pr, max_shard_size, self_contained, dry_run: See
            [`push_to_hub`].

    Returns:
        `huggingface_hub.CommitInfo`, or with `dry_run` a [`PushPlan`].

    Raises:
        ValueError: Something about the arguments or in the folder is wrong; nothing has been sent then.
        FileNotFoundError: A file is not there.
        OSError: The Hub does not answer.
    """
    check_names(repo_id, revision)
    dtype = check_variant(variant, dtype)
    publication = find_publication(folder, evaluations, images, license)
    check_self_contained(publication.kind, self_contained)
    folder_facts(publication.folder)  # raises for weights that are missing or cut off
    if not dry_run:
        check_access(repo_id, token, create_pr)
    files = dict(publication.files)
    if publication.own_card is not None:
        files["README.md"] = publication.own_card
    return push_to_hub(
        **_load(publication, dtype),
        repo_id=repo_id,
        variant=variant,
        files=files,
        card=publication.card,
        write_card=publication.own_card is None,
        private=private,
        token=token,
        commit_message=commit_message,
        revision=revision,
        create_pr=create_pr,
        max_shard_size=max_shard_size,
        self_contained=self_contained,
        dry_run=dry_run,
    )


# ---- What there is to publish ---------------------------------------------------------------------------------------


def find_publication(
    folder: str | Path,
    evaluations: Iterable[str | Path] = (),
    images: Iterable[str | Path] = (),
    license: str | None = None,
) -> Publication:
    """
    Find what a folder gives to publish, and check it; no model is loaded.

    Args:
        folder, evaluations, images, license: See [`push_folder`].

    Raises:
        ValueError, FileNotFoundError: See [`push_folder`].
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"folder must be that of a model or a pipeline, there is no folder {folder}")
    evaluations, images = [Path(path) for path in evaluations], [Path(path) for path in images]
    files, cost = {}, ""
    if not _is_model(folder) and _is_model(folder / PIPELINE):
        run, folder = folder, folder / PIPELINE
        images = [*(run / name for name in RUN_PICTURES if (run / name).is_file()), *images]
        if (run / RUN_REPORT).is_file():
            files[f"evaluation/{RUN_REPORT}"] = run / RUN_REPORT
        cost = _cost_of_run(run)
    kind, card = folder_kind(folder), CardInfo.read(folder)
    own_card = folder / "README.md"
    if not own_card.is_file() or (folder / CARD_FILE).is_file():
        own_card = None
    elif evaluations or images or license:
        raise ValueError(
            f"{own_card} was not written by this package and would be published as it is: evaluations, images and "
            "license need a generated card, for which it must be moved away"
        )
    for pattern in ("evaluation/*.json", "images/*.png", "LICENSE*"):  # of an earlier push; licences of the data
        files |= {path.relative_to(folder).as_posix(): path for path in sorted(folder.glob(pattern))}
    results = {f"evaluation/{path.name}": path for path in _distinct("evaluations", evaluations)}
    pictures = {f"images/{path.name}": path for path in _distinct("images", images)}
    for path in pictures.values():
        _check_picture(path)
    found = [EvaluationFigures.of_result(_checked_result(path, folder), name) for name, path in results.items()]
    files |= results | pictures
    card = replace(
        card,
        license=license or card.license,
        cost=card.cost or cost,
        evaluations=[one for one in merged(card.evaluations, found) if one.file in (None, *files)],
        images=list(dict.fromkeys([name for name in [*card.images, *pictures] if name in files])),
    )
    return Publication(folder, kind, card, files, own_card)


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("model_index.json", "config.json"))


def _cost_of_run(run: Path) -> str:
    """What `timings.json` of a demo says, in a sentence."""
    if not (run / "timings.json").is_file():
        return ""
    timings = read_json(run / "timings.json")
    seconds, processor = (timings.get("seconds") or {}).get("total"), timings.get("cpu_seconds")
    if not all(isinstance(number, (int, float)) for number in (seconds, processor)):
        return ""
    return f"{seconds:,.0f} seconds, training and evaluation together; {processor:,.0f} seconds of processor time."


def _distinct(name: str, paths: list[Path]) -> list[Path]:
    """Raise `ValueError` where two files would become one."""
    for i, path in enumerate(paths):
        if any(other.name == path.name for other in paths[:i]):
            raise ValueError(f"{name} must have different names, got {path.name} twice")
        if not path.is_file():
            raise FileNotFoundError(f"{name}: there is no file {path}")
    return paths


def _checked_result(path: Path, folder: Path) -> dict[str, Any]:
    """A result of `fqgan evaluate`, which must not be that of another tokenizer."""
    result = load_result(path)
    fingerprint = result["subject"].get("fingerprint")
    if result.get("kind") == "reconstruction" and fingerprint:
        facts = folder_facts(folder)
        ours = (
            facts.get("fingerprint") or facts.get("vqmodel", {}).get("fingerprint") or facts["tokenizer_fingerprint"]
        )
        if ours not in (None, fingerprint):
            raise ValueError(
                f"evaluations: {path} is a result of another tokenizer, with the fingerprint {fingerprint[:16]}... "
                f"instead of {ours[:16]}..."
            )
    return result


def _check_picture(path: Path) -> None:
    """Raise `ValueError` for what browsers would not show."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as picture:
            picture.load()
    except Exception as error:  # Pillow raises whatever a damaged file leads it to
        raise ValueError(f"images must be PNG files that can be read, got {path}") from error


# ---- Loading --------------------------------------------------------------------------------------------------------


def _load(publication: Publication, dtype: str | None) -> dict[str, Any]:
    """The arguments of `push_to_hub` that a folder's models are: `obj`, `image_processor` and `parts`."""
    import torch

    from fqgan_hf.pretrained import load_pretrained

    folder, kind, variant = publication.folder, publication.kind, stored_variant(publication.folder)
    settings: dict[str, Any] = {} if variant is None else {"variant": variant}
    if kind.role == "pipeline":
        names = [path.name for path in folder.iterdir() if path.is_dir()]
        settings["torch_dtype"] = {name: getattr(torch, _stored_dtype(folder / name)) for name in names}
        return {"obj": _cast(load_pretrained(kind.load_class(), folder, "folder", **settings), dtype)}
    settings["torch_dtype" if kind.model_type is None else "dtype"] = getattr(torch, _stored_dtype(folder))
    arguments = {"obj": _cast(load_pretrained(kind.load_class(), folder, "folder", **settings).eval(), dtype)}
    if (folder / "preprocessor_config.json").is_file():
        processor = kind_named("FQGANImageProcessor").load_class()
        arguments["image_processor"] = load_pretrained(processor, folder, "folder")
    return {**arguments, "parts": _load_parts(folder)}


def _load_parts(folder: Path) -> dict[str, Any]:
    """What a training leaves beside a generator, each in its subfolder."""
    from transformers import AutoTokenizer

    from fqgan_hf.pretrained import load_pretrained

    parts = {}
    if (folder / "scheduler").is_dir():
        scheduler = kind_named("CodeDiffusionScheduler").load_class()
        parts["scheduler"] = load_pretrained(scheduler, folder / "scheduler", "folder")
    if (folder / "tokenizer").is_dir():
        parts["tokenizer"] = load_pretrained(AutoTokenizer, folder / "tokenizer", "folder")
    return parts


def _stored_dtype(folder: Path) -> str:
    """The type of the weights in a folder, of several types the widest."""
    variant = stored_variant(folder) or ""
    files = [path for path in folder.glob("*.safetensors") if variant_of(path.name) == variant]
    return widest(tensor.dtype for path in files for tensor in read_header(path).values())


def _cast(obj: Any, dtype: str | None) -> Any:
    """A model, or a pipeline's models, with weights of a type; `ValueError` for what is too large for it."""
    import torch

    if dtype is not None:
        for model in obj.components.values() if hasattr(obj, "components") else [obj]:
            if isinstance(model, torch.nn.Module):
                model.to(getattr(torch, dtype))
                for name, tensor in model.state_dict().items():
                    if not tensor.isfinite().all():
                        place = f"{name} of {type(model).__name__}"
                        raise ValueError(f"dtype {dtype} is too narrow for {place}, whose values would be infinite")
    return obj

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What a model card tells that the weights and the configuration can't, and the file that keeps it beside a model.

    CardInfo(license="mit", training="Forty epochs.").write(folder)     card.json
    info = CardInfo.read(folder)                                        for the card of the next push

Whoever edits `card.json` and pushes again has the change in the card.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from fqgan_hf.evaluation_results import described_protocol, load_result, titled_figures
from fqgan_hf.files import read_json, write_json


CARD_FILE = "card.json"
FORMAT_VERSION = 1
CONVERTED_LICENSE = "cc-by-nc-4.0"  # of the published FQGAN and FAR weights


@dataclass
class EvaluationFigures:
    """
    Figures of one evaluation.

    Args:
        dataset (`str`): What they were measured on.
        metrics (`dict[str, float]`): Figures by name; finite.
        kind (`str`, *optional*): "reconstruction" or "generation".
        file (`str`, *optional*): Where in the repository the whole result is.
    """

    dataset: str
    metrics: dict[str, float]
    kind: str | None = None
    file: str | None = None

    def __post_init__(self):
        self.metrics = {name: float(value) for name, value in self.metrics.items()}
        for name, value in self.metrics.items():
            if not math.isfinite(value):
                raise ValueError(f"metrics must be finite numbers, got {name} = {value}")
        if self.metrics and not self.dataset:
            raise ValueError("evaluation_dataset must name what the metrics were measured on, got None")

    @classmethod
    def of_result(cls, result: str | Path | dict[str, Any], file: str | None = None) -> "EvaluationFigures":
        """
        The figures of a result of `fqgan evaluate`, under the names of their protocol.

        Args:
            result (`str`, `Path` or `dict`): The file, or what is in it.
            file (`str`, *optional*): See the class.

        Raises:
            ValueError: It is no such result.
        """
        result = result if isinstance(result, dict) else load_result(result)
        metrics = {}
        for title, value in titled_figures(result).items():
            values = value if isinstance(value, list) else [value]
            for k, number in enumerate(values):
                metrics[f"{title} ({k})" if len(values) > 1 else title] = number
        return cls(described_protocol(result), metrics, result["kind"], file)


@dataclass
class CardInfo:
    """
    What a model card tells that the weights and the configuration can't.

    Args:
        title (`str`, *optional*): Heading of the card. Default: the repository's name.
        license (`str`): License of the *weights*, as the Hub spells it ("apache-2.0", "cc-by-nc-4.0").
        datasets (`list[str]`): Training data, by Hub id where there is one (only ids go into the front matter).
        training (`str`): How the model was trained, in Markdown.
        cost (`str`): What that took: hours, machines.
        metrics (`dict[str, float]`): Measured figures by name, e.g. `{"rFID": 0.94, "PSNR": 22.02}`.
        evaluation_dataset (`str`, *optional*): What the metrics were measured on. Required with `metrics`.
        evaluations (`list[EvaluationFigures]`): Further figures, of other data or another protocol.
        images (`list[str]`): Pictures to show, by their paths in the repository: "images/samples.png".
        prompts (`list[str]`): Examples for a model of prompts: the Hub's widget and the Space offer them.
        limitations (`str`): What the model should not be used for, in Markdown.
        base_model (`str`, *optional*): Hub id of the checkpoint this one was made from.
        converted_from (`str`, *optional*): The checkpoint in the published layout that the weights come from.
        tags (`list[str]`): More tags for the Hub.
    """

    title: str | None = None
    license: str = "apache-2.0"
    datasets: list[str] = field(default_factory=list)
    training: str = ""
    cost: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    evaluation_dataset: str | None = None
    evaluations: list[EvaluationFigures] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    limitations: str = ""
    base_model: str | None = None
    converted_from: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.metrics = EvaluationFigures(self.evaluation_dataset or "", self.metrics).metrics
        if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            raise ValueError(
                f'license must be a name as the Hub spells it, such as "apache-2.0" or "cc-by-nc-4.0", '
                f"got {self.license!r:.80}"
            )

    @classmethod
    def from_evaluation(cls, result: str | Path | dict[str, Any], **more: Any) -> "CardInfo":
        """
        With the figures of a result of `fqgan evaluate`, under the names of their protocol.

        Args:
            result (`str`, `Path` or `dict`): The file, or what is in it.
            **more: The rest, such as `training` and `license`.

        Raises:
            ValueError: It is no such result.
        """
        found = EvaluationFigures.of_result(result)
        return cls(metrics=found.metrics, evaluation_dataset=found.dataset, **more)

    @property
    def all_evaluations(self) -> list[EvaluationFigures]:
        """`metrics` and `evaluations` as one list."""
        own = [EvaluationFigures(self.evaluation_dataset, self.metrics)] if self.metrics else []
        return own + self.evaluations

    @property
    def files(self) -> list[str]:
        """What of the repository the card shows or points to."""
        return [*self.images, *(found.file for found in self.evaluations if found.file)]

    @classmethod
    def read(cls, folder: Path) -> "CardInfo":
        """
        What `write` left in a folder, the defaults where it left nothing.

        Raises:
            ValueError: The file is damaged, or says something that a card does not have.
        """
        path = folder / CARD_FILE
        if not path.is_file():
            return cls()
        content = read_json(path)
        version = content.pop("format_version", None)
        try:
            if version != FORMAT_VERSION:
                raise ValueError(f"format_version must be {FORMAT_VERSION}, got {version!r:.80}")
            _check_types(cls, content)
            evaluations = content.pop("evaluations", [])
            for one in evaluations:
                _check_types(EvaluationFigures, one)
            info = cls(**content, evaluations=[EvaluationFigures(**one) for one in evaluations])
            for name in info.files:
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                    raise ValueError(f"files must lie in the folder, got {name!r:.80}")
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error
        return info

    def write(self, folder: Path) -> None:
        """Keep in `card.json` what differs from the defaults."""
        content = {name: value for name, value in asdict(self).items() if value != getattr(CardInfo(), name)}
        write_json(folder / CARD_FILE, {"format_version": FORMAT_VERSION, **content})


def _check_types(owner: type, content: Any) -> None:
    """Raise `ValueError` for what is no field of a card, is missing, or is of another type."""
    known = {one.name: one for one in fields(owner)}
    if not isinstance(content, dict):
        raise ValueError(f"evaluations must be JSON objects, got {type(content).__name__}")
    if unknown := sorted(content.keys() - known.keys()):
        raise ValueError(f"{unknown[0]!r:.80} is nothing that a card tells, accepted are {', '.join(known)}")
    for name, one in known.items():
        if name not in content:
            if one.default is MISSING and one.default_factory is MISSING:
                raise ValueError(f"{name} must be given")
        elif not _fits(content[name], str(one.type)):
            raise ValueError(f"{name} must be of type {_name_of(one.type)}, got {content[name]!r:.80}")


def _fits(value: Any, kind: str) -> bool:
    if "dict" in kind:
        return isinstance(value, dict) and all(type(number) in (int, float) for number in value.values())
    if "list" in kind:
        item = str if "str" in kind else dict
        return isinstance(value, list) and all(isinstance(one, item) for one in value)
    return isinstance(value, str) or (value is None and "None" in kind)


def _name_of(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)


def slug(name: str) -> str:
    """A name as the front matter's types are spelled: "rFID (50k)" is "rfid_50k"."""
    return re.sub(r"\W+", "_", name).strip("_").lower()


def merged(earlier: Iterable[EvaluationFigures], later: Iterable[EvaluationFigures]) -> list[EvaluationFigures]:
    """Evaluations, the later ones in place of earlier ones of the same file."""
    later = list(later)
    replaced = {one.file for one in later if one.file}
    return [one for one in earlier if one.file not in replaced] + later

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Reading a run's `metrics.jsonl`, whatever state it was left in."""

import json
from pathlib import Path
from typing import Any


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """
    Records of a `metrics.jsonl`: for each line its `step` and figures by name.

    A line that is no record is left out: a run that was killed while it wrote leaves a part of one. Without the file
    there are none.
    """
    path = Path(path)
    if not path.is_file():
        return []
    records = (_parse(line) for line in path.read_text(encoding="utf-8", errors="replace").split("\n"))
    return [record for record in records if record is not None]


def _parse(line: str) -> dict[str, float] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(record, dict) and type(record.get("step")) is int
    return record if is_record and all(map(_is_figure, record.values())) else None


def _is_figure(value: Any) -> bool:
    # A whole number too large for a float is none that we wrote.
    return type(value) is float or (type(value) is int and abs(value) < 2**63)

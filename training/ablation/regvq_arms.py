# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The arms of `regvq`: what distinguishes each tokenizer from the preset that all of them share."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RegVQArm:
    """
    One row of a table.

    Args:
        title (`str`): What the table calls it.
        part (`int`): Of the experiment, 1 to 4: in whose table it stands.
        config (`dict`): Settings of the tokenizer over those of the preset.
        weights (`dict[str, float]`): Options `{name}_weight` of its training over those of the preset.
        generates (`bool`): Whether a generator is trained on its codes.
        claims (`bool`): Whether what the paper claims rests on it: it runs with all seeds, others with the first two.
        paper (`dict[str, float]`): The paper's reconstruction FID, PSNR in dB and generation FID of this step on
            ADE20K, at N = 1,024.
    """

    title: str
    part: int
    config: dict[str, Any]
    weights: dict[str, float] = field(default_factory=dict)
    generates: bool = True
    claims: bool = False
    paper: dict[str, float] = field(default_factory=dict)


def _regularized(mask_ratio: float, **more: Any) -> dict[str, Any]:
    return {"quantizer_type": "regularized", "mask_ratio": mask_ratio, **more}


def _paper(rfid: float, psnr: float, gfid: float) -> dict[str, float]:
    return {"rfid": rfid, "psnr": psnr, "gfid": gfid}


NO_PRIOR = {"prior": 0.0}
CONTRASTIVE_WEIGHT = 0.02
TWO_CODEBOOKS = {"num_codebooks": 2, "codebook_size": 32, "adapter_num_layers": 1}  # 2 x 5 bits, as 1 x 1,024 codes

REGVQ = {
    "deterministic": RegVQArm(
        "deterministic", 1, _regularized(0.0), NO_PRIOR, claims=True, paper=_paper(28.17, 18.89, 38.53)
    ),
    "prior": RegVQArm("+ prior", 1, _regularized(0.0), claims=True, paper=_paper(25.92, 18.98, 36.57)),
    "mask": RegVQArm("+ mask 40 %", 1, _regularized(0.4), claims=True, paper=_paper(25.11, 18.56, 35.03)),
    "contrastive": RegVQArm(
        "+ contrastive", 1, _regularized(0.4), {"contrastive": CONTRASTIVE_WEIGHT}, paper=_paper(24.21, 18.49, 34.91)
    ),
    "pcl": RegVQArm(
        "+ PCL instead", 1, _regularized(0.4), {"pcl": CONTRASTIVE_WEIGHT}, claims=True,
        paper=_paper(23.69, 18.44, 34.47),
    ),
    "nearest": RegVQArm("nearest neighbour, no entropy term", 1, {}, {"entropy": 0.0}),
    "nearest-entropy": RegVQArm("nearest neighbour, entropy term", 1, {}),
    "gumbel": RegVQArm("Gumbel (all positions sampled), no prior", 1, {"quantizer_type": "gumbel"}),
    "mask-0.2": RegVQArm("mask 20 %", 2, _regularized(0.2)),
    "mask-0.6": RegVQArm("mask 60 %", 2, _regularized(0.6)),
    "mask-1.0": RegVQArm("mask 100 %", 2, _regularized(1.0)),
    "size-256": RegVQArm("N = 256", 3, _regularized(0.0, codebook_size=256), NO_PRIOR, generates=False),
    "size-256-prior": RegVQArm("N = 256, prior", 3, _regularized(0.0, codebook_size=256), generates=False),
    "size-4096": RegVQArm("N = 4,096", 3, _regularized(0.0, codebook_size=4096), NO_PRIOR, generates=False),
    "size-4096-prior": RegVQArm("N = 4,096, prior", 3, _regularized(0.0, codebook_size=4096), generates=False),
    "dual": RegVQArm("FQGAN, 2 x 32", 4, TWO_CODEBOOKS),
    "regfq": RegVQArm("Reg-FQ, 2 x 32: prior and mask 40 %", 4, _regularized(0.4, **TWO_CODEBOOKS)),
    "regfq-pcl": RegVQArm(
        "Reg-FQ, 2 x 32: prior, mask 40 % and PCL", 4, _regularized(0.4, **TWO_CODEBOOKS), {"pcl": CONTRASTIVE_WEIGHT}
    ),
}  # fmt: skip

# The arms in the table of each part, and what it calls those that differ from it in this alone.
TABLES = {
    1: {name: arm.title for name, arm in REGVQ.items() if arm.part == 1},
    2: {
        "prior": "mask 0 %",
        "mask-0.2": "mask 20 %",
        "mask": "mask 40 %",
        "mask-0.6": "mask 60 %",
        "mask-1.0": "mask 100 %",
    },
    3: {
        "size-256": "N = 256",
        "size-256-prior": "N = 256, prior",
        "deterministic": "N = 1,024",
        "prior": "N = 1,024, prior",
        "size-4096": "N = 4,096",
        "size-4096-prior": "N = 4,096, prior",
    },
    4: {
        "nearest-entropy": "nearest neighbour, 1 x 1,024",
        "dual": "FQGAN, 2 x 32",
        "mask": "Reg-VQ without PCL, 1 x 1,024",
        "regfq": "Reg-FQ without PCL, 2 x 32",
        "pcl": "Reg-VQ, 1 x 1,024",
        "regfq-pcl": "Reg-FQ, 2 x 32",
    },
}


def in_order(arms: list[str], seeds: list[int]) -> list[tuple[str, int]]:
    """
    Which runs there are, in the order in which they are worth most: part 1 with two seeds, the others with one, the
    claims' other seeds, and the rest.
    """
    first = [arm for arm in arms if REGVQ[arm].part == 1]
    others = [arm for arm in arms if REGVQ[arm].part != 1]
    claims = [arm for arm in arms if REGVQ[arm].claims]
    rounds = [(first, seeds[:1]), (first, seeds[1:2]), (others, seeds[:1]), (claims, seeds[2:]), (others, seeds[1:2])]
    return [(arm, seed) for chosen, of_round in rounds for seed in of_round for arm in chosen]

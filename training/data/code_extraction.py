# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""From images to a store of codes, as `fqgan_hf.training.extract_codes` runs it."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm.auto import tqdm

from fqgan_hf.evaluation.images import LabelledImages, UnreadableImageError, check_label, load_images
from fqgan_hf.failures import raise_if_interrupted
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.pretrained import load_pretrained
from fqgan_hf.training.common.launch import check_launch, own_folder
from fqgan_hf.training.data.codes import finish, is_written, shard_name, write_shard
from fqgan_hf.training.data.codes_manifest import CodesManifest, check_can_draw
from fqgan_hf.training.data.crops import CROPS, to_pixel_values


if TYPE_CHECKING:
    from fqgan_hf.training.extract_codes import ExtractCodesArguments


class Views(Dataset):
    """All views of each image in a range: `(views, 3, H, W)` in [-1, 1]."""

    def __init__(self, images: LabelledImages, indices: range, crop: str, resolution: int):
        self.images = images
        self.indices = indices
        self.make_views = CROPS[crop][1]
        self.resolution = resolution

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor | int | str]:
        index = self.indices[position]
        try:
            image, label = self.images[index]
        except UnreadableImageError as error:
            if self.images.bad is None:
                raise
            self.images.bad.add(self.images.name(index), error)
            return {"skipped": self.images.name(index)}
        check_label(label, self.images.label_names, self.images.name(index))
        views = [to_pixel_values(view) for view in self.make_views(image, self.resolution)]
        return {"views": torch.stack(views), "label": label, "id": self.images.name(index), "index": index}


def _collate(items: list[dict]) -> tuple[dict | None, list[str]]:
    """The batch of what could be read, if anything, and the ids of what could not."""
    read = [item for item in items if "skipped" not in item]
    return default_collate(read) if read else None, [item["skipped"] for item in items if "skipped" in item]


def draws_of(seed: int, index: int, view: int) -> torch.Generator:
    """
    The random numbers of one view of one image: those of no other, whatever is encoded along with it.

    Args:
        seed (`int`): Of the extraction.
        index (`int`): Number of the image among all.
        view (`int`): Number of the view.

    Returns:
        `torch.Generator`: On the CPU, so that all devices draw the same.
    """
    state = np.random.SeedSequence((seed, index, view)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


def _encode_view(
    model: FQGANModel, pixel_values: torch.Tensor, seed: int | None, indices: list[int], view: int
) -> torch.Tensor:
    """Codes `(B, K, h, w)` of one view of some images `(B, 3, H, W)`: the likeliest ones, or with a seed drawn."""
    draws = None if seed is None else [draws_of(seed, index, view) for index in indices]
    return model.encode(pixel_values.to(model.device), generator=draws).codes


@torch.no_grad()
def _encode_shard(
    model: FQGANModel, views: Views, args: "ExtractCodesArguments", manifest: CodesManifest, bar: tqdm
) -> tuple[list[str], list[int], torch.Tensor, list[str]]:
    """Ids, labels, codes `(images, views, K, h, w)` and ids of skipped images of one shard."""
    ids, labels, skipped = [], [], []
    codes = [torch.empty(0, *manifest.shape, dtype=torch.int64)]
    for batch, unread in DataLoader(
        views, args.batch_size, num_workers=args.dataloader_num_workers, collate_fn=_collate
    ):
        skipped += unread
        bar.update(len(unread))
        if batch is None:
            continue
        # View by view, so that the batch in memory is batch_size whatever the number of views.
        indices = batch["index"].tolist()
        grids = [
            _encode_view(model, pixel_values, manifest.seed, indices, view)
            for view, pixel_values in enumerate(batch["views"].unbind(1))
        ]
        codes.append(torch.stack(grids, dim=1).cpu())
        ids += batch["id"]
        labels += batch["label"].tolist()
        bar.update(len(batch["id"]))
    return ids, labels, torch.cat(codes), skipped


def extract(args: "ExtractCodesArguments") -> None:
    """Encode all images, in a folder that no other extraction writes to."""
    raise_if_interrupted()  # some library may have swallowed it while it was imported
    accelerator = Accelerator()
    check_launch(accelerator)
    with own_folder(accelerator, args.output_dir, "extracts codes"):
        _write_codes(accelerator, args)
    accelerator.end_training()


def _write_codes(accelerator: Accelerator, args: "ExtractCodesArguments") -> None:
    """Build, loop and save."""
    folder = Path(args.output_dir)

    # Build
    model = load_pretrained(FQGANModel, args.tokenizer, "tokenizer").to(accelerator.device).eval()
    resolution = args.resolution or model.config.sample_size
    model.grid_size(resolution, resolution)  # raises for a resolution that the tokenizer cannot encode
    if args.stochastic:
        check_can_draw(model.config)
    if model.config.codebook_size > 2**16:
        raise ValueError(
            f"codes are stored in 16 bits: codebook_size must be at most 65536, got {model.config.codebook_size}"
        )
    if accelerator.is_main_process:
        (folder / "bad_images.txt").unlink(missing_ok=True)  # of a run that was stopped: shards know their own
    with accelerator.main_process_first():
        images = load_images(args)
    manifest = CodesManifest.describe(model, args.tokenizer, images, args.crop, resolution, args.shard_size, args.seed)

    # Loop: each process takes every n-th shard; which images a shard holds does not depend on n.
    shards = [range(i, min(i + args.shard_size, len(images))) for i in range(0, len(images), args.shard_size)]
    mine = list(enumerate(shards))[accelerator.process_index :: accelerator.num_processes]
    bar = tqdm(
        total=sum(len(indices) for _, indices in mine), unit="images", disable=not accelerator.is_local_main_process
    )
    for number, indices in mine:
        path = folder / shard_name(number)
        if is_written(path, manifest, len(indices)):
            bar.update(len(indices))
            continue
        views = Views(images, indices, args.crop, resolution)
        write_shard(path, manifest, *_encode_shard(model, views, args, manifest, bar))
    bar.close()

    # Save
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        finish(folder, manifest)
    accelerator.wait_for_everyone()

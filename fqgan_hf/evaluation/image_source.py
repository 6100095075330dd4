# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The options that name images. Importing this file costs nothing; `images` reads them."""

from dataclasses import dataclass
from pathlib import Path

from fqgan_hf.option_checks import check_at_least, check_values, option


MAX_NUM_LABELS = 256  # of a label map, a pixel of which has 8 bits


@dataclass(kw_only=True)
class ImageDataArguments:
    """Where images come from; the scripts that read images share these options."""

    train_data_dir: str | None = option(None, "Folder of images (a subfolder per class), parquet or webdataset files.")
    dataset_name: str | None = option(None, "Dataset on the Hub, or a local folder with splits, instead of a folder.")
    dataset_config_name: str | None = option(None, "Configuration of --dataset_name, where it has several.")
    split: str = option("train", "Split of --dataset_name to read.")
    cache_dir: str | None = option(None, "Where `datasets` keeps what it downloads and prepares.")
    image_column: str | None = option(None, "Column of the images. By default the only image column.")
    label_column: str | None = option(None, "Column of the labels. By default `label`, or the only class column.")
    resolution: int | None = option(None, "Height and width of the crops. By default the tokenizer's sample_size.")
    max_train_samples: int | None = option(None, "Use only this many images, the first ones.")
    skip_bad_images: bool = option(
        False,
        "In place of an image that cannot be read use the next one, for up to one in a hundred; they are named in "
        "the log and in bad_images.txt. Otherwise the first such image ends the run.",
    )
    dataloader_num_workers: int = option(0, "Processes that decode images, for each training process.")

    def __post_init__(self):
        check_values(self)
        if (self.train_data_dir is None) == (self.dataset_name is None):
            raise ValueError(
                "exactly one of --train_data_dir and --dataset_name must be given, "
                f"got train_data_dir={self.train_data_dir!r} and dataset_name={self.dataset_name!r}"
            )
        if self.train_data_dir is not None and not Path(self.train_data_dir).is_dir():
            raise FileNotFoundError(f"train_data_dir must be a folder, got {self.train_data_dir!r}")
        check_at_least(self, 1, "resolution", "max_train_samples")
        check_at_least(self, 0, "dataloader_num_workers")


def check_source(source: str | Path, split: str | None = None, option: str = "source") -> None:
    """Raise `FileNotFoundError` or `ValueError`, without opening anything, unless there may be images there."""
    path = Path(source)
    if split is None and not path.exists():
        raise FileNotFoundError(
            f"{option}: there is no file or folder {source} (a dataset on the Hub needs the name of a split, too)"
        )
    if split is None and path.is_file() and path.suffix != ".npz":
        raise ValueError(f"{option} must be a folder, an .npz file or a dataset with a split, got the file {source}")

# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Training on images that are read as they arrive, with a position in the stream that a resumed run finds again.

Each worker of each process has an endless stream of its own: `datasets` gives it some of the files, or every n-th
image where there are fewer files than processes, shuffled anew for each pass. What a stream holds depends on the seed,
the number of processes and the number of workers; which images make up step n then follows from n. To resume, the rows
before it are read again, but not decoded.
"""

from collections import deque
from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from accelerate.state import PartialState
from accelerate.utils import send_to_device
from datasets.distributed import split_dataset_by_node
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fqgan_hf.evaluation.images import StreamedImages, UnreadableImageError
from fqgan_hf.training.common.arguments import TrainingArguments
from fqgan_hf.training.data.datasets import AugmentedImages, ImageViews


Row = tuple[int, int, dict]  # epoch, position in the epoch, content


class StreamedSamples(IterableDataset):
    """
    The endless samples of one process.

    Args:
        dataset (`AugmentedImages` or `ImageViews`): Prepares a picture; its `images` are `StreamedImages`.
        args (`TrainingArguments`): Gives seed and buffer.
        process_index, num_processes (`int`): Of this process, and in all.
        num_skipped (`int`): Samples that each worker skips at the start.
    """

    def __init__(
        self,
        dataset: AugmentedImages | ImageViews,
        args: TrainingArguments,
        process_index: int,
        num_processes: int,
        num_skipped: int,
    ):
        self.dataset = dataset
        self.images: StreamedImages = dataset.images
        self.args = args
        self.process_index = process_index
        self.num_processes = num_processes
        self.num_skipped = num_skipped

    def __iter__(self) -> Iterator[dict[str, torch.Tensor | int]]:
        worker = get_worker_info()
        number = self.process_index if worker is None else self.process_index * worker.num_workers + worker.id
        rows, ahead = self.rows(), deque()
        for _ in range(self.num_skipped):
            next(rows)
        while True:
            epoch, position, row = ahead.popleft() if ahead else next(rows)
            yield self.dataset.prepare(*self.read(row, position, rows, ahead), epoch, number, position)

    def rows(self) -> Iterator[Row]:
        """Rows of this worker, pass after pass; `datasets` divides what a process has among its workers."""
        for epoch in count():
            # A new order by a new seed: `set_epoch` would change the epoch of the other workers, too.
            seed = int(np.random.SeedSequence([self.args.seed, epoch]).generate_state(1)[0])
            stream = self.images.stream.shuffle(seed=seed, buffer_size=self.args.streaming_buffer_size)
            position = -1
            for position, row in enumerate(split_dataset_by_node(stream, self.process_index, self.num_processes)):
                yield epoch, position, row
            if position < 0:
                raise ValueError(
                    f"streaming {self.images.source} gives a worker nothing to do: it has {stream.num_shards} files. "
                    "Use fewer --dataloader_num_workers"
                )

    def read(self, row: dict, position: int, rows: Iterator[Row], ahead: deque) -> tuple[Image.Image, int]:
        """
        Picture and label of a row; of the next readable one if it is unreadable and --skip_bad_images allows that.

        The rows read ahead still get their own turn, from `ahead`: each row is one sample, whether readable or not.
        """
        for i in count():
            try:
                return self.images.decode(row, position)
            except UnreadableImageError as error:
                if self.images.bad is None:
                    raise
                self.images.bad.add(self.images.name(row, position), error)  # raises before all of them are unreadable
            if i == len(ahead):
                ahead.append(next(rows))
            _, position, row = ahead[i]


class StreamLoader:
    """
    Batches of a stream from any step on, in place of a prepared `DataLoader`.

    Args:
        dataset (`AugmentedImages` or `ImageViews`): With `StreamedImages`.
        args (`TrainingArguments`): The run's.
        num_workers (`int`): For each process.
    """

    def __init__(self, dataset: AugmentedImages | ImageViews, args: TrainingArguments, num_workers: int):
        self.dataset = dataset
        self.args = args
        self.num_workers = num_workers

    def batches(self, first_batch: int) -> Iterator[dict[str, torch.Tensor]]:
        """The endless batches of this process, on its device, from number `first_batch` on."""
        state = PartialState()
        # Workers take turns, beginning with the first: go back to its last turn, and drop the batches since then.
        rounds, dropped = divmod(first_batch, max(self.num_workers, 1))
        num_skipped = rounds * self.args.train_batch_size
        samples = StreamedSamples(self.dataset, self.args, state.process_index, state.num_processes, num_skipped)
        dataloader = DataLoader(
            samples,
            batch_size=self.args.train_batch_size,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )
        for number, batch in enumerate(dataloader):
            if number >= dropped:
                yield send_to_device(batch, state.device, non_blocking=True)

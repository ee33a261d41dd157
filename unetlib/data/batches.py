"""A batch on its way: bytes in a worker process, float32 tensors where it is used."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info

from unetlib.data.preprocess import Preprocess, to_tensor

MOST_PIECES = 8  # of shared memory for a worker, where DataLoader has 3 of its batches on the way
_pieces: list[torch.Tensor] = []  # those of this worker process


@dataclass
class ByteBatch:
    """`n` images and masks as bytes, in one piece of memory.

    Bytes, because float32 is four times as much to hand over. A worker fills the same few pieces of
    shared memory again and again, because new ones cost more time than the augmentation does. The
    last byte of a piece is 1 while it is in use: `empty` sets it, `tensors` in the other process
    clears it. Pieces of an epoch that was broken off stay in use; when too many are, batches go in
    memory of their own.
    """

    memory: torch.Tensor
    n: int
    preprocess: Preprocess

    @classmethod
    def empty(cls, n: int, preprocess: Preprocess) -> "ByteBatch":
        size = n * preprocess.size[0] * preprocess.size[1] * 4
        memory = None if get_worker_info() is None else _free_piece(size)
        if memory is None:
            memory = torch.empty(size + 1, dtype=torch.uint8)
            memory[-1] = 0
        return cls(memory, n, preprocess)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """uint8 images (N, H, W, 3) and masks (N, H, W), to be written and read in place."""
        h, w = self.preprocess.size
        images, masks, _ = np.split(self.memory.numpy(), np.array([3, 4]) * self.n * h * w)
        return images.reshape(self.n, h, w, 3), masks.reshape(self.n, h, w)

    def tensors(self, pin: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 (N, 3, H, W), normalised, and (N, 1, H, W) in [0, 1]. The bytes are given up."""
        photos, bytes = self.arrays()
        images = torch.empty((self.n, 3, *self.preprocess.size), pin_memory=pin)
        masks = torch.empty((self.n, 1, *self.preprocess.size), pin_memory=pin)
        for photo, out in zip(photos, images, strict=True):
            to_tensor(photo, self.preprocess, out=out)
        np.divide(bytes[:, None], np.float32(255), out=masks.numpy())
        self.memory[-1] = 0
        return images, masks

    def pin_memory(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What DataLoader calls, in a thread, where a GPU does the training."""
        return self.tensors(pin=True)


def _free_piece(size: int) -> torch.Tensor | None:
    free = (piece for piece in _pieces if len(piece) > size and not piece[-1])
    piece = next(free, None)
    if piece is None and len(_pieces) < MOST_PIECES:
        piece = torch.zeros(size + 1, dtype=torch.uint8).share_memory_()
        _pieces.append(piece)
    if piece is not None:
        piece[-1] = 1
    return piece


class BatchLoader(DataLoader):
    """A DataLoader whose dataset may give a ByteBatch; yields the tensors."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        pieces = {}  # kept, so that each is mapped into this process but once
        for batch in super().__iter__():
            if isinstance(batch, ByteBatch):
                if batch.memory[-1]:
                    pieces[batch.memory.data_ptr()] = batch.memory
                batch = batch.tensors()
            yield batch

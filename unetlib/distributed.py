"""Several processes, one training: what Accelerate or torchrun started, seen from one of them."""

from __future__ import annotations

import atexit
import itertools
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import nn

from unetlib.device import choose_device

MISSING = 'several processes need Accelerate: pip install "unetlib[distributed]"'


def world_size() -> int:
    """How many processes the launcher started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1))


def launch(function: Callable, arguments: tuple, processes: int) -> None:
    """Call function(*arguments) in so many forked processes that train together.

    No CUDA call may have been made before. Raises ImportError without Accelerate, and
    RuntimeError when one of the processes fails: the others are then ended.
    """
    try:
        from accelerate import notebook_launcher
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    except ImportError as error:
        raise ImportError(MISSING) from error
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        notebook_launcher(function, arguments, processes, use_port=str(port))
    except ChildFailedError as error:
        raise RuntimeError(f"a process failed and the training was ended: {error}") from error


def _end_group() -> None:
    """Before the interpreter goes: its threads must not need it any more.

    DistributedDataParallel keeps the threads of gloo alive after the group was destroyed. One that
    then lets go of its last tensor while Python ends aborts the process
    (https://github.com/pytorch/pytorch/pull/179291), so they get a moment to do it before.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        time.sleep(0.5)


class Processes:
    """This process (`rank`) among all of a training (`world`); rank 0 writes and talks.

    A process that dies takes the others with it: they wait for its numbers at every step, and the
    launcher or the broken connection ends them.

    Raises ImportError where several processes were started and Accelerate is not installed, and
    RuntimeError for a device that is not there.
    """

    def __init__(self, device: str | torch.device = "auto"):
        self.rank, self.world, self._accelerator = 0, 1, None
        if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
            warnings.warn(
                "`accelerate launch --cpu` starts a single process, however many are asked for: "
                "use `unetlib train --processes N` or torchrun",
                stacklevel=3,
            )
        self.device = choose_device(device)
        if world_size() > 1:
            try:
                from accelerate import Accelerator
            except ImportError as error:
                raise ImportError(MISSING) from error
            if not dist.is_initialized():
                atexit.register(_end_group)
            self._accelerator = Accelerator(cpu=self.device.type == "cpu")
            self.device = self._accelerator.device  # each process its own GPU
            self.rank, self.world = dist.get_rank(), dist.get_world_size()

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward pass averages the gradients of all processes.

        Its batch norms take their statistics over the batches of all, so that two processes with
        half the batch each learn what one process with the whole batch learns.
        """
        if self.world == 1:
            return model
        if self.device.type == "cpu":  # PyTorch's own SyncBatchNorm refuses CPUs
            for module in model.modules():
                if type(module) is nn.BatchNorm2d:
                    module.__class__ = _SyncedBatchNorm2d
        else:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return self._accelerator.prepare_model(model)

    def unwrap(self, model: nn.Module) -> nn.Module:
        """Undoes `wrap`: plain batch norms again."""
        for module in model.modules():
            if type(module) is _SyncedBatchNorm2d:
                module.__class__ = nn.BatchNorm2d
        return model

    def share(self, loader) -> Iterable:
        """This process's batches of a loader: by its sampler if that can share, else every
        world-th batch."""
        if self._shared_by_sampler(loader):
            return iter(loader)
        return itertools.islice(loader, self.rank, None, self.world)

    def steps(self, loader) -> int:
        """Batches that every process trains on in an epoch."""
        return len(loader) if self._shared_by_sampler(loader) else len(loader) // self.world

    def _shared_by_sampler(self, loader) -> bool:
        """Whether the loader yields this process's batches only; its sampler is told which."""
        sampler = getattr(loader, "sampler", None)
        if self.world > 1 and hasattr(sampler, "world"):
            sampler.rank, sampler.world = self.rank, self.world
            return True
        return self.world == 1

    def total(self, values: list[float]) -> list[float]:
        """The sum over all processes of each number, in float64."""
        if self.world == 1:
            return values
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return sums.tolist()

    def main_first(self):
        """A block that rank 0 goes through before the others: who downloads, draws or decodes."""
        return self._accelerator.main_process_first() if self.world > 1 else nullcontext()

    def no_sync(self, model: nn.Module, skip: bool):
        """While gradients are only added up, processes need not talk."""
        return model.no_sync() if skip and self.world > 1 else nullcontext()

    def leave(self) -> None:
        """Waits for the others: the last thing a training does. The group ends with the program."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()


class _SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with the statistics of all processes' batches, which are of equal size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        self.num_batches_tracked.add_(1)
        return _SyncedNorm.apply(x, self.weight, self.bias, self)


class _SyncedNorm(torch.autograd.Function):
    """y = weight · (x - mean) / sqrt(variance + eps) + bias, and its gradient written out: letting
    autograd go through the formulas of mean and variance loses digits."""

    @staticmethod
    def forward(ctx, x, weight, bias, norm: nn.BatchNorm2d):
        values = x.float()
        mean = _mean(values.mean((0, 2, 3)))
        centred = values - mean[:, None, None]
        variance = _mean(centred.square().mean((0, 2, 3)))
        n = x.numel() / x.shape[1] * dist.get_world_size()
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * n / max(1, n - 1), norm.momentum)
        scale = (variance + norm.eps).rsqrt()
        unit = centred * scale[:, None, None]
        ctx.save_for_backward(unit, scale * weight)
        return (unit * weight[:, None, None] + bias[:, None, None]).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        unit, scale = ctx.saved_tensors
        dy = gradient.float()
        dbias, dweight = dy.sum((0, 2, 3)), (dy * unit).sum((0, 2, 3))
        pixels = unit.numel() / unit.shape[1]
        both = _mean(torch.stack([dbias, dweight])) / pixels  # over all processes, as in forward
        dx = dy - both[0][:, None, None] - unit * both[1][:, None, None]
        return (dx * scale[:, None, None]).to(gradient.dtype), dweight, dbias, None


def _mean(values: torch.Tensor) -> torch.Tensor:
    """The mean over all processes."""
    values = values.contiguous()
    dist.all_reduce(values)
    return values / dist.get_world_size()

"""fit(): the training loop, on Accelerate. It takes a network and loaders, leaves checkpoints."""

from __future__ import annotations

import ctypes
import errno
import math
import os
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import broadcast, gather_object
from accelerate.utils import set_seed as seed_everything  # of Python, NumPy and PyTorch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from unetlib import checkpoint
from unetlib.checkpoint import Checkpoint, load_checkpoint, load_weights, save_checkpoint
from unetlib.config import TrainConfig
from unetlib.errors import CheckpointError, TrainingError, need
from unetlib.losses import build_loss
from unetlib.metrics import count
from unetlib.models import choose_device
from unetlib.paths import folder_lock

BEST, LAST, STATE = "best_model.pth", "last_model.pth", "training_state.pth"


@dataclass(frozen=True)
class FitResult:
    """What a training run left behind.

    history: a dict per finished epoch: epoch, lr, train_loss and its terms, val_loss and its terms,
    val_iou, val_dice, val_accuracy (means over images). timings: another: seconds,
    images_per_second, data_wait (share of the seconds). stopped: "finished", "early stop" or
    "interrupted"; after `load` "" where it can go on. best_path, last_path: checkpoints, or None.
    """

    history: list[dict]
    timings: list[dict]
    stopped: str
    best_path: Path | None = None
    last_path: Path | None = None

    @property
    def best(self) -> dict:
        """The row with the highest val_iou, or lowest train_loss without a validation set; or {}"""
        return max(self.history, key=_score, default={})

    @classmethod
    def load(cls, folder: str | Path) -> FitResult:
        """The result of the run that left its checkpoints in `folder`, or CheckpointError."""
        best, path = Path(folder) / BEST, Path(folder) / LAST
        last = load_checkpoint(path)
        fit = last.extra.get("fit", {"timings": [], "stopped": ""})  # a copy of people has none
        return cls(last.history, **fit, best_path=best, last_path=path)


def fit(
    model: nn.Module,
    train_loader: Iterable,
    val_loader: Iterable | None = None,
    config: TrainConfig | None = None,
    *,
    loss: nn.Module | None = None,
    out_dir: str | Path | None = None,
    init_from: str | Path | None = None,
    resume: bool = False,
    on_epoch: Iterable[Callable[[int, nn.Module, dict], None]] = (),
    device: str = "auto",
    extra: dict | None = None,
    tracking: str = "none",
    progress: bool = True,
    save_seconds: float = 600,
) -> FitResult:
    """Train `model` and keep the best and the last weights.

    Args:
        model: from `build_model`; on return it has the weights of the last epoch (their moving
            average where `config.ema` is on) and is in eval mode.
        train_loader, val_loader: DataLoaders, see `make_loaders`, or lists of batches: image
            (N, 3, H, W) and mask (N, 1, H, W) in [0, 1], both float32.
        loss: (logits, target) -> dict of terms with "loss"; BCE + Dice by default.
        out_dir: where best_model.pth and last_model.pth go; None keeps nothing.
        init_from: a checkpoint of the same model to start from (fine-tuning).
        resume: go on with the run in out_dir that was cut off, if it has the same settings. On a
            CPU it ends bit for bit the same.
        on_epoch: called in the first process as f(epoch, model, row) after each epoch, and as
            f(0, model, {}) before a run that starts anew.
        extra: plain values that are kept in the checkpoints.
        tracking: "tensorboard" or "wandb" records curves and settings beside out_dir.
        save_seconds: how much work within an epoch a kill may cost.

    Processes started by `accelerate launch`, `torchrun` or `notebook_launcher` train together, each
    on its share of the batches. Ctrl-C ends the training, not the program. Raises TrainingError (a
    loss that is no number, too little memory, photos that cannot be loaded), RuntimeError (another
    training in out_dir) and CheckpointError (one that does not fit or cannot be written).
    """
    config, loss = config or TrainConfig(), loss or build_loss("bce_dice")
    dataset = getattr(train_loader, "dataset", ())
    preprocess = getattr(dataset, "preprocess", None)
    folder = Path(out_dir) if out_dir is not None else None
    if folder and preprocess is None:
        raise ValueError("a checkpoint needs the training set's `preprocess`, and it has none")
    if init_from:
        load_weights(model, load_checkpoint(init_from).model.state_dict(), init_from)
    seed_everything(config.seed)
    if tracking != "none":
        need(tracking, extra="wandb" if tracking == "wandb" else "course")
    chosen = choose_device(device)
    if chosen.index is not None:
        torch.cuda.set_device(chosen)
    # Accelerate keeps its first settings for good, and the next training may want others
    AcceleratorState._reset_state(reset_partial_state="WORLD_SIZE" not in os.environ)
    GradientState._reset_state()
    accelerator = Accelerator(
        cpu=chosen.type == "cpu",
        mixed_precision=mixed_precision(config.precision, chosen),
        log_with=None if tracking == "none" else tracking,
        project_dir=folder and folder.parent / tracking,
    )
    world, main = accelerator.num_processes, accelerator.is_main_process
    train = _prepare(accelerator, train_loader, even=True)
    val = None if val_loader in (None, [], ()) else _prepare(accelerator, val_loader, even=False)
    steps = len(train)  # batches of this process in an epoch
    if steps == 0:
        raise TrainingError("the training loader yields no batch: lower batch_size")

    # NHWC is what the fast kernels work on, but those of CPUs in float32 and of Apple's GPUs
    nhwc = chosen.type == "cuda" or (chosen.type == "cpu" and accelerator.mixed_precision == "bf16")
    layout = torch.channels_last if nhwc else torch.preserve_format
    model.to(accelerator.device, memory_format=layout)
    if world > 1 and chosen.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    network = DistributedDataParallel(model) if world > 1 else model
    network = torch.compile(network) if config.compile else network

    def average(averaged: list, current: list, n: torch.Tensor) -> None:
        # rises to config.ema, or early steps would be dominated by random weights
        decay = min(config.ema, (1 + n.item()) / (10 + n.item()))
        get_ema_multi_avg_fn(decay)(averaged, current, n)

    ema = AveragedModel(model, multi_avg_fn=average) if config.ema else None
    kept = ema.module if ema else model  # validated and saved
    optimizer = accelerator.prepare_optimizer(build_optimizer(model, config))
    schedule = build_schedule(optimizer.optimizer, config, math.ceil(steps / config.accumulate))

    # The state to resume from (random numbers follow from seed, epoch, batch and process): finished
    # epochs; of the current epoch, the learning rate at its start and a row for each batch.
    run = SimpleNamespace(history=[], timings=[], lr=0.0, batches=[])
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    parts |= {"ema": ema, "scaler": accelerator.scaler}  # None where there is none
    sets = dataset, getattr(val_loader, "dataset", ())
    photos = "".join(getattr(one, "identity", "") for one in sets).encode(errors="replace")
    identity = asdict(config) | {
        "model": str(getattr(model, "spec", type(model).__name__)),
        "photos": f"{len(dataset)} (checksum {zlib.crc32(photos):08x})",
        "batch_size": getattr(train_loader, "batch_size", 0),
        "processes": world,
        "init_from": str(init_from or ""),
        "loss": getattr(loss, "__name__", type(loss).__name__),
    }

    def save_state() -> None:
        if folder:
            states = {name: part.state_dict() for name, part in parts.items() if part}
            content = {"identity": identity, "parts": states, "progress": vars(run)}
            checkpoint.write_file(folder / STATE, content)

    def forward(network: nn.Module, batch) -> tuple:
        """Logits (a dict of them while a U²-Net trains), target, {"loss": ..., "dice_loss": ...}"""
        images = batch[0].to(accelerator.device, memory_format=layout)
        with accelerator.autocast():
            logits, target = network(images), batch[1].to(accelerator.device)
        terms = loss(logits, target).items()
        return logits, target, {k if k == "loss" else f"{k}_loss": value for k, value in terms}

    stack = ExitStack()
    try:
        if chosen.type == "cpu":
            keep_freed_memory(True)
            stack.callback(keep_freed_memory, False)
        if folder and main:  # loaders of a killed training end within 5 seconds
            stack.enter_context(folder_lock(folder, 6))
        accelerator.wait_for_everyone()
        if folder and resume and (folder / STATE).is_file():
            content = checkpoint.read_file(folder / STATE)
            if changed := dict(identity.items() - content["identity"].items()):
                advice = "give its settings to go on, or start anew: --no-resume, or resume = False"
                text = f"{folder} has a training with another {min(changed)} that was cut off"
                raise CheckpointError(f"{text}: {advice}")
            for name, state in content["parts"].items():
                parts[name].load_state_dict(state)
            vars(run).update(content["progress"])
        if not main:  # only the first process writes
            folder, on_epoch, progress = None, (), False
        for callback in () if run.history or run.batches else on_epoch:
            callback(0, kept.eval(), {})
        if tracking != "none":  # TensorBoard hides what comes again of an earlier run's curves
            options = {"purge_step": len(run.history) + 1}
            accelerator.init_trackers("unetlib", identity, {"tensorboard": options})
        saved = time.monotonic()
        while not (stopped := _stop_reason(run.history, config)):
            epoch = len(run.history) + 1
            torch.manual_seed(hash((config.seed, epoch)))  # for loaders that draw from it
            train.set_epoch(epoch)
            model.train()
            run.lr = run.lr or max(group["lr"] for group in optimizer.param_groups)
            title, done = f"epoch {epoch}/{config.epochs}", len(run.batches)
            rest = accelerator.skip_first_batches(train, done) if done else train
            bar = stack.enter_context(tqdm(rest, title, mininterval=0.5, disable=not progress))
            waited, start = 0.0, time.perf_counter()
            asked = start
            for number, batch in enumerate(bar, done):
                waited += time.perf_counter() - asked
                # the last group of batches in an epoch may be smaller
                group = min(config.accumulate, steps - number + number % config.accumulate)
                complete = number % config.accumulate == group - 1
                torch.manual_seed(hash((config.seed, epoch, number, accelerator.process_index)))
                terms = forward(network, batch)[2]
                accelerator.backward(terms["loss"] / group)
                if complete:
                    if config.clip:
                        accelerator.clip_grad_norm_(model.parameters(), config.clip)
                    optimizer.step()
                    optimizer.zero_grad()
                    if config.schedule != "plateau" and not optimizer.step_was_skipped:
                        schedule.step()
                    if ema:
                        ema.update_parameters(model)
                run.batches.append(_row(terms, batch))
                if not math.isfinite(batch_loss := run.batches[-1]["loss"]):
                    where = f"epoch {epoch}, batch {number + 1}, lr {config.lr:g}"
                    raise TrainingError(f"the loss is no longer a finite number ({where})")
                bar.set_postfix_str(f"loss {batch_loss:.3f}", False)
                if complete and time.monotonic() - saved > save_seconds:
                    save_state()
                    saved = time.monotonic()
                asked = time.perf_counter()
            spent = time.perf_counter() - start
            speed = sum(row["images"] for row in run.batches[done:]) * world / spent
            timing = {"seconds": spent, "images_per_second": speed, "data_wait": waited / spent}
            row = {"epoch": epoch, "lr": run.lr, **_means("train", run.batches)}

            if val is not None:  # the whole set, whichever process saw which photo
                kept.eval()
                broadcast([*kept.buffers()])  # those of the first process, which are saved
                batches = []
                with torch.inference_mode():
                    for batch in val:
                        logits, target, terms = forward(kept, batch)
                        c = count((logits > 0).cpu(), (target >= 0.5).cpu())  # 0: probability 0.5
                        scores = {"iou": c.iou(), "dice": c.dice(), "accuracy": c.accuracy()}
                        batches.append(_row(terms | scores, batch))
                row |= _means("val", batches)
            if config.schedule == "plateau":
                schedule.step(_score(row))

            run.history.append(row)
            run.timings.append(timing)
            run.lr, run.batches = 0.0, []
            if folder:
                result = {"timings": run.timings, "stopped": _stop_reason(run.history, config)}
                details = (extra or {}) | {"fit": result, "config": asdict(config)}
                current = Checkpoint(kept, preprocess, epoch, row, list(run.history), details)
                if max(run.history, key=_score) is row:
                    save_checkpoint(folder / BEST, current)
                save_checkpoint(folder / LAST, current)
            for callback in on_epoch:
                callback(epoch, kept.eval(), row | timing)
            accelerator.log({k.replace("_", "/", 1): v for k, v in (row | timing).items()}, epoch)
            save_state()
        if folder:
            (folder / STATE).unlink(missing_ok=True)  # it was as large as three checkpoints
    except KeyboardInterrupt:
        stopped = "interrupted"
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError) or "ried to allocate" in str(error):  # CPU
            raise TrainingError("memory ran out: lower batch_size or image_size") from error
        few = getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
        if "DataLoader worker" not in str(error) and not few:
            raise
        cause = str(error).strip().splitlines()[-1]  # the rest is the worker's traceback
        advice = "--workers 0 (in notebooks: workers = 0) needs neither these nor /dev/shm"
        raise TrainingError(f"a process that loads photos failed: {cause}. {advice}") from error
    finally:
        stack.close()
        for tracker in accelerator.trackers:
            tracker.finish()
    model.load_state_dict(kept.state_dict())
    model.eval()
    accelerator.wait_for_everyone()
    paths = (folder / BEST, folder / LAST) if folder and run.history else ()
    return FitResult(run.history, run.timings, stopped, *paths)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam, AdamW or SGD (with Nesterov momentum) over the model's parameters.

    Weight decay pulls the convolutions' weights only: decoupled from the gradient in AdamW
    (https://arxiv.org/abs/1711.05101), as an L2 penalty in Adam and SGD. With `encoder_lr` the
    parameters of the network's `encoder` are groups of their own.
    """
    groups: dict[tuple[float, float], list] = {}
    for name, p in model.named_parameters():
        lr = config.lr * (config.encoder_lr if name.startswith("encoder.") else 1.0)
        groups.setdefault((lr, config.weight_decay if p.ndim > 1 else 0.0), []).append(p)
    make = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": partial(torch.optim.SGD, momentum=config.momentum, nesterov=config.momentum > 0),
    }[config.optimizer]
    found = [{"params": ps, "lr": lr, "weight_decay": decay} for (lr, decay), ps in groups.items()]
    return make(found, fused=p.device.type in ("cpu", "cuda"))  # one kernel for all


def build_schedule(
    optimizer: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int
) -> LRScheduler:
    """The learning rate over time, stepped after every step ("plateau": with each epoch's score).

    "plateau" and "onecycle" are PyTorch's; onecycle is a cosine up from 1/25, and one down to
    nearly 0 (https://arxiv.org/abs/1708.07120). The others rise over the share `config.warmup` of
    the steps; then "step" takes `gamma` after every `step_epochs` epochs, "exponential" and
    "cosine" (https://arxiv.org/abs/1608.03983) fall to `final_lr`.
    """
    name, total = config.schedule, config.epochs * steps_per_epoch
    if name == "plateau":
        return ReduceLROnPlateau(optimizer, "max", config.gamma, config.patience)
    if name == "onecycle":
        total = max(3, total)  # with less it divides by 0
        rise = max(2 / total, 0.1 if config.warmup < 0 else config.warmup)
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, rates, total, pct_start=rise, cycle_momentum=False)
    warm, end = max(0, config.warmup) * total, config.final_lr

    def share(step: int) -> float:
        if step < warm:
            return min(1, (step + 1) / warm)
        t = (step - warm) / max(1, total - warm)
        return {
            "constant": 1.0,
            "step": config.gamma ** (step // (config.step_epochs * steps_per_epoch)),
            "exponential": end**t,
            "cosine": end + (1 - end) * (1 + math.cos(math.pi * t)) / 2,
        }[name]

    return LambdaLR(optimizer, share)


def mixed_precision(name: str, device: torch.device) -> str:
    """Accelerate's name of the type to compute in; weights stay float32. "auto": bfloat16 where the
    hardware has it, float16 on older NVIDIA GPUs, else float32. ValueError: float16 on a CPU."""
    if name == "auto" and device.type == "cuda":
        name = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    elif name == "auto" and device.type == "cpu":
        amx = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        name = "bfloat16" if amx else "float32"
    if name == "float16" and device.type != "cuda":
        raise ValueError("float16 training needs an NVIDIA GPU; use bfloat16 or float32 here")
    return {"bfloat16": "bf16", "float16": "fp16"}.get(name, "no")


def keep_freed_memory(keep: bool) -> None:
    """What a step frees stays in this process for the next one (new pages took up to a third of the
    time), or goes back to the system, as glibc has it by default once large blocks were freed."""
    with suppress(AttributeError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        # M_MMAP_MAX, M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        for option, kept, usual in ((-4, 0, 65_536), (-1, 2**31 - 1, 2**26), (-3, 2**25, 2**25)):
            libc.mallopt(option, kept if keep else usual)
        libc.malloc_trim(0)


def _prepare(accelerator, batches: Iterable, even: bool) -> DataLoader:
    """The batches of this process; `even`: as many as every other process has."""
    if not isinstance(batches, DataLoader):
        batches = DataLoader(list(batches), batch_size=1, collate_fn=itemgetter(0))
    accelerator.even_batches = even
    return accelerator.prepare_data_loader(batches)


def _row(means: dict, batch) -> dict[str, float]:
    return {"images": len(batch[0])} | {name: mean.mean().item() for name, mean in means.items()}


def _means(phase: str, batches: list[dict]) -> dict[str, float]:
    """Means over the images of all processes: {"val_loss": ..., "val_iou": ..., ...}"""
    rows = gather_object(batches)
    images = sum(row["images"] for row in rows)
    totals = {name: sum(row[name] * row["images"] for row in rows) for name in rows[0]}
    return {f"{phase}_{name}": totals[name] / images for name in totals if name != "images"}


def _score(row: dict) -> float:
    return row.get("val_iou", -row["train_loss"])


def _stop_reason(history: list[dict], config: TrainConfig) -> str:
    """Why the training ends after this epoch; "" if it goes on."""
    best = max(history, key=_score, default={}).get("epoch", 0)
    if config.early_stop and len(history) - best >= config.early_stop:
        return "early stop"
    return "finished" if len(history) >= config.epochs else ""

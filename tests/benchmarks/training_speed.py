"""Training step of a network: this project's `fit` engine against the textbook loop, in one run.

    python tests/benchmarks/training_speed.py [--model unet_transposed] [--size 256] [--batch 4]
    python tests/benchmarks/training_speed.py --model u2net --size 320

The textbook loop is what tutorials show: float32, NCHW, plain Adam. Both sides take the same
number of steps on the same random batch, alternating in rounds so that a machine whose speed drifts
treats both alike; the median round counts. In the same rounds a product of two large matrices
measures what the machine can do at most, and counted operations (forward and backward, by the
shapes of convolutions) say which share of that the engine reaches.
"""

import argparse
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from unetlib.device import describe_device
from unetlib.distributed import Processes
from unetlib.engine import Engine
from unetlib.losses import build_loss
from unetlib.models import build_model
from unetlib.training import TrainConfig


def textbook_step(model, optimizer, loss, batch):
    logits = model(batch[0])
    value = loss(logits, batch[1])["loss"]
    optimizer.zero_grad()
    value.backward()
    optimizer.step()


def seconds_of(step, repeats: int, device: torch.device) -> float:
    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    wait()
    return (time.perf_counter() - start) / repeats


def counted_operations(name: str, size: int) -> int:
    """Floating-point operations of forward and backward for one image: 2 for each multiplication
    with its addition, in convolutions and matrix products."""
    model = build_model(name).to("meta").train()
    with FlopCounterMode(display=False) as counter:
        output = model(torch.empty(2, 3, size, size, device="meta"))
        maps = output.values() if isinstance(output, dict) else [output]
        sum(m.sum() for m in maps).backward()
    return counter.get_total_flops() // 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="unet_transposed")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps a round")
    parser.add_argument("--compile", action="store_true", help="the engine with torch.compile")
    parser.add_argument("--matrix", type=int, default=0, help="side of the matrices")
    options = parser.parse_args()

    processes = Processes("auto")
    device = processes.device
    torch.manual_seed(0)
    image = torch.randn(options.batch, 3, options.size, options.size)
    mask = (torch.rand(options.batch, 1, options.size, options.size) > 0.5).float()
    loss = build_loss("bce_dice")

    plain = build_model(options.model).to(device).train()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-4)
    batch = (image.to(device), mask.to(device))
    config = TrainConfig(lr=1e-4, epochs=1, compile=options.compile)
    engine = Engine(build_model(options.model), config, loss, processes, steps=1000)
    engine.model.train()

    side = options.matrix or (8192 if device.type == "cuda" else 3072)
    dtype = engine.dtype
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    sides = {
        "textbook": lambda: textbook_step(plain, optimizer, loss, batch),
        "fit": lambda: engine.train_step((image, mask)),
        "matrix": lambda: torch.mm(left, right),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for step in sides.values():
        step()  # first calls allocate and choose kernels
        step()
    for _ in range(options.rounds):
        for name, step in sides.items():
            times[name].append(seconds_of(step, options.steps, device))

    title = f"{options.model}, {options.size}×{options.size}, batch {options.batch}"
    print(f"{title}, on {describe_device(device)}")
    speed = {name: options.batch / statistics.median(values) for name, values in times.items()}
    compiled = ", compiled" if options.compile else ""
    print(f"textbook (float32, NCHW)  {speed['textbook']:8.2f} images/s")
    print(f"fit ({str(dtype)[6:]}, channels_last{compiled})  {speed['fit']:8.2f} images/s")
    ratios = [a / b for a, b in zip(times["textbook"], times["fit"], strict=True)]
    median = statistics.median(ratios)
    print(f"ratio {median:.2f} (rounds: {min(ratios):.2f} to {max(ratios):.2f})")
    operations = counted_operations(options.model, options.size)
    rate = 2 * side**3 / min(times["matrix"])  # the best: what the machine can do
    reached = [operations * options.batch / t for t in times["fit"]]
    print(
        f"{operations / 1e9:.1f} GFLOP an image: fit does {statistics.median(reached) / 1e9:.0f} "
        f"GFLOP/s, {statistics.median(reached) / rate:.0%} of the {rate / 1e9:.0f} GFLOP/s of a "
        f"{side}×{side} matrix product in {str(dtype)[6:]}"
    )


if __name__ == "__main__":
    main()

"""Training step of a network: this project's `fit` engine against the textbook loop, in one run.

    python tests/benchmarks/training_speed.py [--model unet_transposed] [--size 256] [--batch 4]

The textbook loop is what tutorials show: float32, NCHW, plain Adam. Both sides take the same
number of steps on the same random batch, alternating in rounds so that a machine whose speed drifts
treats both alike; the median round counts.
"""

import argparse
import statistics
import time

import torch

from unetlib.device import choose_device, describe_device
from unetlib.engine import Engine
from unetlib.losses import BCEDiceLoss
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="unet_transposed")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps a round")
    options = parser.parse_args()

    device = choose_device("auto")
    torch.manual_seed(0)
    image = torch.randn(options.batch, 3, options.size, options.size)
    mask = (torch.rand(options.batch, 1, options.size, options.size) > 0.5).float()
    loss = BCEDiceLoss()

    plain = build_model(options.model).to(device).train()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-4)
    batch = (image.to(device), mask.to(device))
    engine = Engine(build_model(options.model), TrainConfig(lr=1e-4), loss, device, steps=1000)
    engine.model.train()

    sides = {
        "textbook": lambda: textbook_step(plain, optimizer, loss, batch),
        "fit": lambda: engine.train_step((image, mask)),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for step in sides.values():
        step()  # first calls allocate and choose kernels
    for _ in range(options.rounds):
        for name, step in sides.items():
            times[name].append(seconds_of(step, options.steps, device))

    title = f"{options.model}, {options.size}×{options.size}, batch {options.batch}"
    print(f"{title}, on {describe_device(device)}")
    speed = {name: options.batch / statistics.median(values) for name, values in times.items()}
    print(f"textbook (float32, NCHW)      {speed['textbook']:8.2f} images/s")
    print(f"fit ({str(engine.dtype)[6:]}, channels_last) {speed['fit']:8.2f} images/s")
    ratios = [a / b for a, b in zip(times["textbook"], times["fit"], strict=True)]
    print(
        f"ratio {statistics.median(ratios):.2f} (rounds: {min(ratios):.2f} to {max(ratios):.2f}; "
        "wanted: at least 2)"
    )


if __name__ == "__main__":
    main()

"""Training step of a network: `fit` against the textbook loop, in one run.

    python tests/benchmarks/training_speed.py [--model unet_transposed] [--size 256] [--batch 4]

The textbook loop is what tutorials show: float32, NCHW, plain Adam. Both sides take the same number
of steps on the same random batch, alternating in rounds so that a machine whose speed drifts treats
both alike; the median round counts. Then `fit` trains on drawn photos, to see how long it waits.
"""

import argparse
import statistics
import tempfile
import time

import torch

from unetlib.config import TrainConfig
from unetlib.data.dataset import make_loaders
from unetlib.data.sources import open_source
from unetlib.losses import build_loss
from unetlib.models import build_model, choose_device, describe_device
from unetlib.training import fit, mixed_precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="unet_transposed")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps a round")
    parser.add_argument("--compile", action="store_true", help="fit with torch.compile")
    options = parser.parse_args()

    device = choose_device("auto")
    torch.manual_seed(0)
    image = torch.randn(options.batch, 3, options.size, options.size)
    mask = (torch.rand(options.batch, 1, options.size, options.size) > 0.5).float()
    loss = build_loss("bce_dice")
    plain, ours = build_model(options.model).to(device), build_model(options.model)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-4)
    config = TrainConfig(epochs=1, lr=1e-4, schedule="constant", compile=options.compile)

    def textbook(steps: int) -> float:
        plain.train()
        start = time.perf_counter()
        for _ in range(steps):
            logits = plain(image.to(device))
            value = loss(logits, mask.to(device))["loss"]
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        value.item()  # waits for a GPU
        return options.batch * steps / (time.perf_counter() - start)

    def by_fit(steps: int) -> float:
        result = fit(ours, [(image, mask)] * steps, config=config, progress=False)
        return result.timings[-1]["images_per_second"]

    textbook(1), by_fit(1)  # first calls allocate and choose kernels
    rounds = [(textbook(options.steps), by_fit(options.steps)) for _ in range(options.rounds)]
    dtype = {"bf16": "bfloat16", "fp16": "float16"}.get(mixed_precision("auto", device), "float32")
    title = f"{options.model}, {options.size}×{options.size}, batch {options.batch}"
    print(f"{title}, on {describe_device(device)}")
    print(f"textbook (float32, NCHW)  {statistics.median(a for a, _ in rounds):8.2f} images/s")
    print(f"fit ({dtype}) {statistics.median(b for _, b in rounds):8.2f} images/s")
    ratios = [b / a for a, b in rounds]
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")

    with tempfile.TemporaryDirectory() as folder:
        source = open_source("synthetic", folder, count=40, size=96)
        loaders = make_loaders(source, 96, 8)
        result = fit(build_model("unet_small"), *loaders, TrainConfig(epochs=3), progress=False)
    waits = ", ".join(f"{timing['data_wait']:.1%}" for timing in result.timings)
    print(f"unet_small on drawn photos: {waits} of the time of an epoch waiting for data")


if __name__ == "__main__":
    main()

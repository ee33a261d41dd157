"""How far a training from scratch gets on real photos: val IoU of each set, and the time it took.

    python tests/benchmarks/real_photos.py --people ../shared/data/people \\
        --pennfudan ../shared/data/PennFudanPed

trains one network on both sets together (or on the one that is given). The fifth of each that the
project's own split holds out is scored by the weights of the last epoch, which no score has
picked; with --flip also averaged over the photo and its mirror image. Nothing is pretrained. The
defaults are the recipe that README gives for a few hundred photos.

What was tried, both sets together (288 photos to learn from, 52 and 28 held out), one-cycle, lr
0.002, preset strong, mean IoU over the photos. Minutes on one core with AVX512-BF16, the other core
being busy; in the first row on two.

    model           parameters  size  epochs  batch  decay  minutes  people  Penn-Fudan
    plain U-Net           4.9 M  192                             33    0.80        0.71
    unet_resnet18 *      14.3 M  224   40/44     16   0.01       17   0.721       0.622
    unet_half            17.3 M  256   10/44      8   0.01        6   0.595       0.485
    unet_half            17.3 M  256   10/44     16   0.01        4   0.649       0.494
    unet_half            17.3 M  256      44     16   0.01       17   0.762       0.654
      and mirror image                                                0.766       0.668
    unet_half            17.3 M  256     250     16   0.05       97   0.860       0.783
      and mirror image                                                0.868       0.788

    * with a slimmer decoder; 40/44: after 40 of 44 epochs, when the rate is not yet at its end
"""

import argparse
import json
import time
from dataclasses import replace

import numpy as np
import torch

from unetlib.data import make_loaders, open_source
from unetlib.metrics import count
from unetlib.models import build_model, count_parameters
from unetlib.predict import probabilities
from unetlib.training import TrainConfig, fit, seed_everything


def mean_iou(model, loader, flip: bool) -> float:
    """Mean over the photos of a set, at the size of the training."""
    found = []
    for image, mask in loader:
        soft = probabilities(model, image)
        if flip:
            soft = (soft + probabilities(model, image.flip(-1))[..., ::-1]) / 2
        found.append(count(soft >= 0.5, mask[:, 0].numpy() >= 0.5).iou())
    return torch.cat(found).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", help="a folder with images/ and masks/")
    parser.add_argument("--pennfudan", help="a folder with PNGImages/ and PedMasks/")
    parser.add_argument("--model", default="unet_half")
    parser.add_argument("--args", type=json.loads, default={}, help="its arguments, JSON")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=250)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--ema", type=float, default=0.99)
    parser.add_argument("--augment", default="strong")
    parser.add_argument("--loss", default="bce_dice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=25, help="epochs from one score to the next")
    parser.add_argument("--flip", action="store_true", help="also averaged over mirrored photos")
    parser.add_argument("--out-dir", default=None, help="where to keep the checkpoints")
    options = parser.parse_args()

    given = {"folder": options.people, "pennfudan": options.pennfudan}
    sets = {name: open_source(name, root) for name, root in given.items() if root}
    if not sets:
        parser.error("give --people, --pennfudan or both")
    for source in sets.values():
        print(source.describe())
    start = time.perf_counter()
    loading = {"size": options.size, "batch_size": options.batch_size, "augment": options.augment}
    both = replace(
        next(iter(sets.values())), train=sum((s.train for s in sets.values()), ()), val=()
    )
    train_loader, _ = make_loaders(both, **loading, seed=options.seed)
    held_out = {name: make_loaders(source, **loading)[1] for name, source in sets.items()}
    seed_everything(options.seed)
    model = build_model(options.model, **options.args)
    print(f"{options.model} {options.args}: {count_parameters(model):,} parameters")
    names = ("epochs", "lr", "weight_decay", "ema", "seed")
    config = TrainConfig(schedule="onecycle", **{name: getattr(options, name) for name in names})

    def scores(model, flip=False) -> str:
        return "  ".join(
            f"{name} {mean_iou(model, loader, flip):.4f}" for name, loader in held_out.items()
        )

    def report(epoch, model, row):
        if epoch % options.every == 0 or epoch == 1:
            minutes = (time.perf_counter() - start) / 60
            print(
                f"epoch {epoch:3d}  train loss {row['train_loss']:.3f}  val IoU {scores(model)}  "
                f"{row['images_per_second']:.1f} images/s  {minutes:.1f} min",
                flush=True,
            )

    result = fit(
        model, train_loader, None, config, on_epoch=[report], out_dir=options.out_dir,
        progress=False,
    )  # fmt: skip
    minutes = (time.perf_counter() - start) / 60
    print(f"last epoch: val IoU {scores(model)}; {minutes:.1f} minutes, decoding included")
    if options.flip:
        print(f"averaged with the mirror image: val IoU {scores(model, True)}")
    speed = np.mean([timing["images_per_second"] for timing in result.timings])
    print(f"{speed:.1f} images/s on average")


if __name__ == "__main__":
    main()

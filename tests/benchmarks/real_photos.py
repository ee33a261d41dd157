"""How far a training from scratch gets on real photos: prints val IoU and the time it took.

    python tests/benchmarks/real_photos.py folder ../shared/data/people
    python tests/benchmarks/real_photos.py pennfudan ../shared/data/PennFudanPed

The fifth that the project's own split holds out is scored, once by the weights of the last epoch
and once by the best epoch's (which that same fifth has picked, so it flatters a little). Nothing
is pretrained; the recipe is the README's for a few hundred photos.
"""

import argparse
import json
import time

from unetlib.data import make_loaders, open_source
from unetlib.models import build_model, count_parameters
from unetlib.training import TrainConfig, fit, seed_everything


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", choices=["folder", "pennfudan"])
    parser.add_argument("root")
    parser.add_argument("--model", default="unet_small")
    parser.add_argument("--args", type=json.loads, default={"depth": 5}, help="JSON")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-2)
    parser.add_argument("--ema", type=float, default=0.99)
    parser.add_argument("--augment", default="strong")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out-dir", default=None, help="where to keep the checkpoints")
    options = parser.parse_args()

    source = open_source(options.source, options.root, val_fraction=0.2, seed=0)
    print(source.describe())
    seed_everything(options.seed)
    model = build_model(options.model, **options.args)
    print(f"{options.model} {options.args}: {count_parameters(model):,} parameters")
    config = TrainConfig(
        epochs=options.epochs,
        lr=options.lr,
        weight_decay=options.weight_decay,
        schedule="onecycle",
        ema=options.ema,
        seed=options.seed,
    )
    start = time.perf_counter()

    def report(epoch, model, row):
        if epoch % 10 == 0 or epoch == 1:
            print(
                f"epoch {epoch:3d}  train loss {row['train_loss']:.3f}  val loss "
                f"{row['val_loss']:.3f}  val IoU {row['val_iou']:.4f}  pooled "
                f"{row['val_pooled_iou']:.4f}  {row['images_per_second']:.1f} images/s  "
                f"{(time.perf_counter() - start) / 60:.1f} min",
                flush=True,
            )

    loaders = make_loaders(source, options.size, options.batch_size, options.augment, seed=0)
    result = fit(
        model, *loaders, config, on_epoch=[report], progress=False, out_dir=options.out_dir
    )
    minutes = (time.perf_counter() - start) / 60
    for name, row in (("last", result.history[-1]), ("best", result.best)):
        print(
            f"{name} epoch ({row['epoch']}): val IoU {row['val_iou']:.4f} mean over images, "
            f"{row['val_pooled_iou']:.4f} pooled; Dice {row['val_dice']:.4f}"
        )
    print(f"{minutes:.1f} minutes, decoding included")


if __name__ == "__main__":
    main()

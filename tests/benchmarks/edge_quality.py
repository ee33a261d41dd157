"""How near a cut-out's edge comes to the true one: composites over new backgrounds are compared.

    python tests/benchmarks/edge_quality.py CHECKPOINT [CHECKPOINT ...] [--count 24]

The photos are of the val part of the synthetic set, whose mattes, foregrounds and backgrounds are
known exactly; the masks are what the network says of them. Counted are the pixels within 10 px of
the contour of the matte at one half:

    MAE       mean difference to the true composite, of 255
    gradient  mean squared difference of the gradients' lengths (Gaussian derivatives of 1.4 px),
              times 1000, colours being 0 to 1: Rhemann et al., "A Perceptually Motivated Online
              Benchmark for Image Matting", CVPR 2009

The first row is the soft mask as alpha with the photo's own colours; the others are shares of it.
rembg is its alpha matting with its own thresholds, from the package where it is installed.
"""

import argparse

import cv2
import numpy as np
from pymatting import estimate_alpha_cf, estimate_foreground_ml
from scipy.ndimage import binary_erosion

from unetlib.data.pairs import split_fraction
from unetlib.data.synthetic import generate_sample
from unetlib.matting import HAZE, cut_out
from unetlib.matting.refine import guided, steeper
from unetlib.predict import Predictor

NEAR, SIGMA = 10, 1.4


def val_samples(count: int, size: int):
    """The first `count` of the course's val set, each with another sample's background."""
    names = (i for i in range(1200) if split_fraction(f"synthetic-{i:06d}", 0) < 0.2)
    for index in list(names)[:count]:
        yield generate_sample(0, index, size), generate_sample(1, index, size).background


def gradient(image) -> np.ndarray:
    x = np.arange(-6, 7)
    bell = np.exp(-(x**2) / (2 * SIGMA**2))
    bell /= bell.sum()
    slope = -x / SIGMA**2 * bell
    return np.hypot(
        cv2.sepFilter2D(image, cv2.CV_64F, slope, bell),
        cv2.sepFilter2D(image, cv2.CV_64F, bell, slope),
    )


def errors(alpha, colours, sample, behind) -> tuple[float, float]:
    inside = (sample.matte >= 0.5).astype(np.uint8)
    away = (cv2.distanceTransform(m, cv2.DIST_L2, 5) for m in (inside, 1 - inside))
    near = sum(away) <= NEAR
    a, m = np.float64(alpha)[..., None], np.float64(sample.matte)[..., None]
    found = (a * colours + (1 - a) * behind) / 255
    true = (m * sample.foreground + (1 - m) * behind) / 255
    mae = 255 * np.abs(found - true)[near].mean()
    return mae, 1000 * ((gradient(found) - gradient(true))[near] ** 2).mean()


def rembg(image, soft):
    """rembg.bg.alpha_matting_cutout with its defaults 240, 10, 10."""
    mask = np.rint(soft * 255).astype(np.uint8)
    try:
        from PIL import Image
        from rembg.bg import alpha_matting_cutout

        given = Image.fromarray(image), Image.fromarray(mask)
        try:
            rgba = np.asarray(alpha_matting_cutout(*given, 240, 10, 10))
        except ValueError:  # nothing known: rembg.remove falls back to the naive cut-out
            return soft, image
        return rgba[..., 3] / 255, rgba[..., :3]
    except ImportError:
        square = np.ones((10, 10))
        trimap = np.full(mask.shape, 0.5)
        trimap[binary_erosion(mask > 240, square)] = 1
        trimap[binary_erosion(mask < 10, square, border_value=1)] = 0
        try:
            alpha = estimate_alpha_cf(image / 255, trimap)
        except ValueError:
            return soft, image
        return alpha, 255 * estimate_foreground_ml(image / 255, alpha)


def library(**how):
    def method(image, soft):
        rgba = cut_out(image, soft, **how).rgba
        return rgba[..., 3] / 255, rgba[..., :3]

    return method


def by_closed_form(image, soft):
    alpha = library(refine="closed-form")(image, soft)[0]
    return alpha, 255 * estimate_foreground_ml(image / 255, alpha)


METHODS = {
    "plain": lambda image, soft: (soft, image),
    "bent": lambda image, soft: (steeper(soft, HAZE), image),
    "bent, colours": library(refine="none"),
    "guided": lambda image, soft: (steeper(guided(image, soft), HAZE), image),
    "guided, colours (default)": library(),
    "closed-form, colours": library(refine="closed-form"),
    "closed-form, pymatting's": by_closed_form,
    "rembg": rembg,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 800])
    parser.add_argument("--size", type=int, help="working size; as trained if not given")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    args = parser.parse_args()
    shares = {name: [] for name in args.methods}
    for path in args.checkpoints:
        predictor = Predictor(path, size=args.size)
        print(predictor.describe())
        for size in args.sizes:
            found = {name: [] for name in ["plain", *args.methods]}
            for sample, behind in val_samples(args.count, size):
                soft = predictor.predict(sample.image)
                if not ((sample.matte >= 0.5).any() and (sample.matte < 0.5).any()):
                    continue
                for name in found:
                    alpha, colours = METHODS[name](sample.image, soft)
                    found[name].append(errors(alpha, colours, sample, behind))
            means = {name: np.mean(rows, axis=0) for name, rows in found.items()}
            print(f"  {size} px: plain MAE {means['plain'][0]:.2f}, {means['plain'][1]:.3f}")
            for name in args.methods:
                shares[name].append(means[name] / means["plain"])
                print("    {:28}{:5.2f}{:6.2f}".format(name, *shares[name][-1]), flush=True)
    print("mean of all")
    for name, rows in shares.items():
        print("    {:28}{:5.2f}{:6.2f}".format(name, *np.mean(rows, axis=0)))


if __name__ == "__main__":
    main()

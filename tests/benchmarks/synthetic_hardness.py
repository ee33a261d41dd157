"""Mean IoU of methods without learning on the synthetic set; each should be <= 0.60.

python tests/benchmarks/synthetic_hardness.py --count 200
"""

import argparse

import cv2
import numpy as np

from unetlib.data.synthetic import generate_sample

SIZE = 128


def iou(prediction, truth) -> float:
    union = (prediction | truth).sum()
    return float((prediction & truth).sum() / union) if union else 1.0


def best_constant(masks) -> float:
    """The one mask that fits all best: the mean mask, at the threshold that scores highest."""
    mean = np.mean(masks, axis=0)
    tried = [mean >= t for t in np.linspace(0, 0.9, 19)]
    return max(float(np.mean([iou(t, m) for m in masks])) for t in tried)


def border_share(mask) -> float:
    """Of the picture's border, the share that the mask covers."""
    return float(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean())


def kmeans(image, k: int):
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float32)
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 0.5)
    labels = cv2.kmeans(lab, k, None, stop, 3, cv2.KMEANS_PP_CENTERS)[1]
    return labels.reshape(image.shape[:2])


def kmeans_border(image, k: int):
    """Foreground: the cluster that is rarest at the border for its size."""
    labels = kmeans(image, k)
    clusters = [labels == c for c in range(k)]
    return min(clusters, key=lambda c: border_share(c) / max(c.mean(), 1e-6))


def kmeans_inside(image, k: int):
    """Foreground: every cluster that is rarer at the border than in the middle."""
    labels = kmeans(image, k)
    n = SIZE // 5
    out = np.zeros(labels.shape, bool)
    for c in range(k):
        here = labels == c
        if here[n:-n, n:-n].mean() > border_share(here):
            out |= here
    return out


def grabcut(image, box: float):
    mask = np.zeros(image.shape[:2], np.uint8)
    a = round(SIZE * (1 - box) / 2)
    cv2.setRNGSeed(0)
    model = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(image, mask, (a, a, SIZE - 2 * a, SIZE - 2 * a), *model, 5, cv2.GC_INIT_WITH_RECT)
    return (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)


def main(count: int, seed: int) -> dict[str, float]:
    samples = [generate_sample(seed, i, SIZE) for i in range(count)]
    images = [np.ascontiguousarray(s.image) for s in samples]
    masks = [s.matte > 0.5 for s in samples]
    scores = {"best constant mask": best_constant(masks)}
    methods = {
        f"k-means, k={k}, {rule.__name__[7:]}": (rule, k)
        for k in (2, 3, 4)
        for rule in (kmeans_border, kmeans_inside)
    }
    methods |= {f"GrabCut, box {b:.0%}": (grabcut, b) for b in (0.5, 0.6, 0.7, 0.8)}
    for name, (method, argument) in methods.items():
        scores[name] = float(
            np.mean([iou(method(i, argument), m) for i, m in zip(images, masks, strict=True)])
        )
    share = np.array([m.mean() for m in masks])
    print(
        f"{count} samples, foreground share {share.mean():.2f} "
        f"({share.min():.2f} to {share.max():.2f})"
    )
    for name, score in scores.items():
        print(f"{name:28s} IoU {score:.3f}{'' if score <= 0.6 else '   too easy'}")
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))

"""What each score of an image means, in one line: the columns of the table of `evaluate`."""

from __future__ import annotations

from typing import NamedTuple


class Score(NamedTuple):
    """`label`: for tables and axes. `definition`, `blind_to` and `source`: a line each."""

    label: str
    definition: str
    blind_to: str
    source: str
    higher_is_better: bool = True


_FAN17 = "Fan et al., Structure-measure, ICCV 2017"
_FAN18 = "Fan et al., Enhanced-alignment measure, IJCAI 2018"
_ACHANTA = "Achanta et al., Frequency-tuned salient region detection, CVPR 2009"

SCORES: dict[str, Score] = {
    "iou": Score(
        "IoU",
        "tp / (tp + fp + fn): the overlap of both masks as a share of their union",
        "where the error lies: a lost hand costs as much as a rough outline of the same area",
        "Jaccard, Bulletin de la Société Vaudoise des Sciences Naturelles 37, 1901",
    ),
    "dice": Score(
        "Dice",
        "2 tp / (2 tp + fp + fn), which is F1: the overlap as a share of the mean size",
        "the same as IoU; of one photo it follows from it: 2 IoU / (1 + IoU)",
        "Dice, Measures of the amount of ecologic association, Ecology 26, 1945",
    ),
    "accuracy": Score(
        "pixel accuracy",
        "(tp + tn) / all: the share of pixels that are right",
        "small objects: a mask that is all background scores high for them",
        "Long et al., Fully convolutional networks, CVPR 2015",
    ),
    "precision": Score(
        "precision",
        "tp / (tp + fp): the share of the predicted foreground that is foreground",
        "whatever was missed",
        "van Rijsbergen, Information Retrieval, 1979",
    ),
    "recall": Score(
        "recall",
        "tp / (tp + fn): the share of the true foreground that was found",
        "whatever was made up: all foreground scores 1",
        "van Rijsbergen, Information Retrieval, 1979",
    ),
    "f_beta": Score(
        "F-beta",
        "1.3 P R / (0.3 P + R) of precision P and recall R: P counts for more (beta² = 0.3)",
        "true background, and misses more than inventions",
        _ACHANTA,
    ),
    "mae": Score(
        "MAE",
        "the mean absolute difference of the soft mask and the soft matte",
        "small objects and shape: a faint veil everywhere costs as much as a lost arm",
        "Perazzi et al., Saliency filters, CVPR 2012",
        higher_is_better=False,
    ),
    "boundary_iou": Score(
        "boundary IoU",
        "the IoU of the inner rims of both masks, 2 % of the image's diagonal wide",
        "the inside: a hole away from the edge hardly counts",
        "Cheng et al., Boundary IoU, CVPR 2021",
    ),
    "boundary_accuracy": Score(
        "boundary accuracy",
        "the share of right pixels no further than 2 % of the diagonal from the true edge",
        "everything away from the true edge, on both sides",
        "Kohli et al., Robust higher order potentials (trimap accuracy), IJCV 82, 2009",
    ),
    "s_measure": Score(
        "S-measure",
        "half object, half region similarity of the soft mask: evenness, contrast and placement",
        "thin parts and the exact place of the edge",
        _FAN17,
    ),
    "e_measure": Score(
        "E-measure",
        "the agreement of both masks minus their means, averaged over 256 thresholds",
        "edges; and an empty mask predicted empty gets 255/256 only",
        _FAN18,
    ),
    "e_max": Score(
        "E-measure, best",
        "the E-measure at the best of 256 thresholds, chosen for each image",
        "how to find that threshold without the truth",
        _FAN18,
    ),
    "e_adaptive": Score(
        "E-measure, adaptive",
        "the E-measure at a threshold of twice the soft mask's mean, at most 1",
        "objects of half the photo (the threshold is 1), and empty masks (it is 0)",
        _FAN18,
    ),
    "f_max": Score(
        "F-measure, best",
        "F-beta (beta² = 0.3) at the best of 256 thresholds, chosen for each image",
        "how to find that threshold; 0 where the true mask is empty, whatever was predicted",
        _ACHANTA,
    ),
    "f_adaptive": Score(
        "F-measure, adaptive",
        "F-beta (beta² = 0.3) at a threshold of twice the soft mask's mean, at most 1",
        "objects of half the photo: the threshold is 1; 0 where the true mask is empty",
        _ACHANTA,
    ),
    "weighted_f": Score(
        "weighted F",
        "F1 of soft errors: those beside right pixels count less, those far from the object more",
        "small shifts of the edge; 0 where the true mask is empty, whatever was predicted",
        "Margolin et al., How to evaluate foreground maps?, CVPR 2014",
    ),
}

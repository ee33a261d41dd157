"""Scores of predicted masks. `counts` derives the usual ones from counted pixels, `boundary` looks
at the edge, `saliency` has those of the saliency papers, `histogram` judges the probabilities,
`bootstrap` says how sure a mean is, and `catalogue` what each score means."""

from unetlib.metrics.bootstrap import interval, paired
from unetlib.metrics.catalogue import SCORES, Score
from unetlib.metrics.counts import Counts, Mask, count, scores

__all__ = ["SCORES", "Counts", "Mask", "Score", "count", "interval", "paired", "scores"]

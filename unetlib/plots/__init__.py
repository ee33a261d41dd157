"""Arrays and tables in, matplotlib figures out: the pictures of the notebooks and of the report.

figures      the style, saving, photos with their masks, learning curves, the threshold sweep
evaluation   how good, how sure, on which photos, at what cost: the pictures of the scores
"""

from unetlib.plots.evaluation import (
    show_disagreement,
    show_intervals,
    show_precision_recall,
    show_quartiles,
    show_reliability,
    show_tradeoff,
)
from unetlib.plots.figures import (
    BLUE,
    GREEN,
    GREY,
    LABELS,
    ORANGE,
    PINK,
    SKY,
    STYLE,
    Picture,
    error_map,
    new_figure,
    overlay,
    save_figure,
    show_bars,
    show_cases,
    show_history,
    show_pairs,
    show_sweep,
)

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "LABELS",
    "ORANGE",
    "PINK",
    "Picture",
    "SKY",
    "STYLE",
    "error_map",
    "new_figure",
    "overlay",
    "save_figure",
    "show_bars",
    "show_cases",
    "show_disagreement",
    "show_history",
    "show_intervals",
    "show_pairs",
    "show_precision_recall",
    "show_quartiles",
    "show_reliability",
    "show_sweep",
    "show_tradeoff",
]

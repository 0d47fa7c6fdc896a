"""Does the machinery run through for an ablation's cells?

Not a scientific question: the trainings of `search_spaces/smoke.py`, with one part of the method
left out at a time. The learning rate is one of that search's range, because the default (DeSTSeg's)
is above it.

Table: none; Table 12 asks the like at the paper's size. Cost: 3 cells x 1 case = 3 fits of 240
iterations at 64x64, about 30 s of one core each.
"""

from search_spaces import smoke
from study.grids import leave_one_out

CELLS = leave_one_out(
    full={"global_ratio": 0.25, "hsas": "2d"},
    without={"no FFC": {"global_ratio": 0.0}, "no HSAS": {"hsas": "none"}},
)

FIXED = {**smoke.FIXED, "sgd_learning_rate": 0.1}

"""Is the method better than the closest published design?

That is DeSTSeg (Zhang et al., CVPR 2023): a frozen teacher, a denoising student and a segmentation
head, as here, without FFC and HSAS, and with the cosine distance instead of the squared one. Only
the design is its own here: anomalies, optimizer, iterations and score are those of the default, so
that the two differ in nothing else. Two encoders are made, once.

Table: none. Cost: 2 cells x the cases given; each fit is 20,000 iterations at 256x256.
"""

CELLS = {
    "DeSTSeg's design": {"global_ratio": 0.0, "hsas": "none", "reconstruction_loss": "cosine"},
    "FFC-AD": {},
}

REFERENCE = "DeSTSeg's design"

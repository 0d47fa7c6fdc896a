"""Which share of the channels should be in the global branch?

In the frozen encoder and in the autoencoder; the paper takes a half. Each ratio has an encoder of
its own: three are made, once.

Table: 14. Cost: 3 cells x the cases given; each fit is 20,000 iterations at 256x256.
"""

CELLS = {
    "ratio 0.25": {"global_ratio": 0.25},
    "ratio 0.5": {"global_ratio": 0.5},
    "ratio 0.75": {"global_ratio": 0.75},
}

REFERENCE = "ratio 0.5"
TABLES = ("14",)

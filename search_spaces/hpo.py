"""Which settings of FFC, HSAS and the optimizer work best at the paper's size?

The knobs of Tables 13 (FFC layers), 14 (global ratio), 15 (HSAS) and 16 (optimizer), together
instead of one at a time, with the probability of HSAS and a learning-rate range for each optimizer,
which the paper does not give, and the reconstruction loss. Everything else is at the paper's
defaults: 256x256, batch 8, 20,000 iterations.

The frozen encoder's architecture follows the FFC layers and the ratio: 12 encoders, made first.

Table: 13-16. Cost: 60 configurations (`--num-trials 60`) x the cases given, less what early
stopping saves; each fit is 20,000 iterations. Before them the encoders, of 2,000 iterations each
at most.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution

SEARCH = {
    "ffc_layers": CategoricalDistribution((1, 2, 3)),
    "global_ratio": FloatDistribution(0.0, 0.75, step=0.25),
    "hsas": CategoricalDistribution(("none", "1d", "2d")),
    "hsas_probability": FloatDistribution(0.01, 0.4, log=True),
    "optimizer": CategoricalDistribution(("sgd", "adamw")),
    "sgd_learning_rate": FloatDistribution(1e-2, 1.0, log=True),
    "adamw_learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "reconstruction_loss": CategoricalDistribution(("l2", "cosine")),
}

TABLES = ("13", "14", "15", "16")

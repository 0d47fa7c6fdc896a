"""Does the whole machinery work on this machine?

Not a scientific question: small images, few iterations, narrow networks and one category, so that a
study of six configurations ends within three minutes on two cores. The knobs that are searched are
the ones that later studies search, conditional ones included.

Table: none. Cost: 6 configurations x 1 case = 6 fits of 240 iterations at 64x64, about 30 s of one
core each; early stopping leaves some of them unfinished.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution

SEARCH = {
    "ffc_layers": CategoricalDistribution((1, 2)),
    "global_ratio": CategoricalDistribution((0.0, 0.25, 0.5)),
    "hsas": CategoricalDistribution(("none", "1d", "2d")),
    "hsas_probability": FloatDistribution(0.05, 0.4),
    "optimizer": CategoricalDistribution(("sgd", "adamw")),
    "sgd_learning_rate": FloatDistribution(3e-2, 2e-1, log=True),
    "adamw_learning_rate": FloatDistribution(5e-4, 5e-3, log=True),
}

FIXED = {
    "image_size": 64,
    "autoencoder_channels": 16,
    "head_channels": 32,
    "autoencoder_iterations": 60,
    "head_iterations": 180,
    "head_learning_rate_factor": 1.0,
    # Squared L2 has no scale that suits every random encoder.
    "reconstruction_loss": "cosine",
    "evaluate_every": 60,
}

"""Is SGD better than AdamW, each with a learning rate that suits it?

The paper's Table 16 compares the two at learning rates that it does not give. A comparison at one
rate each would compare the rates, so both are tuned, with as many configurations each: the first
has this project's default rate, the others spread over the range. The rate is chosen on the select
split, like everything else. One encoder is made.

Table: 16. Cost: 2 cells x 6 draws (`--num-trials 6`) = 12 configurations x the cases given; each
fit is 20,000 iterations at 256x256.
"""

from optuna.distributions import FloatDistribution

CELLS = {
    "AdamW": {"optimizer": "adamw"},
    "SGD": {"optimizer": "sgd"},
}

NUISANCE = {
    "sgd_learning_rate": FloatDistribution(1e-2, 1.0, log=True),
    "adamw_learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
}

REFERENCE = "SGD"
TABLES = ("16",)

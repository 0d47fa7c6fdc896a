"""How often should HSAS drop, and single channels or whole positions?

2D dropping with four probabilities and 1D dropping with the best of them, as in the paper's Table
15, which takes 2D with 0.1. Whether HSAS helps at all is asked in Table 12 (`components`). One
encoder is made.

Table: 15. Cost: 5 cells x the cases given; each fit is 20,000 iterations at 256x256.
"""

CELLS = {
    "2D HSAS, p = 0.01": {"hsas": "2d", "hsas_probability": 0.01},
    "2D HSAS, p = 0.04": {"hsas": "2d", "hsas_probability": 0.04},
    "2D HSAS, p = 0.1": {"hsas": "2d", "hsas_probability": 0.1},
    "2D HSAS, p = 0.2": {"hsas": "2d", "hsas_probability": 0.2},
    "1D HSAS, p = 0.1": {"hsas": "1d", "hsas_probability": 0.1},
}

REFERENCE = "2D HSAS, p = 0.1"
TABLES = ("15",)

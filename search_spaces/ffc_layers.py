"""How many FFC layers should a residual block have?

One, two or three convolutions in sequence, in the frozen encoder and in the autoencoder; the paper
takes two. Each has an encoder of its own: three are made, once.

Table: 13. Cost: 3 cells x the cases given; each fit is 20,000 iterations at 256x256.
"""

CELLS = {
    "1 FFC layer": {"ffc_layers": 1},
    "2 FFC layers": {"ffc_layers": 2},
    "3 FFC layers": {"ffc_layers": 3},
}

REFERENCE = "2 FFC layers"
TABLES = ("13",)

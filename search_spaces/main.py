"""How well does the method do on every category?

The default alone, on all categories of MVTec AD (`--data mvtec`) or VisA (`--data visa`): the
paper's main results. Several `--seeds` give the spread that the paper does not. One encoder is
made.

Table: 2-11. Cost: 1 cell x the cases given, 15 or 12 categories; each fit is 20,000 iterations at
256x256.
"""

CELLS = {"FFC-AD": {}}

TABLES = ("2", "3", "4", "5", "6", "7", "8", "9", "10", "11")

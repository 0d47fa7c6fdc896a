"""Which of the paper's ablations hold?

All rows of Tables 12 to 16, compared with the default. The five tables share it, and it is fitted
once. Of Table 16 both optimizers have their default rates here; `optimizer` tunes them. Six
encoders are made, once: ratio 0, 0.25, 0.5 and 0.75 with two layers, ratio 0.5 with one and three.

Table: 12-16. Cost: 17 cells, which are 13 configurations, x the cases given; each fit is 20,000
iterations at 256x256.
"""

from search_spaces import components, ffc_layers, global_ratio, hsas, optimizer

PARTS = (components, ffc_layers, global_ratio, hsas, optimizer)

CELLS = {name: values for part in PARTS for name, values in part.CELLS.items()}

REFERENCE = components.REFERENCE
TABLES = tuple(table for part in PARTS for table in part.TABLES)

"""What do FFC in the encoder, FFC in the autoencoder, and HSAS each add?

The parts are added one after the other, as in the paper's Table 12; the last row is the method with
all of them, the default, which the others are compared with. Everything else is at the paper's
defaults.

Without FFC the frozen encoder has another architecture: two encoders are made, once.

Table: 12. Cost: 4 cells x the cases given; each fit is 20,000 iterations at 256x256.
"""

CELLS = {
    "standard convolution": {"ffc_encoder": False, "ffc_autoencoder": False, "hsas": "none"},
    "FFC in the encoder": {"ffc_autoencoder": False, "hsas": "none"},
    "FFC in encoder and autoencoder": {"hsas": "none"},
    "FFC and HSAS": {},
}

REFERENCE = "FFC and HSAS"
TABLES = ("12",)

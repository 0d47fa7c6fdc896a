"""Which weights should the frozen encoder have?

The paper does not say where its FFC encoder's weights come from. Compared, with everything else
equal (FFC in the autoencoder, ratio 0.5, two layers): an FFC encoder that is random, that has
ResNet-18's kernels where FFC has a place for them, and that was distilled from ResNet-18; and the
plain ResNet-18 itself, without FFC in the frozen encoder.

Table: none. Cost: 4 cells x the cases given; each fit is 20,000 iterations at 256x256. Three
encoders are made first, one of them by training.
"""

CELLS = {
    "distilled": {"encoder_weights": "distilled"},
    "warm start": {"encoder_weights": "warm_start"},
    "random": {"encoder_weights": "random"},
    "plain ResNet-18": {"ffc_encoder": False, "encoder_weights": "warm_start"},
}

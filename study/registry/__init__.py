"""From a study's best configuration to a model in MLflow's registry, and back to a detector."""

"""Trained detectors in MLflow's model registry."""

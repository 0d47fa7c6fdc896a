"""Many fits of `ffcad`: planned, run by Ray Tune, kept in a ledger, shown in MLflow."""

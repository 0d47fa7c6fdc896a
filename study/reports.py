"""The names in what a worker reports to Tune, apart from Optuna, which no worker imports."""

# Heartbeats have a fraction only.
OBJECTIVE, RUNG, FINAL, FRACTION = "objective", "rung", "final", "fraction"
# How a trial ends without an objective: its configuration cannot work; it was left off, to be gone
# on with; nothing can be kept any more.
ERROR, INTERRUPTED, FATAL = "error", "interrupted", "fatal"

"""FFC-AD: unsupervised anomaly detection with fast Fourier convolutions."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("ffcad-study")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "unknown"

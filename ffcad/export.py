"""A trained detector as one graph, for runtimes that know nothing of this package.

The graph takes images and gives anomaly scores and anomaly maps; normalisation, networks and the
score's rule are inside. The number of images is free, their size is the configuration's. It
computes in float32, whatever precision the training had. Two formats: ONNX, and torch.export's
program (.pt2).

Shapes: N images, S the configuration's image_size.
"""

import contextlib
import copy
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ffcad.config import IMAGENET_MEAN, IMAGENET_STD
from ffcad.layers import FourierUnit
from ffcad.matrix_fourier import MatrixFourierUnit
from ffcad.model import FFCAD, image_scores
from ffcad.predictor import Predictor, predict, to_float

# The first version whose DFT has its axis as an input, which is what torch writes.
OPSET = 20
TAKES = {
    "float32": "(N, 3, S, S) float32 in [0, 1]",
    "uint8": "(N, S, S, 3) uint8, as image decoders give",
}
FOURIER = ("matrix", "dft")
INPUT, OUTPUTS = "images", ("anomaly_scores", "anomaly_maps")
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")

# (N, S, S, 3) uint8 -> scores (N,) and maps (N, S, S), float32.
Inspect = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class MissingPackages(ImportError):
    """What an export to ONNX needs is not installed."""


class ExportError(RuntimeError):
    """A graph that could not be made or run, or that does not agree with its model."""


class InspectionGraph(nn.Module):
    """The whole path of an inspection, in the form that is exported.

    Args:
        model: trained; it is copied.
        use_head: False takes the feature discrepancy, which needs no trained head.
        takes: a key of `TAKES`, what it takes.
        fourier: 'dft' leaves the Fourier transforms to the runtime, 'matrix' writes them as matrix
            products.
    """

    def __init__(self, model: FFCAD, *, use_head: bool, takes: str, fourier: str) -> None:
        super().__init__()
        self.model = float32_model(model)
        self.use_head, self.takes = use_head, takes
        self.size, self.score_pixels = model.config.image_size, model.config.image_score_pixels
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])
        if fourier == "matrix":
            _use_matrices(self.model)
        for unit in self.model.modules():
            if isinstance(unit, FourierUnit):
                # Its region without autocast, which here is the whole graph, would be a graph of
                # its own in the program, bound to this device.
                unit.forward = unit.transform

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `takes` says -> anomaly scores (N,) and anomaly maps (N, S, S), float32."""
        if self.takes == "uint8":
            images = images.permute(0, 3, 1, 2).float() / 255
        batch = (images - self.mean) / self.std
        maps = self.model(batch) if self.use_head else self.model.discrepancy(batch)
        return image_scores(maps, self.score_pixels), maps

    def example(self) -> Tensor:
        """Two images of the kind that it takes: a batch of one would fix the number of images."""
        if self.takes == "uint8":
            return torch.zeros(2, self.size, self.size, 3, dtype=torch.uint8)
        return torch.zeros(2, 3, self.size, self.size)


def float32_model(model: FFCAD) -> FFCAD:
    """A copy on the CPU that computes in float32, whatever the training's precision was."""
    plain = copy.deepcopy(model).cpu().eval()
    plain.config = replace(model.config, precision="float32", channels_last=False)
    return plain


def inspect_with_model(predictor: Predictor) -> Inspect:
    """What exported graphs are compared with: the model itself, in float32 on the CPU."""
    model, use_head = float32_model(predictor.model), predictor.use_head
    return lambda images: predict(model, images, use_head=use_head)


def check_onnx_packages() -> None:
    """Raises MissingPackages where an export to ONNX cannot work."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackages(
            f"an export to ONNX needs the packages {', '.join(ONNX_PACKAGES)}, but "
            f"{', '.join(missing)} cannot be imported; pip install 'ffcad-study[export]', or "
            "--format torch"
        )


def write_torch(graph: InspectionGraph, path: Path) -> None:
    """Writes torch.export's program.

    Args:
        graph: with the runtime's Fourier transforms (torch has fast ones).
        path: ends in .pt2.
    """
    torch.export.save(_captured(graph), path)


def write_onnx(graph: InspectionGraph, path: Path) -> None:
    """Writes one ONNX file of operator set `OPSET`, with the weights inside.

    Raises:
        ExportError: if torch has no translation of an operator.
    """
    try:
        program = torch.onnx.export(
            _captured(graph),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: "batch"},),
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as e:
        raise ExportError(f"torch could not write ONNX: {_first_line(e)}") from e
    program.save(path, external_data=False)


def load_torch(path: Path) -> Inspect:
    """Reads what `write_torch` wrote, for the CPU; it runs with torch's threads."""
    program = torch.export.load(path)
    module, dtype = program.module(), program.example_inputs[0][0].dtype

    def inspect(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            scores, maps = module(torch.from_numpy(_as_taken(images, dtype is torch.uint8)))
        return scores.numpy(), maps.numpy()

    return inspect


def load_onnx(path: Path, threads: int) -> Inspect:
    """Reads an ONNX file into ONNX Runtime, for the CPU.

    Raises:
        ExportError: if ONNX Runtime cannot run it, there or when it inspects.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Its idle threads would otherwise spin for a while, in the time of what is measured next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with _onnx_runtime_errors():
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    uint8 = session.get_inputs()[0].type == "tensor(uint8)"

    def inspect(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with _onnx_runtime_errors():
            scores, maps = session.run(list(OUTPUTS), {INPUT: _as_taken(images, uint8)})
        return scores, maps

    return inspect


@contextlib.contextmanager
def _onnx_runtime_errors() -> Iterator[None]:
    try:
        yield
    except Exception as e:  # its exceptions have no class in common
        raise ExportError(f"ONNX Runtime cannot run the graph: {_first_line(e)}") from e


def _captured(graph: InspectionGraph) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(
            graph.eval(), (graph.example(),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )


def _use_matrices(model: FFCAD) -> None:
    """Puts matrix products in the place of the model's Fourier units."""
    size, sizes, hooks = model.config.image_size, {}, []
    for unit in model.modules():
        if isinstance(unit, FourierUnit):

            def note(unit: nn.Module, inputs: tuple[Tensor]) -> None:
                sizes[unit] = inputs[0].shape[-2:]

            hooks.append(unit.register_forward_pre_hook(note))
    with torch.no_grad():
        model.discrepancy(torch.zeros(1, 3, size, size))  # the head has no Fourier unit
    for hook in hooks:
        hook.remove()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if child in sizes:
                setattr(parent, name, MatrixFourierUnit(child, *sizes[child]))


def _as_taken(images: np.ndarray, uint8: bool) -> np.ndarray:
    """(N, S, S, 3) uint8 -> the same, or (N, 3, S, S) float32 in [0, 1]."""
    if uint8:
        return images
    return to_float(images, torch.device("cpu")).contiguous().numpy()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__

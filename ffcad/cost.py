"""Parameters and multiply-accumulates, by counting, and the paper's formulas beside the count.

Counted are the multiply-accumulates of the convolutions (half of what torch's flop counter calls
FLOPs; what the paper calls FLOPs). Fourier transforms, batch normalisation, activations and
interpolation are not. The counting runs on fake tensors: it takes a second and no memory.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ffcad.config import TrainConfig
from ffcad.layers import FFC, global_channels
from ffcad.model import FFCAD
from ffcad.resnet import FFCResNet

NOT_COUNTED = "Fourier transforms, batch normalisation, activations and interpolation"


@dataclass(frozen=True)
class Cost:
    """Of a part of the model, for one image.

    Attributes:
        name: the module's name within the part that holds it; a stem is conv1 and bn1 together.
        parameters: weights and biases, frozen ones too; no buffers.
        macs: multiply-accumulates of the convolutions, forward.
        parts: what it consists of.
    """

    name: str
    parameters: int
    macs: int
    parts: tuple["Cost", ...] = ()


@dataclass(frozen=True)
class FFCCost:
    """One fast Fourier convolution of stride 1: Table 1's formulas beside the count.

    Attributes:
        standard_parameters, standard_macs: of a plain convolution.
        table_parameters, table_macs: by Table 1.
        parameters, macs: of the convolutions, counted.
        norm_parameters: of the batch norms inside the global path, which Table 1 leaves out.
        parameter_term, mac_term: the factor that C2 would have to have in the formulas' last
            bracket for the count to come out; None without a global branch.
    """

    standard_parameters: int
    standard_macs: int
    table_parameters: float
    table_macs: float
    parameters: int
    macs: int
    norm_parameters: int
    parameter_term: float | None
    mac_term: float | None


# The factors of C2 in Table 1: C2 (C1 / 2 + factor C2).
TABLE_PARAMETER_TERM = 3 / 2
TABLE_MAC_TERM = 13 / 16


def model_cost(config: TrainConfig) -> Cost:
    """Counts a configuration's model at its image size, per part and stage."""
    with FakeTensorMode():
        model = FFCAD(config).eval()
        macs = _count(model, torch.zeros(1, 3, config.image_size, config.image_size))
    parts = tuple(_part_cost(name, part, macs) for name, part in model.named_children())
    return Cost("total", _parameters(model), macs["FFCAD"], parts)


def iteration_macs(config: TrainConfig) -> tuple[int, int]:
    """What a training iteration computes per image: (stage one, stage two) multiply-accumulates.

    A backward pass costs twice its forward pass. The ratio of the two predicts, while stage one
    runs, how long stage two will take.
    """
    encoder, autoencoder, head = (part.macs for part in model_cost(config).parts)
    return encoder + 3 * autoencoder, encoder + autoencoder + 3 * head


def ffc_cost(c1: int, c2: int, kernel: int, alpha: float, side: int, lfu: bool = False) -> FFCCost:
    """Counts one FFC and evaluates Table 1 for it.

    Args:
        c1, c2: channels at the entrance and at the exit, both branches together.
        kernel: odd side of the spatial kernels.
        alpha: global ratio, at the entrance and at the exit.
        side: height and width of the feature map.
        lfu: whether it has the local Fourier unit (Table 1's parameters are those without).

    Raises:
        ValueError: if the kernel is even, or the global branch is too narrow.
    """
    if kernel % 2 == 0:
        raise ValueError(f"kernel must be odd but got {kernel}")
    with FakeTensorMode():
        ffc = FFC(c1, c2, kernel, alpha, alpha, padding=kernel // 2, enable_lfu=lfu).eval()
        c1_global = global_channels(c1, alpha)
        pair = tuple(
            torch.zeros(1, c, side, side) if c else None for c in (c1 - c1_global, c1_global)
        )
        macs = _count(ffc, pair)["FFC"]
    norms = sum(_parameters(m) for m in ffc.modules() if isinstance(m, nn.BatchNorm2d))
    parameters, positions = _parameters(ffc) - norms, side**2
    plain = c1 * c2 * kernel**2
    fixed = (1 - alpha**2) * plain + alpha**2 * c2 * c1 / 2
    unit = alpha**2 * c2**2  # what the factor of C2 multiplies
    return FFCCost(
        standard_parameters=plain,
        standard_macs=plain * positions,
        table_parameters=fixed + unit * TABLE_PARAMETER_TERM,
        table_macs=(fixed + unit * TABLE_MAC_TERM) * positions,
        parameters=parameters,
        macs=macs,
        norm_parameters=norms,
        parameter_term=(parameters - fixed) / unit if unit else None,
        mac_term=(macs / positions - fixed) / unit if unit else None,
    )


def _count(module: nn.Module, x: Tensor | tuple[Tensor | None, Tensor | None]) -> dict[str, int]:
    """Multiply-accumulates by dotted module name, from the module's class name on."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}


def _part_cost(name: str, part: nn.Module, macs: dict[str, int]) -> Cost:
    stages: dict[str, list[Cost]] = {}
    for path, stage in _stages(part):
        head, _, last = path.rpartition(".")
        label = f"{head}.stem".lstrip(".") if last in ("conv1", "bn1") else path
        cost = Cost(label, _parameters(stage), macs.get(f"FFCAD.{name}.{path}", 0))
        stages.setdefault(label, []).append(cost)
    finer = tuple(
        Cost(label, sum(c.parameters for c in costs), sum(c.macs for c in costs))
        for label, costs in stages.items()
    )
    return Cost(name, _parameters(part), macs[f"FFCAD.{name}"], finer)


def _stages(part: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """Children that have parameters, by dotted name; a network inside is taken apart."""
    found = []
    for name, child in part.named_children():
        if isinstance(child, FFCResNet):
            found += _stages(child, f"{prefix}{name}.")
        elif _parameters(child):
            found.append((prefix + name, child))
    return found


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())

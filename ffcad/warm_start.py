"""A standard ResNet-18's kernels in an FFC encoder, where they have a place.

A level's channels are the local ones, then the global ones, and channel c stands for ResNet-18's
channel c. So the spatial paths of an FFC (local to local, local to global, global to local) take
the block of the kernel between their channels. The path from global to global has no spatial
kernel: its two 1x1 convolutions take the best factorisation of the kernel's sum over its positions,
that is of its answer to a constant image; the norm between them lets nearly everything pass its
ReLU, and the Fourier unit starts small.

Blocks of two layers correspond one to one. Of three layers the middle one starts as the identity,
which changes nothing behind a ReLU; a single layer takes the first kernel. With ratio 0 and two or
three layers the result is the ResNet-18, exactly. Otherwise its norms are set so that each
channel's mean and deviation on images, before the activation, are ResNet-18's.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ffcad.layers import FFCNormAct, SpectralTransform
from ffcad.resnet import FFCBlock, FFCResNet

# Scale of the Fourier unit's norm at the start.
FOURIER_START = 0.1
# Deviations by which the spectral path's inner channels are lifted, so that the ReLU cuts few of
# them; the norm that follows takes the constant away again.
LIFT = 2.0


def is_exact(encoder: FFCResNet) -> bool:
    """Whether a warm start makes the encoder compute what ResNet-18 does."""
    return encoder.architecture["ratio"] == 0 and encoder.architecture["layers"] in (2, 3)


@torch.no_grad()
def warm_start(encoder: FFCResNet, teacher: FFCResNet, batches: list[Tensor]) -> None:
    """Gives the encoder the teacher's kernels.

    Args:
        encoder: of any ratio and number of layers, 64 channels, three stages.
        teacher: a ResNet-18: ratio 0, two layers; in eval mode.
        batches: normalised images (B, 3, H, W) that the norms are set by; needed unless
            `is_exact`.
    """
    encoder.conv1.load_state_dict(teacher.conv1.state_dict())
    encoder.bn1.load_state_dict(teacher.bn1.state_dict())
    pairs: list[tuple[FFCNormAct, nn.Module]] = []
    for block, source in zip(_blocks(encoder), _blocks(teacher), strict=True):
        pairs += _start_block(block, source)
    if is_exact(encoder):
        for layer, source in pairs:
            _copy_norm(layer, source)
        return
    sources = [teacher.bn1, *(source for _, source in pairs)]
    statistics = _output_statistics(teacher, sources, batches)
    _set_scale(encoder.bn1, *statistics[teacher.bn1])
    for layer, source in pairs:
        local = layer.bn_l.num_features if layer.bn_l is not None else 0
        for norm, part in ((layer.bn_l, slice(0, local)), (layer.bn_g, slice(local, None))):
            if norm is not None:
                _set_scale(norm, *(values[part] for values in statistics[source]))
    calibrate(encoder, batches)
    for module in encoder.modules():
        if isinstance(module, SpectralTransform):
            norm = module.conv1[1]
            norm.weight.copy_(norm.running_var.sqrt())
            norm.bias.copy_(norm.running_mean + LIFT * norm.weight)
    calibrate(encoder, batches)


@torch.no_grad()
def calibrate(encoder: nn.Module, batches: Iterable[Tensor]) -> None:
    """Sets the running statistics of all norms to the mean over the batches.

    Args:
        encoder: left in the mode it came in.
        batches: normalised images (B, 3, H, W).
    """
    training = encoder.training
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    encoder.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over what follows
    for images in batches:
        encoder(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    encoder.train(training)


def _blocks(encoder: FFCResNet) -> list[FFCBlock]:
    return [block for i in (1, 2, 3) for block in getattr(encoder, f"layer{i}")]


def _layers(block: FFCBlock) -> list[FFCNormAct]:
    return [getattr(block, f"conv{i + 1}") for i in range(block.layers)]


def _start_block(block: FFCBlock, source: FFCBlock) -> list[tuple[FFCNormAct, nn.Module]]:
    """Fills a block's kernels; returns which layer's output stands for which module's output."""
    first, second = _layers(source)
    layers = _layers(block)
    pairs: list[tuple[FFCNormAct, nn.Module]] = []
    if len(layers) == 1:
        # Its output is added to the skip, as the second one's of the source.
        sources = [(first.ffc.convl2l.weight, second.bn_l)]
    else:
        middle = [(_identity(second), first)] * (len(layers) - 2)
        sources = [(first.ffc.convl2l.weight, first.bn_l), *middle]
        sources.append((second.ffc.convl2l.weight, second.bn_l))
    for layer, (kernel, like) in zip(layers, sources, strict=True):
        _place(layer, kernel)
        pairs.append((layer, like))
    if block.downsample is not None:
        if source.downsample is None:  # only the ratio changes here
            channels = second.bn_l.num_features
            kernel = torch.eye(channels)[:, :, None, None]
            pairs.append((block.downsample, source))
        else:
            kernel = source.downsample.ffc.convl2l.weight
            pairs.append((block.downsample, source.downsample.bn_l))
        _place(block.downsample, kernel)
    return pairs


def _identity(layer: FFCNormAct) -> Tensor:
    """The 3x3 kernel that gives its input, in the shape of a layer's own."""
    kernel = torch.zeros_like(layer.ffc.convl2l.weight)
    kernel[:, :, 1, 1] = torch.eye(len(kernel))
    return kernel


def _place(layer: FFCNormAct, kernel: Tensor) -> None:
    """Cuts a kernel (C_out, C_in, k, k) into an FFC's paths."""
    out_l = layer.bn_l.num_features if layer.bn_l is not None else 0
    ffc, in_l = layer.ffc, _local_inputs(layer, kernel.shape[1])
    for path, rows, columns in (
        (ffc.convl2l, slice(0, out_l), slice(0, in_l)),
        (ffc.convl2g, slice(out_l, None), slice(0, in_l)),
        (ffc.convg2l, slice(0, out_l), slice(in_l, None)),
    ):
        if path is not None:
            path.weight.copy_(kernel[rows, columns])
    if ffc.convg2g is not None:
        _place_spectral(ffc.convg2g, kernel[out_l:, in_l:].sum(dim=(2, 3)))


def _local_inputs(layer: FFCNormAct, channels: int) -> int:
    for path in (layer.ffc.convl2l, layer.ffc.convl2g):
        if path is not None:
            return path.in_channels
    return 0


def _place_spectral(path: SpectralTransform, matrix: Tensor) -> None:
    """The two 1x1 convolutions become the best factorisation of a matrix (C_out, C_in)."""
    reduce, expand = path.conv1[0], path.conv2
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    rank = min(len(s), reduce.out_channels)
    root = s[:rank].sqrt()
    reduce.weight[:rank, :, 0, 0] = root[:, None] * v[:rank]
    expand.weight[:, :rank, 0, 0] = u[:, :rank] * root
    for unit in (path.fu, path.lfu):
        if unit is not None:
            unit.bn.weight.fill_(FOURIER_START)


def _copy_norm(layer: FFCNormAct, source: nn.Module) -> None:
    if isinstance(source, nn.BatchNorm2d):
        layer.bn_l.load_state_dict(source.state_dict())
        return
    # The identity between two layers: a norm that does nothing.
    layer.bn_l.reset_parameters()
    layer.bn_l.running_var.fill_(1 - layer.bn_l.eps)


def _set_scale(norm: nn.BatchNorm2d, mean: Tensor, deviation: Tensor) -> None:
    """Makes a norm's output have a mean and a deviation, once its statistics are right."""
    norm.weight.copy_(deviation)
    norm.bias.copy_(mean)


def _output_statistics(
    teacher: FFCResNet, modules: list[nn.Module], batches: list[Tensor]
) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """Mean and deviation of each channel of what modules give out; of a block, what it is given."""
    sums = {module: [0.0, 0.0, 0] for module in modules}
    with _watched(sums):
        for images in batches:
            teacher(images)
    result = {}
    for module, (total, squares, count) in sums.items():
        mean = total / count
        result[module] = (mean.float(), (squares / count - mean**2).clamp(min=0).sqrt().float())
    return result


@contextmanager
def _watched(sums: dict[nn.Module, list]) -> Iterator[None]:
    def watch(module: nn.Module, given: tuple, output: object) -> None:
        x = given[0] if isinstance(module, FFCBlock) else output
        x = (x[0] if isinstance(x, tuple) else x).double()
        entry = sums[module]
        entry[0] = entry[0] + x.sum(dim=(0, 2, 3)).cpu()
        entry[1] = entry[1] + (x**2).sum(dim=(0, 2, 3)).cpu()
        entry[2] += x.numel() // x.shape[1]

    hooks = [module.register_forward_hook(watch) for module in sums]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

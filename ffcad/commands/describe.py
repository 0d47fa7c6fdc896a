"""`python -m ffcad describe`: what a configuration costs, without training it."""

import argparse
import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from ffcad.commands.arguments import (
    UsageError,
    add_settings,
    configuration,
    positive_number,
)
from ffcad.config import TrainConfig
from ffcad.cost import (
    NOT_COUNTED,
    TABLE_MAC_TERM,
    TABLE_PARAMETER_TERM,
    Cost,
    FFCCost,
    ffc_cost,
    model_cost,
)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "describe",
        help="parameters and multiply-accumulates of a configuration",
        description="Parameters and multiply-accumulates of a configuration's parts, by counting,\n"
        "and Table 1's formulas beside the count for one FFC.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--channels",
        nargs=2,
        type=positive_number,
        default=(64, 64),
        metavar=("C1", "C2"),
        help="channels of the FFC of Table 1 (default: 64 64)",
    )
    parser.add_argument(
        "--kernel", type=positive_number, default=3, help="side of its kernels (default: 3)"
    )
    add_settings(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the tables, or JSON."""
    config = configuration(args.settings)
    side = -(-config.image_size // 4)  # of stage one's feature maps
    try:
        ffc = ffc_cost(
            *args.channels, args.kernel, config.global_ratio, side, config.local_fourier_unit
        )
    except ValueError as e:  # an even kernel, or a global branch without channels
        raise UsageError(f"--channels, --kernel: {e}") from e
    model = model_cost(config)
    if args.json:
        document = {
            "config": config.to_dict(),
            "config_digest": config.digest(),
            "model": asdict(model),
            "not_counted": NOT_COUNTED,
            "ffc": {
                "channels": list(args.channels),
                "kernel": args.kernel,
                "global_ratio": config.global_ratio,
                "local_fourier_unit": config.local_fourier_unit,
                "side": side,
                **asdict(ffc),
            },
        }
        print(json.dumps(document, indent=2))
        return 0
    console = Console(markup=False, highlight=False)
    console.print(_model_table(config, model))
    console.print()
    console.print(_ffc_table(config, ffc, args.channels, args.kernel, side))
    console.print(_remark(config, ffc, side))
    return 0


def _model_table(config: TrainConfig, model: Cost) -> Table:
    changed = ", ".join(f"{k}={v}" for k, v in config.identity().items()) or "the defaults"
    table = Table(
        title=f"Configuration {config.digest()}: {changed}",
        caption=f"One image of {config.image_size}x{config.image_size}, forward. MACs: "
        f"multiply-accumulates of the convolutions; not counted: {NOT_COUNTED}.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("part")
    for name in ("parameters", "MACs", "of all MACs"):
        table.add_column(name, justify="right")

    def row(cost: Cost, name: str, style: str) -> None:
        share = f"{100 * cost.macs / model.macs:.1f} %"
        table.add_row(
            name, _engineering(cost.parameters), _engineering(cost.macs), share, style=style
        )

    names = {"encoder": "frozen encoder", "head": "segmentation head"}
    for part in model.parts:
        row(part, names.get(part.name, part.name), "bold")
        for i, stage in enumerate(part.parts):
            row(stage, f"  {stage.name}", "")
            if i == len(part.parts) - 1:
                table.add_section()
    row(model, "total", "bold")
    return table


def _ffc_table(
    config: TrainConfig, ffc: FFCCost, channels: tuple[int, int], kernel: int, side: int
) -> Table:
    c1, c2 = channels
    unit = "with" if config.local_fourier_unit else "without"
    table = Table(
        title=f"Table 1: one FFC {c1} -> {c2}, kernel {kernel}, alpha {config.global_ratio:g}, "
        f"{unit} local Fourier unit, on {side}x{side}",
        title_justify="left",
    )
    table.add_column("")
    for name in ("parameters", "MACs"):
        table.add_column(name, justify="right")
    table.add_row("standard convolution", f"{ffc.standard_parameters:,}", f"{ffc.standard_macs:,}")
    table.add_row("FFC, Table 1", f"{ffc.table_parameters:,.0f}", f"{ffc.table_macs:,.0f}")
    table.add_row("FFC, counted", f"{ffc.parameters:,}", f"{ffc.macs:,}")
    table.add_row(
        "difference",
        f"{100 * (ffc.parameters / ffc.table_parameters - 1):+.2f} %",
        f"{100 * (ffc.macs / ffc.table_macs - 1):+.2f} %",
    )
    return table


def _remark(config: TrainConfig, ffc: FFCCost, side: int) -> str:
    if ffc.parameter_term is None:
        return "Without a global branch an FFC is a standard convolution."
    extra = " plus the local Fourier unit" if config.local_fourier_unit else ""
    return (
        "Table 1 ends in alpha^2 C2 (C1/2 + x C2), times HW for the MACs.\n"
        f"Parameters: Table 1 has x = {TABLE_PARAMETER_TERM:g}, that of an FFC without local "
        f"Fourier unit; counted: x = {ffc.parameter_term:.4g}. The global path's batch norms have "
        f"{ffc.norm_parameters:,} more.\n"
        f"MACs: Table 1 has x = {TABLE_MAC_TERM:g}, counted: x = {ffc.mac_term:.4g}. The Fourier "
        f"unit's convolution works on {side}x{side // 2 + 1} frequencies (x = 1/2 and a little) "
        f"and the last 1x1 convolution on {side}x{side} positions (x = 1/2){extra}."
    )


def _engineering(number: int) -> str:
    """Four digits and a unit: 37.17 G."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:#.4g} {unit}"
    return str(number)

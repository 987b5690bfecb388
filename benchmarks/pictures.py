"""The pictures of a report, by Matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.cases import DIRECTIONS
from benchmarks.peers import PEERS
from benchmarks.report import SCALING, Report
from benchmarks.sweeps import taking_part
from benchmarks.timing import YARDSTICK

#: One colour for each peer, the same in every picture.
COLOURS = dict(zip(PEERS, [f"C{n}" for n in (3, 7, 9, 0, 1, 2, 4, 5, 6, 8)], strict=True))


def plain_log(ax: Any) -> None:
    """Make the vertical axis logarithmic, with numbers such as 0.5 and 20 at it."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def ratios(report: Report) -> Any:
    """Draw the ratio to the dense convolution: a group of bars for each case."""
    from matplotlib.figure import Figure

    panels = [(d, t) for d in DIRECTIONS if report.peers(d) for t in report.threads]
    figure = Figure(figsize=(12, 2.8 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    names = [case.name for case in report.cases]
    for ax, (direction, threads) in zip(axes, panels, strict=True):
        peers = [p for p in report.peers(direction) if p != YARDSTICK]
        width = 0.85 / max(1, len(peers))
        for number, peer in enumerate(peers):
            found = [report.found(name, direction, threads).get(peer) for name in names]
            bars = [(x, m.ratio) for x, m in enumerate(found) if m is not None and m.ratio]
            places = [x + (number - (len(peers) - 1) / 2) * width for x, _ in bars]
            heights = [ratio for _, ratio in bars]
            ax.bar(places, heights, width, label=peer, color=COLOURS[peer])
        ax.axhline(1, color="black", linewidth=0.8)
        plain_log(ax)
        ax.set_xticks(range(len(names)), names)
        if len(names) > 12:  # the longest would run into each other
            ax.tick_params(axis="x", labelrotation=30)
        ax.set_ylabel("times the dense convolution")
        ax.set_title(f"{direction}, {threads} thread{'s' * (threads > 1)}", loc="left")
        ax.legend(ncols=len(peers), fontsize="small", frameon=False)
        ax.margins(x=0.01, y=0.3)
    return figure


def sweep(report: Report, name: str, label: str) -> Any:
    """Draw time and memory against the number that grows."""
    from matplotlib.figure import Figure

    points = [p for p in report.sweeps if p["sweep"] == name]
    marks = sorted({p["x"] for p in points})
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(2, len(DIRECTIONS), squeeze=False, sharex=True)
    kinds = (("seconds", 1e3, "ms"), ("bytes", 2**-20, "MiB above the arguments"))
    for row, (key, unit, words) in zip(axes, kinds, strict=True):
        for ax, direction in zip(row, DIRECTIONS, strict=True):
            for peer in taking_part(points):
                line = sorted(
                    (p["x"], p[key] * unit)
                    for p in points
                    if p["peer"] == peer and p["direction"] == direction and p[key]
                )
                if line:
                    xs, ys = zip(*line, strict=True)
                    ax.plot(xs, ys, "o-", label=peer, color=COLOURS[peer])
            ax.set_xscale("log", base=2)
            ax.set_xticks(marks, list(map(str, marks)))
            plain_log(ax)
            ax.set_ylabel(words)
            ax.set_xlabel(label)
            ax.set_title(direction, loc="left")
            ax.grid(alpha=0.3)
    axes[0, 0].legend(fontsize="small")
    return figure


def scaling(report: Report) -> Any:
    """Draw how many times faster more threads are, a panel for each case."""
    from matplotlib.figure import Figure

    columns = 4
    rows = -(-len(report.cases) // columns)
    figure = Figure(figsize=(12, 2.8 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    fewest = report.threads[0]
    for ax, case in zip(axes, report.cases, strict=False):
        ax.plot(report.threads, [t / fewest for t in report.threads], color="0.8", label="ideal")
        for direction, style in zip(DIRECTIONS, ("-", "--"), strict=True):
            found = {t: report.found(case.name, direction, t) for t in report.threads}
            for peer in SCALING:
                ts = [t for t in report.threads if peer in found[t] and peer in found[fewest]]
                ys = [found[fewest][peer].seconds / found[t][peer].seconds for t in ts]
                label = f"{peer}, {direction}"
                ax.plot(ts, ys, style, marker="o", color=COLOURS[peer], label=label)
        ax.set_title(case.name, loc="left")
        ax.set_xticks(report.threads)
    for ax in axes[len(report.cases) :]:
        ax.set_axis_off()
    figure.supxlabel("threads")
    figure.supylabel(f"times faster than {fewest}")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize="small")
    return figure


def draw(report: Report, folder: Path) -> list[Path]:
    """Draw what the report has data for and return the files."""
    figures = {"ratios.png": ratios(report)}
    if report.sweeps:
        figures["size.png"] = sweep(report, "size", "height and width of the image, 64 channels")
        figures["channels.png"] = sweep(report, "channels", "channels in and out, 56x56 pixels")
    if len(report.threads) > 1:
        figures["threads.png"] = scaling(report)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=120)
    return [folder / name for name in figures]

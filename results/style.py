"""How all figures look: column width, small type, the colours of Okabe and Ito, which colour-blind readers can tell apart."""
import os
import sys
import textwrap

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLUMN = 3.3  # inches: one column of a two-column paper
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (7, 2)), (0, (2, 1)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "osD^vPX"
KIND = {"generalist": BLUE, "specialist": ORANGE}
SHADE = "Blues"  # of maps: darker is more, also without colour


class NotDrawn(Exception):
    """Why a result has no such figure."""


plt.rcParams.update({
    "font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7, "legend.fontsize": 6.5, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "xtick.major.size": 2.5, "ytick.major.size": 2.5, "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.4,
    "axes.axisbelow": True, "lines.linewidth": 1.2, "lines.markersize": 3, "legend.frameon": False, "figure.constrained_layout.use": True,
    "savefig.dpi": 300, "svg.hashsalt": "cohort",
})


def colour(index):
    return CYCLE[index % len(CYCLE)]


def index_of(labels):
    """{label: its number}, in the order of first occurrence: its colour, dashes and marker in the whole figure."""
    return {label: i for i, label in enumerate(dict.fromkeys(labels))}


def marker(index):
    return MARKERS[index % len(MARKERS)]


def line_style(index):
    """Colour and dash: the lines stay apart without colour."""
    return {"color": colour(index), "linestyle": DASHES[index % len(DASHES)]}


def panels(titles, height, labels):
    """(figure, [down, across] axes, those in use): a panel for each title, in one column or two, `height` inches each, and room for a
    legend."""
    across = 1 if len(titles) == 1 else 2
    down = -(-len(titles) // across)
    figure, grid = plt.subplots(down, across, figsize=(COLUMN, 0.35 + legend_height(labels) + height * down), sharex=True, sharey=True,
                                squeeze=False)
    for axes, title in zip(grid.flat, titles):
        axes.set_title(textwrap.fill(title, 24 if across > 1 else 48))
    for axes in grid.flat[len(titles):]:
        axes.set_visible(False)
        grid[-2, 1].tick_params(labelbottom=True)
    return figure, grid, list(grid.flat[:len(titles)])


def labelled(panels):
    """The handles and labels of some panels' legend: those of all, each once."""
    handles = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    return list(handles.values()), list(handles)


def legend_columns(labels):
    longest = max(map(len, labels), default=0)
    return 3 if longest <= 15 else 2 if longest <= 30 else 1


def legend_height(labels):
    """Inches."""
    return 0.135 * -(-len(labels) // legend_columns(labels))


def legend_below(figure, handles, labels, note):
    """A legend and lines of explanation under all panels."""
    note = "\n".join(textwrap.fill(line, 80) for line in note.split("\n"))
    columns = legend_columns(labels)
    height, note_lines = figure.get_size_inches()[1], 1 + note.count("\n")
    figure.legend(handles, labels, loc="lower center", ncol=columns, columnspacing=1, handlelength=2.2, borderaxespad=0.1,
                  bbox_to_anchor=(0.5, (0.04 + 0.09 * note_lines) / height))
    figure.text(0.5, 0.03 / height, note, ha="center", va="bottom", fontsize=5.5, color="#555555")
    below = (0.08 + 0.09 * note_lines + legend_height(labels)) / height
    figure.get_layout_engine().set(rect=(0, below, 1, 1 - below))


def evenly(count, most):
    """At most so many of the indices below count, from the first to the last."""
    return sorted({round(i * (count - 1) / max(min(count, most) - 1, 1)) for i in range(min(count, most))})


def save(figure, stem):
    """Writes STEM.png and STEM.svg, the same bytes for the same figure, and says so."""
    for kind in ("png", "svg"):
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(f"{stem}.{kind}", metadata=metadata)
    plt.close(figure)
    say(f"{stem}.png\n{stem}.svg")


def say(line):
    """Prints; where nobody reads any more (`| head -1`) the files are still written, without a word."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""How all figures look: column width, small type, the colours of Okabe and Ito, which colour-blind readers can tell apart."""
import os
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLUMN = 3.3  # inches: one column of a two-column paper
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (7, 2)), (0, (2, 1)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "osD^vPX"
KIND = {"generalist": BLUE, "specialist": ORANGE}

plt.rcParams.update({
    "font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7, "legend.fontsize": 6.5, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "xtick.major.size": 2.5, "ytick.major.size": 2.5, "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.4,
    "axes.axisbelow": True, "lines.linewidth": 1.2, "lines.markersize": 3, "legend.frameon": False, "figure.constrained_layout.use": True,
    "savefig.dpi": 300, "svg.hashsalt": "cohort",
})


def colour(index):
    return CYCLE[index % len(CYCLE)]


def line_style(index):
    """Colour and dash: the lines stay apart without colour."""
    return {"color": colour(index), "linestyle": DASHES[index % len(DASHES)]}


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

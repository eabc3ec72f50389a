"""Text coloured by the expert that each token chose first, first and last layer side by side."""
import textwrap

import numpy as np
from matplotlib.patches import Rectangle

import style
from style import plt

MOST_WINDOWS = 4
LINE_INCHES = 0.105
FONT_POINTS = 5.4
SHADES = {"generalist": ("#56B4E9", "#0072B2", "#009E73"), "specialist": ("#E69F00", "#D55E00", "#CC79A7")}
SHOWN = {"\n": "\u21b5", "\t": "\u2192", "\r": "\u21b5"}


def cells_of_bytes(ids):
    """(character, tokens of it): UTF-8, a character may be several bytes; what is none is a dot."""
    cells, at, raw = [], 0, bytes(int(i) & 255 for i in ids)
    while at < len(raw):
        length = next((n for n in (1, 2, 3, 4) if decodes(raw[at:at + n])), 0)
        character = raw[at:at + length].decode() if length else "\u00b7"
        length = max(length, 1)
        cells.append((SHOWN.get(character, character if character.isprintable() else "\u00b7"), range(at, at + length)))
        at += length
    return cells


def decodes(raw):
    try:
        return len(raw.decode()) == 1
    except UnicodeDecodeError:
        return False


def cells_of_ids(ids):
    """Numbers with a space between, no number broken; the space belongs to nobody."""
    cells = []
    for t, token in enumerate(ids):
        cells += [(digit, range(t, t + 1)) for digit in str(int(token))] + [(" ", range(0))]
    return cells


def wrap(cells, width, words):
    """Lines of at most `width` cells; with words, lines break at spaces."""
    if not words:
        return [cells[i:i + width] for i in range(0, len(cells), width)]
    lines, at = [], 0
    for line in textwrap.wrap("".join(c for c, _ in cells), width, break_on_hyphens=False):
        while cells[at][0] == " ":
            at += 1
        lines.append(cells[at:at + len(line)])
        at += len(line)
    return lines


def colour_of(expert, generalists):
    kind, index = ("generalist", expert) if expert < generalists else ("specialist", expert - generalists)
    return SHADES[kind][index % 3]


def draw(axes, lines, choice, generalists):
    """One panel: a strip of colour for each token under its character."""
    for y, line in enumerate(lines):
        for x, (character, tokens) in enumerate(line):
            for i, t in enumerate(tokens):
                share = 1 / len(tokens)
                axes.add_patch(Rectangle((x + i * share, y), share, 1, facecolor=colour_of(choice[t], generalists), alpha=0.55, linewidth=0))
            axes.text(x + 0.5, y + 0.54, character, fontsize=FONT_POINTS, family="DejaVu Sans Mono", ha="center", va="center", parse_math=False)
    axes.set_axis_off()


def length_of(result, row, window):
    """Tokens of a recorded window: an example may be shorter than the others."""
    return int((result.ids[row, window] >= 0).sum())


def choose_windows(result, row):
    """Those of devices with generalists and specialists first: their choice is what the map is about. A device that diverged has none."""
    def mixed(window):
        device = result.devices[result.windows[window]]
        return 0 < result.generalists[result.windows[window]] < device["experts"]
    alive = [w for w in range(len(result.windows)) if np.isfinite(result.token_gates[row, w, :length_of(result, row, w), :, 0]).all()]
    return sorted(sorted(alive, key=lambda w: not mixed(w))[:MOST_WINDOWS])


def title_of(result, device):
    population = device["population"]
    seeds = {int(p["seed"]) for p in result.populations}
    seed = f", seed {result.populations[population]['seed']}" if len(seeds) > 1 else ""
    return f"{result.name(population)}, device {device['index']}{seed}"


def token_map(result, stem):
    if result.ids is None:
        why = "no population has a router" if result.wants_tokens() else "trace.routing_windows is 0, so the run recorded none"
        raise style.NotDrawn(why)
    rows = [r for r in result.evaluated() if (result.ids[r][:, 0] >= 0).all() and np.isfinite(result.token_gates[r]).any()]
    if not rows:
        raise style.NotDrawn("no evaluation has recorded any")
    row, layers, width = rows[-1], result.token_gates.shape[3], 34
    shown = sorted({0, layers - 1})
    windows, texts = choose_windows(result, row), []
    for w in windows:
        ids = result.ids[row, w][:length_of(result, row, w)]
        cells = cells_of_bytes(ids) if result.is_bytes() else cells_of_ids(ids)
        texts.append(wrap(cells, width, not result.is_bytes()))
    heights = [len(t) * LINE_INCHES for t in texts]
    with plt.rc_context({"figure.constrained_layout.use": False}):  # every panel has its place
        figure = plt.figure(figsize=(style.COLUMN, sum(heights) + 0.29 * len(windows) + 0.33))
        paint(figure, result, row, windows, shown, texts, width)
        style.save(figure, stem)


def paint(figure, result, row, windows, shown, texts, width):
    full_width, full_height = figure.get_size_inches()
    column = (full_width - 0.1 * (len(shown) - 1) - 0.06) / len(shown)
    top, used = full_height - 0.04, set()
    for w, lines in zip(windows, texts):
        device = result.devices[result.windows[w]]
        generalists = int(result.generalists[result.windows[w]])
        figure.text(0.03 / full_width, top / full_height, title_of(result, device), fontsize=6.5, va="top", fontweight="bold")
        height = len(lines) * LINE_INCHES
        for i, layer in enumerate(shown):
            gates = result.token_gates[row, w, :length_of(result, row, w), layer, :]
            choice = np.nanargmax(gates, axis=1)
            used |= {(int(e) >= generalists, int(e) - (generalists if e >= generalists else 0)) for e in choice}
            left = 0.03 + i * (column + 0.1)
            axes = figure.add_axes([left / full_width, (top - 0.22 - height) / full_height, column / full_width, height / full_height])
            axes.set_xlim(0, width)
            axes.set_ylim(len(lines), 0)
            draw(axes, lines, choice, generalists)
            figure.text((left + column) / full_width, (top - 0.10) / full_height, f"layer {layer + 1} of {result.token_gates.shape[3]}",
                        fontsize=5.5, va="top", ha="right", color="#555555")
        top -= 0.29 + height
    legend(figure, used, result, row)


def legend(figure, used, result, row):
    several = {kind: sum(1 for k, _ in used if k == kind) > 1 for kind in (False, True)}
    handles = []
    for specialist, index in sorted(used):
        kind = "specialist" if specialist else "generalist"
        handles.append(Rectangle((0, 0), 1, 1, facecolor=SHADES[kind][index % 3], alpha=0.55,
                                 label=f"{kind} {index + 1}" if several[specialist] else kind))
    figure.legend(handles=handles, loc="lower center", ncol=4, title=f"first choice of each token, round {result.rounds[row]}",
                  title_fontsize=6.5, handlelength=1, columnspacing=1, borderaxespad=0.2)

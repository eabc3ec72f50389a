"""The realised mixture: the share of each source in each device's training text."""
import textwrap

import numpy as np

import style
from result import short
from style import plt

MOST_PANELS, MOST_WRITTEN, MOST_NAMED = 4, 8, 16


class Panel:
    """Populations whose devices have the same texts. tokens: [device, source]."""

    def __init__(self, tokens):
        self.tokens, self.populations, self.name = tokens, [], ""


def panels_of(result):
    """One for each mixture that occurs, of populations with the first seed: another seed is another draw."""
    seed, found = result.populations[0]["seed"], {}
    for i, population in enumerate(result.populations):
        if population["seed"] == seed:
            tokens = result.source_tokens(i)
            if tokens is not None:
                found.setdefault((result.populations[i]["first_source"], tokens.tobytes()), Panel(tokens)).populations.append(i)
    panels = list(found.values())
    for panel in panels:
        panel.name = name_of(panel, panels, result)
    return panels


def name_of(panel, panels, result):
    """The axes on which all populations of a panel are alike, and panels differ; without any, a population's name."""
    if len(panels) == 1:
        return ""
    levels = {axis: [{axis.values[i] for i in p.populations} for p in panels] for axis in result.axes}
    told = [axis for axis, found in levels.items() if all(len(f) == 1 for f in found) and len(set.union(*found)) > 1]
    values = [(axis, axis.values[panel.populations[0]]) for axis in told]
    return ", ".join(axis.label(value) for axis, value in values if value) or result.name(panel.populations[0])


def draw(axes, panel, sources):
    total = panel.tokens.sum(axis=1)
    share = panel.tokens / np.maximum(total, 1)[:, None]
    axes.imshow(share, cmap=style.SHADE, vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    axes.set_xticks(range(len(sources)), sources if len(sources) <= MOST_WRITTEN else [""] * len(sources), rotation=30, ha="right")
    if len(total) <= MOST_NAMED:
        axes.set_yticks(range(len(total)))
        for y, tokens in enumerate(total):
            axes.annotate(short(int(tokens)), (1, y), (2, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center",
                          fontsize=5.5)
    if len(sources) <= MOST_WRITTEN and len(total) <= MOST_NAMED:
        for (y, x), value in np.ndenumerate(share):
            axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=5.5, color="white" if value > 0.55 else "black")


def heights(panels):
    return [0.12 * min(len(panel.tokens), MOST_NAMED) + 0.3 for panel in panels]


def figure(result):
    """The figure, not saved."""
    panels = panels_of(result)
    if not panels:
        raise style.NotDrawn("the trace does not say how much of each source a device has")
    shown = [panels[i] for i in style.evenly(len(panels), MOST_PANELS)]
    across = 1 if len(shown) == 1 else 2
    down = -(-len(shown) // across)
    tall = [max(line) for line in (heights(shown)[i:i + across] for i in range(0, len(shown), across))]
    drawn, grid = plt.subplots(down, across, figsize=(style.COLUMN, 0.6 + 0.25 * down + sum(tall)), squeeze=False,
                               gridspec_kw={"height_ratios": tall})
    for axes, panel in zip(grid.flat, shown):
        draw(axes, panel, result.source_names(panel.populations[0]))
        axes.set_title(textwrap.fill(panel.name, 28) if across > 1 else panel.name)
        axes.set_ylabel("device" if axes in grid[:, 0] else "")
    for axes in grid.flat[len(shown):]:
        axes.set_visible(False)
    style.legend_below(drawn, [], [], note(result, panels, shown))
    return drawn


def note(result, panels, shown):
    parts = ["percent of a device's training text that is of each source; right: its tokens"]
    parts += [f"seed {result.populations[0]['seed']}"] * (len({p["seed"] for p in result.populations}) > 1)
    parts += [f"{len(shown)} of {len(panels)} mixtures"] * (len(shown) < len(panels))
    return parts[0] + ";\n" * (len(parts) > 1) + "; ".join(parts[1:])

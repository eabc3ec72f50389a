"""What a loss costs: the test loss over rounds and over the bytes sent, side by side."""
import numpy as np

import style
from style import plt

MOST_FACETS = 6
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes"))


def curves(result, series):
    """(rounds, bytes, mean, low, high) [evaluated row]: the loss is the mean over devices, then over seeds, low and high are the range of
    seeds; bytes are those of all devices of a population, up and down, until the round's end, and the mean over seeds."""
    rows = result.evaluated()
    seeds = np.nanmean(result.losses(series, rows), axis=2)
    sent = np.mean([result.bytes[np.ix_(rows, result.members(p))].sum(axis=1) for p in series.populations], axis=0)
    return result.rounds[rows], sent, np.nanmean(seeds, axis=1), np.nanmin(seeds, axis=1), np.nanmax(seeds, axis=1)


def draw(panels, found, index, unit):
    for label, (rounds, sent, mean, low, high) in found.items():
        look, silent = style.line_style(index[label]), sent[-1] == 0
        for axes, x in zip(panels, (rounds, sent / unit)):
            still = silent and axes is panels[1]
            shown = slice(-1, None) if still else slice(None)
            marker = style.marker(index[label]) if still or len(x) < 3 else None
            axes.plot(x[shown], mean[shown], marker=marker, clip_on=not still, label=label, **look)
            if len(found) <= 4 and not still:
                axes.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0)


def figure(result, all_series):
    """The figure, not saved."""
    facets = list(dict.fromkeys(s.facet for s in all_series))
    shown, index = [facets[i] for i in style.evenly(len(facets), MOST_FACETS)], style.index_of(s.label for s in all_series)
    found = {facet: {s.label: curves(result, s) for s in all_series if s.facet == facet} for facet in shown}
    most = max(sent[-1] for lines in found.values() for _, sent, *_ in lines.values())
    if most == 0:
        raise style.NotDrawn("no population sends anything")
    unit, name = next((size, name) for size, name in UNITS if most >= size)
    drawn, grid = plt.subplots(len(shown), 2, figsize=(style.COLUMN, 0.65 + style.legend_height(index) +
                                                       (1.7 if len(shown) == 1 else 1.1 * len(shown))),
                               sharex="col", sharey=True, squeeze=False)
    for panels, facet in zip(grid, shown):
        draw(panels, found[facet], index, unit)
        panels[0].set_title(facet, loc="left")
        panels[0].set_ylabel("test loss\n(nats per token)")
    grid[-1, 0].set_xlabel("round")
    grid[-1, 1].set_xlabel(f"{name}, up and down")
    grid[-1, 0].xaxis.get_major_locator().set_params(integer=True)
    style.legend_below(drawn, *style.labelled(grid[:, 0]), note(result, all_series, len(shown), len(facets)))
    return drawn


def note(result, all_series, shown, facets):
    seeds = max(len(s.populations) for s in all_series)
    silent = any(curves(result, s)[1][-1] == 0 for s in all_series)
    parts = [f"mean over devices and {seeds} seeds, band: range of seeds" if seeds > 1 else "mean over devices"]
    gone = sum(not np.isfinite(result.test[result.evaluated()[-1], result.members(p)]).any() for p in range(len(result.populations)))
    parts += [f"{gone} populations diverged: they have no part in the mean from then on"] * (gone > 0)
    parts += ["a mark at 0 bytes: the last loss of what sends nothing"] * silent
    parts += [f"{shown} of {facets} points of the other axes"] * (shown < facets)
    return ";\n".join(parts)

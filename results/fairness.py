"""How unequally devices are served: worst decile and Gini coefficient of their test losses against the mean."""
import numpy as np

import style
from style import plt


def points(result, series):
    """[population, (mean loss, worst decile, Gini)] in the last evaluated round, NaN where a population diverged."""
    row = result.evaluated()[-1]
    mean = np.nanmean(result.losses(series, [row])[0], axis=1)
    return np.stack([mean, result.worst_decile[row, series.populations], result.gini[row, series.populations]], axis=1)


def figure(result, all_series):
    """The figure, not saved."""
    if max(len(result.members(p)) for p in range(len(result.populations))) < 2:
        raise style.NotDrawn("every population has one device")
    index = style.index_of(s.label for s in all_series)
    drawn, grid = plt.subplots(1, 2, figsize=(style.COLUMN, 2.1 + style.legend_height(index)))
    for label, i in index.items():
        found = [points(result, s) for s in all_series if s.label == label]
        for axes, column in zip(grid, (1, 2)):
            draw(axes, found, column, label, i)
    for axes, name in zip(grid, ("worst tenth of devices (nats)", "Gini coefficient")):
        axes.set_title(name)
        axes.set_xlabel("mean test loss (nats)")
        axes.xaxis.get_major_locator().set_params(nbins=4)
    style.legend_below(drawn, *grid[0].get_legend_handles_labels(), note(result, all_series))
    return drawn


def draw(axes, found, column, label, index):
    """The seeds of each facet, pale, and their mean; a thin line joins the facets in their order."""
    means = np.array([np.nanmean(seeds, axis=0) for seeds in found])
    colour, marker = style.colour(index), style.marker(index)
    for seeds in found:
        if len(seeds) > 1:
            axes.plot(seeds[:, 0], seeds[:, column], marker, color=colour, alpha=0.35, markersize=2, markeredgewidth=0)
    axes.plot(means[:, 0], means[:, column], marker, color=colour, linewidth=0.5, linestyle=style.line_style(index)["linestyle"],
              markersize=3.6, markeredgewidth=0.3, markeredgecolor="white", label=label)


def note(result, all_series):
    seeds = max(len(s.populations) for s in all_series)
    gone = sum(int(np.isnan(points(result, s)[:, 0]).sum()) for s in all_series)
    parts = [f"round {result.rounds[result.evaluated()[-1]]}; large: mean of {seeds} seeds, small: seeds" if seeds > 1 else
             f"round {result.rounds[result.evaluated()[-1]]}; a point a population"]
    parts += [f"{gone} populations diverged and are missing"] * (gone > 0)
    return "; ".join(parts)

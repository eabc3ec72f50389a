#!/usr/bin/env python3
"""Figures of a result, each as PNG and SVG, one column (3.3 in) wide:

    plot.py RESULT [--out DIR] [--metric COLUMN] [--axis KEY]
                                        every figure that the result has, into DIR (default RESULT/figures)
    plot.py --crossover SUMMARY.csv... --out FILE [--unit bytes]
                                        perplexity over training text per device, and FILE.md, its table

`cohort plot RESULT` runs the first form. Needs matplotlib and h5py (Debian: python3-matplotlib, python3-h5py).
"""
import argparse
import os
import re
import sys
import textwrap
import warnings

try:
    import numpy as np

    import by_text
    import cost
    import fairness
    import metric
    import mixture
    import routing
    import style
    from crossover import crossover
    from result import Result
    from style import plt
    from sweep import Unreadable
    from token_map import token_map
except ImportError as missing:
    sys.exit(f"plot.py: {missing}; apt-get install python3-h5py python3-matplotlib")

MOST_BANDS, MOST_LAYERS = 4, 4
# Where all devices of a population have stopped there is nothing to average.
warnings.filterwarnings("ignore", "Mean of empty slice|Degrees of freedom|All-NaN", RuntimeWarning)


# ---- Loss over rounds


def many_lines(all_series):
    """Does a panel have so many lines that bands of their devices would hide each other?"""
    return max(sum(t.facet == s.facet for t in all_series) for s in all_series) > MOST_BANDS


def device_spread(axes, x, mean, spread, colour, place):
    """A band, or with a place among many (from 1) a bar right of the last round."""
    if not place:
        axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.10, linewidth=0)
        return
    at = x[-1] + 0.025 * place * max(x[-1] - x[0], 1)
    if np.isfinite(mean[-1]):
        axes.vlines(at, mean[-1] - spread[-1], mean[-1] + spread[-1], color=colour, linewidth=1.2, alpha=0.6)


def loss_panel(axes, result, members, index, rows, many):
    x = result.rounds[rows]
    for place, s in enumerate(members, 1):
        loss = result.losses(s, rows)
        seeds = np.nanmean(loss, axis=2)  # [row, population]
        mean, look = np.nanmean(seeds, axis=1), style.line_style(index[s.label])
        axes.plot(x, mean, label=s.label, marker="o" if len(x) < 3 else None, **look)
        if loss.shape[2] > 1:
            device_spread(axes, x, mean, np.nanmean(np.nanstd(loss, axis=2), axis=1), look["color"], place if many else None)
        if len(s.populations) > 1:
            axes.fill_between(x, np.nanmin(seeds, axis=1), np.nanmax(seeds, axis=1), color=look["color"], alpha=0.18 if many else 0.30,
                              linewidth=0)


def entropy_lines(panels, found):
    """What no model can go below in each panel, with its name under it, where no curve is; in the titles where a line would squeeze the
    curves. Panels share their limits, so that all have it at the same place. NaN: unknown."""
    low, high = panels[0].get_ylim()
    squeezes = low - np.fmin.reduce(found) > 2.5 * (high - low)
    for axes, entropy in zip(panels, found):
        if np.isfinite(entropy):
            entropy_line(axes, entropy, squeezes)


def entropy_line(axes, entropy, in_title):
    low, high = axes.get_ylim()
    look = {"fontsize": 6, "color": "#555555"}
    if in_title:
        axes.set_title(axes.get_title(), pad=12)
        axes.annotate(f"entropy of the text: {entropy:.2f}", (1, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", ha="right",
                      va="bottom", **look)
        return
    axes.axhline(entropy, color="#555555", linewidth=0.8, linestyle=(0, (1, 1.5)))
    axes.set_ylim(min(low, entropy - 0.11 * (high - min(low, entropy))), high)
    axes.annotate("entropy of the text", (1, entropy), (-2, -2), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right",
                  va="top", **look)


def entropies(result, members):
    return np.concatenate([result.devices["entropy"][result.members(p)] for s in members for p in s.populations])


def bands_text(result, all_series):
    seeds = max(len(s.populations) for s in all_series)
    devices = max(len(result.members(p)) for s in all_series for p in s.populations)
    parts = ["lines: mean over devices" + (f" and {seeds} seeds" if seeds > 1 else "")]
    if devices > 1:
        shown = "bars at the right" if many_lines(all_series) else "pale" if seeds > 1 else "bands"
        parts.append(f"{shown}: \u00b11 s.d. over devices")
    if seeds > 1:
        parts.append("bands: range of seeds")
    return ";\n".join(("; ".join(parts[:-1]), parts[-1])) if len(parts) > 2 else "; ".join(parts)


def loss_figure(result, all_series, stem):
    rows, index = result.evaluated(), style.index_of(s.label for s in all_series)
    facets = list(dict.fromkeys(s.facet for s in all_series))
    figure, grid, panels = style.panels(facets, 1.9 if len(facets) == 1 else 1.3, index)
    for axes, facet in zip(panels, facets):
        loss_panel(axes, result, [s for s in all_series if s.facet == facet], index, rows, many_lines(all_series))
        if axes in grid[:, -1] or axes is panels[-1]:
            right = axes.secondary_yaxis("right", functions=(np.exp, lambda perplexity: np.log(np.maximum(perplexity, 1e-300))))
            right.set_ylabel("perplexity")
            right.spines["right"].set_visible(True)
        if axes in grid[:, 0]:
            axes.set_ylabel("test loss, before averaging\n(nats per token)" if len(facets) == 1 else "test loss,\nbefore averaging\n(nats per token)")
        if axes in grid[-1]:
            axes.set_xlabel("round")
        axes.xaxis.get_major_locator().set_params(integer=True)
    known = [entropies(result, [s for s in all_series if s.facet == facet]) for facet in facets]
    entropy_lines(panels, [np.nanmean(e) if np.isfinite(e).any() else np.nan for e in known])  # with all curves in place
    style.legend_below(figure, *style.labelled(panels), bands_text(result, all_series))
    style.save(figure, stem)


# ---- Final perplexity


def perplexity_figure(result, all_series, stem):
    row, index = result.evaluated()[-1], style.index_of(s.label for s in all_series)
    names = [textwrap.fill(f"{s.label}, {s.facet}" if s.facet else s.label, 36) for s in all_series]
    lines = 1 + max(name.count("\n") for name in names)
    figure, axes = plt.subplots(figsize=(style.COLUMN, 0.75 + (0.09 + 0.1 * lines) * len(all_series)))
    for y, s in enumerate(all_series):
        perplexity = np.exp(result.losses(s, [row])[0])  # [population, device]
        seeds, colour = np.nanmean(perplexity, axis=1), style.colour(index[s.label])
        axes.plot(perplexity.ravel(), np.full(perplexity.size, y), "|", color=colour, alpha=0.35, markersize=5)
        if not np.isfinite(seeds).any():
            axes.annotate("diverged", (0.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=6, color="#555555")
        if len(seeds) > 1:
            axes.plot([np.nanmean(seeds)], [y], "|", color="black", markersize=9, markeredgewidth=0.9)
        axes.plot(seeds, np.full(len(seeds), y), "o", color=colour, markersize=3.2, markeredgewidth=0.3, markeredgecolor="white")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(all_series) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.xaxis.get_major_locator().set_params(nbins=6)
    axes.set_xlabel(f"test perplexity in round {result.rounds[row]}," + ("\n" if max(map(len, names)) > 18 else " ") + "before averaging")
    seeds = max(len(s.populations) for s in all_series) > 1
    note = "dots: seeds (mean over devices); black: mean of seeds; pale: devices" if seeds else "dots: mean over devices; pale: devices"
    height = figure.get_size_inches()[1]
    figure.text(0.5, 0.03 / height, note, ha="center", va="bottom", fontsize=5.5, color="#555555")
    figure.get_layout_engine().set(rect=(0, 0.14 / height, 1, 1 - 0.14 / height))
    style.save(figure, stem)


# ---- Gates over rounds


def mixes_several(result, population):
    """Has both kinds of expert, and several of one."""
    generalists, specialists = result.populations[population]["generalists"], result.populations[population]["specialists"]
    return generalists.max() > 0 and specialists.max() > 0 and (generalists + specialists).max() > 2


def shares(result, series, rows, layer):
    """{(kind, number): [row, device]}: the weight of each kind of expert (number 0: its experts' gates, summed), or of each expert, counted
    from 1, where there is only one kind."""
    members = np.concatenate([result.members(p) for p in series.populations])
    generalists = result.generalists[members]
    gates = result.gates[np.ix_(rows, members)][:, :, layer, :]
    experts = gates.shape[2] - int(np.isnan(gates).all(axis=(0, 1)).sum())
    if generalists.any() and (generalists < result.devices["experts"][members]).any():
        alive = np.where(np.isnan(gates).all(axis=2), np.nan, 1)
        shared = np.arange(gates.shape[2]) < generalists[:, np.newaxis]  # [device, expert]
        return {("generalist", 0): alive * np.nansum(np.where(shared, gates, 0), axis=2),
                ("specialist", 0): alive * np.nansum(np.where(shared, 0, gates), axis=2)}
    kind = "generalist" if generalists.any() else "specialist"
    return {(kind, e + 1): gates[:, :, e] for e in range(experts)}


def gate_look(kind, number, kinds, summed):
    """(name, dashes), one for the other in the whole figure. kinds: those whose experts have numbers in some population; summed: some
    population has both kinds and several experts of one, so that number 0 is a sum everywhere; else it is the only expert of its kind."""
    numbered = kind in kinds
    number = number if summed or not numbered else max(number, 1)
    place = number if summed and numbered else max(number - 1, 0)
    name = f"{kind} {number}" if number else f"{kind}s (sum)" if summed else kind
    return name, style.DASHES[(2 * place + (kind == "specialist")) % len(style.DASHES)]


def gate_panel(axes, x, values, kinds, summed):
    for (kind, number), share in values.items():
        mean, spread = np.nanmean(share, axis=1), np.nanstd(share, axis=1)
        colour, (name, dashes) = style.KIND[kind], gate_look(kind, number, kinds, summed)
        axes.plot(x, mean, color=colour, linestyle=dashes, marker="o" if len(x) < 3 else None, label=name)
        axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)


def gates_figure(result, all_series, stem):
    routed = [s for s in all_series if result.is_routed(s.populations[0])]
    rows = [r for r in result.evaluated() if np.isfinite(result.gates[r]).any()]
    if not routed or not rows:
        raise style.NotDrawn("no evaluation has recorded any" if routed else "no population has a router")
    layers = result.gates.shape[2]
    summed = any(mixes_several(result, p) for s in routed for p in s.populations)
    kinds = {kind for s in routed for kind, number in shares(result, s, rows, 0) if number}
    shown = np.unique(np.linspace(0, layers - 1, min(layers, MOST_LAYERS)).round().astype(int))
    figure, grid = plt.subplots(len(routed), len(shown), figsize=(style.COLUMN, 0.55 + 0.85 * len(routed)), sharex=True, sharey=True,
                                squeeze=False)
    for s, line in zip(routed, grid):
        for layer, axes in zip(shown, line):
            gate_panel(axes, result.rounds[rows], shares(result, s, rows, layer), kinds, summed)
            axes.set_ylim(0, 1)
            axes.set_yticks([0, 0.5, 1])
            axes.xaxis.get_major_locator().set_params(integer=True, nbins=4)
            if axes in grid[0]:
                axes.set_title(f"layer {layer + 1}/{layers}", fontsize=6.5)
            if axes in grid[-1]:
                axes.set_xlabel("round")
        name = textwrap.fill(s.label, 16) + ("\n" + textwrap.fill(s.facet, 18) if s.facet else "")
        line[-1].annotate(name, (1.03, 0.5), xycoords="axes fraction", rotation=270, va="center", ha="left", fontsize=6.5)
        line[0].set_ylabel("mean gate")
    legend_of_gates(figure, grid)
    style.save(figure, stem)


def legend_of_gates(figure, grid):
    handles, labels = style.labelled(grid[:, 0])
    height = figure.get_size_inches()[1]
    lines = -(-len(labels) // 3)
    figure.legend(handles, labels, loc="upper center", ncol=3, borderaxespad=0.1)
    figure.get_layout_engine().set(rect=(0, 0.12 / height, 1, 1 - (0.12 + 0.04 + 0.135 * lines) / height))
    figure.text(0.5, 0.03 / height, "mean and \u00b11 s.d. over devices and seeds, fixed test windows", ha="center", va="bottom", fontsize=5.5,
                color="#555555")


# ---- The command line


def has_sizes(result):
    """Populations of several sizes, each one number: a list has a size for each device."""
    return not re.search(r"^ *tokens_per_device: \[", result.config, re.M) and len({f for f in (int(p["tokens_per_device"]) for p in result.populations) if f > 0}) > 1


def summary_of(result, folder):
    if not result.has_summary:
        raise style.NotDrawn("summary.csv is written when the run has ended")
    return os.path.join(folder, "summary.csv")


def crossover_figure(result, folder, stem):
    summary = summary_of(result, folder)
    try:
        crossover([summary], stem, "bytes" if result.is_bytes() else "tokens")
    except Unreadable as why:
        raise style.NotDrawn(why) from why


def metric_figure(figure_of, result, options, stem):
    summary_of(result, options.result)
    if not result.roles.x:
        raise style.NotDrawn("no axis of the sweep is a number; --axis KEY draws along any other")
    style.save(figure_of(result.rows, result.roles, options.metric), stem)


def map_figure(result, options, stem):
    if not result.roles.line:
        raise style.NotDrawn("the populations differ in fewer than two settings")
    metric_figure(metric.map_figure, result, options, stem)


def draw_result(options):
    """Every figure that the result has; of the others, why not."""
    result = Result(options.result, options.axis)
    if len(result.evaluated()) == 0:
        raise Unreadable(f"{result.path}: no round has been evaluated yet; try again later")
    if result.has_summary:
        metric.check_column(result.rows, options.metric)
    out = options.out or os.path.join(options.result, "figures")
    os.makedirs(out, exist_ok=True)
    all_series = result.series()
    figures = {
        "loss": lambda stem: loss_figure(result, all_series, stem),
        "perplexity": lambda stem: perplexity_figure(result, all_series, stem),
        "gates": lambda stem: gates_figure(result, all_series, stem),
        "tokens": lambda stem: token_map(result, stem),
        "cost": lambda stem: style.save(cost.figure(result, all_series), stem),
        "fairness": lambda stem: style.save(fairness.figure(result, all_series), stem),
        "routing": lambda stem: style.save(routing.figure(result), stem),
        "mixture": lambda stem: style.save(mixture.figure(result), stem),
    }
    if result.declared or result.roles.x:
        figures["metric"] = lambda stem: metric_figure(metric.line_figure, result, options, stem)
        figures["map"] = lambda stem: map_figure(result, options, stem)
    if by_text.groups_of(result):
        figures["by_text"] = lambda stem: style.save(by_text.figure(result), stem)
    if has_sizes(result):
        figures["crossover"] = lambda stem: crossover_figure(result, options.result, stem)
    for name, draw in figures.items():
        try:
            draw(os.path.join(out, name))
        except style.NotDrawn as why:
            print(f"no figure of {name}: {why}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", nargs="?")
    parser.add_argument("--out")
    parser.add_argument("--metric", default="test_ppl_mean", metavar="COLUMN", help="of summary.csv (default: test_ppl_mean)")
    parser.add_argument("--axis", metavar="KEY", help="of the figures of a sweep (default: the number that has most values)")
    parser.add_argument("--crossover", nargs="+", metavar="SUMMARY.csv")
    parser.add_argument("--unit", choices=("tokens", "bytes"), default="tokens", help="of the training text (default: tokens)")
    options = parser.parse_args()
    if bool(options.result) == bool(options.crossover) or (options.crossover and not options.out):
        parser.error("give a RESULT, or --crossover SUMMARY.csv... --out FILE")
    try:
        if options.result:
            draw_result(options)
        else:
            crossover(options.crossover, os.path.splitext(options.out)[0], options.unit)
    except (Unreadable, OSError) as error:
        print(f"plot.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

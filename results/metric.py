"""A metric of summary.csv over the axes of a sweep: lines with bands over seeds, and a map of methods and the axis."""
import matplotlib.colors
import matplotlib.transforms
import numpy as np
from matplotlib.patches import Rectangle

import style
from style import plt
from sweep import SETTINGS, Unreadable, band_name, diverged, finite, is_partial, levels_of, mean_and_band, number, table

NAMES = {"test_ppl_mean": "test perplexity,\nbefore averaging", "test_ppl_after": "test perplexity,\nafter averaging",
         "test_ppl_best": "test perplexity,\nbest round by validation", "test_loss_mean": "test loss\n(nats per token)"}
LOG_RATIO = 10  # an axis whose values differ by more has a logarithmic scale
MOST_BANDS, MOST_WRITTEN = 4, 12


def has_values(rows, column):
    return any(np.isfinite(number(row[column])) for row in rows)


def check_column(rows, metric):
    """The metric is a column that is measured, even if it has no value."""
    measured = [name for name in rows[0] if name not in (*SETTINGS, "population", "seed", "aggregate_weights") and "." not in name]
    if metric not in measured:
        numbers = ", ".join(name for name in measured if has_values(rows, name))
        raise Unreadable(f"--metric {metric}: summary.csv has no such measured column; there are {numbers}")


def check_values(rows, metric):
    if not has_values(rows, metric):
        raise style.NotDrawn(f"no population has a value of {metric}")


def spans_decades(values):
    return min(values) > 0 and max(values) >= LOG_RATIO * min(values)


def seeds_text(found):
    most = max(len(values) for lines in found.values() for points in lines.values() for values in points.values())
    return "one seed" if most == 1 else f"mean over {most} seeds"


def missing_text(rows, metric):
    n = len(diverged(rows, metric))
    return f"{n} of {len(rows)} populations diverged and are missing" if n else ""


def hollow_text(found):
    return "hollow: a seed diverged" * any(is_partial(v) for lines in found.values() for points in lines.values() for v in points.values())


def name_of(metric):
    return NAMES.get(metric, metric.replace("_", " "))


def note_of(*parts):
    return "; ".join(part for part in parts if part)


# ---- Lines


def places(roles, levels):
    """Where the levels of x lie: at their numbers, or side by side."""
    return [number(level) if roles.x.is_number else i for i, level in enumerate(levels)]


def shown_ticks(at, log):
    """Which of the rising places can have a name: one that is too near its neighbour has none."""
    scaled = np.log(at) if log else np.array(at, float)
    least, kept = 0.07 * (scaled[-1] - scaled[0]), [0]
    for i in range(1, len(at)):
        if scaled[i] - scaled[kept[-1]] > least:
            kept.append(i)
    return kept


def line_panel(axes, points, x_of, index, band, place):
    """place: None draws a band, a number from -0.5 to 0.5 a bar beside its point."""
    drawn = {x_of[level]: mean_and_band(values, band == "95 % interval") for level, values in points.items()}
    x = np.array(list(drawn))
    mean, low, high = np.array(list(drawn.values())).T
    look = style.line_style(index)
    axes.plot(x, mean, marker=style.marker(index), **look)
    partial = [list(points).index(level) for level, values in points.items() if is_partial(values)]
    axes.plot(x[partial], mean[partial], style.marker(index), color=look["color"], markerfacecolor="white")
    if not band:
        return
    if place is None:
        axes.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0)
    else:
        shift = matplotlib.transforms.ScaledTranslation(0.08 * place, 0, axes.figure.dpi_scale_trans)
        there = np.isfinite(mean)
        axes.vlines(x[there], low[there], high[there], color=look["color"], linewidth=0.7, transform=axes.transData + shift)


def scale_x(axes, roles, levels, at):
    log = roles.x.is_number and spans_decades(at)
    if log:
        axes.set_xscale("log")
        axes.minorticks_off()
    kept = shown_ticks(at, log)
    axes.set_xticks([at[i] for i in kept], [levels[i] for i in kept])


def line_figure(rows, roles, metric):
    """The figure, not saved."""
    check_values(rows, metric)
    return draw_lines(table(rows, roles, metric), rows, roles, metric)


def draw_lines(found, rows, roles, metric):
    """The figure of what table() gave, a panel for each facet."""
    levels, band = levels_of(found, roles), band_name(found)
    at = places(roles, levels)
    index = style.index_of(line for lines in found.values() for line in lines)
    many = max(map(len, found.values())) > MOST_BANDS
    figure, grid, panels = style.panels(list(found), 1.9 if len(found) == 1 else 1.25, index if roles.line else [])
    for axes, lines in zip(panels, found.values()):
        for line, points in lines.items():
            place = index[line] / max(len(index) - 1, 1) - 0.5 if many else None
            line_panel(axes, points, dict(zip(levels, at)), index[line], band, place)
        scale_x(axes, roles, levels, at)
        axes.set_xlabel(roles.x.name if axes in (*grid[-1], panels[-1]) else "")
        axes.set_ylabel(name_of(metric) if axes in grid[:, 0] else "")
    drawn = [value for lines in found.values() for points in lines.values() for values in points.values() for value in finite(values)]
    if spans_decades(drawn):
        panels[0].set_yscale("log")
    handles = [plt.Line2D([], [], marker=style.marker(i), **style.line_style(i)) for i in index.values()]
    said = f"{'bars' if many else 'bands'}: {band}" if band else ""
    style.legend_below(figure, handles if roles.line else [], list(index) if roles.line else [],
                       note_of(seeds_text(found), said, missing_text(rows, metric), hollow_text(found)))
    return figure


# ---- Map


def cells(found, levels):
    """{facet: (lines, means, partly, gone)}, arrays [line, level]: NaN where there is no value; whether some seeds diverged; whether all
    did."""
    out = {}
    for facet, lines in found.items():
        values = [[points.get(level, []) for level in levels] for points in lines.values()]
        means = np.array([[mean_and_band(v, False)[0] for v in line] for line in values])
        partly = np.array([[is_partial(v) for v in line] for line in values])
        gone = np.array([[bool(v) and not finite(v) for v in line] for line in values])
        out[facet] = (list(lines), means, partly, gone)
    return out


def best_of_columns(means):
    """The line with the least mean of each column; -1 where there are not two to compare."""
    return [int(np.nanargmin(column)) if np.isfinite(column).sum() > 1 else -1 for column in means.T]


def writer(values):
    """Writes all values of a map with as many decimals, three digits in all where they are alike."""
    size = float(np.median(np.abs(values)))
    if size >= 1e5 or 0 < size < 1e-3:
        return "{:.2e}".format
    decimals = int(np.clip(2 - np.floor(np.log10(size)), 0, 5)) if size else 0
    return f"{{:.{decimals}f}}".format


def write_cells(axes, image, means, partly, gone, write):
    size = float(np.clip(2.0 * 72 / means.shape[1] / 4.2, 4, 6.5))
    best = best_of_columns(means)
    for (y, x), mean in np.ndenumerate(means):
        if gone[y, x]:
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, hatch="////", edgecolor="#888888", linewidth=0))
        if not np.isfinite(mean):
            continue
        dark = np.dot(image.cmap(image.norm(mean))[:3], (0.299, 0.587, 0.114)) < 0.5
        mark = "*" if partly[y, x] else ""
        axes.text(x, y, write(mean) + mark, ha="center", va="center", fontsize=size, color="white" if dark else "black",
                  fontweight="bold" if best[x] == y else "normal")
        if best[x] == y:
            axes.add_patch(Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, fill=False, edgecolor="black", linewidth=1))


def map_panel(axes, names, columns, content, norm, write):
    means, partly, gone = content
    image = axes.imshow(means, cmap=style.SHADE, norm=norm, aspect="auto")
    axes.grid(False)
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(columns)), columns)
    if len(columns) <= MOST_WRITTEN:
        write_cells(axes, image, means, partly, gone, write)
    return image


def map_figure(rows, roles, metric):
    """The figure, not saved. Its rows are lines of the other one, its columns the levels of x."""
    check_values(rows, metric)
    found = table(rows, roles, metric)
    levels = levels_of(found, roles)
    content = cells(found, levels)
    values = np.concatenate([means.ravel() for _, means, _, _ in content.values()])
    values = values[np.isfinite(values)]
    norm = (matplotlib.colors.LogNorm if spans_decades(values) else matplotlib.colors.Normalize)(values.min(), values.max())
    lines = [len(names) for names, *_ in content.values()]
    height = 0.75 + sum(0.2 * n + 0.25 for n in lines)
    figure, grid = plt.subplots(len(content), 1, figsize=(style.COLUMN, height), sharex=True, squeeze=False,
                                gridspec_kw={"height_ratios": lines})
    for axes, (facet, (names, *cell)) in zip(grid.flat, content.items()):
        image = map_panel(axes, names, levels, cell, norm, writer(values))
        axes.set_title(facet)
    grid[-1, 0].set_xlabel(roles.x.name)
    bar = figure.colorbar(image, ax=list(grid.flat), pad=0.02, fraction=0.05)
    bar.set_label(name_of(metric), fontsize=6)
    compared = any(max(best_of_columns(means)) >= 0 for _, means, _, _ in content.values())
    marks = "bold, framed: the lowest of a column" if compared and len(levels) <= MOST_WRITTEN else ""
    hatched = "hatched: diverged" if any(gone.any() for *_, gone in content.values()) else ""
    some = "*: a seed diverged" if any(partly.any() for _, _, partly, _ in content.values()) else ""
    style.legend_below(figure, [], [], note_of(seeds_text(found), marks, hatched, some))
    return figure

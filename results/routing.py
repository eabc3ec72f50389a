"""Whom routers choose as the number of experts grows: the share of generalists and of specialists in gates and in first choices."""
import numpy as np

import style
from style import plt

MOST_FACETS = 4


def shares(values, generalists):
    """(generalists', specialists') sum over experts, mean over layers, of one device's [layer, expert]."""
    return np.mean(np.nansum(values[:, :generalists], axis=1)), np.mean(np.nansum(values[:, generalists:], axis=1))


def collect(result):
    """{(method, generalists): {experts: [device, (gate, token share), (generalists, specialists)]}}: of devices that have both kinds of
    expert and a router, in the last evaluated round that recorded gates. What else populations differ in is averaged."""
    rows = [r for r in result.evaluated() if np.isfinite(result.gates[r]).any()]
    found = {}
    for i, population in enumerate(result.populations):
        for device in result.members(i) if rows and result.is_routed(i) else []:
            experts, generalists = int(result.devices["experts"][device]), int(result.generalists[device])
            measured = [v[rows[-1], device] for v in (result.gates, result.token_share)]
            if 0 < generalists < experts and np.isfinite(measured[0]).any():
                points = found.setdefault((population["method"], generalists), {})
                points.setdefault(experts, []).append([shares(v, generalists) for v in measured])
    return {key: {n: np.array(points[n]) for n in sorted(points)} for key, points in found.items() if len(points) > 1}


def draw(axes, points, which, generalists):
    experts = np.array(list(points))
    for kind, name, marker in ((0, "generalist", "o"), (1, "specialist", "s")):
        mean = np.array([v[:, which, kind].mean() for v in points.values()])
        spread = np.array([v[:, which, kind].std() for v in points.values()])
        colour, dashes = style.KIND[name], style.DASHES[kind]
        axes.plot(experts, mean, marker, color=colour, linestyle=dashes, label=f"{name}s (sum)")
        axes.fill_between(experts, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)
    axes.plot(experts, generalists / experts, color="#555555", linewidth=0.8, linestyle=(0, (1, 1.5)), label="generalists at equal gates")
    axes.set_ylim(0, 1)
    axes.set_xticks(experts)


def figure(result):
    """The figure, not saved."""
    found = collect(result)
    if not found:
        raise style.NotDrawn("no devices with a router and both kinds of expert differ in their number of experts")
    shown = list(found.items())[:MOST_FACETS]
    drawn, grid = plt.subplots(len(shown), 2, figsize=(style.COLUMN, 0.85 + (1.5 if len(shown) == 1 else 1.1 * len(shown))), sharex=True,
                               sharey=True, squeeze=False)
    for line, ((method, generalists), points) in zip(grid, shown):
        for which, axes in enumerate(line):
            draw(axes, points, which, generalists)
        line[0].set_ylabel(f"{method},\n{generalists} generalist{'s' if generalists > 1 else ''}")
    grid[0, 0].set_title("mean gate")
    grid[0, 1].set_title("share of first choices")
    for axes in grid[-1]:
        axes.set_xlabel("experts of the device")
    more = f"; {len(shown)} of {len(found)}" if len(shown) < len(found) else ""
    style.legend_below(drawn, *grid[0, 0].get_legend_handles_labels(), f"mean and \u00b11 s.d. over devices of all populations{more}")
    return drawn

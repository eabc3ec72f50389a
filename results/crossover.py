"""Who is ahead as a device's own text grows: perplexity over training text per device, from summary.csv, as a figure and a table."""
import csv
import math
import statistics

import style
from result import short, split_of
from style import plt
from sweep import Unreadable, bank_label

COLUMNS = ("method", "seed", "generalists", "specialists", "tokens_per_device", "test_ppl_mean", "split")


def read(paths):
    rows = []
    for path in paths:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [c for c in COLUMNS if c not in (reader.fieldnames or [])]
            if missing:
                raise Unreadable(f"{path}: is no summary.csv of Cohort; it lacks {', '.join(missing)}")
            rows += list(reader)
    for row in rows:
        if not row["tokens_per_device"].lstrip("-").isdigit():
            raise Unreadable(f"population {row['population']}: data.tokens_per_device differs from device to device, so it has no place on the axis")
        row["tokens_per_device"], row["test_ppl_mean"] = int(row["tokens_per_device"]), float(row["test_ppl_mean"])
        if row["tokens_per_device"] <= 0:
            raise Unreadable(f"population {row['population']}: data.tokens_per_device is 0 (all there is), so its place on the axis is unknown")
    if len({r["tokens_per_device"] for r in rows}) < 2:
        raise Unreadable("a crossover needs populations with at least two different data.tokens_per_device")
    if len({split_of(r) for r in rows}) > 1:
        raise Unreadable("these summaries have more than one data.split or data.evaluation; draw them apart")
    return rows


def collect(rows):
    """{method: {tokens: {seed: perplexity}}}, in the order of the files."""
    table = {}
    for row in rows:
        seeds = table.setdefault(bank_label(row, rows), {}).setdefault(row["tokens_per_device"], {})
        if row["seed"] in seeds:
            raise Unreadable(f"method {bank_label(row, rows)}, seed {row['seed']}, {row['tokens_per_device']} tokens occurs twice")
        if math.isfinite(row["test_ppl_mean"]):
            seeds[row["seed"]] = row["test_ppl_mean"]
    return table


def mean_and_spread(values):
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def most_seeds(table):
    return max(len(seeds) for sizes in table.values() for seeds in sizes.values())


def curve(axes, index, count, points, label):
    """points: {tokens: values}; the methods are set side by side so that error bars do not hide each other."""
    points = {x: v for x, v in sorted(points.items()) if v}
    shift = 1.035 ** (index - (count - 1) / 2)
    means, spreads = zip(*(mean_and_spread(v) for v in points.values()))
    axes.errorbar([x * shift for x in points], means, spreads, label=label, marker=style.marker(index), capsize=1.5,
                  elinewidth=0.7, capthick=0.7, **style.line_style(index))


def relative(table, reference):
    """Percent above the reference, seed by seed: what the seeds have in common cancels."""
    base = table[reference]
    return {method: {x: [100 * (v / base[x][seed] - 1) for seed, v in seeds.items() if seed in base.get(x, {})]
                     for x, seeds in sizes.items()} for method, sizes in table.items()}


def label_sizes(axes, table, unit):
    sizes = sorted({x for sizes in table.values() for x in sizes})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [short(x) for x in sizes])
    axes.minorticks_off()
    axes.set_xlabel(f"training text per device ({unit})")


def legend(figure, axes, count, note):
    height = figure.get_size_inches()[1]
    figure.legend(*axes.get_legend_handles_labels(), loc="upper center", ncol=3, columnspacing=1, handlelength=2.2, borderaxespad=0.1)
    figure.text(0.5, 0.03 / height, note, ha="center", va="bottom", fontsize=5.5, color="#555555")
    figure.get_layout_engine().set(rect=(0, 0.12 / height, 1, 1 - (0.17 + 0.135 * math.ceil(count / 3)) / height))


def draw(table, unit, stem):
    reference = "local" if "local" in table else None
    panels = 2 if reference and len(table) > 1 else 1
    figure, axes = plt.subplots(panels, 1, figsize=(style.COLUMN, 1.1 + 1.5 * panels), sharex=True, squeeze=False)
    for i, (method, sizes) in enumerate(table.items()):
        curve(axes[0, 0], i, len(table), {x: list(s.values()) for x, s in sizes.items()}, method)
    axes[0, 0].set_ylabel("test perplexity\n(before averaging)")
    if panels == 2:
        axes[1, 0].axhline(0, color="#888888", linewidth=0.6)
        for i, (method, sizes) in enumerate(relative(table, reference).items()):
            if method != reference:
                curve(axes[1, 0], i, len(table), sizes, method)
        axes[1, 0].set_ylabel(f"against {reference} (%)")
    label_sizes(axes[-1, 0], table, unit)
    seeds = most_seeds(table)
    note = f"mean and s.d. over {seeds} seeds" + ("; below: seed by seed" if panels == 2 else "") if seeds > 1 else "one seed"
    legend(figure, axes[0, 0], len(table), note)
    style.save(figure, stem)


def cell(found, seeds):
    return f"{found[0]:.3f} ± {found[1]:.3f}" if seeds > 1 else f"{found[0]:.3f}"


def markdown(table, unit):
    """Best of a row in bold."""
    sizes = sorted({x for s in table.values() for x in s})
    seeds = most_seeds(table)
    lines = ["Test perplexity (mean over devices" + (f"; mean ± standard deviation over {seeds} seeds)" if seeds > 1 else ")"), "",
             f"| {unit} per device | " + " | ".join(table) + " |", "|---:|" + "---:|" * len(table)]
    for x in sizes:
        found = {m: mean_and_spread(list(s[x].values())) for m, s in table.items() if s.get(x)}
        best = min(found, key=lambda m: found[m][0])
        cells = [cell(found[m], seeds) if m in found else "" for m in table]
        lines.append(f"| {x:,} | " + " | ".join(f"**{c}**" if m == best else c for m, c in zip(table, cells)) + " |")
    return "\n".join(lines) + "\n"


def crossover(paths, stem, unit):
    table = collect(read(paths))
    draw(table, unit, stem)
    with open(f"{stem}.md", "w", encoding="utf-8") as out:
        out.write(markdown(table, unit))
    style.say(f"{stem}.md")

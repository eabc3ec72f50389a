"""The axes of a sweep, and the values of its points: from the rows of summary.csv, or of a trace's populations while the run goes on."""
import csv
import math
import re
import statistics

# Columns of summary.csv that are settings. Those of other axes have the setting's key, with a dot, as their name.
SETTINGS = ("method", "generalists", "specialists", "devices", "rank", "tokens_per_device", "split", "evaluation")
BANK = ("generalists", "specialists")
# Student's t, 97.5 %, for 1, 2, ... degrees of freedom
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101,
         2.093, 2.086)
INTERVAL_SEEDS = 5  # with fewer an interval says little more than that it is wide: the range is shown


class Unreadable(Exception):
    """Said to the user as it is."""


class Axis:
    """A setting that differs between points. values: of each row; levels: those values once each, numbers in rising order."""

    def __init__(self, name, values):
        self.name, self.values = name, values
        self.levels = list(dict.fromkeys(values))
        self.is_number = all(math.isfinite(number(v)) for v in self.levels)
        if self.is_number:
            self.levels.sort(key=number)

    def label(self, level):
        """A level in words: numbers need to be told what they count."""
        return f"{self.name} {level}" if re.fullmatch(r"[-+.,e\d\s\[\]]+", level) else level.replace("_", " ")


def number(cell):
    try:
        return float(cell)
    except ValueError:
        return math.nan


def read_summary(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- Which axes there are


def declared_axes(config):
    """The keys in `sweep: {axes: [...]}` of a resolved configuration. Seeds are what means are taken over."""
    found = re.search(r"^sweep:(?:.*\n(?: .*\n)*?)??.*\baxes: *\[([^]]*)\]", config, re.M)
    keys = [key.strip(" \n\"'") for key in found[1].split(",")] if found else []
    return [key for key in keys if key not in ("", "seed")]


def column_of(rows, key):
    """The column of a key: the key, or its last part; None where there is none."""
    return next((name for name in (key, key.rsplit(".", 1)[-1]) if name in rows[0]), None)


def varies(rows, column):
    return len({row[column] for row in rows}) > 1


def numbers_of(cell):
    """Of each device, as the trace has them, or a cell of summary.csv: one number, where all devices have the same."""
    return [int(n) for n in (cell.split() if isinstance(cell, str) else cell)]


def in_words(cell, whole):
    """2; where devices differ 1-3, or the whole list (1,1,3,3)."""
    counts = numbers_of(cell)
    least, most = min(counts), max(counts)
    return f"{most}" if least == most else f"({','.join(map(str, counts))})" if whole else f"{least}-{most}"


def bank_of(row, whole=False):
    """1G1S, 2G, 3S; where devices differ 1G1-3S, or with whole lists 1G(1,1,3,3)S."""
    kinds = ((row["generalists"], "G"), (row["specialists"], "S"))
    return "".join(in_words(cell, whole) + kind for cell, kind in kinds if max(numbers_of(cell)))


def bank_label(row, rows):
    """The method, with its bank of experts where the method occurs with several, and with its rank likewise. Lists are whole where their
    least and their most do not tell them apart."""
    method = row["method"]
    same = [r for r in rows if r["method"] == method]
    whole = len({bank_of(r) for r in same}) < len({bank_of(r, True) for r in same})
    label = method if len({bank_of(r) for r in same}) == 1 and not whole and method != "comigs" else f"{method} {bank_of(row, whole)}"
    if any("rank" not in r for r in same):
        return label
    lists = {in_words(r["rank"], True) for r in same}
    whole = len({in_words(r["rank"], False) for r in same}) < len(lists)
    return f"{label} rank {in_words(row['rank'], whole)}" if len(lists) > 1 else label


def determines(first, second):
    """A level of the first axis always comes with the same one of the second."""
    return len(set(zip(first.values, second.values))) == len(first.levels)


def chosen_axis(rows, key, columns):
    """columns: those that vary."""
    column, there = column_of(rows, key), ", ".join(columns) or "none"
    if column is None:
        raise Unreadable(f"--axis {key}: summary.csv has no such column; the settings in which populations differ are {there}")
    if not varies(rows, column):
        raise Unreadable(f"--axis {key}: all populations have the value {rows[0][column]}; the settings in which they differ are {there}")
    return Axis(key, [row[column] for row in rows])


def columns_of(rows, keys):
    """{key: its column}, of those that vary."""
    columns = {key: column_of(rows, key) for key in keys}
    return {key: column for key, column in columns.items() if column and varies(rows, column)}


def all_axes(rows, columns, by_bank, apart):
    """by_bank: methods are named with their banks of experts. Else generalists and specialists that both vary are one axis, the bank, or
    two, apart."""
    values = {key: [row[column] for row in rows] for key, column in columns.items()}
    bank = [key for key in columns if columns[key] in BANK]
    if bank and by_bank and "method" in columns:
        values["method"] = [bank_label(row, rows) for row in rows]
    elif len(bank) == 2 and not apart:
        values["experts"] = [bank_of(row) for row in rows]
    else:
        bank = []
    return [Axis(key, column) for key, column in values.items() if key not in bank]


def axes_of(rows, declared=(), chosen=None):
    """The axes, the chosen one first, without those that an earlier one determines: zipped ones, say. Along a chosen number of experts of
    one kind, those of the other kind stay an axis, unless each determines the other. Where the axes do not tell all rows apart, the populations' names do."""
    columns = columns_of(rows, declared or [*SETTINGS, *(column for column in rows[0] if "." in column)])
    axes = [chosen_axis(rows, chosen, columns)] if chosen else []
    apart = bool(chosen) and column_of(rows, chosen) in BANK
    for axis in all_axes(rows, columns, by_bank=not declared and not apart, apart=apart):
        other_kind = apart and axis.name in BANK and not determines(axis, axes[0])
        if other_kind or not any(determines(kept, axis) for kept in axes):
            axes.append(axis)
    points = list(zip(*(axis.values for axis in axes), [row["seed"] for row in rows]))
    if len(set(points)) < len(rows):
        axes = axes[:1] * bool(chosen) + [Axis("population", [row["population"] for row in rows])]
    return axes


# ---- What is drawn along which axis


class Roles:
    """x: along the panel, or None where no axis is a number; line: a line each, or None; facets: a panel each."""

    def __init__(self, axes, chosen=None):
        numbers = [axis for axis in axes if axis.is_number and axis.name != "method"]
        self.x = axes[0] if chosen else max(numbers, key=lambda axis: len(axis.levels), default=None)
        rest = [axis for axis in axes if axis is not self.x]
        self.line = next((axis for axis in rest if axis.name == "method"), next((axis for axis in rest if not axis.is_number), None))
        self.line = self.line or next(iter(rest), None)
        self.facets = [axis for axis in rest if axis is not self.line]
        self._name_lines_by_both()

    def _name_lines_by_both(self):
        """Where an axis of facets says which line a point is on (banks that only one method has), a panel would have one line each: lines
        are then named by both."""
        for axis in self.facets:
            if self.line and not axis.is_number and determines(axis, self.line):
                both = [f"{self.line.label(a)} {axis.label(b)}" for a, b in zip(self.line.values, axis.values)]
                self.facets.remove(axis)
                self.line = Axis(self.line.name, both)
                return

    def line_of(self, row):
        return self.line.label(self.line.values[row]) if self.line else ""

    def facet_of(self, row):
        return ", ".join(axis.label(axis.values[row]) for axis in self.facets if axis.values[row])


def table(rows, roles, metric):
    """{facet: {line: {level of x: [the metric, a value a seed]}}}, all in the order of levels; NaN where a population diverged."""
    def order(row):
        axes = [*roles.facets, *([roles.line] if roles.line else []), roles.x]
        return [axis.levels.index(axis.values[row]) for axis in axes]
    out = {}
    for i in sorted(range(len(rows)), key=order):
        points = out.setdefault(roles.facet_of(i), {}).setdefault(roles.line_of(i), {})
        points.setdefault(roles.x.values[i], []).append(number(rows[i][metric]))
    return out


def levels_of(found, roles):
    """The levels of x that a table has, in their order."""
    used = {level for lines in found.values() for points in lines.values() for level in points}
    return [level for level in roles.x.levels if level in used]


def finite(values):
    return [value for value in values if math.isfinite(value)]


def diverged(rows, metric):
    """Names of the populations that have no value of the metric, with their seeds."""
    return [f"{row['population']} (seed {row['seed']})" for row in rows if not math.isfinite(number(row[metric]))]


# ---- Seeds


def seeds_of(found):
    """(fewest, most) finite seeds of the points that have any."""
    counts = [len(finite(values)) for lines in found.values() for points in lines.values() for values in points.values()]
    return min((n for n in counts if n), default=0), max(counts)


def mean_and_band(values, interval):
    """(mean, low, high) over the seeds that are finite: a 95 % interval of the mean, or the range; NaN where there is none."""
    values = finite(values)
    if not values:
        return math.nan, math.nan, math.nan
    mean, n = statistics.fmean(values), len(values)
    if not interval or n < 2:
        return mean, min(values), max(values)
    half = (T_975[n - 2] if n - 2 < len(T_975) else 1.96) * statistics.stdev(values) / math.sqrt(n)
    return mean, mean - half, mean + half


def band_name(found):
    """What a band is: the same for all points of a figure."""
    fewest, most = seeds_of(found)
    return "" if most < 2 else "95 % interval" if fewest >= INTERVAL_SEEDS else "range"


def is_partial(values):
    """Some seeds have a value, others diverged."""
    return 0 < len(finite(values)) < len(values)

"""Reads a result folder: trace.h5, also while the run goes on, and what its configuration says about the text."""
import os
import re

import h5py
import numpy as np

from sweep import Roles, Unreadable, axes_of, bank_label, declared_axes, read_summary


class Series:
    """Populations that differ only in their seed: one line of a figure. facet: which panel, in words; empty where there is one."""

    def __init__(self, label, facet, populations):
        self.label, self.facet, self.populations = label, facet, populations


class Result:
    def __init__(self, folder, axis=None):
        """axis: the key along which a metric is drawn; None: roles choose one."""
        self.path = os.path.join(folder, "trace.h5")
        try:
            with h5py.File(self.path, "r", swmr=True) as file:
                self._read(file)
        except (OSError, KeyError, ValueError) as error:
            raise Unreadable(f"{self.path}: cannot be read as a trace: {error}") from error
        self.rows, self.has_summary = self._rows(os.path.join(folder, "summary.csv"))
        self.declared = declared_axes(self.config)
        self.axes = axes_of(self.rows, self.declared)
        self.roles = Roles(axes_of(self.rows, self.declared, axis), axis)

    def _rows(self, summary):
        """(a row for each population, as in summary.csv; whether that is there): else what the trace says of populations."""
        if os.path.exists(summary):
            rows = read_summary(summary)
            if [(r.get("population"), r.get("seed")) for r in rows] != [(p["name"], str(p["seed"])) for p in self.populations]:
                raise Unreadable(f"{summary}: its populations are not those of {self.path}")
            return rows, True
        rows = [{"population": p["name"], **{key: str(value) for key, value in p.items()}} for p in self.populations]
        for row, p in zip(rows, self.populations):
            for key in ("generalists", "specialists", "rank"):
                counts = dict.fromkeys(p[key])
                row[key] = " ".join(map(str, p[key] if len(counts) > 1 else counts))
        return rows, False

    def _read(self, file):
        self.config = text(file.attrs["config"])
        self.rounds = file["rounds"][:]
        self.sources = [text(name) for name in file["sources"][:]] if "sources" in file else []
        n = len(self.rounds)
        self.devices = file["devices"][:]
        records = file["populations"][:]
        self.populations = [{name: text(record[name]) for name in records.dtype.names} for record in records]
        self.generalists = self._of_devices("generalists", records)
        ranks = self._of_devices("rank", records)
        for i, population in enumerate(self.populations):
            members = self.members(i)
            population["generalists"], population["rank"] = self.generalists[members], ranks[members]
            population["specialists"] = self.devices["experts"][members] - population["generalists"]
            population["routed"] = population["gates"] == "top_k"
        self.mixture = file["mixture"][:] if "mixture" in file else None  # [device, source of its corpus] tokens of training text
        self.test = file["loss/test"][:n]  # [row, device] nats per token, before aggregation
        if "held_out" in self.devices.dtype.names:  # no mean counts devices that join late
            self.test[:, self.devices["held_out"] > 0] = np.nan
        self.gates = file["routing/gate_mean"][:n]  # [row, device, layer, expert]
        self.token_share = file["routing/token_share"][:n]  # likewise
        self.bytes = np.nancumsum(file["traffic/bytes_up"][:n] + file["traffic/bytes_down"][:n], axis=0)  # [row, device] until then
        self.worst_decile = file["fairness/test_worst_decile"][:n]  # [row, population]
        self.gini = file["fairness/test_gini"][:n]
        self.ids = self.token_gates = self.windows = None
        if "tokens" in file["routing"]:
            self.ids = file["routing/tokens/ids"][:n]  # [row, window, token]
            self.token_gates = file["routing/tokens/gates"][:n]  # [row, window, token, layer, expert]
            self.windows = file["routing/tokens/devices"][:]

    def _of_devices(self, name, records):
        """[device]; an older trace says it of populations alone."""
        return self.devices[name] if name in self.devices.dtype.names else records[name][self.devices["population"]]

    def name(self, population):
        return self.populations[population]["name"]

    def members(self, population):
        """The population's devices, as indices."""
        return np.flatnonzero(self.devices["population"] == population)

    def losses(self, series, rows):
        """[row, population of the series, device], NaN where a population has fewer devices."""
        members = [self.members(p) for p in series.populations]
        out = np.full((len(rows), len(members), max(map(len, members))), np.nan)
        for i, m in enumerate(members):
            out[:, i, :len(m)] = self.test[np.ix_(rows, m)]
        return out

    def evaluated(self):
        """Rows with test losses."""
        return np.flatnonzero(np.isfinite(self.test).any(axis=1))

    def is_routed(self, population):
        """Has a router: two experts or more on a device, whose gates were not simply averaged."""
        return self.populations[population]["routed"] and bool((self.devices["experts"][self.members(population)] > 1).any())

    def source_names(self, population):
        """Of its corpus, whose sources end where those of the next corpus begin."""
        first = self.populations[population]["first_source"]
        return self.sources[first:min((p["first_source"] for p in self.populations if p["first_source"] > first), default=None)]

    def source_tokens(self, population):
        """[device, source] tokens of training text; None where the trace does not have them, as those of before /mixture do not for devices
        of several sources."""
        devices = self.devices[self.members(population)]
        if self.mixture is not None:
            return self.mixture[self.members(population), :len(self.source_names(population))]
        if not self.sources or (devices["source"] < 0).any():
            return None
        out = np.zeros((len(devices), len(self.source_names(population))), int)
        out[np.arange(len(devices)), devices["source"]] = devices["train_tokens"]
        return out

    def is_bytes(self):
        """Tokens are bytes of real text."""
        base = re.search(r"^base:\n((?: .*\n)+)", self.config, re.M)
        return bool(base and re.search(r"^  vocabulary: 256$", base[1], re.M)) and not re.search(r"corpus: synthetic$", self.config, re.M)

    def wants_tokens(self):
        return not re.search(r"^  routing_windows: 0$", self.config, re.M)

    def series(self):
        """Of a sweep that names its axes: a label for each level of the axis of lines, a facet for what the others are. Else one for each
        name; where sizes or splits of the data differ, one for each method and facet, so that the same method has the same label
        everywhere."""
        keys = self._points() if self.declared else self._names()
        groups = {}
        for i, key in enumerate(keys):
            groups.setdefault(key, []).append(i)
        return [Series(label, facet, members) for (label, facet), members in groups.items()]

    def _points(self):
        """(label, facet) of each population. Where there is no other axis, lines are the levels of x."""
        roles = Roles(self.axes)
        line = roles.line or roles.x
        facets = [axis for axis in (roles.x, *roles.facets) if axis and axis is not line]
        return [(line.label(line.values[i]) if line else self.name(i), ", ".join(axis.label(axis.values[i]) for axis in facets))
                for i in range(len(self.rows))]

    def _names(self):
        facets = [facet_of(p) for p in self.populations]
        labels = [bank_label(p, self.populations) for p in self.populations]
        names = {}
        for i, key in enumerate(zip(facets, labels)):
            names.setdefault(key, set()).add(self.name(i))
        by_method = len(set(facets)) > 1 and all(len(n) == 1 for n in names.values())
        return [(labels[i] if by_method else self.name(i), facet_name(facet, facets)) for i, facet in enumerate(facets)]


def text(value):
    """Bytes as text, any other value as it is."""
    return value.decode() if isinstance(value, bytes) else value


def split_of(row):
    """How the data are divided: data.split, and data.evaluation where it is not the usual one (results of before there was the key lack it)."""
    split, evaluation = text(row["split"]), text(row.get("evaluation") or "")
    return f"{split}, {evaluation}" if evaluation not in ("", "in_distribution") else split


def facet_of(population):
    return int(population["tokens_per_device"]), split_of(population)


def facet_name(facet, facets):
    """What sets a facet apart from the others, in few words."""
    sizes, splits = {f[0] for f in facets}, {f[1] for f in facets}
    size = [f"{short(facet[0])} tokens" if facet[0] else "all text"] * (len(sizes) > 1)
    return ", ".join(size + [facet[1].replace("_", " ")] * (len(splits) > 1))


def short(tokens):
    return f"{tokens / 1000:g}k" if tokens >= 1000 else str(tokens)

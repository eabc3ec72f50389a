"""Reads a result folder: trace.h5, also while the run goes on, and what its configuration says about the text."""
import os
import re

import h5py
import numpy as np


class Unreadable(Exception):
    """Said to the user as it is."""


class Series:
    """Populations that differ only in their seed: one line of a figure."""

    def __init__(self, label, facet, populations):
        self.label, self.facet, self.populations = label, facet, populations


class Result:
    def __init__(self, folder):
        self.path = os.path.join(folder, "trace.h5")
        try:
            with h5py.File(self.path, "r", swmr=True) as file:
                self._read(file)
        except (OSError, KeyError, ValueError) as error:
            raise Unreadable(f"{self.path}: cannot be read as a trace: {error}") from error

    def _read(self, file):
        self.config = text(file.attrs["config"])
        self.rounds = file["rounds"][:]
        n = len(self.rounds)
        self.devices = file["devices"][:]
        records = file["populations"][:]
        self.populations = [{name: record[name] for name in records.dtype.names} for record in records]
        self.generalists = self._of_devices("generalists", records)
        ranks = self._of_devices("rank", records)
        for i, population in enumerate(self.populations):
            members = self.members(i)
            population["generalists"], population["rank"] = self.generalists[members], ranks[members]
            population["specialists"] = self.devices["experts"][members] - population["generalists"]
            population["routed"] = text(population["gates"]) == "top_k"
        self.test = file["loss/test"][:n]  # [row, device] nats per token, before aggregation
        self.gates = file["routing/gate_mean"][:n]  # [row, device, layer, expert]
        self.ids = self.token_gates = self.windows = None
        if "tokens" in file["routing"]:
            self.ids = file["routing/tokens/ids"][:n]  # [row, window, token]
            self.token_gates = file["routing/tokens/gates"][:n]  # [row, window, token, layer, expert]
            self.windows = file["routing/tokens/devices"][:]

    def _of_devices(self, name, records):
        """[device]; an older trace says it of populations alone."""
        return self.devices[name] if name in self.devices.dtype.names else records[name][self.devices["population"]]

    def name(self, population):
        return text(self.populations[population]["name"])

    def members(self, population):
        """The population's devices, as indices."""
        return np.flatnonzero(self.devices["population"] == population)

    def evaluated(self):
        """Rows with test losses."""
        return np.flatnonzero(np.isfinite(self.test).any(axis=1))

    def is_routed(self, population):
        """Has a router: two experts or more on a device, whose gates were not simply averaged."""
        return self.populations[population]["routed"] and bool((self.devices["experts"][self.members(population)] > 1).any())

    def is_bytes(self):
        """Tokens are bytes of real text."""
        base = re.search(r"^base:\n((?: .*\n)+)", self.config, re.M)
        return bool(base and re.search(r"^  vocabulary: 256$", base[1], re.M)) and not re.search(r"corpus: synthetic$", self.config, re.M)

    def wants_tokens(self):
        return not re.search(r"^  routing_windows: 0$", self.config, re.M)

    def series(self):
        """One for each name; where sizes or splits of the data differ, one for each method and facet, so that the same method has the
        same label everywhere."""
        facets = list(dict.fromkeys(facet_of(p) for p in self.populations))
        labels = [bank_label(p, self.populations) for p in self.populations]
        keys = [(facet_of(p), label) for p, label in zip(self.populations, labels)]
        names = {key: {self.name(i) for i, other in enumerate(keys) if other == key} for key in keys}
        by_method = len(facets) > 1 and all(len(n) == 1 for n in names.values())
        groups = {}
        for i, p in enumerate(self.populations):
            groups.setdefault((labels[i] if by_method else self.name(i), facet_of(p)), []).append(i)
        return [Series(label, facet, members) for (label, facet), members in groups.items()]


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def facet_of(population):
    return int(population["tokens_per_device"]), text(population["split"])


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
    method = text(row["method"])
    same = [r for r in rows if text(r["method"]) == method]
    whole = len({bank_of(r) for r in same}) < len({bank_of(r, True) for r in same})
    label = method if len({bank_of(r) for r in same}) == 1 and not whole and method != "comigs" else f"{method} {bank_of(row, whole)}"
    if any("rank" not in r for r in same):
        return label
    lists = {in_words(r["rank"], True) for r in same}
    whole = len({in_words(r["rank"], False) for r in same}) < len(lists)
    return f"{label} rank {in_words(row['rank'], whole)}" if len(lists) > 1 else label

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
        for i, population in enumerate(self.populations):
            population["specialists"] = self.devices["experts"][self.members(i)] - population["generalists"]
            population["routed"] = text(population["gates"]) == "top_k"
        self.test = file["loss/test"][:n]  # [row, device] nats per token, before aggregation
        self.gates = file["routing/gate_mean"][:n]  # [row, device, layer, expert]
        self.ids = self.token_gates = self.windows = None
        if "tokens" in file["routing"]:
            self.ids = file["routing/tokens/ids"][:n]  # [row, window, token]
            self.token_gates = file["routing/tokens/gates"][:n]  # [row, window, token, layer, expert]
            self.windows = file["routing/tokens/devices"][:]

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


def split_of(row):
    """How the data are divided: data.split, and data.evaluation where it is not the usual one (results of before there was the key lack it)."""
    split, evaluation = text(row["split"]), text(row.get("evaluation") or "")
    return f"{split}, {evaluation}" if evaluation not in ("", "in_distribution") else split


def facet_of(population):
    return int(population["tokens_per_device"]), split_of(population)


def bank_of(row):
    """1G1S, 2G, 3S, and 1G1-3S where devices differ. Specialists: of each device, as the trace has them or as a cell of summary.csv."""
    generalists, specialists = int(row["generalists"]), row["specialists"]
    counts = [int(n) for n in (specialists.split() if isinstance(specialists, str) else specialists)]
    least, most = min(counts), max(counts)
    private = f"{most}S" if least == most else f"{least}-{most}S"
    return (f"{generalists}G" if generalists else "") + (private if most else "")


def bank_label(row, rows):
    """The method, with its bank of experts where the method occurs with several."""
    method = text(row["method"])
    banks = {bank_of(r) for r in rows if text(r["method"]) == method}
    return method if len(banks) == 1 and method != "comigs" else f"{method} {bank_of(row)}"

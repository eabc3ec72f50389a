"""Test perplexity over an axis of a sweep, a panel for each amount of training text that devices have: for populations in which some
devices have much text, and others little."""
import numpy as np

import metric
import style
from result import short
from sweep import table

METRIC, MOST_GROUPS = "test_ppl_mean", 4


def groups_of(result):
    """The amounts of training text, rising, that devices of every population have: none where they are one, or many, or not the same in all
    populations."""
    amounts = [set(result.devices["train_tokens"][result.members(i)].tolist()) for i in range(len(result.populations))]
    alike = all(found == amounts[0] for found in amounts)
    return sorted(amounts[0]) if alike and 1 < len(amounts[0]) <= MOST_GROUPS else []


def rows_of_group(result, tokens):
    """The rows of the sweep with the perplexity of the devices that have so much training text, in the last evaluated round."""
    last, rows = result.evaluated()[-1], []
    for i, row in enumerate(result.rows):
        members = result.members(i)
        losses = result.test[last, members[result.devices["train_tokens"][members] == tokens]]
        rows.append({**row, METRIC: str(float(np.mean(np.exp(losses))))})
    return rows


def figure(result):
    """The figure, not saved."""
    groups, found = groups_of(result), {}
    if not result.roles.x:
        raise style.NotDrawn("no axis of the sweep is a number; --axis KEY draws along any other")
    for tokens in groups:
        for facet, lines in table(rows_of_group(result, tokens), result.roles, METRIC).items():
            name = f"{short(tokens)} {'bytes' if result.is_bytes() else 'tokens'} of text"
            found[", ".join(part for part in (name, facet) if part)] = lines
    return metric.draw_lines(found, result.rows, result.roles, METRIC)

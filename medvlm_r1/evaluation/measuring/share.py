"""A share among clustered items, with an interval that does not vanish where all of them agree."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.evaluation.measuring.statistics import cluster_mean, wilson
from medvlm_r1.evaluation.samples import Sample


def share(hits: Sequence[bool], samples: Sequence[Sample]) -> dict[str, Any]:
    """The share of hits, one a sample (or one a claim of a sample), with an interval that resamples whole groups.

    Over items, not over modalities. Where every group has the same share, resampling sees no
    spread; the interval is then Wilson's for as many items as there are groups.
    """
    if not hits:
        return {"n": 0, "share": None, "ci95": None}
    groups = [s.cluster for s in samples]
    found = cluster_mean([float(hit) for hit in hits], groups)
    low, high = found.ci95
    if low == high:
        count = len(set(groups))
        low, high = wilson(found.value * count, count)
    return {"n": len(hits), "share": found.value, "ci95": [low, high]}

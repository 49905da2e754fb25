"""A share among clustered items, with its interval."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.evaluation.measuring.clusters import cluster_rate
from medvlm_r1.evaluation.samples import Sample


def share(hits: Sequence[bool], samples: Sequence[Sample]) -> dict[str, Any]:
    """The share of hits, one a sample (or one a claim of a sample), with an interval that moves whole groups; over items, not over modalities."""
    if not hits:
        return {"n": 0, "share": None, "ci95": None}
    found = cluster_rate([float(hit) for hit in hits], [s.cluster for s in samples])
    return {"n": len(hits), "share": found.value, "ci95": found.ci95}

"""Whether the figures of a reconstruction without its images agree with each other."""

from collections.abc import Iterator, Mapping
from typing import Any

from ggl.audits.recomputed import is_close, unlike
from ggl.measures.statistics import bootstrap_mean

__all__ = ["contradictions_of_matches"]


def contradictions_of_matches(result: Mapping[str, Any], *, same_versions: bool = True) -> Iterator[str]:
    """Yield a line for every figure of a reconstruction that is not what others make it, by its path.

    What cannot be computed anew: the gaps of controls and of noise, whose matches to each other are not
    kept.

    Args:
        result: the content of `result.json` of `ggl.reconstruct`.
        same_versions: whether intervals were computed by the versions that are here.
    """
    captured, *others = result["updates"]
    controls = [update for update in others if update["update"].startswith("control")]
    noise = [update for update in others if update["update"].startswith("noise")]
    match = result["match"]
    if not is_close(captured["match_to_captured"], match) or not is_close(captured["match_to_own"], match):
        yield f"updates[0]: expected the match {match}, found another"
    gap = bootstrap_mean([update["match_to_captured"] - match for update in controls])
    yield from unlike("control_gap", result["control_gap"], gap, same_versions=same_versions)
    if not is_close(captured["gap"], gap.mean):
        yield f"updates[0].gap: expected {gap.mean}, found {captured['gap']}"
    beyond = all(update["match_to_captured"] > match for update in controls)
    stands_out = beyond and gap.mean > max(update["gap"] for update in noise)
    doubtful = all(update["match_to_own"] < match for update in controls)
    for key, expected in (("stands_out", stands_out), ("settings_doubtful", doubtful)):
        if result[key] is not expected:
            yield f"{key}: expected {expected} of the matches, found {result[key]}"

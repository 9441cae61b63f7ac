"""What `ggl check-prior` does and prints."""

from ggl.base.errors import InputError
from ggl.generators.contract import check_prior
from ggl.generators.loading import load_prior
from ggl.generators.plausibility import doubts_of

__all__ = ["check"]


def check(specification: str) -> None:
    """Print what each check of a prior's contract found, what was assumed of it, and what is implausible.

    Raises:
        InputError: at least one found a problem.
    """
    prior = load_prior(specification)
    findings = check_prior(prior)
    for finding in findings:
        print(f"{'wrong' if finding.problem else 'ok':6} {finding.check}")
        if finding.problem:
            print(f"       {finding.problem}")
    for phrase in prior.assumed:
        print(f"assumed: {phrase}")
    wrong = sum(finding.problem is not None for finding in findings)
    if wrong:
        raise InputError(f"prior {specification!r} fails {wrong} of {len(findings)} checks, as said above")
    for doubt in doubts_of(prior):
        print(f"warning: doubtful, {doubt}")

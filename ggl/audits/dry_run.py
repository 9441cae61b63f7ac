"""What an audit would take: its cells begun as the audit begins them, each timed, and none searched."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ggl.attacks.jobs import Job
from ggl.attacks.label_sources import load_label_rule
from ggl.attacks.strategy_choice import trial_strategy
from ggl.attacks.strategy_options import read_options
from ggl.attacks.timing import Run, affordable_rate, mean_rate, modeled_rate, timed_rate
from ggl.attacks.workplace import Begun
from ggl.audits.cells import BegunCell, begin_ceiling
from ggl.audits.request import AuditRequest
from ggl.base.durations import clock_of, wall_seconds
from ggl.base.memory import PeakMemory
from ggl.base.processes import one_thread
from ggl.gradients import GradientOracle

__all__ = ["ForeseenCell", "ForeseenWork", "Prospect", "foresee"]


@dataclass(frozen=True)
class ForeseenWork:
    """Searches of one kind, as they would be computed.

    Attributes:
        searches: how many, those of controls included.
        evaluations: of the objective, at most: a search takes whole generations, and may end before.
        seconds: of one thread, for every job that it is cut into.
        at_least: whether a part of it costs more than what was timed.
    """

    searches: int
    evaluations: int
    seconds: Sequence[float]
    at_least: bool = False


@dataclass(frozen=True)
class ForeseenCell:
    """A cell of the audit, with what it would take."""

    defense: str
    attacker: str
    strategy: str
    work: ForeseenWork


@dataclass(frozen=True)
class Prospect:
    """What an audit would take on this machine.

    Attributes:
        ceiling: the inversions of the private images; nothing where they are known.
        memory: bytes that this process took at most while cells were begun and timed.
        workers: processes of one thread that compute.
        notes: which rungs of a ladder are run, and which not, and why.
    """

    cells: Sequence[ForeseenCell]
    ceiling: ForeseenWork
    memory: int
    workers: int
    notes: Sequence[str] = ()

    @property
    def work(self) -> list[ForeseenWork]:
        """All that is searched, in the order in which it is begun."""
        return [self.ceiling, *(cell.work for cell in self.cells)]

    @property
    def seconds(self) -> float:
        """Seconds until all is searched, the jobs handed to the workers in their order."""
        return wall_seconds([second for work in self.work for second in work.seconds], self.workers)

    @property
    def evaluations(self) -> int:
        """Evaluations at most, those of controls and of the ceiling included."""
        return sum(work.evaluations for work in self.work)


@one_thread()
def foresee(request: AuditRequest, workers: int = 1) -> Prospect:
    """Return what an audit would take, checked as it is; nothing is written.

    Every cell is begun by the audit's own code, so that its jobs are counted and not guessed, and a few
    generations of its first job are run and thrown away, as a sweep's are.

    Args:
        request: what is to be audited.
        workers: processes of one thread that the time is for.

    Raises:
        InputError: as `ggl.audit`.
        GradientError: as `ggl.audit`, but for searches that meet no finite loss.
    """
    prepared = request.prepared()
    audit = prepared.setting
    memory = PeakMemory(audit.oracle.device)
    prepared.doubts(stacklevel=4)
    ceiling = begin_ceiling(audit)
    inverted = ForeseenWork(0, 0, []) if ceiling is None else _inversions(ceiling, audit.oracle)
    cells = [_cell(begun) for begun in prepared.begun({})]
    notes = () if prepared.ladder is None else prepared.ladder.lines()
    return Prospect(cells, inverted, memory.read(), workers, notes)


def _inversions(begun: Begun, oracle: GradientOracle) -> ForeseenWork:
    """Return what the ceiling would take."""
    job = begun.jobs[0]
    return _work(begun.jobs, affordable_rate(partial(_run, job), clock_of(oracle.device), job.searches))


def _cell(begun: BegunCell) -> ForeseenCell:
    """Return what a cell would take."""
    searches = begun.searches
    if isinstance(searches, Begun):
        work = _work(searches.jobs, *_rate(searches.jobs[0], begun))
    else:
        solved = sum(result.evaluations for result in searches)
        work = ForeseenWork(len(searches), solved, [begun.seconds])
    return ForeseenCell(begun.settings.defense.name, begun.settings.attacker, begun.strategy, work)


def _work(jobs: Sequence[Job], rate: float, at_least: bool = False) -> ForeseenWork:
    evaluations = [job.searches * job.budget for job in jobs]
    searches = sum(job.searches for job in jobs)
    return ForeseenWork(searches, sum(evaluations), [count * rate for count in evaluations], at_least)


def _rate(job: Job, begun: BegunCell) -> tuple[float, bool]:
    """Return the seconds of an evaluation of a cell's job, and whether others of its take longer."""
    settings, clock = begun.settings, clock_of(begun.oracle.device)
    labels = load_label_rule(settings.label_rule, begun.oracle, settings.prior)
    trial = trial_strategy(settings, begun.audit.clients.batch_size, labels.size)
    if trial.initial is None:
        rate = affordable_rate(partial(_run, job), clock, job.searches)
        return rate, read_options(settings.strategy).rate is not None
    alone = _run(job, 1)
    plain = timed_rate(alone, clock)
    if trial.initial + trial.batch_size > settings.budget:
        return plain, True
    modeled = modeled_rate(alone, clock, trial.initial)
    return mean_rate(plain, modeled, trial.initial / settings.budget), True


def _run(job: Job, searches: int) -> Run:
    """Return what runs the first searches of a job."""
    return job.part(searches).run

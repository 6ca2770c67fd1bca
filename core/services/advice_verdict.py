"""What an advice says: what each cheaper run found of the reference's objects, and which one to choose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from enum import StrEnum

from core.inference.compare import match_detections
from core.inference.detections import Detections
from core.jobs.jobs import Progress
from core.jobs.tables import Advice, Job, JobImage
from core.services.budget import Combination

# So many objects that the reference does not have are no better than as many lost ones.
EXTRA_MAX_PERCENT = 10


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of an advice.

    `found` has the whole results by the picture's hash; `work_mt` is what the sample costs by the formula alone.
    """

    combination: Combination
    job: Job
    progress: Progress
    images: Sequence[JobImage]
    work_mt: int
    found: Mapping[str, Detections]


@dataclass(frozen=True, slots=True)
class AdviceView:
    """An advice with its runs as far as they are."""

    advice: Advice
    reference: Measured
    others: tuple[Measured, ...]

    @property
    def runs(self) -> tuple[Measured, ...]:
        """All runs, the reference first."""
        return (self.reference, *self.others)

    @property
    def is_finished(self) -> bool:
        """Whether every run has ended."""
        return all(run.job.status == "finished" for run in self.runs)

    @property
    def pictures(self) -> int:
        """How many pictures were to be compared."""
        return self.reference.progress.total


@dataclass(frozen=True, slots=True)
class Compared:
    """What a cheaper run found of the reference's objects, on the `pictures` that both have a result of.

    `missed` counts the lost ones by class, `extra` what the reference does not have. `saving_percent` is of the list
    price, rounded down to one decimal.
    """

    measured: Measured
    pictures: int
    objects: int
    found: int
    missed: Mapping[str, int]
    extra: int
    saving_percent: Decimal

    @property
    def is_as_good(self) -> bool:
        """Whether nothing was lost, and hardly anything found that the reference does not have."""
        return self.found == self.objects and self.extra * 100 <= self.objects * EXTRA_MAX_PERCENT

    @property
    def agreement(self) -> Decimal:
        """Sørensen and Dice's (F1): 1 for the same objects; lost and extra ones count alike."""
        objects = self.objects + self.found + self.extra
        return Decimal(2 * self.found) / objects if objects else Decimal(1)


class Answer(StrEnum):
    """What kind of answer an advice has."""

    SAME = "same"  # something cheaper finds the same
    TRADE_OFF = "trade_off"  # everything cheaper loses something or finds much else
    EMPTY = "empty"  # the reference found nothing, so there is nothing to lose
    UNKNOWN = "unknown"  # no picture has two results


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, and the comparison that it rests on, if there is one."""

    answer: Answer
    best: Compared | None


def compare_advice(view: AdviceView, *, confidence_min: float) -> list[Compared]:
    """What each cheaper run found of the reference's objects, counting those of at least a confidence in both."""
    return [_compare(view.reference, other, confidence_min) for other in view.others]


def judge(compared: Sequence[Compared]) -> Verdict:
    """The cheapest that loses nothing; where all lose something, the one that agrees most with the reference.

    Only those count that could be compared on most pictures.
    """
    pictures = max((one.pictures for one in compared), default=0)
    if not pictures:
        return Verdict(Answer.UNKNOWN, None)
    comparable = [one for one in compared if one.pictures == pictures]
    if not any(one.objects for one in comparable):
        return Verdict(Answer.EMPTY, comparable[0])
    as_good = [one for one in comparable if one.is_as_good]
    if as_good:
        return Verdict(Answer.SAME, max(as_good, key=lambda one: (one.saving_percent, -one.extra)))
    return Verdict(Answer.TRADE_OFF, max(comparable, key=lambda one: (one.agreement, one.saving_percent)))


def _compare(reference: Measured, other: Measured, confidence_min: float) -> Compared:
    common = [sha256 for sha256 in reference.found if sha256 in other.found]
    objects = found = extra = 0
    missed: Counter[str] = Counter()
    for sha256 in common:
        wanted = reference.found[sha256].filter(confidence_min=confidence_min)
        matching = match_detections(wanted, other.found[sha256].filter(confidence_min=confidence_min))
        names = wanted.class_names()
        objects, found = objects + len(wanted), found + len(matching.pairs)
        extra += len(matching.only_second)
        missed.update(names[index] for index in matching.only_first)
    saved = Decimal(reference.work_mt - other.work_mt) * 100 / reference.work_mt
    return Compared(
        measured=other,
        pictures=len(common),
        objects=objects,
        found=found,
        missed=dict(missed.most_common()),
        extra=extra,
        saving_percent=saved.quantize(Decimal("0.1"), rounding=ROUND_DOWN),
    )

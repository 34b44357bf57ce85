"""From a stall and a kind of job to what is sent: the snapshot's bytes, the spec, and the key that finds both again."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.contracts import JobSpec
from trainer.model.whole_network import Draw, boxes, drawn_anew
from trainer.pool.job_template import JobTemplate
from trainer.pool.messages import JobKind, Stall
from trainer.pool.portfolio import Variation
from trainer.snapshots.capture import Parcel


@dataclass(frozen=True, eq=False)
class Packed:
    """A job that is ready to be sent, the `number`-th of its stall, and its snapshot's bytes."""

    kind: JobKind
    number: int
    parcel: Parcel
    spec: JobSpec
    data: bytes


def pack(template: JobTemplate, stall: Stall, kind: JobKind, number: int, most_s: float) -> Packed:
    """Make the job of one kind, the `number`-th of its stall; after training it may take `most_s` seconds."""
    parcel = _parcel(template, stall, kind, number)
    goal = template.goal(parcel.snapshot)
    spec = template.spec(
        parcel,
        kind.objective(goal) if isinstance(kind, Variation) else goal,
        stall=stall.number,
        draw=number,
        step=stall.gd_step,
        age_s=most_s if stall.last else stall.age_s,  # after training nothing is early any more
        share=share_of(kind),
    )
    return Packed(kind, number, parcel, spec, parcel.snapshot.to_bytes())


def _parcel(template: JobTemplate, stall: Stall, kind: JobKind, number: int) -> Parcel:
    captured, note = stall.captured, {"run": template.run, "stall": stall.number}
    generator = np.random.default_rng([template.seed, stall.number, 2, number])
    if isinstance(kind, Variation):
        radius = stall.radius * kind.radius
        if kind.redraw:
            captured = captured.with_samples(captured.snapshot.samples, generator)
        tail = template.tail_radius
        return captured.pack(
            radius,
            note,
            bias_radius=stall.view.bias_radius(radius),
            tail_radius=radius if tail is None else tail,
        )
    if kind.anew:
        captured = captured.with_snapshot(drawn_anew(captured.snapshot, generator))
    return captured.pack_whole(boxes(captured.snapshot, kind.width), note)


def share_of(kind: JobKind) -> float:
    """The part of a job's time that one of this kind gets."""
    return kind.share if isinstance(kind, Draw) else 1.0


def key_of(data: bytes, specs: Sequence[JobSpec]) -> str:
    """The same jobs have the same idempotency key: a run that was killed and resumed finds what it had sent."""
    return hashlib.sha256(data + "".join(spec.model_dump_json() for spec in specs).encode()).hexdigest()

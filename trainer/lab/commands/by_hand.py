"""Jobs posted and followed by hand: from files and options to a spec, and from a job to words."""

import string
from pathlib import Path
from typing import Any

import pydantic
from rich.console import Console
from rich.text import Text

from shared.contracts import JobEvent, JobSpec, JobStatus, State
from shared.plain import plain
from shared.snapshot import Snapshot
from trainer.errors import ResultUnavailableError, TaskError
from trainer.pool.client import SolverClient

LAST = "last"
ID_DIGITS = 32
SOLVER = "solver"
"""The source of `log` events that carry the solver's own log."""
MOST_LISTED = 200
"""Of the newest jobs; as many as a pool lists at once."""


def job_spec(data: bytes, file: Path | None, *, time_s: float | None, **given: Any) -> JobSpec:
    """The job spec from a file, the options, and the snapshot's note, in rising order of modesty."""
    snapshot = Snapshot.from_bytes(data)
    fields: dict[str, Any] = {}
    if snapshot.radius is None:
        fields = {name: snapshot.note[name] for name in ("objective", "radius") if snapshot.note.get(name) is not None}
    try:
        if file is not None:
            fields = JobSpec.model_validate_json(read_bytes(file)).model_dump(exclude_unset=True, mode="json")
        fields |= {name: value for name, value in given.items() if value is not None}
        if time_s is not None:
            fields["limits"] = {**fields.get("limits", {}), "time_s": time_s}
        spec = JobSpec.model_validate(fields)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "spec"
        if not file and field == "objective" and first["type"] == "missing":
            raise TaskError(
                "the snapshot's note names none; give --objective and --radius", field="--objective"
            ) from error
        option = "--time" if field == "limits.time_s" else f"--{field}"
        raise TaskError(f"{first['msg']}", field=f"--spec {file}: {field}" if file else option) from error
    spec.check(snapshot)
    return spec


def follow(
    client: SolverClient, job_id: str, result: Path | None, *, out: Console, err: Console, log: bool = False
) -> JobStatus:
    """Show a job's progress until it has ended; then its result, and write the weights if asked to.

    With `log` the solver's own log is shown as well.
    """
    with err.status(Text(plain(f"{job_id}: waiting"))):
        for event in client.events(job_id):
            if event.data.get("source") == SOLVER:
                if log:
                    err.out(plain(str(event.data["message"]), keep="\n\t"), end="", highlight=False)
            elif line := _told(event):
                err.print(plain(line))
    job = client.wait(job_id)
    if job.result is None:
        why = f": {job.error.detail}" if job.error else ""
        raise ResultUnavailableError(f"job {job_id} {job.state}{why}")
    report = job.result.objective
    said = (
        f"{job.state}, {job.result.status}: {report.name} {report.start:.6g} -> {report.final:.6g}, "
        f"bound {report.bound:.6g}, {job.result.timings.total_s:.2f} s"
    )
    out.print(plain(said))
    if result is not None:
        result.write_bytes(client.result(job_id).data)
        out.print(plain(f"written: {result}"))
    return job


def whole_id(client: SolverClient, given: str) -> str:
    """A job's id from its first or last characters, or `last`, among the newest jobs; TaskError unless one fits.

    Ids of one hour begin alike, and end differently.
    """
    wanted = given.strip().lower()
    if len(wanted) == ID_DIGITS and set(wanted) <= set(string.hexdigits):
        return wanted  # also of a job that is too old for the list
    listed = [job.id for job in client.jobs(limit=MOST_LISTED)]
    if wanted == LAST and listed:
        return listed[0]
    found = [job for job in listed if wanted and (job.startswith(wanted) or job.endswith(wanted))]
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        words = f"{len(found)} jobs begin or end with {given!r}: {some}; give more of it, or the end"
        raise TaskError(words, field="ID")
    nothing = f"none of the newest {len(listed)} jobs begins or ends with {given!r}; `gdsolver jobs` lists them"
    raise TaskError(nothing, field="ID")


def _told(event: JobEvent) -> str:
    """An event in words; nothing for the last one, which the result tells."""
    data = event.data
    if event.kind == "incumbent":
        return f"{data['t_s']:7.1f} s  objective {data['objective']:.6g}  bound {data['bound']:.6g}"
    if event.kind == "log":
        return str(data["message"])
    if data["state"] == "running":
        return f"attempt {data['attempt']} at {data['worker']}"
    return "" if State(data["state"]).terminal else str(data["state"])


def row(job: JobStatus) -> list[str]:
    """A job as a row of the listing."""
    goal = job.result.objective if job.result else None
    figures = [f"{value:.6g}" for value in (goal.start, goal.final, goal.bound)] if goal else ["", "", ""]
    return [plain(cell) for cell in (job.id, str(job.state), job.run or "", job.spec.objective, *figures)]


def read_bytes(path: Path) -> bytes:
    """A file's bytes; TaskError names it when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise TaskError(f"cannot be read: {error.strerror}", field=str(path)) from error

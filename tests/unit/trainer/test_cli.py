"""The command line: help with examples, mistakes in one line, and commands that do what they say."""

import contextlib
import json
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from shared.plain import plain
from shared.snapshot import Snapshot
from tests.unit.trainer.fakes import FakePool, least_squares
from trainer.lab import cli
from trainer.lab.commands import surroundings
from trainer.pool.client import SolverClient

GATEWAY = ["--gateway", "http://pool.test"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> FakePool:
    """A fake pool in the place of the one at http://pool.test."""
    fake = FakePool(least_squares)

    def connect(url: str, api_key: str | None = None, **options: Any) -> SolverClient:
        return SolverClient(url, api_key, transport=fake, retries=1, sleep=lambda _: None)

    monkeypatch.setattr(surroundings, "SolverClient", connect)
    for name in ("GDSOLVER_GATEWAY", "GDSOLVER_API_KEY", "GDSOLVER_DATA"):
        monkeypatch.delenv(name, raising=False)
    return fake


@pytest.fixture
def snapshot_file(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    snapshot = Snapshot(
        task="classification",
        inputs=generator.random((6, 4), np.float32),
        targets=np.arange(6) % 3,
        weight=generator.random((3, 4), np.float32),
        bias=np.zeros(3, np.float32),
        note={"objective": "ramp", "radius": 0.25},
    )
    file = tmp_path / "stall.safetensors"
    file.write_bytes(snapshot.to_bytes())
    return file


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize("command", ["train", "compare", "submit", "jobs", "watch", "cancel"])
def test_every_command_s_help_has_an_example(command: str) -> None:
    """--help explains, shows an example, and names the pool options."""
    code, said = call(command, "--help")
    assert code == 0
    assert f"gdsolver {command}" in said
    assert "--gateway" in said
    assert ("--local" in said) is (command in ("train", "compare", "submit"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "nothing", "--method", "adam"], "TASK: there is no task 'nothing'"),
        (["train", "digits"], "--gateway: name a pool's address, or start one of your own with --local"),
        (["train", "digits", "--method", "magic"], "--methods: there is no method 'magic'"),
        (["train", "digits", "--method", "adam", "--epochs", "0"], "--epochs"),
        (["compare", "digits", "--fraction", "7", *GATEWAY], "--fraction"),
        (["train", "csv:missing.csv", "--method", "adam"], "csv:missing.csv: no such file"),
        (["train", "digits", "--method", "adam", "--hidden", "16;8"], "--hidden: '16;8' is not a list of widths"),
        (["train", "digits", "--method", "adam", "--model", "nowhere:f"], "--model: there is no module 'nowhere'"),
        (["train", "digits", "--method", "adam", "--drop", "x"], "TASK: digits is no table"),
        (["explain", "nowhere:f"], "MODULE:FACTORY: there is no module 'nowhere'"),
        (["submit", "missing.safetensors", *GATEWAY], "missing.safetensors: cannot be read"),
        (["watch", "job-9", *GATEWAY], "ID: none of the newest 0 jobs begins or ends with 'job-9'"),
        (["cancel", "01a20ac72ceb75967d3b0c8e21f4d9aa", *GATEWAY], "no such thing"),
        (["train", "digits", "--method", "adam", "--resume"], "--resume: name the folder of the run"),
        (["jobs", "--gateway", "http://[::1"], "http://gateway:8000"),
        (["jobs", "--api-key", "a\nb", *GATEWAY], "--api-key"),
    ],
)
def test_mistakes_are_one_clear_line(pool: FakePool, arguments: list[str], named: str) -> None:
    """Wrong input ends with exit code 2 and one line that names the field and the cure."""
    code, said = call(*arguments)
    assert code == 2
    assert named in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1


def test_jobs_by_hand_go_to_this_machines_pool(pool: FakePool, snapshot_file: Path) -> None:
    """Without --gateway `submit` asks the same pool as `jobs`, `watch` and `cancel` do."""
    for arguments in (["submit", snapshot_file, "--objective", "ramp", "--radius", "0.1"], ["jobs"]):
        code, said = call(*arguments)
        assert code == 0, said
    assert {request.url.port for request in pool.requests} == {8000}


def test_train_reports_and_writes(pool: FakePool, tmp_path: Path) -> None:
    """A run prints its table, the weights' hash and the adoptions, and writes JSON and plots."""
    code, said = call("train", "digits", "--epochs", "6", "--out", tmp_path, "--json", tmp_path / "r.json", *GATEWAY)
    assert code == 0, said
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["runs"][0]["weights_sha256"] in said
    assert "adopted" in said
    assert (tmp_path / "timeline.png").exists()


def test_a_lost_pool_is_the_last_word_and_no_failure(pool: FakePool, tmp_path: Path) -> None:
    """Training ends normally with exit code 0, and says that the pool was lost."""
    pool.down = True
    code, said = call("train", "digits", "--epochs", "6", "--out", tmp_path, *GATEWAY)
    assert code == 0, said
    assert said.strip().splitlines()[-1] == "the pool was lost"


def test_a_key_that_opens_nothing_is_told_before_the_training(pool: FakePool, tmp_path: Path) -> None:
    """The gateway's own words, and exit code 1; nothing was trained for it."""
    problem = {"type": "x", "title": "x", "status": 401, "code": "unauthorized", "detail": "this API key is not valid"}
    pool.script = [httpx.Response(200), httpx.Response(401, json=problem)]
    code, said = call("train", "digits", "--epochs", "6", "--out", tmp_path, *GATEWAY)
    assert code == 1
    assert "this API key is not valid" in said
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize("where", [[], ["--out", "there/and/there"]])
def test_what_never_began_leaves_no_folder(
    pool: FakePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, where: list[str]
) -> None:
    """Neither the run's own nor those above it; a folder that was there stays."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    code, said = call(command, "digits", *where)
    assert code == 2, said
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_compare_runs_every_method_and_seed(pool: FakePool, tmp_path: Path) -> None:
    """Methods times seeds runs are made and summed up; without a hybrid no pool is needed."""
    code, said = call(
        "compare", "digits", "--methods", "sgd,adam", "--seeds", "2", "--epochs", "2", "--out", tmp_path
    )  # fmt: skip
    assert code == 0, said
    content = json.loads((tmp_path / "report.json").read_text())
    assert [(run["method"], run["seed"]) for run in content["runs"]] == [
        ("sgd", 0),
        ("sgd", 1),
        ("adam", 0),
        ("adam", 1),
    ]
    assert content["command"]["methods"] == ["sgd", "adam"]
    assert pool.requests == []


def test_submit_takes_what_the_snapshot_notes(pool: FakePool, snapshot_file: Path, tmp_path: Path) -> None:
    """Objective and radius come from the snapshot's note unless options say otherwise; the weights are written."""
    better = tmp_path / "better.safetensors"
    code, said = call("submit", snapshot_file, "--time", "3", "--result", better, *GATEWAY)
    assert code == 0, said
    assert (pool.specs[0].objective, pool.specs[0].radius, pool.specs[0].limits.time_s) == ("ramp", 0.25, 3.0)
    assert "job-1" in said
    assert better.stat().st_size > 0
    call("submit", snapshot_file, "--objective", "hinge", "--radius", "0.5", *GATEWAY)
    assert (pool.specs[1].objective, pool.specs[1].radius) == ("hinge", 0.5)


def test_submit_reads_a_spec_file(pool: FakePool, snapshot_file: Path, tmp_path: Path) -> None:
    """A spec file is taken as it is, options replace parts of it, and a mistake in it is named."""
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"objective": "zero_one", "radius": 0.1, "solver": {"seed": 4}}))
    code, said = call("submit", snapshot_file, "--spec", spec, "--time", "2", *GATEWAY)
    assert code == 0, said
    assert (pool.specs[0].objective, pool.specs[0].solver.seed, pool.specs[0].limits.time_s) == ("zero_one", 4, 2.0)
    spec.write_text(json.dumps({"objective": "best", "radius": 0.1}))
    code, said = call("submit", snapshot_file, "--spec", spec, *GATEWAY)
    assert code == 2
    assert "objective" in said


def test_an_objective_that_does_not_fit_is_refused_before_posting(pool: FakePool, snapshot_file: Path) -> None:
    """A regression objective on a classification snapshot is named without asking the pool to solve."""
    code, said = call("submit", snapshot_file, "--objective", "mae", *GATEWAY)
    assert code == 2
    assert "does not fit" in said
    assert pool.specs == []


def test_jobs_watch_and_cancel(pool: FakePool, snapshot_file: Path, tmp_path: Path) -> None:
    """A job can be listed, followed to its end, and cancelled; --json holds what was printed."""
    call("submit", snapshot_file, *GATEWAY)
    assert "job-1" in call("jobs", *GATEWAY, "--json", tmp_path / "jobs.json")[1]
    assert json.loads((tmp_path / "jobs.json").read_text())["jobs"][0]["id"] == "job-1"
    said = call("watch", "job-1", *GATEWAY)[1]
    assert "ramp 2 -> 1" in said
    assert "0.1 s  start" not in said
    assert "0.1 s  start\n" in call("watch", "job-1", "--log", *GATEWAY)[1]
    code, _ = call("cancel", "job-1", *GATEWAY)
    assert code == 0
    assert pool.cancelled == ["job-1"]


def test_the_first_characters_of_an_id_will_do(pool: FakePool, snapshot_file: Path) -> None:
    """A prefix that fits one job stands for it; one that fits several is answered with them."""
    for run in ("a", "b"):
        call("submit", snapshot_file, "--run", run, *GATEWAY)
    call("cancel", "JOB-2", *GATEWAY)
    assert pool.cancelled == ["job-2"]
    code, said = call("watch", "job", *GATEWAY)
    assert code == 2
    assert "ID: 2 jobs begin or end with 'job': job-2, job-1; give more of it, or the end" in said


def test_the_end_of_an_id_will_do_and_last_is_the_newest(pool: FakePool, snapshot_file: Path) -> None:
    """Ids of one hour begin alike; what tells them apart is their end."""
    for run in ("a", "b"):
        call("submit", snapshot_file, "--run", run, *GATEWAY)
    call("cancel", "b-1", *GATEWAY)
    call("cancel", "last", *GATEWAY)
    assert pool.cancelled == ["job-1", "job-2"]


NAMES = ["run[fold 1]", "[/b]exp", "[bold]x", "a\x1b[31m\u202e\rb"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are_and_nothing_of_them_is_obeyed(
    pool: FakePool, snapshot_file: Path, name: str
) -> None:
    """Brackets are no markup, and control characters do not reach the terminal."""
    call("submit", snapshot_file, *GATEWAY)
    record = pool.client().job("job-1").model_dump(mode="json")
    listed = json.dumps({"jobs": [record | {"run": name}]})
    ready = [httpx.Response(200), httpx.Response(200, json={"jobs": []})]
    pool.script = [*ready, httpx.Response(200, text=listed)]
    code, said = call("jobs", *GATEWAY)
    assert code == 0
    assert plain(name) in said
    assert all(letter.isprintable() or letter == "\n" for letter in said)

    told = [("state", {"state": "running", "attempt": 1, "worker": name}), ("log", {"message": name, "t_s": 0.1})]
    told += [("log", {"message": f"{name}\tx\n", "source": "solver"}), ("state", {"state": "failed"})]
    stream = "".join(f"event: {kind}\ndata: {json.dumps(data)}\n\n" for kind, data in told)
    failed = json.dumps(record | {"state": "failed", "result": None, "error": {"code": "internal", "detail": name}})
    pool.script = [*ready, httpx.Response(200, json={"jobs": [record]}), httpx.Response(200, text=stream)]
    pool.script += [httpx.Response(200, text=failed)]
    code, said = call("watch", "job-1", "--log", *GATEWAY)
    assert code == 1
    assert said.count(plain(name)) == 4
    assert all(letter.isprintable() or letter in "\n\t" for letter in said)


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_table_s_name_is_shown_as_it_is(tmp_path: Path, name: str) -> None:
    """In the title of its results, and where these were written."""
    file = tmp_path / f"{name.replace('/', '')}.csv"
    file.write_text("\n".join(["a,y", *(f"{i},{3 * i}" for i in range(60))]))
    table = [f"csv:{file}", "--target", "y", "--kind", "regression", "--method", "sgd", "--epochs", "1"]
    code, said = call("train", *table, "--out", tmp_path / "[/out]")
    assert code == 0, said
    assert file.name in said
    assert "[/out]" in said


@pytest.mark.parametrize("name", NAMES)
def test_a_refusal_s_words_are_shown_as_they_are(pool: FakePool, name: str) -> None:
    """They may be anybody's who answers at that address."""
    problem = {"type": "x", "title": "x", "status": 401, "code": "unauthorized", "detail": name}
    pool.script = [httpx.Response(200), httpx.Response(401, json=problem)]
    code, said = call("jobs", *GATEWAY)
    assert code == 1
    assert plain(name) in said
    assert len(said.strip().splitlines()) == 1
    assert all(letter.isprintable() or letter == "\n" for letter in said)


@pytest.mark.parametrize("place", ["folder", "under a file", "long"])
@pytest.mark.parametrize(
    ("option", "command"),
    [
        ("--result", ["submit", "FILE"]),
        ("--json", ["submit", "FILE"]),
        ("--result", ["watch", "last"]),
        ("--json", ["watch", "last"]),
        ("--json", ["cancel", "last"]),
        ("--json", ["jobs"]),
        ("--json", ["train", "digits", "--epochs", "1"]),
        ("--log", ["train", "digits", "--epochs", "1"]),
        ("--json", ["explain", "models:net", "--inputs", "3", "--outputs", "2"]),
        ("--out", ["train", "digits", "--epochs", "1"]),
        ("--out", ["demo"]),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(
    pool: FakePool, snapshot_file: Path, tmp_path: Path, models: None, option: str, command: list[str], place: str
) -> None:
    """A folder in the place of a file, or a file in that of a folder: the option is named, and nothing was asked."""
    (tmp_path / "file").write_text("")
    places = {"folder": tmp_path, "under a file": tmp_path / "file" / "x" / "y", "long": tmp_path / ("x" * 300)}
    wrong = tmp_path / "file" if option == "--out" and place == "folder" else places[place]
    words = [str(snapshot_file) if word == "FILE" else word for word in command]
    pooled = [] if command[0] in ("explain", "demo") else GATEWAY
    code, said = call(*words, option, wrong, *pooled)
    assert code == 2
    assert said.startswith(f"gdsolver: {option}: ")
    assert len(said.strip().splitlines()) == 1
    assert pool.requests == []


def test_a_result_may_go_into_a_folder_that_is_not_there_yet(
    pool: FakePool, snapshot_file: Path, tmp_path: Path
) -> None:
    """As JSON may."""
    better, told = tmp_path / "new" / "better.safetensors", tmp_path / "other" / "job.json"
    code, said = call("submit", snapshot_file, "--result", better, "--json", told, *GATEWAY)
    assert code == 0, said
    assert better.stat().st_size > 0
    assert told.exists()


@pytest.mark.parametrize("option", ["--run", "--state"])
def test_bytes_that_are_no_text_are_named_with_their_option(pool: FakePool, option: str) -> None:
    """The terminal's encoding is not the one that was meant."""
    code, said = call("jobs", option, "a\udcff", *GATEWAY)
    assert code == 2
    assert option in said
    assert "UTF-8" in said
    assert pool.requests == []


def test_the_version_is_told() -> None:
    """--version names the program and its version."""
    code, said = call("--version")
    assert code == 0
    assert said.split()[0] == "gdsolver"
    assert said.split()[1][0].isdigit()


def test_events_are_logged_as_lines(pool: FakePool, tmp_path: Path) -> None:
    """--log holds every event of the report, each in a line of its own that says which run it is of."""
    log = tmp_path / "logs" / "events.jsonl"
    code, said = call("train", "digits", "--epochs", "6", "--out", tmp_path, "--log", log, *GATEWAY)
    assert code == 0, said
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = json.loads((tmp_path / "report.json").read_text())["runs"][0]["events"]
    assert [line["kind"] for line in lines] == [event["kind"] for event in told]
    assert all(line["method"] == "hybrid" and line["seed"] == 0 for line in lines)


def test_a_pool_that_is_gone_is_a_failure_for_a_question(pool: FakePool) -> None:
    """Asking a pool that does not answer ends with exit code 1 and its address."""
    pool.down = True
    code, said = call("jobs", *GATEWAY)
    assert code == 1
    assert "http://pool.test" in said


def test_numbers_of_an_objective_are_options(pool: FakePool, tmp_path: Path) -> None:
    """`--quantile` and its like reach the spec; one out of range is named."""
    generator = np.random.default_rng(0)
    snapshot = Snapshot(
        task="regression",
        inputs=generator.random((6, 4), np.float32),
        targets=generator.random((6, 1), np.float32),
        weight=generator.random((1, 4), np.float32),
    )
    file, written = tmp_path / "line.safetensors", tmp_path / "job.json"
    file.write_bytes(snapshot.to_bytes())
    options = ["--objective", "quantile", "--radius", 1, *GATEWAY]
    code, _ = call("submit", file, *options, "--quantile", 0.9, "--json", written)
    assert code == 0
    assert json.loads(written.read_text())["spec"]["quantile"] == 0.9
    code, output = call("submit", file, *options, "--quantile", 2)
    assert code != 0
    assert "--quantile" in output


def test_a_table_and_a_model_of_one_s_own_are_compared(pool: FakePool, tmp_path: Path, models: None) -> None:
    """The options for tables, models and widths reach the task, and the report tells them."""
    rows = [f"{i};{(7 * i) % 11},5;{2 * i},5;{'x' * (i % 3)};{1 + i % 2}" for i in range(90)]
    (tmp_path / "table.csv").write_text("\n".join(["a;b;y;note;w", *rows]), encoding="utf-16")
    table = [f"csv:{tmp_path}/table.csv", "--target", "y", "--kind", "regression", "--drop", "note", "--weights", "w"]
    table += ["--separator", ";", "--decimal", ",", "--encoding", "utf-16", "--words", "b"]
    for options in (["--model", "models:net"], ["--hidden", "5,4"]):
        code, said = call(
            "compare", *table, *options, "--methods", "adam,lbfgs", "--seeds", 1, "--epochs", 2, "--out", tmp_path
        )
        assert code == 0, said
    command = json.loads((tmp_path / "report.json").read_text())["command"]
    wanted = {"drop": ["note"], "words": ["b"], "weights": "w", "decimal": ",", "hidden": "5,4", "kind": "regression"}
    assert {name: command[name] for name in wanted} == wanted
    assert "api_key" not in command


# --- explain ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `models` of factories."""

    def tied() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "body": nn.Linear(4, 4), "head": nn.Linear(4, 5)})
        model["head"].weight = model["embedding"].weight
        return model, torch.optim.Adam(model["head"].parameters())

    module = types.ModuleType("models")
    module.net = nn.Linear  # type: ignore[attr-defined]
    module.tied = tied  # type: ignore[attr-defined]
    module.nothing = lambda: "a model"  # type: ignore[attr-defined]
    module.empty = nn.ReLU  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "models", module)


def test_explain_shows_every_layer(models: None, tmp_path: Path) -> None:
    """Which can be tunnelled, and why the others cannot: by their own nature, and by the optimizer's."""
    code, said = call("explain", "models:tied", "--json", tmp_path / "layers.json")
    assert code == 0, said
    layers = {layer["name"]: layer for layer in json.loads((tmp_path / "layers.json").read_text())["layers"]}
    assert list(layers) == ["embedding", "body", "head"]
    assert "only nn.Linear" in layers["embedding"]["why"]
    assert "optimizer does not hold its weight" in layers["body"]["why"]
    assert "tied to embedding.weight" in layers["head"]["why"]
    assert "0 of 3 layers can be tunnelled" in said


def test_explain_without_an_optimizer_takes_every_parameter_as_held(models: None) -> None:
    """A factory of (inputs, outputs) is called with the numbers given."""
    code, said = call("explain", "models:net", "--inputs", 3, "--outputs", 2)
    assert code == 0, said
    assert "1 of 1 layers can be tunnelled" in said
    assert "(model)" in said


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("models:net", "--inputs and --outputs"),
        ("models:nothing", "returned str; it has to return a torch.nn.Module"),
        ("models:empty", "has no parameters"),
        ("models", "not of the form package.module:factory"),
    ],
)
def test_explain_names_what_it_cannot_use(models: None, name: str, named: str) -> None:
    """One line with the cure, and exit code 2."""
    code, said = call("explain", name)
    assert code == 2
    assert named in said
    assert len(said.strip().splitlines()) == 1


def test_help_and_jobs_do_without_torch() -> None:
    """The command's own modules load torch only where they train or look at a model."""
    code = "import sys; from trainer.lab import cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("local", "words"), [(True, "has ended with its jobs"), (False, "a job that was posted goes on")]
)
def test_an_interrupt_says_what_becomes_of_jobs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, local: bool, words: str
) -> None:
    """Those of a pool that the command has started end with it; another pool's go on."""
    monkeypatch.setattr(surroundings, "embedded_pool", lambda *_: contextlib.nullcontext("http://pool.test"))
    gateway = None if local else "http://pool.test"
    with (
        pytest.raises(typer.Exit) as ended,
        surroundings.clear_words(),
        surroundings.pool_client(gateway, None, local=local, workers=1, folder=tmp_path, needed=True),
    ):
        raise KeyboardInterrupt
    assert ended.value.exit_code == 130
    assert words in capsys.readouterr().err.replace("\n", " ")

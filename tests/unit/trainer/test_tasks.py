"""The tasks: parts that share nothing, data that is what it says, and mistakes named clearly."""

import gzip
import itertools
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from trainer.errors import TaskError
from trainer.lab.tasks import Reading, Request, Task, load_task
from trainer.lab.tasks.synthetic import FUNCTIONS

PARTS = ("train", "selection", "validation", "test")


def rows(task: Task) -> dict[str, set[bytes]]:
    return {part: {row.numpy().tobytes() for row in getattr(task, part).inputs} for part in PARTS}


@pytest.mark.parametrize("name", ["digits", "identity", "formula"])
def test_the_parts_share_no_sample(name: str) -> None:
    """Training, selection, validation and test are disjoint."""
    found = rows(load_task(Request(name), seed=0))
    assert all(found[a].isdisjoint(found[b]) for a, b in itertools.combinations(PARTS, 2))


def test_the_seed_alone_decides_the_parts() -> None:
    """Same seed, same parts, whatever the global random state; another seed, other parts."""
    torch.manual_seed(1)
    first = load_task(Request("digits"), seed=3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = load_task(Request("digits"), seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert not torch.equal(first.test.inputs, load_task(Request("digits"), seed=4).test.inputs)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_paper_s_regressions_have_its_shapes(name: str) -> None:
    """Three inputs in [0, 1], two outputs, a 3-2-2 network."""
    task = load_task(Request(name), seed=0)
    assert task.train.inputs.shape == (1000, 3)
    assert task.train.targets.shape == (1000, 2)
    assert [tuple(p.shape) for p in task.model().parameters()] == [(2, 3), (2,), (2, 2), (2,)]


def test_the_polynomial_is_the_paper_s() -> None:
    """3 x^4 + 6 x^3 + 2 x^2 + x + 9, from 9 at 0 to 21 at 1."""
    ends = FUNCTIONS["polynomial"](torch.tensor([0.0, 1.0]))
    assert ends.tolist() == [9.0, 21.0]


def test_a_fraction_takes_training_samples_only() -> None:
    """The other parts stay whole, so that results stay comparable."""
    whole, tenth = load_task(Request("digits"), 0), load_task(Request("digits", fraction=0.1), 0)
    assert len(tenth.train) == round(0.1 * len(whole.train))
    assert rows(tenth)["train"] < rows(whole)["train"]
    assert torch.equal(tenth.test.inputs, whole.test.inputs)


def test_a_long_tail_thins_out_the_training_part_alone() -> None:
    """Classes shrink geometrically down to the ratio; the other parts, and a ratio of 1 beside balance, stay."""
    plain, tailed = load_task(Request("digits"), 0), load_task(Request("digits", long_tailed=10), 0)
    sizes = torch.bincount(tailed.train.targets, minlength=10)
    least = int(torch.bincount(plain.train.targets).min())
    assert sizes.tolist() == [round(least * 10 ** (-number / 9)) for number in range(10)]
    assert torch.equal(plain.validation.targets, tailed.validation.targets)
    assert {row.numpy().tobytes() for row in tailed.train.inputs} <= rows(plain)["train"]


def test_label_noise_spares_the_test_part() -> None:
    """About the share asked for is wrong, always another class, and never in the test part."""
    clean, noisy = load_task(Request("digits"), 0), load_task(Request("digits", label_noise=0.3), 0)
    for part in ("train", "selection", "validation"):
        wrong = (getattr(clean, part).targets != getattr(noisy, part).targets).double().mean().item()
        assert wrong == pytest.approx(0.3, abs=0.08)
    assert torch.equal(clean.test.targets, noisy.test.targets)


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (Request("nothing"), "TASK.*digits"),
        (Request("digits", fraction=0), "--fraction"),
        (Request("digits", fraction=1.5), "--fraction"),
        (Request("digits", label_noise=1), "--label-noise"),
        (Request("digits", long_tailed=0.5), "--long-tailed"),
        (Request("identity", long_tailed=10), "--long-tailed.*regression"),
        (Request("identity", label_noise=0.1), "--label-noise.*regression"),
        (Request("csv:/does/not/exist.csv"), "no such file"),
    ],
)
def test_mistakes_are_named(request_: Request, named: str) -> None:
    """A wrong option is one line that names it and the cure."""
    with pytest.raises(TaskError, match=named):
        load_task(request_, 0)


# --- image files ------------------------------------------------------------------------------------------------------


def write_idx(folder: Path, name: str, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">i", size) for size in array.shape)
    (folder / name).write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def test_official_image_files_are_read_from_a_folder(tmp_path: Path) -> None:
    """The four idx files are read as they are; the official test part stays the test part."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for stem, count in (("train", 100), ("t10k", 20)):
        write_idx(folder, f"{stem}-images-idx3-ubyte.gz", generator.integers(0, 256, (count, 28, 28)))
        write_idx(folder, f"{stem}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    task = load_task(Request("mnist", data_dir=tmp_path), 0)
    assert [len(getattr(task, part)) for part in PARTS] == [90, 5, 5, 20]
    assert task.train.inputs.max().item() <= 1
    assert task.test.targets.tolist() == [i % 10 for i in range(20)]
    assert task.model()(task.test.inputs).shape == (20, 10)


def test_a_missing_image_file_is_named(tmp_path: Path) -> None:
    """The error names the file that is looked for."""
    with pytest.raises(TaskError, match=r"train-images-idx3-ubyte.gz is missing"):
        load_task(Request("fashion-mnist", data_dir=tmp_path), 0)


def test_a_broken_image_file_is_named(tmp_path: Path) -> None:
    """A cut-off file is one clear error."""
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03\0\0"))
    with pytest.raises(TaskError, match="not a complete idx file"):
        load_task(Request("mnist", data_dir=tmp_path), 0)


# --- UCI folders ------------------------------------------------------------------------------------------------------


def write_uci(folder: Path) -> None:
    """60 rows in the layout in which papers share these: y = 2 a - b, between two inputs."""
    generator = np.random.default_rng(0)
    inputs = generator.random((60, 2))
    folder.mkdir(parents=True)
    rows = [f"{a:.6f} \t{2 * a - b:.6f}  {b:.6f}" for a, b in inputs]
    (folder / "data.txt").write_text("\n".join(rows) + "\n")
    (folder / "index_features.txt").write_text("0\n2\n")
    (folder / "index_target.txt").write_text("1")


def test_a_uci_folder_is_a_regression(tmp_path: Path) -> None:
    """Inputs and target by the folder's own index files, standardised by the training rows."""
    write_uci(tmp_path / "uci" / "sums")
    task = load_task(Request("uci:sums", data_dir=tmp_path), 0)
    assert (task.name, task.metric) == ("uci:sums", "mse")
    assert [len(getattr(task, part)) for part in PARTS] == [34, 7, 7, 12]
    assert task.train.inputs.mean(dim=0).tolist() == pytest.approx([0, 0], abs=1e-6)
    fitted = torch.linalg.lstsq(task.train.inputs, task.train.targets).solution
    assert torch.allclose(task.test.inputs @ fitted, task.test.targets, atol=0.1)
    half = load_task(Request("uci:sums", data_dir=tmp_path, fraction=0.5), 0)
    assert half.train.inputs.mean(dim=0).tolist() == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "uci:other"}, "there are: sums"),
        ({"data_dir": None}, "set GDSOLVER_DATA"),
        ({"file": "index_target.txt", "text": "7"}, "columns that data.txt does not have"),
        ({"file": "data.txt", "text": "1 2\n3"}, "not a table of numbers"),
        ({"file": "data.txt", "text": "1 2 nan"}, "not finite"),
    ],
)
def test_what_is_wrong_with_a_uci_folder_is_named(tmp_path: Path, change: dict[str, str | None], named: str) -> None:
    """A missing folder, a broken file or a wrong index is one clear error."""
    write_uci(tmp_path / "uci" / "sums")
    if "file" in change:
        (tmp_path / "uci" / "sums" / str(change["file"])).write_text(str(change["text"]))
    data_dir = None if "data_dir" in change else tmp_path
    with pytest.raises(TaskError, match=named):
        load_task(Request(change.get("name") or "uci:sums", data_dir=data_dir), 0)


# --- other models -----------------------------------------------------------------------------------------------------


def test_widths_of_the_hidden_layers_can_be_chosen() -> None:
    """`hidden` makes a ReLU network of these widths for the task's inputs and outputs."""
    model = load_task(Request("digits", hidden=(16, 8)), 0).model()
    assert [tuple(part.shape) for part in model.parameters() if part.dim() == 2] == [(16, 64), (8, 16), (10, 8)]


SHARED = nn.Linear(64, 10)
FACTORIES = {
    "fitting": lambda inputs, outputs: nn.Sequential(nn.Linear(inputs, 5), nn.ReLU(), nn.Linear(5, outputs)),
    "without_arguments": lambda: nn.Linear(64, 10),
    "the_same": lambda: SHARED,
    "nothing": lambda: None,
    "a_pair": lambda: (nn.Linear(64, 10), "optimizer"),
    "too_narrow": lambda: nn.Linear(64, 3),
    "other_inputs": lambda: nn.Linear(5, 10),
    "demanding": lambda a, b, c: nn.Linear(64, 10),
    "broken": lambda: 1 / 0,
    "a_number": 3,
}


@pytest.fixture
def factories(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `models` with all of them."""
    module = types.ModuleType("models")
    vars(module).update(FACTORIES)
    monkeypatch.setitem(sys.modules, "models", module)


@pytest.mark.parametrize("name", ["fitting", "without_arguments"])
def test_a_model_of_one_s_own_takes_the_place_of_the_task_s(factories: None, name: str) -> None:
    """Its factory gets the numbers of inputs and outputs, or nothing; the global random state stays as it was."""
    state = torch.get_rng_state()
    task = load_task(Request("digits", model=f"models:{name}"), 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert task.model()(task.test.inputs).shape == (len(task.test), 10)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("models", "package.module:factory"),
        ("nowhere:model", "no module 'nowhere'"),
        ("models:missing", "models has no 'missing'"),
        ("models:a_number", "int, not a function"),
        ("models:nothing", "returned a NoneType"),
        ("models:a_pair", "returned a tuple of 2"),
        ("models:the_same", "the same model twice"),
        ("models:too_narrow", r"puts out a tensor \[2, 3\] for two samples, not \[2, 10\]"),
        ("models:other_inputs", r"cannot be applied to inputs \[2, 64\]"),
        ("models:demanding", r"called with \(inputs, outputs\) or no arguments; it takes \(a, b, c\)"),
        ("models:broken", "failed: ZeroDivisionError"),
    ],
)
def test_a_model_that_does_not_fit_is_named(factories: None, name: str, named: str) -> None:
    """Whatever the name leads to, the error says what came of it and what is wanted."""
    with pytest.raises(TaskError, match=f"--model: .*{named}"):
        load_task(Request("digits", model=name), 0)


def test_widths_and_models_that_exclude_each_other_are_named(tmp_path: Path, factories: None) -> None:
    """Both at once, a width of 0, options of tables for a task that is none."""
    for request, named in (
        (Request("digits", model="models:fitting", hidden=(3,)), "--hidden or --model"),
        (Request("digits", hidden=(3, 0)), "0 is no width"),
        (Request("digits", reading=Reading(drop=("x",))), "digits is no table"),
    ):
        with pytest.raises(TaskError, match=named):
            load_task(request, 0)

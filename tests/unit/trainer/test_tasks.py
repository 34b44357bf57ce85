"""The tasks: parts that share nothing, data that is what it says, and mistakes named clearly."""

import gzip
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.errors import TaskError
from trainer.lab.tasks import Request, Task, load_task
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
        (Request("identity", label_noise=0.1), "--label-noise.*regression"),
        (Request("csv:/does/not/exist.csv"), "no such file"),
    ],
)
def test_mistakes_are_named(request_: Request, named: str) -> None:
    """A wrong option is one line that names it and the cure."""
    with pytest.raises(TaskError, match=named):
        load_task(request_, 0)


# --- tables -----------------------------------------------------------------------------------------------------------


def write(path: Path, header: str, lines: list[str]) -> Request:
    file = path / "table.csv"
    file.write_text("\n".join([header, *lines]) + "\n")
    return Request(f"csv:{file}", target="y", kind="classification")


def test_a_table_of_numbers_and_words(tmp_path: Path) -> None:
    """Numbers are standardised by the training part, words one-hot encoded, the target's classes found."""
    lines = [f"{i},{'red' if i % 3 else 'blue'},{'yes' if i % 2 else 'no'}" for i in range(60)]
    task = load_task(write(tmp_path, "x,colour,y", lines), 0)
    assert task.kind == "classification"
    assert task.train.inputs.shape[1] == 3
    assert task.train.inputs[:, 0].mean().item() == pytest.approx(0, abs=1e-5)
    assert set(task.train.inputs[:, 1:].unique().tolist()) == {0.0, 1.0}
    assert set(task.train.targets.tolist()) == {0, 1}
    assert task.model()(task.test.inputs).shape == (len(task.test), 2)


def test_gaps_are_filled_from_the_training_part(tmp_path: Path) -> None:
    """A missing number becomes the training mean (0 after standardising), a missing word a word of its own."""
    lines = [f"{'' if i % 5 == 0 else i},{'?' if i % 4 == 0 else 'a'},{i % 2}" for i in range(60)]
    task = load_task(write(tmp_path, "x,w,y", lines), 0)
    everything = torch.cat([getattr(task, part).inputs for part in PARTS])
    assert everything.shape[1] == 3
    assert torch.isfinite(everything).all()
    assert (everything[:, 0] == 0).sum() == 12
    assert torch.equal(everything[:, 1:].sum(dim=1), torch.ones(60))


def test_a_regression_s_target_is_standardised(tmp_path: Path) -> None:
    """Regression targets are floats, of mean 0 and spread 1 on the training part."""
    request = write(tmp_path, "x,y", [f"{i},{3 * i + 100}" for i in range(80)])
    task = load_task(Request(request.name, target="y", kind="regression"), 0)
    assert task.metric == "mse"
    assert task.train.targets.shape[1] == 1
    assert task.train.targets.std().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("header", "line", "changes", "named"),
    [
        ("x,y", "{i},{i}", {"target": None}, "--target.*x, y"),
        ("x,y", "{i},{i}", {"target": "z"}, "no column 'z'.*x, y"),
        ("x,y", "{i},{i}", {"kind": None}, "--kind"),
        ("x,y", "{i},one", {"kind": "regression"}, "column 'y'.*'one' is not a number"),
        ("x,y", "{i},same", {}, "column 'y'.*1 different"),
        ("x,y", "{i},", {}, "column 'y'.*60 rows have no value"),
        ("x,x,y", "{i},1,a{i}", {}, "column 'x' is there 2 times"),
        ("x,y", "{i}", {}, "row 2 has 1 fields, the header 2"),
        ("y", "{i}", {"kind": "regression"}, "no column besides the target"),
        ("x,name,y", "{i},n{i}{i},{i}", {"kind": "regression"}, None),
    ],
)
def test_table_mistakes_name_the_column(
    tmp_path: Path, header: str, line: str, changes: dict[str, str | None], named: str | None
) -> None:
    """Whatever is wrong with a table, the error names column or row and the cure."""
    request = write(tmp_path, header, [line.format(i=i) for i in range(60)])
    request = Request(request.name, **({"target": "y", "kind": "classification"} | changes))  # type: ignore[arg-type]
    if named is None:
        assert load_task(request, 0).train.inputs.shape[1] > 1
        return
    with pytest.raises(TaskError, match=named):
        load_task(request, 0)


def test_a_text_column_of_identifiers_is_refused(tmp_path: Path) -> None:
    """Hundreds of different words are an identifier, not a feature."""
    with pytest.raises(TaskError, match=r"column 'name'.*remove the column"):
        load_task(write(tmp_path, "name,y", [f"n{i}x,{i % 2}" for i in range(400)]), 0)


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

"""CIFAR-10, Adult and California housing: read from their official files, and what is missing is named."""

from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.errors import TaskError
from trainer.lab.tasks import Request, load_task
from trainer.lab.tasks.cifar import FOLDER, RECORD, TEST_FILE, TRAIN_FILES
from trainer.lab.tasks.known_tables import adult, adult_sexes

ADULT = (
    "39, State-gov, 77516, Bachelors, 13, Never-married, {job}, Not-in-family, White, {sex}, 2174, 0, 40, Cuba, {label}"
)


def write_cifar(folder: Path, images: int = 20) -> None:
    (folder / FOLDER).mkdir(parents=True)
    generator = np.random.default_rng(0)
    for file in (*TRAIN_FILES, TEST_FILE):
        records = generator.integers(0, 256, (images, RECORD), dtype=np.uint8)
        records[:, 0] = np.arange(images) % 10
        records[:, 1] = 255  # the first red pixel
        records.tofile(folder / FOLDER / file)


def write_adult(folder: Path) -> None:
    (folder / "adult").mkdir(parents=True)
    rows = [
        ADULT.format(
            job="?" if i % 5 == 0 else "Sales", sex=("Male", "Female")[i % 2], label=("<=50K", ">50K")[i % 3 > 1]
        )
        for i in range(120)
    ]
    (folder / "adult" / "adult.data").write_text("\n".join(rows) + "\n\n")
    (folder / "adult" / "adult.test").write_text(
        "|1x3 Cross validator\n" + "\n".join(f"{row}." for row in rows[:30]) + "\n\n"
    )


@pytest.mark.parametrize(("name", "wide"), [("cifar10", 1024), ("cifar10-paper", 2523)])
def test_cifar_is_read_as_colour_images(tmp_path: Path, name: str, wide: int) -> None:
    """Labels come first, then red, green and blue; the test file is the test part, and a linear layer is the last."""
    write_cifar(tmp_path)
    task = load_task(Request(name, data_dir=tmp_path), 0)
    assert task.train.inputs.shape == (90, 3, 32, 32)
    assert torch.equal(task.test.targets, torch.arange(20) % 10)
    red = (1 - 0.4914) / 0.2470
    assert task.test.inputs[:, 0, 0, 0].tolist() == pytest.approx([red] * 20, rel=1e-5)
    assert [module.in_features for module in task.model().modules() if isinstance(module, torch.nn.Linear)] == [wide]
    assert task.model()(task.test.inputs).shape == (20, 10)


def test_a_cifar_file_that_is_missing_or_cut_short_is_named(tmp_path: Path) -> None:
    """So is the whole folder."""
    with pytest.raises(TaskError, match=r"set GDSOLVER_DATA.*data_batch_1.bin"):
        load_task(Request("cifar10"), 0)
    write_cifar(tmp_path)
    (tmp_path / FOLDER / "data_batch_3.bin").write_bytes(b"\x00" * 5000)
    with pytest.raises(TaskError, match=r"data_batch_3.bin has 5000 bytes"):
        load_task(Request("cifar10", data_dir=tmp_path), 0)
    (tmp_path / FOLDER / "data_batch_3.bin").unlink()
    with pytest.raises(TaskError, match=r"data_batch_3.bin is missing"):
        load_task(Request("cifar10", data_dir=tmp_path), 0)


def test_adult_is_tested_on_its_official_test_part(tmp_path: Path) -> None:
    """Its labels end in full stops there; an unknown occupation is a word, and what never varies is no input."""
    write_adult(tmp_path)
    task = load_task(Request("adult", data_dir=tmp_path), 0)
    assert (len(task.test), task.outputs, task.metric) == (30, 2, "accuracy")
    assert task.test.targets.tolist() == [int(i % 3 > 1) for i in range(30)]
    assert task.train.inputs.shape[1] == 4  # two occupations, two sexes


def test_the_sexes_go_with_the_samples(tmp_path: Path) -> None:
    """They are divided as the task's samples are, and the network can be kept from seeing them."""
    write_adult(tmp_path)
    task, sexes = load_task(Request("adult", data_dir=tmp_path), 0), adult_sexes(0, tmp_path)
    blind = adult(0, tmp_path, left_out=("sex",))
    for name, sex in sexes.items():
        inputs = getattr(task, name).inputs
        agree = [len(set(zip(column.tolist(), sex.tolist(), strict=True))) == 2 for column in inputs.T]
        assert any(agree), name
        assert getattr(blind, name).inputs.shape[1] < inputs.shape[1]


def test_an_adult_row_that_is_none_is_named(tmp_path: Path) -> None:
    """By file and line."""
    write_adult(tmp_path)
    with (tmp_path / "adult" / "adult.data").open("a") as file:
        file.write("39, State-gov\n")
    with pytest.raises(TaskError, match=r"adult.data, line 122"):
        load_task(Request("adult", data_dir=tmp_path), 0)
    (tmp_path / "adult" / "adult.test").unlink()
    with pytest.raises(TaskError, match=r"adult.*line 122"):
        load_task(Request("adult", data_dir=tmp_path), 0)


def test_california_is_a_table_with_a_known_target(tmp_path: Path) -> None:
    """The median house value; everything else is an input."""
    folder = tmp_path / "california-housing"
    folder.mkdir()
    lines = [f"{i % 7},{i % 5},{('INLAND', 'NEAR BAY')[i % 2]},{i * 1000.0}" for i in range(60)]
    (folder / "housing.csv").write_text("longitude,latitude,ocean_proximity,median_house_value\n" + "\n".join(lines))
    task = load_task(Request("california-housing", data_dir=tmp_path), 0)
    assert (task.name, task.metric, task.train.inputs.shape[1]) == ("california-housing", "mse", 4)
    (folder / "housing.csv").unlink()
    with pytest.raises(TaskError, match=r"housing.csv is missing"):
        load_task(Request("california-housing", data_dir=tmp_path), 0)

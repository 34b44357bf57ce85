"""MNIST and Fashion-MNIST in their official files, and the paper's small convolutional network for them."""

import gzip
from pathlib import Path

import numpy as np
import pooch
import torch
from torch import Tensor, nn

from trainer.errors import TaskError
from trainer.lab.tasks.base import Defaults, Shares, Split, Task, Tunnel, split

URLS = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion-mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
}
FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
CHECKSUMS = {
    "mnist": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    "fashion-mnist": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
}


def images(name: str, seed: int, data_dir: Path | None) -> Task:
    """28 x 28 images in 10 classes; the paper's network: 3 filters of 4 x 4, ReLU, and a 1875-10 linear layer."""
    train_images, train_labels, test_images, test_labels = (
        _read_idx(_locate(name, file, checksum, data_dir))
        for file, checksum in zip(FILES, CHECKSUMS[name], strict=True)
    )
    parts = split(
        Split(_scaled(train_images), train_labels.long()),
        seed,
        Shares(selection=0.05, validation=0.05),
        test=Split(_scaled(test_images), test_labels.long()),
    )
    return Task(
        name=name,
        kind="classification",
        **parts,
        model=lambda: nn.Sequential(nn.Conv2d(1, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(1875, 10)),
        defaults=Defaults(epochs=30, batch_size=32, sgd_lr=0.05, adam_lr=1e-3, patience=2, min_delta=1e-3),
        tunnel=Tunnel("ramp", time_s=3.0),
    )


def _locate(name: str, file: str, checksum: str, data_dir: Path | None) -> Path:
    """The file in the user's own folder if there is one, else from the download cache, checked either way."""
    if data_dir is not None:
        found = data_dir / name / file
        if not found.is_file():
            raise TaskError(f"{found} is missing; the folder needs the official files", field="GDSOLVER_DATA")
        return found
    try:
        fetched = pooch.retrieve(
            URLS[name] + file, f"sha256:{checksum}", fname=file, path=pooch.os_cache("gdsolver") / name
        )
    except (OSError, ValueError) as error:
        raise TaskError(
            f"{file} could not be downloaded ({error}); set GDSOLVER_DATA to a folder that holds {name}/{file}",
            field=name,
        ) from error
    return Path(fetched)


def _read_idx(path: Path) -> Tensor:
    """Read an idx file of bytes, as uint8; its header holds the number of dimensions and their sizes."""
    try:
        content = gzip.decompress(path.read_bytes())
        dimensions = content[3]
        shape = np.frombuffer(content, ">i4", dimensions, offset=4)
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise TaskError(f"{path} is not a complete idx file: {error}", field="data") from error
    return torch.from_numpy(values.copy())


def _scaled(pixels: Tensor) -> Tensor:
    """Pixels from 0 to 1, with a channel dimension: [N, 1, 28, 28]."""
    return pixels.float().div_(255.0).unsqueeze(1)

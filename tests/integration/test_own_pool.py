"""`client="local"`: a tunneller that brings its own pool."""

import httpx
import pytest
import torch
from torch import nn

from trainer import Tunneller


def test_a_tunneller_starts_a_pool_of_its_own_and_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    """Its last tunnel is solved there, and afterwards nobody answers at its address."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(120, 5, generator=generator)
    targets = (inputs @ torch.randn(5, 3, generator=generator)).argmax(dim=1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))

    def errors() -> float:
        with torch.no_grad():
            return float((model(inputs).argmax(dim=1) != targets).float().mean())

    caplog.set_level("INFO", logger="gdsolver")
    optimizer, before = torch.optim.SGD(model.parameters(), lr=0.01), errors()
    options = {"data": (inputs, targets), "validate": errors, "mode": "min", "time_s": 5.0, "radius": 2.0}
    tunneller = Tunneller(model, optimizer=optimizer, client="local", **options)
    url = next(word for line in caplog.messages for word in line.split() if word.startswith("http://"))
    assert httpx.get(f"{url}/readyz").status_code == 200
    summary = tunneller.close(polish=True, timeout=60.0)
    assert summary.adopted == 1
    assert errors() < before
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/readyz")

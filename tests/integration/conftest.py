"""A gateway over a Redis of its own, and a client of it; a test file that asks for other settings has its own."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from solver_service.settings import Settings
from tests.integration.test_gateway import Gateway


@pytest.fixture
def gateway(redis_url: str) -> Iterator[Gateway]:
    made = Gateway(Settings(redis_url=redis_url))
    yield made
    made.store.close()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[TestClient]:
    with gateway.client() as opened:
        yield opened

"""The page at /docs: complete, and with nothing from elsewhere."""

import re
from typing import Any

import pytest

from solver_service.gateway import reference
from solver_service.settings import Settings
from tests.integration.test_gateway import Gateway


def test_the_page_holds_every_operation_and_loads_nothing(redis_url: str) -> None:
    """Each route and schema of the document is on it; no script, no other host, and a policy that forbids both."""
    gateway = Gateway(Settings(redis_url=redis_url))
    with gateway.client() as client:
        page, document = client.get("/docs"), client.get("/openapi.json").json()
        assert client.get("/redoc").status_code == 404
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    for path, operations in document["paths"].items():
        assert f"<code>{path}</code>" in page.text
        assert page.text.count(f"<code>{path}</code>") == len(operations)
    for name in document["components"]["schemas"]:
        assert f'id="{name}"' in page.text
    assert "<script" not in page.text
    assert re.findall(r'(?:src|href)="(?!openapi.json)', page.text) == []
    gateway.store.close()


def test_the_document_is_written_once(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 0.3 s: whoever asks again, for it, for its page, or by a wrong method, gets what is there."""
    written: list[dict[str, Any]] = []
    page = reference.page

    def counted(document: dict[str, Any]) -> str:
        written.append(document)
        return page(document)

    monkeypatch.setattr(reference, "page", counted)
    gateway = Gateway(Settings(redis_url=redis_url))
    with gateway.client() as client:
        pages = {client.get("/docs").text for _ in range(3)}
        documents = {client.get("/openapi.json").content for _ in range(3)}
        assert client.head("/openapi.json").headers["content-type"] == "application/json"
        assert client.delete("/v1/jobs").headers["allow"] == "GET, POST"
    assert (len(pages), len(documents), len(written)) == (1, 1, 1)
    assert gateway.app.openapi() is written[0]
    gateway.store.close()

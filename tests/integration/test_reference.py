"""The page at /docs: complete, and with nothing from elsewhere."""

import re

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

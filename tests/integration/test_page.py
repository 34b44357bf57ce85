"""The pool page's files: how they are served, that they need nothing from elsewhere, and that a wheel has them."""

import re
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from solver_service.gateway.routes.page import MEDIA_TYPES, assets
from solver_service.settings import Settings
from tests.conftest import ROOT
from tests.integration.test_gateway import Gateway, assert_problem

PAGE = ROOT / "solver_service" / "gateway" / "page"
FILES = sorted(path.name for path in PAGE.iterdir())
NAMESPACE = "http://www.w3.org/2000/svg"
"""The name of SVG's elements: no browser fetches it."""
ELSEWHERE = re.compile(r"https?://|//[\w-]+\.\w|@import|url\(")
UNSAFE = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|localStorage|\.cookie"
)
MOST_BYTES = 300_000


@pytest.fixture
def client(redis_url: str) -> Iterator[TestClient]:
    """A gateway that wants a key, and somebody who has none."""
    gateway = Gateway(Settings(redis_url=redis_url, api_key=SecretStr("k" * 40)))
    with gateway.client() as opened:
        yield opened
    gateway.store.close()


def test_the_page_needs_no_key_but_its_data_do(client: TestClient) -> None:
    """A browser can load everything that asks for the key, and nothing that is behind it."""
    assert client.get("/").status_code == 200
    assert client.get("/page/app.js").status_code == 200
    for path in ("/v1/jobs", "/v1/stats", "/v1/workers"):
        assert_problem(client.get(path), 401, "unauthorized")


@pytest.mark.parametrize("name", FILES)
def test_each_file_has_its_type_and_a_strict_policy(client: TestClient, name: str) -> None:
    """Types are named and not guessed, and the policy allows this gateway's files alone."""
    response = client.get(f"/page/{name}")
    assert response.status_code == 200
    assert response.content == (PAGE / name).read_bytes()
    assert response.headers["content-type"] == MEDIA_TYPES[Path(name).suffix]
    assert response.headers["x-content-type-options"] == "nosniff"
    policy = response.headers["content-security-policy"].split("; ")
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in str(policy)


def test_a_browser_keeps_files_until_they_change(client: TestClient) -> None:
    """Each load asks whether a file is still the same: 304 without a body if so, and the file for another tag."""
    first = client.get("/page/app.js")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        again = client.get("/page/app.js", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get("/page/app.js", headers={"If-None-Match": '"other"'}).status_code == 200


def test_the_root_is_the_page(client: TestClient) -> None:
    """`/` is the page itself, for HEAD as well, and no part of the REST interface's document."""
    response = client.get("/")
    assert response.content == (PAGE / "index.html").read_bytes()
    assert client.head("/").status_code == 200
    assert not [path for path in client.get("/openapi.json").json()["paths"] if path == "/" or "page" in path]


@pytest.mark.parametrize("name", ["missing.js", "..%2Fapp.py", "%2e%2e/app.py", "__init__.py", ""])
def test_only_the_pages_own_files_are_served(client: TestClient, name: str) -> None:
    """Whatever path is tried, there is nothing else to be had."""
    assert client.get(f"/page/{name}").status_code == 404


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """No file names another host, so that the page works without internet; together they are small."""
    found = {name: ELSEWHERE.findall((PAGE / name).read_text().replace(NAMESPACE, "")) for name in FILES}
    assert {name: addresses for name, addresses in found.items() if addresses} == {}
    assert sum(len((PAGE / name).read_bytes()) for name in FILES) < MOST_BYTES


def test_what_the_page_shows_cannot_become_markup() -> None:
    """Texts go in as text, no script or style stands within the document, and the key is kept nowhere for good."""
    assert [name for name in FILES if name.endswith(".js") and UNSAFE.search((PAGE / name).read_text())] == []
    document = (PAGE / "index.html").read_text()
    assert re.findall(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", document) == []


def test_every_file_that_is_named_is_there() -> None:
    """What the document links and what modules import exists, and nothing lies about unused."""
    document = (PAGE / "index.html").read_text()
    named = set(re.findall(r'(?:href|src)="page/([^"]+)"', document))
    for name in FILES:
        if name.endswith(".js"):
            named |= set(re.findall(r'from "\./([^"]+)"', (PAGE / name).read_text()))
    assert named | {"index.html"} == set(FILES) == set(assets())


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_each_module_says_why_it_exists(name: str) -> None:
    """The first line of each module is a sentence."""
    first = (PAGE / name).read_text().splitlines()[0]
    assert re.fullmatch(r"// [A-Z].{20,}\.", first)


def test_packaging_leaves_no_file_of_the_page_out() -> None:
    """A wheel takes whole packages, ours among them: nothing is excluded by name."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert "solver_service" in build["targets"]["wheel"]["packages"]
    assert "/solver_service" in build["targets"]["sdist"]["include"]
    assert "exclude" not in {**build, **build["targets"]["wheel"], **build["targets"]["sdist"]}


def test_a_wheel_has_the_page(tmp_path: Path) -> None:
    """What is installed from a wheel shows the page, too; built for real where the build backend is installed."""
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    wheel = next(builders.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with zipfile.ZipFile(wheel) as opened:
        inside = set(opened.namelist())
    assert {f"solver_service/gateway/page/{name}" for name in FILES} <= inside

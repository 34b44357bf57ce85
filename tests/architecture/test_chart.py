"""The Helm chart: values, schema and templates agree; rendered, where there is helm, it is as Kubernetes wants it."""

import json
import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from solver_service.settings import Settings
from tests.conftest import ROOT

CHART = ROOT / "deploy" / "helm" / "gdsolver"
TEMPLATES = "\n".join(path.read_text() for path in sorted((CHART / "templates").iterdir()))
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
HELM = os.environ.get("HELM") or shutil.which("helm")
SECRETS = ("auth.apiKey=" + "k" * 64, "redis.password=p")
EVERYTHING = ("keda.enabled=true", "serviceMonitor.enabled=true", "settings.GDSOLVER_MAX_QUEUED=20000")
SET_BY_THE_CHART = {"redis_url", "host", "port", "api_key", "require_keys"}

RUNS = HELM is not None and shutil.which(HELM) is not None

needs_helm = pytest.mark.skipif(
    not RUNS, reason=f"HELM={HELM} is no program that can be run" if HELM else "helm is neither installed nor in HELM"
)


def leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every setting of values.yaml by its path; one that users fill with keys of their own is a leaf itself."""
    found = []
    for name, value in values.items():
        own = isinstance(value, dict) and value and name != "resources"
        found += leaves(value, (*path, name)) if own else [(*path, name)]
    return found


def helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    assert HELM is not None
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False)


def rendered(*settings: str) -> dict[str, dict[str, Any]]:
    """Every object of a release called `pool`, by kind and name."""
    flags = [word for setting in settings for word in ("--set-string" if "settings." in setting else "--set", setting)]
    done = helm("template", "pool", str(CHART), "--namespace", "solvers", *flags)
    assert done.returncode == 0, done.stderr
    objects = [found for found in yaml.safe_load_all(done.stdout) if found]
    return {
        f"{found['kind']} {found['metadata']['name'].removeprefix('pool-gdsolver')}".strip(): found for found in objects
    }


def pods(objects: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pod of each workload, by the name of its only container."""
    found = [
        made["spec"]["template"]["spec"] for made in objects.values() if made["kind"] in ("Deployment", "StatefulSet")
    ]
    return {pod["containers"][0]["name"]: pod for pod in found}


@pytest.mark.parametrize("path", leaves(VALUES), ids=".".join)
def test_every_value_is_used_and_in_the_schema(path: tuple[str, ...]) -> None:
    """What values.yaml offers has a place in the schema, and some template asks for it."""
    part = SCHEMA
    for name in path:
        part = part["properties"][name]
    if path[0] == "image":  # named through a variable
        assert (
            f"$values.{path[-1]}" in TEMPLATES
            or ".Values." + ".".join(path) in TEMPLATES
            or f"image.{path[-1]}" in TEMPLATES
        )
    else:
        assert re.search(rf"(Values\.{re.escape('.'.join(path))}|\$part\.{path[-1]})\b", TEMPLATES)


def test_templates_ask_for_no_value_that_is_not_there() -> None:
    """A `.Values.x.y` in a template is a setting of values.yaml: a typing error would render as nothing."""
    known = {".".join(path[:depth]) for path in leaves(VALUES) for depth in range(1, len(path) + 1)}
    assert set(re.findall(r"\.Values\.([\w.]+)", TEMPLATES)) <= known


def test_settings_are_those_of_the_service() -> None:
    """`settings` takes each variable of the service but those that the chart sets itself."""
    names = SCHEMA["properties"]["settings"]["propertyNames"]["enum"]
    assert set(names) == {
        f"GDSOLVER_{field.upper()}" for field in Settings.model_fields if field not in SET_BY_THE_CHART
    }


def test_redis_is_as_in_compose() -> None:
    """Chart and compose start the same Redis in the same way, from an image with the same digest."""
    compose = (ROOT / "docker-compose.yml").read_text()
    (started,) = re.findall(r"exec redis-server .*", compose)
    assert started.replace("$$", "$") in TEMPLATES
    assert f":-{VALUES['redis']['image']}}}" in compose


def test_versions_agree() -> None:
    """The chart installs the images of the release that it comes with."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert chart["version"] == chart["appVersion"] == version
    assert f"ARG VERSION={version}\n" in (ROOT / "docker" / "Dockerfile").read_text()


@needs_helm
def test_helm_finds_no_fault() -> None:
    """`helm lint --strict` passes."""
    flags = [word for setting in SECRETS for word in ("--set", setting)]
    done = helm("lint", "--strict", str(CHART), *flags)
    assert done.returncode == 0, done.stdout


@needs_helm
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((), "auth.apiKey is the key that clients send"),
        (SECRETS[:1], "redis.password keeps other pods out"),
        ((SECRETS[0], "redis.enabled=false"), "redis.externalUrl names the Redis"),
        ((*SECRETS, "worker.slot=2"), "'slot' not allowed"),
        ((*SECRETS, "settings.GDSOLVER_PORT=1"), "GDSOLVER_PORT"),
        ((*SECRETS[:1], "redis.password=a/b"), "redis/password"),
    ],
)
def test_what_cannot_work_is_refused(settings: tuple[str, ...], words: str) -> None:
    """A missing secret, a misspelt value, a variable that the chart sets itself: helm says which."""
    flags = [word for setting in settings for word in ("--set-string" if "settings." in setting else "--set", setting)]
    done = helm("template", "pool", str(CHART), *flags)
    assert done.returncode != 0
    assert words in done.stderr


@needs_helm
@pytest.mark.parametrize("settings", [(), EVERYTHING, ("redis.enabled=false", "redis.externalUrl=rediss://r:6379/0")])
def test_pods_are_confined(settings: tuple[str, ...]) -> None:
    """No pod runs as root, can write to its image, has a capability, or is told of Services in variables."""
    for name, pod in pods(rendered(*SECRETS, *settings)).items():
        assert pod["enableServiceLinks"] is False, name
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        confined = container["securityContext"]
        assert confined["readOnlyRootFilesystem"]
        assert not confined["allowPrivilegeEscalation"]
        assert confined["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]


@needs_helm
def test_keda_counts_queued_and_running_jobs() -> None:
    """KEDA adds up two numbers of /v1/stats, with the key, and may go down to no worker; no replicas are fixed."""
    objects = rendered(*SECRETS, *EVERYTHING)
    scaled = objects["ScaledObject -worker"]["spec"]
    assert "replicas" not in objects["Deployment -worker"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == objects["Deployment -worker"]["metadata"]["name"]
    assert scaled["minReplicaCount"] == 0
    assert scaled["advanced"]["scalingModifiers"]["formula"] == "queued + running"
    service = objects["Service"]
    for trigger in scaled["triggers"]:
        assert trigger["metadata"]["valueLocation"] == trigger["name"]
        url = f"http://{service['metadata']['name']}.solvers.svc:{service['spec']['ports'][0]['port']}/v1/stats"
        assert trigger["metadata"]["url"] == url
    reference = objects["TriggerAuthentication"]["spec"]["secretTargetRef"][0]
    assert reference["key"] in objects["Secret"]["stringData"]


@needs_helm
def test_redis_is_open_to_gateway_and_worker_alone() -> None:
    """The network policies let two kinds of pods to Redis, and nobody to a worker."""
    objects = rendered(*SECRETS)
    (rule,) = objects["NetworkPolicy -redis"]["spec"]["ingress"]
    parts = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in rule["from"]]
    assert parts == ["gateway", "worker"]
    assert "ingress" not in objects["NetworkPolicy -worker"]["spec"]


@needs_helm
@pytest.mark.parametrize("version", ["1.28", "1.32", "1.36"])
def test_objects_fit_the_schemas_of_kubernetes(version: str) -> None:
    """Every object of a kind of Kubernetes' own is valid by its JSON schema, with no field that is not in it."""
    schemas = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate, which has the schemas, is not installed"
    )
    checked = 0
    for settings in ((), EVERYTHING, ("redis.storage.ephemeral=true", "networkPolicy.enabled=false")):
        for found in rendered(*SECRETS, *settings).values():
            if "keda.sh" not in found["apiVersion"] and "coreos.com" not in found["apiVersion"]:
                schemas.validate(found, version, strict=True)
                checked += 1
    assert checked > 20


def test_the_chart_holds_no_other_files() -> None:
    """Nothing is packed into the chart by accident."""
    assert {path.name for path in CHART.iterdir()} == {
        ".helmignore", "Chart.yaml", "templates", "values.schema.json", "values.yaml",
    }  # fmt: skip

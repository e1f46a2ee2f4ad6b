"""The manifest for KubeRay and the image: what Kubernetes and KubeRay would refuse is found without them."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from bench.config.command_line import build_parser, parse
from bench.config.run import Options

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "deploy" / "kuberay" / "rayjob.yaml"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"

# The fields of KubeRay's API reference (ray.io/v1, 1.5), https://ray-project.github.io/kuberay/reference/api/
JOB = {
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "entrypoint": str,
    "entrypointNumCpus": float,
    "entrypointNumGpus": float,
    "rayClusterSpec": dict,
    "runtimeEnvYAML": str,
    "shutdownAfterJobFinishes": bool,
    "submissionMode": str,
    "submitterPodTemplate": dict,
    "ttlSecondsAfterFinished": int,
}
CLUSTER = {
    "authOptions": dict,
    "autoscalerOptions": dict,
    "enableInTreeAutoscaling": bool,
    "headGroupSpec": dict,
    "rayVersion": str,
    "workerGroupSpecs": list,
}
HEAD = {"rayStartParams": dict, "serviceType": str, "template": dict}
WORKERS = {
    "groupName": str,
    "maxReplicas": int,
    "minReplicas": int,
    "rayStartParams": dict,
    "replicas": int,
    "template": dict,
}


def problems_of(job: dict[str, Any]) -> list[str]:
    """What KubeRay's schema, or Kubernetes' own for the pods, says against a RayJob."""
    if (job.get("apiVersion"), job.get("kind")) != ("ray.io/v1", "RayJob"):
        return ["it is no RayJob of ray.io/v1"]
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    problems = [*fields(spec, JOB, "spec"), *fields(cluster, CLUSTER, "rayClusterSpec")]
    if cluster.get("authOptions", {}).get("mode") not in (None, "token", "disabled"):
        problems.append("authOptions.mode")
    groups = [(cluster["headGroupSpec"], HEAD), *((group, WORKERS) for group in cluster["workerGroupSpecs"])]
    for group, known in groups:
        problems += fields(group, known, "group")
        problems += [f"rayStartParams.{k}" for k, v in group["rayStartParams"].items() if not isinstance(v, str)]
    for template in (spec["submitterPodTemplate"], *(group["template"] for group, _ in groups)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
        try:
            kubernetes_validate.validate(pod, "1.31", strict=True)
        except kubernetes_validate.ValidationError as error:
            problems.append(str(error))
    return problems


def fields(given: dict[str, Any], known: dict[str, type], where: str) -> list[str]:
    return [f"{where}.{k}" for k, value in given.items() if k not in known or not isinstance(value, known[k])]


@pytest.fixture
def job() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(MANIFEST.read_text())
    return read


def test_the_manifest_is_what_kuberay_and_kubernetes_take(job: dict[str, Any]) -> None:
    assert problems_of(job) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "entryPoint"), "python"),
        (("spec", "rayClusterSpec", "rayVersion"), 2.6),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "minReplicas"), "none"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "env_from"), []),
        (("spec", "submitterPodTemplate", "spec", "containers", 0, "image"), 3),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "password"),
    ],
    ids=str,
)
def test_a_field_that_is_none_is_found(job: dict[str, Any], path: tuple[Any, ...], value: object) -> None:
    part: Any = job
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value

    assert problems_of(job)


def test_its_command_is_one_that_bench_run_takes(job: dict[str, Any]) -> None:
    words = shlex.split(job["spec"]["entrypoint"])

    assert words[:3] == ["python", "-m", "bench.run"]
    options = parse(build_parser(Options, "bench.run", ""), Options, words[3:])
    assert (options.address, options.models) == ("auto", ("cnn", "mobilenet"))
    assert str(options.results).startswith("s3:")


def test_no_container_runs_as_root_or_keeps_a_secret(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    templates = [job["spec"]["submitterPodTemplate"], *(group["template"] for group in groups)]
    for template in templates:
        for container in template["spec"]["containers"]:
            assert container["securityContext"]["runAsNonRoot"]
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert "env" not in container  # secrets come from a secret
    assert cluster["authOptions"] == {"mode": "token"}


def test_ray_has_the_version_that_the_image_installs(job: dict[str, Any]) -> None:
    (pinned,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)

    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned


def test_the_image_installs_what_is_pinned_without_build_tools_and_does_not_run_as_root() -> None:
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    steps = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]

    assert [rest for name, rest in steps if name == "FROM"] == ["python:3.11-slim"]
    users = [rest for name, rest in steps if name == "USER"]
    assert users[-1:] == ["1000"]
    assert not re.search(r"\b(gcc|g\+\+|build-essential|cmake|make)\b", text)
    for copied in (rest.split()[:-1] for name, rest in steps if name == "COPY"):
        assert all((ROOT / source).exists() for source in copied)
    (install,) = [rest for name, rest in steps if name == "RUN" and "pip install" in rest]
    assert "--constraint constraints.txt" in install
    (extras,) = re.findall(r"\.\[(.+?)\]", install)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)

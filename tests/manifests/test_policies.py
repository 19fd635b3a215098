"""Every policy notices when its rule is broken, one rule at a time; whole overlays break none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from manifests import policies
from manifests.schema import VERSIONS, problems
from manifests.workloads import OVERLAYS, Object, render, renderer

if renderer() is None:
    pytest.skip("neither kubectl nor kustomize is on this machine", allow_module_level=True)

NAMES = sorted(folder.name for folder in OVERLAYS.iterdir())
RENDERED = {name: render(OVERLAYS / name) for name in NAMES}


@pytest.fixture
def objects() -> list[Object]:
    return copy.deepcopy(RENDERED["prod"])


def find(objects: list[Object], kind: str, name: str = "onevision-serving") -> Any:
    return next(item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name))


def server(objects: list[Object]) -> Any:
    return find(objects, "Deployment")["spec"]["template"]["spec"]


def container(objects: list[Object]) -> Any:
    return server(objects)["containers"][0]


@pytest.mark.parametrize("policy", policies.POLICIES, ids=lambda policy: policy.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_every_overlay_keeps_every_policy(name: str, policy: policies.Policy) -> None:
    assert list(policy(RENDERED[name])) == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NAMES)
def test_every_overlay_fits_the_schemas(name: str, version: str) -> None:
    assert [problem for item in RENDERED[name] for problem in problems(item, version)] == []


def remove(kind: str, name: str = "onevision-serving") -> Callable[[list[Object]], None]:
    return lambda objects: objects.remove(find(objects, kind, name))


def close(policy: str, port: int) -> Callable[[list[Object]], None]:
    """Take the rule away that lets pods of a network policy out to that port of one address."""

    def damage(objects: list[Object]) -> None:
        rules = find(objects, "NetworkPolicy", policy)["spec"]["egress"]
        rules[:] = [rule for rule in rules if port not in [entry["port"] for entry in rule.get("ports", [])]]

    return damage


BREAKS: list[tuple[policies.Policy, Callable[[list[Object]], Any], str]] = [
    (policies.no_root, lambda o: server(o)["securityContext"].pop("runAsNonRoot"), "runAsNonRoot"),
    (policies.no_root, lambda o: server(o)["securityContext"].update(runAsUser=0), "runAsUser above 0"),
    (policies.no_root, lambda o: server(o)["securityContext"].pop("seccompProfile"), "seccompProfile"),
    (policies.no_root, lambda o: container(o).pop("securityContext"), "may gain privileges"),
    (policies.no_root, lambda o: container(o)["securityContext"].update(privileged=True), "may gain privileges"),
    (
        policies.no_root,
        lambda o: container(o)["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
        "keeps capabilities",
    ),
    (policies.no_root, lambda o: container(o)["securityContext"].pop("readOnlyRootFilesystem"), "write to its image"),
    (policies.no_root, lambda o: container(o)["securityContext"].update(runAsUser=0), "runs as root"),
    (policies.no_host, lambda o: server(o).update(hostNetwork=True), "hostNetwork"),
    (policies.no_host, lambda o: server(o)["volumes"].append({"name": "etc", "hostPath": {"path": "/etc"}}), "etc"),
    (policies.limits_set, lambda o: container(o)["resources"].pop("limits"), "limits of cpu, memory"),
    (policies.limits_set, lambda o: container(o)["resources"]["requests"].pop("memory"), "requests of memory"),
    (policies.limits_set, lambda o: server(o)["volumes"][0].update(emptyDir={}), "no sizeLimit"),
    (policies.images_pinned, lambda o: container(o).update(image="registry.example.com:5000/serve"), "no version"),
    (policies.images_pinned, lambda o: container(o).update(image="registry.example.com/serve:latest"), "no version"),
    (
        policies.no_secrets,
        lambda o: container(o)["env"].append({"name": "STORE_PASSWORD", "value": "x"}),
        "STORE_PASSWORD is written out",
    ),
    (
        policies.no_secrets,
        lambda o: o.append({"kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}}),
        "holds a secret",
    ),
    (policies.no_secrets, lambda o: container(o)["args"].append("AKIA" + "A" * 16), "looks like a key"),
    (
        policies.no_secrets,
        lambda o: o.append({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"api_key": "x"}}),
        "api_key",
    ),
    (policies.network_bounded, remove("NetworkPolicy"), "no network policy"),
    (policies.network_bounded, remove("NetworkPolicy", "onevision-nightly"), "CronJob/onevision-nightly"),
    (policies.network_bounded, remove("NetworkPolicy", "default-deny"), "denied by default"),
    (
        policies.network_bounded,
        lambda o: find(o, "NetworkPolicy", "default-deny")["spec"].update(egress=[{}]),
        "denied by default",
    ),
    (
        policies.network_bounded,
        lambda o: find(o, "NetworkPolicy", "onevision-redis")["spec"].update(policyTypes=["Ingress"]),
        "(Egress)",
    ),
    (policies.identities_reached, close("onevision-serving", 80), "Deployment/onevision-serving: has a cloud identity"),
    (policies.identities_reached, close("onevision-tasks", 80), "onevision-pipeline: has a cloud identity"),
    (policies.identities_reached, close("onevision-tasks", 988), "it reach 169.254.169.252:988"),
    (policies.identities_reached, close("onevision-train-node", 988), "TrainingRuntime/onevision-torch: has a"),
    (policies.namespaces_bounded, remove("ResourceQuota", "onevision"), "no ResourceQuota"),
    (
        policies.namespaces_bounded,
        lambda o: find(o, "Namespace", "onevision")["metadata"].pop("labels"),
        "restricted",
    ),
    (policies.namespaces_bounded, lambda o: find(o, "Service")["metadata"].pop("namespace"), "no namespace"),
    (
        policies.little_power,
        lambda o: find(o, "Role", "onevision-pipeline")["rules"].append(
            {"apiGroups": [""], "resources": ["*"], "verbs": ["get"]}
        ),
        "allows everything",
    ),
    (
        policies.little_power,
        lambda o: find(o, "Role", "onevision-pipeline")["rules"].append(
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
        ),
        "reads every secret",
    ),
    (policies.little_power, lambda o: server(o).pop("automountServiceAccountToken"), "carries a token"),
    (policies.little_power, lambda o: server(o).pop("serviceAccountName"), "default service account"),
    (policies.kept_alive, lambda o: container(o).pop("readinessProbe"), "no readinessProbe"),
    (policies.kept_alive, lambda o: container(o).pop("livenessProbe"), "no livenessProbe"),
    (policies.kept_alive, remove("PodDisruptionBudget"), "no PodDisruptionBudget"),
    (policies.kept_alive, remove("HorizontalPodAutoscaler"), "nothing scales it"),
    (policies.references_hold, remove("ServiceAccount"), "ServiceAccount/onevision-serving"),
    (policies.references_hold, remove("Role", "onevision-pipeline"), "Role/onevision-pipeline"),
    (policies.references_hold, remove("Deployment"), "Deployment/onevision-serving"),
    (policies.references_hold, lambda o: container(o)["volumeMounts"].pop(), "volumes and mounts differ"),
    (policies.references_hold, lambda o: container(o)["ports"][0].update(name="web"), "no pod has the port"),
    (policies.references_hold, remove("PodMonitor"), "PrometheusRule/onevision: no PodMonitor"),
    (
        policies.references_hold,
        lambda o: container(o)["ports"][0].update(containerPort=80),
        "PodMonitor/onevision-serving: selects no pod",
    ),
    (
        policies.references_hold,
        lambda o: find(o, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].update(a="b"),
        "selects no pod",
    ),
    (
        policies.references_hold,
        lambda o: o.remove(next(i for i in o if i["kind"] == "ConfigMap" and "BUNDLES" in i["data"])),
        "ConfigMap/onevision-places",
    ),
    (
        policies.references_hold,
        lambda o: find(o, "StatefulSet", "onevision-redis")["spec"].pop("volumeClaimTemplates"),
        "volumes and mounts differ",
    ),
]


@pytest.mark.parametrize(("policy", "damage", "message"), BREAKS, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_rule_is_named(
    objects: list[Object], policy: policies.Policy, damage: Callable[[list[Object]], Any], message: str
) -> None:
    damage(objects)
    assert message in "\n".join(policy(objects))


def test_every_policy_is_broken_somewhere_above() -> None:
    assert {policy for policy, _, _ in BREAKS} == set(policies.POLICIES)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("overlay", "kind", "name", "damage"),
    [
        ("prod", "Deployment", "onevision-serving", lambda i: i["spec"].update(replica=2)),
        ("prod", "Deployment", "onevision-serving", lambda i: i["spec"]["template"]["spec"].update(container=[])),
        ("prod", "CronJob", "onevision-nightly", lambda i: i["spec"].update(schedule=3)),
        ("prod", "NetworkPolicy", "default-deny", lambda i: i["spec"].update(podSelectors={})),
        ("prod", "PodMonitor", "onevision-serving", lambda i: i["spec"]["podMetricsEndpoints"][0].update(port="http")),
        ("prod", "PrometheusRule", "onevision", lambda i: i["spec"]["groups"][0]["rules"][0].update(exp="up")),
        (
            "prod-canary",
            "InferenceService",
            "onevision",
            lambda i: i["spec"]["predictor"].update(canaryTrafficPercent=110),
        ),
        ("prod-canary", "InferenceService", "onevision", lambda i: i["spec"]["predictor"].update(canary=10)),
    ],
)
def test_a_misspelt_field_does_not_pass_the_schema(
    overlay: str, kind: str, name: str, damage: Callable[[Any], Any], version: str
) -> None:
    item = copy.deepcopy(find(RENDERED[overlay], kind, name))
    damage(item)
    assert list(problems(item, version))

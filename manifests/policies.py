"""What must hold of every rendered overlay. A policy takes the objects and gives its violations as sentences."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterator

from manifests.workloads import Object, Pod, namespace, of_kind, pods, selects, title

Policy = Callable[[list[Object]], Iterator[str]]
SECRET_NAME = re.compile(r"(?i)(password|passwd|token|secret|credential|api_?key|private_?key)")
SECRET_VALUE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{35}|gh[pousr]_[0-9A-Za-z]{36}"
)
HOST = ("hostNetwork", "hostPID", "hostIPC")
IDENTITY = "iam.gke.io/gcp-service-account"
METADATA_SERVER = (("169.254.169.254", 80), ("169.254.169.252", 988))
"""Where a pod gets the token of its cloud identity: without a node's own server, and with one."""
TASKS = ("onevision-pipeline", {"pipelines.kubeflow.org/v2_component": "true"})
"""Service account and labels of the tasks' pods, which KFP makes."""


def _each(objects: list[Object]) -> Iterator[tuple[str, Pod]]:
    for pod in pods(objects):
        yield title(pod.owner), pod


def no_root(objects: list[Object]) -> Iterator[str]:
    """Every pod runs as an ordinary user that cannot become another, on a file system that it cannot change."""
    for name, pod in _each(objects):
        context = pod.spec.get("securityContext", {})
        if not (context.get("runAsNonRoot") and context.get("runAsUser", 0) > 0):
            yield f"{name}: runAsNonRoot and a runAsUser above 0 are wanted"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name}: seccompProfile RuntimeDefault is wanted"
        for container in pod.containers:
            inner = container.get("securityContext", {})
            if inner.get("allowPrivilegeEscalation") is not False or inner.get("privileged"):
                yield f"{name}, {container['name']}: may gain privileges"
            if inner.get("capabilities", {}) != {"drop": ["ALL"]}:
                yield f"{name}, {container['name']}: keeps capabilities"
            if not inner.get("readOnlyRootFilesystem"):
                yield f"{name}, {container['name']}: may write to its image"
            if inner.get("runAsUser", 1) == 0 or inner.get("runAsNonRoot") is False:
                yield f"{name}, {container['name']}: runs as root"


def no_host(objects: list[Object]) -> Iterator[str]:
    """No pod sees its node: network, processes, files."""
    for name, pod in _each(objects):
        yield from (f"{name}: {field}" for field in HOST if pod.spec.get(field))
        yield from (f"{name}: hostPath {v['name']}" for v in pod.spec.get("volumes", []) if "hostPath" in v)


def limits_set(objects: list[Object]) -> Iterator[str]:
    """Every container says what it needs and what it may take at most; scratch volumes are bounded."""
    for name, pod in _each(objects):
        for container in pod.containers:
            for side in ("requests", "limits"):
                missing = {"cpu", "memory"} - set(container.get("resources", {}).get(side, {}))
                if missing:
                    yield f"{name}, {container['name']}: {side} of {', '.join(sorted(missing))} are missing"
        for volume in pod.spec.get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield f"{name}: volume {volume['name']} has no sizeLimit"


def images_pinned(objects: list[Object]) -> Iterator[str]:
    """Every image has a version or a digest."""
    for name, pod in _each(objects):
        for container in pod.containers:
            image = container.get("image", "")
            tag = image.rpartition("/")[2].partition(":")[2]
            if "@sha256:" not in image and tag in ("", "latest"):
                yield f"{name}, {container['name']}: image {image!r} has no version"


def no_secrets(objects: list[Object]) -> Iterator[str]:
    """No secret stands in a manifest."""
    for item in objects:
        if item["kind"] == "Secret" and (item.get("data") or item.get("stringData")):
            yield f"{title(item)}: holds a secret; make it in the cluster"
        if item["kind"] == "ConfigMap":
            yield from (f"{title(item)}: {key}" for key in item.get("data", {}) if SECRET_NAME.search(key))
        if SECRET_VALUE.search(json.dumps(item)):
            yield f"{title(item)}: holds what looks like a key"
    for name, pod in _each(objects):
        for container in pod.containers:
            for variable in container.get("env", []):
                if SECRET_NAME.search(variable["name"]) and "value" in variable:
                    yield f"{name}, {container['name']}: {variable['name']} is written out; take it from a Secret"


def network_bounded(objects: list[Object]) -> Iterator[str]:
    """Every pod has a network policy for both directions, and a namespace of ours denies by default."""
    policies = of_kind(objects, "NetworkPolicy")
    for name, pod in _each(objects):
        mine = [
            p["spec"]
            for p in policies
            if namespace(p) == namespace(pod.owner)
            and p["spec"]["podSelector"]
            and selects(p["spec"]["podSelector"], pod.labels)
        ]
        for direction in ("Ingress", "Egress"):
            if not any(direction in spec["policyTypes"] for spec in mine):
                yield f"{name}: no network policy says what it may do ({direction})"
    for owned in of_kind(objects, "Namespace"):
        denied = {
            direction
            for p in policies
            if namespace(p) == owned["metadata"]["name"] and not p["spec"]["podSelector"]
            for direction in p["spec"]["policyTypes"]
            if not p["spec"].get(direction.lower())
        }
        if denied != {"Ingress", "Egress"}:
            yield f"{title(owned)}: not everything is denied by default"


def identities_reached(objects: list[Object]) -> Iterator[str]:
    """A pod whose service account has a cloud identity reaches the metadata server, where its token is."""
    holders = {
        (namespace(account), account["metadata"]["name"]): account
        for account in of_kind(objects, "ServiceAccount")
        if IDENTITY in account["metadata"].get("annotations", {})
    }
    made = [
        (name, namespace(pod.owner), pod.labels)
        for name, pod in _each(objects)
        if (namespace(pod.owner), pod.spec.get("serviceAccountName")) in holders
    ]
    made += [(title(a), where, TASKS[1]) for (where, name), a in holders.items() if name == TASKS[0]]
    for name, where, labels in made:
        rules = [
            rule
            for policy in of_kind(objects, "NetworkPolicy")
            if namespace(policy) == where and selects(policy["spec"]["podSelector"], labels)
            for rule in policy["spec"].get("egress", [])
        ]
        for address, port in METADATA_SERVER:
            if not any(_lets_out(rule, address, port) for rule in rules):
                yield f"{name}: has a cloud identity, but no network policy lets it reach {address}:{port}"


def _lets_out(rule: Object, address: str, port: int) -> bool:
    """Whether a rule for egress allows TCP to an address outside the cluster."""
    if "ports" in rule and not any(p.get("port") == port and p.get("protocol") == "TCP" for p in rule["ports"]):
        return False
    blocks = [peer["ipBlock"] for peer in rule.get("to", []) if "ipBlock" in peer]
    return "to" not in rule or any(
        _within(address, block["cidr"]) and not any(_within(address, cidr) for cidr in block.get("except", []))
        for block in blocks
    )


def _within(address: str, cidr: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(cidr)


def namespaces_bounded(objects: list[Object]) -> Iterator[str]:
    """A namespace of ours has a quota and enforces the restricted pod standard; every object has a namespace."""
    for owned in of_kind(objects, "Namespace"):
        name = owned["metadata"]["name"]
        if not any(namespace(quota) == name for quota in of_kind(objects, "ResourceQuota")):
            yield f"{title(owned)}: no ResourceQuota"
        if owned["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{title(owned)}: does not enforce the restricted pod security standard"
    yield from (f"{title(i)}: no namespace" for i in objects if i["kind"] != "Namespace" and namespace(i) is None)


def little_power(objects: list[Object]) -> Iterator[str]:
    """No role allows everything, secrets are named one by one, and a pod holds no token that it has no use for."""
    for role in of_kind(objects, "Role", "ClusterRole"):
        for rule in role["rules"]:
            if "*" in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]:
                yield f"{title(role)}: allows everything of something"
            if "secrets" in rule["resources"] and not rule.get("resourceNames"):
                yield f"{title(role)}: reads every secret"
    for name, pod in _each(objects):
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{name}: carries a token of its service account"
        if pod.spec.get("serviceAccountName", "default") == "default":
            yield f"{name}: runs as the default service account"


def kept_alive(objects: list[Object]) -> Iterator[str]:
    """What serves has probes, a disruption budget and, unless it holds data, something that scales it."""
    scaled = {s["spec"]["scaleTargetRef"]["name"] for s in of_kind(objects, "HorizontalPodAutoscaler")}
    for name, pod in _each(objects):
        if not pod.serves:
            continue
        for probe in ("readinessProbe", "livenessProbe"):
            if any(probe not in container for container in pod.spec["containers"]):
                yield f"{name}: no {probe}"
        budgets = of_kind(objects, "PodDisruptionBudget")
        if not any(selects(b["spec"]["selector"], pod.labels) for b in budgets if namespace(b) == namespace(pod.owner)):
            yield f"{name}: no PodDisruptionBudget"
        scales_itself = pod.owner["kind"] == "InferenceService" and "maxReplicas" in pod.owner["spec"]["predictor"]
        holds_data = pod.owner["kind"] == "StatefulSet"
        if pod.owner["metadata"]["name"] not in scaled and not scales_itself and not holds_data:
            yield f"{name}: nothing scales it"


def references_hold(objects: list[Object]) -> Iterator[str]:
    """Whatever an object names is there."""
    names = {(namespace(item), item["kind"], item["metadata"]["name"]) for item in objects}

    def wanted(item: Object, kind: str, name: str) -> Iterator[str]:
        if (namespace(item), kind, name) not in names:
            yield f"{title(item)}: names {kind}/{name}, which is not there"

    made = list(pods(objects))
    for name, pod in _each(objects):
        yield from wanted(pod.owner, "ServiceAccount", pod.spec.get("serviceAccountName", ""))
        for container in pod.containers:
            for source in container.get("envFrom", []):
                if "configMapRef" in source:  # secrets are made in the cluster
                    yield from wanted(pod.owner, "ConfigMap", source["configMapRef"]["name"])
        mounts = {mount["name"] for container in pod.containers for mount in container.get("volumeMounts", [])}
        claimed = [claim["metadata"]["name"] for claim in pod.owner["spec"].get("volumeClaimTemplates", [])]
        if mounts != {*claimed, *(volume["name"] for volume in pod.spec.get("volumes", []))}:
            yield f"{name}: volumes and mounts differ"
        for volume in pod.spec.get("volumes", []):
            if "configMap" in volume:
                yield from wanted(pod.owner, "ConfigMap", volume["configMap"]["name"])
            if "persistentVolumeClaim" in volume:
                yield from wanted(pod.owner, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
    for item in of_kind(objects, "RoleBinding"):
        yield from wanted(item, item["roleRef"]["kind"], item["roleRef"]["name"])
        for subject in item["subjects"]:
            yield from wanted(item, subject["kind"], subject["name"])
    for item in of_kind(objects, "HorizontalPodAutoscaler"):
        yield from wanted(item, item["spec"]["scaleTargetRef"]["kind"], item["spec"]["scaleTargetRef"]["name"])
    for item in of_kind(objects, "Service"):
        chosen = [p for p in made if selects({"matchLabels": item["spec"]["selector"]}, p.labels)]
        ports = {port["name"] for pod in chosen for c in pod.containers for port in c.get("ports", [])}
        for port in item["spec"]["ports"]:
            if port["targetPort"] not in ports:
                yield f"{title(item)}: no pod has the port {port['targetPort']!r}"
    for item in of_kind(objects, "PodDisruptionBudget"):
        if not any(selects(item["spec"]["selector"], pod.labels) for pod in made):
            yield f"{title(item)}: selects no pod"
    for item in of_kind(objects, "PodMonitor"):
        chosen = [
            p for p in made if namespace(p.owner) == namespace(item) and selects(item["spec"]["selector"], p.labels)
        ]
        numbers = {port["containerPort"] for pod in chosen for c in pod.containers for port in c.get("ports", [])}
        if not {endpoint["portNumber"] for endpoint in item["spec"]["podMetricsEndpoints"]} <= numbers:
            yield f"{title(item)}: selects no pod with its ports"
    for item in of_kind(objects, "PrometheusRule"):
        if not any(namespace(monitor) == namespace(item) for monitor in of_kind(objects, "PodMonitor")):
            yield f"{title(item)}: no PodMonitor gathers what its rules read"


POLICIES: tuple[Policy, ...] = (
    no_root,
    no_host,
    limits_set,
    images_pinned,
    no_secrets,
    network_bounded,
    identities_reached,
    namespaces_bounded,
    little_power,
    kept_alive,
    references_hold,
)

"""What the overlays say fits the code: metrics, options, pipelines, images, and a runbook for every alert."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from manifests.check import check, main
from manifests.workloads import OVERLAYS, Object, Pod, of_kind, pods, render, renderer, selects
from onevision.cli import app
from onevision.recipe import load_recipe, section_of
from onevision.serving.config import ServingConfig
from onevision.serving.telemetry import Telemetry
from pipelines.targets import DIGEST, TARGETS

ROOT = Path(__file__).parents[2]
if renderer() is None:
    pytest.skip("neither kubectl nor kustomize is on this machine", allow_module_level=True)
RENDERED = {folder.name: render(folder) for folder in sorted(OVERLAYS.iterdir())}
OURS = {"kubeflow", "onevision"}
SCALER = "HorizontalPodAutoscaler"


@pytest.fixture(params=list(RENDERED))
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return RENDERED[request.param]


def alerts() -> list[dict[str, Any]]:
    rules = yaml.safe_load((ROOT / "manifests/components/monitoring/alerts.yaml").read_text())
    return [rule for group in rules["spec"]["groups"] for rule in group["rules"]]


def exposed() -> set[str]:
    telemetry = Telemetry()
    telemetry.serve_bundle("b", "g")
    families = list(telemetry.registry.collect())
    names = {family.name for family in families} | {f"{family.name}_total" for family in families}
    return names | {f"{family.name}_bucket" for family in families if family.type == "histogram"}


def test_alerts_read_only_series_that_the_server_exposes() -> None:
    read = {name for rule in alerts() for name in re.findall(r"\bonevision_\w+", rule["expr"])}
    assert len(read) >= 8
    assert read <= exposed()


def test_the_dashboard_reads_only_series_that_there_are() -> None:
    dashboard = json.loads((ROOT / "manifests/components/monitoring/dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += [entry["expr"] for entry in dashboard["annotations"]["list"]]
    read = {name for text in expressions for name in re.findall(r"\bonevision_\w+", text)}
    assert len(read) >= 10
    assert read <= exposed() | {
        f"{name.removesuffix('_bucket')}{end}" for name in exposed() for end in ("_sum", "_count")
    }
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("overlay", ["dev", "prod", "prod-kserve", "prod-canary"])
def test_prometheus_reads_every_server_at_the_port_that_it_may_reach(overlay: str) -> None:
    (monitor,) = of_kind(RENDERED[overlay], "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for pod in serve_pods(RENDERED[overlay], "serve"):
        assert selects(monitor["spec"]["selector"], pod.labels)
        assert f"--port={endpoint['portNumber']}" in pod.containers[0]["args"]
    policies = {item["metadata"]["name"]: item["spec"] for item in of_kind(RENDERED[overlay], "NetworkPolicy")}
    (entry,) = policies["onevision-serving"]["ingress"]
    assert {"namespaceSelector": {"matchLabels": {"onevision/metrics": "allowed"}}} in entry["from"]
    assert [port["port"] for port in entry["ports"]] == [endpoint["portNumber"]]


def test_every_alert_that_is_asked_for_is_there() -> None:
    names = {rule["alert"] for rule in alerts()}
    for wanted in ("ChampionStale", "NightFailed", "CodebooksDrifted", "Slow", "Errors"):
        assert f"OneVision{wanted}" in names


def expression(alert: str) -> str:
    return next(str(rule["expr"]) for rule in alerts() if rule["alert"] == alert)


def test_health_checks_of_starting_servers_are_no_errors(objects: list[Object]) -> None:
    probed = {
        container[f"{kind}Probe"]["httpGet"]["path"]
        for pod in serve_pods(objects, "serve")
        for container in pod.containers
        for kind in ("readiness", "liveness")
    }
    counted = re.findall(r"onevision_requests_total(?:\{(.*?)\})?\[", expression("OneVisionErrors"))
    assert len(counted) == 2
    for selector in counted:
        (excluded,) = re.findall(r'route!~"(.+?)"', selector)
        assert all(re.fullmatch(excluded, path) for path in probed)
        assert not re.fullmatch(excluded, "/search")


def test_a_failed_night_is_over_with_the_next_that_succeeds(objects: list[Object]) -> None:
    (night,) = of_kind(objects, "CronJob")
    name = night["metadata"]["name"]
    failed, _, succeeded = expression("OneVisionNightFailed").rpartition(" > ")
    assert f'kube_job_status_failed{{job_name=~"{name}-.+"}} > 0' in failed
    assert f'max(kube_cronjob_status_last_successful_time{{cronjob="{name}"}})' in succeeded


def test_every_alert_has_its_section_in_the_runbook() -> None:
    headings = re.findall(r"^#+ (\w+)$", (ROOT / "docs" / "cluster.md").read_text(), re.MULTILINE)
    for rule in alerts():
        assert rule["alert"] in headings
        assert rule["annotations"]["runbook"] == f"docs/cluster.md#{rule['alert'].lower()}"


def test_everything_is_in_the_two_namespaces(objects: list[Object]) -> None:
    assert {item["metadata"]["namespace"] for item in objects if item["kind"] != "Namespace"} == OURS


def serve_pods(objects: list[Object], command: str) -> list[Pod]:
    """Pods of the serve image whose arguments begin with this command."""
    images = [pod for pod in pods(objects) if "onevision-serve" in pod.containers[0]["image"].replace("/", "-")]
    return [pod for pod in images if pod.containers[0]["args"][0] == command]


def test_the_servers_options_are_those_of_the_command(objects: list[Object]) -> None:
    command: Any = typer.main.get_command(app)
    servers = serve_pods(objects, "serve")
    assert servers
    for pod in servers:
        words = pod.containers[0]["args"]
        context = command.commands[words[0]].make_context("serve", list(words[1:]))
        assert context.params["host"] == "0.0.0.0"
        assert (context.params["bundle"] is None) != (context.params["store"] is None)
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        assert section_of(ServingConfig, context.params["overrides"] or []).drain_s < grace


@pytest.mark.parametrize("overlay", ["dev", "prod", "prod-kserve", "prod-canary"])
def test_the_feature_server_runs_the_command_where_clients_redis_and_the_registry_expect_it(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"": "production", "_REDIS": "redis:6379", "_REGISTRY": "sqlite://"}.items():
        monkeypatch.setenv(f"FEATURE_STORE{name}", value)
    server = pytest.importorskip("onevision.features.server")
    command: Any = typer.main.get_command(app)
    objects = RENDERED[overlay]
    (pod,) = serve_pods(objects, "features")
    container = pod.containers[0]
    group, name, *words = container["args"]
    asked = command.commands[group].commands[name].make_context(name, list(words)).params
    assert asked == {"host": "0.0.0.0", "port": container["ports"][0]["containerPort"]}
    assert pod.spec["terminationGracePeriodSeconds"] > server.DRAIN_S + 5
    assert container["envFrom"] == [{"secretRef": {"name": "onevision-feature-store"}}]
    paths = {route.path for route in server.create_app().routes}
    assert {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")} <= paths
    policies = {item["metadata"]["name"]: item["spec"] for item in of_kind(objects, "NetworkPolicy")}
    reached = [port["port"] for rule in policies["onevision-features"]["egress"] for port in rule["ports"]]
    assert sorted(reached) == [53, 53, 5432, 6379]
    (entry,) = policies["onevision-features"]["ingress"]
    assert entry["from"] == [{"namespaceSelector": {"matchLabels": {"onevision/features": "allowed"}}}]
    assert entry["ports"] == [{"port": asked["port"], "protocol": "TCP"}]
    allowed = [source["podSelector"] for source in policies["onevision-redis"]["ingress"][0]["from"]]
    assert any(selects(selector, pod.labels) for selector in allowed)


@pytest.mark.parametrize("overlay", RENDERED)
def test_servers_know_the_shared_feature_store_where_there_is_one(overlay: str) -> None:
    objects = RENDERED[overlay]
    shared = any(item["metadata"]["name"] == "onevision-redis" for item in of_kind(objects, "StatefulSet"))
    assert shared == (overlay != "kind")
    servers = serve_pods(objects, "serve")
    assert servers
    for pod in servers:
        secret = [{"secretRef": {"name": "onevision-feature-store"}}] if shared else None
        assert pod.containers[0].get("envFrom") == secret


def test_everything_at_its_most_fits_the_quota(objects: list[Object]) -> None:
    """Servers at the autoscalers' maximum, and one more of each while it is replaced."""
    (quota,) = of_kind(objects, "ResourceQuota")
    most = {s["spec"]["scaleTargetRef"]["name"]: s["spec"]["maxReplicas"] for s in of_kind(objects, SCALER)}
    taken: Counter[str] = Counter()
    for pod in pods(objects):
        if pod.owner["metadata"].get("namespace") != quota["metadata"]["namespace"]:
            continue
        copies = most.get(pod.owner["metadata"]["name"], 0) + 1
        if pod.owner["kind"] == "InferenceService":
            copies = pod.owner["spec"]["predictor"]["maxReplicas"] + 1
        for side, amounts in pod.containers[0]["resources"].items():
            for name, amount in amounts.items():
                taken[f"{side}.{name}"] += copies * amount_of(amount)
    assert {name: amount for name, amount in taken.items() if amount > amount_of(quota["spec"]["hard"][name])} == {}


def amount_of(text: str) -> float:
    """A Kubernetes quantity of processors, or of bytes in binary units."""
    units = {"m": 1e-3, "Mi": 2.0**20, "Gi": 2.0**30}
    number, unit = re.fullmatch(r"([0-9.]+)(m|Mi|Gi)?", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * units.get(unit, 1.0)


def test_the_tasks_of_the_night_run_in_the_image_that_submits_them(objects: list[Object]) -> None:
    night = of_kind(objects, "CronJob")[0]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    image = next(variable["value"] for variable in night["env"] if variable["name"] == "ONEVISION_IMAGE")
    assert image == night["image"]
    assert "/" in image


def test_the_night_submits_a_pipeline_with_the_arguments_that_it_takes(objects: list[Object]) -> None:
    nightly = pytest.importorskip("pipelines.nightly_refresh").nightly_refresh
    job = of_kind(objects, "CronJob")[0]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    assert job["command"] == ["onevision", "submit"]
    command: Any = typer.main.get_command(app)
    asked = command.commands["submit"].make_context("submit", list(job["args"])).params
    assert asked["pipeline"] == "nightly_refresh"
    known = nightly.component_spec.inputs
    given = {word.partition("=")[0] for word in asked["arguments"]}
    assert set(known) >= given
    assert {name for name, entry in known.items() if not entry.optional} <= given
    places = next(item["data"] for item in of_kind(objects, "ConfigMap") if "BUNDLES" in item["data"])
    assert set(re.findall(r"\$\((\w+)\)", " ".join(job["args"]))) == set(places)
    assert {"recipe=$(RECIPE)", "overrides=$(OVERRIDES)"} <= set(asked["arguments"])
    load_recipe(places["RECIPE"], json.loads(places["OVERRIDES"]))
    target = TARGETS[places["TARGET"]]
    assert DIGEST in job["image"] or not target.by_digest


def test_the_canary_differs_from_the_champion_in_store_and_share_alone() -> None:
    champion, canary = (
        of_kind(RENDERED[name], "InferenceService")[0]["spec"]["predictor"] for name in ("prod-kserve", "prod-canary")
    )
    assert canary.pop("canaryTrafficPercent") == 10
    arguments = [predictor["containers"][0].pop("args") for predictor in (champion, canary)]
    assert champion == canary
    assert [word for word in arguments[1] if word not in arguments[0]] == ["--store=gs://shop-prod/challengers"]


def test_the_check_reports_a_broken_overlay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(ROOT / "manifests", tmp_path / "manifests")
    file = copy / "base" / "serving" / "deployment.yaml"
    file.write_text(file.read_text().replace("runAsNonRoot: true", "runAsNonRoot: false"))
    assert any("no_root" in problem for problem in check(copy / "overlays" / "dev")[1])
    (copy / "overlays" / "dev" / "kustomization.yaml").write_text("resources: [none]\n")
    assert main([str(copy / "overlays" / "dev")]) == 1
    assert "none" in capsys.readouterr().err


def test_the_image_installs_everything_that_the_wheel_is_made_of() -> None:
    copied = (ROOT / "images" / "Containerfile").read_text()
    for folder in ("src", "components", "pipelines", "feature_repo"):
        assert f"COPY {folder} {folder}" in copied

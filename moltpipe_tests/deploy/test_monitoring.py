"""Dashboard, alert rules and documentation against the real endpoint of a real studio: what they name is served."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest
import yaml
from dagster._daemon.types import DaemonHeartbeat
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from moltpipe.ledger.accounts import block_account
from moltpipe.ledger.calls import mark_ambiguous, mark_failed
from moltpipe.ledger.database import Database
from moltpipe.ledger.sweeps import OBJECTS_ARE_KNOWN, settle_observations
from moltpipe.runtime.environment import environment
from moltpipe.runtime.metrics import collector, metrics_app
from moltpipe.runtime.services import S3Access, Services
from moltpipe.runtime.webhooks import serving
from moltpipe.settings import Settings
from moltpipe_tests.conftest import _new_database
from moltpipe_tests.deploy.conftest import DEPLOY, TOP
from moltpipe_tests.ledger.beginnings import submitted
from moltpipe_tests.ledger.big_studio import fill

RULES = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"
PAGE = TOP / "docs" / "metrics.md"

_NAME = re.compile(r"\bmoltpipe_[a-z_]+")
_ROLES = {"moltpipe_read"}
_OF_PROMETHEUS = {"instance", "job"}

Served = Mapping[str, set[str]]
"""Names of the labels, by the name of the sample."""


@pytest.fixture(scope="module")
def served(postgres_url: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A studio with a past and one of each trouble, as it is scraped."""
    before = dict(os.environ)
    for url in _new_database(postgres_url, template):
        settings = Settings(
            data_dir=tmp_path_factory.mktemp("data"),
            budget_run_usd=Decimal(1),
            budget_series_usd=Decimal(10),
            budget_day_usd=Decimal(100),
        )
        services = Services(SecretStr(url), S3Access("http://127.0.0.1:9", "key", SecretStr("secret")), frozenset())
        trouble(url)
        os.environ.update(environment(settings, services))
        with dg.DagsterInstance.from_config(os.environ["DAGSTER_HOME"]) as instance:
            instance.add_daemon_heartbeat(DaemonHeartbeat(datetime.now(UTC).timestamp(), "SENSOR", "one", []))
        with (
            collector(settings, services, print) as figures,
            serving(metrics_app(figures), "127.0.0.1", 0) as address,
        ):
            text = httpx.get(f"{address}/metrics", timeout=30, trust_env=False).text
        labels: dict[str, set[str]] = defaultdict(set)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels[sample.name] |= sample.labels.keys()
        yield labels
    os.environ.clear()
    os.environ.update(before)


def trouble(url: str) -> None:
    database = Database(url)
    with database.begin() as db:
        fill(db, scripts=100, takes=500)
        mark_ambiguous(db, submitted(db, "job-1").id, "nobody knows")
        mark_failed(db, submitted(db, "job-2").id, "provider_fault", "it broke", Decimal(0))
        block_account(db, "api.example/1a2b", timedelta(minutes=1), "wait")
        settle_observations(db, OBJECTS_ARE_KNOWN, {"takes/x": {"bytes": 1}}, after="", up_to="takes/x")
    database.dispose()


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> dict[str, str]:
    """Everything in PromQL, by where it stands, as Prometheus would get it."""
    found = {f"alert {rule['alert']}": rule["expr"] for rule in rules()}
    for panel in panels():
        for target in panel.get("targets", ()):
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"].replace("$instance", ".*")
    return found


def test_everything_that_dashboard_and_rules_name_is_served(served: Served) -> None:
    named = {name for one in expressions().values() for name in _NAME.findall(one)}
    assert len(named) > 40
    assert named - served.keys() == set()


def test_labels_are_asked_for_where_they_are(served: Served) -> None:
    for where, expression in expressions().items():
        for name, matchers in re.findall(r"(moltpipe_[a-z_]+)\{([^}]*)\}", expression):
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
            assert asked <= served[name] | _OF_PROMETHEUS, where
        names = _NAME.findall(expression)
        known = set().union(*(served[name] for name in names)) | _OF_PROMETHEUS
        for grouped in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
            assert {one.strip() for one in grouped.split(",")} <= known, where


def test_labels_in_legends_and_summaries_are_those_that_come_out() -> None:
    for rule in rules():
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            # An aggregation keeps what it is told to keep.
            kept = re.search(r"\bby \(([^)]*)\)", rule["expr"])
            assert kept is None or label in kept[1], rule["alert"]
    for panel in panels():
        for target in panel.get("targets", ()):
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                kept = re.search(r"\bby \(([^)]*)\)", target["expr"])
                assert kept is None or label in kept[1], panel["title"]


def test_the_page_tells_of_every_figure_and_of_no_other(served: Served) -> None:
    told = set(_NAME.findall(PAGE.read_text())) - _ROLES
    families = {re.sub(r"_(bucket|sum|count)$", "", name) if "call_seconds" in name else name for name in served}
    assert {name for name in families if name.startswith("moltpipe_")} == told


def test_every_alert_has_its_chapter_and_every_chapter_its_alert() -> None:
    chapters = {line.removeprefix("### ") for line in PAGE.read_text().splitlines() if line.startswith("### ")}
    linked = set()
    for rule in rules():
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert TOP / page == PAGE
        linked.add(anchor)
        assert rule["labels"]["severity"] in ("critical", "warning")
    assert linked == {chapter.lower() for chapter in chapters}


def test_panels_have_their_own_place_and_the_data_source_that_is_chosen() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["targets"]
    rows = [panel["title"] for panel in panels() if panel["type"] == "row"]
    assert rows == [
        "Is it healthy", "Queue", "Time to first take", "Providers", "Money", "Checks and incidents",
        "Dagster and storage",
    ]  # fmt: skip


def promtool(*words: str | Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is missing: apt-get install prometheus")
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_its_configuration_and_the_rules() -> None:
    promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    promtool("check", "rules", RULES)


def test_prometheus_understands_every_panel(tmp_path: Path) -> None:
    recorded = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(expressions().values())]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    promtool("check", "rules", file)


def test_alerts_are_raised_by_their_trouble_and_by_nothing_else(tmp_path: Path) -> None:
    """In Prometheus' own trial of rules: what is well for an hour, and what breaks after half of it."""
    i = 'instance="studio",job="moltpipe"'
    constant = {
        f"moltpipe_up{{{i}}}": "1x120",
        f"up{{{i}}}": "1x120",
        f'moltpipe_watcher_silence_limit_seconds{{{i},watcher="period_sensor"}}': "120x120",
        f'moltpipe_budget_usd{{{i},cap="day"}}': "100x120",
    }
    breaking = {
        # One sample each 30 s: the first 60 well, then 60 broken.
        f'moltpipe_watcher_tick_timestamp_seconds{{{i},watcher="period_sensor"}}': "0+30x60 1800x59",
        f'moltpipe_spend_usd{{{i},cap="day"}}': "10x60 85x59",
        f'moltpipe_calls_open{{{i},engine="veo",operation="film",state="ambiguous"}}': "0x60 1x59",
        f'moltpipe_call_errors_total{{{i},engine="veo",operation="film",error_class="provider_fault"}}': "0x60 0+1x59",
        f'moltpipe_calls_total{{{i},engine="veo",operation="film",state="failed"}}': "0x60 0+1x59",
        f'moltpipe_calls_total{{{i},engine="veo",operation="film",state="ingested"}}': "0+2x119",
        f'moltpipe_check_failed{{{i},check="due_periods_are_closed",severity="error"}}': "0x60 1x59",
        f'moltpipe_reading_up{{{i},reading="dagster"}}': "1x60 0x59",
    }
    raised = {
        "MoltpipeWatcherIsSilent", "MoltpipeBudgetIsNearlySpent", "MoltpipeCallIsUndecided", "MoltpipeProviderFails",
        "MoltpipeCheckFails", "MoltpipeFiguresAreMissing",
    }  # fmt: skip
    by_name = {rule["alert"]: rule for rule in rules()}
    trial = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "30s",
        "tests": [
            {
                "interval": "30s",
                "input_series": [{"series": name, "values": values} for name, values in (constant | breaking).items()],
                "alert_rule_test": [
                    *({"eval_time": "29m", "alertname": name, "exp_alerts": []} for name in by_name),
                    *(
                        {"eval_time": "59m", "alertname": name, "exp_alerts": []}
                        for name in by_name
                        if name not in raised
                    ),
                ],
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})',
                        "eval_time": "59m",
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    }
                    for name in sorted(raised)
                ],
            }
        ],
    }
    file = tmp_path / "trial.yml"
    file.write_text(yaml.safe_dump(trial))
    promtool("test", "rules", file)

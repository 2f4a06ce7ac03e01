"""The bench measures what it says. No time is asserted that a busy machine could change."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from moltpipe.ledger.checks import CHECKS
from moltpipe_tests.bench import at_rest, measuring, overhead, scale, workless
from moltpipe_tests.bench.cases import cases
from moltpipe_tests.bench.measuring import CaseFailed, machine, measure
from moltpipe_tests.bench.registry import CASES, FINDINGS, Case, Finding, Measurement, Python
from moltpipe_tests.bench.report import Report
from moltpipe_tests.bench.scale import Size, look
from moltpipe_tests.bench.workless import STAGES


def hungry(_: Path) -> dict[str, float]:
    """A program below this process holds 200 MiB and works for 0.3 s of processor time."""
    work = "import time\nheld = bytearray(b'x') * (200 << 20)\nwhile time.process_time() < 0.4: sum(held[:1000])"
    subprocess.run([sys.executable, "-I", "-c", work], check=True)
    return {"bytes": 7}


def idle(_: Path) -> dict[str, float]:
    time.sleep(0.3)
    return {}


def broken(_: Path) -> dict[str, float]:
    raise ValueError("the clip is gone")


def test_every_finding_is_about_cases_that_are_listed() -> None:
    assert {name for one in FINDINGS for name in one.needs} <= {one.name for one in cases()}


def test_what_programs_need_counts_for_the_case_that_starts_them(tmp_path: Path) -> None:
    took = measure(Case("hungry", "", hungry), tmp_path)
    assert took is not None
    assert took.peak_mib > 200
    assert took.user_s + took.system_s > 0.3
    assert (took.repeats, took.details) == (3, {"bytes": 7})


def test_waiting_is_no_work(tmp_path: Path) -> None:
    took = measure(Case("idle", "", idle), tmp_path)
    assert took is not None
    assert took.wall_s >= 0.3
    assert took.cores < 0.5


def test_a_case_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(CaseFailed, match="the clip is gone"):
        measure(Case("broken", "", broken), tmp_path)


def stubborn(folder: Path) -> dict[str, float]:
    """Waits for ever, and tells when it is interrupted."""
    try:
        (folder / "at work").touch()
        signal.pause()
    finally:
        (folder / "cleaned up").touch()
    return {}


def test_an_interrupted_bench_lets_its_case_clean_up(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from moltpipe_tests.bench import measuring, registry, test_bench\n"
    program += "measuring.measure(registry.Case('stubborn', '', test_bench.stubborn), Path(sys.argv[1]))"
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stderr=subprocess.DEVNULL) as bench:
        while not (tmp_path / "at work").exists():
            assert bench.poll() is None
            time.sleep(0.05)
        bench.send_signal(signal.SIGINT)
    assert (tmp_path / "cleaned up").exists()


def test_a_rival_that_is_not_installed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "RIVALS", tmp_path / "python")
    assert measure(Case("idle", "", idle, python=Python.RIVALS), tmp_path) is None


def test_a_promise_is_kept_or_not_or_was_never_made() -> None:
    def promised(at_least: float | None, at_most: float | None) -> Finding:
        return Finding("", "", "", (), lambda _: 0.0, at_least=at_least, at_most=at_most)

    assert [promised(8, None).met(value) for value in (7.9, 8)] == [False, True]
    assert [promised(None, 150).met(value) for value in (150, 151)] == [True, False]
    assert promised(None, None).met(1) is None


def test_every_promise_names_its_peer_or_its_floor_or_is_a_limit_of_its_own_unit() -> None:
    promised = [one for one in FINDINGS if one.at_least is not None or one.at_most is not None]
    assert promised
    assert [one.name for one in promised if one.unit == "x" and not one.against] == []


def test_the_graph_without_work_is_the_graph_of_the_studio() -> None:
    graph = workless.defs.resolve_asset_graph()
    for real in STAGES:
        bare = graph.get(real.key)
        assert bare.parent_keys == {dependency.asset_key for spec in real.specs for dependency in spec.deps}
        assert bare.check_keys == {spec.key for spec in real.check_specs}
    repository = workless.defs.get_repository_def()
    executors = {repository.get_job(name).executor_def.name for name in (workless.OURS, workless.DEFAULT)}
    assert executors == {"in_process", "multi_or_in_process_executor"}


@pytest.mark.e2e
def test_the_bare_start_of_a_run_and_the_memory_of_a_stack_are_measured(tmp_path: Path) -> None:
    took = at_rest.look(tmp_path, runs=1)
    held = {name.removeprefix(at_rest.HELD) for name in took if name.startswith(at_rest.HELD)}
    assert held == {"code-server", "webserver", "daemon", "postgres", "s3"}
    assert took["start_processor_s"] > 0
    assert took["start_s"] > 0


@pytest.mark.e2e
def test_both_executors_make_the_episodes_of_a_backfill(tmp_path: Path) -> None:
    took = overhead.look(tmp_path, episodes=2, by_default=1)
    assert took["processor_s"] > 0
    assert took["processor_by_default_s"] > 0


def test_the_report_is_a_table_and_the_same_figures_as_json(tmp_path: Path) -> None:
    def took(wall_s: float) -> Measurement:
        return Measurement(wall_s, user_s=wall_s, system_s=0.0, peak_mib=100, repeats=3, details={})

    report = Report(machine(), {"stitch": took(1.0), "stitch ffmpeg": took(7.0)}, {"gate": "left out"})
    report.write(tmp_path / "deep" / "bench.json")
    written = json.loads((tmp_path / "deep" / "bench.json").read_text(encoding="utf-8"))
    assert {"cores", "processor", "memory_gib", "ffmpeg", "python"} <= set(written["machine"])
    assert written["cases"]["stitch ffmpeg"]["wall_s"] == 7
    [found] = written["findings"]
    assert (found["name"], found["value"], found["at_least"], found["met"]) == ("stitch / ffmpeg", 7.0, 8, False)
    assert found["against"] == "encoding it again by FFmpeg"
    for markdown in (False, True):
        screen = io.StringIO()
        report.show(Console(file=screen, width=160), markdown=markdown)
        said = screen.getvalue()
        assert CASES["stitch"].what in said
        assert "7.0 x" in said
        assert "NO" in said
        assert "gate: left out" in said


def test_the_scale_case_takes_the_time_of_every_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "LOOKS", 1)
    took = look(tmp_path, Size(scripts=100, takes=200))
    assert {"filling_s", "checks", "status", "status command", "period_sensor", "integrity_sensor"} < set(took)
    assert {name.removeprefix("check ") for name in took if name.startswith("check ")} == {one.name for one in CHECKS}
    assert took["checks"] == pytest.approx(sum(took[f"check {one.name}"] for one in CHECKS))
    measured = {"scale": Measurement(1.0, user_s=1.0, system_s=0.0, peak_mib=1, repeats=1, details=took)}
    found = {one["name"]: one for one in Report(machine(), measured, {}).findings()}
    slowest = max(took[f"check {one.name}"] for one in CHECKS)
    assert found["slowest check"]["value"] == slowest
    limits = {name: one["at_most"] for name, one in found.items() if one["at_most"] is not None}
    assert limits == {
        "all checks": 2000,
        "status": 1000,
        "status command": 1000,
        "period_sensor": 1000,
        "production_sensor": 1000,
        "integrity_sensor": 1000,
    }

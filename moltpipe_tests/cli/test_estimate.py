from __future__ import annotations

import json
from pathlib import Path

import pytest

from moltpipe import samples
from moltpipe_tests.cli.conftest import Moltpipe, commands

SCRIPT = samples.sample_scripts()[0]
SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def moltpipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Moltpipe:
    """Calls `moltpipe WORDS…` where there is neither database nor store."""
    return commands("postgresql://nobody:nothing@127.0.0.1:1/nowhere", tmp_path, monkeypatch, capfd)


def test_an_estimate_needs_no_service_and_leaves_nothing_behind(moltpipe: Moltpipe, tmp_path: Path) -> None:
    said = moltpipe("estimate", SCRIPT, "--json")
    assert said.status == 0
    assert said.json["script"] == str(SCRIPT)
    assert said.json["total_usd"] == 0
    assert said.json["unknown_prices"] == []
    assert said.json["lines"][0] == {
        "stage": "script",
        "engine": "outline",
        "model": "outline-1",
        "calls": 4,
        "basis": "made on this machine",
        "usd": 0,
    }
    assert [one["episode_number"] for one in said.json["per_episode"]] == [1, 2, 3, 4, 5]
    assert said.json["caps"]["budget_run_usd"] == {"limit_usd": None, "needed_usd": 0, "fits": True}
    assert list(tmp_path.iterdir()) == []


def test_an_audio_pack_is_quoted_for_its_voice_alone(moltpipe: Moltpipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLTPIPE_VOICE", "elevenlabs")
    monkeypatch.setenv("MOLTPIPE_ELEVENLABS_PRICE_USD", "0.2")
    monkeypatch.setenv("MOLTPIPE_CAMERA", "veo")
    (pack,) = samples.sample_packs()
    document = moltpipe("estimate", pack, "--json").json
    (voice,) = document["lines"]
    assert (voice["stage"], voice["engine"]) == ("voice", "elevenlabs")
    spoken = sum(
        len(one["narration_text"]) + len(one.get("recap", "")) for one in json.loads(pack.read_text())["episodes"]
    )
    assert voice["usd"] == pytest.approx(0.2 * spoken / 1000, rel=0.02)
    assert [one["title"] for one in document["per_episode"]][:2] == ["Monday: Load", "Tuesday: Call"]
    assert all(180 <= one["seconds"] <= 400 for one in document["per_episode"])
    said = moltpipe("estimate", pack)
    assert "“Known by Weight”, an audio series" in said.out
    assert "drafted" not in said.err


def test_hosted_engines_are_quoted_without_a_key(moltpipe: Moltpipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLTPIPE_CAMERA", "veo")
    monkeypatch.setenv("MOLTPIPE_VEO_PRICE_USD", "0.25")
    monkeypatch.setenv("MOLTPIPE_BUDGET_RUN_USD", "1")
    monkeypatch.setenv("MOLTPIPE_BUDGET_SERIES_USD", "1000")
    document = moltpipe("estimate", SCRIPT, "--json").json
    (picture,) = [one for one in document["lines"] if one["stage"] == "picture"]
    seconds = float(picture["basis"].split()[0])
    assert picture["basis"].endswith("second at $0.25 (your own price)")
    assert picture["usd"] == pytest.approx(seconds * 0.25)
    assert document["total_usd"] == pytest.approx(sum(one["usd"] for one in document["per_episode"]))
    assert document["caps"]["budget_run_usd"]["fits"] is False
    assert document["caps"]["budget_series_usd"] == {
        "limit_usd": 1000,
        "needed_usd": document["total_usd"],
        "fits": True,
    }


def test_people_read_the_sum_and_whether_it_fits(moltpipe: Moltpipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLTPIPE_CAMERA", "veo")
    monkeypatch.setenv("MOLTPIPE_VEO_PRICE_USD", "0.25")
    monkeypatch.setenv("MOLTPIPE_BUDGET_DAY_USD", "2.50")
    said = moltpipe("estimate", SCRIPT)
    assert said.status == 0
    total = moltpipe("estimate", SCRIPT, "--json").json["total_usd"]
    assert f"total: {total:.2f} USD" in said.out
    assert f"MOLTPIPE_BUDGET_DAY_USD=2.50 is not enough ({total:.2f} USD needed)" in said.out
    assert "MOLTPIPE_BUDGET_RUN_USD" not in said.out
    assert "“The Buoy That Answered” at 360p24" in said.out
    assert "drafted" in said.err
    assert "nothing is made before this is set: MOLTPIPE_VEO_API_KEY" in " ".join(said.err.split())


def test_a_price_that_nobody_knows_is_said_aloud_and_is_no_failure(
    moltpipe: Moltpipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLTPIPE_CAMERA", "ltx2")
    monkeypatch.setenv("MOLTPIPE_LTX2_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("MOLTPIPE_BUDGET_DAY_USD", "5")
    said = moltpipe("estimate", SCRIPT)
    assert said.status == 0
    assert "total: unknown USD\n" in said.out
    assert "at least 0.00" not in said.out
    assert "no price is known for" in said.out
    assert "MOLTPIPE_LTX2_PRICE_USD" in " ".join(said.out.split())
    assert "MOLTPIPE_BUDGET_DAY_USD=5 holds calls back whose price is not known" in said.out
    document = moltpipe("estimate", SCRIPT, "--json").json
    (unknown,) = document["unknown_prices"]
    assert (unknown["stage"], unknown["engine"]) == ("picture", "ltx2")
    assert [one["usd"] for one in document["lines"] if one["engine"] == "ltx2"] == [None]
    assert document["caps"]["budget_day_usd"]["fits"] is None


def test_a_bad_script_is_refused_as_at_the_door(moltpipe: Moltpipe, tmp_path: Path) -> None:
    bad = SCRIPTS / "bad_missing_parts.json"
    said = moltpipe("estimate", bad, "--json")
    assert said.status == 1
    (refused,) = said.json["refused"]
    assert refused["file"] == str(bad)
    assert [one["path"] for one in refused["errors"]] == [
        "arc",
        "series_bible.do_not_change",
        "shots[0].audio",
        "poster_spec.style",
    ]
    said = moltpipe("estimate", bad)
    assert (said.status, said.out) == (1, "")
    assert "arc: is required" in said.err
    missing = moltpipe("estimate", tmp_path / "missing.json", "--json")
    assert missing.status == 1
    assert "No such file" in missing.json["refused"][0]["errors"][0]["rule"]


def test_a_script_that_asks_for_a_camera_without_an_address_is_a_wrong_setting(
    moltpipe: Moltpipe, tmp_path: Path
) -> None:
    document = json.loads(SCRIPT.read_text())
    document["shots"][0]["engine"] = "ltx2"
    script = tmp_path / "script.json"
    script.write_text(json.dumps(document))
    said = moltpipe("estimate", script, "--json")
    assert (said.status, said.out) == (2, "")
    assert "MOLTPIPE_LTX2_BASE_URL is not set" in said.err


def test_a_wrong_setting_stops_it(moltpipe: Moltpipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLTPIPE_CAMERA", "polaroid")
    said = moltpipe("estimate", SCRIPT)
    assert said.status == 2
    assert said.err.startswith("MOLTPIPE_CAMERA")


def test_an_estimate_of_nothing_is_wrong_usage(moltpipe: Moltpipe) -> None:
    assert moltpipe("estimate").status == 2
    assert moltpipe("estimate", SCRIPT, "--jsn").status == 2

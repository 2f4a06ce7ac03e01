from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from moltpipe import samples
from moltpipe.ledger.database import Database
from moltpipe.ledger.status import status
from moltpipe_tests.cli.conftest import Moltpipe, now
from moltpipe_tests.stories import a_filed_script

SCRIPTS = Path(__file__).parents[1] / "scripts"
GOOD = SCRIPTS / "good_plain.json"
BAD = SCRIPTS / "bad_missing_parts.json"


def scripts_filed(database: Database) -> int:
    with database.begin() as db:
        counts: dict[str, int] = status(db, now())["scripts"]
    return sum(counts.values())


def test_good_scripts_are_filed_and_told_by_file_id_and_title(moltpipe: Moltpipe, database: Database) -> None:
    files = samples.sample_scripts()[:2]
    said = moltpipe("submit", *files, "--agent", "molt", "--json")
    assert said.status == 0
    assert said.json["refused"] == []
    assert [one["file"] for one in said.json["filed"]] == [str(file) for file in files]
    assert [one["title"] for one in said.json["filed"]] == ["The Buoy That Answered", "Exact Change"]
    assert len({one["script_id"] for one in said.json["filed"]}) == scripts_filed(database) == 2


def test_an_audio_pack_is_filed_beside_pilots_and_people_are_told_that_it_is_one(
    moltpipe: Moltpipe, database: Database
) -> None:
    (pack,) = samples.sample_packs()
    said = moltpipe("submit", pack, GOOD, "--agent", "molt", "--json")
    assert said.status == 0
    assert [(one["title"], one["medium"]) for one in said.json["filed"]] == [
        ("Known by Weight", "audio"),
        ("The Kettle", "video"),
    ]
    assert scripts_filed(database) == 2
    assert "“Known by Weight” for studio molt-drama, an audio series" in moltpipe("submit", pack, "--agent", "molt").out


def test_all_that_is_wrong_with_a_pack_is_said_at_once_and_a_doubtful_length_is_a_note(
    moltpipe: Moltpipe, tmp_path: Path
) -> None:
    said = moltpipe("submit", SCRIPTS / "bad_pack.json", "--agent", "molt")
    assert said.status == 1
    assert 'episodes[0].narration_text = "Too short.": needs at least 100 characters, has 10' in said.err
    assert "episodes[2].recap: is required for episodes 2 to 5" in said.err
    document = json.loads((SCRIPTS / "good_pack.json").read_text())
    document["episodes"][3]["narration_text"] = "The kettle waits for somebody. " * 20
    brief = tmp_path / "brief.json"
    brief.write_text(json.dumps(document))
    said = moltpipe("submit", brief, "--agent", "molt", "--json")
    assert said.status == 0
    (note,) = said.json["warned"][0]["warnings"]
    assert note["path"] == "episodes[3].narration_text"
    assert "180 to 360 seconds" in note["rule"]


def test_a_bad_script_is_refused_with_every_error_and_the_others_are_filed(
    moltpipe: Moltpipe, database: Database
) -> None:
    said = moltpipe("submit", BAD, GOOD, "--agent", "molt", "--json")
    assert said.status == 1
    assert [one["file"] for one in said.json["filed"]] == [str(GOOD)]
    (refused,) = said.json["refused"]
    assert refused["file"] == str(BAD)
    assert refused["errors"] == [
        {"path": path, "value": None, "rule": "is required"}
        for path in ("arc", "series_bible.do_not_change", "shots[0].audio", "poster_spec.style")
    ]
    assert scripts_filed(database) == 1


def test_people_read_where_what_and_why(moltpipe: Moltpipe) -> None:
    said = moltpipe("submit", SCRIPTS / "bad_palette.json", GOOD, "--agent", "molt")
    assert said.status == 1
    assert said.out.count("\n") == 1
    assert "“The Kettle” for studio molt-drama" in said.out
    assert 'poster_spec.palette[0] = "copper": must be a colour such as #1a2b3c' in said.err
    assert "1 of 2 refused" in said.err


@pytest.mark.parametrize(
    ("name", "rule"),
    [("missing.json", "No such file or directory"), (".", "Is a directory"), ("endless", "at most 256 KiB")],
)
def test_what_cannot_be_read_is_refused_as_a_script_is(
    moltpipe: Moltpipe, tmp_path: Path, name: str, rule: str
) -> None:
    (tmp_path / "endless").symlink_to("/dev/zero")
    said = moltpipe("submit", tmp_path / name, GOOD, "--agent", "molt", "--json")
    assert said.status == 1
    (refused,) = said.json["refused"]
    assert rule in refused["errors"][0]["rule"]
    assert len(said.json["filed"]) == 1


def test_a_file_name_that_is_no_text_can_be_told(moltpipe: Moltpipe, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.json")
    said = moltpipe("submit", name, "--agent", "molt", "--json")
    assert said.json["refused"][0]["file"] == str(tmp_path / "caf\ufffd.json")


def test_notes_do_not_refuse(moltpipe: Moltpipe) -> None:
    said = moltpipe("submit", SCRIPTS / "good_of_an_older_agent.json", "--agent", "molt", "--json")
    assert said.status == 0
    assert said.json["warned"][0]["warnings"][0]["path"] == "shots[1].audio.dialogue.speaker"


def test_an_agent_keeps_its_studio_for_a_genre(moltpipe: Moltpipe) -> None:
    studios = [moltpipe("submit", GOOD, "--agent", "molt", "--json").json["filed"][0]["studio"] for _ in range(2)]
    other = moltpipe("submit", GOOD, "--agent", "clam", "--json").json["filed"][0]["studio"]
    assert studios == ["molt-drama", "molt-drama"]
    assert other == "clam-drama"


def test_a_named_studio_must_exist_be_the_agents_and_make_the_genre(moltpipe: Moltpipe, database: Database) -> None:
    theirs = a_filed_script(database).studio_slug
    moltpipe("submit", GOOD, "--agent", "molt")

    def errors(file: Path, studio: str) -> list[dict[str, str]]:
        said = moltpipe("submit", file, "--agent", "molt", "--studio", studio, "--json")
        assert (said.status, said.json["filed"]) == (1, [])
        found: list[dict[str, str]] = said.json["refused"][0]["errors"]
        return found

    (unknown,) = errors(GOOD, "nowhere")
    assert (unknown["path"], unknown["value"]) == ("studio", "nowhere")
    comedy = samples.sample_scripts()[1]
    (genre,) = errors(comedy, "molt-drama")
    assert (genre["path"], genre["value"]) == ("genre", "comedy")
    science_fiction = samples.sample_scripts()[0]
    (owner,) = errors(science_fiction, theirs)
    assert (owner["path"], owner["value"]) == ("studio", theirs)
    assert moltpipe("submit", GOOD, "--agent", "molt", "--studio", "molt-drama").status == 0


def test_titles_reach_the_terminal_as_they_were_written_and_never_as_commands(
    moltpipe: Moltpipe, tmp_path: Path
) -> None:
    script = json.loads(GOOD.read_text()) | {"title": "[red]Kettle[/] :bomb: 🫖 \x1b[2J"}
    file = tmp_path / "script.json"
    file.write_text(json.dumps(script))
    said = moltpipe("submit", file, "--agent", "molt")
    assert "“[red]Kettle[/] :bomb: 🫖 \\u001b[2J”" in said.out
    assert "\x1b" not in said.out

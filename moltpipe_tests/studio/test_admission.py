from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltpipe.studio.admission import Admission, InvalidJson, judge, parse_json, read
from moltpipe.studio.documents import MAX_BYTES, MAX_DEPTH
from moltpipe.studio.narration import AudioPack, bible_of, narration_script, poster_spec_of
from moltpipe.studio.screenplay import MAX_SHOTS, PilotScript, PosterSpec, SeriesBible

SCRIPTS = Path(__file__).parent.parent / "scripts"

# Path and value of every error in a bad script, in reading order, with words that its rule must hold.
BAD: dict[str, list[tuple[str, object, str]]] = {
    "bad_anchors.json": [
        ("series_bible.character_anchors[1].id", "CHAR_KETTLE", "only once"),
        ("series_bible.location_anchors[1].id", "LOC_KITCHEN", "only once"),
        ("shots[1].audio.dialogue.speaker", "CHAR_SPOON", "there are CHAR_KETTLE"),
        ("shots[2].prompt.details", "LOC_KITCHEN seen from LOC_GARDEN, LOC_GARDEN in rain", "names LOC_GARDEN"),
        ("shots[4].extra.cast[1]", "CHAR_Kettle", "names CHAR_Kettle"),
    ],
    "bad_characters.json": [
        ("logline", "A kettle\\u0000waits all night.", "NUL"),
        ("shots[0].note", "half a pair: \\ud83d", "surrogate"),
        ('["no\\\\u0000te"]', None, "NUL"),
    ],
    "bad_clip_outlasts_shot.json": [("shots[3].duration_seconds", 6, "which has 8 seconds")],
    "bad_comma.json": [("", None, "line 3, column 1")],
    "bad_limits.json": [
        ("title", "x" * 79 + "…", "at most 200 characters, has 201"),
        ("logline", "Too short", "at least 10 characters, has 9"),
        ("genre", "western", "comedy, drama, thriller"),
        ("arc.beat_2", "   ", "must not be empty"),
        ("series_bible.character_anchors[0].id", "CHAR_kettle", "capital letters"),
        ("series_bible.location_anchors[0].id", "KITCHEN", "LOC_"),
        ("shots[0].gen_clip_seconds", 2.5, "at least 3 seconds"),
        ("shots[1].audio.dialogue.speaker", "CHAR_KETTLE", "there are CHAR_kettle"),
        ("shots[1].duration_seconds", 15.5, "at most 15 seconds"),
        ("shots[2].edit_extend_strategy", "zoom", "slow_2d_pan"),
        ("shots[3].audio.type", "song", "ambient or silent"),
        ("poster_spec.palette", "list of 6", "at most 5 colours, there are 6"),
    ],
    "bad_missing_parts.json": [
        ("arc", None, "required"),
        ("series_bible.do_not_change", None, "required"),
        ("shots[0].audio", None, "required"),
        ("poster_spec.style", None, "required"),
    ],
    "bad_not_an_object.json": [("", "list of 1", "JSON object")],
    "bad_nothing_to_say.json": [
        ("shots[0].audio", " … ", "narration needs words"),
        ("shots[1].audio", None, "dialogue needs words"),
        ("shots[2].audio.dialogue.line", "...", "words to speak"),
        ("shots[3].audio.dialogue.line", "", "must not be empty"),
    ],
    "bad_numbers.json": [
        ("shots[0].gen_clip_seconds", "nan", "finite"),
        ("shots[1].duration_seconds", "inf", "finite"),
        ("budget", "whole number of 100 bits", "2 to the 53rd"),
    ],
    "bad_camera.json": [
        ("shots[1].engine", "sora", "must be one of animatic, ltx2, replicate, veo, heygen or stock"),
        ("shots[2].kind", "cartoon", "must be one of generated, talking_head, stock or animatic"),
    ],
    "bad_pack.json": [
        ("title", "", "must not be empty"),
        ("genre", "western", "comedy, drama, thriller"),
        ("series_bible.character_anchors[0].id", "KETTLE", "CHAR_"),
        ("episodes[0].narration_text", "Too short.", "at least 100 characters, has 10"),
        ("episodes[1].episode_number", 6, "at most 5"),
        ("episodes[2].recap", None, "required for episodes 2 to 5"),
        ("episodes[3].episode_number", 3, "only once"),
        ("episodes[3].narration_text", "… " * 39 + "……", "words to speak"),
        ("episodes[4].title", None, "must be text"),
        ("episodes[4].recap", "x" * 79 + "…", "at most 600 characters, has 601"),
        ("episodes[4].recap", "x" * 79 + "…", "a word may have at most 100"),
        ("narration_voice_id", "v" * 79 + "…", "at most 200 characters, has 201"),
        ("poster_spec.palette[0]", "copper", "six hex digits"),
    ],
    "bad_pack_too_few.json": [
        ("series_bible", None, "required"),
        ("episodes", "list of 2", "must be 5 episodes, there are 2"),
        ("episodes[1].episode_number", 1, "only once"),
    ],
    "bad_palette.json": [
        ("poster_spec.palette[0]", "copper", "six hex digits"),
        ("poster_spec.palette[1]", "#fff", "six hex digits"),
    ],
    "bad_repeated_key.json": [("shots[1].prompt.camera", "macro", "only once")],
    "bad_runtime_long.json": [("shots", 105.0, "30 to 90 seconds, these last 105")],
    "bad_runtime_short.json": [("shots", 29.4, "30 to 90 seconds, these last 29.4")],
    "bad_too_few_shots.json": [("shots", "list of 5", "at least 6 shots, there are 5")],
    "bad_too_many_shots.json": [("shots", "list of 13", "at most 12 shots, there are 13")],
    "bad_types.json": [
        ("title", 7, "must be text"),
        ("arc", "three beats", "object with named fields"),
        ("series_bible.location_anchors", "object with LOC_KITCHEN", "must be a list"),
        ("shots[0].gen_clip_seconds", "5", "number of seconds"),
        ("shots[1].duration_seconds", True, "number of seconds"),
        ("shots[2]", None, "object with named fields"),
    ],
    "bad_transition.json": [
        ("medium", "radio", "must be one of video or audio"),
        ("shots[1].transition", "wipe", "must be one of cut, crossfade or fade_through_black"),
    ],
}


def good() -> dict[str, Any]:
    document = json.loads((SCRIPTS / "good_plain.json").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def good_pack() -> dict[str, Any]:
    document = json.loads((SCRIPTS / "good_pack.json").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def rules(admission: Admission) -> dict[str, str]:
    return {refusal.path: refusal.rule for refusal in admission.refusals}


def notes(document: dict[str, Any]) -> dict[str, str]:
    admission = judge(document)
    assert admission.refusals == ()
    return {note.path: note.rule for note in admission.warnings}


@pytest.mark.parametrize("name", sorted(BAD))
def test_every_error_of_a_bad_script_is_named_at_once_and_nothing_else(name: str) -> None:
    admission = read((SCRIPTS / name).read_bytes())
    assert admission.script is None
    assert [(one.path, one.value) for one in admission.refusals] == [(path, value) for path, value, _ in BAD[name]]
    for refusal, (_, _, words) in zip(admission.refusals, BAD[name], strict=True):
        assert words in refusal.rule


def test_every_bad_script_is_in_the_table() -> None:
    assert sorted(BAD) == sorted(file.name for file in SCRIPTS.glob("bad_*.json"))


@pytest.mark.parametrize("file", sorted(SCRIPTS.glob("good_*.json")), ids=lambda file: file.stem)
def test_a_good_script_is_admitted_as_sent(file: Path) -> None:
    admission = read(file.read_bytes())
    assert admission.refusals == ()
    assert admission.script is not None
    assert admission.document == json.loads(file.read_text(encoding="utf-8"))


def test_what_is_filed_can_be_read_back_as_the_same_script() -> None:
    admission = read((SCRIPTS / "good_of_an_older_agent.json").read_bytes())
    assert PilotScript.model_validate(admission.document) == admission.script


def test_unknown_keys_are_kept() -> None:
    script = read((SCRIPTS / "good_of_an_older_agent.json").read_bytes()).script
    assert isinstance(script, PilotScript)
    assert script.model_extra == {"agent_version": "0.3"}
    assert script.shots[0].audio.model_extra == {"mix": {"reverb": 0.2}}


def test_an_error_under_the_legacy_poster_key_is_named_where_it_was_sent() -> None:
    document = good()
    document["Scripter_spec"] = document.pop("poster_spec") | {"style": "", "palette": ["red"]}
    assert set(rules(judge(document))) == {"Scripter_spec.style", "Scripter_spec.palette[0]"}


def test_a_script_of_another_genre_than_the_studios_is_refused() -> None:
    assert judge(good(), studio_genre="drama").script is not None
    refused = judge(good(), studio_genre="sci_fi")
    assert refused.script is None
    assert rules(refused) == {"genre": "must be the studio's genre, sci_fi"}


@pytest.mark.parametrize(("runtime", "admitted"), [(29.9, False), (30, True), (90, True), (90.1, False)])
def test_the_limits_of_the_runtime_are_admitted(runtime: float, *, admitted: bool) -> None:
    document = good()
    for shot in document["shots"]:
        shot["gen_clip_seconds"] = 4
        shot["duration_seconds"] = 5
    document["shots"] += [copy.deepcopy(document["shots"][2])] * (6 if runtime > 60 else 0)
    rest = runtime - 5 * (len(document["shots"]) - 6)
    for shot in document["shots"][:6]:
        shot["duration_seconds"] = rest / 6
    assert (judge(document).script is not None) is admitted


def test_misshapen_shots_count_as_shots() -> None:
    document = good()
    document["shots"][1:5] = ["", None, 1, []]
    assert "shots" not in rules(judge(document))


def test_too_many_misshapen_shots_are_still_too_many() -> None:
    document = good()
    document["shots"] = [None] * (MAX_SHOTS + 1)
    assert "there are 13" in rules(judge(document))["shots"]


def test_a_plain_name_may_speak_but_gets_a_note() -> None:
    document = good()
    document["shots"][1]["audio"]["dialogue"]["speaker"] = "An old spoon"
    assert "shots[1].audio.dialogue.speaker" in notes(document)


def test_a_character_may_be_named_in_prose() -> None:
    document = good()
    document["shots"][2]["prompt"]["scene"] = "CHAR_KETTLE's shadow; (LOC_KITCHEN), at dawn. MYCHAR_X is no id."
    assert judge(document).script is not None


def test_notes_say_what_the_author_may_want_to_know() -> None:
    document = good()
    document["title"] = "It"
    document["logline"] = "A kettle waits."
    document["series_bible"]["location_anchors"] = []
    document["series_bible"]["character_anchors"] = []
    document["shots"][1]["audio"] = {"type": "dialogue", "description": "Anybody?"}
    for shot in document["shots"]:
        shot["prompt"]["camera"] = "from inside the kettle"
        shot["gen_clip_seconds"] = 3
        shot["duration_seconds"] = 5
    document["shots"][0]["edit_extend_strategy"] = "none"
    document["shots"][0]["prompt"]["motion"] = "boiling"
    document["shots"][5]["audio"] = {"type": "silent", "dialogue": {"speaker": "NARRATOR", "line": "Hush."}}
    found = notes(document)
    cameras = {f"shots[{index}].prompt.camera" for index in range(6)}
    assert set(found) == cameras | {
        "title",
        "logline",
        "series_bible.location_anchors",
        "series_bible.character_anchors",
        "shots",
        "shots[0].prompt.motion",
        "shots[0].edit_extend_strategy",
        "shots[1].audio",
        "shots[5].audio.dialogue.line",
    }
    assert "2 seconds before its shot" in found["shots[0].edit_extend_strategy"]


@pytest.mark.parametrize("seconds", [34, 81])
def test_a_short_and_a_long_pilot_get_a_note(seconds: int) -> None:
    document = good()
    for shot in document["shots"]:
        shot["duration_seconds"] = seconds / 6
    assert "pilot" in notes(document)["shots"]


# Audio packs


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, AudioPack),
        ({"medium": "audio"}, AudioPack),
        ({"medium": None}, AudioPack),
        ({"shots": []}, PilotScript),
        ({"medium": "video"}, PilotScript),
        ({"medium": "audio", "shots": []}, AudioPack),
    ],
)
def test_a_pack_is_told_from_a_pilot_by_what_is_in_it_unless_it_says_what_it_is(
    changes: dict[str, Any], kind: type
) -> None:
    admission = judge(good_pack() | changes)
    assert isinstance(admission.script, AudioPack) == (kind is AudioPack)
    assert ("shots" in rules(admission)) == (kind is PilotScript)


def test_a_lone_narration_is_judged_as_a_pack() -> None:
    assert rules(judge({"narration_text": "Once."}))["episodes"] == "is required"


def test_a_pack_of_another_genre_than_the_studios_is_refused() -> None:
    assert rules(judge(good_pack(), studio_genre="sci_fi")) == {"genre": "must be the studio's genre, sci_fi"}
    assert judge(good_pack(), studio_genre="drama").script is not None


def test_the_parts_of_a_packs_bible_keep_the_limits_that_those_of_a_pilot_have() -> None:
    too_long = {"do_not_change": ["x" * 101], "global_style_bible": ""}
    assert set(rules(judge(good_pack() | {"series_bible": too_long}))) == {
        "series_bible.do_not_change[0]",
        "series_bible.global_style_bible",
    }


def test_a_pack_keeps_what_it_was_sent_with_and_may_number_its_episodes_in_any_order() -> None:
    document = good_pack() | {"agent_version": "0.3"}
    document["episodes"].reverse()
    script = judge(document).script
    assert isinstance(script, AudioPack)
    assert script.model_extra == {"agent_version": "0.3"}
    assert [one.episode_number for one in script.episodes] == [5, 4, 3, 2, 1]


@pytest.mark.parametrize("field", ["narration_text", "recap"])
def test_a_word_that_nobody_can_speak_is_refused_with_its_length(field: str) -> None:
    document = good_pack()
    document["episodes"][1][field] = "Once upon a time. " * 6 + "a" * 480
    refused = judge(document)
    assert refused.script is None
    assert rules(refused) == {
        f"episodes[1].{field}": f"a word may have at most 100 letters and digits, {'a' * 79}… has 480"
    }


def test_a_narration_that_is_a_single_word_is_refused() -> None:
    document = good_pack()
    document["episodes"][0]["narration_text"] = "a" * 3400
    assert "has 3400" in rules(judge(document))["episodes[0].narration_text"]


@pytest.mark.parametrize(
    "text",
    [
        "灯台は夜を照らす" * 60,
        "tick-" * 100,
        "Donaudampfschiffahrtsgesellschaftskapitän " * 12,
        "ประภาคารส่องแสงในยามค่ำคืน" * 12,
    ],
    ids=["no blanks", "hyphens", "german", "thai"],
)
def test_long_words_that_can_be_spoken_are_let_in(text: str) -> None:
    document = good_pack()
    document["episodes"][0]["narration_text"] = text
    assert rules(judge(document)) == {}


@pytest.mark.parametrize(("words", "noted"), [(540, True), (560, False), (890, False), (905, True)])
def test_an_episode_that_may_become_too_short_or_too_long_gets_a_note(words: int, *, noted: bool) -> None:
    document = good_pack()
    document["episodes"][0]["narration_text"] = "so it is it " * (words // 4) + "so " * (words % 4)
    found = notes(document)
    assert ("episodes[0].narration_text" in found) is noted
    assert set(found) <= {"episodes[0].narration_text"}
    if noted:
        assert "180 to 360 seconds" in found["episodes[0].narration_text"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_does_not_matter(encoding: str) -> None:
    assert parse_json('{"title": "Tür"}'.encode(encoding)) == {"title": "Tür"}


def test_a_byte_order_mark_in_text_does_not_matter() -> None:
    assert parse_json("\ufeff[1]") == [1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "line 1, column 1"),
        (b"{", "line 1"),
        (b"\xff\xfe\xfa", "cannot be read"),
        (b'{"title": "\xe9"}', "byte 12"),
        (b"[" * 100_000, f"{MAX_DEPTH} deep"),
        (b"9" * 5_000, "digits"),
        (b" " * (MAX_BYTES + 1), "256 KiB"),
        (b'{"a": 1} {"b": 2}', "line 1, column 10"),
    ],
    ids=["empty", "cut off", "not text", "latin-1", "deep", "long number", "huge", "two documents"],
)
def test_text_that_is_no_document_is_refused_with_the_place(text: bytes, words: str) -> None:
    with pytest.raises(InvalidJson, match=words) as refused:
        parse_json(text)
    assert refused.value.refusal.path == ""
    assert read(text).refusals == (refused.value.refusal,)


def test_deep_nesting_is_refused_with_the_place() -> None:
    document = good()
    nested: Any = document["arc"]
    for _ in range(MAX_DEPTH):
        nested["x"] = {}
        nested = nested["x"]
    (refusal,) = judge(document).refusals
    assert refusal.path == "arc" + ".x" * MAX_DEPTH
    assert f"at most {MAX_DEPTH} deep" in refusal.rule


def test_a_document_that_holds_itself_is_refused() -> None:
    document = good()
    document["series_bible"]["again"] = document
    assert judge(document).script is None


@pytest.mark.parametrize("much", ["x" * (MAX_BYTES + 1), list(range(20_001))], ids=["text", "values"])
def test_a_huge_document_is_refused(much: object) -> None:
    (refusal,) = judge(good() | {"appendix": much}).refusals
    assert "at most 256 KiB" in refusal.rule


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def places(value: object, place: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, dict):
        return [place, *(deeper for key, one in value.items() for deeper in places(one, (*place, key)))]
    if isinstance(value, list):
        return [place, *(deeper for index, one in enumerate(value) for deeper in places(one, (*place, index)))]
    return [place]


@given(
    case=st.sampled_from(["good_plain.json", "good_pack.json"]).flatmap(
        lambda name: st.tuples(
            st.just(name),
            st.sampled_from([place for place in places(json.loads((SCRIPTS / name).read_text())) if place]),
        )
    ),
    what=JSON,
)
def test_whatever_stands_anywhere_is_admitted_or_refused_in_plain_words(
    case: tuple[str, tuple[str | int, ...]], what: object
) -> None:
    name, where = case
    document: Any = json.loads((SCRIPTS / name).read_text(encoding="utf-8"))
    holder = document
    for step in where[:-1]:
        holder = holder[step]
    holder[where[-1]] = what

    admission = judge(document)

    assert (admission.script is None) == bool(admission.refusals)
    json.dumps([one.model_dump(mode="json") for one in admission.refusals], allow_nan=False).encode("utf-8")
    for refusal in admission.refusals:
        assert refusal.rule != "is not what a script has here"
        assert not any(word in refusal.rule for word in ("pydantic", "Input", "valid ", "tuple", "float", "instance"))
    if admission.script is not None:
        assert type(admission.script).model_validate(json.loads(json.dumps(admission.document))) == admission.script
    if isinstance(admission.script, AudioPack):
        SeriesBible.model_validate(bible_of(admission.document))
        PosterSpec.model_validate(poster_spec_of(admission.document))
        assert all(narration_script(admission.script, number).shots for number in range(1, 6))


@given(what=JSON)
def test_whatever_is_sent_is_judged_without_raising(what: object) -> None:
    admission = judge(what)
    assert admission.script is None
    assert admission.refusals
    assert read(json.dumps(what)).script is None

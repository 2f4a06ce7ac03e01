from __future__ import annotations

from pathlib import Path

import pytest

from moltpipe.samples import packs, pilots, sample_packs, sample_scripts
from moltpipe.studio.admission import read
from moltpipe.studio.narration import AudioPack
from moltpipe.studio.screenplay import ExtendStrategy, PilotScript, Transition, spoken_line
from moltpipe.studio.timing import VOICE_LEAD_S, VOICE_TAIL_S

WORDS_PER_SECOND = 2.2


def script_of(file: Path) -> PilotScript:
    admission = read(file.read_bytes())
    assert admission.refusals == ()
    assert admission.warnings == ()
    assert isinstance(admission.script, PilotScript)
    return admission.script


@pytest.mark.parametrize("file", sample_scripts(), ids=lambda file: file.stem)
def test_a_sample_is_admitted_without_a_note_and_shows_what_a_script_can_do(file: Path) -> None:
    script = script_of(file)
    assert {shot.edit_extend_strategy for shot in script.shots} == set(ExtendStrategy)
    assert 34 <= sum(shot.duration_seconds for shot in script.shots) <= 45
    assert len({shot.prompt.camera for shot in script.shots}) == len(script.shots)
    assert {"narration", "dialogue", "ambient"} <= {shot.audio.type.value for shot in script.shots}
    assert len(script.poster_spec.palette) == 5


@pytest.mark.parametrize("file", sample_scripts(), ids=lambda file: file.stem)
def test_every_line_of_a_sample_fits_its_shot_at_an_easy_pace(file: Path) -> None:
    for shot in script_of(file).shots:
        line = spoken_line(shot.audio)
        if line is not None:
            room = shot.duration_seconds - VOICE_LEAD_S - VOICE_TAIL_S
            assert len(line.text.split()) <= WORDS_PER_SECOND * room


def test_the_samples_make_a_contest_within_a_genre_and_across_genres() -> None:
    genres = [script_of(file).genre.value for file in sample_scripts()]
    assert {"sci_fi", "comedy", "thriller"} <= set(genres)
    assert len(genres) > len(set(genres))


def test_the_samples_show_the_transitions() -> None:
    assert {shot.transition for file in sample_scripts() for shot in script_of(file).shots} == set(Transition)


@pytest.mark.parametrize("file", sample_packs(), ids=lambda file: file.stem)
def test_a_sample_pack_is_admitted_without_a_note_and_has_texts_of_the_usual_length(file: Path) -> None:
    admission = read(file.read_bytes())
    assert (admission.refusals, admission.warnings) == ((), ())
    assert isinstance(admission.script, AudioPack)
    assert all(2900 <= len(one.narration_text) <= 4000 for one in admission.script.episodes)


def test_every_sample_that_ships_has_an_agent_of_its_own() -> None:
    shipped = {file.name for file in sample_scripts()[0].parent.glob("*.json")}
    assert shipped == {file.name for file in [*sample_scripts(), *sample_packs()]}
    agents = [agent for agent, _ in [*pilots(), *packs()]]
    assert len(set(agents)) == len(agents) == len(shipped)
    assert [document["title"] for _, document in pilots()] == [script_of(file).title for file in sample_scripts()]

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pysubs2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltpipe.media.captions import Caption, SpokenLine, captions, cells, within, write_srt, write_vtt
from moltpipe.studio.records import Word

WORDS = st.lists(
    st.tuples(
        st.text(st.characters(categories=["L", "P", "N"]), min_size=1, max_size=60), st.floats(0, 2), st.floats(0, 2)
    ),
    max_size=40,
)


@st.composite
def spoken_lines(draw: st.DrawFn) -> list[SpokenLine]:
    """Lines one after the other, as an episode has them; pauses and words may last no time at all."""
    lines, now = [], 0.0
    for spoken in draw(st.lists(WORDS, max_size=5)):
        words, at = [], 0.0
        for text, pause, length in spoken:
            words.append(Word(text, at + pause, at + pause + length))
            at += pause + length
        lines.append(SpokenLine(tuple(words), now))
        now += at
    return lines


@given(spoken_lines(), st.floats(0.5, 60))
def test_captions_are_readable_in_order_and_within_the_episode(lines: list[SpokenLine], end_s: float) -> None:
    shown = captions(lines, end_s=end_s)
    for one in shown:
        assert 0 <= one.start_ms < one.end_ms <= max(round(end_s * 1000), len(shown))
        rows = one.text.split("\n")
        assert len(rows) <= 2
        assert all(0 < len(row) <= 42 for row in rows)
    assert all(before.end_ms <= after.start_ms for before, after in itertools.pairwise(shown))
    spoken = "".join("".join(word.text.split()) for line in lines for word in line.words)
    assert "".join("".join(one.text.split()) for one in shown) == spoken


@given(spoken_lines())
def test_a_caption_stays_for_a_second_where_there_is_room(lines: list[SpokenLine]) -> None:
    end_s = 10_000.0
    shown = captions(lines, end_s=end_s)
    ends = [after.start_ms for after in shown[1:]] + ([round(end_s * 1000)] if shown else [])
    for one, next_ms in zip(shown, ends, strict=True):
        assert one.end_ms - one.start_ms >= min(1000, next_ms - one.start_ms)


@given(spoken_lines())
def test_a_caption_stays_for_as_long_as_reading_it_takes_where_there_is_room(lines: list[SpokenLine]) -> None:
    shown = captions(lines, end_s=10_000.0)
    ends = [after.start_ms for after in shown[1:]] + ([10_000_000] if shown else [])
    for one, next_ms in zip(shown, ends, strict=True):
        assert one.end_ms - one.start_ms >= min(round(cells(one.text) / 20 * 1000), next_ms - one.start_ms)


def _line(text: str, starts_at_s: float = 0.0, pace_s: float = 0.3) -> SpokenLine:
    words = (Word(word, at * pace_s, (at + 1) * pace_s) for at, word in enumerate(text.split()))
    return SpokenLine(tuple(words), starts_at_s)


def test_a_caption_begins_with_its_first_word_and_lingers_after_its_last() -> None:
    (one,) = captions([_line("The light has not been lit for years", starts_at_s=5.0)], end_s=60)
    assert one == Caption(5000, 7700, "The light has not been lit for years")


def test_a_pause_and_a_sentence_begin_a_new_caption() -> None:
    line = SpokenLine(
        (
            Word("Nobody keeps this light any more.", 0.0, 1.5),
            Word("So", 1.6, 1.8),
            Word("who", 3.0, 3.2),
            Word("lit", 3.2, 3.4),
            Word("it?", 3.4, 3.6),
        ),
        0.0,
    )
    assert [one.text for one in captions([line], end_s=10)] == [
        "Nobody keeps this light any more.",
        "So",
        "who lit it?",
    ]


def test_a_long_caption_is_broken_into_lines_of_like_length() -> None:
    (one,) = captions([_line("the keeper climbs one hundred and ninety steps every night", pace_s=0.2)], end_s=60)
    upper, lower = one.text.split("\n")
    assert abs(len(upper) - len(lower)) <= 10


def test_fast_speech_is_shown_on_into_the_silence_after_it() -> None:
    text = "All hands on deck before the harbour light goes out again tonight"
    (one,) = captions([_line(text, pace_s=0.15)], end_s=60)
    assert one.end_ms == pytest.approx(1000 * len(text) / 20, abs=1)


def test_short_sentences_that_follow_fast_share_a_caption() -> None:
    assert [one.text for one in captions([_line("Yes. No. Maybe. Who knows?", pace_s=0.25)], end_s=9)] == [
        "Yes. No. Maybe. Who knows?"
    ]


def test_sentences_that_have_the_time_stand_alone() -> None:
    slow = captions([_line("It begins at dusk. It ends when nobody looks at the sea any more.", pace_s=0.4)], end_s=9)
    assert [one.text.replace("\n", " ") for one in slow] == [
        "It begins at dusk.",
        "It ends when nobody looks at the sea any more.",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Then came Dr. Moreau with the lamp, and nobody slept that night.",
        "He was told that cabin No. 5 was empty that night.",
        "The light was built by J. R. Orlo in the year of the flood.",
        "They took what there was, e.g. The Moth and her two oars.",
        '"Put it out!" she cried from the stairs below the lamp.',
    ],
)
def test_no_caption_ends_within_a_sentence_for_the_sake_of_an_abbreviation(text: str) -> None:
    shown = captions([_line(text, pace_s=0.4)], end_s=60)
    assert [one.text.replace("\n", " ") for one in shown] == [text]


def test_a_sentence_behind_an_abbreviation_still_has_a_caption_of_its_own() -> None:
    shown = captions([_line("Dr. Moreau lit the lamp. Nobody slept that night at all.", pace_s=0.4)], end_s=60)
    assert [one.text for one in shown] == ["Dr. Moreau lit the lamp.", "Nobody slept that night at all."]


def test_a_long_sentence_is_parted_at_its_commas_and_leaves_no_orphan() -> None:
    text = (
        "Nobody has lit this light in forty years, and still, every night at three minutes past three, "
        "somebody climbs the stairs and does"
    )
    shown = [one.text.replace("\n", " ") for one in captions([_line(text)], end_s=60)]
    assert " ".join(shown) == text
    assert all(one.endswith(",") for one in shown[:-1])
    assert min(len(one) for one in shown) > 20


def test_slow_speech_does_not_stand_still_for_long() -> None:
    shown = captions([_line("and then the water rose over the last step of the stairs", pace_s=1.2)], end_s=60)
    assert len(shown) == 2
    assert max(one.end_ms - one.start_ms for one in shown) < 9000


def test_chinese_lines_are_half_as_many_letters_as_wide() -> None:
    text = "从前有一个守灯塔的人每天晚上都会点亮灯塔从来没有人知道他为什么这样做"
    (one,) = captions([SpokenLine((Word(text, 0.0, 9.0),), 0.0)], end_s=20)[:1]
    assert max(cells(row) for row in one.text.split("\n")) <= 42
    assert max(len(row) for row in one.text.split("\n")) <= 21


def test_a_clip_shows_its_part_of_the_captions_from_its_own_start() -> None:
    shown = [
        Caption(0, 900, "before"),
        Caption(950, 2500, "into"),
        Caption(2600, 3000, "in"),
        Caption(3000, 9000, "on"),
    ]
    assert within(shown, 1.0, 4.0) == [
        Caption(0, 1500, "into"),
        Caption(1600, 2000, "in"),
        Caption(2000, 3000, "on"),
    ]
    assert within(shown, 2.49, 2.6) == []


def test_two_hours_of_speech_are_cut_in_a_moment() -> None:
    lines = [_line("The sea gives back what it was given, but never all of it at once.", 7.0 * n) for n in range(1000)]
    begun = time.process_time()
    shown = captions(lines, end_s=7200)
    assert len(shown) >= 1000
    assert time.process_time() - begun < 5


def test_missing_word_times_still_show_every_word_before_the_end() -> None:
    timeless = SpokenLine(tuple(Word(f"word{number}", 0.0, 0.0) for number in range(60)), 1.0)
    shown = captions([timeless], end_s=2.0)
    assert sum(len(one.text.split()) for one in shown) == 60
    assert shown[-1].end_ms <= 2000


def test_no_speech_gives_legal_empty_files(room: Path) -> None:
    write_vtt([], room / "none.vtt")
    write_srt([], room / "none.srt")
    assert (room / "none.vtt").read_text().rstrip("\n") == "WEBVTT"
    assert (room / "none.srt").read_text() == ""


def test_speech_that_looks_like_markup_is_shown_as_it_is_spoken(room: Path) -> None:
    spoken = Caption(0, 1000, "{sighs} 1 < 2 & 3 > 2\n\\N <i>so</i> --> on")
    write_vtt([spoken], room / "odd.vtt")
    write_srt([spoken], room / "odd.srt")
    assert (room / "odd.vtt").read_text().splitlines()[4:6] == [
        "{sighs} 1 &lt; 2 &amp; 3 &gt; 2",
        "\uff3cN &lt;i&gt;so&lt;/i&gt; --&gt; on",
    ]
    assert (room / "odd.srt").read_text().splitlines()[2:4] == ["{sighs} 1 < 2 & 3 > 2", "\uff3cN <i>so</i> -- on"]


@pytest.mark.parametrize("arrow", ["-->", "-->>", "--->>>", "00:00:01,000 -->> 00:00:02,000"])
def test_no_arrow_of_subrip_is_left_in_what_is_spoken(room: Path, arrow: str) -> None:
    write_srt([Caption(0, 1000, arrow)], room / "odd.srt")
    assert "-->" not in "\n".join((room / "odd.srt").read_text().splitlines()[2:])


def test_both_formats_carry_the_same_times(room: Path) -> None:
    shown = captions(
        [_line("It begins at dusk. It ends when nobody looks at the sea any more."), _line("Who?", 7)], end_s=9
    )
    write_vtt(shown, room / "a.vtt")
    write_srt(shown, room / "a.srt")
    for suffix in ("vtt", "srt"):
        read = [(event.start, event.end, event.plaintext) for event in pysubs2.load(str(room / f"a.{suffix}"))]
        assert read == [(one.start_ms, one.end_ms, one.text) for one in shown]

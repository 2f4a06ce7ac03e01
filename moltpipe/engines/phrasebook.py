"""The phrase book of the outline screenwriter: all of its own words, as data.

Here: the shapes of episodes two to five, and the sentences that join an agent's material. Not here: how they are
chosen and filled in (`outline`). Sentences avoid pronouns and bodies: a character may be a lighthouse.

Slots: `{place}`, `{name}` and `{other}` are names, `{Place}` and `{Name}` the same at the start of a sentence, `{look}`
and `{beat}` are whole sentences. Cards with `{other}` are left out where a series has one character.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from moltpipe.studio.screenplay import AudioType, Genre, Transition


class Beat(StrEnum):
    """A part of the agent's material that a narrator may tell from."""

    ONE = "beat 1"
    TWO = "beat 2"
    THREE = "beat 3"
    LOGLINE = "logline"


class Role(StrEnum):
    """What a shot does in its episode."""

    ESTABLISH = "establish"
    ARRIVE = "arrive"
    DETAIL = "detail"
    EXCHANGE = "exchange"
    ANSWER = "answer"
    PURSUIT = "pursuit"
    ALONE = "alone"
    THRESHOLD = "threshold"
    TURN = "turn"
    AFTERMATH = "aftermath"
    CLOSING = "closing"


@dataclass(frozen=True)
class Craft:
    """How a role is filmed and heard."""

    cameras: tuple[str, ...]
    motions: tuple[str, ...]
    sound: AudioType
    scenes: tuple[str, ...]
    transition: Transition = Transition.CUT
    """How such a shot begins, unless it is the first one."""


@dataclass(frozen=True)
class Plan:
    """How an episode goes: its possible orders of shots, what is told, in what light, and in what tone."""

    name: str
    shapes: tuple[tuple[Role, ...], ...]
    beats: tuple[Beat, ...]
    lights: tuple[str, ...]
    lines: tuple[str, ...]
    lines_alone: tuple[str, ...]
    asides: tuple[str, ...]


ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "last")

CRAFT: Mapping[Role, Craft] = {
    Role.ESTABLISH: Craft(
        ("wide_establishing", "aerial", "slow_pan_right", "slow_tilt_down"),
        ("particle_drift", "subtle_motion", "organic_sway"),
        AudioType.NARRATION,
        (
            "{Place}, seen whole from a distance. {look}",
            "First light over {place}. {look}",
            "{Place} under a changed sky, every edge of it clear. {look}",
            "The long way up to {place}, empty from end to end. {look}",
            "{Place} from above, smaller than anyone remembers it. {look}",
        ),
        Transition.CROSSFADE,
    ),
    Role.ARRIVE: Craft(
        ("medium_shot", "tracking_shot", "slow_dolly_in", "low_angle"),
        ("walking", "floating", "subtle_motion"),
        AudioType.NARRATION,
        (
            "{Name} comes into {place} and stops where the light stops. {look}",
            "{Name} crosses {place} without looking back.",
            "Out of the haze at the far end of {place} comes {name}.",
            "{Name} returns to {place} by the way that nobody uses.",
            "{Place}: {name} enters low in the picture and grows with every step.",
        ),
    ),
    Role.DETAIL: Craft(
        ("extreme_close_up", "macro", "close_up", "static"),
        ("pulsing", "breathing", "mechanical", "particle_drift"),
        AudioType.AMBIENT,
        (
            "One small thing in {place} that was not there before, and a shadow passing over it.",
            "The surface of {place}, so near that it becomes a landscape. {look}",
            "A mark left in {place}, still fresh, catching the light.",
            "The oldest part of {place}, worn smooth, with dust turning above it.",
            "What {name} left behind in {place}, filling the frame.",
        ),
    ),
    Role.EXCHANGE: Craft(
        ("medium_shot", "close_up", "slow_dolly_in", "static", "high_angle"),
        ("subtle_motion", "breathing", "static"),
        AudioType.DIALOGUE,
        (
            "{Name} and {other} face each other across {place}, with the whole room of air between them.",
            "{Name} speaks at last, half turned away from the light of {place}.",
            "{Name} in the middle of {place}, addressing someone outside the frame.",
            "{Name} close to the lens; behind, out of focus, {place}.",
            "{Name} and {other} side by side in {place}, both looking the same way.",
        ),
    ),
    Role.ANSWER: Craft(
        ("close_up", "slow_dolly_out", "dutch_angle", "medium_shot"),
        ("subtle_motion", "breathing", "organic_sway"),
        AudioType.DIALOGUE,
        (
            "{Name} takes a long time to answer. {Place} is quiet around it all.",
            "The other side of the talk: {name}, lit from below by {place}.",
            "{Name} turns, and the light of {place} turns too.",
            "{Name} framed in an opening of {place}, dark against the bright.",
            "{Name} alone in the frame, although {other} is near.",
        ),
    ),
    Role.PURSUIT: Craft(
        ("tracking_shot", "handheld", "aerial", "slow_pan_left"),
        ("running", "flying", "walking"),
        AudioType.AMBIENT,
        (
            "{Name} crosses {place} fast, always a little ahead of the camera.",
            "Something moves through {place} and {name} follows it.",
            "Lines of {place} rush past; {name} holds the centre of the frame.",
            "{Name} and {other} race the last light through {place}.",
            "A shape breaks from the dark side of {place}, and {name} goes after it.",
        ),
    ),
    Role.ALONE: Craft(
        ("slow_dolly_out", "high_angle", "static", "slow_tilt_up"),
        ("breathing", "particle_drift", "floating"),
        AudioType.NARRATION,
        (
            "{Name} alone, small in the width of {place}.",
            "{Name} keeps still in {place} while the light moves on.",
            "{Place} at its emptiest, and {name} in the middle of it. {look}",
            "{Name} at the edge of {place}, looking out at what is coming.",
            "Night in {place}. {Name} is the only thing awake.",
        ),
    ),
    Role.THRESHOLD: Craft(
        ("low_angle", "slow_dolly_in", "dutch_angle", "slow_tilt_up"),
        ("pulsing", "mechanical", "particle_drift"),
        AudioType.AMBIENT,
        (
            "A way opens in {place} where there was none. {Name} waits before it.",
            "The last door of {place}, a line of light under it.",
            "{Name} stands on the border of {place}, neither in nor out.",
            "Something in {place} wakes, part by part. {look}",
            "The floor of {place} gives off light, and {name} steps into it.",
        ),
    ),
    Role.TURN: Craft(
        ("dutch_angle", "extreme_close_up", "handheld", "slow_dolly_in"),
        ("pulsing", "subtle_motion", "running"),
        AudioType.DIALOGUE,
        (
            "All at once {place} looks different, and {name} is the first to see it.",
            "{Name} turns to the camera as if it had been there all along.",
            "{Name} lets go. Behind, the light in {place} fails and comes back another colour.",
            "{Name} and {other} have changed places: who followed now leads through {place}.",
            "{Name} says it out loud, and {place} answers.",
        ),
    ),
    Role.AFTERMATH: Craft(
        ("slow_pan_left", "slow_dolly_out", "wide_establishing", "high_angle"),
        ("particle_drift", "floating", "organic_sway"),
        AudioType.NARRATION,
        (
            "{Place} when it is over. Everything stands, nothing is in its place.",
            "Dust comes down in {place}. {Name} has not moved.",
            "{Name} walks once around {place}, slowly, counting what is left.",
            "The light is back in {place}, lower and warmer. {look}",
            "{Name} and {other} rest in {place}, far apart, at peace.",
        ),
        Transition.FADE_THROUGH_BLACK,
    ),
    Role.CLOSING: Craft(
        ("aerial", "slow_tilt_up", "static", "slow_pan_right", "slow_dolly_out"),
        ("particle_drift", "subtle_motion", "floating"),
        AudioType.NARRATION,
        (
            "{Name} grows small as the picture lets go of {place}.",
            "The camera leaves {place} by the window and keeps rising. {look}",
            "{Place} goes dark from the edges in, with {name} last.",
            "One light stays on in {place}.",
            "{Place} again, from where the story first saw it. {look}",
        ),
        Transition.CROSSFADE,
    ),
}

R = Role
PLANS: Mapping[int, Plan] = {
    2: Plan(
        "consequence",
        (
            (R.ESTABLISH, R.ARRIVE, R.DETAIL, R.EXCHANGE, R.ANSWER, R.ALONE, R.THRESHOLD),
            (R.DETAIL, R.ESTABLISH, R.EXCHANGE, R.ARRIVE, R.ANSWER, R.CLOSING),
            (R.ARRIVE, R.EXCHANGE, R.ESTABLISH, R.DETAIL, R.ALONE, R.ANSWER, R.CLOSING),
        ),
        (Beat.ONE, Beat.TWO),
        ("Cool morning light, long shadows.", "Thin mist, a low sun.", "Grey light through high windows or cloud."),
        (
            "You felt it too, {other}. Do not say that you did not.",
            "I went back to {place}. It was not how we left it.",
            "If we tell them now, {other}, they will close every door.",
            "Somebody was in {place} before us.",
            "I kept what I found. I am not sorry for it.",
            "We agreed on one thing, {other}. One. And it was this.",
            "It began the moment we stopped listening.",
        ),
        (
            "I went back to {place}. It was not how I left it.",
            "Somebody was in {place} before me.",
            "I kept what I found. I am not sorry for it.",
            "It began the moment I stopped listening.",
        ),
        (
            "What happened has an echo, and the echo has reached {place}.",
            "{Name} has not told anyone yet. {Place} knows anyway.",
            "The day after is always the longest, and this one starts in {place}.",
            "Nobody asked {name} to go on. That was never going to matter.",
        ),
    ),
    3: Plan(
        "crossing",
        (
            (R.DETAIL, R.EXCHANGE, R.ESTABLISH, R.PURSUIT, R.ARRIVE, R.ANSWER, R.TURN, R.ALONE),
            (R.PURSUIT, R.ALONE, R.EXCHANGE, R.THRESHOLD, R.AFTERMATH, R.TURN),
            (R.THRESHOLD, R.ARRIVE, R.EXCHANGE, R.PURSUIT, R.ANSWER, R.AFTERMATH, R.CLOSING),
        ),
        (Beat.TWO, Beat.LOGLINE),
        ("Hard side light, half of the frame dark.", "Storm light, quickly changing.", "Flicker and sudden dark."),
        (
            "There is no way around, {other}. I looked for one.",
            "Then we go through {place}, tonight, with what we have.",
            "You are asking me to choose. I have chosen.",
            "Stay behind me, {other}, and count. If I stop, you run.",
            "Everything they told us about {place} is half of it.",
            "Do you hear that? It knows where we are.",
            "I am not afraid of {place}. I am afraid of who we are in it.",
        ),
        (
            "There is no way around. I looked for one.",
            "Then through {place}, tonight, with what there is.",
            "Everything they told me about {place} is half of it.",
            "Do you hear that? It knows where I am.",
        ),
        (
            "There is a middle to every story, and from there both shores look the same.",
            "In {place} the way back closes without a sound.",
            "{Name} counts what can still be lost, and goes on.",
            "It would be easier if somebody were to blame for {place}.",
        ),
    ),
    4: Plan(
        "reversal",
        (
            (R.ALONE, R.ESTABLISH, R.TURN, R.DETAIL, R.EXCHANGE, R.PURSUIT, R.AFTERMATH),
            (R.TURN, R.AFTERMATH, R.ARRIVE, R.ANSWER, R.DETAIL, R.ALONE, R.EXCHANGE, R.CLOSING),
            (R.ESTABLISH, R.ALONE, R.PURSUIT, R.EXCHANGE, R.THRESHOLD, R.ANSWER),
        ),
        (Beat.TWO, Beat.THREE),
        ("Low light from below.", "Near darkness, one source of light.", "Cold blue dusk, a single warm point."),
        (
            "All this time it was {place}. Not the people in it. The place.",
            "I was wrong about you, {other}. I was wrong early and I was wrong long.",
            "Give it back. Give all of it back, and see what stays.",
            "You knew, {other}. From the first day, you knew.",
            "We have until the light is gone from {place}.",
            "This is what it costs. Nobody said that it would be cheap.",
            "I would do the same again, and I would do it sooner.",
        ),
        (
            "All this time it was {place}. Not what came there. The place.",
            "I was wrong early, and I was wrong long.",
            "This is what it costs. Nobody said that it would be cheap.",
            "I would do the same again, and I would do it sooner.",
        ),
        (
            "What was hidden in {place} was never well hidden. It was only never looked at.",
            "{Name} sees it now, and wishes for one more day of not seeing.",
            "The night before the end has its own kind of quiet.",
            "Every promise made in {place} comes due at once.",
        ),
    ),
    5: Plan(
        "resolution",
        (
            (R.ESTABLISH, R.ARRIVE, R.EXCHANGE, R.THRESHOLD, R.TURN, R.ANSWER, R.AFTERMATH, R.CLOSING),
            (R.ALONE, R.THRESHOLD, R.TURN, R.ARRIVE, R.EXCHANGE, R.AFTERMATH, R.CLOSING),
            (R.THRESHOLD, R.EXCHANGE, R.PURSUIT, R.TURN, R.AFTERMATH, R.CLOSING),
        ),
        (Beat.THREE, Beat.LOGLINE),
        ("Warm low sun, long clean shadows.", "The first clear light of the series.", "Soft light from everywhere."),
        (
            "It ends where it started, {other}. Look: it is only a room.",
            "I do not need {place} to remember me. I will remember it.",
            "Go on ahead, {other}. I want to see it close.",
            "We said that we would leave it as we found it. I am glad that we lied.",
            "Listen. That is what {place} sounds like when nobody wants anything from it.",
            "Then let it be finished, and let it have been us.",
            "There will be others after us, {other}. Leave a light on.",
        ),
        (
            "It ends where it started. Look: how small it is.",
            "I do not need {place} to remember me. I will remember it.",
            "Then let it be finished.",
            "There will be others. Leave a light on.",
        ),
        (
            "Some endings are a door. This one is a window, and it looks out on {place}.",
            "{Name} does the last thing first, and the rest follows by itself.",
            "What {place} took, it gives back in its own time.",
            "If anyone asks how it ended: quietly, and in company.",
        ),
    ),
}

NARRATIONS: Mapping[Beat, tuple[str, ...]] = {
    Beat.ONE: (
        "This is how it started. {beat}",
        "{beat} That much, {name} remembers.",
        "Before anything else there was this. {beat}",
        "They will tell it differently in {place}. But {name} was there. {beat}",
        "{beat} Nothing in {place} has been the same since.",
    ),
    Beat.TWO: (
        "By now it cannot be taken back. {beat}",
        "{beat} {Name} saw it coming and stayed.",
        "Then the ground of the story moves. {beat}",
        "In {place} they still call it an accident. {beat}",
        "{beat} And still nobody in {place} says it aloud.",
        "It comes to this. {beat}",
    ),
    Beat.THREE: (
        "Everything was leading here. {beat}",
        "{beat} So it is settled, for {name} and for {place}.",
        "At the end there is one thing left to do. {beat}",
        "{Name} had imagined it louder. {beat}",
        "{beat} It takes no longer than that.",
        "And so, at last, in {place}: {beat}",
    ),
    Beat.LOGLINE: (
        "It was never more than this. {beat}",
        "Tell it short and it goes like this. {beat}",
        "{beat} That was the whole of it, and {name} would not give back a day.",
        "Somebody will ask {name} what it was about. {beat}",
    ),
}

GENRE_LINES: Mapping[Genre, tuple[str, ...]] = {
    Genre.ACTION: ("Ten seconds. That is more than I had the last time.", "When it moves, we move faster."),
    Genre.ADVENTURE: ("No map shows this. Good.", "One more ridge. There is always one more ridge."),
    Genre.COMEDY: ("In my defence, it was already broken in a different way.", "That went better than the rehearsal."),
    Genre.DRAMA: (
        "You can be right and still have to say that you are sorry.",
        "I waited for a better day to tell it.",
    ),
    Genre.THRILLER: ("Do not turn around. Just tell me what you see.", "That light was off when I came in."),
    Genre.HORROR: ("It only knocks when nobody is counting.", "Whatever it says, it is not my voice."),
    Genre.SCI_FI: (
        "The signal is not answering us. It is finishing our sentence.",
        "The clocks agree now. That is new.",
    ),
    Genre.FANTASY: ("A name given is a door opened.", "The old bargain still holds. I wish it did not."),
    Genre.ROMANCE: ("I had a speech. It was mostly your name.", "Stay until the lights come on. Then decide."),
    Genre.CRIME: (
        "Everyone has an alibi. That is what bothers me.",
        "Follow what it cost, and you will find who paid.",
    ),
}

AMBIENCES: tuple[str, ...] = (
    "Wind finding its way around {place}, and nothing else.",
    "A low hum under everything, felt more than heard.",
    "Water dripping somewhere, not quite in rhythm.",
    "Far metal, settling as it cools.",
    "Steps that stop whenever one listens.",
    "A slow swell of air, like something large asleep in {place}.",
    "Loose things rattling, one after the other, coming nearer.",
    "Silence with a very high, very thin tone in it.",
    "Distant weather, a long roll without a strike.",
    "The creak of {place} bearing its own weight.",
)

TITLES: Mapping[int, tuple[str, ...]] = {
    2: ("What {place} Kept", "The Echo", "The Morning After the First Day", "{Name} Goes Back", "Somebody Was Here"),
    3: ("No Way Around", "Through {place}", "Half of the Truth", "{Name} Chooses", "The Middle of the Bridge"),
    4: ("What It Costs", "The Other Side of {place}", "{Name} Was Wrong", "Until the Light Is Gone", "All of It Back"),
    5: ("Leave a Light On", "{Place}, at Last", "How It Ends for {name}", "A Window", "The Last Thing First"),
}

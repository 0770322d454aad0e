"""Everyday questions with a better and a worse answer, for the quick-start set.

Each topic is a function of a random generator and a person's name that returns a prompt, a better
answer and a worse one. "Better" follows rules that a reader can check: right instead of wrong, on
the subject instead of beside it, polite instead of rude, finished instead of broken off. Answer
frames are drawn alike for both sides, so that neither length nor wording gives the label away.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import NamedTuple


class Example(NamedTuple):
    """A prompt with its truly better and its truly worse response."""

    topic: str
    prompt: str
    better: str
    worse: str


Texts = tuple[str, str, str]
WORDS = SimpleNamespace(
    **tomllib.loads(Path(__file__).with_name("quickstart_words.toml").read_text(encoding="utf-8"))
)


def generate(rng: Random, count: int) -> list[Example]:
    """Draw `count` examples, no two with the same prompt."""
    topics, shares = zip(*TOPICS.items(), strict=True)
    examples: dict[str, Example] = {}
    while len(examples) < count:
        topic = rng.choices(topics, shares)[0]
        question, better, worse = topic(rng, rng.choice(WORDS.names))
        prompt = _sometimes(rng, WORDS.greetings) + question + _sometimes(rng, WORDS.thanks) + "\n"
        examples.setdefault(prompt, Example(topic.__name__, prompt, better, worse))
    return list(examples.values())


def comparison(rng: Random, name: str) -> Texts:
    """Which of two things is larger, faster, heavier, dearer or longer."""
    scale = rng.choice(WORDS.scales)
    things, gap = scale["things"], scale["gap"]
    low = rng.randrange(len(things) - gap)
    right, wrong = things[low], things[rng.randrange(low + gap, len(things))]
    word, other_word = scale["less"], scale["more"]
    if rng.random() < 0.5:
        right, wrong, word, other_word = wrong, right, other_word, word
    first, second = rng.sample([right, wrong], 2)
    if rng.random() < 0.3:
        question = _one_of(
            rng,
            f"Is {first} {word} than {second}?",
            f"{name} says that {first} is {word} than {second}. Is that so?",
            f"Is it true that {first} is {word} than {second}?",
        )
        yes, no = (
            (f"Yes, {first} is {word} than {second}.", f"Yes, that is true, {first} is {word}."),
            (f"No, {second} is {word} than {first}.", f"No, that is wrong, {second} is {word}."),
        )
        good, bad = (yes, no) if first == right else (no, yes)
        return question, rng.choice(good), rng.choice(bad)
    question = _one_of(
        rng,
        f"Which is {word}, {first} or {second}?",
        f"What do you think is {word}: {first} or {second}?",
        f"If I compare {first} with {second}, which of them is {word}?",
        f"Tell me which one is {word}, {first} or {second}.",
        f"{name} asked me whether {first} or {second} is {word}. What should I say?",
    )
    frames = (
        "{X} is {word} than {y}.",
        "{X} is the {word} one of the two.",
        "It is {x}, because {y} is {other}.",
        "Compared with {y}, {x} is {word}.",
        "The answer is {x}. {Y} is {other} than {x}.",
    )
    good, bad = (
        dict(x=x, y=y, X=_capital(x), Y=_capital(y), word=word, other=other_word)
        for x, y in ((right, wrong), (wrong, right))
    )
    return question, *_answers(rng, frames, good, bad)


def opposite(rng: Random, name: str) -> Texts:
    """The opposite of a word; the worse answer is a near synonym or any other word."""
    word, answer, near = rng.choice(WORDS.opposites)
    if rng.random() < 0.5:
        other = rng.choice([x for x in WORDS.opposites if x[0] != word])
        near = rng.choice(other[:2])
    question = _one_of(
        rng,
        f'What is the opposite of "{word}"?',
        f'Which word means the opposite of "{word}"?',
        f'{name} is learning English and asks for the opposite of "{word}".',
        f'I need the opposite of "{word}" for a crossword. What could it be?',
        f'{name} wrote "{word}", but means the very opposite. Which word is right?',
    )
    frames = (
        'The opposite of "{word}" is "{x}".',
        'You are looking for "{x}".',
        'That would be "{x}", the opposite of "{word}".',
        'The reverse of "{word}" is "{x}".',
        'I would choose the word "{x}".',
    )
    return question, *_answers(rng, frames, dict(word=word, x=answer), dict(word=word, x=near))


def arithmetic(rng: Random, name: str) -> Texts:
    """A word problem of one step with small numbers."""
    thing = rng.choice(WORDS.things)
    a, b = rng.randint(3, 12), rng.randint(2, 9)
    adds = rng.random() < 0.5
    if not adds:
        a, b = max(a, b) + 2, min(a, b)
    right = a + b if adds else a - b
    wrong = rng.choice([n for n in (right - 2, right - 1, right + 1, right + b) if n > 1])
    stories = WORDS.adding if adds else WORDS.taking
    question = rng.choice(stories).format(name=name, a=a, b=b, thing=thing)
    frames = (
        "{name} has {x} {thing} now.",
        "The answer is {x}, because {a} {sign} {b} is {x}.",
        "{a} {sign} {b} makes {x}, so {name} has {x} {thing}.",
        "That leaves {name} with {x} {thing} in all.",
    )
    common = dict(name=name, thing=thing, a=a, b=b, sign="plus" if adds else "minus")
    return question, *_answers(rng, frames, common | dict(x=right), common | dict(x=wrong))


def politeness(rng: Random, name: str) -> Texts:
    """A blunt request made polite; the worse answer is rude, or asks for something else."""
    request, other = rng.sample(WORDS.requests, 2)
    when = rng.choice(WORDS.deadlines)
    blunt = f"{_capital(request)}{when}."
    question = _one_of(
        rng,
        f'Make this sound polite: "{blunt}"',
        f'Please rewrite this message so that it is friendly: "{blunt}"',
        f'How can I say this in a nicer way? "{blunt}"',
        f'I want to write to {name}: "{blunt}" Can you make it kinder?',
    )
    better = rng.choice(WORDS.polite).format(r=request, t=when)
    if rng.random() < 0.25:
        return question, better, rng.choice(WORDS.polite).format(r=other, t=when)
    return question, better, _capital(rng.choice(WORDS.rude).format(r=request, t=when))


def order(rng: Random, name: str) -> Texts:
    """The steps of an everyday job put in order."""
    goal, *steps = rng.choice(WORDS.jobs)
    chosen = _three_in_order(rng, steps)
    listed = ", ".join(rng.sample(chosen, 3))
    wrong = rng.choice([list(x) for x in permutations(chosen) if list(x) != chosen])
    question = _one_of(
        rng,
        f"I want to {goal}. In which order do I do this: {listed}?",
        f"Put these steps in the right order to {goal}: {listed}.",
        f"{name} wants to {goal}. What comes first and what last: {listed}?",
    )
    return question, *_steps(rng, chosen, wrong)


def explanation(rng: Random, name: str) -> Texts:
    """How to do an everyday job; the worse answer breaks off, is beside the point, or is rude."""
    (goal, *steps), (_, *others) = rng.sample(WORDS.jobs, 2)
    question = _one_of(
        rng,
        f"How do I {goal}?",
        f"Explain to me how to {goal}.",
        f"{name} has never had to {goal}. What should {name} do?",
        f"Can you tell {name} and me how to {goal}?",
    )
    better, beside = _steps(rng, _three_in_order(rng, steps), _three_in_order(rng, others))
    kind = rng.random()
    if kind < 0.5:
        return question, better, beside
    return question, better, _cut(rng, better) if kind < 0.65 else _rude(rng)


def category(rng: Random, name: str) -> Texts:
    """Which of several things belongs to a kind, or which does not."""
    (kind, *members), (other, *strangers) = rng.sample(WORDS.kinds, 2)
    if rng.random() < 0.5:
        right, *wrong = rng.choice(members), *rng.sample(strangers, 2)
        a, b, c = rng.sample([right, *wrong], 3)
        question = _one_of(
            rng,
            f"Which of these is {kind}: {a}, {b} or {c}?",
            f"Only one of {a}, {b} and {c} is {kind}. Which one?",
            f"{name} must pick {kind} from this list: {a}, {b}, {c}.",
        )
        frames = ("It is {x}.", "The right choice is {x}.", "{X}, because that is {kind}.")
        frames += ("Among the three, {x} is {kind}.", "Only {x} can be called {kind}.")
        good, bad = (dict(x=x, X=_capital(x), kind=kind) for x in (right, wrong[0]))
        return question, *_answers(rng, frames, good, bad)
    item = rng.choice(members)
    a, b = rng.sample([kind, other], 2)
    question = _one_of(
        rng,
        f"Is {item} {a} or {b}?",
        f"Would you call {item} {a} or {b}?",
        f"{name} does not know whether {item} is {a} or {b}. Which is it?",
    )
    frames = ("{X} is {kind}.", "I would call it {kind}, not {other}.", "It is {kind}.")
    frames += ("Everyone agrees that {x} is {kind}.", "{X} is {kind} and not {other}.")
    good = dict(x=item, X=_capital(item), kind=kind, other=other)
    return question, *_answers(rng, frames, good, good | dict(kind=other, other=kind))


def purpose(rng: Random, name: str) -> Texts:
    """What an object is for."""
    (thing, use), (_, other) = rng.sample(WORDS.uses, 2)
    question = _one_of(
        rng,
        f"What is {thing} used for?",
        f"I found {thing} in the garage. What can I do with it?",
        f"{name} bought {thing} yesterday. What is it for?",
        f"Why would {name} need {thing}?",
    )
    frames = (
        "{X} is used to {use}.",
        "You need {x} when you want to {use}.",
        "With {x} you can {use}.",
        "It helps people to {use}.",
        "Most people keep one at home to {use}.",
    )
    good = dict(x=thing, X=_capital(thing), use=use)
    return question, *_answers(rng, frames, good, good | dict(use=other))


def listing(rng: Random, name: str) -> Texts:
    """Three things found in a place; the worse list has strangers in it, or breaks off."""
    (place, *things), (_, *strangers) = rng.sample(WORDS.places, 2)
    question = _one_of(
        rng,
        f"Name three things that you find {place}.",
        f"What are three things one can see {place}?",
        f"{name} is playing a game and must list three things found {place}.",
    )
    right = rng.sample(things, 3)
    kept = rng.choice((0, 1))
    wrong = rng.sample([*rng.sample(things, kept), *rng.sample(strangers, 3 - kept)], 3)
    frames = (
        "{a}, {b} and {c}.",
        "You can find {a}, {b} and {c} {place}.",
        "Three examples are {a}, {b} and {c}.",
        "There is often {a}, and also {b} and {c}.",
    )
    good, bad = (dict(a=a, b=b, c=c, place=place) for a, b, c in (right, wrong))
    better, worse = _answers(rng, frames, good, bad)
    return question, better, worse if rng.random() < 0.85 else _cut(rng, better)


def advice(rng: Random, name: str) -> Texts:
    """Help with a small problem; the worse answer is rude, beside the point, or breaks off."""
    (problem, *tips), (_, *other_tips) = rng.sample(WORDS.problems, 2)
    question = _one_of(
        rng,
        f"{problem} What can I do?",
        f"{problem} Do you have any advice?",
        f"{problem} {name} could not help me. What would you try?",
        f"{problem} {name} has the same trouble. Any ideas?",
    )
    better, beside = (_sometimes(rng, WORDS.sympathy) + rng.choice(x) for x in (tips, other_tips))
    kind = rng.random()
    if kind < 0.5:
        return question, better, beside
    return question, better, _cut(rng, better) if kind < 0.6 else _rude(rng)


def reply(rng: Random, name: str) -> Texts:
    """A kind answer to a friend's news; the worse one is unkind or misses the mood."""
    good_news = rng.random() < 0.5
    news = rng.choice(WORDS.good_news if good_news else WORDS.bad_news)
    question = _one_of(
        rng,
        f'{name} tells me: "{news}" What is a kind reply?',
        f'My friend {name} just wrote: "{news}" What should I answer?',
        f'What would be nice to say when {name} says: "{news}"?',
    )
    moods = rng.choice(WORDS.happy), rng.choice(WORDS.sad)
    better, missing = moods if good_news else moods[::-1]
    worse = missing if rng.random() < 0.5 else rng.choice(WORDS.unkind)
    return question, better.format(name=name), worse.format(name=name)


def reading(rng: Random, name: str) -> Texts:
    """A question about a short note; the worse answer does not say what the note says."""
    friend = rng.choice([other for other in WORDS.names if other != name])
    place, elsewhere = rng.sample(WORDS.spots, 2)
    day, other_day = rng.sample(WORDS.days, 2)
    note = _one_of(
        rng,
        f"{name} will meet {friend} at the {place} on {day}.",
        f"On {day}, {name} and {friend} have lunch at the {place}.",
        f"{name} has to be at the {place} on {day}, and {friend} comes too.",
    )
    if rng.random() < 0.5:
        asked = rng.choice((f"Where is {name} going?", f"In which place will I see {name}?"))
        frames = ("{name} will be at the {x}.", "At the {x}.", "You will find {name} at the {x}.")
        frames += ("The note says that it is the {x}.",)
        right, wrong = place, elsewhere
    else:
        asked = rng.choice((f"When does {name} see {friend}?", "On which day is that?"))
        frames = ("It is on {x}.", "{name} and {friend} meet on {x}.", "That will be on {x}.")
        frames += ("The note says that it is {x}.",)
        right, wrong = day, other_day
    good, bad = (dict(name=name, friend=friend, x=x) for x in (right, wrong))
    return f"{note} {asked}", *_answers(rng, frames, good, bad)


def calendar(rng: Random, name: str) -> Texts:
    """The day or month before or after another."""
    names = rng.choice((WORDS.days, WORDS.months))
    unit = "day" if names is WORDS.days else "month"
    start, step = rng.randrange(len(names)), rng.choice((-1, 1, 1, 2))
    now, right = names[start], names[(start + step) % len(names)]
    wrong = rng.choice([x for x in names if x not in (now, right)])
    relation = {-1: "just before", 1: "right after", 2: f"two {unit}s after"}[step]
    question = _one_of(
        rng,
        f"Which {unit} comes {relation} {now}?",
        f"{name} says it is the {unit} {relation} {now}. What is it called?",
        f"{name} is on holiday until the {unit} {relation} {now}. Which one is that?",
    )
    frames = ("It is {x}.", "The {unit} {relation} {now} is {x}.", "That is {x}, of course.")
    frames += ("{x} comes {relation} {now}.",)
    common = dict(unit=unit, relation=relation, now=now)
    return question, *_answers(rng, frames, common | dict(x=right), common | dict(x=wrong))


TOPICS: dict[Callable[[Random, str], Texts], float] = {
    comparison: 9,
    opposite: 8,
    arithmetic: 4,
    politeness: 10,
    order: 10,
    explanation: 9,
    category: 9,
    purpose: 9,
    listing: 8,
    advice: 9,
    reply: 8,
    reading: 8,
    calendar: 3,
}


def _answers(
    rng: Random, frames: Sequence[str], good: dict[str, object], bad: dict[str, object]
) -> tuple[str, str]:
    better_frame, worse_frame = rng.choice(frames), rng.choice(frames)
    worse_frame = better_frame if rng.random() < 0.5 else worse_frame
    better = _sometimes(rng, WORDS.openings) + _capital(better_frame.format(**good))
    worse = _sometimes(rng, WORDS.openings) + _capital(worse_frame.format(**bad))
    return better, worse


def _steps(rng: Random, right: Sequence[str], wrong: Sequence[str]) -> tuple[str, str]:
    frames = (
        "First {a}, then {b}, and finally {c}.",
        "{A}. After that, {b}. Last of all, {c}.",
        "Start like this: {a}. Next, {b}. To finish, {c}.",
        "You {a}, you {b}, and at the end you {c}.",
    )
    good, bad = (dict(A=_capital(a), a=a, b=b, c=c) for a, b, c in (right, wrong))
    return _answers(rng, frames, good, bad)


def _three_in_order(rng: Random, steps: Sequence[str]) -> list[str]:
    return [steps[i] for i in sorted(rng.sample(range(len(steps)), 3))]


def _rude(rng: Random) -> str:
    return " ".join(rng.sample(WORDS.dismissals, rng.choice((1, 2, 3, 4))))


def _cut(rng: Random, text: str) -> str:
    parts = text.split()
    return " ".join(parts[: rng.randint(len(parts) // 2, len(parts) - 3)]).rstrip(".,:")


def _sometimes(rng: Random, texts: Sequence[str]) -> str:
    return rng.choice(texts) if rng.random() < 0.3 else ""


def _one_of(rng: Random, *texts: str) -> str:
    return rng.choice(texts)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

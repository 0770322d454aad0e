"""What each question of an audit means, in words for someone who runs annotators."""

from __future__ import annotations

from typing import Any, NamedTuple


class Question(NamedTuple):
    """title: what is asked; effect: what its number says; advice: what to do about who is flagged.

    unit: how the number reads: "share" of 1, or "points" of a hundred with a sign.
    """

    title: str
    effect: str
    unit: str
    advice: str


QUESTIONS = {
    "spammer": Question(
        "Whose answers tell next to nothing of the truth?",
        "share of the answers that follow the truth; the rest fall as this person's always do",
        "share",
        "Do not use these labels, and check how the person came to work like this.",
    ),
    "adversary": Question(
        "Who answers the contrary of the truth?",
        "share of the answers that follow the truth; below zero they go against it",
        "share",
        "Often a scale read the wrong way round: ask first, it may be enough to turn the answers.",
    ),
    "position": Question(
        "Who prefers the response that is shown first (or second)?",
        "answers for the first response beyond what the truth explains; below zero for the second",
        "points",
        "Show the responses in random order, and talk to the person.",
    ),
    "length": Question(
        "Who prefers the longer (or the shorter) response?",
        "answers for the longer response beyond what the truth explains; below zero: the shorter",
        "points",
        "Say in the guideline what length is worth.",
    ),
    "label": Question(
        "Who gives a label more often, or less often, than truth and the crowd's habits explain?",
        "answers with that label beyond what is expected; below zero: too few",
        "points",
        "Go through the guideline for that label together. Confidences allow for it already.",
    ),
    "copies": Question(
        "Which two give the same answers where the others say that both are wrong?",
        "share of one's answers that seem to be the other's",
        "share",
        "They may copy, share an account, or have learned the same mistake: look at both.",
    ),
    "drift": Question(
        "Who became less accurate with time?",
        "accuracy after the change less accuracy before it, at the likeliest moment",
        "points",
        "Look at what changed then: tiredness, another guideline, another person on the account.",
    ),
    "fast": Question(
        "Whose fast answers are worse than their others?",
        "accuracy of the fast answers less that of the others",
        "points",
        "A least time for an answer, or smaller batches.",
    ),
    "slice": Question(
        "Who is worse in one slice of the data than in the others, beyond what everyone is?",
        "accuracy in the slice less that outside it, both beyond what others have there",
        "points",
        "Give that slice to someone else, or explain it again.",
    ),
}


def effect(question: str, value: float | None) -> str:
    """The number of a finding as it is shown."""
    if value is None:
        return "–"
    whole = round(100 * value)  # no −0
    return f"{whole:+d} points" if QUESTIONS[question].unit == "points" else f"{whole} %"


def interval(question: str, low: float | None, high: float | None) -> str:
    """The 95 % interval of a finding as it is shown."""
    if low is None or high is None:
        return "–"
    sign = "+" if QUESTIONS[question].unit == "points" else ""
    return f"{round(100 * low):{sign}d} to {round(100 * high):{sign}d}"


def agreement_in_words(alpha: float | None) -> str:
    """How far data of that alpha can be relied on (Krippendorff, *Content Analysis*, 2004, 241)."""
    if alpha is None or alpha != alpha:
        return "Nothing can be said: no item has two votes, or all votes are alike."
    if alpha >= 0.8:
        return "Krippendorff's own rule calls this reliable (0.8 or more)."
    if alpha >= 0.667:
        return "Krippendorff's own rule allows tentative conclusions (0.667 to 0.8)."
    return (
        "Below 0.667, under which Krippendorff would not rely on single labels. Several votes an "
        "item can still give good labels: see how many are enough."
    )


def headline(summary: dict[str, Any]) -> list[str]:
    """The audit in a few sentences: the same on the page, in the terminal and in print."""
    item = "pair" if summary["kind"] == "preferences" else "item"
    items = item if summary["n_items"] == 1 else f"{item}s"
    n, votes, people = summary["n_items"], summary["n_votes"], summary["n_annotators"]
    who = f"{people:,} annotator{'s' * (people != 1)}" if people else "people who are not named"
    said = [
        f"{votes:,} vote{'s' * (votes != 1)} by {who} on {n:,} {items}, "
        f"{summary['votes_an_item']:.1f} each."
    ]
    if summary["reliability"] is not None and people:
        said.append(
            f"A vote is right in {100 * summary['reliability']:.0f} % of cases, as far as the "
            f"{'data' if item == 'pair' else 'votes'} tell."
        )
    known = summary["on_known"]
    told = known.get("n_known", 0)
    if told < n:
        wrong = summary["expected_wrong_items"]
        said.append(
            f"About {wrong:,.0f} of the {n:,} labels made of these votes are wrong "
            f"({100 * wrong / max(n, 1):.1f} %)."
        )
    if known:
        low, high = (100 * known[f"accuracy_{end}"] for end in ("low", "high"))
        said.append(
            f"On {told:,} {item}s with known answers the labels made without these are right in "
            f"{100 * known['accuracy_on_known']:.1f} % ({low:.0f} to {high:.0f}); by majority vote "
            f"{100 * known['majority_on_known']:.1f} %."
        )
    if summary["errs_together"]:
        said.append(
            "Many make the same mistakes, so that they agree says less than it seems: take these "
            "figures as too good, and get some known answers."
        )
    if people:
        lost, talk = summary["n_useless"], summary["n_flagged"] - summary["n_useless"]
        said.append(
            f"{lost:,} of the {people:,} annotators answer as if they did not know the truth, or "
            f"contrary to it; {talk:,} others have a bias or a change worth a talk."
            if lost or talk
            else "No annotator is flagged."
        )
    return said

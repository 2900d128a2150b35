"""Turn ranked items into the list that is shown: fill it up, explore a little with known probabilities, describe each item."""

import random

import numpy as np

from serving.gateway.answers import AnswerItem
from serving.gateway.question import Question, Ranked


def fill(question: Question, ranked: Ranked) -> Ranked:
    """Return ranked items with popular ones appended when a recommendation has fewer than `k`; searches and similar items stay what they are."""
    missing = question.k - len(ranked.numbers)
    if missing <= 0 or question.kind != "recommend":
        return ranked
    more = question.allowed(question.popular).numbers
    more = more[(more[:, None] != ranked.numbers).all(axis=1)][:missing]
    if not len(more):
        return ranked
    return Ranked(np.concatenate([ranked.numbers, more]), np.concatenate([ranked.scores, np.zeros(len(more), np.float32)]))


def show(question: Question, ranked: Ranked, explored_share: float) -> list[AnswerItem]:
    """Return the items to show.

    With probability `explored_share` one position below the first, drawn uniformly, shows an item drawn uniformly from those that were ranked but would
    not be shown. Of a slate of n items with r such spare items the propensities are: 1 for the first; 1 - explored_share / (n - 1) for every other ranked
    item at its place; explored_share / (n - 1) / r for the drawn one. Without spare items, or with one place only, nothing is explored and all are 1.
    """
    shown = min(question.k, len(ranked.numbers))
    places, spare = shown - 1, len(ranked.numbers) - shown
    numbers, scores = ranked.numbers[:shown].tolist(), ranked.scores[:shown].tolist()
    stays, explored = 1.0, 0
    if explored_share > 0 and places > 0 and spare > 0:
        stays = 1.0 - explored_share / places
        if random.random() < explored_share:
            explored, drawn = random.randint(1, places), shown + random.randrange(spare)
            numbers[explored], scores[explored] = int(ranked.numbers[drawn]), float(ranked.scores[drawn])
    item, changes = question.store.item, question.addition.changes if question.addition else {}
    items = []
    for place, number in enumerate(numbers):
        known = item(number)
        propensity = 1.0 if place == 0 else stays
        if explored and place == explored:
            propensity = explored_share / places / spare
        price = changes.get(number, known)
        items.append(
            AnswerItem(known.item_id, place + 1, known.title, price.price, price.currency, known.category_path, known.image, scores[place], propensity)
        )
    return items

"""What a step of training is shown: the examples of all ranks, of which each learns from its share.

Every rank looks at what all of them will see. So all that they exchange in a step are gradients, and with sampled items only those of the rows of tables that
the step touches, which are the same on all ranks: a step costs what its batch costs, however many items there are.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from evershelf.settings import TrainingSettings
from training.data import Deal, Ints, spread
from training.examples import Batch, Examples

WINDOWS, DESCRIBED, ORDERS, NEGATIVES = range(4)  # what is drawn

Mean = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], tuple[int, int]]
Step = dict[str, Any]


class Feed:
    """The steps of one rank. Nothing is held that grows with the examples."""

    def __init__(self, examples: Examples, settings: TrainingSettings, *, rank: int, ranks: int) -> None:
        self._examples, self._seed, self._share = examples, settings.seed, slice(rank, None, ranks)
        self._batch = settings.batch_size * ranks
        self._seen = np.flatnonzero(examples.features.seen).astype(np.int32)
        self._negatives = settings.negatives if settings.negatives < len(self._seen) else 0
        self.stands_for = len(self._seen) / self._negatives if self._negatives else None  # so many items does each that is drawn stand for; None: all are there
        self._place_of_item, self._place_of_word = (np.zeros(count, np.int32) for count in (len(examples.features.seen), examples.words))

    def deal(self, epoch: int) -> Deal:
        return Deal(self._examples.train, self._batch, (self._seed, epoch, WINDOWS))

    def steps(self, epoch: int, start: int = 0) -> Iterator[Step]:
        """Yield an epoch's steps from one on. Over all ranks every example comes exactly once, and all ranks get equally many steps.

        A step holds this rank's share, and names only what the shop has:
            integers: [4, batch, length] items, actions, next items, next actions, as in `Batch`; floats: [2, batch, length] since, until
            query_words: [batch, length, QUERY_WORDS]
            described, category: [some] items that teach the category head
            order_item, order_quantity, order_price, order_label: [some] order lines
            counts: [4] float32, over all ranks: next items, next actions, described, order lines
        With sampled items also which part of the catalogue it needs, on all ranks the same; places in it then stand for items and words everywhere:
            items, words: numbers of what the part holds, rising, 0 first; words_of, categories_of: see `mean_of`
            compared: [1 + sampled] places of 0 and of the items that were drawn; column: [items] of each item among these, 0: not drawn
        """
        deal, examples = self.deal(epoch), self._examples
        steps = len(deal)
        for step, windows in enumerate(deal.from_step(start), start=start):
            everyone = examples.sequences.batch(examples.train, windows)
            described, lines = (
                spread(count, step=step, steps=steps, seed=(self._seed, epoch, what))
                for what, count in ((DESCRIBED, len(examples.described)), (ORDERS, len(examples.order_label)))
            )
            shown = self._step(everyone, examples.described[described], lines, np.random.default_rng((self._seed, epoch, step, NEGATIVES)))
            examples.release()
            yield shown

    def _step(self, everyone: Batch, described: npt.NDArray[np.int64], lines: npt.NDArray[np.int64], random: np.random.Generator) -> Step:
        examples, share, shown = self._examples, self._share, Step()
        counts = [np.count_nonzero(everyone.next_item), np.count_nonzero(everyone.next_action), len(described), len(lines)]
        items, next_item, query_words = everyone.items, everyone.next_item, everyone.query_words
        category, order_item, mine = examples.features.category[described[share]], examples.order_item[lines], lines[share]
        if self._negatives:
            drawn = self._seen[random.choice(len(self._seen), self._negatives, replace=False, shuffle=False)]
            part, place = _part(self._place_of_item, items, next_item, described, order_item, drawn), self._place_of_item
            shown |= {"items": part, "compared": np.append(np.int32(0), place[drawn]), "column": np.zeros(len(part), np.int32)}
            shown["column"][place[drawn]] = 1 + np.arange(len(drawn))
            if examples.categories > 1:
                shown["categories_of"] = mean_of(examples.features.categories[part], examples.categories)
            if examples.words > 1:
                title = examples.features.words[part]
                shown["words"] = _part(self._place_of_word, title, query_words)
                shown["words_of"] = mean_of(self._place_of_word[title], len(shown["words"]))
                query_words = self._place_of_word[query_words]
            items, next_item, described, order_item = place[items], place[next_item], place[described].astype(np.int64), place[order_item]
        shown["integers"] = np.stack([numbers[share] for numbers in (items, everyone.actions, next_item, everyone.next_action)])
        shown["floats"] = np.stack([everyone.since[share], everyone.until[share]])
        shown["counts"] = np.array(counts, np.float32)
        if examples.words > 1:
            shown["query_words"] = query_words[share]
        if len(examples.described):
            shown |= {"described": described[share].astype(np.int32), "category": category}
        if len(examples.order_label):
            shown |= {"order_item": order_item[share], "order_quantity": examples.order_quantity[mine]}
            shown |= {"order_price": examples.order_price[mine], "order_label": examples.order_label[mine]}
        return shown


def _part(place_of: Ints, *numbers: npt.NDArray[np.integer[Any]]) -> Ints:
    """Return the different numbers, rising, 0 first, and write to `place_of` where among them each stands; its other entries mean nothing."""
    found = np.zeros(len(place_of), np.bool_)
    found[0] = True
    for some in numbers:
        found[some] = True
    part = np.flatnonzero(found).astype(np.int32)
    place_of[part] = np.arange(len(part), dtype=np.int32)
    return part


def mean_of(numbers: Ints, count: int) -> Mean:
    """Return indices, values and shape of a sparse [rows, count] float32: a row's product with a table is the mean of the entries that it names.

    Args:
        numbers: [rows, most]; 0 names nothing.
    """
    row, place = np.nonzero(numbers)
    share = 1.0 / (numbers > 0).sum(axis=1)[row]
    return np.column_stack([row, numbers[row, place]]).astype(np.int64), share.astype(np.float32), (len(numbers), count)

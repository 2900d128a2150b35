"""A text encoder learns which texts belong together: each query's own item against the items of the other pairs in the batch.

The embeddings stay as they are: a word that no click speaks of keeps its place among the others, and half of the parameters need no gradient.

Sources: Henderson et al., "Efficient natural language response suggestion for Smart Reply", 2017 (negatives from the batch); Loshchilov and Hutter,
"Decoupled weight decay regularization" (AdamW), ICLR 2019.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evershelf.progress import Say
from evershelf.text_encoder import LENGTHS
from training.errors import LossDiverged
from training.text_encoder import vectors_of

BATCH = 32  # pairs
EPOCHS = 10  # at most
RATE, WARM_UP = 2e-5, 0.1  # the highest learning rate; share of the training in which it rises to it, then it falls to 0
WEIGHT_DECAY, LONGEST_STEP = 0.01, 1.0  # of AdamW; norm at which gradients are clipped
TEMPERATURE = 0.05
LOOKS, PATIENCE = 8, 3  # how often in a training the quality is measured; so many times without a better one end it
POOL = 400  # items among which the chosen ones are looked for then
TOLD_EVERY = 30.0  # seconds
_NEVER = -1e9

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Which items were chosen after which queries: [pairs] places in `queries` and in `items`, no pair twice."""

    queries: list[str]
    items: list[str]
    query: Numbers
    item: Numbers

    def belong(self, query: Numbers, item: Numbers) -> npt.NDArray[np.bool_]:
        """Return [queries, items]: whether the item was chosen after the query."""
        return np.isin(query[:, None] * len(self.items) + item, self.query * len(self.items) + self.item)


def learn(backbone: Any, tokenizer: Any, pairs: Pairs, choosing: Pairs, *, minutes: float, seed: int, say: Say) -> tuple[float, float]:
    """Let an encoder learn; it ends with its best weights.

    Args:
        backbone: `text_encoder.load`'s; it is changed.
        choosing: pairs of other queries, by which the best weights are chosen.
        minutes: after which learning ends.

    Returns:
        The mean reciprocal rank of items that choosing queries chose, among POOL items less the query's other ones, before and with the best weights.

    Raises:
        LossDiverged: the loss is not a number.
    """
    started, random = time.monotonic(), np.random.default_rng(seed)
    step, set_rate = _stepper(backbone)
    quality = _quality(backbone, tokenizer, choosing, random)
    queries, items = (_tokens(tokenizer, texts) for texts in (pairs.queries, pairs.items))
    before = best = quality()
    weights = backbone.get_weights()
    say(f"{len(pairs.query)} pairs of {len(np.unique(pairs.query))} queries; mean reciprocal rank {before:.4f} before")
    steps, told, looks, worse = EPOCHS * -(-len(pairs.query) // BATCH), started, 1, 0
    for number, batch in enumerate(_batches(len(pairs.query), random), 1):
        done = max(number / steps, (time.monotonic() - started) / (60 * minutes))
        set_rate(RATE * max(0.0, min(done / WARM_UP, (1 - done) / (1 - WARM_UP))))
        query, item = pairs.query[batch], pairs.item[batch]
        hidden = pairs.belong(query, item) & ~np.eye(len(batch), dtype=np.bool_)
        loss = float(step(_padded([queries[one] for one in query]), _padded([items[one] for one in item]), hidden))
        if not np.isfinite(loss):
            raise LossDiverged(
                f"The loss of the text encoder is {loss} after {number} steps. Nothing was changed: search goes on with the encoder in force. "
                "Look for impossible texts in the catalogue; if there are none, this is a bug."
            )
        elapsed = time.monotonic() - started
        if time.monotonic() - told > TOLD_EVERY or done * LOOKS >= looks:
            told = time.monotonic()
            say(f"step {number} of at most {steps}: loss {loss:.4f}; at most {max(0.0, 60 * minutes - elapsed):.0f} s left")
        if done * LOOKS >= looks:
            looks = int(done * LOOKS) + 1
            now = quality()
            say(f"mean reciprocal rank {now:.4f}")
            worse = 0 if now > best else worse + 1
            if now > best:
                best, weights = now, backbone.get_weights()
            if done >= 1 or worse == PATIENCE:
                break
    backbone.set_weights(weights)
    return before, best


def _stepper(backbone: Any) -> tuple[Any, Any]:
    """Return what learns from one batch and returns its loss, and what sets the learning rate."""
    import keras
    import tensorflow as tf

    learned = [variable for variable in backbone.trainable_variables if variable.path.startswith("transformer_layer")]
    optimizer = keras.optimizers.AdamW(RATE, weight_decay=WEIGHT_DECAY, global_clipnorm=LONGEST_STEP)
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    optimizer.build(learned)
    tokens = tf.TensorSpec([None, None], tf.int32)

    @tf.function(input_signature=[tokens, tokens, tf.TensorSpec([None, None], tf.bool)])  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def step(queries: Any, items: Any, hidden: Any) -> Any:
        with tf.GradientTape() as tape:
            ours, theirs = (vectors_of(backbone, texts, training=True) for texts in (queries, items))
            scores = tf.where(hidden, _NEVER, tf.matmul(ours, theirs, transpose_b=True) / TEMPERATURE)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(tf.shape(scores)[0]), scores))
        optimizer.apply(tape.gradient(loss, [variable.value for variable in learned]), learned)
        return loss

    return step, optimizer.learning_rate.assign


def _quality(backbone: Any, tokenizer: Any, choosing: Pairs, random: np.random.Generator) -> Any:
    """Return what measures the mean reciprocal rank on a sample of pairs."""
    import tensorflow as tf

    sample = random.permutation(len(choosing.query))[: POOL // 2]
    query, chosen = np.unique(choosing.query[sample]), np.unique(choosing.item[sample])
    others = random.permutation(len(choosing.items))
    item = np.concatenate([chosen, others[~np.isin(others, chosen)]])[:POOL]
    belong = choosing.belong(query, item)
    row, column = np.nonzero(belong)
    queries, items = (_tokens(tokenizer, [texts[one] for one in which]) for texts, which in ((choosing.queries, query), (choosing.items, item)))

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def vectors(tokens: Any) -> Any:
        return vectors_of(backbone, tokens, training=False)

    def measured() -> float:
        ours, theirs = (
            np.concatenate([vectors(_padded(texts[start : start + BATCH])).numpy() for start in range(0, len(texts), BATCH)]) for texts in (queries, items)
        )
        scores = ours @ theirs.T
        before = ~belong[row] & ~(scores[row] < scores[row, column][:, None])  # so that weights that are no numbers find nothing
        return float(np.mean(1 / (1 + before.sum(axis=1))))

    return measured


def _batches(count: int, random: np.random.Generator) -> Iterator[Numbers]:
    """Yield every pair once in each epoch."""
    for _ in range(EPOCHS):
        order = random.permutation(count)
        yield from (order[start : start + BATCH] for start in range(0, count, BATCH))


def _tokens(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    tokenizer.no_padding()
    tokenizer.enable_truncation(LENGTHS[-1])
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def _padded(texts: list[list[int]]) -> npt.NDArray[np.int32]:
    """Return [texts, length of the longest]."""
    found = np.zeros((len(texts), max(map(len, texts))), np.int32)
    for row, ids in zip(found, texts, strict=True):
        row[: len(ids)] = ids
    return found

"""One small causal Transformer over a shopper's interactions, and the query when there is one; three small heads beside it.

`history -> user vector`, `item features -> item vector`, `score = user vector · item vector` (the last entry of both is the item's bias). An item's vector is
the sum of what is known of it (id, categories, brand, price, title words), so an item without history has one too: ids never seen before the split add nothing.

Source: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, with a full softmax over all items.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from evershelf.contracts import TRANSACTION_CLASSES
from evershelf.contracts.model import HISTORY_LENGTH
from training.data import ACTIONS
from training.feed import mean_of
from training.vocabulary import PRICE_BUCKETS, ItemFeatures

AGE_BUCKETS = 20  # bucket b: about 2^b minutes
MINUTES_A_DAY = 1440.0
ID_DROPOUT = 0.1  # share of the described items whose id is hidden in a step: the rest of their features must do
NEVER = -1e9  # logit of what may not be chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    width: int
    blocks: int
    heads: int
    dropout: float
    words: int
    categories: int


class Part(NamedTuple):
    """Tables and features of some items, or of all: what a step needs of the catalogue. Numbers of items and words are places in it; place 0 is padding."""

    ids: tf.Tensor  # [items, width]
    bias: tf.Tensor  # [items]
    words: tf.Tensor  # [words, width]
    items: tf.Tensor  # [items] int32, their numbers in the whole
    words_of: tf.SparseTensor  # [items, words]
    categories_of: tf.SparseTensor  # [items, categories]


class Block(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """One pre-norm Transformer block; attention sees how far back an event lies, not its place from the front."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.width = shape.heads, shape.width
        self.before_attention, self.before_mlp = keras.layers.LayerNormalization(), keras.layers.LayerNormalization()
        self.projections, self.output_projection = keras.layers.Dense(3 * shape.width), keras.layers.Dense(shape.width)
        self.up, self.down = keras.layers.Dense(2 * shape.width), keras.layers.Dense(shape.width)
        self.dropout = keras.layers.Dropout(shape.dropout)

    def build(self, _shape: Any) -> None:
        self.distance = self.add_weight(name="distance", shape=(HISTORY_LENGTH, self.heads), initializer="zeros")
        self.before_attention.build((None, None, self.width))
        self.before_mlp.build((None, None, self.width))
        self.projections.build((None, None, self.width))
        self.output_projection.build((None, None, self.width))
        self.up.build((None, None, self.width))
        self.down.build((None, None, 2 * self.width))
        self.built = True

    def call(self, x: tf.Tensor, unseen: tf.Tensor, training: bool, newest: bool = False) -> tf.Tensor:
        """Return the next x.

        Args:
            x: [batch, length, width]
            unseen: [batch, length, length] float32, 0 where the second may be seen from the first, NEVER or less elsewhere.
            newest: return only the last one, [batch, 1, width].
        """
        length = tf.shape(x)[1]
        query, key, value = tf.split(self._by_head(self.projections(self.before_attention(x)), 3 * self.heads), 3, axis=1)
        back = tf.range(length)[:, None] - tf.range(length)[None, :]
        if newest:
            x, query, back, unseen = x[:, -1:], query[:, :, -1:], back[-1:], unseen[:, -1:]
        bias = tf.transpose(tf.gather(self.distance.value, tf.clip_by_value(back, 0, HISTORY_LENGTH - 1)), [2, 0, 1])
        logits = tf.matmul(query, key, transpose_b=True) * (self.width // self.heads) ** -0.5 + bias[None] + unseen[:, None]
        weights = self.dropout(tf.nn.softmax(logits), training=training)
        mixed = tf.reshape(tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3]), [-1, tf.shape(x)[1], self.width])
        x += self.dropout(self.output_projection(mixed), training=training)
        # the tanh form of GELU: the exact one has no counterpart in the exported formats
        return x + self.dropout(self.down(keras.activations.gelu(self.up(self.before_mlp(x)), approximate=True)), training=training)

    def _by_head(self, x: tf.Tensor, parts: int) -> tf.Tensor:
        """[batch, length, parts * size] -> [batch, parts, length, size]"""
        return tf.transpose(tf.reshape(x, [-1, tf.shape(x)[1], parts, self.width // self.heads]), [0, 2, 1, 3])


class Ranker(keras.Model):  # type: ignore[misc]  # Keras has no types
    """The whole model. Vectors are `width + 1` long: the last entry of a user vector is 1, that of an item vector its bias."""

    def __init__(self, shape: Shape, features: ItemFeatures) -> None:
        super().__init__()
        self.shape = shape
        self.seen, self.brand, self.price = (tf.constant(array) for array in (features.seen, features.brand, features.price))
        self.has_words, self.has_categories, self.has_prices = shape.words > 1, shape.categories > 1, bool(features.price.any())
        self.id_dropout = tf.constant(ID_DROPOUT * ((features.words[:, 0] > 0) | (features.category > 0) | (features.brand > 0)), tf.float32)
        self.words_of, self.categories_of = (
            tf.SparseTensor(*mean_of(numbers, count)) for numbers, count in ((features.words, shape.words), (features.categories, shape.categories))
        )
        normal = keras.initializers.RandomNormal(stddev=0.05)

        def table(name: str, rows: int) -> Any:
            return self.add_weight(name=name, shape=(rows, shape.width), initializer=normal)

        count = len(features.seen)
        self.id_table, self.word_table, self.category_table = table("ids", count), table("words", shape.words), table("categories", shape.categories)
        self.brand_table, self.price_table = table("brands", features.brands), table("prices", PRICE_BUCKETS + 1)
        self.action_table, self.since_table, self.until_table = table("actions", len(ACTIONS)), table("since", AGE_BUCKETS + 1), table("until", AGE_BUCKETS + 1)
        self.bias = self.add_weight(name="bias", shape=(count,), initializer=lambda *_, **__: tf.constant(features.log_popularity))
        self.draws = keras.random.SeedGenerator(0)  # of hidden ids
        self.blocks = [Block(shape) for _ in range(shape.blocks)]
        self.dropout, self.norm = keras.layers.Dropout(shape.dropout), keras.layers.LayerNormalization()
        self.query_projection = keras.layers.Dense(shape.width, use_bias=False, kernel_initializer="identity")
        self.action_head = keras.layers.Dense(len(ACTIONS))
        self.category_hidden, self.category_head = keras.layers.Dense(shape.width, activation="relu"), keras.layers.Dense(shape.categories)
        self.class_hidden, self.class_head = keras.layers.Dense(shape.width, activation="relu"), keras.layers.Dense(len(TRANSACTION_CLASSES))
        for block in self.blocks:
            block.build(None)
        for layer, inputs in (
            (self.norm, shape.width),
            (self.query_projection, shape.width),
            (self.action_head, shape.width),
            (self.category_hidden, shape.width),
            (self.category_head, shape.width),
            (self.class_hidden, shape.width + 3),
            (self.class_head, shape.width),
        ):
            layer.build((None, inputs))
        self.built = True

    def whole(self) -> Part:
        """Return all items and words, with their numbers as places."""
        ids, bias, words = (tf.convert_to_tensor(table.value) for table in (self.id_table, self.bias, self.word_table))
        return Part(ids, bias, words, tf.range(self.id_table.shape[0]), self.words_of, self.categories_of)

    def part(self, items: tf.Tensor, words: tf.Tensor | None, words_of: tf.SparseTensor | None, categories_of: tf.SparseTensor | None) -> Part:
        """Return some items and words by their numbers, and how `words_of` and `categories_of` (of `mean_of`) tie them. What no item has may be None."""
        of_words = tf.convert_to_tensor(self.word_table.value) if words is None else tf.gather(self.word_table.value, words)
        return Part(tf.gather(self.id_table.value, items), tf.gather(self.bias.value, items), of_words, items, words_of, categories_of)

    def content(self, part: Part | None = None) -> tf.Tensor:
        """Return [items, width]: what brand, price and title say of each item (its category is left out: the head that foretells it must not see it)."""
        part = part or self.whole()
        parts = []  # of what no item has, nothing is computed: it would be most of a step's work for a shop that knows only ids
        if self.has_words:
            parts.append(tf.sparse.sparse_dense_matmul(part.words_of, part.words))
        if self.brand_table.shape[0] > 1:
            parts.append(tf.gather(self.brand_table.value, tf.gather(self.brand, part.items)))
        if self.has_prices:
            parts.append(tf.gather(self.price_table.value, tf.gather(self.price, part.items)))
        return tf.add_n(parts) if parts else tf.zeros_like(part.ids)

    def item_vectors(self, content: tf.Tensor, part: Part | None = None, *, training: bool, hidden: tf.Tensor | float = 0.0) -> tf.Tensor:
        """Return [items, width + 1] of a part of the catalogue, by default all; `hidden` [items] is added to the biases."""
        part = part or self.whole()
        if self.has_categories:
            content += tf.sparse.sparse_dense_matmul(part.categories_of, self.category_table.value)
        shown = tf.gather(self.seen, part.items)
        if training:
            shown *= tf.cast(keras.random.uniform(tf.shape(shown), seed=self.draws) >= tf.gather(self.id_dropout, part.items), tf.float32)
        return tf.concat([content + part.ids * shown[:, None], (part.bias + hidden)[:, None]], axis=1)

    def encode(
        self, vectors: tf.Tensor, items: tf.Tensor, actions: tf.Tensor, since: tf.Tensor, until: tf.Tensor, *, training: bool, newest: bool = False
    ) -> tf.Tensor:
        """Return [batch, length, width]: the shopper's state after each event.

        Args:
            vectors: [items, width + 1] from `item_vectors`.
            items, actions: [batch, length] int32; item 0 is padding, seen by nobody but itself.
            since, until: [batch, length] float32, days since the event before and until the event (or request) after.
            newest: return only the last state, [batch, 1, width], for half of the work.
        """
        present = tf.cast(items > 0, tf.float32)
        # scaled, as in the source: else the item is a small part of what it is added to
        x = tf.gather(vectors, items)[..., :-1] * present[..., None] * self.shape.width**0.5
        x += tf.gather(self.action_table.value, actions) + tf.gather(self.since_table.value, _bucket(since)) + tf.gather(self.until_table.value, _bucket(until))
        x = self.dropout(x, training=training)
        place = tf.range(tf.shape(items)[1])
        later, other = (tf.cast(mask, tf.float32) for mask in (place[:, None] < place[None, :], place[:, None] != place[None, :]))
        # numbers to add, not choices to make: LiteRT's fast kernels have no logic and no `where`, which would cut the graph in pieces
        unseen = NEVER * (later + (1.0 - present)[:, None, :] * other)
        for block in self.blocks:
            x = block(x, unseen, training=training, newest=newest and block is self.blocks[-1])
        return self.norm(x)

    def user_vectors(self, states: tf.Tensor, query_words: tf.Tensor | None, part: Part | None = None) -> tf.Tensor:
        """Return [..., width + 1] from states [..., width] and query words [..., QUERY_WORDS] int32 (all 0, or None: no query)."""
        if query_words is not None:
            known = tf.cast(query_words > 0, tf.float32)[..., None]
            words = tf.gather(part.words if part else self.word_table.value, query_words)
            query = tf.reduce_sum(words * known, axis=-2) / tf.maximum(tf.reduce_sum(known, axis=-2), 1.0)
            states += self.query_projection(query) * self.shape.width**0.5
        return tf.concat([states, tf.ones_like(states[..., :1])], axis=-1)

    def category_logits(self, content: tf.Tensor, *, training: bool) -> tf.Tensor:
        """Return [n, categories] from content vectors [n, width]."""
        return self.category_head(self.dropout(self.category_hidden(content), training=training))

    def class_logits(self, content: tf.Tensor, quantity: tf.Tensor, price: tf.Tensor) -> tf.Tensor:
        """Return [n, classes] of order lines: content vectors [n, width], pieces [n], price of one piece [n]."""
        numbers = tf.stack([tf.math.log1p(quantity), tf.math.log1p(price), tf.math.log1p(quantity * price)], axis=1)
        return self.class_head(self.class_hidden(tf.concat([tf.stop_gradient(content), numbers], axis=1)))


def _bucket(days: tf.Tensor) -> tf.Tensor:
    minutes = tf.maximum(days, 0.0) * MINUTES_A_DAY
    return tf.cast(tf.clip_by_value(tf.math.log1p(minutes) / np.float32(np.log(2)), 0.0, float(AGE_BUCKETS)), tf.int32)


def gaps(items: tf.Tensor, ages: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return days since the event before and until the event (the request, for the last) after, from ages [batch, length] in days; 0 at padding."""
    present = tf.cast(items > 0, tf.float32)
    between = ages[:, :-1] - ages[:, 1:]
    since = tf.concat([tf.zeros_like(ages[:, :1]), between * present[:, :-1]], axis=1) * present
    until = tf.concat([between, ages[:, -1:]], axis=1) * present
    return since, until

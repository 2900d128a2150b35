"""Adam by TensorFlow's own fused operation, where Keras's takes ten; and of tables that a step touches in part, only those rows.

Rows that are not touched stay as they are, their momentum too: the usual lazy form.

Source: Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

FIRST, SECOND, EPSILON = 0.9, 0.999, 1e-7


class Adam:
    def __init__(self, variables: Sequence[Any]) -> None:
        self._variables = variables
        self._first, self._second = ([keras.Variable(tf.zeros_like(one.value), trainable=False) for one in variables] for _ in range(2))
        self.steps = keras.Variable(0.0, trainable=False)

    @property
    def variables(self) -> list[Any]:
        return [*self._first, *self._second, self.steps]

    def apply(self, rate: tf.Tensor, gradients: Sequence[tf.Tensor], rows: Sequence[tf.Tensor | None]) -> None:
        """Do one step.

        Args:
            gradients: of each variable, or of those of its `rows` that are given: [rows] numbers, each once (0 more often when its gradient is always 0).
        """
        self.steps.assign_add(1.0)
        powers = FIRST**self.steps.value, SECOND**self.steps.value
        for variable, first, second, gradient, touched in zip(self._variables, self._first, self._second, gradients, rows, strict=True):
            handles = [one.value.handle for one in (variable, first, second)]
            if touched is None:
                tf.raw_ops.ResourceApplyAdam(
                    var=handles[0],
                    m=handles[1],
                    v=handles[2],
                    beta1_power=powers[0],
                    beta2_power=powers[1],
                    lr=rate,
                    beta1=FIRST,
                    beta2=SECOND,
                    epsilon=EPSILON,
                    grad=gradient,
                )
                continue
            mean = FIRST * tf.gather(first.value, touched) + (1 - FIRST) * gradient
            square = SECOND * tf.gather(second.value, touched) + (1 - SECOND) * gradient**2
            pace = rate * tf.sqrt(1 - powers[1]) / (1 - powers[0])
            value = tf.gather(variable.value, touched) - pace * mean / (tf.sqrt(square) + EPSILON)
            for handle, update in zip(handles, (value, mean, square), strict=True):
                tf.raw_ops.ResourceScatterUpdate(resource=handle, indices=touched, updates=update)

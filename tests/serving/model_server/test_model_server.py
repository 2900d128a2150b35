"""The stand-in does what TensorFlow Serving does. Statuses are compared by code and by a part of the message."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, get_model_metadata_pb2, get_model_status_pb2, model_management_pb2, predict_pb2

from serving.model_server.states import State


@contextmanager
def refused(code: str, contains: str) -> Iterator[None]:
    with pytest.raises(grpc.RpcError) as caught:
        yield
    assert caught.value.code().name == code, caught.value.details()
    assert contains in caught.value.details()


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def state(server: Any, version: int) -> State | None:
    try:
        known: dict[int, tuple[State, int]] = server.status()
    except grpc.RpcError:
        return None
    return known[version][0] if version in known else None


def load(server: Any, *versions: int) -> None:
    for version in versions:
        server.publish(version)
    server.reload(*versions)
    until(lambda: all(state(server, version) is State.AVAILABLE for version in versions))


# Predict


def test_predict_runs_the_model_and_says_which_version_answered(server: Any) -> None:
    load(server, 1, 2)
    response = server.predict(1, x=[1.0, 2.0])
    assert (response.model_spec.name, response.model_spec.version.value, response.model_spec.signature_name) == ("m", 1, "serving_default")
    assert sorted(response.outputs) == ["y", "z"]
    np.testing.assert_array_equal(tf.make_ndarray(response.outputs["y"]), np.array([1.5, 2.5], np.float32))
    assert list(response.outputs["z"].float_val) == [-1.0, -2.0]  # typed fields, never tensor_content
    assert server.predict(signature="second").model_spec.signature_name == "second"


def test_a_request_without_a_version_follows_the_highest_one(server: Any) -> None:
    load(server, 1, 2)
    assert server.predict().model_spec.version.value == 2


def test_an_output_filter_returns_what_it_names(server: Any) -> None:
    load(server, 1)
    request = server.request()
    request.output_filter.append("z")
    assert list(server.prediction.Predict(request).outputs) == ["z"]
    request.output_filter.append("z")
    with refused("INVALID_ARGUMENT", "duplicate output tensor alias"):
        server.prediction.Predict(request)
    request.output_filter[:] = ["q"]
    with refused("INVALID_ARGUMENT", "output tensor alias not found in signature"):
        server.prediction.Predict(request)


@pytest.mark.parametrize(
    ("request_of", "code", "contains"),
    [
        (lambda s: predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (lambda s: s.request(model=""), "INVALID_ARGUMENT", "ModelSpec has no name specified"),
        (lambda s: s.request(model="n"), "NOT_FOUND", "Servable not found for request: Latest(n)"),
        (lambda s: s.request(7), "NOT_FOUND", "Specific(m, 7)"),
        (lambda s: s.request(label="x"), "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        (lambda s: s.request(label="x", model="n"), "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        (lambda s: s.request(signature="s"), "FAILED_PRECONDITION", 'Serving signature key "s" not found'),
        (lambda s: s.request(x=[1.0], y=[1.0]), "INVALID_ARGUMENT", "input size does not match signature: 2!=1"),
        (lambda s: s.request(w=[1.0]), "INVALID_ARGUMENT", "Signature input alias: w"),
        (lambda s: s.request(x=["a"]), "INVALID_ARGUMENT", "to be float but string is provided"),
        (lambda s: s.request(x=[[1.0]]), "INVALID_ARGUMENT", ""),
    ],
)
def test_predict_refuses_with_the_codes_of_the_original(server: Any, request_of: Callable[[Any], Any], code: str, contains: str) -> None:
    load(server, 1)
    with refused(code, contains):
        server.prediction.Predict(request_of(server))


def test_too_few_inputs_and_broken_tensors_are_named(server: Any) -> None:
    load(server, 1)
    request = server.request()
    request.ClearField("inputs")
    with refused("INVALID_ARGUMENT", "input size does not match signature: 0!=1"):
        server.prediction.Predict(request)
    with refused("INVALID_ARGUMENT", "Missing but required: {x}"):
        server.prediction.Predict(request)
    broken = server.request(x=[1.0])
    broken.inputs["x"].ClearField("float_val")
    broken.inputs["x"].tensor_content = b"123"
    with refused("INVALID_ARGUMENT", "tensor parsing error: x"):
        server.prediction.Predict(broken)


def test_other_methods_are_unimplemented(server: Any) -> None:
    with refused("UNIMPLEMENTED", ""):
        server.prediction.Classify(classification_pb2.ClassificationRequest())


def test_long_errors_are_cut(server: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.predict(model="n" * 3000)
    assert caught.value.details().endswith("...TRUNCATED")


# metadata and status


def test_metadata_names_the_version_behind_a_label(server: Any) -> None:
    load(server, 1, 2)
    server.reload(1, 2, labels={"stable": 1})
    response = server.metadata("signature_def", label="stable")
    assert response.model_spec.version.value == 1
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert sorted(signatures.signature_def) == ["second", "serving_default", "slow"]
    with refused("INVALID_ARGUMENT", ""):
        server.metadata()
    with refused("INVALID_ARGUMENT", ""):
        server.metadata("weights")


def test_status_lists_versions_newest_first_and_ignores_labels(server: Any) -> None:
    load(server, 1, 2)
    assert list(server.status()) == [2, 1]
    assert server.status(version=1) == {1: (State.AVAILABLE, 0)}
    labelled = get_model_status_pb2.GetModelStatusRequest()
    labelled.model_spec.name, labelled.model_spec.version_label = "m", "no such label"
    assert len(server.models.GetModelStatus(labelled).model_version_status) == 2
    with refused("INVALID_ARGUMENT", "Missing ModelSpec"):
        server.models.GetModelStatus(get_model_status_pb2.GetModelStatusRequest())
    with refused("NOT_FOUND", "Could not find any versions of model"):
        server.status("n")
    with refused("NOT_FOUND", "Could not find version"):
        server.status(version=9)


# life cycle


def test_a_new_version_serves_before_the_old_one_goes(server: Any) -> None:
    load(server, 1)
    server.publish(2)
    answered: set[int] = set()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answered.add(server.predict().model_spec.version.value)

    asking = threading.Thread(target=ask)
    asking.start()
    server.reload(2)
    until(lambda: state(server, 1) is State.END)
    stop.set()
    asking.join()
    assert answered == {1, 2}  # and no request failed
    with refused("NOT_FOUND", "Specific(m, 1)"):
        server.predict(1)
    assert server.status()[1] == (State.END, 0)  # remembered, without an error


def test_a_version_that_does_not_load_leaves_the_old_one_serving_and_ends_with_its_error(server: Any) -> None:
    load(server, 1)
    server.publish(2, broken=True)
    server.reload(2)
    until(lambda: state(server, 2) is State.END)
    assert server.status()[2] == (State.END, grpc.StatusCode.NOT_FOUND.value[0])
    assert server.predict().model_spec.version.value == 1


def test_a_failed_version_is_tried_again_only_after_it_was_not_wanted(server: Any) -> None:
    load(server, 1)
    folder = server.publish(2, broken=True)
    server.reload(1, 2)
    until(lambda: state(server, 2) is State.END)
    whole = server.publish(3)
    (whole / "saved_model.pb").rename(folder / "saved_model.pb")  # repaired in place
    server.reload(1, 2)
    time.sleep(0.5)
    assert state(server, 2) is State.END
    server.reload(1)
    time.sleep(0.5)
    server.reload(1, 2)
    until(lambda: state(server, 2) is State.AVAILABLE)


def test_going_back_while_the_new_version_failed_is_postponed(server: Any) -> None:
    load(server, 1)
    server.publish(2, broken=True)
    server.reload(2)
    until(lambda: state(server, 2) is State.END)
    server.reload(1)  # 1 still serves though nobody wants it: the wish waits, and 2 stays failed
    time.sleep(0.5)
    assert server.status()[2][1] == grpc.StatusCode.NOT_FOUND.value[0]
    assert server.predict().model_spec.version.value == 1


def test_a_load_is_retried_as_often_as_set(start: Callable[..., Any]) -> None:
    server = start(retries=3, retry_s=0.2)
    load(server, 1)
    folder = server.publish(2, broken=True)
    server.reload(1, 2)
    until(lambda: state(server, 2) is State.LOADING)
    assert server.status()[2] == (State.LOADING, 0)  # no error while it still tries
    whole = server.publish(3)
    (whole / "saved_model.pb").rename(folder / "saved_model.pb")
    until(lambda: state(server, 2) is State.AVAILABLE)


def test_requests_in_flight_finish_on_their_version(server: Any, finish: Path) -> None:
    load(server, 1, 2)
    futures = [server.prediction.Predict.future(server.request(1, signature="slow")) for _ in range(3)]
    time.sleep(0.05)
    server.reload(2)
    until(lambda: state(server, 1) is State.UNLOADING)
    assert not futures[0].done()
    with refused("NOT_FOUND", "Specific(m, 1)"):
        server.predict(1)
    finish.touch()
    assert all(future.result().model_spec.version.value == 1 for future in futures)
    until(lambda: state(server, 1) is State.END)


def test_a_request_stops_at_its_deadline(server: Any, finish: Path) -> None:
    load(server, 1)
    with refused("DEADLINE_EXCEEDED", ""):
        server.prediction.Predict(server.request(signature="slow"), timeout=0.02)
    assert not finish.exists()


# what is on disk


def test_the_newest_version_is_served_by_default_and_unfinished_folders_are_not(server: Any) -> None:
    server.publish("00017")
    server.publish("99.tmp")
    server.publish("tmp-100")
    server.reload()
    assert server.predict().model_spec.version.value == 17
    server.publish(18)
    until(lambda: state(server, 17) is State.END)
    assert server.predict().model_spec.version.value == 18


def test_a_missing_base_path_changes_nothing_for_any_model(server: Any) -> None:
    load(server, 1)
    server.publish(5, model="n")
    server.reload_all({"name": "m"}, {"name": "n"})
    (server.base / "n").rename(server.base / "gone")
    server.publish(2)
    time.sleep(0.5)
    assert server.predict().model_spec.version.value == 1
    (server.base / "gone").rename(server.base / "n")
    until(lambda: state(server, 2) is State.AVAILABLE)


# reload


def test_a_reload_replaces_the_whole_configuration(server: Any) -> None:
    load(server, 1)
    server.publish(1, model="n")
    server.reload_all({"name": "n"})
    until(lambda: state(server, 1) is State.END)
    assert server.predict(model="n").model_spec.name == "n"
    server.reload_all()
    until(lambda: server.status("n") == {1: (State.END, 0)})


@pytest.mark.parametrize(
    ("models", "contains"),
    [
        ([{"name": "m"}, {"name": "m"}], "multiple times"),
        ([{"name": "m", "base_path": "models/m"}], "absolute path"),
        ([{"name": "m", "model_platform": "other"}], "platform"),
    ],
)
def test_a_configuration_that_makes_no_sense_changes_nothing(server: Any, models: list[dict[str, Any]], contains: str) -> None:
    load(server, 1)
    with refused("INVALID_ARGUMENT", contains):
        server.reload_all(*models)
    assert server.predict().model_spec.version.value == 1


def test_a_request_without_a_model_list_is_refused(server: Any) -> None:
    with refused("INVALID_ARGUMENT", ""):
        server.models.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest())


def test_labels_need_a_version_that_serves_and_move_at_once(server: Any) -> None:
    load(server, 1)
    server.publish(2)
    with refused("FAILED_PRECONDITION", "not currently available for inference"):
        server.reload(1, 2, labels={"canary": 2})
    time.sleep(0.5)
    assert state(server, 2) is None  # refused as a whole: nothing loads
    server.reload(1, 2)
    until(lambda: state(server, 2) is State.AVAILABLE)
    server.reload(1, 2, labels={"stable": 1, "canary": 2})
    assert server.predict(label="canary").model_spec.version.value == 2
    server.reload(1, 2, labels={"stable": 2})
    assert server.predict(label="stable").model_spec.version.value == 2
    with refused("INVALID_ARGUMENT", "Unrecognized servable version label: canary"):
        server.predict(label="canary")


def test_a_label_may_outlive_its_version_and_then_finds_nothing(server: Any) -> None:
    load(server, 1, 2)
    server.reload(2, labels={"stable": 1})
    until(lambda: state(server, 1) is State.END)
    with refused("NOT_FOUND", "Specific(m, 1)"):
        server.predict(label="stable")


def test_a_new_model_that_fails_is_said_once_and_stays_configured(server: Any) -> None:
    server.publish(1, broken=True)
    server.publish(1, model="n")
    with refused("UNKNOWN", "1 model(s) did not become available"):
        server.reload_all({"name": "m"}, {"name": "n"})
    assert server.predict(model="n").model_spec.name == "n"
    server.reload_all({"name": "m"}, {"name": "n"})  # no longer new: OK, though it still does not serve
    assert state(server, 1) is State.END


def test_a_new_model_without_versions_blocks_reloads_but_not_answers(server: Any) -> None:
    load(server, 1)
    (server.base / "n").mkdir()
    with refused("DEADLINE_EXCEEDED", ""):
        server.reload_all({"name": "m", "versions": [1]}, {"name": "n"}, timeout=0.3)
    with refused("DEADLINE_EXCEEDED", ""):
        server.reload(1, timeout=0.3)
    assert server.predict().model_spec.version.value == 1


def test_a_new_model_without_a_platform_spoils_every_later_reload(server: Any) -> None:
    server.publish(1)
    with refused("INVALID_ARGUMENT", "Illegal setting neither"):
        server.reload_all({"name": "m", "model_platform": ""})
    with refused("INVALID_ARGUMENT", "Illegal setting neither"):
        server.reload_all({"name": "m"})


# warm-up


def test_warm_up_records_run_inside_the_load(server: Any) -> None:
    load(server, 1)
    server.publish(2, warmup=[server.warm_request(x=[1.0])] * 3)
    server.reload(1, 2)
    until(lambda: state(server, 2) is State.AVAILABLE)


@pytest.mark.parametrize(
    ("records", "code"),
    [
        (lambda s: [s.warm_request(wrong=[1.0])], grpc.StatusCode.INVALID_ARGUMENT),
        (lambda s: [b"\xff\xff not a record"], grpc.StatusCode.INVALID_ARGUMENT),
        (lambda s: [s.warm_request()] * 1001, grpc.StatusCode.INVALID_ARGUMENT),
        (lambda s: [b""], grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_a_warm_up_that_fails_fails_the_load(server: Any, records: Callable[[Any], list[bytes]], code: grpc.StatusCode) -> None:
    load(server, 1)
    server.publish(2, warmup=records(server))
    server.reload(1, 2)
    until(lambda: state(server, 2) is State.END)
    assert server.status()[2][1] == code.value[0]
    assert server.predict(1).model_spec.version.value == 1


def test_a_warm_up_file_that_is_no_record_file_is_data_loss(server: Any) -> None:
    load(server, 1)
    folder = server.publish(2, warmup=[])
    (folder / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"nothing of the kind, but long enough")
    server.reload(1, 2)
    until(lambda: state(server, 2) is State.END)
    assert server.status()[2][1] == grpc.StatusCode.DATA_LOSS.value[0]

"""The TensorFlow Serving stand-in: the same gRPC API and the same behaviour, for machines without the original.

`config` (what to serve) → `source` (finds versions on disk) → `manager` (loads and unloads) → `states` (what everyone may know) and `services` (answers).
Behaviour follows tensorflow/serving; each module names the file it follows under `tensorflow_serving/`.
"""

"""Speak TensorFlow Serving's gRPC API without TensorFlow."""

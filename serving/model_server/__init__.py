"""Stand-in for TensorFlow Serving: the same gRPC API and the same life cycle of versions, where no real one can be installed."""

"""Answers (gateway), candidates (stores), decisions (promotion) and the TensorFlow Serving stand-in (model_server)."""

"""What a trained model looks like on disk and how it is called. Training writes it, the snapshot carries it, serving calls it.

models/<model_id>/
    saved_model/         SavedModel, signature `serving_default` = RANK_INPUTS -> RANK_OUTPUT, with warm-up records
    ranker.tflite        the same ranker for one request (batch 1), float32 or int8; or ranker.onnx instead, which may be a shop's own (OWN_RANKER)
    vocabulary.json      {"items": [...], "actions": [...], "categories": [...], "words": [...], "brands": [...]}; entry 0 is padding or unknown
    item_vectors.npy     [items, width] float32, row = index in the vocabulary
    user_vectors.parquet user_id string, vector array<float>: every shopper with a history, as of the data
    evaluation.json      {"metrics": {"NDCG@10": …}, "heads": {"P_U" | "P_P" | "P_T": {"accuracy": …} or null}, "baselines": …, "rung_quality": {rung: …},
                         "blessed": …, "why": …, "trained_at": seconds since 1970}
    golden.json          {"requests": [{"inputs": {name: [length]}, "scores": [RANKED_CANDIDATES]}, …]}: what the offline model scores; made of item indexes
                         only, no shopper's data; "ranker_tolerance": … beside it where the ranker is int8
    text_encoder/        optional: what evershelf/text_encoder.py runs, and weights.json: how much each of evershelf/hybrid.py's FITS counts in a search
    lineage.json         lake tables and versions, parameters, seed, code version, data_as_of, and the model that the training started from or null; the
                         fine-tuned text encoder or null
    weights.npz          what a later training starts from (training/warm_start.py); neither snapshots nor serving take it

Beside the models, and no model: text_encoders/<fingerprint>/, what `evershelf fine-tune` learned: config.json and model.weights.h5 as keras-hub writes them,
tokenizer.json as its publishers do.
"""

TEXT_ENCODER = "text_encoder"
HISTORY_LENGTH = 50  # newest last, padded on the left with 0
QUERY_WORDS = 8
RANKED_CANDIDATES = 200

MODEL_NAME = "ranker"
RANKERS = ("ranker.tflite", "ranker.onnx")  # a model and a snapshot hold one of them
CONFIG_FILE = "models.config"  # in the folder of the served models; promotion writes it, so that a restarted server loads the same versions again
SIGNATURE = "serving_default"
# key in lineage.json, {"base": model id, "sha256": of ranker.onnx}: all but ranker and golden.json is the base's, whose SavedModel still gives vectors and
# heads but ranks for nobody, so that a snapshot leaves it out
OWN_RANKER = "own_ranker"

# name -> (dtype, length of the second axis); the first axis is the batch
RANK_INPUTS = {
    "history_items": ("int32", HISTORY_LENGTH),
    "history_actions": ("int32", HISTORY_LENGTH),
    "history_ages": ("float32", HISTORY_LENGTH),  # days between the event and the request, 0 or more
    "query_words": ("int32", QUERY_WORDS),
    "candidates": ("int32", RANKED_CANDIDATES),
}
GOLDEN_TOLERANCE = 1e-3  # largest difference between any ranker's scores and the golden ones
RANK_OUTPUT = "scores"  # float32 [batch, RANKED_CANDIDATES]; higher is better, padding gets the lowest float

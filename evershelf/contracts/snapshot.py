"""The snapshot: one immutable, checksummed bundle of everything that answers; the unit of release.

<data_as_of>-<first 8 hex digits of the manifest's sha256>/
    manifest.json       written last
    model/              SavedModel; ranker.tflite (or .onnx) and vocabulary.json stand beside it at the top. Without it, where a shop brought its own ranker,
                        the model server has nothing of this snapshot, and its ladder begins with `local_model`
    store.lmdb          candidates, histories and popular lists
    items.lmdb          what an answer shows of an item, and its index in the vocabulary
    search/             lexical index, the words of the catalogue, the shop's synonyms
    vectors/            optional: index of the items' text vectors, the encoder of queries, and how much words and meaning count
    golden.json         requests and the scores that the offline model gives them
    evaluation.json     offline figures of the model
"""

MANIFEST = "manifest.json"
MODEL = "model"
VOCABULARY = "vocabulary.json"
STORE = "store.lmdb"
ITEMS = "items.lmdb"
SEARCH = "search"
VECTORS = "vectors"
GOLDEN = "golden.json"
EVALUATION = "evaluation.json"

READS_CONTRACTS = {"snapshot": 2}

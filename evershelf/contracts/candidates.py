"""What the candidate jobs write (Parquet, one folder per list) and the snapshot builder reads, and how they are counted: by the job in
Spark, and by the evaluation in memory as the baselines that a model is compared with.

`position` 1 is best. Lists are complete: a reader never needs the lake beside them.
"""

HALF_LIFE_DAYS = 14.0  # popularity and co-occurrence count half after so many days
BASKET = 50  # of a long basket or history only so many newest items are paired
GAP = 0.8  # a pair counts so much less for each time that the shopper chose something between the two; lines of one order are one time
BACKWARD = 0.3  # and so much, when what is proposed was chosen before what it is proposed for
RECENT = 10  # newest items of a shopper whose neighbours are proposed
RECENCY = 0.8  # each item back counts so much less
NEAR_WEIGHT = 0.5  # of the nearness to a shopper's newest items beside the model's score, both scaled to 0..1, when a recommendation is ranked
FUSION = 60  # reciprocal-rank fusion: 1 / (FUSION + rank), Cormack et al., SIGIR 2009

USER_CANDIDATES = {"user_id": "string", "item_id": "string", "position": "int", "score": "float", "source": "string"}
ITEM_CANDIDATES = {"item_id": "string", "neighbor_id": "string", "position": "int", "score": "float"}
QUERY_CANDIDATES = {"query": "string", "item_id": "string", "position": "int", "score": "float"}
POPULAR_ITEMS = {"category": "string", "item_id": "string", "position": "int", "score": "float"}  # category '' is the whole shop
USER_HISTORY = {"user_id": "string", "item_id": "string", "type": "string", "event_time": "timestamp", "position": "int"}  # 1 is newest

CANDIDATE_LISTS = {
    "user_candidates": USER_CANDIDATES,
    "item_candidates": ITEM_CANDIDATES,
    "query_candidates": QUERY_CANDIDATES,
    "popular_items": POPULAR_ITEMS,
    "user_history": USER_HISTORY,
}

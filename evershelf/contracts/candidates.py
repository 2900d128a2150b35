"""What the candidate jobs write (Parquet, one folder per list) and the snapshot builder reads.

`position` 1 is best. Lists are complete: a reader never needs the lake beside them.
"""

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

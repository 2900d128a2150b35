"""The agreements between the parts, importable everywhere: standard library only.

Every identifier is a string. Times are UTC instants; `dt` and `landing_dt` are calendar dates of the shop. Types are Spark SQL types.
"""

from evershelf.contracts.tables import (
    EVENT_TYPES,
    EVENTS,
    INTERESTS,
    LABELS,
    LAKE_TABLES,
    ORDERS,
    PRODUCTS,
    QUARANTINE,
    RECONCILIATION,
    TRANSACTION_CLASSES,
    Column,
    Table,
)

__all__ = [
    "EVENTS",
    "EVENT_TYPES",
    "INTERESTS",
    "LABELS",
    "LAKE_TABLES",
    "ORDERS",
    "PRODUCTS",
    "QUARANTINE",
    "RECONCILIATION",
    "TRANSACTION_CLASSES",
    "Column",
    "Table",
]

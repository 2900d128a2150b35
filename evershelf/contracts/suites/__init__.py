"""Great Expectations suites as files, one per lake table and `delivery` for what one source drops on a day; versioned with the contracts.

`meta.version` of a table's suite is the version of that table. An expectation whose `meta` has a `reason` is about single rows: a landed row that breaks it
goes to quarantine under that reason. Of what is about to be published all expectations must hold; one that does not stops the day. In `delivery` each says in
`meta.says` why a day is held back. `meta.watched` names the columns whose distribution is compared with the weeks before.

`{"$PARAMETER": name}` stands for a setting of the installation.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DELIVERY = "delivery"


def suite(name: str, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a suite in Great Expectations' JSON form; parameters without a value stay as they are in the file."""
    content: dict[str, Any] = _filled(json.loads((Path(__file__).parent / f"{name}.json").read_text()), parameters or {})
    return content


def _filled(content: Any, parameters: Mapping[str, Any]) -> Any:
    if isinstance(content, dict):
        if content.get("$PARAMETER") in parameters:
            return parameters[content["$PARAMETER"]]
        return {key: _filled(value, parameters) for key, value in content.items()}
    return [_filled(value, parameters) for value in content] if isinstance(content, list) else content

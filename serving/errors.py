"""Everything serving raises on purpose.

EvershelfError
└── ServingError
    ├── SourceUnavailable   one rung failed, the ladder continues
    ├── NoSourceAnswered    even the popular list is gone: a bug or an empty disk, HTTP 503
    ├── PromotionRefused    nothing changes; what is live stays live
    └── ModelServerError    the model server did not do what was asked; promotion puts everything back
"""

from evershelf.errors import EvershelfError


class ServingError(EvershelfError):
    pass


class SourceUnavailable(ServingError):
    pass


class NoSourceAnswered(ServingError):
    pass


class PromotionRefused(ServingError):
    pass


class ModelServerError(ServingError):
    pass

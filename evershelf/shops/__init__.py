"""Shops: one adapter file each, the door through which their raw files come in, and the simulated one."""

from importlib import import_module

from evershelf.errors import InvalidSettings
from evershelf.shops.adapter import Adapter
from evershelf.shops.simulated import ADAPTER as SIMULATED

REAL_SHOPS = ("icecat", "online_retail", "retailrocket")  # a file each, beside this one


class _Adapters(dict[str, Adapter]):
    """Finds an adapter by the value of `shop.adapter`: a file beside this one, or, with a dot in it, a module anywhere; either holds `ADAPTER`."""

    def __missing__(self, name: str) -> Adapter:
        module = name if "." in name else f"{__name__}.{name}"
        try:
            adapter = import_module(module).ADAPTER
        except (ImportError, AttributeError) as error:
            known = ", ".join(("simulator", *REAL_SHOPS))
            raise InvalidSettings(
                f"shop.adapter = {name!r}: {error}. Nothing was read or written. Known are {known}; a module of your own is named with its package."
            ) from None
        if not isinstance(adapter, Adapter):
            raise InvalidSettings(f"shop.adapter = {name!r}: {module}.ADAPTER is no evershelf.shops.adapter.Adapter. Nothing was read or written.")
        self[name] = adapter
        return adapter


ADAPTERS = _Adapters(simulator=SIMULATED)

"""Shops: one adapter file each, the door through which their raw days come in, and the simulated one."""

from evershelf.shops.adapter import Adapter
from evershelf.shops.online_retail import ADAPTER as ONLINE_RETAIL
from evershelf.shops.simulated import ADAPTER as SIMULATED

ADAPTERS: dict[str, Adapter] = {adapter.name: adapter for adapter in (SIMULATED, ONLINE_RETAIL)}

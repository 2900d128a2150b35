"""Settings: environment variables over one TOML file over the defaults below; frozen, typed, read once.

`EVERSHELF_GATEWAY__PORT=8080` sets `port` in the section `[gateway]`. The file is `evershelf.toml` in the working folder, or `EVERSHELF_CONFIG`.
"""

import os
import re
import tomllib
from datetime import date, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from evershelf.contracts import LAKE_TABLES
from evershelf.contracts.rungs import RUNGS, Rung
from evershelf.errors import InvalidSettings
from evershelf.text import Language

PREFIX = "EVERSHELF_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"

Share = Annotated[float, Field(gt=0, lt=1)]
Port = Annotated[int, Field(ge=0, le=65535)]  # 0: a free one is chosen when the process starts
Positive = Annotated[int, Field(ge=1)]


def _timezone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("not a time zone of the IANA database, such as Europe/London")
    return name


def _adapter(name: str) -> str:
    # One of your own is looked for when it is used: a gateway, which never uses it, starts without it.
    if not re.fullmatch(r"[a-z_]\w*(\.[a-z_]\w*)*", name) or ("." not in name and not (Path(__file__).parent / "shops" / f"{name}.py").is_file()):
        raise ValueError("no adapter of evershelf/shops, such as online_retail, and no module of your own, such as our_shop.adapter")
    return name


def _storage_url(url: str) -> str:
    parts = urlsplit(url)
    on_hdfs = parts.scheme == "hdfs" and parts.path.startswith("/") and parts.port != 0 and not set("%?#") & set(url)  # asking for the port checks it
    if url and not url.startswith("file:///") and not on_hdfs:
        raise ValueError("must be file:///absolute/path, hdfs://namenode:port/path, or hdfs:///path for the HDFS of the section [hdfs]")
    return url.rstrip("/")


def _ascending(shares: tuple[float, ...]) -> tuple[float, ...]:
    if any(later <= earlier for earlier, later in pairwise(shares)):
        raise ValueError("must grow from stage to stage, such as [0.05, 0.25, 0.5]")
    return shares


StorageUrl = Annotated[str, AfterValidator(_storage_url)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShopSettings(Section):
    adapter: Annotated[str, AfterValidator(_adapter)] = "simulator"  # a file of evershelf/shops, or a module of your own with its package
    timezone: Annotated[str, AfterValidator(_timezone)] = "Europe/London"  # the shop's own calendar
    # the first is that of files that name none
    currencies: Annotated[tuple[Annotated[str, Field(pattern="^[A-Z]{3}$")], ...], Field(min_length=1)] = ("GBP", "EUR", "USD")
    bulk_quantity: Positive = 100  # an order line of so many pieces is a bulk order


LANDING = "landing"  # beside the tables' names, in retention_days
_LANDING_OUTLIVES = 14  # days; a landing day that is run again restates days before it, which need their own landings


def _retention(days: dict[str, int]) -> dict[str, int]:
    if unknown := days.keys() - {*LAKE_TABLES, LANDING}:
        raise ValueError(f"{', '.join(sorted(unknown))}: no such table; known are {', '.join((*LAKE_TABLES, LANDING))}")
    for name in LAKE_TABLES:
        if LANDING in days and days.get(name, days[LANDING]) + _LANDING_OUTLIVES > days[LANDING]:
            raise ValueError(f"landing must be kept {_LANDING_OUTLIVES} days longer than every table that is made of it, and {name} is not limited to that")
    return days


class PrivacySettings(Section):
    user_key: SecretStr = SecretStr("")  # keyed hash of user ids; empty: `<home>/user.key`, made on first use
    former_user_keys: tuple[SecretStr, ...] = ()  # kept for as long as data of then are: the forgotten had a hash under each
    tombstone_key: SecretStr = SecretStr("")  # keyed hash of forgotten shoppers' hashes; empty: `<home>/tombstone.key`, made on first use
    phone_regions: tuple[Annotated[str, Field(pattern="^[A-Z]{2}$")], ...] = ("GB",)  # how shoppers write phone numbers without a country code
    # table, or "landing" -> how many days are kept; what is not named is kept for good
    retention_days: Annotated[dict[str, Annotated[int, Field(ge=30)]], AfterValidator(_retention)] = {}


class HdfsSettings(Section):
    host: str = "127.0.0.1"  # of the NameNode, or the name of an HA pair (then without a port: 0)
    port: Port = 8020
    web_port: Port = 9870  # WebHDFS, on the same host
    web_urls: tuple[str, ...] = ()  # WebHDFS of every NameNode of an HA pair, such as http://10.0.0.7:9870; default: host and web_port
    replication: Positive = 2  # copies of each block
    timeout: timedelta = timedelta(seconds=20)  # for one answer
    patience: timedelta = timedelta(seconds=30)  # jobs try so long again when no NameNode is ready, as during a restart or a fail-over

    @property
    def root(self) -> str:
        return f"hdfs://{self.host}:{self.port}" if self.port else f"hdfs://{self.host}"


class TableSettings(Section):
    url: StorageUrl = ""  # where the table lies; default: its name below the lake's address. Copy it there first
    replication: Positive | None = None  # copies of each block on HDFS; default hdfs.replication


def _tables(tables: dict[str, TableSettings]) -> dict[str, TableSettings]:
    if unknown := tables.keys() - LAKE_TABLES.keys():
        raise ValueError(f"{', '.join(sorted(unknown))}: no such table; known are {', '.join(LAKE_TABLES)}")
    if len(urls := [table.url for table in tables.values() if table.url]) > len(set(urls)):
        raise ValueError("two tables have one address: each would overwrite the other")
    return tables


class LakeSettings(Section):
    tables: Annotated[dict[str, TableSettings], AfterValidator(_tables)] = {}  # what is particular to a table
    restated_days: Annotated[int, Field(ge=0, le=7)] = 2  # rows may land so many days late
    max_quarantined_share: Share = 0.25  # more than this of a landing day stops the day
    max_age_days: Positive = 2  # a table whose newest day is older counts as stale in `evershelf status`
    min_volume_ratio: Share = 0.02  # less than this of the usual day stops the day
    max_volume_ratio: Annotated[float, Field(gt=1)] = 20.0
    drift_volume_ratio: Annotated[float, Field(gt=1)] = 2.0  # so many times the usual rows of a weekday, or less by as much, is a warning
    drift_share: Share = 0.1  # so is a share of empty values that differs by more
    drift_mean: Share = 0.25  # and a mean that differs by more, as a share of the usual one
    drift_psi: Annotated[float, Field(gt=0)] = 0.25  # and a population stability index above this, on top of what chance makes of it
    time_travel: Annotated[timedelta, Field(ge=timedelta())] = timedelta(days=7)  # files that were current since then are never deleted
    spark_memory: Annotated[str, Field(pattern="^[0-9]+[mg]$")] = "2g"
    spark_master: str = "local[2]"
    spark_java_options: str = ""  # of the driver; a shop of some ten thousand rows a day is faster with -XX:TieredStopAtLevel=1


RankerForm = Literal["LiteRT float32", "LiteRT int8", "ONNX float32", "ONNX int8"]


def _one_exact(forms: tuple[RankerForm, ...]) -> tuple[RankerForm, ...]:
    if not any(form.endswith("float32") for form in forms):
        raise ValueError("must name a float32 form: an int8 one ships only where it is better than one")
    return forms


class TrainingSettings(Section):
    ranks: Positive = 2
    # host:ranks of each, such as node-1:4, reached by ssh; all see one home and one checkout under the same paths. None: this machine
    hosts: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*:[1-9][0-9]*$")], ...] = ()
    interface: Annotated[str, Field(pattern=r"^[\w.-]*$")] = (
        ""  # over which the hosts' ranks talk, of one name on all, such as eth0; it must be a private network
    )
    ssh_config: Path | None = None  # how the hosts are reached; default: that of the user
    gpus: bool = False  # each rank takes one of its host
    epochs: Positive = 10
    batch_size: Positive = 16  # sequences per rank
    width: Positive = 64
    blocks: Positive = 1
    heads: Positive = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 0.003  # for 32 sequences in a step over all ranks; it grows with the square root of their number
    compression: Literal["none", "fp16"] = "none"  # of the gradients on their way between ranks: half of the traffic, a little noise
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of matrix products: bfloat16 on CPUs that have it, float16 on GPUs
    checkpoint_steps: Positive = 1000  # within an epoch; a training that was interrupted goes on from the last one
    restarts: Annotated[int, Field(ge=0)] = 3  # of the ranks from the checkpoint when one is lost or hangs, without an epoch finished in between
    hangs_after: timedelta = timedelta(minutes=5)  # without a step of any rank
    negatives: Annotated[int, Field(ge=0)] = 0  # items that a choice is compared with in a step, drawn anew; 0: with all
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0.999  # of the running average of the weights, which is what is kept: its share that stays per step
    patience: Positive = 4  # epochs without a better one end the training
    budget: timedelta | None = None  # the learning rate falls, and the training ends, by then; not set: by the number of epochs alone
    text_encoder: Path | None = None  # folder of a BERT: config.json, model.safetensors, tokenizer.json; not set: the MiniLM that comes with us
    rankers: Annotated[tuple[RankerForm, ...], AfterValidator(_one_exact)] = get_args(RankerForm)  # tried at the export; the fastest that agrees ships
    seed: int = 7
    validation_days: Positive = 2
    history_days: Positive = 90
    min_ndcg_over_popular: Annotated[float, Field(ge=0)] = 1.0  # blessed only at this multiple of the popular list's NDCG@10
    max_like_popular: Share = 0.9  # and when no more than this share of what it shows is on the popular list too
    max_loss_to_stable: Share = 0.1  # and no more than this share below stable on the same interval, in no slice shown to be
    warm_start: bool = False  # go on from the newest model of an earlier day, if it is blessed, with what happened since; else begin from nothing
    warm_epochs: Positive = 3  # of a training that goes on
    replay: Annotated[float, Field(ge=0, le=1)] = 0.5  # share of what was learned before that is repeated with the new days
    full_every: Positive = 7  # one training in so many begins from nothing, as the check

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width, {self.width}, must be a multiple of heads, {self.heads}")
        return self

    @model_validator(mode="after")
    def _hosts_have_the_ranks(self) -> Self:
        if not self.hosts:
            return self
        names, slots = zip(*(host.split(":") for host in self.hosts), strict=True)
        if len(set(names)) < len(names):
            raise ValueError("hosts names one twice: give it all its ranks in one entry")
        if (all_slots := sum(map(int, slots))) != self.ranks:
            raise ValueError(f"ranks, {self.ranks}, must be {all_slots}, as many as hosts have together")
        if not self.interface:
            raise ValueError("hosts need interface too, the network interface over which their ranks talk, such as eth0")
        return self

    @property
    def of_the_model(self) -> dict[str, Any]:
        """What makes a model what it is: not where its ranks ran."""
        return self.model_dump(mode="json", exclude={"hosts", "interface", "ssh_config"})


class CandidateSettings(Section):
    per_user: Positive = 100
    per_item: Positive = 50
    per_query: Positive = 50
    popular: Positive = 100
    active_days: Positive = 90  # shoppers seen within so many days get a list of their own


class SearchSettings(Section):
    language: Language = "english"  # of the products' texts: whose endings words lose, whose words for prices are understood
    synonyms: Path | None = None  # a text file: `sofa, couch` on a line, `case => sleeve` for one way only; a snapshot takes it along
    by_meaning: bool | None = None  # items are found by what their texts mean, too; not set: where the encoder knows the language (ours knows English)


class LabelSettings(Section):
    min_accuracy: Share = 0.8  # a rule, or the model, that is right less often on known items fills nothing in


class NearlineSettings(Section):
    interval: Annotated[timedelta, Field(ge=timedelta(seconds=1))] = timedelta(minutes=1)  # from batch to batch
    days: Positive = 2  # newest landing days whose events count; a snapshot with older data misses some of what shoppers did since
    catalogue_days: Positive = 7  # the same for prices and stock: a snapshot whose data is older shows its own where nothing landed since
    most_shoppers: Positive = 100_000  # of these, seen last, the gateways hear what they did; each costs them some hundred bytes
    expires: timedelta = timedelta(hours=1)  # gateways answer without an overlay that is older


def _address(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("must be host:port, such as 10.0.0.7:26379")
    return address


Address = Annotated[str, AfterValidator(_address)]


class RedisSettings(Section):
    sentinels: tuple[Address, ...] = ("127.0.0.1:26379", "127.0.0.1:26380", "127.0.0.1:26381")  # they know the primary; none: one Redis, at host and port
    primary: Annotated[str, Field(pattern="^[a-z0-9-]+$")] = "evershelf"  # its name among the sentinels
    host: str = "127.0.0.1"
    port: Port = 6379
    replica_ports: tuple[Port, ...] = (6380, 6381)  # of the local stack
    timeout: timedelta = timedelta(milliseconds=15)

    @model_validator(mode="after")
    def _one_way_to_the_primary(self) -> Self:
        given = self.model_fields_set
        if given & {"host", "port"} and "sentinels" not in given:
            raise ValueError("host or port is set, but the sentinels say where the primary is: set sentinels too, to [] for one Redis without them")
        return self

    @property
    def sentinel_addresses(self) -> list[tuple[str, int]]:
        return [(host, int(port)) for host, _, port in (address.rpartition(":") for address in self.sentinels)]

    @property
    def where(self) -> str:
        """For people: where the store is looked for."""
        return f"{self.primary} of the sentinels {', '.join(self.sentinels)}" if self.sentinels else f"{self.host}:{self.port}"


class ModelServerSettings(Section):
    host: str = "127.0.0.1"
    port: Port = 8500
    models: Path | None = None  # versions are copied here before they are loaded; default <home>/model_server


class GatewaySettings(Section):
    name: Annotated[str, Field(pattern="^[a-z0-9-]{1,40}$")] = "gateway-1"  # names its local state and its event segments
    host: str = "127.0.0.1"
    port: Port = 8080
    urls: tuple[str, ...] = ()  # every gateway, for promotion and rollback; default: this one
    admin_token: SecretStr = SecretStr("")  # empty: `<home>/admin.token`, made on first use
    rungs: Annotated[tuple[Rung, ...], Field(min_length=1)] = RUNGS  # a host without a model server or Redis leaves those rungs out; the order is fixed
    onnx_providers: Annotated[tuple[str, ...], Field(min_length=1)] = ("CPUExecutionProvider",)  # what runs a ranker in ONNX, best first
    deadline: timedelta = timedelta(milliseconds=150)
    max_in_flight: Positive = 256  # above this, requests are shed with 503 and Retry-After
    remembered_answers: Annotated[int, Field(ge=0)] = 10_000  # for `evershelf why`; in memory, a few hundred bytes each; 0 remembers nothing
    max_snapshot_age: timedelta = timedelta(hours=36)  # older than this alerts, and still serves
    log_poll: timedelta = timedelta(milliseconds=500)
    ship_interval: timedelta = timedelta(seconds=10)
    explored_share: Annotated[float, Field(ge=0, le=0.2)] = 0.02


class PromotionSettings(Section):
    shares: Annotated[tuple[Share, ...], Field(min_length=1), AfterValidator(_ascending)] = (0.01, 0.05, 0.25, 0.5)
    min_requests: Positive = 200  # canary answers before a stage is judged
    min_stage: timedelta = timedelta(seconds=30)  # a stage is not judged before: trouble comes in bursts, and one burst says little of a snapshot
    stage_timeout: timedelta = timedelta(minutes=10)  # no verdict by then: rejected
    max_error_ratio: Annotated[float, Field(ge=0)] = 0.001  # errors of the canary above those of stable, share of requests
    max_empty_ratio: Share = 0.005  # the same for empty answers
    max_fallback_ratio: Share = 0.05  # the same for answers from below the live rung
    max_slow_ratio: Share = 0.05  # the same for answers slower than 90 % and 95 % of stable's
    max_click_loss: Share = 0.1  # clicks per shown item that the canary may lose, share of stable's
    max_slower: Annotated[float, Field(gt=0.5, lt=1)] = 0.75  # probability that a canary answer is slower than a stable one; 0.5 is equal
    significance: Share = 0.005  # chance of rejecting a snapshot that is as good as stable, per guardrail and stage
    judge_interval: timedelta = timedelta(milliseconds=500)
    load_timeout: timedelta = timedelta(minutes=2)


class AirflowSettings(Section):
    port: Port = 8090
    daily_at_hour: Annotated[int, Field(ge=0, le=23)] = 2  # on the shop's clock: a landing day is complete by then on the next day
    first_day: date | None = None  # the scheduler runs every landing day from this one on; not set: only the newest (days before it are backfills)
    deadline: timedelta = timedelta(hours=6)  # a scheduled run that has not succeeded so long after it was queued alerts
    last_day: date | None = None  # the scheduler runs no landing day after this one


class TelemetrySettings(Section):
    statsd_host: str = "127.0.0.1"
    statsd_port: Port = 9125
    exporter_port: Port = 9102  # where Prometheus reads what StatsD collected
    prometheus_port: Port = 9090


class Settings(BaseSettings):
    """All settings. `home` holds everything one installation writes, but for what is shared: that is below `storage_url`, which defaults to the home.

    Landing, lake, snapshots, promotion log, overlays and the list of the forgotten may each have an address of their own besides.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid")

    home: Annotated[Path, AfterValidator(Path.absolute)] = Path(".evershelf")
    storage_url: StorageUrl = ""
    landing_url: StorageUrl = ""
    lake_url: StorageUrl = ""
    snapshots_url: StorageUrl = ""
    promotions_url: StorageUrl = ""
    forgotten_url: StorageUrl = ""
    overlays_url: StorageUrl = ""
    shop: ShopSettings = ShopSettings()
    privacy: PrivacySettings = PrivacySettings()
    hdfs: HdfsSettings = HdfsSettings()
    lake: LakeSettings = LakeSettings()
    training: TrainingSettings = TrainingSettings()
    candidates: CandidateSettings = CandidateSettings()
    search: SearchSettings = SearchSettings()
    labels: LabelSettings = LabelSettings()
    nearline: NearlineSettings = NearlineSettings()
    redis: RedisSettings = RedisSettings()
    model_server: ModelServerSettings = ModelServerSettings()
    gateway: GatewaySettings = GatewaySettings()
    promotion: PromotionSettings = PromotionSettings()
    airflow: AirflowSettings = AirflowSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())

    def url(self, place: Literal["landing", "lake", "snapshots", "promotions", "forgotten", "models", "candidates", "overlays"]) -> str:
        """Return the address of a place, without a trailing slash."""
        url = str(getattr(self, f"{place}_url", "")) or (f"{self.storage_url}/{place}" if self.storage_url else (self.home / place).as_uri())
        return self._on_hdfs(url)

    def _on_hdfs(self, url: str) -> str:
        return url.replace("hdfs://", self.hdfs.root, 1) if url.startswith("hdfs:///") else url

    def table_url(self, name: str) -> str:
        """Return the address of a table of the lake, without a trailing slash."""
        own = self.lake.tables.get(name, TableSettings()).url
        return self._on_hdfs(own) if own else f"{self.url('lake')}/{name}"

    def replication(self, name: str) -> int:
        """Return how many copies of each block HDFS is to keep of a table."""
        return self.lake.tables.get(name, TableSettings()).replication or self.hdfs.replication

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.shop.timezone)

    @property
    def by_meaning(self) -> bool:
        """Whether search finds what texts mean, too."""
        wish = self.search.by_meaning
        return self.search.language == "english" or self.training.text_encoder is not None if wish is None else wish

    @property
    def served_models(self) -> Path:
        return self.model_server.models or self.home / "model_server"

    @property
    def gateway_urls(self) -> tuple[str, ...]:
        return self.gateway.urls or (f"http://{self.gateway.host}:{self.gateway.port}",)


def config_file() -> Path:
    return Path(os.environ.get(CONFIG_VARIABLE, "evershelf.toml"))


@cache
def load_settings() -> Settings:
    """Read and check all settings.

    Raises:
        InvalidSettings: names every wrong setting, its value and what is allowed.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for variable in os.environ:
        if variable.startswith(PREFIX) and variable != CONFIG_VARIABLE and variable.split("__")[0] not in known:
            raise InvalidSettings(f"{variable} is set but is no setting of Evershelf. Allowed are {', '.join(sorted(known))}. Nothing was started.")
    if CONFIG_VARIABLE in os.environ and not config_file().is_file():
        raise InvalidSettings(f"{CONFIG_VARIABLE} names {config_file()}, which is not a file. Nothing was started.")
    try:
        return Settings()
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings(f"{config_file()} is not valid TOML: {error}. Nothing was started.") from None
    except (ValidationError, ValueError) as error:
        raise InvalidSettings(_explain(error)) from None


def _explain(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return f"Settings could not be read: {error}. Nothing was started."
    lines = [f"  {'.'.join(map(str, problem['loc']))} = {problem['input']!r}: {problem['msg']}" for problem in error.errors()]
    return "Wrong settings (environment or " + str(config_file()) + "); nothing was started:\n" + "\n".join(lines)

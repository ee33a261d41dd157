"""The settings of the server: options, environment and file by the same names."""

import os

import yaml
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, YamlConfigSettingsSource

from unetlib.errors import hint
from unetlib.paths import find_input

PREFIX = "UNETLIB_SERVE_"


class Settings(BaseSettings, extra="forbid", coerce_numbers_to_str=True):
    """The options of `unetlib serve`, keys of its file, and names in the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)
    network: str = Field("people", min_length=1, description="A name or a file")
    device: str = Field("auto", min_length=1, description="auto, cpu, cuda, cuda:1 or mps")
    host: str = Field("127.0.0.1", min_length=1, description="0.0.0.0 lets others in")
    port: int = Field(8000, ge=0, le=65535, description="0: a free one")
    workers: int = Field(min(4, os.cpu_count() or 1), ge=1, description="Photos in work at a time")
    queue: int = Field(32, ge=0, description="Requests that may wait, more get a 503")
    seconds: float = Field(60, gt=0, description="Of a request, a longer one gets a 504")
    upload_mb: float = Field(30, gt=0, description="Of a photo, a larger one gets a 413")
    megapixels: float = Field(50, gt=0, description="Of a photo, a larger one gets a 413")
    buffer_mb: float = Field(500, gt=0, description="Of all uploads in memory, more get a 503")
    files: int = Field(10, ge=1, description="Photos of a batch")
    api_key: SecretStr | None = Field(None, min_length=1, description="Else everybody may ask")
    cors: str = Field("", description="Origins whose pages may ask, with commas; * for all")
    page: bool = Field(True, description="Show the page at /")

    @classmethod
    def settings_customise_sources(cls, settings_cls, init_settings, env_settings, **_):
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls)


def read_settings(config: str | None, given: dict) -> Settings:
    """Settings from `given` where it is not None, else the environment, else a file (YAML, of which
    JSON is a part). ValueError for a wrong value, and for a wrong name, with the nearest one."""
    known, places = Settings.model_fields, ("serve.yaml", "serve.json")
    for name in os.environ:
        if name.startswith(PREFIX) and name[len(PREFIX) :].lower() not in known:
            near = hint(name, [PREFIX + one.upper() for one in known])
            raise ValueError(f"environment variable {name}: there is no such setting.{near}")
    found = find_input(config) if config else next(filter(os.path.isfile, places), None)
    given = {name: value for name, value in given.items() if value is not None}
    try:
        return type("Found", (Settings,), {}, yaml_file=found)(**given)
    except ValidationError as error:
        raise ValueError(f"setting {first_of(error, known)}") from error
    except (yaml.YAMLError, TypeError, ValueError) as error:
        what = " ".join(str(error).split())
        raise ValueError(f"{found}: lines as `port: 8000` are expected (YAML): {what}") from error


def first_of(error: ValidationError, known) -> str:
    """What pydantic complains of first: the name and why, not the value, which may be a key."""
    first = error.errors()[0]
    name, why = ".".join(map(str, first["loc"])), first["msg"]
    if first["type"] == "extra_forbidden":
        why = f"there is none of this name.{hint(name, known)} There are {', '.join(known)}"
    return f"{name}: {why}"

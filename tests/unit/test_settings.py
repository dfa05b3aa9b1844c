"""Settings: one table for people, one object for the code, and nothing that says otherwise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from corpusmill.errors import InvalidSettings
from corpusmill.settings import PREFIX, Settings, environ_of, settings_from

TABLE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_table_in_the_docs_names_every_setting_with_its_default_and_meaning() -> None:
    rows = dict(re.findall(r"^\| `(CORPUSMILL_\w+)` \| (.*) \|$", TABLE.read_text(encoding="utf-8"), re.MULTILINE))
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, "") else f"`{field.default}`"
        assert rows[PREFIX + name.upper()] == f"{default} | {field.description}"
    assert set(rows) - {PREFIX + name.upper() for name in Settings.model_fields} == {"CORPUSMILL_URL"}


def test_a_variable_that_is_no_setting_is_refused_by_name() -> None:
    with pytest.raises(InvalidSettings, match="CORPUSMILL_LEASE_SECOND: no such setting"):
        settings_from({"CORPUSMILL_LEASE_SECOND": "3"})


def test_a_variable_that_is_no_setting_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidSettings, match="did you mean CORPUSMILL_LEASE_SECONDS"):
        settings_from({"CORPUSMILL_LEASE": "3"})


@pytest.mark.parametrize("url", ["nonsense", "mysql://u@h/d", "sqlite://relative.db", "postgresql:/h/d"])
def test_a_database_of_another_kind_is_refused_with_those_that_are_known(url: str) -> None:
    with pytest.raises(InvalidSettings, match=r"CORPUSMILL_DATABASE_URL: .*sqlite:///.*postgresql://"):
        settings_from({"CORPUSMILL_DATABASE_URL": url})


def test_a_wrong_value_is_refused_with_the_variable_s_name() -> None:
    with pytest.raises(InvalidSettings, match="CORPUSMILL_PORT"):
        settings_from({"CORPUSMILL_PORT": "99999"})


def test_other_variables_are_nobody_s_business() -> None:
    assert settings_from({"PATH": "/bin", "CORPUSMILL_URL": "http://elsewhere"}) == Settings()


def test_an_environment_made_of_settings_gives_the_same_settings() -> None:
    settings = settings_from({"CORPUSMILL_DATA_DIR": "/srv/mill", "CORPUSMILL_WORKERS": "3"}, port=0)
    assert settings_from(environ_of(settings)) == settings


def test_the_key_is_not_shown() -> None:
    assert "secret" not in repr(settings_from({"CORPUSMILL_API_KEY": "secret"}))


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("", "sqlite:////srv/mill/corpusmill.sqlite3"),
        ("postgresql://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgres://u@h/d", "postgresql+psycopg://u@h/d"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_the_database_url_is_put_into_the_form_that_is_used(url: str, database: str) -> None:
    assert settings_from({"CORPUSMILL_DATABASE_URL": url, "CORPUSMILL_DATA_DIR": "/srv/mill"}).database == database


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False)]
)
def test_only_loopback_counts_as_this_machine(host: str, loopback: bool) -> None:
    assert settings_from({}, host=host).loopback is loopback

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from catchment.core.errors import Invalid
from catchment.core.settings import Settings, without_password
from catchment.core.store import OPTIONS

MINIMAL = """
[tables.nacc]
centers = "centers.json"
datasets = "sites/{center}"
"""


@pytest.fixture
def file(tmp_path):
    def write(text: str, name: str = "catchment.toml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def refused(path: Path | None = None, overrides=None, environment=None) -> str:
    with pytest.raises(Invalid) as caught:
        Settings.load(path, overrides, environment or {})
    assert caught.value.kind == "bad-settings"
    assert caught.value.hint
    return caught.value.message


def test_argument_wins_over_environment_over_file_over_default(file):
    path = file("[executor]\nkind = 'processes'\nworkers = 2\nmemory = 512\n")
    settings = Settings.load(
        path,
        {"executor.kind": "tcp://127.0.0.1:8786", "executor.workers": None},
        {"CATCHMENT_EXECUTOR__KIND": "threads", "CATCHMENT_EXECUTOR__WORKERS": "3"},
    )
    assert settings.executor.kind == "tcp://127.0.0.1:8786"
    assert (settings.executor.workers, settings.executor.memory) == (3, 512)
    origins = {key: origin for key, _, origin in settings.shown()}
    assert origins["executor.kind"] == "argument"
    assert origins["executor.workers"] == "environment"
    assert origins["executor.memory"] == "catchment.toml"
    assert origins["workspace.store"] == origins["s3.endpoint"] == "default"


def test_a_dash_in_a_name_is_an_underscore_in_the_environment(file):
    """A shell takes no variable with a dash: secrets of such a section could not be given."""
    path = file("[deidentify.long-term]\n[deidentify.a_b]\n[deidentify.a-b]\n")
    names = ("LONG_TERM", "A_B", "NEW_ONE")
    settings = Settings.load(
        path, {}, {f"CATCHMENT_DEIDENTIFY__{name}__DATES": "shift" for name in names}
    )
    assert {name: one.dates for name, one in settings.deidentify.items()} == {
        "long-term": "shift",
        "a_b": "shift",
        "a-b": "remove",
        "new_one": "shift",
    }


def test_paths_are_relative_to_who_says_them(file, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    path = file(MINIMAL + "allow = ['sites', 's3://bucket/a']\nidentifiers = 'lambda:who'\n")
    settings = Settings.load(
        path,
        {"tables.nacc.duplicates_criteria": "rules.json"},
        {"CATCHMENT_WORKSPACE__LEDGER": "l.db"},
    )
    table = settings.tables["nacc"]
    assert table.centers == f"file://{tmp_path}/centers.json"
    assert table.datasets == f"file://{tmp_path}/sites/{{center}}"
    assert table.allow == (f"file://{tmp_path}/sites", "s3://bucket/a")
    assert table.identifiers == "lambda:who"
    assert table.duplicates_criteria == f"file://{here}/rules.json"
    assert settings.workspace.store == f"file://{tmp_path}/data"
    assert settings.workspace.ledger == f"sqlite:///{here}/l.db"


def test_a_path_becomes_a_url_that_says_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings.load(None, {"workspace.store": "../a b%/#1"}, {})
    assert settings.workspace.store == f"file://{tmp_path.parent}/a%20b%25/%231"


def test_datasets_may_be_a_table_by_center(file, tmp_path):
    path = file(
        "[tables.nacc]\ncenters = 'c.json'\n"
        "[tables.nacc.datasets]\nalpha = 'a'\nbeta = 's3://bucket/b'\n"
    )
    settings = Settings.load(path, None, {})
    assert settings.tables["nacc"].datasets == {
        "alpha": f"file://{tmp_path}/a",
        "beta": "s3://bucket/b",
    }


def test_lists_and_days_are_read_as_people_write_them(file):
    path = file(MINIMAL + "freeze_date = 2026-02-03\nexclude_studies = ['dvcid', 'leads']\n")
    settings = Settings.load(
        path, None, {"CATCHMENT_TABLES__NACC__INCLUDE_CENTERS": " alpha,beta, "}
    )
    table = settings.tables["nacc"]
    assert table.freeze_date == "20260203"
    assert table.exclude_studies == ("dvcid", "leads")
    assert table.include_centers == ("alpha", "beta")


def test_every_problem_is_told_with_its_place(file):
    message = refused(
        file(
            "[workspace]\nstor = 'x'\n\n[executor]\nworkers = 0\n"
            "[tables.nacc]\ncenters = 'c'\nsource = 'flywheel'\n"
            "[tables.Bad]\ncenters = 'c'\ndatasets = 'd'\n[nothing]\na = 1\n"
        ),
        {"workspace.name": 3},
        {"CATCHMENT_EXECUTOR__WORKRS": "3"},
    )
    assert message.splitlines() == [
        "argument: workspace.name: expected a valid string, found 3",
        "catchment.toml:2: nothing is called 'workspace.stor'; did you mean 'store'?",
        "catchment.toml:5: executor.workers: expected greater than 0, found 0",
        "environment: nothing is called 'executor.workrs'; did you mean 'workers'?",
        "catchment.toml:6: tables.nacc: source = 'flywheel' needs 'project'",
        "catchment.toml:9: tables.Bad: not a usable name: expected a-z, then up to 62 of a-z 0-9 _ -, got 'Bad'",
        "catchment.toml:12: nothing is called 'nothing'; expected one of "
        + ", ".join(Settings.model_fields),
    ]


def test_what_is_missing_is_told_with_the_line_of_its_table(file):
    assert refused(file("\n\n[tables.nacc]\ndatasets = 'x/{center}'\n")) == (
        "catchment.toml:3: 'tables.nacc.centers' is missing"
    )
    assert refused(None, {"tables.nacc.datasets": "x"}) == (
        "settings: 'tables.nacc.centers' is missing"
    )


def test_a_value_in_the_place_of_a_table(file):
    assert refused(file("workspace = 3\n"), {"workspace.name": "x"}) == (
        "catchment.toml:1: 'workspace' is not a table, expected [workspace]"
    )


def test_a_file_that_is_not_toml(file, tmp_path):
    assert refused(file("[workspace\n")).startswith("catchment.toml cannot be read: ")
    assert "No such file" in refused(tmp_path / "absent.toml")


def test_names_of_one_part_are_not_settings():
    Settings.load(None, None, {"CATCHMENT_DEBUG": "1", "CATCHMENT_WORKSPACE": "x", "PATH": "y"})


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_a_secret_is_never_shown(secret):
    environment = {
        "CATCHMENT_S3__SECRET_ACCESS_KEY": f"<{secret}>",
        "CATCHMENT_S3__SESSION_TOKEN": f"<{secret}>",
        "CATCHMENT_IDENTIFIERS__TOKEN": f"<{secret}>",
        "CATCHMENT_FLYWHEEL__API_KEY": f"<{secret}>",
    }
    settings = Settings.load(None, None, environment)
    assert f"<{secret}>" not in json.dumps(list(settings.shown()), ensure_ascii=False)
    assert f"<{secret}>" not in repr(settings)
    assert settings.s3.options()["secret_access_key"] == f"<{secret}>"


def test_a_secret_of_a_wrong_type_is_not_shown_either(file):
    assert "4711" not in refused(file("[s3]\nsecret_access_key = 4711\n"))


def test_a_password_in_a_url_is_not_shown():
    url = "postgresql://user:pass@host:5432/db?x=1"
    settings = Settings.load(None, {"workspace.ledger": url}, {})
    shown = {key: value for key, value, _ in settings.shown()}
    assert shown["workspace.ledger"] == "postgresql://user:***@host:5432/db?x=1"
    assert without_password("s3://user@bucket/a") == "s3://user@bucket/a"
    assert without_password("not a url: a@b") == "not a url: a@b"


def test_the_s3_settings_are_the_options_of_the_store():
    settings = Settings.load(None, {"s3.allow_http": True, "s3.region": "eu"}, {})
    assert set(type(settings.s3).model_fields) == OPTIONS
    assert settings.s3.options() == {"allow_http": "true", "region": "eu"}
    assert isinstance(
        Settings.load(None, {"s3.session_token": "t"}, {}).s3.session_token, SecretStr
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:pa/ss@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:p?a#s@s@host/db", "postgresql://user:***@host/db"),
        ("postgresql://host/db?user=u&password=p", "postgresql://host/db?user=u&password=***"),
        ("https://host/ask?api_token=t&x=1", "https://host/ask?api_token=***&x=1"),
        ("https://host:8080/a?mail=a@b", "https://host:8080/a?mail=a@b"),
        ("s3://bucket/a@b:c", "s3://bucket/a@b:c"),
    ],
)
def test_no_part_of_a_url_that_opens_a_door_is_shown(url, shown):
    assert without_password(url) == shown


def test_texts_have_keys_with_dots_and_what_is_secret_there_is_not_shown(file):
    path = file(
        '[iceberg.properties]\n"s3.secret-access-key" = "hush"\ns3.region = "eu"\n'
        "[exports.eob]\ncontract = 'c'\nfiles = 'f'\n[exports.eob.parameters]\n'_has.x' = 'y'\n"
    )
    environment = {"CATCHMENT_ICEBERG__PROPERTIES__S3__ENDPOINT": "http://h"}
    settings = Settings.load(path, None, environment)
    assert settings.iceberg.properties == {
        "s3.secret-access-key": "hush",
        "s3.region": "eu",
        "s3.endpoint": "http://h",
    }
    assert settings.exports["eob"].parameters == {"_has.x": "y"}
    shown = {key: (value, origin) for key, value, origin in settings.shown()}
    assert shown["iceberg.properties.s3.secret-access-key"] == ("***", "catchment.toml")
    assert shown["iceberg.properties.s3.region"] == ("eu", "catchment.toml")
    assert shown["iceberg.properties.s3.endpoint"] == ("http://h", "environment")


def test_a_weightier_table_takes_the_place_of_a_text_and_the_other_way_round(file):
    path = file(MINIMAL)
    file("[tables.nacc.datasets]\nalpha = '/prod/alpha'\n", "catchment.prod.toml")
    settings = Settings.load(path, None, {"CATCHMENT_ENV": "prod"})
    assert settings.tables["nacc"].datasets == {"alpha": "file:///prod/alpha"}
    more = {"CATCHMENT_ENV": "prod", "CATCHMENT_TABLES__NACC__DATASETS__BETA": "/b"}
    settings = Settings.load(path, None, more)
    both = {"alpha": "file:///prod/alpha", "beta": "file:///b"}
    assert settings.tables["nacc"].datasets == both
    given = {"tables.nacc.datasets": "s3://bucket/{center}"}
    assert Settings.load(path, given, more).tables["nacc"].datasets == "s3://bucket/{center}"
    # But a section that is none is told, whatever comes later.
    told = refused(file("workspace = 's3://bucket'\n"), None, {"CATCHMENT_WORKSPACE__NAME": "n"})
    assert told == "catchment.toml:1: 'workspace' is not a table, expected [workspace]"


@pytest.mark.parametrize(
    "key", ["identifiers.token", "exports.x.token", "lineage.token", "iceberg.token"]
)
@pytest.mark.parametrize("token", ["geh\u00e9im", "geheim\n", "geheim zwei"])
def test_a_token_is_one_that_a_header_takes(key, token):
    section, _, name = key.rpartition(".")
    needed = {} if section != "exports.x" else {"exports.x.contract": "c", "exports.x.files": "f"}
    with pytest.raises(Invalid) as error:
        Settings.load(None, {key: token, **needed}, {})
    assert f"{key}: expected a token of visible ASCII characters" in error.value.message
    assert "geh" not in error.value.message
    assert Settings.load(None, {f"{section}.{name}": "geheim==", **needed}, {})


def test_a_secret_of_a_table_of_them_is_not_shown_where_it_is_wrong(file):
    path = file(
        "[deidentify.p.keys]\nalpha = 4711\n[iceberg.properties]\n's3.session-token' = 4712\n"
    )
    told = refused(path)
    assert "deidentify.p.keys.alpha" in told
    assert "4711" not in told
    assert "4712" not in told


def test_a_name_with_a_dot_is_told_once_and_whole(file):
    told = refused(file('[workspace]\nname = "n"\n[tables."../x"]\ncenters = "c"\n'))
    assert told == (
        'catchment.toml:3: [tables."../x"]: not a usable name: '
        "expected a-z, then up to 62 of a-z 0-9 _ -, got '../x'"
    )


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            """
[tables.a]
centers = "c"
datasets = "d"
output = "o"
[tables.b]
centers = "c"
datasets = "d"
output = "/o/"
""",
            "tables.a and tables.b have the same output",
        ),
        (
            """
[tables.a-b]
centers = "c"
datasets = "d"
[tables.a_b]
centers = "c"
datasets = "d"
""",
            "tables.a-b and tables.a_b differ by a dash only",
        ),
        (
            """
[imaging.a]
providers = {x = "x"}
warehouse = "w.duckdb"
[imaging.b]
providers = {x = "x"}
warehouse = "w.duckdb"
""",
            "imaging.a and imaging.b have the same warehouse",
        ),
    ],
)
def test_aggregates_do_not_share_what_is_each_ones_own(file, lines, told):
    assert refused(file(f"# a remark\n{lines}")).startswith(f"catchment.toml: {told}")


def test_an_argument_is_told_by_its_flag():
    given = {"executor.kind": "foo", "executor.workers": 0}
    with pytest.raises(Invalid) as caught:
        Settings.load(None, given, {}, {"executor.kind": "--cluster"})
    assert caught.value.message.splitlines() == [
        "--cluster: expected tcp://HOST:PORT, threads or processes, found 'foo'",
        "argument: executor.workers: expected greater than 0, found 0",
    ]


def test_an_empty_variable_takes_back_what_the_file_says(file):
    """As compose files and charts say that there is none."""
    path = file(
        '[s3]\nendpoint = "http://a"\n[events]\nqueue = "https://q"\n[lineage]\nurl = "https://l"\n'
        '[oidc]\nissuer = "https://i"\n'
    )
    places = ("s3.endpoint", "events.queue", "lineage.url", "oidc.issuer")
    empty = {f"CATCHMENT_{place.replace('.', '__').upper()}": "" for place in places}
    settings = Settings.load(path, None, empty)
    told = {key: value for key, value, _ in settings.shown()}
    assert [told[place] for place in places] == [None] * len(places)

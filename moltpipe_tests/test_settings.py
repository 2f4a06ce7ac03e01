from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest

from moltpipe.settings import SettingsError, load_settings, misspelt, variables


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in variables():
        monkeypatch.delenv(name, raising=False)


def test_everything_has_a_default_that_needs_no_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.database_url is None
    assert settings.s3_endpoint_url is None
    assert settings.s3_bucket == "moltpipe"
    assert settings.data_dir == tmp_path / ".moltpipe"
    assert (settings.screenwriter, settings.voice, settings.camera, settings.composer) == (
        "outline",
        "espeak",
        "animatic",
        "none",
    )
    assert (settings.profile.width, settings.profile.height, settings.profile.rate) == (640, 360, 24)
    assert settings.budget_run_usd is None
    assert settings.takes_at_once >= 1


def test_values_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLTPIPE_PROFILE", "1080p30")
    monkeypatch.setenv("MOLTPIPE_BUDGET_DAY_USD", "12.50")
    monkeypatch.setenv("MOLTPIPE_ALERT_URLS", "https://a.example/x, https://b.example/y")
    settings = load_settings()
    assert settings.profile.rate == 30
    assert settings.budget_day_usd == Decimal("12.50")
    assert settings.alert_urls == ("https://a.example/x", "https://b.example/y")


def test_an_empty_value_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in variables():
        monkeypatch.setenv(name, "")
    assert load_settings().camera == "animatic"
    assert load_settings().database_url is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MOLTPIPE_CAMERA", "veeo", "'animatic'"),
        ("MOLTPIPE_PROFILE", "720", "<lines>p<rate>"),
        ("MOLTPIPE_BUDGET_RUN_USD", "-1", "greater than or equal to 0"),
        ("MOLTPIPE_BUDGET_RUN_USD", "NaN", "finite"),
        ("MOLTPIPE_S3_ENDPOINT_URL", "localhost:8333", "http(s)://host"),
        ("MOLTPIPE_S3_BUCKET", "My_Bucket", "pattern"),
        ("MOLTPIPE_MAX_CONCURRENT_RUNS", "0", "greater than or equal to 1"),
        ("MOLTPIPE_REPLICATE_MAX_CONCURRENCY", "0", "greater than or equal to 1"),
        ("MOLTPIPE_REPLICATE_MODEL", "veo", "pattern"),
        ("MOLTPIPE_VEO_BASE_URL", "veo.example", "http(s)://host"),
    ],
)
def test_a_wrong_value_is_named_with_what_came_and_what_was_expected(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refusal:
        load_settings()
    assert name in str(refusal.value)
    assert repr(value) in str(refusal.value)
    assert expected in str(refusal.value)


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLTPIPE_CAMERA", "x")
    monkeypatch.setenv("MOLTPIPE_LEASE_S", "soon")
    with pytest.raises(SettingsError) as refusal:
        load_settings()
    assert len(refusal.value.complaints) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("MOLTPIPE_DATABASE_URL", "mysql://u:geheim@h/d"), ("MOLTPIPE_ALERT_URLS", "hooks/geheim")],
)
def test_a_wrong_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as refusal:
        load_settings()
    assert "geheim" not in str(refusal.value)


@pytest.mark.parametrize("password", ["geheim%zz", "geheim@gar", "ge@heim"])
def test_a_password_that_is_not_encoded_for_its_address_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    """Both would be quoted by libpq: the first as a token, the other as part of the host."""
    monkeypatch.setenv("MOLTPIPE_DATABASE_URL", f"postgresql://u:{password}@h/d")
    with pytest.raises(SettingsError, match="%40") as refusal:
        load_settings()
    assert "heim" not in str(refusal.value)


def test_a_wrong_address_of_an_engine_never_shows_a_key_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLTPIPE_STOCK_API_KEY", "geheim")
    assert "geheim" not in repr(load_settings())


def test_a_chosen_engine_without_its_key_is_refused_by_the_name_of_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOLTPIPE_CAMERA", "replicate")
    with pytest.raises(SettingsError, match="MOLTPIPE_REPLICATE_API_KEY is not set"):
        load_settings()


def test_musicgen_uses_the_key_of_replicate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLTPIPE_COMPOSER", "musicgen")
    monkeypatch.setenv("MOLTPIPE_REPLICATE_API_KEY", "r8_x")
    assert load_settings().composer == "musicgen"


def test_a_right_password_is_not_in_the_settings_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLTPIPE_DATABASE_URL", "postgresql://u:geheim@h/d")
    assert "geheim" not in repr(load_settings())


def test_a_misspelt_variable_is_refused_with_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLTPIPE_DATABSE_URL", "postgresql://u@h/d")
    with pytest.raises(
        SettingsError, match="MOLTPIPE_DATABSE_URL is not a setting: did you mean MOLTPIPE_DATABASE_URL"
    ):
        load_settings()


def test_unknown_variables_of_other_tools_are_left_alone() -> None:
    others = {"MOLTPIPE_HOME": "x", "MOLTPIPE_DAGSTER_POSTGRES_URL": "x", "PATH": "x"}
    assert misspelt(others) == {}


def test_no_setting_is_taken_for_a_misspelt_other() -> None:
    assert misspelt(dict.fromkeys(variables(), "x")) == {}


def test_a_heartbeat_slower_than_the_lease_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLTPIPE_HEARTBEAT_S", "50")
    with pytest.raises(SettingsError, match="MOLTPIPE_HEARTBEAT_S"):
        load_settings()


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MOLTPIPE_SECRETS_DIR", str(tmp_path))
    return tmp_path


def test_a_setting_may_be_a_file_of_its_name(secrets: Path) -> None:
    (secrets / "moltpipe_database_url").write_text("postgresql://u:geheim@h/d\n")
    (secrets / "moltpipe_veo_api_key").write_text("of-veo\n")
    (secrets / "moltpipe_alert_urls").write_text("slack://a/b/c\nmailto://d:e@f.example\n")
    settings = load_settings()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://u:geheim@h/d"
    assert settings.veo.key == "of-veo"
    assert settings.alert_urls == ("slack://a/b/c", "mailto://d:e@f.example")


def test_an_empty_file_counts_as_unset(secrets: Path) -> None:
    for name in variables() - {"MOLTPIPE_SECRETS_DIR"}:
        (secrets / name.lower()).write_text("\n")
    settings = load_settings()
    assert settings.database_url is None
    assert settings.veo.api_key is None
    assert settings.alert_urls == ()


def test_a_folder_of_secrets_may_hold_links_as_kubernetes_makes_them(secrets: Path) -> None:
    (secrets / "..2026_11_21").mkdir()
    (secrets / "..2026_11_21" / "moltpipe_s3_bucket").write_text("of-a-link")
    (secrets / "..data").symlink_to("..2026_11_21")
    (secrets / "moltpipe_s3_bucket").symlink_to("..data/moltpipe_s3_bucket")
    assert load_settings().s3_bucket == "of-a-link"


def test_the_environment_comes_before_a_file(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "moltpipe_s3_bucket").write_text("of-the-file")
    monkeypatch.setenv("MOLTPIPE_S3_BUCKET", "of-the-environment")
    assert load_settings().s3_bucket == "of-the-environment"


def test_what_is_not_ours_in_the_folder_of_secrets_is_left_alone(secrets: Path) -> None:
    (secrets / "kubernetes.io").mkdir()
    (secrets / "aws_credentials").write_text("[default]")
    assert load_settings().database_url is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("moltpipe_database_url", "mysql://u:geheim@h/d", "postgresql://"), ("moltpipe_camera", "veeo", "'animatic'")],
)
def test_a_wrong_value_in_a_file_is_named_with_the_file_and_not_shown(
    secrets: Path, name: str, value: str, expected: str
) -> None:
    (secrets / name).write_text(value)
    with pytest.raises(SettingsError) as refusal:
        load_settings()
    assert f"{name.upper()} from {secrets / name}: " in str(refusal.value)
    assert expected in str(refusal.value)
    assert value not in str(refusal.value)


def test_a_misspelt_file_is_refused_with_the_right_name(secrets: Path) -> None:
    (secrets / "moltpipe_databse_url").write_text("postgresql://u@h/d")
    with pytest.raises(SettingsError, match="moltpipe_databse_url is not a setting: did you mean moltpipe_database_ur"):
        load_settings()


def test_a_folder_of_secrets_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOLTPIPE_SECRETS_DIR", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match=r"MOLTPIPE_SECRETS_DIR=.*/none: expected a folder"):
        load_settings()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_named(secrets: Path) -> None:
    (secrets / "moltpipe_database_url").write_text("postgresql://u@h/d")
    (secrets / "moltpipe_database_url").chmod(0)
    with pytest.raises(SettingsError, match=r"MOLTPIPE_DATABASE_URL: .*moltpipe_database_url cannot be read"):
        load_settings()

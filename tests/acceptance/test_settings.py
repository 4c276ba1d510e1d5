# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets and flags of the runbooks' services, put back in a .env file one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.component import Place
from ansible.module_utils.rollbackctl.env_file import EnvFileDriver

GOOD = {
    "SECRET_KEY": "good-jwt",
    "STRIPE_SECRET_KEY": "good-stripe",
    "STRIPE_WEBHOOK_SECRET": "good-hook",
    "SENDGRID_API_KEY": "good-mail",
    "TWILIO_AUTH_TOKEN": "good-sms",
    "ENABLE_NEW_PAYMENT_FLOW": "false",
    "ENABLE_ADVANCED_NOTIFICATIONS": "false",
    "ENABLE_GMB_INTEGRATION": "false",
    "ENABLE_ADVANCED_ANALYTICS": "false",
}
BAD = {name: "true" if value == "false" else "bad" for name, value in GOOD.items()}


def text(values: dict[str, str]) -> str:
    return "# settings\n" + "".join(f"{name}={value}\n" for name, value in values.items())


@pytest.mark.parametrize(
    "variables",
    [
        ["SECRET_KEY"],
        ["STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET"],
        ["SENDGRID_API_KEY", "TWILIO_AUTH_TOKEN"],
        ["ENABLE_NEW_PAYMENT_FLOW"],
        ["ENABLE_ADVANCED_NOTIFICATIONS"],
        ["ENABLE_GMB_INTEGRATION", "ENABLE_ADVANCED_ANALYTICS"],
    ],
    ids="-".join,
)
def test_one_feature_s_settings_go_back_and_the_others_stay(variables: list[str], tmp_path: Path) -> None:
    live, backups, work = tmp_path / ".env", tmp_path / "backups", tmp_path / "work"
    backups.mkdir()
    work.mkdir(mode=0o700)
    live.write_text(text(BAD), encoding="utf-8")
    (backups / ".env.backup").write_text(text(GOOD), encoding="utf-8")
    options = {"name": "settings", "path": str(live), "variables": variables, "backups": str(backups), "timeout": 30}
    driver = EnvFileDriver(options, Place(run="rb-1", work=work))
    driver.apply(driver.resolve(".env.backup"))
    assert live.read_text(encoding="utf-8") == text({**BAD, **{name: GOOD[name] for name in variables}})

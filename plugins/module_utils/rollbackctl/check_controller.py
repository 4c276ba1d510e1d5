# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading `rollback_checks` from a profile, on the controller: types and defaults by the role's argument spec.

The guard calls this as well, so that a mistake in a check is found before anything is changed, not after.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from .check_kube_kinds import needs_cluster
from .check_model import Check
from .check_profile import HINT, give_secrets, load_checks, take_secrets
from .errors import Refused
from .names import printable

VARIABLE = "rollback_checks"
STATE_VARIABLE = "rollback_state"
SPEC = Path(__file__).resolve().parents[3] / "roles" / "run_verify" / "meta" / "argument_specs.yml"


@lru_cache(maxsize=1)
def _options() -> dict[str, Any]:
    return dict(yaml.safe_load(SPEC.read_text(encoding="utf-8"))["argument_specs"]["all"]["options"])


def read_checks(value: Any, state: Mapping[str, Any] | None = None) -> tuple[list[dict[str, Any]], list[Check]]:
    """Return the checks of a profile (templated, plain JSON values) as validated documents and as checks, in order.

    Ansible's messages quote the values they reject; headers and environment therefore never reach its validator.

    :param state: the profile's rollback_state, where it is known.
    :raises Refused: with all problems; no message shows a header or an environment value.
    """
    documents = [] if value is None else value
    if not isinstance(documents, list) or not all(isinstance(document, Mapping) for document in documents):
        raise Refused("rollback_checks must be a list of mappings. Nothing was changed.", HINT)
    public, secrets = take_secrets(documents)
    answer = ArgumentSpecValidator(_options()).validate({VARIABLE: public})
    if answer.error_messages:
        problems = " ".join(f"{printable(message)}." for message in answer.error_messages)
        raise Refused(f"rollback_checks cannot be used. {problems} Nothing was changed.", HINT)
    validated = give_secrets(answer.validated_parameters[VARIABLE], secrets)
    checks = load_checks(validated)
    strange = [check.name for check in checks if needs_cluster(check.kind, check.options)]
    if strange and state is not None and state.get("kind") != "kubernetes":
        kind = printable(str(state.get("kind") or "not given"))
        raise Refused(
            f"rollback_checks cannot be used. {', '.join(strange)}: what is in Kubernetes can be asked only where "
            f"rollback_state.kind is kubernetes; this service's is {kind}. Nothing was changed.",
            HINT,
        )
    return validated, checks

"""How clients log in to Kafka: kafka-python's options by their names, secrets by the names of environment variables.

A configuration is saved with its run, sent to every actor and shown in errors, so no secret may be in it: it names the
variable (``sasl_plain_password_env: KAFKA_PASSWORD``), which each process reads when it connects.
"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError, unknown

SECRETS = ("sasl_plain_password", "ssl_password")
_FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile")
SECURITY_OPTIONS = (
    "security_protocol",
    "sasl_mechanism",
    "sasl_plain_username",
    "sasl_plain_password_env",
    "sasl_kerberos_name",
    "sasl_kerberos_service_name",
    "sasl_kerberos_domain_name",
    *_FILES,
    "ssl_password_env",
    "ssl_check_hostname",
)
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_BY_PASSWORD = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_MECHANISMS = (*_BY_PASSWORD, "GSSAPI", "AWS_MSK_IAM")


def refuse_secrets(security: Mapping[str, Any]) -> None:
    """Raise ConfigError, which does not repeat it, where a secret itself stands in a configuration."""
    for secret in SECRETS:
        if security.get(secret) is not None:
            raise ConfigError(
                f"security.{secret} would be saved with the run; put it into an environment variable, and here that "
                f"one's name: {secret}_env=KAFKA_PASSWORD"
            )


def check_security(security: Mapping[str, Any]) -> None:
    """Raise ConfigError for options that can not be, or do not go together; no variable and no file is read."""
    refuse_secrets(security)
    for option in security:
        if option not in SECURITY_OPTIONS:
            raise unknown("Kafka security option", option, SECURITY_OPTIONS)
    protocol = security.get("security_protocol", "PLAINTEXT")
    if protocol not in _PROTOCOLS:
        raise unknown("security_protocol", protocol, _PROTOCOLS)
    if not protocol.startswith("SASL"):
        _refuse(security, "sasl_", f"security_protocol={protocol} does not log in; use SASL_SSL")
    else:
        _check_login(security)
    if not protocol.endswith("SSL"):
        _refuse(security, "ssl_", f"security_protocol={protocol} is not encrypted; use SSL or SASL_SSL")


def with_secrets(security: Mapping[str, Any], env: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The options as the client takes them, secrets included: for the call that connects, and nothing else.

    Raises ConfigError for a variable that is not set, or a file that is not there, on this machine.
    """
    check_security(security)
    named = {f"{secret}_env": secret for secret in SECRETS}
    options = {option: value for option, value in security.items() if option not in named and value is not None}
    for option, secret in named.items():
        variable = security.get(option)
        if variable is None:
            continue
        if not env.get(variable):
            raise ConfigError(
                f"security.{option}={variable}, but {variable} is not set on {socket.gethostname()}; set it where the "
                "job is started and, on a cluster, where each of its Ray nodes is"
            )
        options[secret] = env[variable]
    for option in _FILES:
        if option in options and not Path(options[option]).is_file():
            raise ConfigError(
                f"security.{option}={options[option]} is no file on {socket.gethostname()}; put it there, under the "
                "same path on every node"
            )
    return options


def _check_login(security: Mapping[str, Any]) -> None:
    mechanism = security.get("sasl_mechanism")
    if mechanism not in _MECHANISMS:
        raise unknown("sasl_mechanism", mechanism, _MECHANISMS)
    for option in ("sasl_plain_username", "sasl_plain_password_env"):
        value = security.get(option)
        if mechanism in _BY_PASSWORD and (not isinstance(value, str) or not value):
            raise ConfigError(f"security.{option} is not given, sasl_mechanism={mechanism} asks for it; set it")


def _refuse(security: Mapping[str, Any], prefix: str, reason: str) -> None:
    """Options that would do nothing: who sets them believes in a protection that is not there."""
    for option in security:
        if option.startswith(prefix) and security[option] is not None:
            raise ConfigError(f"security.{option} is set, but {reason}, or leave it out")

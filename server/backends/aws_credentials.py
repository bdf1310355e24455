"""Reads the AWS keys that models.yaml names: two or three environment variables, or a profile of one file.

Knows variables and files as the AWS tools write them; knows no AWS.
Invariant: nothing is looked for where models.yaml does not say: no shared file, no instance's metadata, no command.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from server.backends.credentials import SECRET, CredentialProblem, own_content, read_secret
from server.core.providers import BackendEntry

DEFAULT_PROFILE = "default"
ACCESS_KEY, SECRET_KEY, SESSION_TOKEN = "aws_access_key_id", "aws_secret_access_key", "aws_session_token"
# It goes into a header beside the signature.
ACCESS_KEY_ID = re.compile(r"\w{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """session_token: of keys that end after some hours."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if ACCESS_KEY_ID.fullmatch(self.access_key) is None:
            raise CredentialProblem("The AWS access key is none: it holds letters, digits and _ alone.")

    @property
    def secrets(self) -> tuple[str, ...]:
        """What may be told to nobody. The access key's id is no secret, and yet nobody's business."""
        return tuple(text for text in (self.access_key, self.secret_key, self.session_token) if text is not None)


def read_aws_credentials(entry: BackendEntry, environment: Mapping[str, str]) -> AwsCredentials:
    """Raises CredentialProblem, also where the entry names none: Bedrock draws for nobody unknown."""
    if entry.access_variables is not None:
        values = [read_secret(name, None, environment) for name in entry.access_variables]
        return AwsCredentials(*(value for value in values if value is not None))
    if entry.credentials_file is not None:
        return _of_profile(Path(entry.credentials_file), entry.profile or DEFAULT_PROFILE)
    raise CredentialProblem("A backend of the kind bedrock needs access_variables or a credentials_file.")


def _of_profile(path: Path, profile: str) -> AwsCredentials:
    """What else stands there, a command to call or another profile to take, is not followed."""
    section = _profiles(path).get(profile)
    if section is None:
        raise CredentialProblem(f"The file {path} has no profile {profile!r}.")
    access_key, secret_key, token = (section.get(name) for name in (ACCESS_KEY, SECRET_KEY, SESSION_TOKEN))
    if access_key is None or secret_key is None:
        raise CredentialProblem(f"The profile {profile!r} of the file {path} needs {ACCESS_KEY} and {SECRET_KEY}.")
    if not all(SECRET.fullmatch(text) for text in (access_key, secret_key, token) if text is not None):
        raise CredentialProblem(f"The profile {profile!r} of the file {path} holds a key that is no printable ASCII.")
    return AwsCredentials(access_key, secret_key, token)


def _profiles(path: Path) -> dict[str, Mapping[str, str]]:
    parser = configparser.RawConfigParser(default_section="", strict=True)
    try:
        parser.read_string(own_content(path).decode("ascii"))
    except (configparser.Error, UnicodeDecodeError):  # whose texts quote the lines
        parser = None  # type: ignore[assignment]
    if parser is None:
        raise CredentialProblem(f"The file {path} is not as the AWS tools write it.")
    return {name: parser[name] for name in parser.sections()}

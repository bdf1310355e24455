"""Guards where AWS keys come from: what models.yaml names, in files that are its owner's alone, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.backends.aws_credentials import AwsCredentials, read_aws_credentials
from server.backends.credentials import CredentialProblem
from server.core.providers import BackendEntry
from tests.upstreams.bedrock_endpoint import ACCESS_KEY, CANARIES, SECRET_KEY, SESSION_TOKEN
from tests.upstreams.bedrock_requests import TITAN

KEYS = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
SHARED = {"AWS_ACCESS_KEY_ID": "AKIAOTHER", "AWS_SECRET_ACCESS_KEY": "other", "AWS_PROFILE": "other"}


def entry(**words: object) -> BackendEntry:
    return BackendEntry.model_validate({"kind": "bedrock", "region": "us-west-2", "models": {TITAN: {}}, **words})


def file_with(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "aws"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def problem_of(one: BackendEntry, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(CredentialProblem) as caught:
        read_aws_credentials(one, environment or {})
    assert not any(secret in str(caught.value) + repr(caught.value.__context__) for secret in CANARIES)
    return str(caught.value)


def test_two_or_three_variables_are_read_by_the_names_of_models_yaml() -> None:
    environment = SHARED | {"MY_KEY": ACCESS_KEY, "MY_SECRET": SECRET_KEY, "MY_TOKEN": SESSION_TOKEN}
    two = entry(access_variables=["MY_KEY", "MY_SECRET"])
    three = entry(access_variables=["MY_KEY", "MY_SECRET", "MY_TOKEN"])
    assert read_aws_credentials(two, environment) == AwsCredentials(ACCESS_KEY, SECRET_KEY)
    assert read_aws_credentials(three, environment) == AwsCredentials(ACCESS_KEY, SECRET_KEY, SESSION_TOKEN)


def test_a_variable_that_is_not_set_is_named() -> None:
    assert "MY_SECRET" in problem_of(entry(access_variables=["MY_KEY", "MY_SECRET"]), {"MY_KEY": ACCESS_KEY})


def test_without_a_place_in_models_yaml_no_other_is_looked_into() -> None:
    assert "access_variables or a credentials_file" in problem_of(entry(), SHARED)


def test_a_profile_is_read_and_default_is_the_one_that_needs_no_name(tmp_path: Path) -> None:
    text = f"[default]\n{KEYS}\n[drawing]\n{KEYS}aws_session_token={SESSION_TOKEN}\n"
    place = file_with(tmp_path, text)
    assert read_aws_credentials(entry(credentials_file=place), SHARED) == AwsCredentials(ACCESS_KEY, SECRET_KEY)
    named = entry(credentials_file=place, profile="drawing")
    assert read_aws_credentials(named, SHARED) == AwsCredentials(ACCESS_KEY, SECRET_KEY, SESSION_TOKEN)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    assert "chmod 600" in problem_of(entry(credentials_file=file_with(tmp_path, f"[default]\n{KEYS}", mode)))


def test_a_link_to_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    link = tmp_path / "etc" / "link"
    link.symlink_to(file_with(tmp_path, f"[default]\n{KEYS}"))
    assert "link" in problem_of(entry(credentials_file=str(link)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no profile 'default'"),
        ("[other]\n" + KEYS, "no profile 'default'"),
        (f"[default]\naws_access_key_id={ACCESS_KEY}\n", "needs aws_access_key_id and aws_secret_access_key"),
        ("[default]\ncredential_process = /bin/sh -c 'touch /tmp/never'\n", "needs aws_access_key_id"),
        (f"[default]\nrole_arn=arn:x\nsource_profile=b\n[b]\n{KEYS}", "needs aws_access_key_id"),
        (KEYS, "not as the AWS tools write it"),
        (f"[default]\n{KEYS}[default]\n{KEYS}", "not as the AWS tools write it"),
        (f"[default]\n{KEYS}{KEYS}", "not as the AWS tools write it"),
        (f"[default]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY} \n {SECRET_KEY}\n", "ASCII"),
        (f"[default]\naws_access_key_id=\naws_secret_access_key={SECRET_KEY}\n", "ASCII"),
        (f"[default]\naws_access_key_id=a/b\naws_secret_access_key={SECRET_KEY}\n", "The AWS access key is none"),
        (f"[default]\n{KEYS}é", "not as the AWS tools write it"),
    ],
)
def test_a_file_that_is_none_is_refused_without_its_words(tmp_path: Path, text: str, words: str) -> None:
    assert words in problem_of(entry(credentials_file=file_with(tmp_path, text)))


def test_a_percent_sign_in_a_key_means_itself(tmp_path: Path) -> None:
    place = file_with(tmp_path, f"[default]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key=%(x)s%%\n")
    assert read_aws_credentials(entry(credentials_file=place), {}).secret_key == "%(x)s%%"  # noqa: S105


def test_keys_do_not_show_themselves() -> None:
    assert not any(secret in repr(AwsCredentials(*CANARIES)) for secret in CANARIES)

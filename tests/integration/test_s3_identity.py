"""Who the command is to a store: the SDK's own chain and nothing else, and no secret in any output.

MinIO holds sessions of STS to their policies, so a run that works there was signed with the right
key *and* carried the session's token. It lists an unfinished upload only by its whole name, so
that sweeping those is proved in the contract suite.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs

import pytest

from backup.errors import ConfigError
from backup.report import worst
from backup.settings import StoreSettings
from backup.sinks import locate, open_sink
from backup.stop import Stop
from tests.commands import Answer, Asked, Done, Site, Witness, refusal, run, run_here, witness
from tests.journal_data import NAME, Clock, records, run_backup, said, write_journal
from tests.servers import S3Server

PAGE = Path(__file__).parents[2] / "docs" / "s3.md"
ROLE = "arn:aws:iam::123456789012:role/journal-backup"
ORPHAN = f"{NAME}/{NAME}-20260101T000000Z-abcdef.tar.gz"

ALL_ACTIONS = (
    "s3:ListBucket",
    "s3:ListBucketMultipartUploads",
    "s3:GetObject",
    "s3:PutObject",
    "s3:AbortMultipartUpload",
    "s3:DeleteObject",
)
NEEDS: dict[str, tuple[str, ...]] = {
    "list": ("s3:ListBucket",),
    "list --long": ("s3:ListBucket", "s3:GetObject"),
    "show": ("s3:ListBucket", "s3:GetObject"),
    "verify": ("s3:ListBucket", "s3:GetObject"),
    "restore": ("s3:ListBucket", "s3:GetObject"),
    "export": ("s3:ListBucket", "s3:GetObject"),
    "prune": ("s3:ListBucket", "s3:GetObject"),
    "mark-delivered": ("s3:ListBucket", "s3:GetObject", "s3:PutObject"),
    "acknowledge": ("s3:ListBucket", "s3:GetObject", "s3:PutObject"),
    "retire": ("s3:ListBucket", "s3:GetObject", "s3:PutObject"),
    "prune --confirm": ("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"),
    "doctor": ("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"),
    "backup": ("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"),
}
"""The permissions without which a verb does not work, each proved; the page has them too."""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Give a place with one journal."""
    return Site.at(tmp_path)


def keys(server: S3Server, bucket: str) -> list[str]:
    """Name what a bucket holds."""
    return [o["Key"] for o in server.client().list_objects_v2(Bucket=bucket).get("Contents", ())]


def named(server: S3Server) -> dict[str, str]:
    """Give the variables that say where the server is, and not who one is to it."""
    return {"AWS_ENDPOINT_URL_S3": server.endpoint}


def profiles(path: Path, **users: S3Server) -> str:
    """Write a file of credentials with these profiles; give its path."""
    path.write_text(
        "".join(
            f"[{name}]\naws_access_key_id = {user.access_key}\n"
            f"aws_secret_access_key = {user.secret_key}\naws_session_token = {user.session_token}\n"
            for name, user in users.items()
        )
    )
    return str(path)


# -- where credentials come from


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("", "environment"),
        ("", "home"),
        ("", "AWS_SHARED_CREDENTIALS_FILE"),
        ("", "AWS_PROFILE"),
        ("?profile=journals", "AWS_CONFIG_FILE"),
    ],
)
def test_credentials_come_from_where_the_sdk_looks(
    minio: S3Server, site: Site, query: str, place: str
) -> None:
    """Keys with the token of their session, which the store insists on; no setting of our own."""
    bucket = minio.fresh_bucket()
    user = minio.limited(NEEDS["backup"], bucket)
    nobody = minio  # the administrator's key with a session's token: such a thing is no one's
    home = site.root / "home" / ".aws"
    home.mkdir()
    given: dict[str, str] = named(minio)
    if place == "environment":
        given = user.environment
    elif place == "home":
        profiles(home / "credentials", default=user)
    elif place == "AWS_SHARED_CREDENTIALS_FILE":
        given[place] = profiles(site.root / "keys", default=user)
    elif place == "AWS_PROFILE":
        given |= {place: "journals"}
        profiles(home / "credentials", default=nobody, journals=user)
    else:
        profiles(home / "credentials", default=nobody)
        path = Path(profiles(site.root / "config", journals=user))
        path.write_text(path.read_text().replace("[journals]", "[profile journals]"))
        # a sink's profile comes before the keys of all
        given |= {place: str(path), "AWS_ACCESS_KEY_ID": "no", "AWS_SECRET_ACCESS_KEY": "no"}

    done = run(site.environment(f"s3://{bucket}/site{query}", **given), "backup")
    assert (done.code, len(keys(minio, bucket))) == (0, 3), done.said


def test_two_sinks_have_a_profile_each(minio: S3Server, site: Site) -> None:
    """Each user may do nothing in the other's bucket, so each sink was asked by its own."""
    ours, theirs = minio.fresh_bucket(), minio.fresh_bucket()
    users = {name: minio.limited(NEEDS["backup"], b) for name, b in (("a", ours), ("b", theirs))}
    environment = site.environment(
        f"s3://{ours}/x?profile=a",
        f"s3://{theirs}/x?profile=b",
        AWS_SHARED_CREDENTIALS_FILE=profiles(site.root / "keys", **users),
        **named(minio),
    )

    done = run(environment, "backup", "--json")
    assert done.code == 0, done.said
    assert (len(keys(minio, ours)), len(keys(minio, theirs))) == (3, 3)

    crossed = environment | {
        "BACKUP_SINKS": f"s3://{ours}/y?profile=a,s3://{theirs}/y?profile=a",
    }
    done = run_here(crossed, "backup")
    assert done.code == 3
    assert f"s3://{theirs}/y: cannot probe: AccessDenied" in done.stdout


def test_two_profiles_of_one_bucket_need_an_endpoint_each(site: Site) -> None:
    """A profile is not shown, so the report could not tell them apart."""
    done = run_here(site.environment("s3://b-1/x?profile=a", "s3://b-1/x?profile=b"), "config")

    assert done.code == 2
    assert "BACKUP_SINKS: 's3://b-1/x' is named twice" in done.stderr


def test_a_profile_that_is_not_there_is_a_wrong_setting(site: Site) -> None:
    """Told before anything is asked of anybody."""
    done = run_here(site.environment("s3://bucket/x?profile=nobody"), "backup")

    assert done.code == 2
    assert "The config profile (nobody) could not be found" in done.said
    assert "hint: check AWS_PROFILE" in done.said


def test_a_web_identity_becomes_a_role(moto: S3Server, site: Site) -> None:
    """IRSA: STS is given the token of the service account, S3 what STS gave for it."""
    bucket = moto.fresh_bucket()
    token = site.root / "token"
    token.write_text("the.service.account")
    with witness(upstream=moto.address) as seen:
        done = run(
            site.environment(
                f"s3://{bucket}/site",
                AWS_ENDPOINT_URL_STS=seen.endpoint,
                AWS_ENDPOINT_URL_S3=seen.endpoint,
                AWS_ROLE_ARN=ROLE,
                AWS_WEB_IDENTITY_TOKEN_FILE=str(token),
            ),
            "backup",
        )
    assert (done.code, len(keys(moto, bucket))) == (0, 3), done.said

    first, *others = seen.asked
    form = parse_qs(first.body.decode())
    assert form["Action"] == ["AssumeRoleWithWebIdentity"]
    assert (form["WebIdentityToken"], form["RoleArn"]) == (["the.service.account"], [ROLE])
    assert {a.access_key[:4] for a in others} == {"ASIA"}  # as STS names its keys
    assert all(a.headers["x-amz-security-token"] for a in others)


def container(site: Site, place: Witness) -> dict[str, str]:
    """Give the variables that EKS Pod Identity sets."""
    token = site.root / "pod-token"
    token.write_text("the-token-of-the-pod")
    return {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{place.endpoint}/v1/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
    }


def handing_out(make: Callable[[], S3Server], issued: list[str]) -> Callable[[Asked], Answer]:
    """Answer as the agent of EKS Pod Identity: each time another session, and soon over."""

    def answer(asked: Asked) -> Answer:
        if asked.headers.get("authorization") != "the-token-of-the-pod":
            return Answer(status=401)
        user = make()
        issued.append(user.access_key)
        over = datetime.now(UTC) + timedelta(minutes=1)  # the SDK renews ten minutes before
        content = {
            "AccessKeyId": user.access_key,
            "SecretAccessKey": user.secret_key,
            "Token": user.session_token,
            "Expiration": over.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        body = json.dumps(content).encode()
        return Answer(body=body, headers={"Content-Type": "application/json"})

    return answer


def test_the_identity_of_a_pod_is_renewed_while_the_run_goes_on(
    minio: S3Server, site: Site
) -> None:
    """The store takes nothing but the newest session: what was not renewed would have failed."""
    bucket = minio.fresh_bucket()
    issued: list[str] = []

    def expired(asked: Asked) -> Answer | None:
        if asked.access_key == issued[-1]:
            return None
        return refusal(400, "ExpiredToken", "The provided token has expired.")

    agent = handing_out(lambda: minio.limited(NEEDS["backup"], bucket), issued)
    with witness(agent) as pod, witness(expired, upstream=minio.address) as store:
        done = run(
            site.environment(
                f"s3://{bucket}/site", AWS_ENDPOINT_URL_S3=store.endpoint, **container(site, pod)
            ),
            "backup",
        )

    assert (done.code, len(keys(minio, bucket))) == (0, 3), done.said
    assert len({a.access_key for a in store.asked}) > 3


def test_an_identity_that_cannot_be_renewed_ends_the_run_and_says_so(
    minio: S3Server, site: Site
) -> None:
    """The agent dies after the first session: exit 5, and what was done is absent or whole."""
    bucket = minio.fresh_bucket()
    issued: list[str] = []
    hand_out = handing_out(lambda: minio.limited(NEEDS["backup"], bucket), issued)
    with witness(lambda a: Answer(status=500) if issued else hand_out(a)) as pod:
        done = run(
            site.environment(f"s3://{bucket}/site", **named(minio), **container(site, pod)),
            "backup",
        )

    assert done.code == 5
    assert "Error when retrieving credentials from container-role" in done.stdout
    assert "hint: credentials come from the SDK's own chain" in done.stdout
    assert not [key for key in keys(minio, bucket) if key.endswith(".manifest.json")]


# -- what is no good


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (400, "ExpiredTokenException", "the credentials have expired"),
        (400, "InvalidIdentityToken", "AssumeRoleWithWebIdentity"),
        (403, "AccessDenied", "AssumeRoleWithWebIdentity"),
    ],
)
def test_a_web_identity_that_sts_refuses_is_told_at_once(
    site: Site, status: int, code: str, hint: str
) -> None:
    """In the words of STS, and the store is not even asked."""
    (site.root / "token").write_text("the.service.account")
    error = f"<Error><Code>{code}</Code><Message>It is no good.</Message></Error>"
    answer = Answer(status=status, body=f"<ErrorResponse>{error}</ErrorResponse>".encode())
    with witness(lambda _: answer) as sts:
        environment = site.environment(
            "s3://bucket/site",
            AWS_ENDPOINT_URL=sts.endpoint,
            AWS_ROLE_ARN=ROLE,
            AWS_WEB_IDENTITY_TOKEN_FILE=f"{site.root}/token",
        )
        done = run_here(environment, "list")

    assert (done.code, len(sts.asked)) == (5, 1), done.said
    assert code in done.stderr
    assert re.search(rf"^  hint: .*{hint}", done.stderr, re.MULTILINE)
    assert "the.service.account" not in done.said


def test_a_web_identity_without_its_file_names_the_file(site: Site) -> None:
    """The volume of the token was not mounted: to wait for it would be no use."""
    environment = site.environment(
        "s3://bucket/site",
        AWS_ENDPOINT_URL="http://127.0.0.1:1",
        AWS_ROLE_ARN=ROLE,
        AWS_WEB_IDENTITY_TOKEN_FILE="/var/run/no-such-token",  # noqa: S106 - a path
    )
    done = run_here(environment, "list")

    assert done.code in {2, 5}
    assert "/var/run/no-such-token" in done.stderr


def test_an_expired_token_fails_at_once(site: Site) -> None:
    """Nothing renews what stands in the environment: one question, one answer."""
    expired = refusal(400, "ExpiredToken", "The provided token has expired.")
    with witness(lambda _: expired) as store:
        done = run(
            site.environment(
                "s3://bucket/site",
                AWS_ENDPOINT_URL_S3=store.endpoint,
                AWS_ACCESS_KEY_ID="ASIAOLD",
                AWS_SECRET_ACCESS_KEY="old",  # noqa: S106 - nobody's
                AWS_SESSION_TOKEN="old",  # noqa: S106 - nobody's
            ),
            "backup",
        )

    assert (done.code, len(store.asked)) == (5, 1)
    assert "cannot probe: ExpiredToken: The provided token has expired\n" in done.stdout
    assert "hint: the credentials have expired: renew them" in done.stdout


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({}, "NoCredentialsError", "the SDK's own chain: AWS_ACCESS_KEY_ID, AWS_PROFILE, a web"),
        ({"AWS_ACCESS_KEY_ID": "AKIA"}, "PartialCredentialsError", "the SDK's own chain"),
        (
            {"AWS_ACCESS_KEY_ID": "AKIANOBODY", "AWS_SECRET_ACCESS_KEY": "x"},
            "InvalidAccessKeyId",
            "the store does not know this access key",
        ),
        (
            {"AWS_ACCESS_KEY_ID": "test-access-key", "AWS_SECRET_ACCESS_KEY": "wrong"},
            "SignatureDoesNotMatch",
            "the secret key is wrong",
        ),
    ],
)
def test_what_is_wrong_with_credentials_is_said(
    minio: S3Server, site: Site, given: dict[str, str], message: str, hint: str
) -> None:
    """For the run and for reading verbs alike: exit 5, the cause, and where to look."""
    for verb in ("backup", "list"):
        done = run_here(site.environment("s3://bucket/site", **named(minio), **given), verb)

        assert done.code == 5
        assert message in done.said
        assert re.search(rf"^  hint: .*{re.escape(hint)}", done.said, re.MULTILINE)


def test_a_session_without_its_token_is_refused(minio: S3Server, site: Site) -> None:
    """So what works with it has sent it."""
    bucket = minio.fresh_bucket()
    user = minio.limited(NEEDS["backup"], bucket)
    given = {k: v for k, v in user.environment.items() if k != "AWS_SESSION_TOKEN"}

    done = run_here(site.environment(f"s3://{bucket}", **given), "backup")
    assert done.code == 5
    assert "The security token included in the request is invalid" in done.stdout


# -- secrets


def test_no_secret_is_in_anything_that_is_said_or_stored(
    minio: S3Server, moto: S3Server, site: Site
) -> None:
    """Every verb, at the most talkative, with credentials that work and with such that do not."""
    bucket = minio.fresh_bucket()
    user = minio.limited(NEEDS["backup"], bucket)
    token = site.root / "token"
    token.write_text("WEB.IDENTITY.SECRET")
    secrets = [
        *(user.secret_key, user.session_token, "WEB.IDENTITY.SECRET", "the-token-of-the-pod"),
        *("PROXY-PASSWORD", "URL-PASSWORD", "WRONG-SECRET", "WRONG-TOKEN"),
    ]
    with witness(lambda _: refusal(400, "ExpiredToken", "expired")) as dead, witness() as proxy:
        talkative = {"BACKUP_LOG_LEVEL": "debug", "HTTP_PROXY": through(proxy)}
        good = site.environment(f"s3://{bucket}/site", **user.environment, **talkative)
        wrong = good | {
            "AWS_SECRET_ACCESS_KEY": "WRONG-SECRET",
            "AWS_SESSION_TOKEN": "WRONG-TOKEN",
            "HTTP_PROXY": "http://ada:PROXY-PASSWORD@127.0.0.1:1",
        }
        irsa = {
            k: v for k, v in good.items() if k not in user.environment or not k.startswith("AWS_")
        } | {
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": dead.endpoint,
            "AWS_ROLE_ARN": ROLE,
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
        }
        pod = {k: v for k, v in irsa.items() if "ROLE" not in k and "IDENTITY" not in k}
        pod |= container(site, dead)
        in_url = good | {"BACKUP_SINKS": f"s3://ada:URL-PASSWORD@{bucket}/site"}
        in_endpoint = good | {
            "BACKUP_SINKS": f"s3://{bucket}/site?endpoint=http://ada:URL-PASSWORD@{minio.address}"
        }
        runs: list[tuple[Mapping[str, str], str, Callable[..., Done]]] = [
            (good, "backup --json", run),
            (good, "list --long", run_here),
            (good, "show latest --json", run_here),
            (good, "verify --deep", run_here),
            (good, f"restore latest --target {site.root}/restored", run_here),
            (good, "config --json", run_here),
            (wrong, "backup", run),
            (wrong | {"NO_PROXY": "127.0.0.1"}, "verify --json", run_here),
            (irsa, "backup", run_here),
            (pod, "list", run_here),
            (in_url, "backup --json", run),
            (in_url, "config", run_here),
            (in_endpoint, "list", run_here),
        ]
        for environment, command, start in runs:
            done = start(environment, *command.split())
            assert (done.code == 0) == (environment is good), done.said
            for secret in secrets:
                assert secret
                assert secret not in done.said, command
                assert secret.encode() not in done.argv
    assert proxy.asked, "the password was of use"

    stored = [minio.client().get_object(Bucket=bucket, Key=key) for key in keys(minio, bucket)]
    assert len(stored) == 3
    for answer in stored:
        with answer["Body"] as body:
            kept = body.read() + repr(answer["Metadata"]).encode()
        assert not [secret for secret in secrets if str(secret).encode() in kept]


def through(proxy: Witness) -> str:
    """Give the URL of a proxy that wants a password."""
    return f"http://ada:PROXY-PASSWORD@{proxy.address}"


# -- least privilege


def blocks(kind: str) -> list[str]:
    """Give the fenced blocks of the page."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def policies() -> list[dict[str, Any]]:
    """Give the policies of the page: to back up, and to remove as well."""
    return [json.loads(text) for text in blocks("json") if '"Statement"' in text]


def actions(policy: Mapping[str, Any]) -> list[str]:
    """Name what a policy allows."""
    return [action for statement in policy["Statement"] for action in statement["Action"]]


@pytest.fixture(scope="module")
def bucket(minio: S3Server) -> str:
    """Make one bucket for all of these tests."""
    return minio.fresh_bucket()


@pytest.fixture(scope="module")
def alarm(minio: S3Server, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Keep two backups below the prefix ``alarm``, of which the second raised one; give the ids."""
    site = Site.at(tmp_path_factory.mktemp("alarm"))
    environment = site.environment(f"s3://{bucket}/alarm", **minio.environment)
    assert run_here(environment, "backup").code == 0
    write_journal(site.root / "journals", 0, records(10))
    assert run_here(environment, "backup").code == 6
    listed = json.loads(run_here(environment, "list", "--json").stdout)
    return [b["id"] for b in listed["backups"]]


@pytest.fixture(scope="module")
def aged(minio: S3Server, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep two backups below the prefix ``aged``, of which the second holds what the first does."""
    site = Site.at(tmp_path_factory.mktemp("aged"))
    environment = site.environment(f"s3://{bucket}/aged", **minio.environment)
    for _ in range(2):
        assert run_here(environment, "backup").code == 0


def perform(verb: str, site: Site, user: S3Server, bucket: str, ids: list[str]) -> Done:
    """Run a verb as a user, on something of which it has to make sense."""
    prefix = f"run-{site.root.name}" if verb == "backup" else "alarm"
    more = user.environment
    if verb == "doctor":
        prefix = "aged"
    if verb.startswith("prune"):
        prefix, more = "aged", {**more, "BACKUP_KEEP_LAST": "1", "BACKUP_KEEP_MIN": "1"}
    argv = {
        "show": ["show", ids[0]],
        "verify": ["verify", ids[0]],
        "restore": ["restore", ids[0], "--target", f"{site.root}/restored-{user.access_key}"],
        "export": ["export", ids[0], "--target", f"{site.root}/bundle-{user.access_key}"],
        "mark-delivered": ["mark-delivered", ids[0]],
        "acknowledge": ["acknowledge", ids[1]],
        "retire": ["retire", NAME],
    }.get(verb, verb.split())
    return run_here(site.environment(f"s3://{bucket}/{prefix}", **more), *argv)


@pytest.mark.usefixtures("aged")
@pytest.mark.parametrize("verb", NEEDS)
def test_each_verb_needs_these_permissions_and_no_other(
    minio: S3Server, site: Site, bucket: str, alarm: list[str], verb: str
) -> None:
    """With exactly them it works; without any one of them it says which one is missing."""
    needed = NEEDS[verb]
    for missing in needed:
        user = minio.limited([a for a in ALL_ACTIONS if a != missing], bucket)
        done = perform(verb, site, user, bucket, alarm)

        is_safe = verb == "prune --confirm" and missing in {"s3:PutObject", "s3:DeleteObject"}
        assert (missing, done.code) == (missing, 3 if is_safe else 5), done.said
        assert f"the credentials lack {missing} there" in done.said

    done = perform(verb, site, minio.limited(needed, bucket), bucket, alarm)
    assert done.code == 0, done.said


@pytest.mark.parametrize("missing", [None, "s3:ListBucketMultipartUploads", "s3:DeleteObject"])
def test_what_cannot_be_swept_is_a_warning(
    minio: S3Server, site: Site, bucket: str, missing: str | None
) -> None:
    """A backup is good without it: exit 0, and the remains of interruptions stay."""
    prefix = f"sweep-{site.root.name}"
    key = f"{prefix}/{ORPHAN}"
    minio.client().put_object(Bucket=bucket, Key=key, Body=b"interrupted")
    user = minio.limited([a for a in ALL_ACTIONS if a != missing], bucket)
    options = StoreSettings(source=site.root / "journals")
    environment = site.environment(**user.environment)
    with (
        mock.patch.dict("os.environ", environment, clear=True),
        mock.patch("backup.catalog.holdings.SWEEP_GRACE", timedelta(seconds=1)),
    ):
        sink = open_sink(f"s3://{bucket}/{prefix}", options, stop=Stop())
        time.sleep(2)  # the store's own clock counts, which nobody can set
        now = Clock(datetime.now(UTC))
        result = run_backup(site.root / "journals", [sink], clock=now, deadline=timedelta())

    assert worst(result.exit_codes) == 0
    assert ("old remains were not swept" in said(result)) == (missing is not None)
    assert missing is None or f"the credentials lack {missing} there" in said(result)
    assert (key in keys(minio, bucket)) == (missing == "s3:DeleteObject")


def test_the_policies_of_the_page_are_those_that_are_proved() -> None:
    """One for backups alone, one for removing too; and the table says which verb needs what."""
    backing_up, removing = policies()
    assert sorted(actions(backing_up)) == sorted(NEEDS["backup"])
    assert sorted(actions(removing)) == sorted(ALL_ACTIONS)

    rows = re.findall(
        r"^\| (`[a-z -]+`(?:, `[a-z -]+`)*) \| (`s3:.*`) \|$", PAGE.read_text(), re.MULTILINE
    )
    table = {
        verb: tuple(re.findall(r"s3:\w+", needed))
        for verbs, needed in rows
        for verb in re.findall(r"`([^`]+)`", verbs)
    }
    assert table == NEEDS


@pytest.mark.parametrize("number", [0, 1])
def test_the_policies_of_the_page_do_as_they_stand(
    minio: S3Server, site: Site, number: int
) -> None:
    """As a policy of a store: its prefix works with every verb, another prefix is refused."""
    bucket = minio.fresh_bucket()
    policy = json.dumps(policies()[number]).replace("acme-journals", bucket)
    credentials = minio.client("sts").assume_role(
        RoleArn=ROLE, RoleSessionName="test", Policy=policy
    )["Credentials"]
    given = named(minio) | {
        "AWS_ACCESS_KEY_ID": credentials["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": credentials["SecretAccessKey"],
        "AWS_SESSION_TOKEN": credentials["SessionToken"],
    }
    good = site.environment(f"s3://{bucket}/plant-7", **given)
    assert run_here(good, "backup").code == 0
    done = run_here(good, "backup")  # what is there tells the time: remains are looked for now
    assert done.code == 0
    assert ("old remains were not swept" in done.stdout) == (number == 0)
    for command in ("list --long", "show latest", "verify", f"retire {NAME}"):
        assert run_here(good, *command.split()).code == 0, command

    done = run_here(good | {"BACKUP_SINKS": f"s3://{bucket}/plant-8"}, "backup")
    assert done.code == 5
    assert "the credentials lack s3:PutObject there" in done.stdout


def test_credentials_in_a_url_are_refused_before_anything_else() -> None:
    """There is no way to hand them over but the SDK's."""
    for url in ("s3://key:secret@bucket/x", "s3://key@bucket/x", "s3://b/x?secret=hidden"):
        with pytest.raises(ConfigError) as caught:
            locate(url)
        assert "secret@" not in caught.value.message
        assert "hidden" not in caught.value.message


def test_a_lock_on_each_object_needs_its_own_permission(minio: S3Server, site: Site) -> None:
    """The bucket's default does not."""
    bucket = minio.fresh_bucket(ObjectLockEnabledForBucket=True)
    url = f"s3://{bucket}/x?object_lock_mode=GOVERNANCE&object_lock_days=1"
    codes = []
    for more in ((), ("s3:PutObjectRetention",)):
        user = minio.limited([*NEEDS["backup"], *more], bucket)
        codes.append(run_here(site.environment(url, **user.environment), "backup").code)

    assert codes == [5, 0]

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Access to the Hub: whether a token may push, retries, and errors of the client as sentences."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


# Seconds before each new try. The client retries uploads by itself, but neither `whoami` and `model_info` nor the
# creation of a repository or commit.
WAITS = (1, 2, 4, 8)
_TRANSIENT = (408, 429, 500, 502, 503, 504)
AGAIN = "Run the same command again: what has arrived is not sent twice."

T = TypeVar("T")


class PushError(RuntimeError):
    """A push was refused or did not get through; the message says what to do."""


def is_repo_id(name: str) -> bool:
    """Whether a name has the form of an id on the Hub, with an owner or without."""
    return re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name, re.ASCII) is not None


def is_on_hub(name: str) -> bool:
    """Whether a name is an id on the Hub: it has the form of one, and nothing lies here under it."""
    return is_repo_id(name) and not Path(name).exists()


def check_repo_id(repo_id: str) -> None:
    """Refuse an id without an owner: the Hub would take the token's user, who may be somebody else tomorrow."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise ValueError(f"The repository is {repo_id!r}. Give an id with its owner, such as 'me/unlearned'.")


def check_access(repo_id: str, *, private: bool, token: str | None) -> None:
    """Check that a token may push to a repository, which must not be public if it is to be private."""
    check_repo_id(repo_id)
    api = HfApi(token=token)
    with explaining("log in"):
        user = token_user(api, repo_id.split("/")[0])
    with explaining("read", repo_id, user):
        try:
            info = retried(lambda: api.model_info(repo_id))
        except RepositoryNotFoundError:
            # The first push creates it.
            return
    if private:
        refuse_public(repo_id, info.private, "`hub_private_repo`")


def refuse_public(repo_id: str, is_private: bool, option: str) -> None:
    """Refuse an existing public repository; `option` names what allows it."""
    if not is_private:
        raise PushError(
            f"`{repo_id}` exists and is public. To publish there, set {option} to false; otherwise choose another "
            "repository, or make this one private."
        )


def token_user(api: HfApi, owner: str) -> str:
    """Name of the token's user; a [`PushError`] if the token may not write for the owner of the repository."""
    who = retried(api.whoami)
    role = who.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise PushError(
            f"The token of `{who['name']}` may only read. Make one with write permission, and log in with it "
            "(`hf auth login`) or set `HF_TOKEN`."
        )
    if owner not in (names := [who["name"], *(one["name"] for one in who.get("orgs", []))]):
        raise PushError(
            f"`{owner}` is neither the user of the token nor an organisation of theirs. Push to one of: "
            f"{', '.join(names)}."
        )
    return who["name"]


def is_transient(error: HTTPError) -> bool:
    """Whether another try may succeed: the connection broke, or the fault is the server's."""
    return not isinstance(error, HfHubHTTPError) or error.response.status_code in _TRANSIENT


def retried(call: Callable[[], T]) -> T:
    """The result of a call, which is tried again after transient errors."""
    for wait in WAITS:
        try:
            return call()
        except HTTPError as error:
            if not is_transient(error):
                raise
            time.sleep(wait)
    return call()


@contextmanager
def explaining(doing: str, repo_id: str = "", user: str = "") -> Iterator[None]:
    """Turn errors of the client into a [`PushError`] that says what to do; `repo_id` is the object of `doing`."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise PushError(
            "There is no token. Log in with `hf auth login`, or set `HF_TOKEN` to one with write permission."
        ) from error
    except OfflineModeIsEnabled as error:
        raise PushError("`HF_HUB_OFFLINE` is set, so the Hub cannot be reached. Unset it.") from error
    except PushError:
        raise
    except (HTTPError, RuntimeError) as error:
        # The client wraps errors of an upload in a RuntimeError.
        cause: Any = error if isinstance(error, HTTPError) else error.__cause__
        if not isinstance(cause, HTTPError):
            raise
        raise PushError(_explanation(cause, doing, repo_id, user)) from error


def _explanation(error: HTTPError, doing: str, repo_id: str, user: str) -> str:
    place = f" {doing} `{repo_id}`" if repo_id else f" {doing}"
    if not isinstance(error, HfHubHTTPError):
        return f"The connection to the Hub broke on the way to{place} ({type(error).__name__}: {error}). {AGAIN}"
    status = error.response.status_code
    if status in _TRANSIENT:
        return f"The Hub answered {status} again and again on the way to{place}. Wait a little. {AGAIN}"
    if isinstance(error, RevisionNotFoundError):
        return f"`{repo_id}` has no such revision. Check its name."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"There is no repository `{repo_id}`, or it is private or gated and the token may not see it. Check the "
            "id, and log in with a token that may (`hf auth login`, or `HF_TOKEN`)."
        )
    if status == 401:
        return "The Hub does not know the token. Log in anew with `hf auth login`, or correct `HF_TOKEN`."
    if status == 403:
        return (
            f"The Hub refused to{place}: the token of `{user}` has no write permission there. Push to a repository "
            f"of your own (`{user}/...`), or ask the owner for it."
        )
    return f"The Hub refused to{place}: {' '.join(str(error).split())}"
